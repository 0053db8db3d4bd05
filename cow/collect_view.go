package cow

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/bough-db/bough/objstore"
	"github.com/bough-db/bough/wal"
)

// logView is what a collection sees of one log.
type logView struct {
	m             *manifest
	at            *layout
	pins          []point          // what others need of it, by seq
	segs          []numbered       // segments in the store, by number
	ckpts         []numbered       // checkpoints, by number
	packs         map[string]int64 // and lists of packs
	manifestBytes int64
	other         map[string]int64 // objects below the branch that are none of these
	head          moment           // the last barrier in the store
	epoch         uint64           // that it is of
	sought        bool             // head was looked for
	headErr       error            // why it was not found
	// pieces are the log, as far as it can be packed.
	pieces []piece
	standing
	lives   bool // its head can be opened, now or after an undeletion
	history bool // what the branch's history says applies to it
	// rest is how long to leave the log alone if it does not change.
	rest time.Duration
}

// numbered is a numbered object.
type numbered struct {
	n    wal.SegmentNo
	size int64
}

// view reads a branch's manifest and lists its objects.
func (c *collector) view(ctx context.Context, id BranchID) (*logView, error) {
	m, _, err := c.s.readManifest(ctx, id)
	if err != nil {
		return nil, err
	}
	at, err := c.s.layoutOf(ctx, m)
	if err != nil {
		return nil, err
	}
	v := &logView{m: m, at: at, pins: c.cat.pins[id], packs: map[string]int64{}, other: map[string]int64{}}
	if err := c.stand(ctx, v); err != nil {
		return nil, err
	}
	return v, c.each(ctx, branchPrefix+string(id)+"/", func(i objstore.Info) error {
		v.add(i)
		return nil
	})
}

// stand finds out what the log is to its branch.
func (c *collector) stand(ctx context.Context, v *logView) error {
	n := c.cat.notes[v.m.ID]
	if n == nil || n.next != v.m.Next {
		return errOvertaken // restored since the manifests were listed
	}
	v.standing = c.cat.standing(v.m.ID)
	switch {
	case v.current:
		v.lives = v.m.Gone.IsZero() && (v.m.Deleted.IsZero() || c.now.Sub(v.m.Deleted) < c.o.Undelete)
		v.history = v.lives
	case v.owner != nil:
		v.history = !v.owner.gone && v.upTo > 0
	default:
		// The branch was removed, or its newest log came after the manifests were listed.
		if _, _, err := c.s.readBranch(ctx, v.m.branch()); !errors.Is(err, ErrNotFound) {
			return cmp.Or(err, errOvertaken)
		}
	}
	return nil
}

func (v *logView) add(i objstore.Info) {
	for prefix, list := range map[string]*[]numbered{segmentPrefix(v.m.ID): &v.segs, checkpointPrefix(v.m.ID): &v.ckpts} {
		if rest, ok := strings.CutPrefix(i.Key, prefix); ok {
			if n, err := strconv.ParseUint(rest, 10, 64); err == nil {
				*list = append(*list, numbered{wal.SegmentNo(n), i.Size})
				return
			}
		}
	}
	if strings.HasPrefix(i.Key, packPrefix(v.m.ID)) || strings.HasPrefix(i.Key, packListPrefix(v.m.ID)) {
		v.packs[i.Key] = i.Size
	} else if i.Key == manifestKey(v.m.ID) {
		v.manifestBytes = i.Size
	} else {
		v.other[i.Key] = i.Size
	}
}

// findHead finds the last barrier that the store has of the log, and its epoch. It looks
// once for each view.
func (c *collector) findHead(ctx context.Context, v *logView) error {
	if !v.sought {
		v.sought, v.headErr = true, c.seekHead(ctx, v)
	}
	return v.headErr
}

