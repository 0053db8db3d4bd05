package cow

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"

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
// checkpoint and the footers of the segments since, whatever the device's size.
func (s *Store) load(ctx context.Context, m *manifest, seg wal.SegmentNo, seq wal.Seq, gaps gapRule) (*loaded, error) {
	if seg != logEnd {
		rec, err := s.checkpointBefore(ctx, m.ID, seg, seq)
		if err != nil {
			return nil, err
		}
		return s.loadSince(ctx, m, rec, seg, seq)
	}
	l := &loaded{lineage: m.Lineage, at: m.begin()}
	last, segs, beyond, err := s.listLog(ctx, m.ID)
	if err != nil {
		return nil, err
	}
	if last > 0 {
		rec, err := s.openCheckpoint(ctx, m.ID, last)
		if err != nil {
			return nil, err
		}
		l.beginAt(s, m, rec)
	} else if err := s.loadFork(ctx, m, l); err != nil {
		return nil, err
	}
	if err := s.replay(ctx, m, l, segs, seq); err != nil {
		return nil, err
	}
	if beyond > 0 && gaps == gapsAreLoss {
		if err := s.checkBeyond(ctx, m.ID, l, beyond); err != nil {
			return nil, err
		}
	}
	if l.at.Seq < m.Head.Seq || l.at.Segment < m.Head.Segment {
		return nil, fmt.Errorf("log of %s ends at barrier %d in segment %d, but the branch was detached at %d in %s: %w",
			m.ID, l.at.Seq, l.at.Segment, m.Head.Seq, segmentKey(m.ID, m.Head.Segment), ErrCorrupt)
	}
	return l, s.fillIn(ctx, l)
}

// loadSince returns the tree of a branch as it was at barrier seq in segment seg,
// given the newest checkpoint before that, or nil if there is none.
func (s *Store) loadSince(ctx context.Context, m *manifest, rec *checkpointRecord, seg wal.SegmentNo, seq wal.Seq) (*loaded, error) {
	l := &loaded{lineage: m.Lineage, at: m.begin()}
	if rec != nil {
		l.beginAt(s, m, rec)
	} else if err := s.loadFork(ctx, m, l); err != nil {
		return nil, err
	}
	// They have to be there: a list says no more than the read of each.
	var segs []wal.SegmentNo
	for n := l.at.Segment + 1; n <= seg; n++ {
		segs = append(segs, n)
	}
	if err := s.replay(ctx, m, l, segs, seq); err != nil {
		return nil, err
	}
	if l.at.Seq != seq {
		return nil, fmt.Errorf("log of %s ends at barrier %d, before %d: %w", m.ID, l.at.Seq, seq, ErrCorrupt)
	}
	return l, s.fillIn(ctx, l)
}

// fillIn completes what a checkpoint did not say of the barrier that it shows:
// older ones have neither time nor mark.
func (s *Store) fillIn(ctx context.Context, l *loaded) error {
	if !l.at.Time.IsZero() {
		return nil
	}
	batches, _, err := s.segmentBatches(ctx, l.at.Log, l.at.Segment)
	if n := len(batches); err == nil && n > 0 {
		l.at = momentOf(l.at.Log, l.at.Segment, &batches[n-1])
	}
	return err
}

// beginAt starts a tree from a checkpoint of the branch's own log.
func (l *loaded) beginAt(s *Store, m *manifest, rec *checkpointRecord) {
	l.tree = newTree(&s.gens, m.own())
	l.tree.root.at = pageAddr{ckpt: rec.Root.Checkpoint, off: rec.Root.Offset, n: rec.Root.Bytes}
	l.at = moment{point: point{Log: m.ID, Segment: rec.Segment, Seq: rec.Seq}, Time: rec.Time, Mark: rec.Mark}
	l.ckpt, l.epoch = rec.Segment, rec.Epoch
}

