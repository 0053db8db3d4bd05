package cow

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"

	"github.com/bough-db/bough/objstore"
	"github.com/bough-db/bough/wal"
	"golang.org/x/sync/errgroup"
)

func isGone(err error) bool { return errors.Is(err, ErrNotFound) || isNotExist(err) }

// objectState is what a check knows of a segment or a pack.
type objectState struct {
	err    error          // why none of it can be read
	has    []uint64       // of a segment: bit map of the slots that can be read
	keys   []uint32       // of a pack: packedKey of each block that can be read, sorted
	from   wal.SegmentNo  // of the pack
	bad    map[addr]error // why others can not; the log is 0
	epochs [2]uint64      // of the first and the last segment
	host   string         // who stored the segment
	first  wal.Seq        // of its barriers
	last   wal.Seq
}

func (g *objectState) set(slot wal.Slot) {
	for int(slot/64) >= len(g.has) {
		g.has = append(g.has, 0)
	}
	g.has[slot/64] |= 1 << (slot % 64)
}

// holds tells whether the block of a slot can be read.
func (g *objectState) holds(seg wal.SegmentNo, slot wal.Slot) bool {
	if g.keys != nil {
		_, ok := slices.BinarySearch(g.keys, packedKey(g.from, seg, slot))
		return ok
	}
	return int(slot/64) < len(g.has) && g.has[slot/64]&(1<<(slot%64)) != 0
}

// layout returns where the log's blocks are. Without a manifest that can be read,
// which is listed as damage elsewhere, every segment is thought to be an object.
func (c *checker) layout(ctx context.Context, log BranchID) *layout {
	m, err := c.manifest(ctx, log)
	if err != nil {
		return &layout{log: log}
	}
	l, err := c.s.layoutOf(ctx, m)
	if err != nil {
		if ctx.Err() == nil {
			c.damage(manifestKey(log), err, c.here())
		}
		return &layout{log: log, packs: m.Packs}
	}
	return l
}

// object returns what is known of the object that holds a segment of a log, and
// which that is.
func (c *checker) object(ctx context.Context, log BranchID, n wal.SegmentNo) (*objectState, objectID) {
	live := !c.s.opts.Shared || log == c.now.ID && !c.foreign
	if ls := c.s.findLive(log, n); live && ls != nil && ls.journal.Ref() {
		defer ls.journal.Unref()
		g := journalState(ls.journal.Batches()) // it grows: not to be remembered
		g.epochs = [2]uint64{ls.journal.Header().Epoch, ls.journal.Header().Epoch}
		return g, segmentID(log, n)
	}
	for i := 0; ; i++ {
		at := c.layout(ctx, log).holder(log, n)
		known := c.segments
		if at.gen > 0 {
			known = c.packs
		}
		g, ok := known.Get(at)
		if !ok {
			if g = c.readObject(ctx, at); ctx.Err() == nil {
				known.Add(at, g)
			}
		}
		if g.err == nil || !isNotExist(g.err) || i == relocations {
			return g, at
		}
		// A collection may have moved it since the manifest was read.
		c.manifests.Remove(log)
		if c.layout(ctx, log).holder(log, n) == at {
			return g, at
		}
	}
}

