package cow

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"maps"
	"slices"

	"github.com/bough-db/bough/wal"
	"golang.org/x/sync/errgroup"
)

// loaded is a tree read from the store, and the barrier that it shows.
type loaded struct {
	tree    tree
	lineage []BranchID
	at      moment
	ckpt    wal.SegmentNo // newest checkpoint of the log that is not after at; 0 if none
	epoch   uint64        // of the last segment
	wrote   uint64        // the epoch of whoever wrote the checkpoint
	vetted  bool          // it is known that the checkpoint is not a stray one
	beyond  wal.SegmentNo // the first segment after the gap that ends the log; 0: none
	live    bool          // what this process has as journals is part of the log
}

// gapRule says what a segment after the end of a log means.
type gapRule int

const (
	// gapsAreLoss: this host wrote the log and has recovered its journals, so what
	// is missing in the middle has been lost.
	gapsAreLoss gapRule = iota
	// gapsHappen: another host writes the log, or wrote it when it died, and stores
	// several segments at a time. Those after a gap are not part of the log yet.
	gapsHappen
)

// logEnd stands for the last segment that a log has.
const logEnd = wal.SegmentNo(segmentMax)

// footersAhead is how many footers are read at the same time.
const footersAhead = 32

// load returns the tree of a branch as it was at barrier seq in segment seg; at
// the end of its log for logEnd, where gaps says how to find it. Its cost is one
// checkpoint and what describes the segments since, whatever the device's size. A
// barrier that is not kept any more is ErrNotKept.
func (s *Store) load(ctx context.Context, m *manifest, seg wal.SegmentNo, seq wal.Seq, gaps gapRule) (*loaded, error) {
	at, err := s.currentLayout(ctx, m)
	if err != nil {
		return nil, err
	}
	return s.located(ctx, at, func(at *layout) (*loaded, error) {
		if seg == logEnd {
			return s.loadEnd(ctx, m, at, gaps)
		}
		return s.beginWith(ctx, at.log, func(out discounted) (beginning, error) {
			return s.findCheckpoint(ctx, at, seg, seq, out)
		}, func(b beginning) (*loaded, error) { return s.loadSince(ctx, m, at, b, seg, seq) })
	})
}

// located calls load with the layout of a log, and again when it turns out that a
// collection has moved the log since that layout was read: it then looks like one
// with a gap, or like a shorter one; and again when what is missing was left behind as a
// journal just then.
func (s *Store) located(ctx context.Context, at *layout, load func(*layout) (*loaded, error)) (*loaded, error) {
	for i := 0; ; i++ {
		l, err := load(at)
		doubtful := err == nil && l.beyond > 0 || isNotExist(err) || errors.Is(err, ErrCorrupt)
		if !doubtful || i == relocations {
			return l, err
		}
		if err != nil {
			left, perr := s.pickUp(ctx, at.log)
			if perr != nil {
				return nil, fmt.Errorf("%w: %w", err, perr)
			}
			if left {
				continue
			}
		}
		now, lerr := s.loadLayout(ctx, at.log)
		if lerr != nil || now.same(at) {
			return l, err
		}
		at = now
	}
}

// loadEnd loads the end of a log that is as the layout says.
func (s *Store) loadEnd(ctx context.Context, m *manifest, at *layout, gaps gapRule) (*loaded, error) {
	return s.beginWith(ctx, at.log, func(out discounted) (beginning, error) {
		return s.newestCheckpoint(ctx, at, out)
	}, func(b beginning) (*loaded, error) { return s.loadEndSince(ctx, m, at, b, gaps) })
}

