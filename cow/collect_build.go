package cow

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sort"
	"time"

	"github.com/bough-db/bough/wal"
)

// errRunTooLarge says that what stays of a run is too much for one pack.
var errRunTooLarge = errors.New("run is too large for one pack")

// seqNever stands for the next barrier that stays where there is none.
const seqNever = wal.Seq(1) << 60

// building is a pack that is being made.
type building struct {
	*planner
	run   packRun
	desc  []*pieceDesc
	pack  *pack
	order []packedBlock // blocks, in the order of the frames
	kept  int

	firstTime time.Time // of the first barrier
}

// build puts together what a pack of the run holds.
func (p *planner) build(ctx context.Context, r packRun, gen uint64) (*building, error) {
	b := &building{planner: p, run: r, pack: &pack{}}
	h := &b.pack.head
	*h = packHead{Log: p.v.m.ID, From: r.pieces[0].from, To: r.pieces[len(r.pieces)-1].to, Gen: gen, Host: p.s.opts.Host, Created: p.now.UnixNano()}
	var err error
	if h.Nonce, err = newNonce(p.s.random); err != nil {
		return nil, err
	}
	for i := range r.pieces {
		d, err := p.describe(ctx, p.v, r.pieces[i].piece)
		if err != nil {
			return nil, err
		}
		if err := b.join(d); err != nil {
			return nil, err
		}
	}
	if err := b.merge(ctx); err != nil {
		return nil, err
	}
	if err := b.arrange(); err != nil {
		return nil, err
	}
	return b, b.addPages(ctx)
}

// join adds the next piece, and checks that it goes on where the last one ended.
func (b *building) join(d *pieceDesc) error {
	k, h := d.pack, &b.pack.head
	if n := len(b.desc); n > 0 {
		before := b.desc[n-1].pack.head
		if k.head.First != before.Last+1 {
			return fmt.Errorf("segment %d begins with barrier %d after %d: %w", d.from, k.head.First, before.Last, ErrCorrupt)
		}
	} else {
		h.First, b.firstTime = k.head.First, k.batches[0].Time
		if d.piece.pack != nil {
			b.firstTime = d.piece.pack.FirstTime
		}
	}
	for _, e := range k.epochs {
		n := len(b.pack.epochs)
		if n > 0 && e.Epoch < b.pack.epochs[n-1].Epoch {
			return fmt.Errorf("segment %d is of epoch %d after %d: %w", e.From, e.Epoch, b.pack.epochs[n-1].Epoch, ErrCorrupt)
		}
		if n == 0 || e.Epoch > b.pack.epochs[n-1].Epoch {
			b.pack.epochs = append(b.pack.epochs, e)
		}
	}
	b.pack.fences = append(b.pack.fences, k.fences...)
	h.Last = k.head.Last
	h.Source += uint64(d.size)
	b.desc = append(b.desc, d)
	return nil
}

// merge makes the pack's batches: one for each barrier that stays, and one for what
// comes after the last of them.
func (b *building) merge(ctx context.Context) error {
	after, err := b.timeAfter(ctx)
	if err != nil {
		return err
	}
	var open []packEntry
	entries := 0
	for i, d := range b.desc {
		for j := range d.pack.batches {
			bt := &d.pack.batches[j]
			next := after
			if j+1 < len(d.pack.batches) {
				next = d.pack.batches[j+1].Time
			} else if i+1 < len(b.desc) {
				next = b.desc[i+1].pack.batches[0].Time
			}
			open = append(open, bt.Entries...)
			last := bt.Seq == b.pack.head.Last
			keep := b.k.keep(bt, next)
			if !keep && !last {
				continue
			}
			merged := mergeEntries(open)
			if !keep {
				if merged, err = b.tail(ctx, merged); err != nil {
					return err
				}
			} else {
				b.kept++
			}
			if entries += len(merged); entries > packEntriesMax {
				return errRunTooLarge
			}
			b.pack.batches = append(b.pack.batches, packBatch{
				Seq: bt.Seq, Time: bt.Time, Mark: bt.Mark, Segment: bt.Segment, Kept: keep, Entries: merged,
			})
			open = open[:0]
		}
	}
	h := &b.pack.head
	switch n := len(b.pack.batches); {
	case b.pack.batches[n-1].Kept:
		h.Next = h.Last + 1
	case b.run.next.there:
		h.Next = b.run.next.at.Seq
	default:
		h.Next = seqNever
	}
	if h.Next <= h.Last {
		return fmt.Errorf("the run ends with barrier %d, the next that stays is %d: %w", h.Last, h.Next, errOvertaken)
	}
	return nil
}

