package cow

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/bough-db/bough/wal"
)

// WriteAt writes p at offset off. A request of up to 1 MiB is in one batch:
// after a crash it is there whole or not at all. In write-through mode it is
// durable when WriteAt returns nil.
func (b *Branch) WriteAt(ctx context.Context, p []byte, off int64) error {
	defer b.store.took.write.since(time.Now())
	b.mu.Lock()
	if err := checkRange(off, int64(len(p)), b.size); err != nil {
		b.mu.Unlock()
		return err
	}
	b.counters.writes++
	b.counters.writeBytes += uint64(len(p))
	b.mu.Unlock()
	for len(p) > 0 {
		n := min(len(p), requestBlocks*BlockSize-int(off%BlockSize))
		if err := b.writePart(ctx, p[:n], off); err != nil {
			return err
		}
		p, off = p[n:], off+int64(n)
	}
	return nil
}

// writePart writes what fits in one batch.
func (b *Branch) writePart(ctx context.Context, p []byte, off int64) error {
	first := uint64(off / BlockSize)
	if r := b.recording.Load(); r != nil {
		r.wrote(first, uint64((off+int64(len(p))-1)/BlockSize))
	}
	head := int(off % BlockSize)
	tail := (head + len(p)) % BlockSize
	if head == 0 && tail == 0 {
		b.mu.Lock()
		if err := b.admit(); err != nil {
			b.mu.Unlock()
			return err
		}
		for i := 0; i < len(p); i += BlockSize {
			b.putBlock(first+uint64(i/BlockSize), p[i:i+BlockSize])
		}
		return b.wrote()
	}
	// Read what the request leaves of its first and last block.
	last := uint64((off + int64(len(p)) - 1) / BlockSize)
	edges := []uint64{first}
	if last != first {
		edges = append(edges, last)
	}
	whole := make([]byte, (last-first+1)*BlockSize)
	for {
		b.mu.Lock()
		seen := b.beginPartial(edges)
		b.mu.Unlock()
		err := b.readEdges(ctx, whole, first, edges)
		b.mu.Lock()
		if err == nil {
			// Before endPartial: while this waits, others change the blocks.
			err = b.admit()
		}
		changed := b.endPartial(edges, seen)
		if err != nil {
			b.mu.Unlock()
			return err
		}
		if !changed {
			break
		}
		b.mu.Unlock()
	}
	copy(whole[head:], p)
	for i := 0; i < len(whole); i += BlockSize {
		b.putBlock(first+uint64(i/BlockSize), whole[i:i+BlockSize])
	}
	return b.wrote()
}

func (b *Branch) readEdges(ctx context.Context, whole []byte, first uint64, edges []uint64) error {
	for _, e := range edges {
		at := (e - first) * BlockSize
		if err := b.readBlocks(ctx, whole[at:at+BlockSize], e); err != nil {
			return err
		}
	}
	return nil
}

// partialBlock is a block of which somebody is writing a part: the rest of it
// is being read.
type partialBlock struct {
	writers int
	changes uint64 // how often it has changed since the first of them began
}

// beginPartial notes that the blocks are about to be read for a write of a part
// of them, and returns how often each has changed so far. mu is held.
func (b *Branch) beginPartial(edges []uint64) (seen [2]uint64) {
	for i, e := range edges {
		pb := b.partial[e]
		pb.writers++
		b.partial[e] = pb
		seen[i] = pb.changes
	}
	return seen
}

// endPartial takes back what beginPartial noted and tells whether one of the
// blocks has changed since. mu is held.
func (b *Branch) endPartial(edges []uint64, seen [2]uint64) (changed bool) {
	for i, e := range edges {
		pb := b.partial[e]
		changed = changed || pb.changes != seen[i]
		if pb.writers--; pb.writers == 0 {
			delete(b.partial, e)
		} else {
			b.partial[e] = pb
		}
	}
	return changed
}

// putBlock copies one block into the open batch. mu is held.
func (b *Branch) putBlock(block uint64, p []byte) {
	if len(b.partial) > 0 {
		b.changed(block)
	}
	if b.marker != nil {
		b.open.log = b.marker.Look(block, p) || b.open.log
	}
	copy(b.open.block(block, b.store.journals), p)
}

// changed tells those who are writing a part of the block that what they read
// of it is old. mu is held.
func (b *Branch) changed(block uint64) {
	if pb, ok := b.partial[block]; ok {
		pb.changes++
		b.partial[block] = pb
	}
}

// admit waits until the open batch may grow. mu is held.
func (b *Branch) admit() error {
	for {
		switch {
		case b.failed != nil:
			return b.failed
		case b.closing:
			return ErrClosed
		case !b.open.mustClose():
			return nil
		}
		if err := b.waitBatch(b.open); err != nil {
			return err
		}
	}
}

