package cow

import (
	"cmp"
	"context"
	"slices"
	"sort"
	"time"

	"github.com/bough-db/bough/wal"
)

// Bounds of a run of pieces that become one pack.
const (
	// runBlocksMax is how many blocks the pieces of a run have, dead ones too.
	runBlocksMax = 1 << 18
	// smallBytes is the size below which an object is better merged with others.
	smallBytes = 1 << 20
	// mergeMin is how many small pieces are worth a pack though nothing in them is
	// dead; mergeMinFull is the same with CollectOptions.Full.
	mergeMin     = 32
	mergeMinFull = 8
	// deadAlways is which part of a run has to be dead for it to be packed whatever
	// was written before: what it frees pays for it.
	deadAlways = 0.75
)

// pieceInfo is what is known of a piece before it is packed.
type pieceInfo struct {
	piece
	size  int64
	total int // blocks
	live  int // of them, that stay
	// source and written are those of pieceDesc.
	source, written int64
}

// run is pieces that are to become one pack.
type packRun struct {
	pieces []pieceInfo
	next   nextBarrier
}

// nextBarrier is the first barrier after a run that stays.
type nextBarrier struct {
	at    moment
	there bool // there is one
}

// planner decides what to pack of one log.
type planner struct {
	*collector
	v    *logView
	k    *keeper
	info []pieceInfo
	// Pieces before old hold only barriers beyond the span of the history: of them
	// pins stay. Pieces from young on hold only barriers that all stay.
	old, young int
	// Pieces from calm on are too recent to be touched: more is about to come.
	calm  int
	times map[int][2]time.Time // of the first and last barrier of pieces
	// begun has, by epoch, what the next writer says that it began with.
	begun map[uint64]wal.SegmentNo

	tree    *tree // of the barrier treeSeq: the last one that was loaded
	treeSeq wal.Seq
}

// plan returns the runs of a log that are worth packing, the best first.
func (c *collector) plan(ctx context.Context, v *logView) ([]packRun, *planner, error) {
	v.rest = 24 * time.Hour
	if v.m.Epoch == 0 {
		return nil, nil, nil // it has no log
	}
	if err := c.findHead(ctx, v); err != nil {
		return nil, nil, err
	}
	if !v.end().settled(v.m) {
		return nil, nil, nil // somebody takes it over
	}
	if err := c.hollow(ctx, v); err != nil {
		return nil, nil, err
	}
	v.follow(false)
	k, err := c.keeper(ctx, v)
	if err != nil || len(v.pieces) == 0 {
		return nil, nil, err
	}
	// What the tiers keep changes with time, but there is no hurry.
	v.rest = min(v.rest, max(k.span()/24, k.recent))
	p := &planner{collector: c, v: v, k: k, times: map[int][2]time.Time{}, begun: map[uint64]wal.SegmentNo{}}
	for _, pc := range v.pieces {
		p.info = append(p.info, pieceInfo{piece: pc, size: v.sizeOf(pc)})
	}
	if err := p.divide(ctx); err != nil {
		return nil, nil, err
	}
	if err := p.surveyOld(ctx); err != nil {
		return nil, nil, err
	}
	if err := p.surveyTiers(ctx); err != nil {
		return nil, nil, err
	}
	p.surveyYoung()
	runs := p.choose()
	for i := range runs {
		last := runs[i].pieces[len(runs[i].pieces)-1]
		if runs[i].next, err = p.nextKept(ctx, last.to); err != nil {
			return nil, nil, err
		}
	}
	return runs, p, nil
}

// timesOf returns the times of the first and the last barrier of a piece.
func (p *planner) timesOf(ctx context.Context, i int) (first, last time.Time, err error) {
	if t, ok := p.times[i]; ok {
		return t[0], t[1], nil
	}
	if r := p.info[i].pack; r != nil {
		return r.FirstTime, r.LastTime, nil
	}
	d, err := p.describe(ctx, p.v, p.info[i].piece)
	if err != nil {
		return first, last, err
	}
	b := d.pack.batches
	first, last = b[0].Time, b[len(b)-1].Time
	p.times[i] = [2]time.Time{first, last}
	return first, last, nil
}