// timeAfter returns the time of the barrier after the run; zero if the run ends with
// the head.
func (b *building) timeAfter(ctx context.Context) (time.Time, error) {
	n := b.pack.head.To + 1
	if i, ok := b.index(n); ok {
		first, _, err := b.timesOf(ctx, i)
		return first, err
	}
	if n > b.v.head.Segment {
		return time.Time{}, nil
	}
	d, err := b.describe(ctx, b.v, b.v.at.piece(n))
	if err != nil {
		return time.Time{}, err
	}
	return d.pack.batches[0].Time, nil
}

// tail returns what the next barrier that stays has of the changes since the last
// one. What is overwritten before is left out: a replay to that barrier, or to a later
// one, overwrites it too. Discards stay, whatever comes after them.
func (b *building) tail(ctx context.Context, merged []packEntry) ([]packEntry, error) {
	if !b.run.next.there {
		return nil, nil // nothing will ever be replayed through here
	}
	t, err := b.treeAt(ctx, b.run.next.at)
	if err != nil {
		return nil, err
	}
	var blocks []uint64
	for _, e := range merged {
		if e.Kind == wal.KindData {
			for i := range e.Count {
				blocks = append(blocks, e.Block+i)
			}
		}
	}
	now := make([]addr, len(blocks))
	if err := b.lookup(ctx, t, blocks, func(i int, at addr) { now[i] = at }); err != nil {
		return nil, err
	}
	var out []packEntry
	n := 0
	for _, e := range merged {
		if e.Kind != wal.KindData {
			out = appendEntry(out, e)
			continue
		}
		for i := range e.Count {
			if one := e.part(e.Block+i, 1); now[n] == makeAddr(b.v.m.own(), e.Segment, one.Slot) {
				out = appendEntry(out, one)
			}
			n++
		}
	}
	return out, nil
}

// arrange puts the blocks in the order of the frames: by block, so that neighbours,
// and versions of one block, are compressed and read together.
func (b *building) arrange() error {
	for i := range b.pack.batches {
		for _, e := range b.pack.batches[i].Entries {
			if e.Kind != wal.KindData {
				continue
			}
			for j := range e.Count {
				b.order = append(b.order, packedBlock{e.Block + j, e.Segment, e.Slot + wal.Slot(j)})
			}
			if len(b.order) > packBlocksMax {
				return errRunTooLarge
			}
		}
	}
	slices.SortFunc(b.order, func(x, y packedBlock) int {
		return cmp.Or(cmp.Compare(x.block, y.block), cmp.Compare(x.segment, y.segment), cmp.Compare(x.slot, y.slot))
	})
	return nil
}

// addPages takes over the checkpoints that the barriers which stay begin with, and the
// pages that they, and those after the run, have of the run's checkpoints.
func (b *building) addPages(ctx context.Context) error {
	roots, err := b.checkpoints(ctx)
	if err != nil {
		return err
	}
	h := &b.pack.head
	stay := map[wal.SegmentNo]bool{}
	// at notes which of them a barrier begins with, and, where that is a stray one, which
	// one the later ones go back to.
	at := func(seq wal.Seq) error {
		for i := len(roots) - 1; i >= 0; i-- {
			if roots[i].Seq > seq {
				continue
			}
			stay[roots[i].Segment] = true
			if stray, err := b.stray(ctx, roots[i].Segment, roots[i].Epoch); !stray || err != nil {
				return err
			}
		}
		return nil
	}
	for i := range b.pack.batches {
		if b.pack.batches[i].Kept {
			if err := at(b.pack.batches[i].Seq); err != nil {
				return err
			}
		}
	}
	// Of those after the run the first one that stays says which pages still matter.
	// Where the run ends with a barrier that stays, its own last checkpoint does.
	var later []pageAddr
	lastStays := b.pack.batches[len(b.pack.batches)-1].Kept
	if next := b.run.next; next.there && !lastStays {
		for seg, seq := next.at.Segment, next.at.Seq; ; {
			rec, err := b.s.checkpointBefore(ctx, b.v.at, seg, seq)
			if err != nil {
				return err
			}
			if rec == nil || rec.Segment <= h.To {
				if err := at(next.at.Seq); err != nil {
					return err
				}
				break
			}
			later = append(later, pageAddr{ckpt: rec.Root.Checkpoint, off: rec.Root.Offset, n: rec.Root.Bytes})
			if stray, err := b.stray(ctx, rec.Segment, rec.Epoch); err != nil {
				return err
			} else if !stray {
				break
			}
			seg, seq = rec.Segment-1, rec.Seq-1 // where that one ends, or later
		}
	}
	live := map[pageAddr]bool{}
	collect := walking{after: h.From - 1, page: func(a pageAddr) error {
		if a.checkpoint() <= h.To {
			live[a] = true
		}
		if len(live) > packPagesMax {
			return errRunTooLarge
		}
		return nil
	}}
	for _, r := range roots {
		if !stay[r.Segment] {
			continue
		}
		b.pack.roots = append(b.pack.roots, r)
		if err := b.walk(ctx, ref{at: r.Root}, collect); err != nil {
			return err
		}
	}
	for _, root := range later {
		if err := b.walk(ctx, ref{at: root}, collect); err != nil {
			return err
		}
	}
	total := 0
	for a := range live {
		b.pack.pages = append(b.pack.pages, packPage{ckpt: a.checkpoint(), off: a.off, n: a.n})
		if total += int(a.n); total > packPageBytesMax {
			return errRunTooLarge
		}
	}
	slices.SortFunc(b.pack.pages, comparePages)
	return nil
}

