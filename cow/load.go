package cow

import (
	"context"
	"fmt"
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
const footersAhead = 8

// load returns the tree of a branch as it was at barrier seq in segment seg; at
// the end of its log for logEnd, where gaps says how to find it. Its cost is one checkpoint and the footers of
// the segments since, whatever the device's size.
func (s *Store) load(ctx context.Context, m *manifest, seg wal.SegmentNo, seq wal.Seq, gaps gapRule) (*loaded, error) {
	l := &loaded{lineage: m.Lineage, at: m.begin()}
	last, segs, beyond, err := s.listLog(ctx, m.ID, seg, seg)
	if err != nil {
		return nil, err
	}
	var rec *checkpointRecord
	if last > 0 {
		if rec, err = s.readCheckpoint(ctx, m.ID, last); err != nil {
			return nil, err
		}
	}
	if rec != nil && seg != logEnd && rec.Seq > seq {
		// A checkpoint shows the end of its segment: for a barrier inside of
		// that segment the one before it is needed.
		if last, segs, beyond, err = s.listLog(ctx, m.ID, seg-1, seg); err != nil {
			return nil, err
		}
		if rec = nil; last > 0 {
			if rec, err = s.readCheckpoint(ctx, m.ID, last); err != nil {
				return nil, err
			}
		}
	}
	if rec != nil {
		l.tree = newTree(&s.gens, m.own())
		l.tree.root.at = pageAddr{ckpt: rec.Root.Checkpoint, off: rec.Root.Offset, n: rec.Root.Bytes}
		l.at = moment{point: point{Log: m.ID, Segment: rec.Segment, Seq: rec.Seq}, Time: rec.Time, Mark: rec.Mark}
		l.ckpt, l.epoch = last, rec.Epoch
	} else if err := s.loadFork(ctx, m, l); err != nil {
		return nil, err
	}
	if err := s.replay(ctx, m, l, segs, seq); err != nil {
		return nil, err
	}
	if seg == logEnd && beyond > 0 && gaps == gapsAreLoss {
		if err := s.checkBeyond(ctx, m.ID, l, beyond); err != nil {
			return nil, err
		}
	}
	if seg == logEnd && (l.at.Seq < m.Head.Seq || l.at.Segment < m.Head.Segment) {
		return nil, fmt.Errorf("log of %s ends at barrier %d in segment %d, but the branch was detached at %d in %s: %w",
			m.ID, l.at.Seq, l.at.Segment, m.Head.Seq, segmentKey(m.ID, m.Head.Segment), ErrCorrupt)
	}
	if seg != logEnd && l.at.Seq != seq {
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

// loadFork starts a tree from where the branch began.
func (s *Store) loadFork(ctx context.Context, m *manifest, l *loaded) error {
	if m.Fork.Log == "" {
		l.tree = newTree(&s.gens, m.own())
		return nil
	}
	pm, _, err := s.readManifest(ctx, m.Fork.Log)
	if err != nil {
		return fmt.Errorf("fork point of %s: %w", m.ID, err)
	}
	p, err := s.load(ctx, pm, m.Fork.Segment, m.Fork.Seq, gapsAreLoss)
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

// listLog returns the log's newest checkpoint not after upTo, 0 if none, and
// the numbers of the segments after it up to seg: those in the store and, of
// this process, those that are still journals. They must be consecutive. What is
// in the store after the first gap is not among them, but beyond is the first such
// number.
func (s *Store) listLog(ctx context.Context, id BranchID, upTo, seg wal.SegmentNo) (last wal.SegmentNo, segs []wal.SegmentNo, beyond wal.SegmentNo, err error) {
	prefix := checkpointPrefix(id)
	err = s.listNumbers(ctx, prefix, "", func(n wal.SegmentNo) bool {
		if n <= upTo {
			last = n
		}
		return n < upTo
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
		if n == next && n <= seg {
			segs = append(segs, n)
			next++
		} else if n > next && beyond == 0 {
			beyond = n
		}
		return n < seg && beyond == 0
	})
	if err != nil {
		return 0, nil, 0, err
	}
	// Only a definite "not there" ends a log: a listing may lag behind, and a
	// journal may have become a segment meanwhile.
	for ; next <= seg; next++ {
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
	if seg != logEnd && next <= seg {
		return 0, nil, 0, fmt.Errorf("segment %s is missing: %w", segmentKey(id, next), ErrCorrupt)
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
