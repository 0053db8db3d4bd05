// Package memfs is a file system in memory that knows what a crash would leave
// of it.
//
// # Words
//
//   - page: 4 KiB of a file, the unit in which unsynced data survives or is lost.
//     A torn page survives by 512-byte sectors.
//   - version: the contents of a page after one write. A page keeps all its
//     versions since it was last durable; a crash may leave any of them.
//   - change: one create, link, rename, remove or mkdir. A change is atomic; a
//     rename never leaves neither name.
//
// # What is durable
//
//   - A page: after [vfs.File.Sync] of its file, or a durable WritevAt that
//     touched it.
//   - A file's size: after Sync, or as far as a durable WritevAt needs it.
//   - A change: after SyncDir of a directory that it touches. Syncing a file does
//     not make its name durable, although some file systems do so: code that
//     forgets SyncDir must fail here.
//
// # Crash behaviour
//
// [FS.CrashClone] returns the file system as the next boot would find it; see
// [Mode]. The original goes on unharmed, so one run can be cut at many points.
// After a power cut what survived is durable: it was read from the medium. After
// the death of the process alone everything is there and as unsynced as before,
// and the next power cut may still take it.
//
// A sync that failed, in the way of a kernel, leaves its pages clean: later syncs
// succeed and make nothing of it durable. Fault injectors ask for this with
// [File.LoseDirty].
//
// # Direct I/O
//
// vfs.Direct is accepted and its rules are enforced, addresses included:
// misaligned calls fail with EINVAL. Options.RefuseDirect makes it fall back.
//
// # Concurrency
//
// Everything may be called concurrently. One lock guards the file system.
//
// # Limits
//
// Options.Capacity bounds the sum of file sizes: beyond it writes fail with
// ENOSPC and change nothing. No symbolic links, permissions or times other than
// that of the last write.
package memfs