// divide finds old and young, by halving: times never go back along a log.
func (p *planner) divide(ctx context.Context) (err error) {
	n := len(p.info)
	find := func(age time.Duration, of func(first, last time.Time) time.Time) int {
		if age < 0 {
			return n
		}
		return sort.Search(n, func(i int) bool {
			if err != nil {
				return true
			}
			first, last, terr := p.timesOf(ctx, i)
			err = terr
			return p.now.Sub(of(first, last)) <= age
		})
	}
	p.old = find(p.k.span(), func(_, last time.Time) time.Time { return last })
	p.young = find(p.k.young(), func(first, _ time.Time) time.Time { return first })
	p.calm = n
	if p.v.lives {
		p.calm = find(p.k.recent, func(_, last time.Time) time.Time { return last })
	}
	p.calm = max(p.calm, p.old)
	p.young = min(max(p.young, p.old), p.calm)
	return err
}

// index returns the piece that has the segment.
func (p *planner) index(seg wal.SegmentNo) (int, bool) {
	i := sort.Search(len(p.info), func(i int) bool { return p.info[i].to >= seg })
	return i, i < len(p.info) && p.info[i].from <= seg
}

// surveyOld counts what stays of the pieces before old: what the trees of the barriers
// that stay have of them. Each tree is only gone through as far as it is newer than
// the one before.
func (p *planner) surveyOld(ctx context.Context) error {
	for i := range p.info[:p.old] {
		in := &p.info[i]
		if in.pack != nil {
			in.total, in.source, in.written = in.pack.Blocks, in.pack.Source, in.pack.Written
			continue
		}
		d, err := p.describe(ctx, p.v, in.piece)
		if err != nil {
			return err
		}
		in.total, in.source = d.index.blocks(), in.size
	}
	if p.old == 0 {
		return nil
	}
	var roots []moment
	for _, pin := range p.v.pins {
		if pin.Segment > 0 && pin.Segment <= p.info[p.old-1].to {
			roots = append(roots, moment{point: pin})
		}
	}
	next, err := p.nextKept(ctx, p.info[p.old-1].to)
	if err != nil {
		return err
	}
	if next.there {
		roots = append(roots, next.at)
	} else if p.v.lives {
		roots = append(roots, p.v.head)
	}
	var before wal.SegmentNo
	for _, r := range roots {
		t, err := p.treeAt(ctx, r)
		if err != nil {
			return err
		}
		err = p.walk(ctx, t.root, walking{after: before, blocks: func(_ uint64, at addr, n int) {
			// A run of addresses lies in one segment.
			if i, ok := p.index(at.segment()); ok && i < p.old {
				p.info[i].live += n
			}
		}})
		if err != nil {
			return err
		}
		before = r.Segment
	}
	for i := range p.info[:p.old] {
		p.info[i].live = min(p.info[i].live, p.info[i].total)
	}
	return nil
}

// surveyTiers counts what stays of the pieces from old to young.
func (p *planner) surveyTiers(ctx context.Context) error {
	var open []packEntry // since the last barrier that stays
	settle := func(merged []packEntry) {
		for _, e := range merged {
			if i, ok := p.index(e.Segment); ok && e.Kind == wal.KindData && i >= p.old {
				p.info[i].live += int(e.Count)
			}
		}
	}
	var last *packBatch
	decide := func(next time.Time) {
		if last == nil {
			return
		}
		open = append(open, last.Entries...)
		if p.k.keep(last, next) || len(open) > 2*runBlocksMax {
			settle(mergeEntries(open))
			open = open[:0]
		}
		last = nil
	}
	for i := p.old; i < p.young; i++ {
		in := &p.info[i]
		d, err := p.describe(ctx, p.v, in.piece)
		if err != nil {
			return err
		}
		in.total, in.source, in.written = d.index.blocks(), d.source, d.written
		for j := range d.pack.batches {
			b := &d.pack.batches[j]
			decide(b.Time)
			last = b
		}
	}
	// What comes next is young, or the head: all of it stays.
	decide(time.Time{})
	settle(mergeEntries(open))
	for i := p.old; i < p.young; i++ {
		p.info[i].live = min(p.info[i].live, p.info[i].total)
	}
	return nil
}

