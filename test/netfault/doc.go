// Package netfault stands between a program and a server on the network, and makes
// the way between them as long and as bad as it is elsewhere.
//
// [Latency] is an HTTP proxy that lets each request wait as long as its kind takes in a
// cloud, and counts what passes: benchmarks run through it, so it costs little and
// lets any number of requests wait at the same time.
package netfault
