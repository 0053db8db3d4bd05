package cache

import (
	"sync"
	"sync/atomic"
	"unsafe"
)

// queueID is one of the two queues of regions.
type queueID int

const (
	small queueID = iota // where new frames go
	main                 // where frames go that proved to be used
	queues
)

// region is a fixed stretch of the file. It is free, or open (being filled in
// memory), or pending (full, waiting to be written), or in a queue, in this order
// and then round again.
type region struct {
	// use numbers the times that this region was opened, over all regions, so that
	// it also orders the queues after a restart; 0 while free. A reader compares
	// it to tell a damaged slot from one that was replaced under its hands.
	use atomic.Uint64

	// hashes lists the keys that were written to the region; some may have gone
	// elsewhere since. Owned by Frames.mu.
	hashes []uint64

	// mem is the region's buffer while it is open or pending. It is set to nil, and
	// the buffer reused, only under the exclusive lock; readers copy out of it
	// under the shared one.
	memMu sync.RWMutex
	mem   *buffer
}

// copySlot copies a slot out of the region's buffer. inMemory is false if it has
// none; ok is false if the place was never filled in this use of the region.
func (r *region) copySlot(dst []byte, offset int) (inMemory, ok bool) {
	r.memMu.RLock()
	defer r.memMu.RUnlock()
	if r.mem == nil {
		return false, false
	}
	if int64(offset+len(dst)) > r.mem.filled.Load() {
		return true, false
	}
	copy(dst, r.mem.bytes[offset:])
	return true, true
}

// setBuffer gives the region its buffer, or takes it away once nobody reads it.
func (r *region) setBuffer(b *buffer) {
	r.memMu.Lock()
	defer r.memMu.Unlock()
	r.mem = b
}

// buffer is the image of a region that has not been written yet.
type buffer struct {
	bytes  []byte // table first; aligned to a page
	region uint32
	queue  queueID
	use    uint64
	hashes []uint64
	// filled is the end of the slots. Everything between the table and it is
	// immutable until the buffer is reused.
	filled atomic.Int64
}

func newBuffer(regionBytes int) *buffer {
	return &buffer{bytes: alignedBytes(regionBytes)}
}

// alignedBytes returns n zero bytes that begin at a page boundary, as direct
// writing demands.
func alignedBytes(n int) []byte {
	p := make([]byte, n+pageBytes)
	skip := int(-uintptr(unsafe.Pointer(unsafe.SliceData(p))) % pageBytes)
	return p[skip : skip+n : skip+n]
}

// reset prepares the buffer for a region.
func (b *buffer) reset(region uint32, queue queueID, use uint64) {
	table := tableBytes(len(b.bytes))
	b.region, b.queue, b.use = region, queue, use
	b.hashes = b.hashes[:0]
	clear(b.bytes[:table])
	b.filled.Store(int64(table))
}

// fits tells whether there is room for a slot of n bytes.
func (b *buffer) fits(n int) bool {
	return len(b.hashes) < tableSlots(len(b.bytes)) && int(b.filled.Load())+n <= len(b.bytes)
}

// add appends a slot of n bytes, which fill writes, and returns its location. It
// must fit. Callers are serialised by Frames.mu.
func (b *buffer) add(hash uint64, n int, salt uint64, fill func(slot []byte)) location {
	offset := int(b.filled.Load())
	fill(b.bytes[offset : offset+n])
	i := len(b.hashes) * tableEntryBytes
	encodeTableEntry(b.bytes[i:i+tableEntryBytes], tableEntry{
		hash: hash, use: b.use, offset: uint32(offset), length: uint32(n), main: b.queue == main,
	}, salt)
	b.hashes = append(b.hashes, hash)
	b.filled.Store(int64(offset + n))
	return newLocation(b.region, offset, n)
}

// image is what has to be written: the table and the slots, in whole pages.
func (b *buffer) image() []byte {
	end := (int(b.filled.Load()) + pageBytes - 1) / pageBytes * pageBytes
	clear(b.bytes[b.filled.Load():end])
	return b.bytes[:end]
}
