package cow

import (
	"errors"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/bough-db/bough/wal"
)

// Sets of all kinds are read as they were written, and with any byte changed, not
// at all.
func TestStartSetFormat(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for n := range 40 {
		set := &startSet{groups: map[uint32]uint16{}, used: n%2 == 0}
		for range n * n {
			g := rng.Uint32N(startGroupsEnd)
			if n%3 == 0 {
				g = rng.Uint32N(10_000)
			}
			set.groups[g] = uint16(rng.Uint32())
		}
		data := encodeStart("k", set)
		got, err := decodeStart("k", data)
		if err != nil || got.used != set.used || !maps.Equal(got.groups, set.groups) {
			t.Fatalf("%d groups: %v", len(set.groups), err)
		}
		if _, err := decodeStart("l", data); !errors.Is(err, ErrCorrupt) {
			t.Errorf("under another key: %v", err)
		}
		if n > 6 {
			continue
		}
		for i := range data {
			data[i] ^= 1 << rng.IntN(8)
			if _, err := decodeStart("k", data); err == nil {
				t.Errorf("byte %d of %d changed, and it is read", i, len(data))
			}
			data = encodeStart("k", set)
		}
	}
}

// The frames of the slots that were written last are those of the highest numbers,
// in a segment and in a pack, which may go on after the segment that was the last.
func TestNewest(t *testing.T) {
	x := &blockIndex{place: []uint32{0, 1, 2, 0, 3<<4 + 1, 5<<4 + 2}}
	if got := x.newest(9, 3); !slices.Equal(got, []int{5, 3, 0}) {
		t.Errorf("of a segment: %v", got)
	}
	obj := packOf(t, 1000) // of segments 7 to 296, three or four slots each
	tr, err := decodeTrailer(packMagic, obj[len(obj)-segmentTrailer:], int64(len(obj)))
	if err != nil {
		t.Fatal(err)
	}
	p, err := decodePackFooter(reader(t), tr, obj[tr.off:tr.off+tr.size], false)
	if err != nil {
		t.Fatal(err)
	}
	p.index.object = p.head.id()
	for _, last := range []wal.SegmentNo{7, 100, 296, 300} {
		var want []int
		for seg := last; seg >= 7 && len(want) < 20; seg-- {
			for slot := wal.Slot(10); slot > 0 && len(want) < 20; slot-- {
				if n, _, ok := p.index.find(seg, slot); ok {
					want = append(want, n)
				}
			}
		}
		if got := p.index.newest(last, 20); !slices.Equal(got, want) {
			t.Errorf("of a pack, up to segment %d: %v, want %v", last, got, want)
		}
	}
}