func (c *collector) seekHead(ctx context.Context, v *logView) error {
	if n, open := c.s.storedHere(v.m.ID); open {
		// What only its journals have may be lost with this host.
		if n == 0 {
			v.head = v.m.begin()
			return nil
		}
		d, err := c.describe(ctx, v, v.at.piece(n))
		if err != nil {
			return err
		}
		b := d.pack.batches
		v.head, v.epoch = b[len(b)-1].moment(v.m.ID), d.pack.epoch(n)
		return nil
	}
	if v.lives {
		l, err := c.s.load(ctx, v.m, logEnd, 0, gapsHappen)
		if err != nil {
			return err
		}
		v.head, v.epoch = l.at, l.epoch
		return nil
	}
	// Nobody writes to it, and what it ended with need not be kept.
	if v.m.Clean {
		v.head = v.m.Head
		return nil
	}
	next := wal.SegmentNo(1)
	if n := len(v.at.packs); n > 0 {
		r := &v.at.packs[n-1]
		v.head = moment{point: point{Log: v.m.ID, Segment: r.To, Seq: r.Last}, Time: r.LastTime}
		next = r.To + 1
	}
	for ; sizeOf(v.segs, next) > 0; next++ {
		f, err := c.s.readFooter(ctx, v.m.ID, next, true)
		if err != nil {
			return err
		}
		if f.head.Epoch < v.epoch || len(f.batches) == 0 {
			break
		}
		v.epoch = f.head.Epoch
		v.head = momentOf(v.m.ID, next, &f.batches[len(f.batches)-1])
	}
	return nil
}

// seenEnd is the end of a log, as a collection has seen it.
type seenEnd struct {
	segment wal.SegmentNo
	epoch   uint64 // that the segment is of
	lives   bool
}

func (v *logView) end() seenEnd { return seenEnd{v.head.Segment, v.epoch, v.lives} }

// settled tells whether every writer that may still come, or has come and not said so in
// the log, begins with the newest checkpoint before that end, or with a later one: either
// all epochs have a segment there, or the log was detached there or further on, and
// whoever came after that has begun with the checkpoint of that.
//
// A writer that takes a log over from one that did not detach it raises the epoch, looks
// for the newest checkpoint, and then puts a fence. Checkpoints of the old writer may come
// at any time in between. What the new writer begins with is known only when the fence
// is: it may be an older one than a collection sees, and pages that only the older one
// refers to would be left out of a pack.
func (e seenEnd) settled(m *manifest) bool {
	return !e.lives || m.Epoch == e.epoch || m.Head.Segment >= e.segment
}

