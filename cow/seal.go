package cow

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/bough-db/bough/objstore"
	"github.com/bough-db/bough/wal"
)

// liveSegment is a segment that is still a journal file: being filled, or
// sealed and on its way to the store.
type liveSegment struct {
	log     BranchID
	number  wal.SegmentNo
	journal *wal.Journal
	since   time.Time    // when its first barrier was acknowledged
	bytes   atomic.Int64 // of its batches
	entries int          // of its batches, at most; the leader's
	lastSeq wal.Seq      // once sealed
	stored  bool         // guarded by the branch's mu
	index   *blockIndex  // once it is stored; nil if that was not worth it
	cut     *cut         // the tree at its end, if a checkpoint is due there
}

// cut is a tree of which a checkpoint is to be written.
type cut struct {
	tree tree
	at   moment // the barrier that it shows, the last one of its segment
}

// segmentEntriesMax is how many entries end a segment before its slots do, so that
// a journal of nothing but short discards has a footer of a bounded size.
const segmentEntriesMax = 1 << 16

// ensureJournal sees to it that the open batch fits in the journal, sealing and
// replacing the one that is too full. It waits while the journals' budget is
// used up: that is how a slow store slows writers down. The caller leads; mu is
// held, but for the waiting.
func (b *Branch) ensureJournal(spill bool) error {
	for {
		if b.failed != nil {
			return b.failed
		}
		bt := b.open
		if bt.journal != nil {
			return nil // room was left when its first part was spilled
		}
		want := bt.slots + 1
		if spill {
			want = batchSlotsSpan
		}
		if b.journal != nil {
			if b.journal.journal.Room() >= want && b.journal.entries < segmentEntriesMax {
				return nil
			}
			b.seal()
		}
		number := b.nextSeg
		b.mu.Unlock()
		j, err := b.createJournal(number)
		b.mu.Lock()
		if err == nil && b.failed != nil {
			j.Release()
		}
		if b.failed != nil {
			return b.failed // perhaps what ended the wait
		}
		if err != nil {
			return err
		}
		ls := &liveSegment{log: b.id, number: number, journal: j}
		b.nextSeg++
		b.journal = ls
		b.store.addLive(ls)
	}
}

// createJournal gets a journal file for the segment. On a full disk it waits a
// while for space before it gives up; nothing is lost, and the next try may
// succeed.
func (b *Branch) createJournal(number wal.SegmentNo) (*wal.Journal, error) {
	h := wal.Header{Log: string(b.id), Segment: number, Epoch: b.epoch}
	ctx, cancel := b.patience()
	defer cancel()
	defer b.setWaiting("")
	b.setWaiting("for a journal file: the journals have used up their bytes, and the store has not taken them yet")
	for told := false; ; told = true {
		j, err := b.takeJournal(h)
		if err == nil {
			// A file of another size could not take every batch, or has slots
			// that no address can name.
			if slots := j.Room() + 1; slots <= batchSlotsSpan || slots > slotMax+1 {
				j.Release()
				return nil, fmt.Errorf("journal file of %d bytes: from %d to %d are needed",
					slots*BlockSize, (batchSlotsSpan+1)*BlockSize, (slotMax+1)*BlockSize)
			}
			return j, nil
		}
		if !errors.Is(err, wal.ErrFull) {
			return nil, err
		}
		if !told {
			b.store.log.Warn("no room for a journal file: writes wait", "branch", b.id, "err", err)
			b.setWaiting("for space on the journals' disk: " + err.Error())
		}
		if !pause(ctx, fullPoll) {
			return nil, fmt.Errorf("write to branch %s: %w", b.id, err)
		}
	}
}

// takeJournal waits for a journal to be free.
func (b *Branch) takeJournal(h wal.Header) (*wal.Journal, error) {
	ctx, cancel := context.WithCancel(b.usable)
	var room sync.WaitGroup
	room.Go(func() { b.store.makeRoom(ctx) })
	defer room.Wait()
	defer cancel()
	return b.store.journals.Create(b.usable, h)
}

// patience returns a context for waiting as long as Options.FullWait allows, and the
// branch has not failed.
func (b *Branch) patience() (context.Context, context.CancelFunc) {
	if d := b.store.opts.FullWait; d > 0 {
		return context.WithTimeout(b.usable, d)
	}
	return context.WithCancel(b.usable)
}

// setWaiting notes what keeps the branch's writers waiting, for its status.
func (b *Branch) setWaiting(what string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.waiting = what
}

// fullPoll is how often a full disk is tried again: nobody tells when space
// comes back.
const fullPoll = 250 * time.Millisecond

// pause waits for d and returns true, or returns false when ctx ends first.
func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// armSeal has the journal sealed a while after its first barrier. mu is held.
func (b *Branch) armSeal(ls *liveSegment) {
	b.background.Add(1)
	b.sealTimer = time.AfterFunc(b.store.opts.SealAfter, func() {
		defer b.background.Done()
		b.mu.Lock()
		defer b.mu.Unlock()
		b.lead()
		defer b.releaseLead()
		if b.journal != ls || b.failed != nil {
			return
		}
		if b.sealNow() != nil && b.failed == nil && !b.closing {
			b.armSeal(ls) // there was no room for a batch that has spilled into it
		}
	})
}

