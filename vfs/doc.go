// Package vfs is the seam between bough and the file system: every byte that
// the journal, the cache and the directory store keep goes through an [FS], so
// that a test can stop the machine between any two operations.
//
// # Words
//
//   - durable: survives a power cut. Nothing is durable by having been written.
//   - data: the bytes of a file, and its size. [File.Sync] makes them durable.
//   - entry: a name in a directory. [FS.SyncDir] makes the entries of one
//     directory durable; File.Sync does not.
//   - direct: without the page cache (O_DIRECT). See [Direct].
//
// # Bodies
//
//   - [OS]: the kernel's file system.
//   - vfs/memfs: a file system in memory that can be cloned as it would be found
//     after a crash.
//   - vfs/faultfs: a decorator that records, counts, fails or stops operations.
//
// # Rules every body keeps
//
//  1. WriteAt and WritevAt write everything or return an error; after an error
//     any part may have been written.
//  2. A WritevAt with durable set covers the bytes of that call and the file
//     size they need, and nothing written before it.
//  3. After Sync returned nil, all data whose write returned before Sync was
//     called is durable. After Sync returned an error nothing is known, and
//     asking again proves nothing: the kernel reports a failed write-back once
//     and then forgets it.
//  4. A created, renamed, linked or removed name is durable once SyncDir of its
//     directory returned nil.
//  5. Errors satisfy errors.Is for fs.ErrNotExist, fs.ErrExist and the
//     underlying errno (unix.ENOSPC …), and name the operation and the path.
//
// # Concurrency
//
// All methods of FS and File may be called concurrently. Close waits for calls
// under way; calls after it return an error that wraps fs.ErrClosed, and never
// reach a file descriptor that was given to another file.
//
// # Allocation
//
// ReadAt, WriteAt and WritevAt of the OS body allocate nothing on success.
package vfs
