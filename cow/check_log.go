package cow

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/bough-db/bough/objstore"
	"github.com/bough-db/bough/wal"
)

func isGone(err error) bool { return errors.Is(err, ErrNotFound) || isNotExist(err) }

// segmentState is what a check knows of a segment.
type segmentState struct {
	err   error              // why none of it can be read
	has   []uint64           // bit map of the slots that can be read
	bad   map[wal.Slot]error // why others can not
	epoch uint64
	first wal.Seq // of its barriers
	last  wal.Seq
}

func (g *segmentState) set(slot wal.Slot) {
	for int(slot/64) >= len(g.has) {
		g.has = append(g.has, 0)
	}
	g.has[slot/64] |= 1 << (slot % 64)
}

func (g *segmentState) holds(slot wal.Slot) bool {
	return int(slot/64) < len(g.has) && g.has[slot/64]&(1<<(slot%64)) != 0
}

// segment returns what is known of a segment, reading it the first time.
func (c *checker) segment(ctx context.Context, log BranchID, n wal.SegmentNo) *segmentState {
	key := indexKey{log, n}
	if g, ok := c.segments.Get(key); ok {
		return g
	}
	if ls := c.s.findLive(log, n); ls != nil && ls.journal.Ref() {
		defer ls.journal.Unref()
		g := journalState(ls.journal.Batches()) // it grows: not to be remembered
		g.epoch = ls.journal.Header().Epoch
		return g
	}
	g := c.readSegment(ctx, log, n)
	if ctx.Err() == nil {
		c.segments.Add(key, g)
	}
	return g
}

// journalState describes a segment that is still a journal. Its blocks are
// verified whenever they are read.
func journalState(batches []wal.Batch) *segmentState {
	g := &segmentState{}
	g.barriers(batches)
	for i := range batches {
		for _, e := range batches[i].Entries {
			if e.Kind == wal.KindData {
				for j := range e.Count {
					g.set(e.Slot + wal.Slot(j))
				}
			}
		}
	}
	return g
}

// barriers notes the first and last barrier, and finds gaps between them.
func (g *segmentState) barriers(batches []wal.Batch) {
	for i := range batches {
		switch s := batches[i].Seq; {
		case i == 0:
			g.first = s
		case s != g.last+1:
			g.err = fmt.Errorf("barrier %d comes after %d: %w", s, g.last, ErrCorrupt)
		}
		g.last = batches[i].Seq
	}
}

// readSegment reads a segment's footer and checks it against itself.
func (c *checker) readSegment(ctx context.Context, log BranchID, n wal.SegmentNo) *segmentState {
	f, err := c.s.readFooter(ctx, log, n, true)
	if err != nil {
		return &segmentState{err: err}
	}
	c.rep.Segments++
	g := &segmentState{epoch: f.head.Epoch, bad: map[wal.Slot]error{}}
	g.barriers(f.batches)
	frames := make([]error, len(f.index.frames))
	if c.opts.Deep {
		for i, fr := range f.index.frames {
			if err := c.readFrame(ctx, log, n, fr); err != nil && ctx.Err() == nil {
				frames[i] = fmt.Errorf("frame %d at byte %d: %w", i, fr.off, err)
				c.damage(segmentKey(log, n), frames[i], nil)
			}
		}
	}
	for i := range f.batches {
		for _, e := range f.batches[i].Entries {
			if e.Kind != wal.KindData {
				continue
			}
			for j := range e.Count {
				slot := e.Slot + wal.Slot(j)
				frame, _, ok := f.index.find(slot)
				switch {
				case !ok:
					g.bad[slot] = fmt.Errorf("a block of barrier %d is in no frame: %w", f.batches[i].Seq, ErrCorrupt)
					c.damage(segmentKey(log, n), g.bad[slot], nil)
				case frames[frame] != nil:
					g.bad[slot] = frames[frame]
				default:
					g.set(slot)
				}
			}
		}
	}
	return g
}

// readFrame verifies one frame of a segment in the store.
func (c *checker) readFrame(ctx context.Context, log BranchID, n wal.SegmentNo, f frameInfo) error {
	if c.deepSpace == nil {
		c.deepSpace = make([]byte, 2*frameBlocks*BlockSize)
	}
	var err error
	for range 2 {
		var got int
		stored := c.deepSpace[:f.size]
		if got, _, err = c.s.objects.ReadAt(ctx, segmentKey(log, n), stored, int64(f.off)); err != nil {
			return err
		}
		c.rep.Bytes += int64(got)
		room := c.deepSpace[frameBlocks*BlockSize : frameBlocks*BlockSize : 2*frameBlocks*BlockSize]
		if _, err = decodeFrame(c.s.zr, f, stored[:got], room); err == nil {
			c.rep.Frames++
			return nil
		}
	}
	return err
}

