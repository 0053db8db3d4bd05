package cache

import (
	"bytes"
	"testing"
)

// FuzzDecodeSlot feeds anything to the decoder of slots. What it accepts encodes to
// the same bytes again.
func FuzzDecodeSlot(f *testing.F) {
	for _, n := range []int{0, 1, 31, 32, 4096} {
		key := Key{Log: "br-a", Segment: uint64(n), Frame: 1}
		slot := make([]byte, slotBytes(n, key.Log))
		encodeSlot(slot, key, make([]byte, n))
		f.Add(slot)
	}
	f.Fuzz(func(t *testing.T, p []byte) {
		v, err := decodeSlot(p)
		if err != nil {
			return
		}
		frame, err := openSlot(p, v.key())
		if err != nil {
			t.Fatalf("open with its own key: %v", err)
		}
		again := make([]byte, len(p))
		encodeSlot(again, v.key(), frame)
		if got, err := openSlot(again, v.key()); err != nil || !bytes.Equal(got, frame) {
			t.Fatalf("encode again: %v", err)
		}
	})
}

// FuzzDecodeTable feeds anything to the decoders of tables and of the header. What
// they accept lies within its region.
func FuzzDecodeTable(f *testing.F) {
	p := make([]byte, tableEntryBytes)
	encodeTableEntry(p, tableEntry{hash: 1, use: 1, offset: 4096, length: 64}, 7)
	f.Add(p, uint64(7))
	f.Add(encodeHeader(fileHeader{regionBytes: regionBytesMin, salt: 7}), uint64(7))
	f.Fuzz(func(t *testing.T, p []byte, salt uint64) {
		if e, ok := decodeTableEntry(p, regionBytesMin, salt); ok {
			if int(e.offset) < tableBytes(regionBytesMin) || int(e.offset)+int(e.length) > regionBytesMin || e.length == 0 {
				t.Errorf("accepted %+v", e)
			}
		}
		if h, ok := decodeHeader(p); ok && !validRegionBytes(int64(h.regionBytes)) {
			t.Errorf("accepted %+v", h)
		}
	})
}