// wrote ends a write: in write-through mode it waits for the batch, else it
// spills what has become large. mu is held, and released.
func (b *Branch) wrote() error {
	defer b.mu.Unlock()
	if b.through {
		bt := b.open
		if err := b.waitBatch(bt); err != nil {
			return err
		}
		return b.waitRemote(bt.segment)
	}
	if b.open.full >= spillBlocks && !b.leading {
		b.leading = true
		b.spill()
		b.releaseLead()
	}
	return nil
}

// Trim discards [off, off+n): it reads as zeros. The cost does not depend on n.
func (b *Branch) Trim(ctx context.Context, off, n int64) error {
	return b.discard(ctx, wal.KindTrim, off, n)
}

// WriteZeroes makes [off, off+n) read as zeros. The cost does not depend on n.
func (b *Branch) WriteZeroes(ctx context.Context, off, n int64) error {
	return b.discard(ctx, wal.KindZero, off, n)
}

func (b *Branch) discard(ctx context.Context, kind wal.Kind, off, n int64) error {
	b.mu.Lock()
	err := checkRange(off, n, b.size)
	b.counters.trims++
	b.mu.Unlock()
	if err != nil || n == 0 {
		return err
	}
	// Parts of blocks at the edges are written, as zeros.
	if head := off % BlockSize; head != 0 {
		c := min(BlockSize-head, n)
		if err := b.writePart(ctx, make([]byte, c), off); err != nil {
			return err
		}
		off, n = off+c, n-c
	}
	if tail := n % BlockSize; tail != 0 {
		if err := b.writePart(ctx, make([]byte, tail), off+n-tail); err != nil {
			return err
		}
		n -= tail
	}
	if n == 0 {
		return nil
	}
	b.mu.Lock()
	if err := b.admit(); err != nil {
		b.mu.Unlock()
		return err
	}
	first, count := uint64(off/BlockSize), uint64(n/BlockSize)
	for blk := range b.partial {
		if blk >= first && blk < first+count {
			b.changed(blk)
		}
	}
	b.open.discard(kind, first, count, b.store.journals)
	return b.wrote()
}

// Flush returns nil only when every write that completed before it was called
// is durable. Concurrent flushes share one sync of the journal.
func (b *Branch) Flush(context.Context) error {
	defer b.store.took.flush.since(time.Now())
	b.mu.Lock()
	defer b.mu.Unlock()
	b.counters.flushes++
	return b.flush()
}

// flush is Flush with mu held. A wait for the journal is not given up when the
// caller goes away: it may be the caller's turn to write for all others.
func (b *Branch) flush() error {
	bt := b.open
	if bt.empty() {
		bt = b.committing
	}
	if b.failed != nil {
		return b.failed
	}
	if bt == nil {
		return b.waitRemote(b.tail)
	}
	if err := b.waitBatch(bt); err != nil {
		return err
	}
	return b.waitRemote(bt.segment)
}

// waitBatch waits until the batch is durable and in the tree, committing it if
// nobody else does. mu is held.
func (b *Branch) waitBatch(bt *batch) error {
	bt.waiters++
	defer func() { bt.waiters-- }()
	for !bt.finished {
		if b.failed != nil {
			bt.wakeOne() // the turn may have been meant for somebody who also waits
			return b.failed
		}
		may, early := b.mayCommit()
		if bt == b.open && !b.leading && may {
			b.leading = true
			err := b.commit()
			b.releaseLead()
			if err != nil {
				return err
			}
			continue
		}
		if early > 0 {
			b.armPace(early)
		}
		var progress, gone <-chan struct{}
		if b.durability == DurabilityRemote { // its turn may depend on the store
			progress, gone = b.progress, b.ctx.Done()
		}
		b.mu.Unlock()
		select {
		case <-bt.done:
		case <-bt.turn:
		case <-progress:
		case <-gone:
			b.mu.Lock()
			if b.failed != nil {
				return b.failed
			}
			return fmt.Errorf("write to branch %s: %w", b.id, ErrClosed)
		}
		b.mu.Lock()
	}
	return bt.err
}

// lead waits until this goroutine owns the journal. mu is held.
func (b *Branch) lead() {
	for b.leading {
		b.leadWanted++
		b.leadFree.Wait()
		b.leadWanted--
	}
	b.leading = true
}

// releaseLead hands the journal on: to one who waits for the open batch, and to
// those in lead. mu is held.
func (b *Branch) releaseLead() {
	b.leading = false
	if b.open.waiters > 0 {
		b.open.wakeOne()
	}
	if b.leadWanted > 0 {
		b.leadFree.Broadcast()
	}
}

