package cow

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/bough-db/bough/wal"
)

// recover sends the journals that an earlier life left to the store, each as
// the segment it was going to be. A journal whose segment is there already is
// given back. One that can not be recovered stays on disk, and keeps its branch
// from being opened. Recovery deletes nothing that the store does not have.
func (s *Store) recover(ctx context.Context) error {
	s.recoverMu.Lock()
	defer s.recoverMu.Unlock()
	found, err := s.journals.Recover(ctx)
	slices.SortFunc(found, func(a, b *wal.Recovered) int {
		ha, hb := a.Header(), b.Header()
		return cmp.Or(cmp.Compare(ha.Log, hb.Log), cmp.Compare(ha.Segment, hb.Segment))
	})
	failed := map[BranchID]error{}
	fenced := map[BranchID]uint64{} // the epoch whose writer lost the branch
	for _, r := range found {
		h := r.Header()
		log := BranchID(h.Log)
		if _, ok := failed[log]; !ok {
			failed[log] = nil
		}
		// What comes after a journal that is missing waits for it.
		if failed[log] == nil && err == nil && (fenced[log] == 0 || h.Epoch > fenced[log]) {
			failed[log] = s.recoverJournal(ctx, r)
			if errors.Is(failed[log], ErrFenced) {
				failed[log], fenced[log] = nil, h.Epoch
			}
		}
		if fenced[log] > 0 && h.Epoch <= fenced[log] {
			s.setAside(r)
			continue
		}
		if failed[log] == nil && err == nil {
			continue
		}
		r.Abandon()
		s.leaveBehind(log)
		if err == nil {
			err = ctx.Err()
		}
		s.log.Error("journal not recovered: it is kept, and its branch does not open",
			"journal", r.Path(), "branch", log, "segment", h.Segment, "err", cmp.Or(failed[log], err))
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := failed[""]; !ok && err == nil {
		delete(s.broken, "") // what did not tell whose it is was read this time
	}
	for log, lerr := range failed {
		if lerr != nil {
			s.broken[log] = lerr
		} else if err == nil {
			delete(s.broken, log)
		}
	}
	if errors.Is(err, wal.ErrClosed) {
		return ErrClosed
	}
	if err != nil {
		return fmt.Errorf("recover journals: %w", err)
	}
	return nil
}

// setAside keeps the journal of a writer that was fenced out of the way: another
// host has taken the branch over, and what is in the journal did not get into the
// store before that. It is no part of the branch any more.
func (s *Store) setAside(r *wal.Recovered) {
	h, batches := r.Header(), r.Batches()
	var last time.Time
	if n := len(batches); n > 0 {
		last = batches[n-1].Time
	}
	path := r.SetAside()
	s.log.Error("another host took the branch over before this journal was stored: its barriers are not in the branch; the file is kept, delete it if nobody needs it",
		"path", path, "branch", h.Log, "segment", h.Segment, "epoch", h.Epoch, "barriers", len(batches), "last", last.UTC())
}

// brokenErr returns why the branch's journals could not be recovered, or nil.
func (s *Store) brokenErr(id BranchID) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.broken[id]
}

// blame returns err, which a branch could not be loaded for; or, if what is not there
// is a journal of an ancestor that could not be recovered, why that could not.
func (s *Store) blame(m *manifest, err error) error {
	if !errors.Is(err, ErrCorrupt) {
		return err
	}
	return s.blameJournals(m.Lineage, err)
}

// blameJournals is blame for something that is not there, of one of the logs.
func (s *Store) blameJournals(logs []BranchID, err error) error {
	for _, log := range append([]BranchID{""}, logs...) {
		if berr := s.brokenErr(log); berr != nil {
			return fmt.Errorf("a journal that it may need is not recovered: %w (%v)", berr, err)
		}
	}
	return err
}

// leaveBehind notes that a journal of the branch was left on disk: its log in
// the store is not whole.
func (s *Store) leaveBehind(id BranchID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.left[id]++
}

