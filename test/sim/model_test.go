package sim

import (
	"encoding/binary"
	"fmt"
	"math"
)

// A device is looked at in cells: the places that operations write, each as a
// whole. There are sectors, 8 in a block, in places where the tree has its seams,
// and chunks of 1 MiB, two of which make a batch spill.
const (
	blockBytes  = 4096
	sectorBytes = 512
	perBlock    = blockBytes / sectorBytes
	chunkBlocks = 256

	deviceBlocks = 1024*512 + 512
	deviceBytes  = deviceBlocks * blockBytes
)

// area is a run of blocks whose sectors are cells.
type area struct{ first, blocks int }

// areas lie at the front, across two leaves of the tree, and across two of its
// inner nodes.
var areas = []area{{0, 6}, {509, 6}, {1024*512 - 3, 6}}

// Chunks follow each other from chunkFirst.
const (
	chunkFirst = 1024
	chunks     = 3
)

// cell is a place on the device, in bytes.
type cell struct {
	off, len int64
}

// cells are all cells: sectors in order of place, then chunks.
var cells, sectors = makeCells()

func makeCells() (all []cell, sectors int) {
	for _, a := range areas {
		for s := range a.blocks * perBlock {
			all = append(all, cell{int64(a.first)*blockBytes + int64(s)*sectorBytes, sectorBytes})
		}
	}
	sectors = len(all)
	for c := range chunks {
		all = append(all, cell{(chunkFirst + int64(c)*chunkBlocks) * blockBytes, chunkBlocks * blockBytes})
	}
	return all, sectors
}

// stamp names one change of the run; 0 is what was never written, or discarded.
type stamp uint32

// word is the eight bytes at word i of a cell that has the stamp. Of 64 stamps 16 look
// like noise, which no compressor makes smaller; the others repeat the same word through
// a sector, and cost little.
func (s stamp) word(c, i int) uint64 {
	if s.noise() {
		return (uint64(s)<<16 | uint64(c)) ^ uint64(i)*golden
	}
	return uint64(i/wordsPerSector)<<48 | uint64(s)<<16 | uint64(c)
}

func (s stamp) noise() bool { return s/16%4 == 0 }

const (
	golden         = 0x9e3779b97f4a7c15
	wordsPerSector = sectorBytes / 8
)

// fill writes what the cell holds under the stamp.
func (s stamp) fill(p []byte, c int) {
	if s == 0 {
		clear(p)
		return
	}
	for i := range len(p) / 8 {
		binary.LittleEndian.PutUint64(p[8*i:], s.word(c, i))
	}
}

// stampOf returns the stamp of p, which is read from byte off of cell c. What no
// change wrote there is an error.
func stampOf(p []byte, c int, off int64) (stamp, error) {
	from := int(off / 8)
	first := binary.LittleEndian.Uint64(p)
	s := stamp(first >> 16)
	if v := first ^ uint64(from)*golden; first != 0 && s.word(c, from) != first {
		s = stamp(v >> 16)
		if int(v&0xffff) != c {
			return 0, fmt.Errorf("cell %d holds what belongs to another, or to nobody (%#x)", c, first)
		}
	}
	for i := range len(p) / 8 {
		want := uint64(0)
		if s != 0 {
			want = s.word(c, from+i)
		}
		if got := binary.LittleEndian.Uint64(p[8*i:]); got != want {
			return 0, fmt.Errorf("cell %d is a mixture: word %d is %#x, not that of stamp %d", c, from+i, got, s)
		}
	}
	return s, nil
}

// clock counts the beginnings and endings of what clients do.
type clock int

const never clock = math.MaxInt

// change is a write or a discard, and what is known of it.
type change struct {
	cells      []int
	stamp      stamp
	begin, end clock
	// optional: it ended with an error, or its host died: it may be there or not.
	optional bool
	// Acknowledged as durable by itself, in write-through mode.
	local, remote bool
}

// window is a time in which somebody asked for a barrier and got it: the barrier
// has everything that ended before, and perhaps what began meanwhile.
type window struct{ begin, end clock }

// history is what one writer did to a branch from when it attached it.
type history struct {
	base    *origin
	changes []*change
	byCell  [][]*change
	windows []*window
	// Every change that ended by then is durable: in the journals of host, on its
	// disk of that number; in the store.
	local, remote clock
	host          *host
	disk          int
	begin         clock
	epoch         uint64
	name          string
	pasts         []past   // that can be named
	before        *history // of the writer before this one
	next          *origin  // of the history of the writer after this one
}

// origin is the state that a history began with. As long as nobody has read it, all
// that is known is where it comes from.
type origin struct {
	state []stamp // by cell; nil if it is not known yet

	from  *history // nil for an empty device
	must  clock    // what ended by then is in it
	told  clock    // and what was acknowledged as durable by itself by then
	loss  bool     // what only journals had need not be
	limit clock    // nothing that began later is in it
	// also are other histories that it may come from, as far as the store has them:
	// those of writers who came while a branch was being made.
	also []alternative
}

type alternative struct {
	from *history
	must clock
}

func newHistory(name string, base *origin) *history {
	return &history{name: name, base: base, byCell: make([][]*change, len(cells))}
}

// fork returns the history of a branch made of h as it may be at limit, with at least
// what ended by must and what had been acknowledged as durable by itself by told.
func (h *history) fork(name string, must, told clock, loss bool, limit clock) *history {
	if h.base.state == nil {
		// Nobody has written to h: it is not even known what it is.
		return newHistory(name, h.base)
	}
	return newHistory(name, &origin{from: h, must: must, told: told, loss: loss, limit: limit})
}

