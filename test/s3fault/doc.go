// Package s3fault is an HTTP transport that fails as S3 fails, and the way to it: for
// tests of what the client makes of it.
//
// # Words
//
//   - operation: what a request asks for, by its method, its query and its path; see
//     [Op].
//   - fault: what is done to a request or its response; see [Fault].
//   - rule: chooses requests, and says which fault they meet.
//   - rate: the probability that a request which no rule chose meets a fault.
//
// # Use
//
//	trip := s3fault.ForTest(t, s3fault.Direct(handler))   // or http.DefaultTransport
//	store, err := s3store.Open(ctx, url, s3store.Options{Wrap: trip.Wrap})
//	trip.Add(s3fault.Rule{Op: s3fault.Put, Nth: 2, Fault: s3fault.Lost})
//	trip.SetRates(s3fault.Rate{Op: s3fault.Get, Fault: s3fault.SlowDown, P: 0.2})
//	… run the test …
//	trip.Heal()
//
// [Direct] is the other end without a network: a handler that answers in memory, so
// that a test can run in a bubble of testing/synctest, where time costs nothing.
//
// # Seed
//
// All that is random follows from one seed: which request meets a fault, where a body
// is cut, which bit flips. [ForTest] takes it from -s3fault.seed, or chooses one, and
// prints it when the test fails. Requests that begin concurrently draw in no
// particular order.
//
// # Invariants
//
//  1. The server sees a request whole, or not at all. (FlipRequest changes a bit of
//     it, IgnoreRange and IgnoreCondition take headers away.)
//  2. "Nothing done" means that the server did not see the request. A response is
//     spoiled only after the server has done what was asked.
//  3. A request that takes effect late ([Late]) does so after the client's context
//     has ended; [Trip.Settle] waits for all of them.
//
// # Limits
//
// Bodies pass through memory. IgnoreRange, IgnoreCondition and FlipRequest break the
// signature of a request: they are for servers that do not look at it.
package s3fault
