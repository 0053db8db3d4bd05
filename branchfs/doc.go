// Package branchfs is the FUSE file system that shows every branch as a file, so that
// the kernel can use it as a disk.
//
//	<mount point>/
//	  <project>/
//	    <branch>/
//	      disk          the device: a regular file of its size, root only
//	      status.json   what the branch says of itself
//	      at/           the branch's past, if its Source knows that: not listed, but
//	        <point>/    looked up: seq:42, -10m, lsn:0-16B3748, 2026-11-25T10:00:00Z
//	          disk, status.json
//	      snapshots/
//	        <name>/
//	          disk, status.json
//
// # Words
//
//   - [Source]: what is shown, asked anew at every path walk.
//   - A moment: a [Branch] as it was at a point of its [Past]; read-only.
//   - [Disk]: an open branch, a blockdev.Device that can be closed. It is opened with
//     the first open of its file, shared by all, and closed with the last release.
//
// # What the kernel's calls become
//
//	read, write            ReadAt, WriteAt, at once and in the caller's size up to 1 MiB
//	fsync, fdatasync       Flush: a barrier
//	fsync of a directory   nothing, with success
//	fallocate 0x03         Trim             (a discard, when it comes through loop)
//	fallocate 0x10, 0x11   WriteZeroes      (a write-zeroes, when it comes through loop)
//	fallocate 0x00, 0x01   nothing, with success: devices are thin
//	close                  nothing: it promises nothing
//	truncate, chmod, …     EPERM
//	any change of a moment EROFS
//
// # Errors
//
// An error with a method Errno() syscall.Errno answers with that. Else a range outside
// the device is EINVAL, or ENOSPC when written; a full disk ENOSPC; an interrupted
// wait EINTR; fs.ErrNotExist ENOENT; and anything else EIO, with the cause in the log,
// once for every run of the same text.
//
// # Invariants
//
//  1. Data is not cached by the kernel: each read asks the device, and each write has
//     reached it when it is acknowledged. There is no write-back cache, and shared
//     mappings are refused.
//  2. A range that is not inside the device changes nothing, whatever its numbers.
//  3. A device is closed only when no request on it is running, and opened again only
//     after that.
//  4. A point is resolved when it is looked up, at every path walk. What is open does
//     not change: two names of one moment are one device, and a name that later leads
//     elsewhere is another file.
//  5. An interrupt stops a wait (open, read, list); a write, flush or trim runs to its
//     end. Signals are common (the Go runtime sends them to itself), and a device whose
//     write failed is a failed device.
//
// # Copies
//
// A write is handed to the device in the buffer that read(2) on the FUSE device filled,
// and a read is answered from the buffer that the device filled. Nothing is copied in
// between.
//
// # Concurrency
//
// Requests run in parallel, reads and writes of one file too. That needs three things
// of the kernel, without any of which one request at a time would be in flight through
// loop: asynchronous direct I/O for the connection, and direct I/O and parallel direct
// writes for the file. A test counts.
//
// # Deadlocks
//
// A request waits in the kernel until this process answers. So this process must never
// wait for one of its own requests with something in its hands that answering needs:
//
//   - Never do file I/O below the mount point, or on a disk that is attached from it,
//     in the serving process: no stat, open, read, mount, umount, sync(2) or losetup.
//     Use a child process; package blockdev does. One blocked thread may seem harmless,
//     but memory mapped or reclaimed through such a file blocks threads that run Go code,
//     and the collector then waits for them while the answer waits for the collector.
//   - Never give a Source or Disk that keeps its own data below the mount point.
//   - A Disk must not wait for another request on the same file system: the number in
//     flight is bounded over all branches, and those that wait may be all of them.
//   - Unmounting waits for releases, and releases close devices. Server.Close must not be
//     called from a Source or a Disk.
//   - [Mount] looks at what is mounted at the mount point before, in a goroutine of its
//     own, with a time-out: a stopped server must not hang the next one.
//
// # Crash behaviour
//
// The connection belongs to the process: when that dies, all requests, waiting and new,
// fail with ENOTCONN (seen as EIO through loop), and what was not flushed is as lost as
// in a power cut. Its descriptor is not inherited by children, for else a Postgres that
// outlives the daemon would keep a connection alive which nobody answers. The dead mount
// is taken away by the next [Mount] at the same place.
//
// A panic while answering is logged and ends the process ([Options.Fatal]): the device
// that it left half-changed must not go on.
//
// # Limits
//
// Linux, as root (CAP_SYS_ADMIN) with /dev/fuse. Kernel 6.0 or newer for parallel direct
// writes. At most [Options.MaxBackground] asynchronous requests are in flight, and each
// write takes 1 MiB of memory while it waits. One branch whose device does not answer can
// hold all of them.
package branchfs