// pickUp recovers what was left behind of the branch's log when it was closed in
// a hurry, or failed, or could not be recovered before. It tells whether there
// was anything.
func (s *Store) pickUp(ctx context.Context, id BranchID) (bool, error) {
	// What does not tell whose it is may be of any log.
	logs := [...]BranchID{id, ""}
	var n [len(logs)]int
	s.mu.Lock()
	for i, log := range logs {
		n[i] = s.left[log]
	}
	s.mu.Unlock()
	if n == [len(logs)]int{} {
		return false, nil
	}
	if err := s.recover(ctx); err != nil {
		return true, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for i, log := range logs {
		if s.left[log] == n[i] { // else more was left behind meanwhile
			delete(s.left, log)
		}
	}
	return true, nil
}

// How long whoever waits for a journal leaves it at that, at first and at most, before
// what was left behind is picked up to make room.
const (
	roomWait    = 2 * time.Second
	roomWaitMax = time.Minute
)

// makeRoom picks up, until ctx ends, what branches have left behind that nobody may open
// again: somebody waits for a journal, and theirs take up the room. What could not be
// recovered when they were closed is tried again.
func (s *Store) makeRoom(ctx context.Context) {
	for wait := roomWait; pause(ctx, wait); wait = min(2*wait, roomWaitMax) {
		s.mu.Lock()
		left := maps.Clone(s.left)
		s.mu.Unlock()
		if len(left) == 0 || s.recover(ctx) != nil {
			continue
		}
		s.mu.Lock()
		maps.DeleteFunc(s.left, func(log BranchID, n int) bool { return left[log] == n })
		s.mu.Unlock()
	}
}

// pickUpAll is pickUp for every log that the branch can name. It fails when a
// journal of the branch itself could not be recovered, or one that no longer
// tells whose it is and the branch's last writer did not detach. Whether the
// branch needs what is missing of its ancestors, loading it tells.
func (s *Store) pickUpAll(ctx context.Context, m *manifest) error {
	attached := m.Epoch > 0 && !m.Clean
	for _, log := range m.Lineage {
		if _, err := s.pickUp(ctx, log); err != nil {
			return err
		}
	}
	if err := s.brokenErr(""); err != nil && attached {
		return fmt.Errorf("a journal that can not be read may be of this branch, which was not detached: %w", err)
	}
	return s.brokenErr(m.ID)
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
	if err != nil {
		// Also when there is no such branch: this may be the wrong store, and
		// the journal all that there is of somebody's data.
		return fmt.Errorf("journal %s: %w", r.Path(), err)
	}
	f, err := s.readFooter(ctx, log, h.Segment, true)
	if isNotExist(err) {
		if done, perr := s.recoverPacked(ctx, r); done || perr != nil {
			return perr
		}
	}
	switch {
	case err == nil && f.head.Nonce == r.Nonce():
		if have, stored := lastSeq(r.Batches()), lastSeq(f.batches); have > stored {
			if _, err := s.checkChain(ctx, m, h); errors.Is(err, ErrFenced) {
				// It was an orphan, of which a collection has left the shell.
				return fmt.Errorf("journal %s: %w", r.Path(), err)
			}
			return fmt.Errorf("journal %s goes up to barrier %d, and its segment in the store to %d: another process stored that of a copy: was the state directory copied? %w",
				r.Path(), have, stored, ErrCorrupt)
		}
		r.Release() // the crash came between the put and the release
		return nil
	case err == nil && f.head.Epoch < h.Epoch:
		// An orphan of a writer that was fenced; it is replaced.
	case err == nil:
		return fmt.Errorf("journal %s: segment %d of branch %s was written by %s in epoch %d, this journal is of epoch %d: %w",
			r.Path(), h.Segment, log, f.head.Host, f.head.Epoch, h.Epoch, ErrFenced)
	case !isNotExist(err):
		return err
	}
	ckpt, err := s.checkChain(ctx, m, h)
	if err != nil {
		return fmt.Errorf("journal %s: %w", r.Path(), err)
	}
	index, err := s.putJournal(ctx, r.Journal, h.Epoch, ckpt, func(error) {})
	if err != nil {
		return err
	}
	s.keepIndex(index)
	s.log.Info("journal recovered", "branch", log, "segment", h.Segment, "barriers", len(r.Batches()))
	r.Release()
	return nil
}

// lastSeq returns the number of the last barrier; 0 if there is none.
func lastSeq(batches []wal.Batch) wal.Seq {
	if len(batches) == 0 {
		return 0
	}
	return batches[len(batches)-1].Seq
}

// recoverPacked gives a journal back whose segment was stored, and has since become
// part of a pack. It tells whether that is so.
func (s *Store) recoverPacked(ctx context.Context, r *wal.Recovered) (bool, error) {
	h := r.Header()
	log := BranchID(h.Log)
	l, err := s.loadLayout(ctx, log)
	if err != nil {
		return false, err
	}
	ref := l.pack(h.Segment)
	if ref == nil {
		return false, nil
	}
	p, err := s.readPack(ctx, ref.id(log), false)
	if err != nil {
		return false, err
	}
	// One writer writes each number once in an epoch.
	if e := p.epoch(h.Segment); e != h.Epoch {
		return false, fmt.Errorf("journal %s: segment %d of branch %s was written in epoch %d, this journal is of epoch %d: %w",
			r.Path(), h.Segment, log, e, h.Epoch, ErrFenced)
	}
	r.Release()
	return true, nil
}

// segmentEnd is what the segment before says to the one after it.
type segmentEnd struct {
	last  wal.Seq       // its last barrier
	ckpt  wal.SegmentNo // the newest checkpoint that it knows
	epoch uint64
}

// endOf returns what a segment that is stored says to the next one.
func (s *Store) endOf(ctx context.Context, log BranchID, seg wal.SegmentNo) (e segmentEnd, err error) {
	f, err := s.readFooter(ctx, log, seg, true)
	if isNotExist(err) {
		l, lerr := s.loadLayout(ctx, log)
		if r := l.pack(seg); lerr == nil && r != nil && r.To == seg {
			p, err := s.readPack(ctx, r.id(log), false)
			if err != nil {
				return e, err
			}
			return segmentEnd{r.Last, r.LastRoot, p.epoch(seg)}, nil
		}
	}
	if err != nil {
		return e, err
	}
	e = segmentEnd{ckpt: f.head.Checkpoint, epoch: f.head.Epoch}
	if n := len(f.batches); n > 0 {
		e.last = f.batches[n-1].Seq
	}
	return e, nil
}

// checkChain tells whether a journal goes on where the segment before it ends, and
// returns the checkpoint that this one names. One that is of a later epoch was put by
// whoever took the branch over: those before this journal may have been set aside by an
// earlier life.
func (s *Store) checkChain(ctx context.Context, m *manifest, h wal.Header) (ckpt wal.SegmentNo, err error) {
	before := segmentEnd{last: m.Fork.Seq}
	if h.Segment > 1 {
		if before, err = s.endOf(ctx, m.ID, h.Segment-1); err != nil {
			return 0, fmt.Errorf("segment %d, which comes before it: %w", h.Segment-1, err)
		}
	}
	switch {
	case before.epoch > h.Epoch:
		return 0, fmt.Errorf("segment %d, which comes before it, is of epoch %d, this journal of epoch %d: %w",
			h.Segment-1, before.epoch, h.Epoch, ErrFenced)
	case h.FirstSeq != before.last+1:
		return 0, fmt.Errorf("it begins with barrier %d, the log ends with %d: barriers are missing: %w",
			h.FirstSeq, before.last, ErrCorrupt)
	}
	if h.Epoch == before.epoch || h.Segment == 1 {
		return before.ckpt, nil
	}
	// The writer began where the last one had detached, for else a fence would come
	// before its first segment: with the checkpoint that this one ended with, which was
	// put when its last segment had been.
	rec, err := s.readCheckpoint(ctx, m.ID, h.Segment-1)
	switch {
	case err == nil && rec.Seq == before.last:
		return rec.Segment, nil
	case err != nil && !isNotExist(err):
		return 0, err
	}
	return before.ckpt, nil
}
