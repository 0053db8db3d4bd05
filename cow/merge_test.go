package cow

import (
	"math/rand/v2"
	"testing"

	"github.com/bough-db/bough/wal"
)

// TestMergeEntries compares what is left of random entries with a map of blocks.
func TestMergeEntries(t *testing.T) {
	forSeeds(t, 400, func(t *testing.T, rng *rand.Rand, ops int) {
		for range ops {
			const blocks = 60
			type content struct {
				kind wal.Kind
				seg  wal.SegmentNo
				slot wal.Slot
			}
			want := map[uint64]content{}
			var entries []packEntry
			slot := wal.Slot(1)
			for range rng.IntN(40) {
				e := packEntry{Entry: wal.Entry{Kind: wal.Kind(1 + rng.IntN(3)), Block: rng.Uint64N(blocks)}}
				e.Count = 1 + rng.Uint64N(min(8, blocks-e.Block))
				if e.Kind == wal.KindData {
					e.Segment, e.Slot = wal.SegmentNo(1+len(entries)/7), slot
					slot += wal.Slot(e.Count)
				}
				for i := range e.Count {
					c := content{kind: e.Kind, seg: e.Segment}
					if e.Kind == wal.KindData {
						c.slot = e.Slot + wal.Slot(i)
					}
					want[e.Block+i] = c
				}
				entries = append(entries, e)
			}
			end := uint64(0)
			got := map[uint64]content{}
			for _, e := range mergeEntries(entries) {
				if e.Count == 0 || e.Block < end {
					t.Fatalf("entry %+v after block %d", e, end)
				}
				end = e.Block + e.Count
				for i := range e.Count {
					c := content{kind: e.Kind, seg: e.Segment}
					if e.Kind == wal.KindData {
						c.slot = e.Slot + wal.Slot(i)
					}
					got[e.Block+i] = c
				}
			}
			if len(got) != len(want) {
				t.Fatalf("%d blocks, want %d: %v", len(got), len(want), entries)
			}
			for b, c := range want {
				if got[b] != c {
					t.Fatalf("block %d is %+v, want %+v: %v", b, got[b], c, entries)
				}
			}
		}
	})
}
