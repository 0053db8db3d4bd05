// Package wal is the local journal: it makes an acknowledged write survive a
// crash of this machine before the store has it.
//
// # Words
//
//   - journal: one preallocated file that is exactly one future segment of one
//     log, 16 MiB unless told otherwise.
//   - slot: the index of a 4 KiB block in the file. (log, segment, slot) is a
//     block's address for ever, in the journal and in the segment.
//   - record: one header block and the data blocks that it describes; the unit
//     of memory and of writing.
//   - batch: one or more records of the same seq, the last of which commits. What
//     lies between two barriers; all or nothing after a crash.
//   - spill: a record written before its batch commits, and not synced.
//   - life: the time from a file's first write to its mark as free. A nonce
//     stands for it.
//   - pool: the directory of journal files, their budget, and who waits for one.
//   - quarantine: files found at the start, or abandoned, until [Pool.Recover]
//     hands them out.
//
// # Invariants
//
//  1. When a committing [Journal.Write] has returned nil, its batch is on stable
//     storage, and so is every batch before it in the journal (I1).
//  2. Recovery returns whole batches, in order, without a gap, up to a batch that
//     is at or after the last one acknowledged (I2).
//  3. What recovery has returned cannot vanish: it is synced before it is read.
//  4. A failed write or sync fails the journal for good.
//  5. No block is returned whose checksum does not match (I7): not by recovery,
//     and not by [Journal.ReadAt].
//  6. Nothing of one life is ever taken for a part of another.
//  7. A file's contents are kept until its owner releases it. Damage is reported,
//     file by file, and repaired by nobody.
//  8. The files of a pool stay within its budget (I9), and a log that reserved
//     one gets one, however much the others write.
//
// # Format
//
// Integers are little-endian. Checksums are CRC32C (Castagnoli). A file is a
// multiple of 4 KiB: slot 0 is the file header, then records follow each other
// without gaps. Bytes not named are zero, and covered by the checksum.
//
// Slot 0 holds the file header twice, at 0 and at 2048, each copy in one sector
// of 512 bytes, which a disk writes whole or not at all:
//
//	offset  size  field
//	     0     8  magic "boughjnl"
//	     8     2  version, 1
//	    10     2  kind: 1 live, 2 free
//	    12     4  block size, 4096
//	    16    16  nonce, random, chosen for each life of the file
//	    32     8  segment number
//	    40     8  writer's epoch
//	    48     8  seq of the first batch
//	    56     8  time of the first batch, Unix nanoseconds
//	    64     1  length of the log id, 1 to 64 (0 in a free marker of unknown origin)
//	    65    64  log id
//	   132     4  number of slots in the file
//	   508     4  checksum of bytes 0 to 507
//
// It goes out in the same write as the first record. The mark as free is the
// header again with kind 2: it names the life that it ends.
//
// A record begins with its header block:
//
//	offset  size  field
//	     0     8  magic "boughrec"
//	     8     2  version, 1
//	    10     2  flags: bit 0 commit; others make the record unreadable
//	    12     4  slot of this block
//	    16    16  nonce of the life
//	    32     8  seq of the batch
//	    40     4  index of the record in its batch, from 0
//	    44     4  number of entries, at most 249
//	    48     8  time of the batch, Unix nanoseconds
//	    56     8  LSN: how far the database's log reaches, 0 if not known
//	    64     4  number of data blocks that follow
//	    68     4  data checksum
//	    72     8  line: the history of that log that the LSN is in, 0 if not known
//	    96    16  entry, repeated
//	  4092     4  checksum of bytes 0 to 4091
//
// and an entry is
//
//	offset  size  field
//	     0     8  first block
//	     8     1  kind: 1 data, 2 trim, 3 zero
//	     9     7  number of blocks
//
// Data entries take the data blocks of the record in order and use them up. The
// data checksum is the checksum of the checksums (4 bytes each) of the data
// blocks: so the one pass over the data that a commit can afford also yields what
// ReadAt needs to check single blocks. Nonce and slot are in the header block
// that covers the data's checksum, so a record in the wrong place or file is no
// record. Time, LSN and line of a batch are those of its last record.
//
// Version rule: whoever changes the meaning of any byte raises the version. The
// magic, the version and the place of the checksum stay, so that an older program
// knows a newer file from a damaged one: ErrVersion, and the file is left alone.
//
// # The end of the log
//
// Replay stops at the first record that is not the next one. A writer begins a
// batch only when the one before is durable, so an intact record of this life
// with a later seq proves that the stopping place was durable once: ErrCorrupt,
// naming file and slot, with the batches before it. Without such a record it is
// the torn tail of a batch that was never acknowledged. Records of the open batch
// prove nothing, as spills are not synced and reach the disk in any order.
//
// The same proof finds lost headers. A file whose slot 0 says that it is free, or
// says nothing, but which has two batches of a life not named by the mark, is
// damaged and not free.
//
// # Lives of a file
//
//	made      zeros are written and synced, then the directory is synced. Not
//	          fallocate: the first write into an unwritten extent changes
//	          metadata, and its sync would wait for the file system's journal.
//	taken     Create chooses the nonce; nothing is written.
//	written   the first Write brings header and record together.
//	released  once the last reader is gone the mark is written durably, then the
//	          file is spare. Without the mark a file released long ago would be
//	          recovered as live, when the store may have packed or collected its
//	          segment. Where the life has no batch, slot 1 is zeroed first: it may
//	          show a record of an earlier life, which the mark does not name.
//	removed   if it cannot be marked, has another size than new ones, or is one
//	          too many: what the busiest moment of the last 256 releases needed,
//	          and the spare ones, are kept.
//
// A crash between the put of a segment and the mark lets the file be recovered
// once more. That is harmless if the caller compares: same log, segment and nonce
// in the store means that all is done, and Release is what is left to do.
//
// # Crash behaviour
//
// A file found at the start is never written before it is judged. What was seen
// by a process that then died need not be durable, so at the start the directory
// and every spare file are synced, and each file before it is recovered. A spare
// file whose header copies differ is marked again before it is used: so a write
// that tears in slot 0 mixes two states, never three. Recovery deletes nothing, and
// can be cut off and repeated at any point.
// TestCrashEverywhere stops the machine at every mutation, and up to three times
// more during the recoveries that follow; TestTraces fixes the order of writes.
//
// # Concurrency
//
// Pool and Record.Ref, Record.Free and Record.Block may be used by any goroutine.
// A journal has one writer; ReadAt, Batches, End, Header, Room, Ref and Unref may
// be called beside it. Readers hold a reference while they read. The pool has one
// goroutine, which makes files and takes them back; Close waits for it.
//
// # Deadlocks
//
// Create waits for a file that only Release gives back. A caller that holds all
// of the budget in journals which it will release only after another Create
// succeeded waits for ever; with [Pool.Reserve] before the first Create this
// cannot happen to a log that holds none.
//
// # The budget
//
// MaxBytes divided by FileBytes is the number of files that may exist. Create
// serves callers in the order in which they came, passing over those that would
// take a file reserved for a log which holds none. A branch that floods therefore
// fills what is left over by the reservations, and then waits for its own uploads;
// no other branch waits for them.
//
// # Limits
//
//   - Damage of the last batch of a journal, and of nothing after it, cannot be
//     told from a torn tail. Whoever knows the last seq from elsewhere (a clean
//     manifest, the next segment) must compare.
//   - The same goes for the header of a journal with a single batch.
//   - Where the file system refuses O_DIRECT, writes go through the page cache.
//     Recovery in the same boot as a failed sync then reads that cache, which may
//     hold what the disk does not: put what was recovered into the store before
//     going on, as the owner of a recovered journal should anyway.
//   - A batch does not span files.
//
// It does not compress, does not encrypt, does not know what a block means, and
// does not talk to the store.
package wal
