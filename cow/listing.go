package cow

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"

	"github.com/bough-db/bough/wal"
	"golang.org/x/sync/errgroup"
)

// checkpointSpan is how far before a segment its checkpoint is looked for at
// first. Most have one every Options.CheckpointSegments.
const checkpointSpan = 256

// beginning is a checkpoint that a tree may begin with. rec is nil if there is none.
type beginning struct {
	rec    *checkpointRecord
	packed bool // a pack has it, so that it counts
}

// discounted are the numbers of checkpoints that do not count; see Store.counts and
// errStray.
type discounted map[wal.SegmentNo]bool

// errStray says that a checkpoint is of a writer that was fenced, and came after whoever
// took the branch over had begun without it: the fence names an older one. It is right,
// but later ones do not go back to it, and may refer to pages that it does not: whoever
// began with it and wrote on would leave the line in which of any two checkpoints the
// later one has what the earlier one has, as far as that has not changed. A collection
// relies on that line.
var errStray = errors.New("checkpoint of a writer that was fenced")

// beginWith loads a tree that begins with the checkpoint that find finds, among those
// that count. Whether it does is found out while the tree is loaded.
func (s *Store) beginWith(ctx context.Context, log BranchID, find func(discounted) (beginning, error), load func(beginning) (*loaded, error)) (*loaded, error) {
	out := discounted{}
	for {
		b, err := find(out)
		if err != nil {
			return nil, err
		}
		if b.rec == nil || b.packed {
			return load(b)
		}
		var ok bool
		g, gctx := errgroup.WithContext(ctx)
		g.Go(func() (err error) {
			ok, err = s.counts(gctx, log, b.rec.Segment)
			return err
		})
		l, err := load(b)
		cerr := g.Wait()
		stray := errors.Is(err, errStray)
		switch {
		case cerr != nil && (err == nil || stray):
			return nil, cerr
		case cerr != nil || ok && !stray:
			return l, err
		}
		out[b.rec.Segment] = true
	}
}

// checkpointBefore returns the newest checkpoint of the log that shows nothing after
// barrier seq, which lies in segment seg, and counts; or nil.
func (s *Store) checkpointBefore(ctx context.Context, l *layout, seg wal.SegmentNo, seq wal.Seq) (*checkpointRecord, error) {
	out := discounted{}
	for {
		b, err := s.findCheckpoint(ctx, l, seg, seq, out)
		if b.rec == nil || b.packed || err != nil {
			return b.rec, err
		}
		if ok, err := s.counts(ctx, l.log, b.rec.Segment); ok || err != nil {
			return b.rec, err
		}
		out[b.rec.Segment] = true
	}
}

// findCheckpoint is checkpointBefore for who finds out himself whether it counts. Nearly
// always it takes one round trip, or two.
func (s *Store) findCheckpoint(ctx context.Context, l *layout, seg wal.SegmentNo, seq wal.Seq, out discounted) (beginning, error) {
	fail := func(err error) (beginning, error) { return beginning{}, err }
	var at *checkpointRecord // that of seg itself, which a branch that was detached there has
	var last wal.SegmentNo   // the newest before seg
	newest := func(ctx context.Context, after string) error {
		return s.listNumbers(ctx, checkpointPrefix(l.log), after, func(n wal.SegmentNo) bool {
			if n < seg && l.pack(n) == nil && !out[n] {
				last = n
			}
			return n < seg
		})
	}
	after := ""
	if seg > checkpointSpan {
		after = checkpointKey(l.log, seg-checkpointSpan)
	}
	g, gctx := errgroup.WithContext(ctx)
	g.Go(func() (err error) {
		if l.pack(seg) != nil || out[seg] {
			return nil
		}
		at, err = s.openCheckpoint(gctx, l.log, seg)
		if isNotExist(err) {
			return nil
		}
		return err
	})
	g.Go(func() error { return newest(gctx, after) })
	if err := g.Wait(); err != nil {
		return fail(err)
	}
	// A checkpoint shows the end of its segment: a barrier inside of that segment
	// needs the one before it.
	if at != nil && at.Seq <= seq {
		return beginning{rec: at}, nil
	}
	if rec, err := s.packedRoot(ctx, l, seg, last, seq); rec != nil || err != nil {
		return beginning{rec, true}, err
	}
	if last == 0 && after != "" {
		if err := newest(ctx, ""); err != nil {
			return fail(err)
		}
	}
	if last == 0 {
		return beginning{}, nil
	}
	rec, err := s.openCheckpoint(ctx, l.log, last)
	return beginning{rec: rec}, err
}

