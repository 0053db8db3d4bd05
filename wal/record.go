package wal

import (
	"fmt"
	"iter"
	"sync/atomic"
)

// BlockSize is the size of a block and of a slot: 4 KiB.
const BlockSize = 4096

const (
	// SmallBlocks is the number of data blocks a small [Record] holds.
	SmallBlocks = 15
	// LargeBlocks is the number of data blocks a large [Record] holds.
	LargeBlocks = 256
	// EntriesMax is the number of entries one [Record] holds.
	EntriesMax = (recordSumAt - recordFixedBytes) / entryBytes
	// BlockMax is the first block number that is too large: a device ends
	// before byte 2^64.
	BlockMax = 1 << 52
)

// Seq numbers the batches of a lineage. It only grows, by one.
type Seq uint64

// Slot is the index of a 4 KiB block inside a journal file, and for ever after
// inside the segment that the file becomes.
type Slot uint32

// SegmentNo numbers the segments of a log: 1, 2, 3 …
type SegmentNo uint64

// Kind says what an [Entry] does to its blocks.
type Kind uint8

// The kinds of entries. The numbers are part of the format.
const (
	// KindData gives the blocks the contents of consecutive slots.
	KindData Kind = 1
	// KindTrim drops the blocks: they read as zeros, and their space is free.
	KindTrim Kind = 2
	// KindZero makes the blocks zeros that count as allocated.
	KindZero Kind = 3
)

// String returns data, trim or zero.
func (k Kind) String() string {
	switch k {
	case KindData:
		return "data"
	case KindTrim:
		return "trim"
	case KindZero:
		return "zero"
	}
	return fmt.Sprintf("kind(%d)", uint8(k))
}

// Entry is one change to a run of blocks. Entries apply in order.
type Entry struct {
	Block uint64 // first block of the run
	Count uint64 // number of blocks, at least 1
	Slot  Slot   // KindData: where the first block's contents are; the rest follow
	Kind  Kind
}

// Record is a part of a batch while it is built and written: up to [EntriesMax]
// entries and the data blocks they name, in one page-aligned piece of memory
// that goes to the disk as it is.
//
// Ownership: [Pool.NewRecord] hands out a record with one reference. The owner
// alone calls AddBlock and AddRange, and fills block buffers, until it passes
// the record to [Journal.Write]; from then on the data is immutable. Whoever
// wants to read blocks while somebody else may free the record takes a
// reference first with Ref, under the lock by which it found the record. When
// the last reference is dropped with Free the memory is reused.
type Record struct {
	pool    *Pool
	large   bool
	arena   []byte // header block, then the data blocks; page-aligned
	blocks  int
	entries []Entry // Slot is relative to the record until it is written
	slot    Slot    // of the header block, once written
	refs    atomic.Int32
}

// Ref adds a reference.
func (r *Record) Ref() { r.refs.Add(1) }

// Free drops a reference. After the last one the record and every slice got
// from it belong to the pool.
func (r *Record) Free() {
	switch n := r.refs.Add(-1); {
	case n == 0:
		r.pool.freeRecord(r)
	case n < 0:
		panic("wal: record freed twice") // unreachable: a programming error that would corrupt data if it went on
	}
}

// AddBlock adds one data block. It returns the buffer of BlockSize bytes that
// the caller must fill whole (its contents are undefined), and its index for
// Block. ok is false when the record is full; nothing has changed then.
func (r *Record) AddBlock(block uint64) (buf []byte, idx int, ok bool) {
	if block >= BlockMax || r.blocks == r.Cap() {
		return nil, 0, false
	}
	if n := len(r.entries); n > 0 && r.entries[n-1].Kind == KindData &&
		r.entries[n-1].Block+r.entries[n-1].Count == block {
		r.entries[n-1].Count++
	} else if n == EntriesMax {
		return nil, 0, false
	} else {
		r.entries = append(r.entries, Entry{Kind: KindData, Block: block, Count: 1, Slot: Slot(1 + r.blocks)})
	}
	idx = r.blocks
	r.blocks++
	return r.Block(idx), idx, true
}

// AddRange adds a change without data: KindTrim or KindZero. It returns false,
// and changes nothing, when the record is full or the range is not valid.
func (r *Record) AddRange(kind Kind, block, count uint64) bool {
	if kind != KindTrim && kind != KindZero || !validRange(block, count) {
		return false
	}
	if len(r.entries) == EntriesMax {
		return false
	}
	r.entries = append(r.entries, Entry{Kind: kind, Block: block, Count: count})
	return true
}

func validRange(block, count uint64) bool {
	return count > 0 && block < BlockMax && count <= BlockMax-block
}

// Block returns the contents of data block idx. The slice is valid while the
// caller has a reference.
func (r *Record) Block(idx int) []byte {
	off := (1 + idx) * BlockSize
	return r.arena[off : off+BlockSize : off+BlockSize]
}

// Blocks returns the number of data blocks.
func (r *Record) Blocks() int { return r.blocks }

// Cap returns the number of data blocks that the record can hold.
func (r *Record) Cap() int { return len(r.arena)/BlockSize - 1 }

// Size returns the number of slots that the record takes in a journal: its data
// blocks and one for the header.
func (r *Record) Size() int { return 1 + r.blocks }

// Len returns the number of entries.
func (r *Record) Len() int { return len(r.entries) }

// Entry returns entry i. Its Slot is valid once the record is written, and changes
// while Write is under way: others than the owner call Entry before or after.
func (r *Record) Entry(i int) Entry { return r.entries[i] }

// Entries iterates over the entries in order.
func (r *Record) Entries() iter.Seq[Entry] {
	return func(yield func(Entry) bool) {
		for _, e := range r.entries {
			if !yield(e) {
				return
			}
		}
	}
}

// Slot returns the slot of data block idx in the journal. It is valid once
// [Journal.Write] returned nil for the record.
func (r *Record) Slot(idx int) Slot { return r.slot + 1 + Slot(idx) }
