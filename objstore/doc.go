// Package objstore is the contract between bough and the object store that holds
// its data: five calls, two conditions, and what may be relied on after each.
//
// # Words
//
//   - object: an immutable value (a byte string, possibly empty) under a key.
//   - key: a string of the grammar below.
//   - tag: an opaque version of an object's contents, what S3 calls ETag. Two
//     objects with different contents under one key have different tags, as far
//     as a 64-bit checksum can tell; equal contents may have equal tags.
//     Whoever replaces objects by IfMatch and must tell two equal contents apart
//     puts a generation or nonce into them. Tags are good for one conversation
//     with one store: they are not kept in objects, and copying a store to
//     another kind of store changes them.
//   - condition: what must hold for a put to happen. See [Condition].
//
// # Keys
//
// A key is 1 to [KeyBytesMax] bytes of a-z, 0-9, '.', '_', '-' and '/'. The
// slashes divide it into segments; a segment has 1 to [SegmentBytesMax] bytes
// and does not begin with a dot. There is no leading, trailing or double slash.
// [CheckKey] decides; every store calls it first and returns [ErrInvalidKey]
// without touching anything. Keys are compared as byte strings.
//
// No key may be a directory prefix of another: where "a/b" is an object, or has
// ever been one, "a" is not used. Some stores are made of directories. A store
// may refuse such a put with [ErrInvalidKey]; none has to.
//
// # What a store must offer
//
//  1. Whole objects: a reader sees one version of an object whole, or that it is
//     not there; never a part, never a mixture. A body shorter than its object
//     is an error, and so is a damaged one where the store can tell.
//  2. Read-after-write: a Get, ReadAt or List that begins after a Put or Delete
//     returned, in any process, sees its effect.
//  3. Conditions: of any number of concurrent puts with IfAbsent under one key
//     at most one succeeds; of any number with IfMatch of one tag at most one
//     succeeds, unless contents repeat. A put whose condition fails changes
//     nothing.
//  4. Durability: what a Put or Delete did survives a crash of everything once
//     it returned nil. So does what a refused condition has found: whoever is
//     told [ErrExists] or [ErrMismatch] may build on it.
//  5. Ranges: reading a part costs in proportion to the part.
//
// [Probe] tries conditions, ranges and listing against a live store: there
// are servers that ignore If-None-Match, and on those two writers would destroy
// each other's data without noticing. The suite in objstore/storetest checks all
// of it.
//
// # Errors and their meaning
//
// [ErrNotExist] says that the object is not there, and is the only error that
// does. [ErrExists] and [ErrMismatch] say that the put did not happen, as far as
// this call knows: behind a retrying connection the put that lost may be the
// caller's own earlier attempt, so a writer reads the object back and looks for
// its nonce. [ErrFull] and [ErrInvalidKey] say that nothing was changed. After any
// other error from Put or Delete it may have happened, or may yet happen.
//
// # Bodies and decorators
//
//   - objstore/dirstore: a directory of files.
//   - objstore/memstore: a map, for tests and simulation.
//   - objstore/faultstore: fails, delays and falsifies on purpose.
//   - objstore/meterstore: counts requests and bytes.
//
// # Format
//
// None. An object's bytes are what was put; formats, checksums and encryption
// belong to those who write objects. One store can be copied onto another kind
// of store by copying the objects.
//
// # Concurrency
//
// Every method may be called at any time from any goroutine, process or host.
// Contexts end waits: a Put or Delete whose context ends may have happened.
//
// # What it does not do
//
// No append, no rename, no transactions over two objects, no listing by
// directory, no metadata but size and tag.
package objstore