// loadEndSince is loadEnd, given the newest checkpoint, or nil if there is none.
func (s *Store) loadEndSince(ctx context.Context, m *manifest, at *layout, b beginning, gaps gapRule) (*loaded, error) {
	l := &loaded{lineage: m.Lineage, at: m.begin(), live: s.writes(m)}
	if b.rec != nil {
		l.beginAt(s, m, b)
	}
	pieces, beyond, err := s.listLog(ctx, at, l.at.Segment, l.live)
	if err != nil {
		return nil, err
	}
	if b.rec == nil {
		if err := s.loadFork(ctx, m, l); err != nil {
			return nil, err
		}
	}
	if err := s.replay(ctx, m, l, pieces, 0); err != nil {
		return nil, err
	}
	if l.beyond = beyond; beyond > 0 && gaps == gapsAreLoss {
		if err := s.checkBeyond(ctx, m.ID, l, beyond); err != nil {
			return nil, err
		}
	}
	if l.at.Seq < m.Head.Seq || l.at.Segment < m.Head.Segment {
		return nil, fmt.Errorf("log of %s ends at barrier %d in segment %d, but the branch was detached at %d in %s: %w",
			m.ID, l.at.Seq, l.at.Segment, m.Head.Seq, segmentKey(m.ID, m.Head.Segment), ErrCorrupt)
	}
	return l, s.complete(ctx, at, l)
}

// loadSince returns the tree of a branch as it was at barrier seq in segment seg,
// given the newest checkpoint before that, or nil if there is none.
func (s *Store) loadSince(ctx context.Context, m *manifest, at *layout, b beginning, seg wal.SegmentNo, seq wal.Seq) (*loaded, error) {
	l := &loaded{lineage: m.Lineage, at: m.begin(), live: s.writes(m)}
	if b.rec != nil {
		l.beginAt(s, m, b)
	} else if err := s.loadFork(ctx, m, l); err != nil {
		return nil, err
	}
	// They have to be there: a list says no more than the read of each.
	var pieces []piece
	for n := l.at.Segment + 1; n <= seg; n++ {
		p := at.piece(n)
		pieces = append(pieces, p)
		n = p.to
	}
	if err := s.replay(ctx, m, l, pieces, seq); err != nil {
		return nil, err
	}
	if l.at.Seq != seq {
		return nil, fmt.Errorf("log of %s ends at barrier %d, before %d: %w", m.ID, l.at.Seq, seq, ErrCorrupt)
	}
	return l, s.complete(ctx, at, l)
}

// complete ends a load: the barrier has to be one that can be opened.
func (s *Store) complete(ctx context.Context, at *layout, l *loaded) error {
	if err := s.checkKept(ctx, at, l.at.Seq); err != nil {
		return err
	}
	return s.fillIn(ctx, l)
}

// fillIn completes what a checkpoint did not say of the barrier that it shows:
// older ones have neither time nor mark.
func (s *Store) fillIn(ctx context.Context, l *loaded) error {
	if !l.at.Time.IsZero() {
		return nil
	}
	r, err := s.readSegment(ctx, l.at.Log, l.at.Segment, l.live)
	if n := len(r.batches); err == nil && n > 0 {
		l.at = momentOf(l.at.Log, l.at.Segment, &r.batches[n-1])
	}
	return err
}

// beginAt starts a tree from a checkpoint of the branch's own log.
func (l *loaded) beginAt(s *Store, m *manifest, b beginning) {
	rec := b.rec
	l.tree = newTree(&s.gens, m.own())
	l.tree.root.at = pageAddr{ckpt: rec.Root.Checkpoint, off: rec.Root.Offset, n: rec.Root.Bytes}
	l.at = moment{point: point{Log: m.ID, Segment: rec.Segment, Seq: rec.Seq}, Time: rec.Time, Mark: rec.Mark}
	l.ckpt, l.epoch, l.wrote, l.vetted = rec.Segment, rec.Epoch, rec.Epoch, b.packed
}

// loadDetached is load for a branch whose manifest says that nobody has it
// attached, and so where its log ends: nothing needs to be looked for.
func (s *Store) loadDetached(ctx context.Context, m *manifest) (*loaded, error) {
	l := &loaded{lineage: m.Lineage, at: m.begin()}
	if m.Epoch == 0 || m.Head.Segment == 0 { // it has no log
		return l, s.loadFork(ctx, m, l)
	}
	if m.Head.Segment <= m.packedUpTo() || slices.ContainsFunc(m.Claims, func(c packClaim) bool { return c.Pending && c.To >= m.Head.Segment }) {
		return s.load(ctx, m, m.Head.Segment, m.Head.Seq, gapsAreLoss)
	}
	rec, err := s.openCheckpoint(ctx, m.ID, m.Head.Segment)
	if isNotExist(err) {
		return s.load(ctx, m, logEnd, 0, gapsAreLoss)
	}
	if err != nil {
		return nil, err
	}
	l.beginAt(s, m, beginning{rec, true}) // the manifest vouches for it
	if l.at.Seq != m.Head.Seq {
		return nil, fmt.Errorf("checkpoint %s is of barrier %d, but the branch was detached at %d: %w",
			checkpointKey(m.ID, rec.Segment), l.at.Seq, m.Head.Seq, ErrCorrupt)
	}
	return l, s.fillIn(ctx, l)
}

