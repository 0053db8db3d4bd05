package cow

import (
	"context"
	"fmt"
	"strconv"

	"github.com/bough-db/bough/wal"
	"golang.org/x/sync/errgroup"
)

// checkpointSpan is how far before a segment its checkpoint is looked for at
// first. Most have one every Options.CheckpointSegments.
const checkpointSpan = 256

// checkpointBefore returns the newest checkpoint of the log that shows nothing after
// barrier seq, which lies in segment seg; or nil. Nearly always it takes one round
// trip, or two.
func (s *Store) checkpointBefore(ctx context.Context, l *layout, seg wal.SegmentNo, seq wal.Seq) (*checkpointRecord, error) {
	var at *checkpointRecord // that of seg itself, which a branch that was detached there has
	var last wal.SegmentNo   // the newest before seg
	newest := func(ctx context.Context, after string) error {
		return s.listNumbers(ctx, checkpointPrefix(l.log), after, func(n wal.SegmentNo) bool {
			if n < seg && l.pack(n) == nil {
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
		if l.pack(seg) != nil {
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
		return nil, err
	}
	// A checkpoint shows the end of its segment: a barrier inside of that segment
	// needs the one before it.
	if at != nil && at.Seq <= seq {
		return at, nil
	}
	if rec, err := s.packedRoot(ctx, l, seg, last, seq); rec != nil || err != nil {
		return rec, err
	}
	if last == 0 && after != "" {
		if err := newest(ctx, ""); err != nil {
			return nil, err
		}
	}
	if last == 0 {
		return nil, nil
	}
	return s.openCheckpoint(ctx, l.log, last)
}

// newestCheckpoint returns the newest checkpoint of the log, or nil.
func (s *Store) newestCheckpoint(ctx context.Context, l *layout) (*checkpointRecord, error) {
	var last wal.SegmentNo
	err := s.listNumbers(ctx, checkpointPrefix(l.log), "", func(n wal.SegmentNo) bool {
		if l.pack(n) == nil { // else the pack decides whether it counts
			last = n
		}
		return true
	})
	if err != nil {
		return nil, err
	}
	rec, err := s.packedRoot(ctx, l, logEnd, last, 0)
	if rec != nil || err != nil || last == 0 {
		return rec, err
	}
	return s.openCheckpoint(ctx, l.log, last)
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
