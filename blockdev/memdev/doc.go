// Package memdev is a block device in memory, for tests of what sits above a
// device.
//
// # What it offers
//
// A [Device] is thin: only blocks that were written take memory, so a device of
// 256 GiB costs nothing to make. It has all the optional powers of package
// blockdev (trim, write zeroes, write-through), counts every call, keeps the
// highest number of reads and writes that were in flight together, and runs a
// hook before each call, which may wait, fail the call, or record it.
//
// # Words
//
//   - call: one use of a method of [blockdev.Device] or of its optional powers.
//   - durable: what a flush that returned nil has covered. [Device.PowerCut]
//     gives a device with the durable contents alone.
//
// # Invariants
//
//  1. What was never written, was trimmed, or was zeroed reads as zeros.
//  2. A call that fails, by its range or by the hook, changes nothing.
//  3. A block is read or written whole: concurrent calls never tear one.
//
// # Concurrency
//
// All methods may be called concurrently. Reads and writes of different blocks
// do not wait for each other, except by chance of sharing one of 64 locks.
//
// # Crash behaviour
//
// None: contents live as long as the process.
//
// # Limits
//
// Memory: 4 KiB and a map entry for each block that holds data, twice that with
// [Options.TrackDurable].
package memdev