// loading is a tree that is being loaded while something else is done.
type loading struct {
	cancel context.CancelFunc
	done   chan struct{} // closed when the rest is set
	l      *loaded
	err    error
}

// loadAhead begins to load a branch that is detached as m says. Whoever calls it
// has to call stop.
func (s *Store) loadAhead(ctx context.Context, m *manifest) *loading {
	ctx, cancel := context.WithCancel(ctx)
	a := &loading{cancel: cancel, done: make(chan struct{})}
	go func() {
		defer close(a.done)
		a.l, a.err = s.loadDetached(ctx, m)
	}()
	return a
}

func (a *loading) wait() (*loaded, error) {
	<-a.done
	return a.l, a.err
}

// stop ends the loading, if there is any, and waits for that.
func (a *loading) stop() {
	if a != nil {
		a.cancel()
		<-a.done
	}
}

// loadFork starts a tree from where the branch began.
func (s *Store) loadFork(ctx context.Context, m *manifest, l *loaded) error {
	if m.Fork.Log == "" {
		l.tree = newTree(&s.gens, m.own())
		return nil
	}
	var pm *manifest
	var found beginning
	guess := s.knownLayout(m.Fork.Log)
	if guess == nil {
		guess = &layout{log: m.Fork.Log}
	}
	g, gctx := errgroup.WithContext(ctx)
	g.Go(func() (err error) {
		pm, _, err = s.readManifest(gctx, m.Fork.Log)
		return err
	})
	g.Go(func() (err error) {
		found, err = s.findCheckpoint(gctx, guess, m.Fork.Segment, m.Fork.Seq, nil)
		if isNotExist(err) {
			guess, err = nil, nil // it has moved
		}
		return err
	})
	if err := g.Wait(); err != nil {
		return fmt.Errorf("fork point of %s: %w", m.ID, err)
	}
	at, err := s.currentLayout(ctx, pm)
	if err != nil {
		return fmt.Errorf("fork point of %s: %w", m.ID, err)
	}
	p, err := s.located(ctx, at, func(at *layout) (l *loaded, err error) {
		return s.beginWith(ctx, at.log, func(out discounted) (b beginning, err error) {
			if guess == nil || !at.same(guess) {
				return s.findCheckpoint(ctx, at, m.Fork.Segment, m.Fork.Seq, out)
			}
			guess = nil
			if rec := found.rec; rec != nil && pm.Clean && rec.Segment == pm.Head.Segment {
				// It was there before its branch was said to be detached, and so before the
				// manifest was read: what that says of it holds.
				found.packed, err = s.countsIn(ctx, pm, rec.Segment)
			}
			return found, err
		}, func(b beginning) (*loaded, error) {
			return s.loadSince(ctx, pm, at, b, m.Fork.Segment, m.Fork.Seq)
		})
	})
	if err != nil {
		return fmt.Errorf("fork point of %s: %w", m.ID, err)
	}
	l.tree = p.tree.fork(m.own())
	if m.Fork.Time.IsZero() { // an older record
		l.at.Time, l.at.Mark = p.at.Time, p.at.Mark
	}
	return nil
}

// checkBeyond looks at the first segment after the gap that ends the log. One of an
// earlier epoch is an orphan: its writer was fenced while it stored several at a
// time. So will be one of another host, which stores several at a time and perhaps
// lives on: this host has raised the epoch, and then failed to end that one's log.
// Any other says that the gap was a segment, or a journal, that is lost: to go on
// from there would lose, silently, what was acknowledged.
func (s *Store) checkBeyond(ctx context.Context, id BranchID, l *loaded, beyond wal.SegmentNo) error {
	f, err := s.readFooter(ctx, id, beyond, false)
	if err != nil {
		return fmt.Errorf("after the end of the log, segment %d: %w", l.at.Segment, err)
	}
	if f.head.Epoch < l.epoch || f.head.Host != s.opts.Host {
		return nil
	}
	return fmt.Errorf("segment %s is neither in the store nor a journal here, but %s is: bring it back, or delete those after it to go on without: %w",
		segmentKey(id, l.at.Segment+1), segmentKey(id, beyond), ErrCorrupt)
}

