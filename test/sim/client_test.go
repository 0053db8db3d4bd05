package sim

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/bough-db/bough/cow"
)

// The operations of clients on devices and on the catalogue of branches.

// write makes a change of some kind. It tells whether one could be made: changes
// that are under way at the same time do not overlap, so that their order is known.
func (w *world) write(s *session) bool {
	c := &change{}
	var run func(context.Context) error
	what := "write"
	switch k := w.rng.IntN(100); {
	case s.burst > 0 || k < w.conf.chunks:
		if s.burst--; s.burst < 0 {
			s.burst = w.rng.IntN(4)
		}
		c.cells = []int{sectors + w.rng.IntN(chunks)}
		run = w.writing(s, c)
	case k < 70:
		first, n := w.sectors(k%2 == 0)
		for i := range n {
			c.cells = append(c.cells, first+i)
		}
		run = w.writing(s, c)
	default:
		off, n := w.blocks()
		for i, x := range cells {
			if x.off >= off && x.off < off+n {
				c.cells = append(c.cells, i)
			}
		}
		what = "trim"
		run = func(ctx context.Context) error { return s.dev.Trim(ctx, off, n) }
		if k%2 == 0 {
			what = "zero"
			run = func(ctx context.Context) error { return s.dev.WriteZeroes(ctx, off, n) }
		}
	}
	for _, i := range c.cells {
		if s.flying[i] > 0 {
			return false
		}
	}
	if what == "write" {
		w.stamps++
		c.stamp = w.stamps
	}
	for _, i := range c.cells {
		s.flying[i]++
	}
	c.begin, c.end = w.tick(), never
	s.h.add(c)
	var win *window
	switch {
	case w.conf.through:
		win = s.window(c.begin)
	case slices.ContainsFunc(c.cells, func(i int) bool { return i >= sectors }) && c.stamp != 0:
		s.free = append(s.free, s.window(c.begin))
	}
	remote := s.remote
	what = fmt.Sprintf("%s %s cells %d+%d stamp %d", what, s.b.name, c.cells[0], len(c.cells), c.stamp)
	w.start(s.inc, what, run, func(err error) {
		c.end = w.clock
		for _, i := range c.cells {
			s.flying[i]--
		}
		if err != nil {
			c.optional = true
			w.mayFail(s, err, what)
			return
		}
		if win != nil {
			win.end = w.clock
			c.local, c.remote = true, remote && s.remote
			w.acknowledged(s, c.begin, c.remote)
		}
	})
	return true
}

// writing returns the function that writes a change.
func (w *world) writing(s *session, c *change) func(context.Context) error {
	return func(ctx context.Context) error {
		last := cells[c.cells[len(c.cells)-1]]
		off := cells[c.cells[0]].off
		p := make([]byte, last.off+last.len-off)
		for _, i := range c.cells {
			at := cells[i].off - off
			c.stamp.fill(p[at:at+cells[i].len], i)
		}
		return s.dev.WriteAt(ctx, p, off)
	}
}

// sectors chooses cells that follow each other: whole blocks, or any.
func (w *world) sectors(whole bool) (first, n int) {
	at := 0
	for i, a := range areas {
		size := a.blocks * perBlock
		if i == len(areas)-1 || w.rng.IntN(len(areas)-i) == 0 {
			if whole {
				b := w.rng.IntN(a.blocks)
				return at + b*perBlock, (1 + w.rng.IntN(min(3, a.blocks-b))) * perBlock
			}
			s := w.rng.IntN(size)
			return at + s, 1 + w.rng.IntN(min(2*perBlock, size-s))
		}
		at += size
	}
	return 0, 1
}

