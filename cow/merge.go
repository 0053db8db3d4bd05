package cow

import (
	"container/heap"
	"slices"

	"github.com/bough-db/bough/wal"
)

// mergeEntries returns what remains of entries that apply one after the other: the
// last of them for each block, in block order. It does not keep what it is given.
func mergeEntries(entries []packEntry) []packEntry {
	type edge struct {
		block uint64
		entry int // ^entry: it ends here
	}
	edges := make([]edge, 0, 2*len(entries))
	for i, e := range entries {
		edges = append(edges, edge{e.Block, i}, edge{e.Block + e.Count, ^i})
	}
	slices.SortFunc(edges, func(a, b edge) int {
		switch {
		case a.block < b.block:
			return -1
		case a.block > b.block:
			return 1
		}
		return 0
	})
	var out []packEntry
	var over entryHeap // the entries that the sweep is in, and some that it has left
	ended := make([]bool, len(entries))
	for i := 0; i < len(edges); {
		at := edges[i].block
		for ; i < len(edges) && edges[i].block == at; i++ {
			if n := edges[i].entry; n >= 0 {
				heap.Push(&over, n)
			} else {
				ended[^n] = true
			}
		}
		for len(over) > 0 && ended[over[0]] {
			heap.Pop(&over)
		}
		if len(over) > 0 {
			e := entries[over[0]]
			out = appendEntry(out, e.part(at, edges[i].block-at))
		}
	}
	return out
}

// part returns the part of the entry that is about count blocks from block first.
func (e packEntry) part(first, count uint64) packEntry {
	if e.Kind == wal.KindData {
		e.Slot += wal.Slot(first - e.Block)
	}
	e.Block, e.Count = first, count
	return e
}

// appendEntry appends an entry to others in block order, joining it with the last
// one if it goes on there.
func appendEntry(out []packEntry, e packEntry) []packEntry {
	if n := len(out); n > 0 {
		l := &out[n-1]
		if l.Kind == e.Kind && l.Block+l.Count == e.Block && l.Segment == e.Segment &&
			(e.Kind != wal.KindData || l.Slot+wal.Slot(l.Count) == e.Slot) {
			l.Count += e.Count
			return out
		}
	}
	return append(out, e)
}

// entryHeap has the number of the latest entry first.
type entryHeap []int

func (h entryHeap) Len() int           { return len(h) }
func (h entryHeap) Less(i, j int) bool { return h[i] > h[j] }
func (h entryHeap) Swap(i, j int)      { h[i], h[j] = h[j], h[i] }

// Push adds x, for package heap.
func (h *entryHeap) Push(x any) { *h = append(*h, x.(int)) }

// Pop removes the last entry, for package heap.
func (h *entryHeap) Pop() any {
	old := *h
	x := old[len(old)-1]
	*h = old[:len(old)-1]
	return x
}
