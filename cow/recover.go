package cow

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/bough-db/bough/wal"
)

// recover sends the journals that an earlier life left to the store, each as
// the segment it was going to be. A journal whose segment is there already is
// given back. Recovery deletes nothing that the store does not have.
func (s *Store) recover(ctx context.Context) error {
	s.recoverMu.Lock()
	defer s.recoverMu.Unlock()
	found, err := s.journals.Recover(ctx)
	if err != nil {
		return fmt.Errorf("recover journals: %w", err)
	}
	slices.SortFunc(found, func(a, b *wal.Recovered) int {
		ha, hb := a.Header(), b.Header()
		return cmp.Or(cmp.Compare(ha.Log, hb.Log), cmp.Compare(ha.Segment, hb.Segment))
	})
	for _, r := range found {
		h := r.Header()
		log := BranchID(h.Log)
		err := s.brokenErr(log)
		if err == nil {
			err = s.recoverJournal(ctx, r)
		}
		if err == nil {
			continue
		}
		r.Abandon()
		if ctx.Err() != nil {
			return ctx.Err()
		}
		s.log.Error("journal not recovered: it is kept, and its branch does not open",
			"journal", r.Path(), "branch", log, "segment", h.Segment, "err", err)
		s.mu.Lock()
		s.broken[log] = err
		s.mu.Unlock()
	}
	return nil
}

// brokenErr returns why the branch's journals could not be recovered, or nil.
func (s *Store) brokenErr(id BranchID) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.broken[id]
}

// leaveBehind notes that journals of the branch were left on disk when it was
// closed: its log in the store is not whole.
func (s *Store) leaveBehind(id BranchID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.left[id] = true
}

// pickUp recovers the journals that were left behind when the branch was closed
// in a hurry, or failed.
func (s *Store) pickUp(ctx context.Context, id BranchID) error {
	s.mu.Lock()
	left := s.left[id]
	s.mu.Unlock()
	if left {
		if err := s.recover(ctx); err != nil {
			return err
		}
		s.mu.Lock()
		delete(s.left, id)
		s.mu.Unlock()
	}
	return s.brokenErr(id)
}

// recoverJournal stores one journal of an earlier life.
func (s *Store) recoverJournal(ctx context.Context, r *wal.Recovered) error {
	h := r.Header()
	log := BranchID(h.Log)
	if r.Err != nil {
		return fmt.Errorf("journal %s: %w: %w", r.Path(), r.Err, ErrCorrupt)
	}
	if err := checkBranchID(log); err != nil {
		return err
	}
	m, _, err := s.readManifest(ctx, log)
	if errors.Is(err, ErrNotFound) {
		s.log.Warn("journal of a branch that is gone: dropped", "branch", log, "segment", h.Segment)
		r.Release()
		return nil
	}
	if err != nil {
		return err
	}
	f, err := s.readFooter(ctx, log, h.Segment, false)
	switch {
	case err == nil && f.head.Nonce == r.Nonce():
		r.Release() // the crash came between the put and the release
		return nil
	case err == nil:
		return fmt.Errorf("journal %s: segment %d of branch %s was written by %s in epoch %d, this journal is of epoch %d: %w",
			r.Path(), h.Segment, log, f.head.Host, f.head.Epoch, h.Epoch, ErrFenced)
	case !isNotExist(err):
		return err
	}
	if err := s.checkChain(ctx, m, h); err != nil {
		return fmt.Errorf("journal %s: %w", r.Path(), err)
	}
	if err := s.putJournal(ctx, r.Journal, h.Epoch); err != nil {
		return err
	}
	s.log.Info("journal recovered", "branch", log, "segment", h.Segment, "barriers", len(r.Batches()))
	r.Release()
	return nil
}

// checkChain tells whether a journal goes on where the segment before it ends.
func (s *Store) checkChain(ctx context.Context, m *manifest, h wal.Header) error {
	before := m.Fork.Seq
	if h.Segment > 1 {
		f, err := s.readFooter(ctx, m.ID, h.Segment-1, true)
		if err != nil {
			return fmt.Errorf("segment %d, which comes before it: %w", h.Segment-1, err)
		}
		if n := len(f.batches); n > 0 {
			before = f.batches[n-1].Seq
		}
	}
	if h.FirstSeq != before+1 {
		return fmt.Errorf("it begins with barrier %d, the log ends with %d: barriers are missing: %w",
			h.FirstSeq, before, ErrCorrupt)
	}
	return nil
}