// surveyYoung notes that all stays of the pieces from young on. How many blocks that
// is can be told from their sizes, roughly.
func (p *planner) surveyYoung() {
	for i := p.young; i < p.calm; i++ {
		in := &p.info[i]
		in.total, in.source = int(in.size/(BlockSize/2)), in.size
		if in.pack != nil {
			in.total, in.source, in.written = in.pack.Blocks, in.pack.Source, in.pack.Written
		}
		in.live = in.total
	}
}

// nextKept returns the first barrier after a segment that stays.
func (p *planner) nextKept(ctx context.Context, seg wal.SegmentNo) (nextBarrier, error) {
	var pin nextBarrier
	for _, n := range p.v.pins {
		if n.Segment > seg && n.Seq <= p.v.head.Seq {
			pin = nextBarrier{moment{point: n}, true}
			break
		}
	}
	if !p.v.history {
		return pin, nil
	}
	from := seg + 1
	if p.old > 0 {
		from = max(from, p.info[p.old-1].to+1)
	}
	if pin.there && pin.at.Segment < from {
		return pin, nil
	}
	// Beyond the pieces too: what comes last is not packed, but has to stay.
	var last *packBatch
	for from <= p.v.head.Segment {
		d, err := p.describe(ctx, p.v, p.v.at.piece(from))
		if err != nil {
			return nextBarrier{}, err
		}
		from = d.to + 1
		for j := range d.pack.batches {
			b := &d.pack.batches[j]
			if last != nil && p.k.keep(last, b.Time) {
				return nextBarrier{last.moment(p.v.m.ID), true}, nil
			}
			last = b
		}
	}
	switch {
	case last != nil && p.k.keep(last, time.Time{}):
		return nextBarrier{last.moment(p.v.m.ID), true}, nil
	case p.v.lives:
		return nextBarrier{p.v.head, p.v.head.Segment > seg}, nil
	}
	return nextBarrier{}, nil
}

// dead is which part of a piece goes.
func (i *pieceInfo) dead() float64 {
	if i.total == 0 {
		return 0
	}
	return 1 - float64(i.live)/float64(i.total)
}

func (i *pieceInfo) small() bool { return i.size < smallBytes }

// choose makes runs of the pieces.
func (p *planner) choose() []packRun {
	var runs []packRun
	merge := mergeMin
	if p.o.Full {
		merge = mergeMinFull
	}
	for i := 0; i < p.calm; {
		var r packRun
		var total, live, small int
		for ; i < p.calm; i++ {
			in := p.info[i]
			if in.dead() < p.o.DeadRatio && !in.small() {
				break
			}
			if n := len(r.pieces); n > 0 && (live+in.live > p.o.PackBlocks || total+in.total > runBlocksMax || in.to-r.pieces[0].from >= packRunMax) {
				break
			}
			total, live = total+in.total, live+in.live
			if in.small() {
				small++
			}
			r.pieces = append(r.pieces, in)
		}
		if len(r.pieces) == 0 {
			i++
			continue
		}
		if r.dead() >= p.o.DeadRatio || small >= merge {
			runs = append(runs, r)
		}
	}
	slices.SortStableFunc(runs, func(a, b packRun) int { return cmp.Compare(b.dead(), a.dead()) })
	if p.o.Full {
		return runs
	}
	return p.afford(runs)
}

func (r *packRun) dead() float64 {
	var all pieceInfo
	for i := range r.pieces {
		all.total += r.pieces[i].total
		all.live += r.pieces[i].live
	}
	return all.dead()
}

// afford returns the runs that may be packed by what was written to the log, and
// what has been written for it since.
func (p *planner) afford(runs []packRun) []packRun {
	var source, written int64
	for i := range p.info {
		source += p.info[i].source
		written += p.info[i].written
	}
	ratio := p.o.WriteRatio
	if p.limit > 0 {
		ratio *= 2 // room is worth more than quiet
	}
	budget := int64(ratio*float64(source)) - written
	out := runs[:0]
	for _, r := range runs {
		var cost int64
		for i := range r.pieces {
			cost += int64(float64(r.pieces[i].size) * (1 - r.pieces[i].dead()))
		}
		if r.dead() < deadAlways && cost > budget {
			continue
		}
		budget -= cost
		out = append(out, r)
	}
	return out
}
