package cow

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/bough-db/bough/wal"
)

// setArgs is a random range of a leaf and the address that it gets; 0 for a hole.
func setArgs(rng *rand.Rand) (start, count int, at addr) {
	start = rng.IntN(leafSize)
	count = 1 + rng.IntN(leafSize-start)
	if rng.IntN(3) > 0 {
		count = 1 + rng.IntN(min(8, leafSize-start))
	}
	if rng.IntN(4) > 0 {
		// Few segments and slots, so that runs join by chance.
		at = makeAddr(uint16(rng.IntN(2)), wal.SegmentNo(1+rng.IntN(2)), wal.Slot(1+start+rng.IntN(3)*leafSize))
	}
	return start, count, at
}

// TestLeafRuns compares a leaf with a plain array under random changes, in both of
// its forms, and as an encoded page.
func TestLeafRuns(t *testing.T) {
	forSeeds(t, 4000, func(t *testing.T, rng *rand.Rand, ops int) {
		n := newNode(1, 0, 0)
		var want [leafSize]addr
		for i := range ops {
			start, count, at := setArgs(rng)
			n.leafSet(start, count, at)
			for j := range count {
				if want[start+j] = 0; at != 0 {
					want[start+j] = at + addr(j)
				}
			}
			if rng.IntN(200) == 0 { // back to runs
				clear(want[:])
				n = newNode(1, 0, 0)
			}
			var got [leafSize]addr
			n.leafGet(0, got[:])
			if got != want {
				t.Fatalf("operation %d: set %d+%d to %v gives %v", i, start, count, at, n.runs)
			}
			checkRuns(t, n)
			from := rng.IntN(leafSize)
			part := make([]addr, 1+rng.IntN(leafSize-from))
			n.leafGet(from, part)
			if !slices.Equal(part, want[from:from+len(part)]) {
				t.Fatalf("operation %d: %d blocks from %d differ", i, len(part), from)
			}
			if rng.IntN(10) == 0 {
				page := encodePage(nil, n, 512, nil, 9)
				if len(page) > pageBytesMax {
					t.Fatalf("page of %d bytes", len(page))
				}
				back, err := decodePage(page, 0, 512, 9)
				if err != nil {
					t.Fatalf("operation %d: %v", i, err)
				}
				back.leafGet(0, got[:])
				if got != want {
					t.Fatalf("operation %d: the page says %v", i, back.leafRuns())
				}
			}
		}
	})
}

// checkRuns fails unless a leaf's runs are sorted, apart, and as few as they can be.
func checkRuns(t *testing.T, n *node) {
	t.Helper()
	if n.slots != nil && n.runs != nil || len(n.runs) > runsMax {
		t.Fatalf("leaf with %d runs, and an array: %v", len(n.runs), n.slots != nil)
	}
	for i, r := range n.runs {
		if r.n == 0 || r.at == 0 || int(r.start+r.n) > leafSize {
			t.Fatalf("run %d of %v is %+v", i, n.runs, r)
		}
		if i > 0 && (n.runs[i-1].start+n.runs[i-1].n > r.start || joins(n.runs[i-1], r)) {
			t.Fatalf("runs %+v and %+v overlap or should be one", n.runs[i-1], r)
		}
	}
}

// noPages is for trees that are all in memory.
type noPages struct{}

func (noPages) page(pageAddr) *node { return nil }

// modelTree is a tree and the map that it should be.
type modelTree struct {
	tree tree
	want map[uint64]addr
}

// TestTree compares trees with maps under random changes and forks. Every tree is
// compared after each of the others has changed. I5.
//
// Seen to fail with: a fork that keeps the generation of its parent, or the parent
// that keeps its own.
func TestTree(t *testing.T) {
	forSeeds(t, 3000, func(t *testing.T, rng *rand.Rand, ops int) {
		var gens generations
		all := []*modelTree{{tree: newTree(&gens, 0), want: map[uint64]addr{}}}
		spots := []uint64{0, 500, 1 << 19, MaxBlocks - 2000} // across leaves and inner nodes
		for i := range ops {
			m := all[rng.IntN(len(all))]
			b := spots[rng.IntN(len(spots))] + rng.Uint64N(1500)
			count := 1 + rng.Uint64N(min(500, MaxBlocks-b))
			var at addr
			if rng.IntN(3) > 0 {
				at = makeAddr(0, wal.SegmentNo(i+1), 1)
			} else if rng.IntN(10) == 0 {
				b, count = rng.Uint64N(MaxBlocks/2), MaxBlocks/2 // most of the device
			}
			if n, want := m.tree.set(b, count, at, noPages{}); n != count || !want.isZero() {
				t.Fatalf("operation %d set %d of %d blocks and wants %v", i, n, count, want)
			}
			if at == 0 {
				maps.DeleteFunc(m.want, func(blk uint64, _ addr) bool { return blk >= b && blk < b+count })
			} else {
				for j := range count {
					m.want[b+j] = at + addr(j)
				}
			}
			if rng.IntN(100) == 0 && len(all) < 8 {
				all = append(all, &modelTree{tree: m.tree.fork(0), want: maps.Clone(m.want)})
			} else if rng.IntN(100) == 0 && len(all) > 1 {
				all = slices.Delete(all, 0, 1)
			}
			if rng.IntN(20) == 0 {
				for _, m := range all {
					m.compare(t, spots)
				}
			}
		}
	})
}

func (m *modelTree) compare(t *testing.T, spots []uint64) {
	t.Helper()
	for _, s := range spots {
		out := make([]addr, 2000)
		if n, want := m.tree.lookup(s, out, noPages{}); n != len(out) || !want.isZero() {
			t.Fatalf("lookup found %d blocks and wants %v", n, want)
		}
		for i, a := range out {
			if a != m.want[s+uint64(i)] {
				t.Fatalf("block %d is at %v, want %v", s+uint64(i), a, m.want[s+uint64(i)])
			}
		}
	}
}

// TestAddrPacks: the three parts of an address come back, at their limits too, and
// consecutive slots are consecutive numbers.
func TestAddrPacks(t *testing.T) {
	for _, log := range []uint16{0, 1, lineageMax} {
		for _, seg := range []wal.SegmentNo{1, 12345, segmentMax} {
			for _, slot := range []wal.Slot{1, 4095, slotMax - 1} {
				a := makeAddr(log, seg, slot)
				if a.log() != log || a.segment() != seg || a.slot() != slot || (a+1).slot() != slot+1 || a == 0 {
					t.Errorf("%d, %d, %d became %v", log, seg, slot, a)
				}
			}
		}
	}
	if addr(0).String() != "hole" {
		t.Error("address 0 is not a hole")
	}
	for _, n := range []wal.SegmentNo{1, segmentMax} {
		p := makePageAddr(7, n, 4, 5)
		if p.log() != 7 || p.checkpoint() != n || p.isZero() || fmt.Sprint(p) == "" {
			t.Errorf("page address of checkpoint %d became %v", n, p)
		}
	}
}
