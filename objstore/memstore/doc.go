// Package memstore is an object store in memory, for tests and simulation.
//
// # What it is
//
// A sorted map under a mutex that keeps the contract of package objstore to the
// letter, and is as strict as the strictest store: it refuses keys that are
// directory prefixes of each other, and its tags repeat when contents repeat, as
// S3's do.
//
// # Invariants
//
//  1. A stored body is never changed: readers and clones share it.
//  2. What Get returns belongs to the caller.
//
// # Crash behaviour
//
// A put is durable when it returns, as the contract says: [Store.Clone] is what
// a crash of every client leaves behind. The contents die with the process.
//
// # Limits
//
// [Options.BytesMax] bounds the bodies together; beyond it a put returns
// objstore.ErrFull and changes nothing.
package memstore
