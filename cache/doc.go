// Package cache is the local copy of frames whose home is the object store: on
// disk as they were stored ([Frames]) and in memory as blocks ([Memory]).
//
// A frame is named by the log, the segment and the number of the frame in it ([Key]),
// never by a block of a device. What a key names never changes, so an entry can be
// lost or damaged but never stale, and all branches share it. That makes the cache
// disposable: it has no journal, it never syncs, and nothing waits for it.
//
// # Words
//
//   - frame: an opaque string of bytes, at most [FrameBytesMax].
//   - slot: a frame on disk with its key and checksum, a multiple of 64 bytes.
//   - region: a stretch of the file, 512 KiB to 4 MiB, that is filled, written and
//     evicted as a whole.
//   - table: the list of a region's slots, at its front.
//   - use: the number of a filling of a region. It counts up over all regions, and so
//     gives their order after a restart.
//   - keeper: the goroutine that writes regions and frees them.
//
// # Invariants
//
//  1. Get returns the bytes that were put under the key, or nothing. Key and checksum
//     are compared after every read, also from memory.
//  2. The file never exceeds Bytes, the memory for unwritten frames BufferBytes and one
//     region, and [Memory] its bound.
//  3. Put never waits for the disk, and Get never holds a lock while it reads it.
//  4. Every entry of the index points to a region that lists its hash; every region is
//     free, open, pending or queued, and only one of these.
//  5. A region that is freed had at most half of its bytes copied elsewhere, however hot
//     everything is. So the disk writes at most about twice what is stored.
//
// # Eviction
//
// Both tiers are S3-FIFO caches: new entries go to a small queue; those that were used
// by the time they reach its end go on to the main queue, the others leave, and their
// hashes are remembered: who comes back goes to the main queue at once. At the end of
// the main queue an entry that was used goes round again. A scan passes through the
// small queue, a tenth of the disk tier and a fifth of the memory tier, and leaves the
// rest alone.
//
// Frames moves regions: the oldest region of a queue is freed, and its used slots are
// copied to the region that the main queue is filling. If more than half of it was used,
// it goes to the main queue as it is, without a copy, the rest along with it. Nothing is
// ever searched for or fragmented, and every write is one region long.
//
// In Memory a use does not count while a frame is new (half of the small queue's
// length): a scan that reads a frame sixteen times in a row, block by block, must not
// look like sixteen uses.
//
// # Format
//
// One file, "frames", beside "lock". All numbers are little-endian; checksums are
// CRC32C.
//
//	0       header, one page
//	4096    region 0
//	…       region n begins at 4096 + n × region size
//
// Header: what it says is checked by its checksum, the rest of the page is zero.
//
//	offset  size  field
//	0       8     magic "boughFRM"
//	8       4     version, 1; any other version is an empty cache
//	12      4     region size in bytes, a power of two
//	16      8     salt of the hash and of the tables, random for each new file
//	24      4     checksum of bytes 0 to 23
//
// Region: a table with one entry for every 4 KiB of the region (so 1/128 of it), then
// slots from front to back.
//
// Table entry:
//
//	offset  size  field
//	0       8     hash of the key (Key.hash with the salt)
//	8       8     use; an entry of another use than the table's latest is left over
//	16      4     offset of the slot in the region
//	20      4     length of the slot
//	24      4     1 in the main queue, 0 in the small queue
//	28      4     checksum of the salt and bytes 0 to 27
//
// Slot, of length L. What describes the frame is at the end, so that the frame is read
// into the front of the caller's buffer and needs no copy.
//
//	offset        size      field
//	0             n         frame
//	n                       zeros
//	L-32-k        k         log
//	L-32          8         segment
//	L-24          4         frame number
//	L-20          4         n
//	L-16          4         k
//	L-12          4         magic "FSLT"
//	L-8           4         zero
//	L-4           4         checksum of bytes 0 to L-5
//
// # Crash behaviour
//
// A region is written with one write and no sync; until then its frames are in memory
// alone, so a killed process loses at most the regions it was filling and those that
// waited. After a power cut tables and slots may be torn, mixed or missing in any
// way. Each table entry has its own checksum, and a slot is believed only after its own: what
// does not fit is a miss. The file may be deleted, truncated or overwritten while it is
// in use, with the same result.
//
// A disk without room when the cache is opened means no cache, and a failed write later on
// means that nothing more is stored until the next start; both are one line in the log.
//
// # Concurrency
//
// All methods may be called concurrently. The index is split into shards with a lock
// each, held for a look-up; Put holds one lock while it copies the frame; Get reads
// without any. A region may be evicted and filled anew while somebody reads from it:
// the slot then fails its comparison, and a second look at the index tells whether to
// try again or to report damage.
//
// # Limits
//
// Memory: 20 to 25 bytes of index for every frame on disk, 8 for the lists of the
// regions, and a quarter of a byte per KiB of file for the remembered hashes: 37 bytes a
// frame in all, when frames have 24 KiB. None of it has pointers.
//
// # What it does not do
//
// It does not know what is in a frame, and does not fetch. Waiting for one fetch
// instead of starting two, and checking a frame against its segment, is up to the
// reader of segments.
package cache
