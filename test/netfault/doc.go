// Package netfault stands between a program and a server on the network, and makes
// the way between them as long and as bad as it is elsewhere.
//
// # Latency
//
// [Latency] is an HTTP proxy that lets each request wait as long as its kind takes in a
// cloud, and counts what passes: benchmarks run through it, so it costs little and
// lets any number of requests wait at the same time.
//
//	slow, err := netfault.NewLatency(srv.Address(), 20*time.Millisecond, 35*time.Millisecond)
//	… srv.URLAt("http://"+slow.Address(), "prefix") …
//	defer slow.Close()
//
// # Lines
//
// [Link] is a TCP proxy over a [Line] that can be made slow, narrow or dead, or that
// breaks: while connections are open, and back again.
//
//	link, err := netfault.NewLink(srv.Address(), netfault.Line{})
//	link.Set(netfault.Line{Blackhole: true})
//	link.Reset()
//
// Nothing in it is random: what it does is what it was told, when it was told. For
// faults that follow from a seed, and that know what a request is, see package s3fault.
//
// # Invariants
//
//  1. Bytes pass whole and in order, or the connection breaks.
//  2. When Close returns, every connection is closed and every goroutine has ended.
//
// # Limits
//
// Both listen on loopback. What is under way on a Link is at most a megabyte in each
// direction of a connection: with long latency that bounds its rate. A line that refuses
// lets a connection come about and resets it, as something in between would.
package netfault