// log checks the branch's own log up to the barrier: its segments and its
// checkpoints. It returns where the log ends.
func (c *checker) log(ctx context.Context, at point) (end point) {
	m := c.now
	end = point{Log: m.ID, Seq: m.Fork.Seq}
	known := true // end.Seq is
	var epoch uint64
	lastOf := map[wal.SegmentNo]wal.Seq{}
	ckpts := c.numbers(ctx, checkpointPrefix(m.ID))
	for n := wal.SegmentNo(1); n <= at.Segment && ctx.Err() == nil; n++ {
		g := c.segment(ctx, m.ID, n)
		if g.err != nil && errors.Is(g.err, objstore.ErrNotExist) && at.Segment == logEnd && (c.foreign || !c.goesOn(ctx, n, epoch)) {
			break
		}
		if g.err == nil && g.epoch < epoch && at.Segment == logEnd {
			break // an orphan: see Store.checkBeyond
		}
		key := segmentKey(m.ID, n)
		end.Segment = n
		if g.err != nil {
			c.damage(key, g.err, c.here())
			known = false
			continue
		}
		if known && g.first != end.Seq+1 {
			c.damage(key, fmt.Errorf("it begins with barrier %d, the log before it ends with %d: %w", g.first, end.Seq, ErrCorrupt), c.here())
		}
		if g.epoch < epoch || g.epoch > m.Epoch && !c.foreign {
			c.damage(key, fmt.Errorf("epoch %d after %d in a branch of epoch %d: %w", g.epoch, epoch, m.Epoch, ErrCorrupt), c.here())
		}
		epoch = max(epoch, g.epoch)
		end.Seq, known = g.last, true
		if slices.Contains(ckpts, n) {
			lastOf[n] = g.last
		}
	}
	for _, n := range ckpts {
		if n > end.Segment && (at.Segment != logEnd || c.foreign) {
			continue // it came after the check had begun
		}
		c.checkpoint(ctx, n, end, lastOf)
	}
	if m.Clean && at.Segment == logEnd && (m.Head.Segment != end.Segment || m.Head.Seq != end.Seq) {
		c.damage(manifestKey(m.ID), fmt.Errorf("it was detached at barrier %d in segment %d, the log ends with %d in %d: %w",
			m.Head.Seq, m.Head.Segment, end.Seq, end.Segment, ErrCorrupt), c.here())
	}
	return end
}

// goesOn tells whether the log has segments after number n, which is not there,
// other than orphans.
func (c *checker) goesOn(ctx context.Context, n wal.SegmentNo, epoch uint64) bool {
	var next wal.SegmentNo
	err := c.s.listNumbers(ctx, segmentPrefix(c.now.ID), segmentKey(c.now.ID, n), func(n wal.SegmentNo) bool {
		next = n
		return false
	})
	if err != nil || next == 0 {
		return false
	}
	g := c.segment(ctx, c.now.ID, next)
	return g.err != nil || g.epoch >= epoch
}

func (c *checker) numbers(ctx context.Context, prefix string) (all []wal.SegmentNo) {
	err := c.s.listNumbers(ctx, prefix, "", func(n wal.SegmentNo) bool {
		all = append(all, n)
		return true
	})
	if err != nil && ctx.Err() == nil {
		c.damage(prefix, err, c.here())
	}
	return all
}

// checkpoint checks the record of one checkpoint of the branch.
func (c *checker) checkpoint(ctx context.Context, n wal.SegmentNo, end point, lastOf map[wal.SegmentNo]wal.Seq) {
	m := c.now
	key := checkpointKey(m.ID, n)
	rec, err := c.s.readCheckpoint(ctx, m.ID, n)
	if err != nil {
		if ctx.Err() == nil {
			c.damage(key, err, c.here())
		}
		return
	}
	c.rep.Checkpoints++
	seq, ok := lastOf[n]
	switch {
	case !slices.Equal(rec.Lineage, m.Lineage):
		err = fmt.Errorf("its lineage is not that of the branch: %w", ErrCorrupt)
	case n > end.Segment:
		err = fmt.Errorf("the log ends before it, with segment %d: %w", end.Segment, ErrCorrupt)
	case ok && rec.Seq != seq:
		err = fmt.Errorf("it says barrier %d, the segment ends with %d: %w", rec.Seq, seq, ErrCorrupt)
	}
	if err != nil {
		c.damage(key, err, c.here())
	}
}