// loadDetached is load for a branch whose manifest says that nobody has it
// attached, and so where its log ends: nothing needs to be looked for.
func (s *Store) loadDetached(ctx context.Context, m *manifest) (*loaded, error) {
	l := &loaded{lineage: m.Lineage, at: m.begin()}
	if m.Epoch == 0 || m.Head.Segment == 0 { // it has no log
		return l, s.loadFork(ctx, m, l)
	}
	rec, err := s.openCheckpoint(ctx, m.ID, m.Head.Segment)
	if isNotExist(err) {
		return s.load(ctx, m, logEnd, 0, gapsAreLoss)
	}
	if err != nil {
		return nil, err
	}
	l.beginAt(s, m, rec)
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
	var rec *checkpointRecord
	g, gctx := errgroup.WithContext(ctx)
	g.Go(func() (err error) {
		pm, _, err = s.readManifest(gctx, m.Fork.Log)
		return err
	})
	g.Go(func() (err error) {
		rec, err = s.checkpointBefore(gctx, m.Fork.Log, m.Fork.Segment, m.Fork.Seq)
		return err
	})
	if err := g.Wait(); err != nil {
		return fmt.Errorf("fork point of %s: %w", m.ID, err)
	}
	p, err := s.loadSince(ctx, pm, rec, m.Fork.Segment, m.Fork.Seq)
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
// time. Any other says that the gap was a segment, or a journal, that is lost:
// to go on from there would lose, silently, what was acknowledged.
func (s *Store) checkBeyond(ctx context.Context, id BranchID, l *loaded, beyond wal.SegmentNo) error {
	f, err := s.readFooter(ctx, id, beyond, false)
	if err != nil {
		return fmt.Errorf("after the end of the log, segment %d: %w", l.at.Segment, err)
	}
	if f.head.Epoch < l.epoch {
		return nil
	}
	return fmt.Errorf("segment %s is neither in the store nor a journal here, but %s is: bring it back, or delete those after it to go on without: %w",
		segmentKey(id, l.at.Segment+1), segmentKey(id, beyond), ErrCorrupt)
}

// checkpointSpan is how far before a segment its checkpoint is looked for at
// first. Most have one every Options.CheckpointSegments.
const checkpointSpan = 256

// checkpointBefore returns the newest checkpoint of the log that shows nothing after
// barrier seq, which lies in segment seg; or nil. Nearly always it takes one round
// trip, or two.
func (s *Store) checkpointBefore(ctx context.Context, id BranchID, seg wal.SegmentNo, seq wal.Seq) (*checkpointRecord, error) {
	var at *checkpointRecord // that of seg itself, which a branch that was detached there has
	var last wal.SegmentNo   // the newest before seg
	newest := func(ctx context.Context, after string) error {
		return s.listNumbers(ctx, checkpointPrefix(id), after, func(n wal.SegmentNo) bool {
			if n < seg {
				last = n
			}
			return n < seg
		})
	}
	after := ""
	if seg > checkpointSpan {
		after = checkpointKey(id, seg-checkpointSpan)
	}
	g, gctx := errgroup.WithContext(ctx)
	g.Go(func() (err error) {
		at, err = s.openCheckpoint(gctx, id, seg)
		if isNotExist(err) {
			return nil
		}
		return err
	})
	g.Go(func() error { return newest(gctx, after) })
	if err := g.Wait(); err != nil {
		return nil, err
	}
	// A checkpoint shows the end of its segment: a barrier inside of that segment
	// needs the one before it.
	if at != nil && at.Seq <= seq {
		return at, nil
	}
	if last == 0 && after != "" {
		if err := newest(ctx, ""); err != nil {
			return nil, err
		}
	}
	if last == 0 {
		return nil, nil
	}
	return s.openCheckpoint(ctx, id, last)
}

// listLog returns the log's newest checkpoint, 0 if none, and the numbers of the
// segments after it: those in the store and, of this process, those that are
// still journals. They are consecutive. What is in the store after the first gap
// is not among them, but beyond is the first such number.
func (s *Store) listLog(ctx context.Context, id BranchID) (last wal.SegmentNo, segs []wal.SegmentNo, beyond wal.SegmentNo, err error) {
	err = s.listNumbers(ctx, checkpointPrefix(id), "", func(n wal.SegmentNo) bool {
		last = n
		return true
	})
	if err != nil {
		return 0, nil, 0, err
	}
	next := last + 1
	after := ""
	if last > 0 {
		after = segmentKey(id, last)
	}
	err = s.listNumbers(ctx, segmentPrefix(id), after, func(n wal.SegmentNo) bool {
		if n == next {
			segs = append(segs, n)
			next++
		} else if n > next && beyond == 0 {
			beyond = n
		}
		return beyond == 0
	})
	if err != nil {
		return 0, nil, 0, err
	}
	// Only a definite "not there" ends a log: a listing may lag behind, and a
	// journal may have become a segment meanwhile.
	for ; ; next++ {
		if s.findLive(id, next) == nil {
			_, _, err := s.objects.ReadAt(ctx, segmentKey(id, next), make([]byte, 1), -1)
			if isNotExist(err) {
				break
			}
			if err != nil {
				return 0, nil, 0, fmt.Errorf("look for the end of the log of %s: %w", id, err)
			}
		}
		segs = append(segs, next)
	}
	if beyond < next {
		beyond = 0 // what was missing has come meanwhile
	}
	return last, segs, beyond, nil
}

// listNumbers calls f with the numbers that follow prefix, in order, until it
// returns false.
func (s *Store) listNumbers(ctx context.Context, prefix, after string, f func(wal.SegmentNo) bool) error {
	for {
		infos, err := s.objects.List(ctx, prefix, after, 1000)
		if err != nil {
			return fmt.Errorf("list %s: %w", prefix, err)
		}
		for _, i := range infos {
			after = i.Key
			n, err := strconv.ParseUint(i.Key[len(prefix):], 10, 64)
			if err != nil {
				continue // not one of ours
			}
			if !f(wal.SegmentNo(n)) {
				return nil
			}
		}
		if len(infos) < 1000 {
			return nil
		}
	}
}

// replay applies the segments' batches up to barrier seq (0: all) to the tree.
func (s *Store) replay(ctx context.Context, m *manifest, l *loaded, segs []wal.SegmentNo, seq wal.Seq) error {
	pages := pinned{cache: s.pages, lineage: m.Lineage}
	for len(segs) > 0 {
		part := segs[:min(footersAhead, len(segs))]
		segs = segs[len(part):]
		batches := make([][]wal.Batch, len(part))
		epochs := make([]uint64, len(part))
		g, gctx := errgroup.WithContext(ctx)
		for i, n := range part {
			g.Go(func() (err error) {
				batches[i], epochs[i], err = s.segmentBatches(gctx, m.ID, n)
				return err
			})
		}
		if err := g.Wait(); err != nil {
			return err
		}
		if err := s.warm(ctx, edges(batches), &pages, func(block uint64) need {
			var at [1]addr
			_, want := l.tree.lookup(block, at[:], &pages)
			return want
		}); err != nil {
			return err
		}
		for i, n := range part {
			if epochs[i] < l.epoch {
				return nil // an orphan: a later writer had ended the log before it
			}
			l.epoch = epochs[i]
			for j := range batches[i] {
				bt := &batches[i][j]
				if seq != 0 && bt.Seq > seq {
					return nil
				}
				if bt.Seq != l.at.Seq+1 {
					return fmt.Errorf("segment %s has barrier %d after %d: %w",
						segmentKey(m.ID, n), bt.Seq, l.at.Seq, ErrCorrupt)
				}
				if err := s.applyBatch(ctx, m, l, n, bt, &pages); err != nil {
					return err
				}
				l.at = momentOf(m.ID, n, bt)
			}
		}
	}
	return nil
}

// edges returns blocks whose pages are those that applying the batches takes: of
// each leaf that an entry changes a part of, one.
func edges(segments [][]wal.Batch) []uint64 {
	leaves := map[uint64]struct{}{}
	for _, batches := range segments {
		for i := range batches {
			for _, e := range batches[i].Entries {
				leaves[e.Block>>leafBits<<leafBits] = struct{}{}
				leaves[(e.Block+e.Count-1)>>leafBits<<leafBits] = struct{}{}
			}
		}
	}
	return slices.Collect(maps.Keys(leaves))
}

func (s *Store) applyBatch(ctx context.Context, m *manifest, l *loaded, n wal.SegmentNo, bt *wal.Batch, pages *pinned) error {
	for _, e := range bt.Entries {
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
	}
	return nil
}

// segmentBatches returns what a segment of a log did, and in which epoch, from its
// journal if it still is one.
func (s *Store) segmentBatches(ctx context.Context, log BranchID, n wal.SegmentNo) ([]wal.Batch, uint64, error) {
	if ls := s.findLive(log, n); ls != nil && ls.journal.Ref() {
		defer ls.journal.Unref()
		return ls.journal.Batches(), ls.journal.Header().Epoch, nil
	}
	f, err := s.readFooter(ctx, log, n, true)
	if err != nil {
		return nil, 0, err
	}
	return f.batches, f.head.Epoch, nil
}
