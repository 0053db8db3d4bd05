// Package blockdev is the block device: the contract between who stores blocks and
// who uses them, and the way such a device reaches the kernel as a mounted disk.
//
// # What it is
//
// [Device] is the contract, with the optional powers [Trimmer], [Zeroer] and
// [WriteThrougher]. [Volumes] takes a device that is served as a file (package
// branchfs does that), binds it to a loop device, makes an ext4 file system on it
// when asked to, and mounts it.
//
//	device ── branchfs ── /state/mnt/p/b/disk ── /dev/loop3 ── ext4 at /state/data/id
//
// # Words
//
//   - attach: bind a branch's file to a loop device and, mostly, mount that.
//   - detach: the reverse.
//   - helper: a child process, running this binary, that makes the system calls.
//   - record: State/run/<branch id>/attach.json, which tells what is attached where,
//     with the number that the kernel gave to this binding of the device.
//   - tag: the text in a loop device's lo_file_name that says whose it is.
//
// # Invariants
//
//  1. The process that serves the files never does I/O on them. All calls that
//     might, even open(2) and umount(2), happen in a helper.
//  2. A loop device's write cache is what the device promises, read back, before
//     anything is written; and "write back", the kernel's default and the safe
//     value, before the loop device is free for others. The kernel keeps this
//     setting when a loop device is unbound, so that the next user of a device left
//     at "write through" would send no flush and lose commits. What has no cache is not
//     throttled by the kernel either; that is put back in the same places.
//  3. Sectors are of 4096 bytes, and the page cache of the file is bypassed: the
//     device sees whole blocks, once.
//  4. Nothing is taken away that is not ours: a loop device is ours if a record tells
//     of its very binding, if it has our tag, or, once a killed server keeps the kernel
//     from telling the tag, if its file is below our dead mount. Mounts are ours by
//     being of our loop devices, wherever they are.
//
// # Life of an attachment
//
// Attach opens the file (the FUSE server opens the branch), takes a free loop device
// (again, if another process was quicker), writes the record, sets the write cache,
// formats if told to, and mounts. The loop device is set to unbind itself after its
// last user, so that a helper that dies half-way leaves nothing. Detach unmounts,
// waiting for programs to leave, sets the write cache back, unbinds, and waits until
// the kernel has done so, which is some time after the calls returned.
//
// On two cores of an AMD EPYC, with a device in memory of 256 GiB: attach and mount 4 ms,
// unmount and detach 4 ms, each 16 ms more where the write cache has to be changed (the
// kernel freezes the queue for that); format 15 ms.
//
// # The file system
//
// ext4, with noatime, errors=remount-ro, data_err=abort (a failed write of data is
// an error and not a line in the log), nodiscard (fstrim does that:
// [Volumes.Trim]), no_prefetch_block_bitmaps (waking and idling cost no reads). It is
// made for a device that reads as zeros: at 256 GiB 6.6 MiB are written, in 15 ms,
// and nothing later by the kernel in the background. mkfsArgs in ext4.go says why
// each option is there.
//
// # Crash behaviour
//
// A killed daemon leaves a dead FUSE mount, loop devices over it, and mounts of
// those, all of which fail every request. [Volumes.Cleanup], called by the next
// start before it mounts anything, takes them away, including those whose FUSE mount
// is already gone, and those of which a kill left no record. It also finds, by its
// record, a loop device that the kernel unbound by itself and that still has its
// write-cache setting. After a reboot nothing is left, and records of another boot are
// removed unread.
//
// # Concurrency
//
// Any number of branches are attached and detached at once; calls on one branch take
// turns. Two processes may do so with different state directories.
//
// # Limits
//
// Linux, as root, with loop devices; 5.8 or newer for LOOP_CONFIGURE. mkfs.ext4 and
// resize2fs (e2fsprogs) are needed to format and grow, nothing else. Every call is
// bounded by its context and by [Options.Timeout], and every error is one line. A
// helper that hangs in the kernel is reported and left behind.
//
// Through loop, an error of a device is EIO (newer kernels let ENOSPC through for reads
// and writes, but not for flushes), and ext4 turns read-only at the first one that meets
// its journal. A device that is full for a while should therefore wait rather than fail.
//
// Growing a mounted file system needs CAP_SYS_RESOURCE.
//
// # What it does not do
//
// It knows nothing of branches but an id and a path, and opens no device itself.
package blockdev