// replay applies the batches of the pieces up to barrier seq (0: all) to the tree.
func (s *Store) replay(ctx context.Context, m *manifest, l *loaded, pieces []piece, seq wal.Seq) error {
	pages := pinned{cache: s.pages, lineage: m.Lineage}
	for len(pieces) > 0 {
		part := pieces[:min(footersAhead, len(pieces))]
		pieces = pieces[len(part):]
		read := make([]pieceBatches, len(part))
		g, gctx := errgroup.WithContext(ctx)
		for i := range part {
			g.Go(func() (err error) {
				read[i], err = s.readPiece(gctx, m.ID, part[i], l.live)
				return err
			})
		}
		if err := g.Wait(); err != nil {
			return err
		}
		if err := s.warm(ctx, edges(read), &pages, func(block uint64) need {
			var at [1]addr
			_, want := l.tree.lookup(block, at[:], &pages)
			return want
		}); err != nil {
			return err
		}
		for i := range part {
			done, err := s.replayPiece(ctx, m, l, part[i], &read[i], seq, &pages)
			if done || err != nil {
				return err
			}
		}
	}
	return nil
}

// pieceBatches is what a piece of a log did.
type pieceBatches struct {
	packed *pack // of a pack
	segmentBatches
}

// segmentBatches is what a segment did.
type segmentBatches struct {
	batches []wal.Batch
	epoch   uint64
	ckpt    wal.SegmentNo // the newest checkpoint that it knows of
	live    bool          // it is a journal, and ckpt is not known
}

func (s *Store) readPiece(ctx context.Context, log BranchID, p piece, live bool) (r pieceBatches, err error) {
	if p.pack != nil {
		r.packed, err = s.readPack(ctx, p.pack.id(log), true)
	} else {
		r.segmentBatches, err = s.readSegment(ctx, log, p.from, live)
	}
	return r, err
}

// replayPiece applies one piece. It tells whether that was the last one.
func (s *Store) replayPiece(ctx context.Context, m *manifest, l *loaded, at piece, r *pieceBatches, seq wal.Seq, pages *pinned) (done bool, err error) {
	if r.packed != nil {
		return s.replayPack(ctx, m, l, r.packed, seq, pages)
	}
	if r.epoch < l.epoch {
		return true, nil // an orphan: a later writer had ended the log before it
	}
	l.epoch = r.epoch
	if !l.vetted && r.epoch > l.wrote {
		if l.vetted = true; !r.live && r.ckpt < l.ckpt {
			return true, fmt.Errorf("%s, before %s: %w", checkpointKey(m.ID, l.ckpt), segmentKey(m.ID, at.from), errStray)
		}
	}
	for j := range r.batches {
		bt := &r.batches[j]
		if seq != 0 && bt.Seq > seq {
			return true, nil
		}
		if bt.Seq != l.at.Seq+1 {
			return true, fmt.Errorf("segment %s has barrier %d after %d: %w",
				segmentKey(m.ID, at.from), bt.Seq, l.at.Seq, ErrCorrupt)
		}
		for _, e := range bt.Entries {
			if err := s.applyEntry(ctx, m, l, at.from, e, pages); err != nil {
				return true, err
			}
		}
		l.at = momentOf(m.ID, at.from, bt)
	}
	return false, nil
}

