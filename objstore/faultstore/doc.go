// Package faultstore is an object store that fails, delays and lies on purpose,
// so that a test can ask what the layers above make of it.
//
// # Words
//
//   - fault: what is done to a call; see [Fault].
//   - rule: chooses calls by verb, key and count, and says which fault they meet.
//   - rate: the probability that a call which no rule chose meets a fault.
//
// # Use
//
//	s := faultstore.New(inner, faultstore.Options{Seed: seed})
//	s.Add(faultstore.Rule{Verb: objstore.VerbPut, Nth: 3, Fault: faultstore.ErrorAfter})
//	s.SetRates(faultstore.Rates{Before: 0.1, After: 0.1})
//	… run the test …
//	s.Heal()
//
// A fault that waits does so in the function given with the rule, so that time
// belongs to the test: a closed channel, a fake clock, or a [Gate], which tells
// the test that a call has arrived and lets it go on when the test says so.
//
// # Traces
//
// Every call is recorded in the order in which it began: [Store.Trace] returns
// one line for each, free of whatever differs from run to run (tags, contents,
// times), to be compared with a golden file. [Op.String] is the line.
//
// # Invariants
//
//  1. The same seed, rules and order of calls give the same faults.
//  2. ErrorBefore leaves the inner store untouched; ErrorAfter lets the call
//     have its full effect.
//  3. Buffers of the caller and of the inner store are not changed by a fault.
//
// # Concurrency
//
// All methods may be called concurrently. Calls that begin concurrently are
// numbered in no particular order, and the random numbers go by that order.
//
// # Limits
//
// The trace grows with the number of calls until [Store.ResetTrace]; this is a
// package for tests.
package faultstore
