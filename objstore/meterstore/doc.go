// Package meterstore counts what an object store is asked for: requests, errors,
// bytes and time, for each verb.
//
// # Words
//
//   - verb: one of the five calls of objstore.Store; see objstore.Verb.
//   - refusal: an error that is an answer (objstore.ErrNotExist, ErrExists,
//     ErrMismatch); counted apart from failures.
//
// # Invariants
//
//  1. Every call is passed on once, unchanged, and its result handed back
//     unchanged.
//  2. A request counts when it has ended; between its start and its end it
//     counts as in flight.
//
// # Concurrency and cost
//
// All methods may be called concurrently. A call costs a handful of atomic
// additions and two readings of the clock, and no allocation. A snapshot is taken
// counter by counter: taken while requests end it may hold a request whose bytes
// it does not hold yet.
//
// # What it does not do
//
// It keeps no history and no distribution of latencies.
package meterstore