// replayPack applies the batches of a pack that come after where the tree is. Where
// that is a barrier which is not kept, the first of them does more than was done
// since, and all of it again.
func (s *Store) replayPack(ctx context.Context, m *manifest, l *loaded, p *pack, seq wal.Seq, pages *pinned) (done bool, err error) {
	if p.head.First > l.at.Seq+1 {
		return true, fmt.Errorf("pack %s begins with barrier %d, the log before it ends with %d: %w",
			p.head.id().key(), p.head.First, l.at.Seq, ErrCorrupt)
	}
	if err := s.vet(ctx, m, l, p); err != nil {
		return true, err
	}
	l.epoch = p.epoch(p.head.To)
	for j := range p.batches {
		bt := &p.batches[j]
		if bt.Seq <= l.at.Seq {
			continue
		}
		if seq != 0 && bt.Seq > seq {
			if l.at.Seq != seq {
				return true, fmt.Errorf("barrier %d of %s: %w", seq, m.ID, ErrNotKept)
			}
			return true, nil
		}
		for _, e := range bt.Entries {
			if err := s.applyEntry(ctx, m, l, e.Segment, e.Entry, pages); err != nil {
				return true, err
			}
		}
		l.at = bt.moment(m.ID)
	}
	l.at.Segment = max(l.at.Segment, p.head.To)
	return seq != 0 && l.at.Seq == seq, nil
}

// vet finds out whether the checkpoint that a tree begins with is a stray one, if the
// pack has what tells: the first fence after it, which is an object of its own for ever.
func (s *Store) vet(ctx context.Context, m *manifest, l *loaded, p *pack) error {
	if l.vetted || p.epoch(p.head.To) <= l.wrote {
		return nil
	}
	l.vetted = true // a writer that was not fenced has left nothing behind
	for _, n := range p.fences {
		if n <= l.ckpt || p.epoch(n) <= l.wrote {
			continue
		}
		f, err := s.readFooter(ctx, m.ID, n, false)
		if err == nil && f.head.Checkpoint < l.ckpt {
			err = fmt.Errorf("%s, before %s: %w", checkpointKey(m.ID, l.ckpt), segmentKey(m.ID, n), errStray)
		}
		return err
	}
	return nil
}

// edges returns blocks whose pages are those that applying the batches takes: of
// each leaf that an entry changes a part of, one.
func edges(pieces []pieceBatches) []uint64 {
	leaves := map[uint64]struct{}{}
	for i := range pieces {
		for e := range pieces[i].entries() {
			leaves[e.Block>>leafBits<<leafBits] = struct{}{}
			leaves[(e.Block+e.Count-1)>>leafBits<<leafBits] = struct{}{}
		}
	}
	return slices.Sorted(maps.Keys(leaves)) // in order, so that tests can repeat it
}

// entries goes through all changes, in order.
func (r *pieceBatches) entries() iter.Seq[wal.Entry] {
	return func(yield func(wal.Entry) bool) {
		for i := range r.batches {
			for _, e := range r.batches[i].Entries {
				if !yield(e) {
					return
				}
			}
		}
		if r.packed == nil {
			return
		}
		for i := range r.packed.batches {
			for _, e := range r.packed.batches[i].Entries {
				if !yield(e.Entry) {
					return
				}
			}
		}
	}
}

func (s *Store) applyEntry(ctx context.Context, m *manifest, l *loaded, n wal.SegmentNo, e wal.Entry, pages *pinned) error {
	var done uint64
	for done < e.Count {
		var at addr
		if e.Kind == wal.KindData {
			at = makeAddr(m.own(), n, e.Slot) + addr(done)
		}
		c, want := l.tree.set(e.Block+done, e.Count-done, at, pages)
		done += c
		if !want.isZero() {
			if err := s.loadPage(ctx, want, pages); err != nil {
				return err
			}
		}
	}
	return nil
}

// readSegment returns what a segment of a log did: with live from its journal, if it
// still is one.
func (s *Store) readSegment(ctx context.Context, log BranchID, n wal.SegmentNo, live bool) (segmentBatches, error) {
	if ls := s.findLive(log, n); live && ls != nil && ls.journal.Ref() {
		defer ls.journal.Unref()
		return segmentBatches{batches: ls.journal.Batches(), epoch: ls.journal.Header().Epoch, live: true}, nil
	}
	f, err := s.readFooter(ctx, log, n, true)
	if err != nil {
		return segmentBatches{}, err
	}
	return segmentBatches{batches: f.batches, epoch: f.head.Epoch, ckpt: f.head.Checkpoint}, nil
}
