// Package storetest is the conformance suite of the object-store contract: what
// package objstore promises, every body is asked for by the same tests.
//
// # Use
//
//	func TestConformance(t *testing.T) {
//		storetest.Run(t, func(t *testing.T) objstore.Store { return … })
//	}
//
// [Run] wants a new, empty store each time it calls its function; the function
// registers its own cleanup. [RunShared] wants a function that opens one store
// place again and again, as several processes would, and returns handles that
// must see each other's effects.
//
// # What is covered
//
// Keys, whole reads, ranges with clamping, conditions one at a time and in races
// of eight, listing with prefixes and paging, deletes, empty and large objects,
// read-after-write, stale tags, buffers that are not retained, cancelled
// contexts, and a seeded run of random calls against a model. The seed of that
// run is printed when it fails, and taken by the flag -storetest.seed.
//
// # What is not
//
// Durability and faults: they need power over the body, and live in its own
// tests.
package storetest
