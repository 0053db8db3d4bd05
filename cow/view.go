package cow

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"

	ask "github.com/bough-db/bough/cow/point"
)

// View is a branch as it was at one barrier, open for reading. Its methods may be
// called concurrently. It does not depend on the branch: that may be written, closed or
// deleted meanwhile.
type View struct {
	store   *Store
	barrier Barrier
	size    int64
	lineage []BranchID
	tree    tree // never changed
	own     bool // the barrier may be in journals of this process

	ctx    context.Context // ends with the View
	cancel context.CancelFunc

	mu     sync.Mutex
	closed bool
	lost   bool           // see loseViews
	reads  sync.WaitGroup // under way
}

// OpenAt opens the branch for reading as it was at the barrier that the point names; see
// Resolve. Whoever gets a View closes it. There are Options.Views of them at most:
// ErrTooMany.
func (s *Store) OpenAt(ctx context.Context, id BranchID, p ask.Point) (*View, error) {
	return s.openView(ctx, id, "@"+p.String(), func(ctx context.Context, m *manifest) (Barrier, error) {
		h, err := s.history(ctx, m)
		if err != nil {
			return Barrier{}, err
		}
		return h.resolve(ctx, p)
	})
}

// OpenBarrier is OpenAt for a barrier that Resolve returned, or that a snapshot of the
// branch has.
func (s *Store) OpenBarrier(ctx context.Context, id BranchID, b Barrier) (*View, error) {
	return s.openView(ctx, id, fmt.Sprintf("@seq:%d", b.Seq), func(context.Context, *manifest) (Barrier, error) { return b, nil })
}

// openView opens the barrier that find finds, and again if another host took the branch
// over meanwhile: what find found may have been in a journal that is no part of it.
func (s *Store) openView(ctx context.Context, id BranchID, name string, find func(context.Context, *manifest) (Barrier, error)) (*View, error) {
	for i := 0; ; i++ {
		m, _, err := s.readBranch(ctx, id)
		if err != nil {
			return nil, err
		}
		v, err := s.openViewAs(ctx, m, name, find)
		if !errors.Is(err, ErrCorrupt) || i == relocations {
			return v, err
		}
		now, _, rerr := s.readBranch(ctx, id)
		if rerr != nil || now.ID == m.ID && now.Epoch == m.Epoch {
			return v, err
		}
	}
}

// openViewAs is openView for a branch as its manifest m says.
func (s *Store) openViewAs(ctx context.Context, m *manifest, name string, find func(context.Context, *manifest) (Barrier, error)) (*View, error) {
	fail := func(err error) (*View, error) {
		return nil, fmt.Errorf("open branch %s/%s at %q: %w", m.Project, m.Name, name, err)
	}
	if !m.Deleted.IsZero() {
		return fail(ErrNotFound)
	}
	v := &View{store: s, size: m.Size}
	v.ctx, v.cancel = context.WithCancel(s.ctx)
	if err := s.addView(v); err != nil {
		v.cancel()
		return fail(err)
	}
	b, err := find(ctx, m)
	if err == nil {
		// A collection of this process that looks from here on leaves the barrier
		// alone; what one that has looked before is about to drop, load tells.
		v.mu.Lock()
		v.barrier = b
		v.mu.Unlock()
		err = v.load(ctx)
	}
	if err != nil {
		v.Close()
		return fail(err)
	}
	return v, nil
}

func (s *Store) addView(v *View) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return ErrClosed
	}
	if len(s.views) >= s.opts.Views {
		return fmt.Errorf("%w barriers are open for reading, %d: close one first", ErrTooMany, len(s.views))
	}
	s.views[v] = struct{}{}
	return nil
}

// load loads the barrier's tree.
func (v *View) load(ctx context.Context) error {
	s := v.store
	at := v.barrier.moment()
	lm, _, err := s.readManifest(ctx, at.Log)
	if err != nil {
		return err
	}
	for _, log := range lm.Lineage {
		if _, err := s.pickUp(ctx, log); err != nil {
			return err
		}
	}
	l, err := s.load(ctx, lm, at.Segment, at.Seq, gapsAreLoss)
	if err != nil {
		return err
	}
	v.tree, v.lineage, v.own = l.tree, lm.Lineage, l.live
	return s.confirm(ctx, at)
}

// Barrier returns the barrier that the View shows.
func (v *View) Barrier() Barrier { return v.barrier }

// Size returns the size of the device in bytes, which may have been less then.
func (v *View) Size() int64 { return v.size }

// ReadAt fills p from offset off. What it returns has been verified; see
// [Branch.ReadAt].
func (v *View) ReadAt(ctx context.Context, p []byte, off int64) error {
	if err := checkRange(off, int64(len(p)), v.size); err != nil {
		return err
	}
	v.mu.Lock()
	if v.closed {
		v.mu.Unlock()
		return ErrClosed
	}
	if v.lost {
		v.mu.Unlock()
		return fmt.Errorf("read barrier %d of %s: %w", v.barrier.Seq, v.barrier.Log, ErrFenced)
	}
	v.reads.Add(1)
	v.mu.Unlock()
	defer v.reads.Done()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(v.ctx, cancel)()
	return inBlocks(p, off, func(p []byte, first uint64) error {
		var at [requestBlocks]addr
		n := len(p) / BlockSize
		err := v.lookup(ctx, first, at[:n])
		if err == nil {
			err = v.store.readAddrs(ctx, v.lineage, v.own, at[:n], p)
		}
		if err != nil {
			return fmt.Errorf("read barrier %d of %s at block %d: %w", v.barrier.Seq, v.barrier.Log, first, err)
		}
		return nil
	})
}

// lookup finds the addresses of consecutive blocks in the tree.
func (v *View) lookup(ctx context.Context, first uint64, out []addr) error {
	pages := pinned{cache: v.store.pages, lineage: v.lineage}
	for done := 0; ; {
		n, want := v.tree.lookup(first+uint64(done), out[done:], &pages)
		if want.isZero() {
			return nil
		}
		done += n
		if err := v.store.loadPage(ctx, want, &pages); err != nil {
			return err
		}
	}
}

// Close ends the reads that are under way and gives the View back. Calls after the
// first do nothing.
func (v *View) Close() {
	v.mu.Lock()
	first := !v.closed
	v.closed = true
	v.mu.Unlock()
	if !first {
		return
	}
	v.cancel()
	v.reads.Wait()
	v.store.mu.Lock()
	defer v.store.mu.Unlock()
	delete(v.store.views, v)
}

// loseViews ends the reads of what this process has written to a log that another host
// has taken over: under the numbers of journals that are set aside now the store has
// segments of that host.
func (s *Store) loseViews(log BranchID) {
	s.mu.Lock()
	views := slices.Collect(maps.Keys(s.views))
	s.mu.Unlock()
	for _, v := range views {
		v.mu.Lock()
		lost := v.own && v.barrier.Log == log
		v.lost = v.lost || lost
		v.mu.Unlock()
		if lost {
			v.cancel()
			v.reads.Wait()
		}
	}
}

// viewed returns the barriers that this process has open for reading.
func (s *Store) viewed() (all []point) {
	s.mu.Lock()
	views := slices.Collect(maps.Keys(s.views))
	s.mu.Unlock()
	for _, v := range views {
		v.mu.Lock()
		if v.barrier.Segment > 0 {
			all = append(all, v.barrier.moment().point)
		}
		v.mu.Unlock()
	}
	return all
}