// stray tells whether checkpoint n, of a writer of the epoch, is one that the next writer
// began without; see errStray.
func (p *planner) stray(ctx context.Context, n wal.SegmentNo, epoch uint64) (bool, error) {
	if epoch >= p.v.epoch {
		return false, nil
	}
	begun, ok := p.begun[epoch]
	if !ok {
		var err error
		if begun, err = p.begunAfter(ctx, n, epoch); err != nil {
			return false, err
		}
		p.begun[epoch] = begun
	}
	return begun < n, nil
}

// begunAfter returns the checkpoint that the first writer of a later epoch than that of
// segment n began with, as the fence says which it put. If it put none it found the log
// detached, and began with the last checkpoint of all: logEnd.
func (p *planner) begunAfter(ctx context.Context, n wal.SegmentNo, epoch uint64) (wal.SegmentNo, error) {
	var err error
	later := func(n wal.SegmentNo) bool { // epochs never go back along a log
		if err != nil {
			return true
		}
		var d *pieceDesc
		d, err = p.describe(ctx, p.v, p.v.at.piece(n))
		return err == nil && d.pack.epoch(n) > epoch
	}
	from := n + 1
	to := from + wal.SegmentNo(sort.Search(int(p.v.head.Segment-n), func(i int) bool { return later(from + wal.SegmentNo(i)) }))
	if err != nil || to > p.v.head.Segment {
		return logEnd, err
	}
	d, err := p.describe(ctx, p.v, p.v.at.piece(to))
	if err != nil || !slices.Contains(d.pack.fences, to) {
		return logEnd, err
	}
	f, err := p.s.readFooter(ctx, p.v.m.ID, to, false)
	if err != nil {
		return 0, err
	}
	return f.head.Checkpoint, nil
}

// checkpoints returns those of the run, by number.
func (b *building) checkpoints(ctx context.Context) ([]packRoot, error) {
	var roots []packRoot
	for _, d := range b.desc {
		if d.piece.pack != nil {
			roots = append(roots, d.pack.roots...)
		}
	}
	for _, c := range b.v.ckpts {
		if c.n < b.pack.head.From || c.n > b.pack.head.To || b.v.at.pack(c.n) != nil {
			continue
		}
		rec, err := b.s.readCheckpoint(ctx, b.v.m.ID, c.n)
		if err != nil {
			return nil, err
		}
		r := packRoot{
			Segment: c.n, Seq: rec.Seq, Time: rec.Time, Mark: rec.Mark, Epoch: rec.Epoch,
			Root: pageAddr{ckpt: rec.Root.Checkpoint, off: rec.Root.Offset, n: rec.Root.Bytes},
		}
		if i, ok := b.index(c.n); ok && r.Time.IsZero() { // an older record
			if _, r.Time, err = b.timesOf(ctx, i); err != nil {
				return nil, err
			}
		}
		roots = append(roots, r)
		b.pack.head.Source += uint64(c.size)
	}
	slices.SortFunc(roots, func(x, y packRoot) int { return cmp.Compare(x.Segment, y.Segment) })
	return roots, nil
}
