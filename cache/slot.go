package cache

import (
	"encoding/binary"
	"errors"
	"hash/crc32"
)

const (
	slotUnit      = 64         // slots begin and end at multiples of this
	slotTailBytes = 32         // the fixed part at the end of a slot
	slotMagic     = 0x544c5346 // "FSLT"
)

// Reasons why a slot does not give the frame that was asked for.
var (
	errDamaged  = errors.New("slot is damaged")
	errOtherKey = errors.New("slot holds another key")
)

// slotBytes is the size of a slot for a frame of n bytes in the given log.
func slotBytes(n int, log string) int {
	return (n + len(log) + slotTailBytes + slotUnit - 1) / slotUnit * slotUnit
}

// encodeSlot fills slot, which is slotBytes long, with the frame and its key.
func encodeSlot(slot []byte, key Key, frame []byte) {
	n := copy(slot, frame)
	tail := slot[len(slot)-slotTailBytes:]
	logStart := len(slot) - slotTailBytes - len(key.Log)
	clear(slot[n:logStart])
	copy(slot[logStart:], key.Log)
	binary.LittleEndian.PutUint64(tail[0:], key.Segment)
	binary.LittleEndian.PutUint32(tail[8:], key.Frame)
	binary.LittleEndian.PutUint32(tail[12:], uint32(len(frame)))
	binary.LittleEndian.PutUint32(tail[16:], uint32(len(key.Log)))
	binary.LittleEndian.PutUint32(tail[20:], slotMagic)
	binary.LittleEndian.PutUint32(tail[24:], 0)
	binary.LittleEndian.PutUint32(tail[28:], crc32.Checksum(slot[:len(slot)-4], castagnoli))
}

// slotView is a decoded slot; its slices alias the slot.
type slotView struct {
	frame   []byte
	log     []byte
	segment uint64
	number  uint32
}

// decodeSlot takes a slot apart after checking every byte of it, or returns
// errDamaged. The slot may hold anything at all.
func decodeSlot(slot []byte) (slotView, error) {
	if len(slot) < slotTailBytes || len(slot) > SlotBytesMax || len(slot)%slotUnit != 0 {
		return slotView{}, errDamaged
	}
	tail := slot[len(slot)-slotTailBytes:]
	if binary.LittleEndian.Uint32(tail[20:]) != slotMagic {
		return slotView{}, errDamaged
	}
	frameBytes := binary.LittleEndian.Uint32(tail[12:])
	logBytes := binary.LittleEndian.Uint32(tail[16:])
	if frameBytes > FrameBytesMax || logBytes > LogBytesMax {
		return slotView{}, errDamaged
	}
	logEnd := len(slot) - slotTailBytes
	logStart := logEnd - int(logBytes)
	if logStart < int(frameBytes) {
		return slotView{}, errDamaged
	}
	if crc32.Checksum(slot[:len(slot)-4], castagnoli) != binary.LittleEndian.Uint32(tail[28:]) {
		return slotView{}, errDamaged
	}
	return slotView{
		frame:   slot[:frameBytes],
		log:     slot[logStart:logEnd],
		segment: binary.LittleEndian.Uint64(tail[0:]),
		number:  binary.LittleEndian.Uint32(tail[8:]),
	}, nil
}

// openSlot returns the frame in slot if it is intact and belongs to key.
func openSlot(slot []byte, key Key) ([]byte, error) {
	v, err := decodeSlot(slot)
	if err != nil {
		return nil, err
	}
	if v.segment != key.Segment || v.number != key.Frame || string(v.log) != key.Log {
		return nil, errOtherKey
	}
	return v.frame, nil
}

// key returns the key that the slot holds.
func (v slotView) key() Key {
	return Key{Log: string(v.log), Segment: v.segment, Frame: v.number}
}
