package cow

import (
	"context"
	"errors"
	"fmt"

	ask "github.com/bough-db/bough/cow/point"
	"github.com/bough-db/bough/wal"
)

// beginning returns the barrier that a branch of pm at the point begins as, the logs
// that it can reach, and its tree if that is in memory. It waits for no writer.
func (s *Store) beginning(ctx context.Context, pm *manifest, p ask.Point) (at moment, lineage []BranchID, tr *tree, err error) {
	if p.Kind == ask.Head {
		at, tr, err = s.forkPoint(ctx, pm)
		if err == nil && at.Segment == 0 {
			// The parent has no log of its own yet: begin where it began, so that a
			// chain of branches without writes costs nothing.
			return pm.Fork, pm.Lineage[:len(pm.Lineage)-1], tr, nil
		}
		return at, pm.Lineage, tr, err
	}
	at, lm, err := s.barrierAt(ctx, pm, p)
	if err != nil {
		return at, nil, nil, err
	}
	return at, lm.Lineage, nil, nil
}

// barrierAt returns the barrier of the branch that the point names, and the manifest of
// the log that it lies in. On a store that several hosts share, it is stored then.
func (s *Store) barrierAt(ctx context.Context, m *manifest, p ask.Point) (moment, *manifest, error) {
	h, err := s.history(ctx, m)
	if err != nil {
		return moment{}, nil, err
	}
	b, err := h.resolve(ctx, p)
	if err != nil {
		return moment{}, nil, err
	}
	at := b.moment()
	lm := h.manifestOf(at.Log)
	if lm == nil {
		if lm, _, err = s.readManifest(ctx, at.Log); err != nil {
			return at, nil, err
		}
	}
	if s.opts.Shared {
		if err := s.publishLog(ctx, lm, at.Segment); err != nil {
			return at, nil, fmt.Errorf("store barrier %d: %w", at.Seq, err)
		}
	}
	return at, lm, nil
}

// publishLog sees to it that a segment of a log is in the store, if this process writes
// that log, as of the manifest: else it was found there.
func (s *Store) publishLog(ctx context.Context, m *manifest, n wal.SegmentNo) error {
	s.mu.Lock()
	o := s.open[m.ID]
	s.mu.Unlock()
	if o == nil {
		return nil
	}
	select {
	case <-o.ready:
	case <-ctx.Done():
		return ctx.Err()
	}
	if o.branch == nil || o.branch.epoch != m.Epoch {
		return nil
	}
	return o.branch.publish(ctx, n)
}

// confirm tells, after a record was put that reaches the barrier, whether that can
// still be opened. A collection that began before may not have seen the record; one
// that begins later does.
func (s *Store) confirm(ctx context.Context, at moment) error {
	if at.Segment == 0 {
		return nil
	}
	m, _, err := s.readManifest(ctx, at.Log)
	for i := 0; err == nil; i++ {
		if m.Doom != nil {
			return fmt.Errorf("branch %s/%s is being removed: %w", m.Project, m.Name, ErrNotFound)
		}
		err = s.available(ctx, m, at.Seq)
		if !isNotExist(err) || i == relocations {
			break
		}
		// A pack that was pending has been given up.
		m, _, err = s.readManifest(ctx, at.Log)
	}
	if errors.Is(err, ErrNotKept) {
		err = fmt.Errorf("barrier %d of %s/%s was collected meanwhile: choose a later one: %w", at.Seq, m.Project, m.Name, ErrNotKept)
	}
	return err
}