// follow returns the history of the writer that comes after h's, on the host.
func (h *history) follow(name string, on *host, loss bool, limit clock) *history {
	n := h.fork(name, 0, never, loss, limit)
	n.host, n.disk, n.begin, n.before = on, on.disk, limit, h
	if n.base != h.base {
		h.next = n.base
	}
	return n
}

// bound returns up to when changes are durable, or durable in the store.
func (h *history) bound(loss bool) clock {
	if loss {
		return h.remote
	}
	return max(h.local, h.remote)
}

func (h *history) add(c *change) {
	h.changes = append(h.changes, c)
	for _, i := range c.cells {
		h.byCell[i] = append(h.byCell[i], c)
	}
}

// allowed tells whether a read from begin to end may find s in the cell.
func (h *history) allowed(i int, s stamp, begin, end clock) bool {
	ok := h.base.state[i] == s
	for _, c := range h.byCell[i] {
		if c.begin > end {
			break
		}
		if !c.optional && c.end <= begin {
			ok = c.stamp == s
		} else {
			ok = ok || c.stamp == s
		}
	}
	return ok
}

// resolve takes the state that a reader has found at the beginning of a history,
// or says why it can not be that.
func (o *origin) resolve(got []stamp) error {
	if o.state != nil {
		for i, s := range got {
			if o.state[i] != s {
				return fmt.Errorf("cell %d holds stamp %d, and held %d when it was read before, though nobody wrote to it", i, s, o.state[i])
			}
		}
		return nil
	}
	if o.from != nil {
		must := o.must
		if o.from.next == o {
			// Whatever the writer before was told by now.
			must = o.from.bound(o.loss)
		}
		err := o.from.match(must, o.told, o.loss, o.limit, got)
		for _, a := range o.also {
			if err != nil && a.from.base.state != nil && a.from.match(a.must, 0, true, o.limit, got) == nil {
				err = nil
			}
		}
		if err != nil {
			return err
		}
	}
	o.state = got
	return nil
}

// agrees tells whether the writer after this one began with all that this one was
// told is in the store.
func (h *history) agrees() error {
	if h.next == nil || h.next.state == nil {
		return nil // nobody has come, or it is checked when that one reads
	}
	return h.match(h.remote, never, true, h.next.limit, h.next.state)
}

// match tells whether got can be the state at a barrier of the history: one that
// has all changes that were durable, each change whole, and with each change all
// that had ended before that began.
func (h *history) match(must, told clock, loss bool, limit clock, got []stamp) error {
	try := func(w window) error {
		m := matcher{h: h, got: got, max: min(w.end, limit), pos: make([]int, len(cells)), in: make(map[*change]bool)}
		return m.run(max(w.begin, must), told, loss)
	}
	err := try(window{0, 0})
	for i := len(h.windows) - 1; i >= 0 && err != nil; i-- {
		if w := h.windows[i]; w.begin <= limit {
			if werr := try(*w); werr == nil || i == len(h.windows)-1 {
				err = werr
			}
		}
	}
	return err
}

// matcher looks for the smallest set of changes that explains a state: each set that
// explains it has this one as a part.
type matcher struct {
	h   *history
	got []stamp
	max clock // no change that began later
	pos []int // by cell: how many of its changes are at or before the one that shows
	in  map[*change]bool
	// begin is the latest beginning of a change in the set.
	begin clock
}

func (m *matcher) run(must, told clock, loss bool) error {
	for _, c := range m.h.changes {
		if !c.optional && (c.end <= must || c.end <= told && (c.remote || c.local && !loss)) {
			if err := m.include(c); err != nil {
				return fmt.Errorf("%w, and is durable", err)
			}
		}
	}
	for again := true; again; {
		again = false
		for _, c := range m.h.changes {
			if !c.optional && c.end < m.begin && !m.in[c] {
				if err := m.include(c); err != nil {
					return err
				}
				again = true
			}
		}
		for i := range m.got {
			found, err := m.cell(i)
			if err != nil {
				return err
			}
			again = again || found
		}
	}
	return nil
}

// include adds a change to the set.
func (m *matcher) include(c *change) error {
	if m.in[c] {
		return nil
	}
	if c.begin > m.max {
		return fmt.Errorf("the change with stamp %d of cells %d… came after the barrier", c.stamp, c.cells[0])
	}
	m.in[c] = true
	m.begin = max(m.begin, c.begin)
	for _, i := range c.cells {
		for n, o := range m.h.byCell[i] {
			if o == c {
				m.pos[i] = max(m.pos[i], n+1)
			}
		}
	}
	return nil
}

// cell finds the next change that makes the cell what it is, if it is not that
// already.
func (m *matcher) cell(i int) (found bool, err error) {
	list := m.h.byCell[i]
	now := m.h.base.state[i]
	if n := m.pos[i]; n > 0 {
		now = list[n-1].stamp
	}
	if now == m.got[i] {
		return false, nil
	}
	for _, c := range list[m.pos[i]:] {
		if c.stamp == m.got[i] {
			return true, m.include(c)
		}
	}
	return false, fmt.Errorf("cell %d holds stamp %d, which is not there at or after the change that has to be (stamp %d)", i, m.got[i], now)
}