// commit makes the open batch durable and folds it into the tree. The caller
// leads; mu is held, but for the writing. An error leaves the batch open if the
// branch has not failed: there is no journal to be had.
func (b *Branch) commit() error {
	if err := b.ensureJournal(false); err != nil {
		return err
	}
	bt := b.open
	if bt.log {
		b.lastLog = time.Now()
	}
	b.open, b.committing = newBatch(), bt
	ls, at := b.journal, b.nextBarrier()
	b.mu.Unlock()
	err := ls.journal.Write(bt.recs, wal.Meta{Seq: at.Seq, Time: at.Time, LSN: at.LSN, Line: at.Line, Commit: true})
	if err == nil {
		err = b.fold(bt, ls, at)
	}
	b.mu.Lock()
	bt.finished = true
	if err != nil {
		// The batch stays in sight of readers: whether it is durable, only a
		// recovery can tell.
		bt.err = b.fail(err)
		close(bt.done)
		return bt.err
	}
	b.nextSeq++
	b.tail, bt.segment = ls.number, ls.number
	b.counters.batches++
	ls.bytes.Add(int64(bt.slots) * BlockSize)
	ls.entries += bt.entries
	b.committing = nil
	for _, r := range bt.recs {
		r.Free()
	}
	close(bt.done)
	if ls.since.IsZero() {
		ls.since = time.Now()
		if b.durability != DurabilityRemote {
			b.armSeal(ls)
		}
	}
	if b.durability == DurabilityRemote {
		b.seal() // nothing has spilled into it since: the caller leads
	}
	return nil
}

// spill writes the batch's full records to the journal, unsynced, and frees
// their memory. The caller leads; mu is held, but for the writing.
func (b *Branch) spill() {
	if err := b.ensureJournal(true); err != nil {
		return // the commit will meet it again, and say so
	}
	bt, ls := b.open, b.journal
	recs := bt.recs[:len(bt.recs)-1]
	if len(recs) == 0 {
		return
	}
	recs = append([]*wal.Record(nil), recs...)
	// A block that is written again meanwhile takes a new place.
	bt.frozen = recs
	seq := b.nextSeq
	b.mu.Unlock()
	err := ls.journal.Write(recs, wal.Meta{Seq: seq, Time: b.barrierTime()})
	b.mu.Lock()
	bt.frozen = nil
	if err != nil {
		b.fail(err)
		return
	}
	bt.journal = ls
	bt.moved(recs, b.log, ls.number)
}

// nextBarrier describes the barrier that the open batch becomes. mu is held, and the
// caller leads.
func (b *Branch) nextBarrier() moment {
	if b.marker != nil {
		if m := b.marker.Mark(); b.mark.Before(m) {
			b.mark = m
		}
	}
	at := point{Log: b.id, Segment: b.journal.number, Seq: b.nextSeq}
	return moment{point: at, Time: b.barrierTime(), Mark: b.mark}
}

// barrierTime is the time of the next barrier: now, but never before that of
// the last one, whoever wrote that. The caller leads.
func (b *Branch) barrierTime() time.Time {
	if now := b.store.wallTime(); now.After(b.lastTime) {
		b.lastTime = now
	}
	return b.lastTime
}

// fold puts the batch's changes into the tree, whose state then is the barrier
// at. Nobody sees a part of them: readers find the batch itself first, and
// whoever copies the tree waits for foldMu.
func (b *Branch) fold(bt *batch, ls *liveSegment, at moment) error {
	b.foldMu.Lock()
	defer b.foldMu.Unlock()
	f := folding{b: b, pages: pinned{cache: b.store.pages, lineage: b.lineage}}
	if err := f.apply(bt.spilled, ls.number); err != nil {
		return err
	}
	for _, r := range bt.recs {
		if err := f.apply(slices.Collect(r.Entries()), ls.number); err != nil {
			return err
		}
	}
	b.treeMu.Lock()
	b.head = at
	b.treeMu.Unlock()
	return nil
}

// folding applies entries to a branch's tree, loading the pages it misses.
type folding struct {
	b     *Branch
	pages pinned
}

func (f *folding) apply(entries []wal.Entry, seg wal.SegmentNo) error {
	i, done := 0, uint64(0)
	for i < len(entries) {
		var want need
		f.b.treeMu.Lock()
		for i < len(entries) && want.isZero() {
			e := &entries[i]
			var at addr
			if e.Kind == wal.KindData {
				at = makeAddr(f.b.log, seg, e.Slot) + addr(done)
			}
			var n uint64
			n, want = f.b.tree.set(e.Block+done, e.Count-done, at, &f.pages)
			if done += n; done == e.Count {
				i, done = i+1, 0
			}
		}
		f.b.treeMu.Unlock()
		if !want.isZero() {
			if err := f.load(want); err != nil {
				return err
			}
		}
	}
	return nil
}

// foldReads is how often a fold reads a page that does not check out, twice each
// time, before it believes that the page is damaged.
const foldReads = 5

// load loads a page that a fold needs. The batch is durable already: a store that
// does not answer, or answers wrongly for a moment, must not cost the branch its
// life. So it is tried for a while.
func (f *folding) load(want need) error {
	s := f.b.store
	ctx, cancel := f.b.patience()
	defer cancel()
	reads := 0
	for wait := retryFirst; ; wait = min(2*wait, retryMax) {
		err := s.loadPage(ctx, want, &f.pages)
		if reads++; err == nil || errors.Is(err, ErrCorrupt) && reads >= foldReads {
			return err
		}
		s.log.Warn("tree page not read yet: will try again", "branch", f.b.id, "err", err)
		if !pause(ctx, wait) {
			return err
		}
	}
}
