package cow

import (
	"sort"
	"sync/atomic"
)

// Shape of the tree: three levels, 2 TiB of 4 KiB blocks.
const (
	leafBits  = 9  // a leaf maps 512 blocks, 2 MiB
	innerBits = 10 // an inner node has 1024 children
	leafSize  = 1 << leafBits
	innerSize = 1 << innerBits
	topLevel  = 2 // the root's level; leaves are level 0

	// MaxBlocks is the largest device, in blocks.
	MaxBlocks = 1 << (leafBits + 2*innerBits)

	// runsMax is how many runs a leaf holds before it becomes a flat array:
	// 128 runs cost half of the array's 4 KiB.
	runsMax = 128
)

// run maps n consecutive blocks of a leaf, the first being block start of the
// leaf, to consecutive addresses from at. Runs never map holes.
type run struct {
	at    addr
	start uint16
	n     uint16
}

// node is one page of a tree. It may be changed only by the tree whose
// generation it carries; all others share it and copy it first.
type node struct {
	gen   uint64
	log   uint16 // lineage index of the branch that made it: of those who share it, only that one sets saved
	level uint8

	runs  []run                    // a leaf of few runs, sorted by start
	slots *[leafSize]addr          // a leaf of many runs
	kids  *[innerSize]ref          // an inner node
	saved atomic.Pointer[pageAddr] // where the owner's checkpoint put this content, if it did
}

// ref leads to a child: in memory (n), or in a checkpoint (at), or nowhere: a hole.
type ref struct {
	n  *node
	at pageAddr
}

func (r *ref) isHole() bool { return r.n == nil && r.at.isZero() }

// levelBlocks returns how many blocks one node of the level maps.
func levelBlocks(level uint8) uint64 {
	return 1 << (leafBits + uint(level)*innerBits)
}

func newNode(gen uint64, log uint16, level uint8) *node {
	n := &node{gen: gen, log: log, level: level}
	if level > 0 {
		n.kids = new([innerSize]ref)
	}
	return n
}

// clone copies the node for the generation that is about to change it.
func (n *node) clone(gen uint64, log uint16) *node {
	c := &node{gen: gen, log: log, level: n.level}
	switch {
	case n.kids != nil:
		k := *n.kids
		c.kids = &k
	case n.slots != nil:
		s := *n.slots
		c.slots = &s
	default:
		c.runs = append(make([]run, 0, len(n.runs)+2), n.runs...)
	}
	return c
}

// leafGet fills out with the addresses of len(out) blocks from block start of the leaf.
func (n *node) leafGet(start int, out []addr) {
	if n.slots != nil {
		copy(out, n.slots[start:])
		return
	}
	clear(out)
	end := start + len(out)
	i := sort.Search(len(n.runs), func(i int) bool { return int(n.runs[i].start+n.runs[i].n) > start })
	for ; i < len(n.runs) && int(n.runs[i].start) < end; i++ {
		r := n.runs[i]
		from, to := max(int(r.start), start), min(int(r.start+r.n), end)
		for b := from; b < to; b++ {
			out[b-start] = r.at + addr(b-int(r.start))
		}
	}
}

// leafSet maps count blocks from block start of the leaf to consecutive
// addresses from at; at 0 makes holes of them.
func (n *node) leafSet(start, count int, at addr) {
	if n.slots == nil {
		n.runs = setRun(n.runs, uint16(start), uint16(count), at)
		if len(n.runs) <= runsMax {
			return
		}
		var s [leafSize]addr
		n.leafGet(0, s[:])
		n.slots, n.runs = &s, nil
		return
	}
	for i := range count {
		if at == 0 {
			n.slots[start+i] = 0
		} else {
			n.slots[start+i] = at + addr(i)
		}
	}
}

// setRun replaces [start, start+count) in a sorted list of runs, splitting what
// overlaps and joining what has become consecutive.
func setRun(runs []run, start, count uint16, at addr) []run {
	end := start + count
	lo := sort.Search(len(runs), func(i int) bool { return runs[i].start+runs[i].n > start })
	hi := lo
	for hi < len(runs) && runs[hi].start < end {
		hi++
	}
	var mid [3]run
	m := mid[:0]
	if lo < hi && runs[lo].start < start {
		m = append(m, run{at: runs[lo].at, start: runs[lo].start, n: start - runs[lo].start})
	}
	if at != 0 {
		m = appendRun(m, run{at: at, start: start, n: count})
	}
	if lo < hi {
		last := runs[hi-1]
		if e := last.start + last.n; e > end {
			m = appendRun(m, run{at: last.at + addr(end-last.start), start: end, n: e - end})
		}
	}
	// Join with the neighbours that were not touched.
	if len(m) > 0 && lo > 0 && joins(runs[lo-1], m[0]) {
		lo--
		m[0] = run{at: runs[lo].at, start: runs[lo].start, n: runs[lo].n + m[0].n}
	}
	if len(m) > 0 && hi < len(runs) && joins(m[len(m)-1], runs[hi]) {
		m[len(m)-1].n += runs[hi].n
		hi++
	}
	switch d := len(m) - (hi - lo); {
	case d > 0:
		for range d {
			runs = append(runs, run{})
		}
		copy(runs[hi+d:], runs[hi:])
	case d < 0:
		copy(runs[hi+d:], runs[hi:])
		runs = runs[:len(runs)+d]
	}
	copy(runs[lo:], m)
	return runs
}

func joins(a, b run) bool { return a.start+a.n == b.start && a.at+addr(a.n) == b.at }

func appendRun(m []run, r run) []run {
	if len(m) > 0 && joins(m[len(m)-1], r) {
		m[len(m)-1].n += r.n
		return m
	}
	return append(m, r)
}

// leafRuns returns the leaf's contents as runs, whatever its form.
func (n *node) leafRuns() []run {
	if n.slots == nil {
		return n.runs
	}
	var out []run
	for i, a := range n.slots {
		if a != 0 {
			out = appendRun(out, run{at: a, start: uint16(i), n: 1})
		}
	}
	return out
}