// blocks chooses a range of blocks, in bytes, that has no part of a chunk and some
// cell.
func (w *world) blocks() (off, n int64) {
	edges := make([]int64, 0, 32)
	for _, a := range areas {
		for b := range a.blocks + 1 {
			edges = append(edges, int64(a.first+b)*blockBytes)
		}
	}
	for c := range chunks + 1 {
		edges = append(edges, (chunkFirst+int64(c)*chunkBlocks)*blockBytes)
	}
	slices.Sort(edges)
	for {
		i := w.rng.IntN(len(edges) - 1)
		j := i + 1 + w.rng.IntN(min(4, len(edges)-1-i))
		if w.rng.IntN(6) == 0 {
			j = i + 1 + w.rng.IntN(len(edges)-1-i)
		}
		for _, c := range cells {
			if c.off >= edges[i] && c.off < edges[j] {
				return edges[i], edges[j] - edges[i]
			}
		}
	}
}

// read reads some cells and checks that they hold what they may.
func (w *world) read(s *session) {
	first, n := w.sectors(w.rng.IntN(2) == 0)
	off, within := cells[first].off, int64(0)
	if w.rng.IntN(8) == 0 {
		first, n = sectors+w.rng.IntN(chunks), 1
		within = int64(w.rng.IntN(chunkBlocks)) * blockBytes
		off = cells[first].off + within
	}
	each := min(cells[first].len, blockBytes)
	begin := w.tick()
	got := make([]stamp, n)
	what := fmt.Sprintf("read %s cells %d+%d", s.b.name, first, n)
	w.start(s.inc, what, func(ctx context.Context) error {
		p := make([]byte, int64(n)*each)
		if err := s.dev.ReadAt(ctx, p, off); err != nil {
			return err
		}
		for i := range n {
			var err error
			if got[i], err = stampOf(p[int64(i)*each:int64(i+1)*each], first+i, within); err != nil {
				return fmt.Errorf("%w: %w", errWrong, err)
			}
		}
		return nil
	}, func(err error) {
		if err != nil {
			w.mayFail(s, err, what)
			return
		}
		for i, g := range got {
			if !s.h.allowed(first+i, g, begin, w.clock) {
				w.fail("I7: %v: %s: cell %d holds stamp %d", s.inc, what, first+i, g)
			}
		}
	})
}

// create makes a branch of a branch.
func (w *world) create(inc *incarnation, parent *branch) {
	w.named++
	b := &branch{name: fmt.Sprintf("b%d", w.named), created: maybe, unsure: true}
	h, must, loss := parent.now, clock(0), false
	own := inc.session(parent)
	if own != nil && own.h != nil {
		h = own.h
		must = h.bound(false)
	} else {
		loss = parent.loses(inc.host)
		must = h.bound(loss)
	}
	opts := cow.BranchOptions{From: parent.id}
	if w.conf.remote && w.rng.IntN(3) == 0 {
		opts.Durability, b.unsure = cow.DurabilityRemote, false
		b.durability = opts.Durability
	}
	what := fmt.Sprintf("create %s of %s", b.name, parent.name)
	asked := w.tick()
	told, limit := asked, never
	if w.rng.IntN(3) == 0 {
		if old, p, ok := w.past(inc, parent); ok {
			h, must, told, loss, limit = old, p.at, p.at, true, p.at
			opts.At = p.point()
			what += fmt.Sprintf(" at barrier %d of %s", p.seq, h.name)
		}
	}
	b.now = h.fork(b.name, must, told, loss, limit)
	w.branches = append(w.branches, b)
	base := b.now.base
	if own != nil && limit == never {
		// It may be closed before it is asked, and then the log counts.
		base.also = append(base.also, alternative{parent.now, parent.now.remote})
	}
	if limit == never {
		parent.making = append(parent.making, base)
	}
	made := func() {
		base.limit = min(limit, w.clock)
		parent.making = slices.DeleteFunc(parent.making, func(o *origin) bool { return o == base })
	}
	var info cow.BranchInfo
	t := w.start(inc, what, func(ctx context.Context) (err error) {
		info, err = inc.store.CreateBranch(ctx, project, b.name, opts)
		return err
	}, func(err error) {
		made()
		if err != nil {
			var gone, fenced error
			if parent.mayBeGone(asked) {
				gone = cow.ErrNotFound
			}
			var lost error // that barrier, with the journal that it was in
			since := asked // it may have opened the branch meanwhile
			if own != nil {
				since = own.begin
			}
			if parent.takenBy(inc, since) {
				fenced, lost = cow.ErrFenced, cow.ErrNoPoint
			}
			right := []error{gone, fenced, lost, cow.ErrClosed}
			right = append(right, w.conf.collecting.gone()...)
			w.mustBe(inc, err, what, right...)
			return
		}
		b.id, b.created = info.ID, yes
		if limit != never && own != nil && own.mayBeFenced() {
			// The number may have been that of another barrier by then, of whoever took the
			// parent over: what it began with is not known.
			w.branches = slices.DeleteFunc(w.branches, func(o *branch) bool { return o == b })
		}
	})
	t.lost = made
}