// storedHere returns the last segment that the store has of a branch which is open in
// this process.
func (s *Store) storedHere(id BranchID) (n wal.SegmentNo, open bool) {
	s.mu.Lock()
	var b *Branch
	if o := s.open[id]; o != nil {
		b = o.branch
	}
	s.mu.Unlock()
	if b == nil {
		return 0, false
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.stored, true
}

// follow finds the pieces of the log up to its last barrier in the store. The last
// segment is left out, unless all are wanted, or the branch was detached there: the log
// has to have an end that is there to be found.
func (v *logView) follow(all bool) {
	head := v.head
	for n := wal.SegmentNo(1); n <= head.Segment; {
		p := v.at.piece(n)
		if p.to > head.Segment || p.pack == nil && (sizeOf(v.segs, n) == 0 || n == head.Segment && v.lives && !v.m.Clean && !all) {
			break // it was not there yet when they were listed, or has moved since
		}
		v.pieces = append(v.pieces, p)
		n = p.to + 1
	}
}

// sizeOf returns the bytes of a numbered object, 0 if it is not there.
func sizeOf(list []numbered, n wal.SegmentNo) int64 {
	i, ok := slices.BinarySearchFunc(list, n, func(a numbered, n wal.SegmentNo) int { return int(int64(a.n) - int64(n)) })
	if !ok {
		return 0
	}
	return list[i].size
}

// sizeOf returns the bytes of a piece's object.
func (v *logView) sizeOf(p piece) int64 {
	if p.pack != nil {
		return p.pack.Bytes
	}
	return sizeOf(v.segs, p.from)
}

// pieceDesc describes a piece, whatever it is, as a pack.
type pieceDesc struct {
	piece
	size    int64
	source  int64 // bytes of the segments that it stands for
	written int64 // bytes of all packs that were ever made of them
	pack    *pack
	index   *blockIndex
}

// describe reads what a piece did, and where its blocks are.
func (c *collector) describe(ctx context.Context, v *logView, p piece) (*pieceDesc, error) {
	d := &pieceDesc{piece: p, size: v.sizeOf(p)}
	if err := c.o.Pace(ctx, segmentTail); err != nil {
		return nil, err
	}
	if p.pack != nil {
		k, err := c.s.readPack(ctx, p.pack.id(v.m.ID), true)
		if err != nil {
			return nil, err
		}
		d.pack, d.index, d.source, d.written = k, &k.index, p.pack.Source, p.pack.Written
		return d, nil
	}
	f, err := c.s.readFooter(ctx, v.m.ID, p.from, true)
	if err != nil {
		return nil, err
	}
	n := len(f.batches)
	if n == 0 {
		return nil, fmt.Errorf("segment %s has no barrier: %w", segmentKey(v.m.ID, p.from), ErrCorrupt)
	}
	k := &pack{
		head: packHead{
			Log: v.m.ID, From: p.from, To: p.to, First: f.batches[0].Seq, Last: f.batches[n-1].Seq, Next: f.batches[n-1].Seq + 1,
		},
		epochs: []epochRun{{p.from, f.head.Epoch}},
	}
	if n == 1 && len(f.batches[0].Entries) == 0 {
		k.fences = []wal.SegmentNo{p.from}
	}
	for i := range f.batches {
		b := &f.batches[i]
		entries := make([]packEntry, len(b.Entries))
		for j, e := range b.Entries {
			entries[j] = packEntry{Entry: e, Segment: p.from}
		}
		k.batches = append(k.batches, packBatch{
			Seq: b.Seq, Time: b.Time, Mark: Mark{Line: b.Line, LSN: b.LSN}, Segment: p.from, Kept: true, Entries: entries,
		})
	}
	d.pack, d.index, d.source = k, &f.index, d.size
	return d, nil
}

// idle tells whether nothing happens to the log by itself: nobody has it attached, and
// nothing waits to be deleted.
func (v *logView) idle() bool {
	m := v.m
	for i := range m.Packs {
		if !m.Packs[i].Cleaned {
			return false
		}
	}
	return (m.Epoch == 0 || m.Clean) && m.Deleted.IsZero() && len(m.Claims) == 0 && len(m.Replaced) == 0
}

// keeper says which barriers of a log stay.
type keeper struct {
	now    time.Time
	recent time.Duration
	keeps  Retention
	pins   []point
	// history says that keeps applies, to barriers up to upTo if that is not 0, and
	// head that the head stays.
	history, head bool
	upTo          wal.Seq
}

func (c *collector) keeper(ctx context.Context, v *logView) (*keeper, error) {
	k := &keeper{now: c.now, recent: c.o.Recent, pins: v.pins, history: v.history, head: v.lives, upTo: v.upTo}
	if !v.history {
		return k, nil
	}
	var err error
	k.keeps, err = c.s.retention(ctx, v.m.Project, v.owner.retention)
	if c.limit > 0 {
		k.keeps = k.keeps.within(c.limit)
	}
	return k, err
}

// keep tells whether a barrier stays. next is the time of the one after it; the zero
// time says that there is none: it is the head.
func (k *keeper) keep(b *packBatch, next time.Time) bool {
	switch {
	case !b.Kept:
		return false // it is gone already
	case isPinned(k.pins, b.Seq):
		return true
	case !k.history || k.upTo > 0 && b.Seq > k.upTo:
		return false
	case next.IsZero():
		return k.head
	case k.now.Sub(b.Time) <= k.recent:
		return true
	}
	return k.keeps.Keeps(k.now, b.Time, next)
}

// span is the age beyond which only pins and the head stay.
func (k *keeper) span() time.Duration {
	if !k.history {
		return -1
	}
	return max(k.keeps.Span(), k.recent)
}

// young is the age up to which every barrier stays.
func (k *keeper) young() time.Duration {
	switch {
	case !k.head:
		return -1 // not even these
	case len(k.keeps.Tiers) > 0 && k.keeps.Tiers[0].Every == 0:
		return max(k.keeps.Tiers[0].Age, k.recent)
	}
	return k.recent
}

// retention returns which barriers of a branch stay: what it says itself, else its
// project, else the Store.
func (s *Store) retention(ctx context.Context, project string, own *Retention) (Retention, error) {
	if own != nil {
		return *own, nil
	}
	p, err := s.Project(ctx, project)
	switch {
	case errors.Is(err, ErrNotFound): // it was deleted, and its branches with it
	case err != nil:
		return Retention{}, err
	case p.Retention != nil:
		return *p.Retention, nil
	}
	return *s.opts.Retention, nil
}
