package cache

import (
	"encoding/binary"
	"math/bits"
)

// Limits of what the cache takes. Whatever exceeds them is not stored: a cache
// that refuses costs a fetch, and nothing else.
const (
	// FrameBytesMax is the largest frame that [Frames] stores: 64 KiB of blocks
	// that did not compress, and room for whatever wraps them.
	FrameBytesMax = 72 << 10

	// LogBytesMax is the longest Log of a [Key], in bytes.
	LogBytesMax = 64

	// SlotBytesMax is the most that a frame takes on disk. A dst of this
	// capacity makes [Frames.Get] allocate nothing.
	SlotBytesMax = (FrameBytesMax + LogBytesMax + slotTailBytes + slotUnit - 1) / slotUnit * slotUnit
)

// Key names a frame. What a key names never changes, which is why an entry of
// this cache can be lost or damaged, but never stale.
type Key struct {
	Log     string // the log that the segment belongs to: at most LogBytesMax bytes
	Segment uint64 // number of the segment in the log
	Frame   uint32 // number of the frame in the segment
}

// hash mixes the key and the salt of a cache file into 64 bits (the folded
// multiplication of wyhash). It is stored on disk, so it must not change without
// a new format version. It needs to be even, not secret: the slot holds the whole
// key and decides.
func (k Key) hash(salt uint64) uint64 {
	const (
		p0 = 0xa0761d6478bd642f
		p1 = 0xe7037ed1a0b428db
		p2 = 0x8ebc6af09c88c6e3
		p3 = 0x589965cc75374cc3
	)
	h := salt ^ uint64(len(k.Log))
	log := k.Log
	for len(log) >= 8 {
		h = fold(h^p0, le64(log)^p1)
		log = log[8:]
	}
	var rest [8]byte
	copy(rest[:], log)
	h = fold(h^p2, binary.LittleEndian.Uint64(rest[:])^p1)
	h = fold(h^p0, k.Segment^p3)
	return fold(h^p2, uint64(k.Frame)^p1)
}

func fold(a, b uint64) uint64 {
	hi, lo := bits.Mul64(a, b)
	return hi ^ lo
}

func le64(s string) uint64 {
	return uint64(s[0]) | uint64(s[1])<<8 | uint64(s[2])<<16 | uint64(s[3])<<24 |
		uint64(s[4])<<32 | uint64(s[5])<<40 | uint64(s[6])<<48 | uint64(s[7])<<56
}