// seal ends the journal and sends it on its way to the store. No batch is half
// in it. The caller leads; mu is held.
func (b *Branch) seal() {
	ls := b.journal
	b.journal = nil
	if b.sealTimer != nil && b.sealTimer.Stop() {
		b.background.Done()
	}
	b.sealTimer = nil
	ls.lastSeq = b.nextSeq - 1
	b.foldMu.Lock()
	b.treeMu.Lock()
	if ls.number >= b.lastCkpt+wal.SegmentNo(b.store.opts.CheckpointSegments) ||
		b.tree.unsaved >= b.store.opts.DirtyPages {
		b.cutCheckpoint(ls)
	}
	b.treeMu.Unlock()
	b.foldMu.Unlock()
	b.queue = append(b.queue, ls)
	b.lastSeal = time.Now()
	b.background.Add(1)
	go func() {
		defer b.background.Done()
		b.upload(ls)
	}()
}

// cutCheckpoint takes the tree as it is, at the end of the segment. foldMu and
// treeMu are held.
func (b *Branch) cutCheckpoint(ls *liveSegment) {
	ls.cut = &cut{tree: b.tree.fork(b.log), at: b.head}
	b.tree.unsaved = 0
	b.lastCkpt = ls.number
}

// upload stores a sealed segment, counts it in order, and gives the journal files of
// those that count back. It goes on trying until the branch is closed in a hurry.
//
// A segment that is stored while one before it is not may be no part of the log: if
// another host takes the branch over it is replaced. Its journal stays until it
// counts, so that this branch goes on reading what it wrote.
func (b *Branch) upload(ls *liveSegment) {
	b.mu.Lock()
	ckpt := b.savedCkpt
	b.mu.Unlock()
	began := time.Now()
	index, err := b.store.putJournal(b.ctx, ls.journal, b.epoch, ckpt, b.setTrouble)
	if err != nil {
		b.mu.Lock()
		defer b.mu.Unlock()
		if b.ctx.Err() == nil {
			b.fail(err)
		}
		return
	}
	b.mu.Lock()
	ls.stored, ls.index = true, index
	b.putTook = time.Since(began)
	b.store.took.upload.since(began)
	n := 0
	for n < len(b.queue) && b.queue[n].stored {
		b.stored = b.queue[n].number
		n++
	}
	counted := slices.Clone(b.queue[:n])
	b.queue = slices.Delete(b.queue, 0, n)
	b.progressed()
	b.mu.Unlock()
	for _, ls := range counted {
		b.store.keepIndex(ls.index)
		b.store.dropLive(ls)
		ls.journal.Release()
	}
	for _, ls := range counted {
		if ls.cut == nil {
			continue
		}
		if err := b.checkpoint(b.ctx, ls.cut); err != nil && b.ctx.Err() == nil {
			// The log has everything: a later checkpoint will do.
			b.store.log.Warn("checkpoint not written", "branch", b.id, "segment", ls.number, "err", err)
		}
	}
}

// setTrouble notes why a segment is not stored yet; nil when one was.
func (b *Branch) setTrouble(err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if err == nil {
		b.trouble = storeTrouble{}
		return
	}
	if b.trouble.text == "" {
		b.trouble.since = b.store.now()
	}
	b.trouble.text = err.Error()
}

// encodedCopyMax is how long a packed segment may be to be put from memory of its
// own, so that its encoder serves others meanwhile: the segments of durability
// remote are that small, and many at a time.
const encodedCopyMax = 256 << 10

// putJournal encodes a sealed journal and puts it into the store, with retries
// until ctx ends. It returns ErrFenced when another writer has the number. note is
// told of each failure, and of success with nil; ckpt is the log's newest checkpoint.
func (s *Store) putJournal(ctx context.Context, j *wal.Journal, epoch uint64, ckpt wal.SegmentNo, note func(error)) (*blockIndex, error) {
	h := j.Header()
	head := segmentHead{
		Log: BranchID(h.Log), Number: h.Segment, Epoch: epoch, Nonce: j.Nonce(),
		Host: s.opts.Host, Created: h.Created.UnixNano(), Checkpoint: ckpt,
	}
	key := segmentKey(head.Log, head.Number)
	enc, err := s.encoders.take(ctx)
	if err != nil {
		return nil, fmt.Errorf("put %s: %w", key, err)
	}
	giveBack := sync.OnceFunc(func() { s.encoders.give(enc) })
	defer giveBack()
	data, err := enc.encode(head, j.Batches(), j, j.End())
	if errors.Is(err, wal.ErrCorrupt) {
		err = fmt.Errorf("%w: %w", err, ErrCorrupt)
	}
	if err != nil {
		return nil, fmt.Errorf("pack segment %s: %w", key, err)
	}
	if len(data) <= encodedCopyMax {
		data = slices.Clone(data)
		giveBack()
	}
	began := time.Now()
	told := time.Time{}
	for wait := retryFirst; ; wait = min(2*wait, retryMax) {
		err := s.putSegment(ctx, key, head, data, head.Epoch)
		if err == nil || errors.Is(err, ErrFenced) || errors.Is(err, ErrCorrupt) {
			if err == nil && !told.IsZero() {
				s.log.Info("segment stored after all", "key", key, "took", time.Since(began).Round(time.Millisecond))
			}
			note(nil)
			if err != nil {
				return nil, err
			}
			return s.fillCache(head, data), nil
		}
		note(err)
		if told.IsZero() || time.Since(told) >= tellEvery {
			told = time.Now()
			s.log.Warn("segment not stored yet: will try again until it is", "key", key, "err", err)
		}
		if !pause(ctx, wait) {
			return nil, fmt.Errorf("put %s: %w", key, err)
		}
	}
}