// newestCheckpoint finds the newest checkpoint of the log.
func (s *Store) newestCheckpoint(ctx context.Context, l *layout, out discounted) (beginning, error) {
	var last wal.SegmentNo
	err := s.listNumbers(ctx, checkpointPrefix(l.log), "", func(n wal.SegmentNo) bool {
		if l.pack(n) == nil && !out[n] { // else the pack decides whether it counts
			last = n
		}
		return true
	})
	if err != nil {
		return beginning{}, err
	}
	rec, err := s.packedRoot(ctx, l, logEnd, last, 0)
	if rec != nil || err != nil || last == 0 {
		return beginning{rec, true}, err
	}
	rec, err = s.openCheckpoint(ctx, l.log, last)
	return beginning{rec: rec}, err
}

// counts tells whether a checkpoint that is in the store may be begun with. It does not
// if there is a pack of its number, in use or pending, that does not have it: it came
// when that pack's collection had looked already, because it was long on its way, or was
// written just then, and the pack may have left out what it refers to. A pack that is
// announced later has it, or is given up: its collection looks once more after it has
// announced it, and so after the checkpoint was there.
func (s *Store) counts(ctx context.Context, log BranchID, n wal.SegmentNo) (bool, error) {
	for i := 0; ; i++ {
		m, _, err := s.readManifest(ctx, log)
		if err != nil {
			return false, err
		}
		ok, err := s.countsIn(ctx, m, n)
		if !isNotExist(err) || i == relocations {
			return ok, err
		}
	}
}

// countsIn is counts by a manifest that was read after the checkpoint was seen.
func (s *Store) countsIn(ctx context.Context, m *manifest, n wal.SegmentNo) (bool, error) {
	l, err := s.layoutOf(ctx, m)
	if err != nil {
		return false, err
	}
	var over []packRef
	if r := l.pack(n); r != nil {
		over = append(over, *r)
	}
	for i := range m.Claims {
		if c := &m.Claims[i]; c.Pending && c.From <= n && n <= c.To {
			over = append(over, c.packRef)
		}
	}
	for i := range over {
		p, err := s.readPack(ctx, over[i].id(m.ID), false)
		if err != nil {
			return false, err
		}
		if !slices.ContainsFunc(p.roots, func(g packRoot) bool { return g.Segment == n }) {
			return false, nil
		}
	}
	return true, nil
}

// packedRoot returns the newest checkpoint that packs have, if it is after number
// last and not after upTo and seq.
func (s *Store) packedRoot(ctx context.Context, at *layout, upTo, last wal.SegmentNo, seq wal.Seq) (*checkpointRecord, error) {
	for i := len(at.packs) - 1; i >= 0 && at.packs[i].To > last; i-- {
		r := &at.packs[i]
		if r.From > upTo || r.LastRoot <= last {
			continue
		}
		p, err := s.readPack(ctx, r.id(at.log), false)
		if err != nil {
			return nil, err
		}
		for j := len(p.roots) - 1; j >= 0; j-- {
			g := p.roots[j]
			if g.Segment > upTo || g.Segment <= last || seq > 0 && g.Seq > seq {
				continue
			}
			return &checkpointRecord{
				Log: at.log, Segment: g.Segment, Seq: g.Seq, Time: g.Time, Mark: g.Mark, Epoch: g.Epoch,
				Root: pageRecord{g.Root.ckpt, g.Root.off, g.Root.n},
			}, nil
		}
	}
	return nil, nil
}

// listLog returns the pieces of a log after segment last: packs, segments in the
// store and, with live, those that are still journals of this process. They are
// consecutive. What is in the store after the first gap is not among them, but beyond
// is the first such number.
func (s *Store) listLog(ctx context.Context, l *layout, last wal.SegmentNo, live bool) (pieces []piece, beyond wal.SegmentNo, err error) {
	next, after := last+1, ""
	if last > 0 {
		after = segmentKey(l.log, last)
	}
	add := func(p piece) {
		for pieces, next = append(pieces, p), p.to+1; l.pack(next) != nil; next = p.to + 1 {
			p = l.piece(next)
			pieces = append(pieces, p)
		}
	}
	if p := l.piece(next); p.pack != nil {
		add(p)
	}
	err = s.listNumbers(ctx, segmentPrefix(l.log), after, func(n wal.SegmentNo) bool {
		if n == next {
			add(piece{from: n, to: n})
		} else if n > next && beyond == 0 {
			beyond = n
		}
		return beyond == 0
	})
	if err != nil {
		return nil, 0, err
	}
	// Only a definite "not there" ends a log: a listing may lag behind, and a
	// journal may have become a segment meanwhile.
	for {
		if !live || s.findLive(l.log, next) == nil {
			_, _, err := s.objects.ReadAt(ctx, segmentKey(l.log, next), make([]byte, 1), -1)
			if isNotExist(err) {
				break
			}
			if err != nil {
				return nil, 0, fmt.Errorf("look for the end of the log of %s: %w", l.log, err)
			}
		}
		add(piece{from: next, to: next})
	}
	if beyond < next {
		beyond = 0 // what was missing has come meanwhile
	}
	return pieces, beyond, nil
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