// look asks for a branch of which it is not known whether it was made.
func (w *world) look(inc *incarnation, b *branch) {
	var info cow.BranchInfo
	what := "look for " + b.name
	w.start(inc, what, func(ctx context.Context) (err error) {
		info, err = inc.store.Branch(ctx, project, b.name)
		return err
	}, func(err error) {
		if err == nil {
			b.id, b.created = info.ID, yes
			b.unsure = true
			return
		}
		w.mustBe(inc, err, what, cow.ErrNotFound)
	})
}

// deleteBranch deletes a branch.
func (w *world) deleteBranch(inc *incarnation, b *branch) {
	what := "delete " + b.name
	before := b.deleted
	b.deleted = maybe
	b.deletions++
	b.deleting++
	n := b.deletions
	w.start(inc, what, func(ctx context.Context) error {
		return inc.store.DeleteBranch(ctx, project, b.name)
	}, func(err error) {
		if err == nil || errors.Is(err, cow.ErrInUse) || errors.Is(err, cow.ErrNotFound) {
			b.deleting--
		}
		switch {
		case err == nil:
			b.deleted = yes
		case errors.Is(err, cow.ErrInUse):
			if n == b.deletions { // else another one is under way
				b.deleted = before
			}
		default:
			w.mustBe(inc, err, what, cow.ErrNotFound)
		}
	})
}

// rename gives a branch another name.
func (w *world) rename(inc *incarnation, b *branch) {
	w.named++
	b.other, b.busy = fmt.Sprintf("r%d", w.named), true
	what := fmt.Sprintf("rename %s to %s", b.name, b.other)
	w.start(inc, what, func(ctx context.Context) error {
		return inc.store.RenameBranch(ctx, project, b.name, b.other)
	}, func(err error) {
		if err == nil {
			b.name, b.other, b.busy = b.other, "", false
			return
		}
		w.mustBe(inc, err, what)
	})
}

// setDurability changes what flushes wait for.
func (w *world) setDurability(s *session) {
	d := cow.DurabilityRemote
	if s.remote {
		d = cow.DurabilityLocal
	}
	s.remote, s.busy = false, true
	s.b.unsure = true
	begin := w.tick()
	win := s.window(begin)
	sure := s.h.bound(false)
	what := fmt.Sprintf("make %s %s", s.b.name, d)
	w.start(s.inc, what, func(ctx context.Context) error {
		return s.inc.store.SetDurability(ctx, s.b.id, d)
	}, func(err error) {
		s.busy = false
		if err != nil {
			w.mayFail(s, err, what)
			return
		}
		win.end = w.clock
		s.b.durability, s.b.unsure = d, false
		s.remote = d == cow.DurabilityRemote
		// A branch that was closed just then was changed as it is in the store, which may
		// be as another host has left it.
		if s.remote && !(s.closing && s.mayBeFenced()) {
			w.acknowledged(s, sure, true)
		}
	})
}

// publish brings the last barrier into the store.
func (w *world) publish(s *session) {
	begin := w.tick()
	win := s.window(begin)
	sure := s.h.bound(false)
	what := "publish " + s.b.name
	w.start(s.inc, what, func(ctx context.Context) error {
		_, err := s.dev.Publish(ctx)
		return err
	}, func(err error) {
		if err != nil {
			w.mayFail(s, err, what)
			return
		}
		win.end = w.clock
		w.acknowledged(s, sure, true)
	})
}