// tellEvery is how often the log repeats that a segment is not stored.
const tellEvery = time.Minute

// How long to wait before a store that failed is tried again.
const (
	retryFirst = 100 * time.Millisecond
	retryMax   = 5 * time.Second
)

// putSegment puts a segment once. An answer that leaves open what happened is
// settled by reading the object back. A segment in its place of an epoch before
// orphans is one that a fenced writer put after the end of the log: it is replaced.
func (s *Store) putSegment(ctx context.Context, key string, head segmentHead, data []byte, orphans uint64) error {
	_, err := s.objects.Put(ctx, key, data, objstore.Condition{IfAbsent: true})
	if err == nil {
		return nil
	}
	f, rerr := s.readFooter(ctx, head.Log, head.Number, false)
	switch {
	case rerr == nil && f.head.Nonce == head.Nonce:
		return s.checkStored(ctx, key, data)
	case rerr == nil && f.head.Epoch < orphans:
		return s.replaceOrphan(ctx, key, head, data, orphans)
	case rerr == nil:
		return fmt.Errorf("segment %s was written by %s in epoch %d: %w", key, f.head.Host, f.head.Epoch, ErrFenced)
	case errors.Is(rerr, objstore.ErrNotExist):
		return err
	case errors.Is(rerr, ErrCorrupt):
		return rerr
	}
	return fmt.Errorf("%w, and then: %w", err, rerr)
}

// checkStored returns nil if the object, of the same journal as data, has the same
// barriers. If not it is of another process, which has a copy of that journal: what it
// had of the journal then is in the store, and the rest has no place any more.
func (s *Store) checkStored(ctx context.Context, key string, data []byte) error {
	ours, err := s.decodeSegment(data)
	if err != nil {
		return fmt.Errorf("segment %s as it was to be stored: %w", key, err)
	}
	for reads := 1; ; reads++ {
		same, err := s.storedIs(ctx, key, ours)
		switch {
		case err == nil && same:
			return nil
		case err == nil:
			return fmt.Errorf("segment %s was written by another process with the same journal: was the state directory copied? %w", key, ErrFenced)
		case !errors.Is(err, ErrCorrupt) || reads >= foldReads:
			return fmt.Errorf("compare %s with what was to be stored: %w", key, err)
		}
	}
}

// storedIs reads the object and tells whether it has the barriers of a segment. The
// bytes may differ: those of an earlier life, or of another release, name an older
// checkpoint, or are compressed otherwise.
func (s *Store) storedIs(ctx context.Context, key string, ours *segmentImage) (bool, error) {
	data, _, err := s.objects.Get(ctx, key)
	if err != nil {
		return false, err
	}
	stored, err := s.decodeSegment(data)
	if err != nil {
		return false, err
	}
	return stored.same(s.zr, ours)
}

// replaceOrphan puts a segment in place of one of an epoch before orphans.
func (s *Store) replaceOrphan(ctx context.Context, key string, head segmentHead, data []byte, orphans uint64) error {
	_, info, err := s.objects.ReadAt(ctx, key, make([]byte, 1), -1)
	if err != nil {
		return err
	}
	// The tag first: what the footer says is then true of what is replaced.
	f, err := s.readFooter(ctx, head.Log, head.Number, false)
	if err != nil {
		return err
	}
	if f.head.Nonce == head.Nonce { // an earlier attempt, which came late
		return s.checkStored(ctx, key, data)
	}
	if f.head.Epoch >= orphans {
		return fmt.Errorf("segment %s was written by %s in epoch %d: %w", key, f.head.Host, f.head.Epoch, ErrFenced)
	}
	s.log.Warn("segment of a writer that was fenced is replaced", "key", key, "epoch", f.head.Epoch, "host", f.head.Host)
	_, err = s.objects.Put(ctx, key, data, objstore.Condition{IfMatch: info.Tag})
	return err // whatever it is, the next try finds out what happened
}
