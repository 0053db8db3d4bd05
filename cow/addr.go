package cow

import (
	"fmt"

	"github.com/bough-db/bough/wal"
)

// Limits that the packed addresses impose.
const (
	// BlockSize is the unit of copy-on-write, in bytes.
	BlockSize = wal.BlockSize

	slotBits    = 13 // 8192 slots: a journal file of at most 32 MiB
	segmentBits = 35 // one segment a second for a thousand years
	logBits     = 16 // ancestors of one branch

	slotMax    = 1<<slotBits - 1
	segmentMax = 1<<segmentBits - 1
	lineageMax = 1<<logBits - 1
)

// addr is the place of one block for ever: (log, segment, slot), packed as
// log<<48 | segment<<13 | slot. The log is an index into the lineage of the
// branch whose tree holds the address. Segments and slots that hold data are
// numbered from 1, so 0 is free to mean "never written, or discarded": a hole,
// which reads as zeros. Consecutive slots are consecutive numbers.
type addr uint64

func makeAddr(log uint16, seg wal.SegmentNo, slot wal.Slot) addr {
	return addr(uint64(log)<<(segmentBits+slotBits) | uint64(seg)<<slotBits | uint64(slot))
}

func (a addr) log() uint16            { return uint16(a >> (segmentBits + slotBits)) }
func (a addr) segment() wal.SegmentNo { return wal.SegmentNo(a >> slotBits & segmentMax) }
func (a addr) slot() wal.Slot         { return wal.Slot(a & slotMax) }

// segmentKey returns the address without its slot: equal for all blocks of a segment.
func (a addr) segmentKey() uint64 { return uint64(a >> slotBits) }

func (a addr) String() string {
	if a == 0 {
		return "hole"
	}
	return fmt.Sprintf("log %d segment %d slot %d", a.log(), a.segment(), a.slot())
}

// pageAddr is the place of an encoded tree page: a byte range of a checkpoint
// object. The zero value is "no page": the whole subtree is a hole.
type pageAddr struct {
	ckpt uint64 // log<<48 | checkpoint number + 1
	off  uint32 // bytes from the object's start
	n    uint32 // bytes
}

func makePageAddr(log uint16, ckpt wal.SegmentNo, off, n uint32) pageAddr {
	return pageAddr{ckpt: uint64(log)<<48 | (uint64(ckpt) + 1), off: off, n: n}
}

func (p pageAddr) isZero() bool              { return p.ckpt == 0 }
func (p pageAddr) log() uint16               { return uint16(p.ckpt >> 48) }
func (p pageAddr) checkpoint() wal.SegmentNo { return wal.SegmentNo(p.ckpt&(1<<48-1)) - 1 }
func (p pageAddr) String() string {
	return fmt.Sprintf("log %d checkpoint %d bytes %d+%d", p.log(), p.checkpoint(), p.off, p.n)
}