// journalState describes a segment that is still a journal. Its blocks are
// verified whenever they are read.
func journalState(batches []wal.Batch) *objectState {
	g := &objectState{}
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
func (g *objectState) barriers(batches []wal.Batch) {
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

// readObject reads the description of a segment or a pack, and checks it against
// itself.
func (c *checker) readObject(ctx context.Context, at objectID) *objectState {
	g := &objectState{from: at.from, bad: map[addr]error{}}
	var ix *blockIndex
	var frames []error
	entry := func(seq wal.Seq, seg wal.SegmentNo, e wal.Entry) {
		if e.Kind != wal.KindData {
			return
		}
		for j := range e.Count {
			slot := e.Slot + wal.Slot(j)
			frame, _, ok := ix.find(seg, slot)
			switch {
			case !ok:
				err := fmt.Errorf("a block of barrier %d is in no frame: %w", seq, ErrCorrupt)
				g.bad[makeAddr(0, seg, slot)] = err
				c.damage(at.key(), err, nil)
			case frames[frame] != nil:
				g.bad[makeAddr(0, seg, slot)] = frames[frame]
			case at.gen == 0:
				g.set(slot)
			default:
				g.keys = append(g.keys, packedKey(at.from, seg, slot))
			}
		}
	}
	if at.gen == 0 {
		f, err := c.s.readFooter(ctx, at.log, at.from, true)
		if err != nil {
			return &objectState{err: err}
		}
		ix, g.epochs, g.host = &f.index, [2]uint64{f.head.Epoch, f.head.Epoch}, f.head.Host
		frames = c.frames(ctx, at, ix)
		g.barriers(f.batches)
		for i := range f.batches {
			for _, e := range f.batches[i].Entries {
				entry(f.batches[i].Seq, at.from, e)
			}
		}
		return g
	}
	p, err := c.s.readPack(ctx, at, true)
	if err != nil {
		return &objectState{err: err}
	}
	ix, g.epochs = &p.index, [2]uint64{p.epoch(at.from), p.epoch(at.to)}
	frames = c.frames(ctx, at, ix)
	g.first, g.last, g.keys = p.head.First, p.head.Last, []uint32{}
	for i := range p.batches {
		for _, e := range p.batches[i].Entries {
			entry(p.batches[i].Seq, e.Segment, e.Entry)
		}
	}
	slices.Sort(g.keys)
	return g
}

// frames returns what is wrong with each frame of an object. It reads them when the
// check is deep and the object comes for the first time.
func (c *checker) frames(ctx context.Context, at objectID, ix *blockIndex) []error {
	frames, again := c.read.Get(at)
	if again && frames != nil {
		return frames
	}
	all := make([]error, len(ix.frames))
	if again {
		return all
	}
	if at.gen == 0 {
		c.rep.Segments++
	} else {
		c.rep.Packs++
	}
	if c.opts.Deep {
		c.readFrames(ctx, at.key(), ix.frames, all)
	}
	if ctx.Err() == nil {
		if slices.ContainsFunc(all, func(err error) bool { return err != nil }) {
			c.read.Add(at, all)
		} else {
			c.read.Add(at, nil)
		}
	}
	return all
}

// checkAhead is how many frames a deep check reads at the same time: a store may be far
// away.
const checkAhead = 8

// readFrames verifies the frames of an object in the store, and sets what is wrong with
// each.
func (c *checker) readFrames(ctx context.Context, key string, frames []frameInfo, wrong []error) {
	var got atomic.Int64
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(checkAhead)
	for i, f := range frames {
		g.Go(func() error {
			n, err := c.readFrame(gctx, key, f)
			got.Add(int64(n))
			if err != nil {
				wrong[i] = fmt.Errorf("frame %d at byte %d: %w", i, f.off, err)
			}
			return ctx.Err()
		})
	}
	if g.Wait() != nil {
		clear(wrong) // the check ends
		return
	}
	c.rep.Bytes += got.Load()
	for _, err := range wrong {
		if err == nil {
			c.rep.Frames++
		} else {
			c.damage(key, err, nil)
		}
	}
}

// readFrame verifies one frame of an object in the store, and returns how many bytes it
// read for that.
func (c *checker) readFrame(ctx context.Context, key string, f frameInfo) (read int, err error) {
	space := c.frameSpace.Get().(*[2 * frameBlocks * BlockSize]byte)
	defer c.frameSpace.Put(space)
	stored, room := space[:f.size], space[frameBlocks*BlockSize:frameBlocks*BlockSize]
	for range 2 {
		var got int
		if got, _, err = c.s.objects.ReadAt(ctx, key, stored, int64(f.off)); err != nil {
			return read, err
		}
		read += got
		if _, err = decodeFrame(c.s.zr, f, stored[:got], room); err == nil {
			return read, nil
		}
	}
	return read, err
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
		g, id := c.object(ctx, m.ID, n)
		if g.err != nil && errors.Is(g.err, objstore.ErrNotExist) && id.gen == 0 && at.Segment == logEnd && (c.foreign || !c.goesOn(ctx, n, epoch)) {
			break
		}
		if g.err == nil && g.epochs[0] < epoch && at.Segment == logEnd {
			break // an orphan: see Store.checkBeyond
		}
		key := id.key()
		n = id.to
		end.Segment = n
		if g.err != nil {
			c.damage(key, g.err, c.here())
			known = false
			continue
		}
		if known && g.first != end.Seq+1 {
			c.damage(key, fmt.Errorf("it begins with barrier %d, the log before it ends with %d: %w", g.first, end.Seq, ErrCorrupt), c.here())
		}
		if g.epochs[0] < epoch || g.epochs[1] > m.Epoch && !c.foreign {
			c.damage(key, fmt.Errorf("epoch %d to %d after %d in a branch of epoch %d: %w", g.epochs[0], g.epochs[1], epoch, m.Epoch, ErrCorrupt), c.here())
		}
		epoch = max(epoch, g.epochs[1])
		end.Seq, known = g.last, true
		if id.gen == 0 {
			lastOf[n] = g.last
		}
	}
	for _, n := range ckpts {
		if n > end.Segment && (at.Segment != logEnd || c.foreign) {
			continue // it came after the check had begun
		}
		if c.layout(ctx, m.ID).pack(n) != nil {
			continue // the pack stands for it
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
	g, _ := c.object(ctx, c.now.ID, next)
	return g.err != nil || g.epochs[0] >= epoch && g.host == c.s.opts.Host
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
