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
//   - tag: the text in a loop device's lo_file_name that says whose it is.
//   - record: State/run/<branch id>/attach.json, which tells people and programs
//     what is attached where.
//
// # Invariants
//
//  1. The process that serves the files never does I/O on them. All calls that
//     might, even open(2) and umount(2), happen in a helper.
//  2. A loop device's write cache is what the device promises, read back, before
//     anything is written; and "write back", the kernel's default and the safe
//     value, before the loop device is free for others. The kernel keeps this
//     setting when a loop device is unbound, so that the next user of a device left
//     at "write through" would send no flush and lose commits.
//  3. Sectors are of 4096 bytes, and the page cache of the file is bypassed: the
//     device sees whole blocks, once.
//  4. Nothing is taken away that has not our tag: mounts by being of our loop
//     devices, loop devices by their tag, the FUSE mount by being dead.
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
// is already gone. Records help with one thing only: a loop device that the kernel
// unbound by itself and that still has its write-cache setting. Everything else is
// found by asking the kernel, so a lost or torn record does no harm. After a reboot
// nothing is left, and records of another boot are ignored.
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
// Through loop, any error of a device, a full one too, becomes EIO, and ext4 stops at
// the first one that meets its journal. A device that is full for a while should
// therefore wait rather than fail.
//
// # What it does not do
//
// It knows nothing of branches but an id and a path, and opens no device itself.
package blockdev
