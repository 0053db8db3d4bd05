package cow

import (
	"context"
	"errors"
	"fmt"
	"time"

	ask "github.com/bough-db/bough/cow/point"
	"github.com/bough-db/bough/wal"
)

// ErrNoPoint: the branch has no such point. A PointError says why.
var ErrNoPoint = errors.New("no such point")

// ErrNotBarrier: the point is that of a transaction, which is at no barrier.
var ErrNotBarrier = errors.New("not a barrier")

// MarkBytes is how much of a database's log the LSN of a Mark stands for: from there
// on it is not known how much the device has.
const MarkBytes = 8192

// PointError says that a branch has no such point, why, and which one is nearest. It
// wraps ErrNoPoint.
type PointError struct {
	Project, Branch string
	Point           ask.Point
	Why             string
	Nearest         *Barrier // that can be opened; nil if there is none
	Err             error    // a cause with a name of its own, or nil
}

// Error says it in one line.
func (e *PointError) Error() string {
	s := fmt.Sprintf("point \"@%s\" of %s/%s: %s", e.Point, e.Project, e.Branch, e.Why)
	if e.Nearest != nil {
		s += fmt.Sprintf(": the nearest is @seq:%d of %s", e.Nearest.Seq, timeText(e.Nearest.Time))
	}
	return s
}

// Unwrap returns ErrNoPoint and the cause.
func (e *PointError) Unwrap() []error {
	if e.Err != nil {
		return []error{ErrNoPoint, e.Err}
	}
	return []error{ErrNoPoint}
}

func timeText(t time.Time) string { return t.UTC().Format(time.RFC3339Nano) }

// Resolve returns the barrier of the branch that the point names: the last one by a
// time, or whose mark is at or before an LSN. A point that there is not is a
// PointError. Its cost does not depend on the length of the history.
func (s *Store) Resolve(ctx context.Context, id BranchID, p ask.Point) (Barrier, error) {
	m, _, err := s.readBranch(ctx, id)
	if err != nil {
		return Barrier{}, err
	}
	h, err := s.history(ctx, m)
	if err == nil {
		var b Barrier
		if b, err = h.resolve(ctx, p); err == nil {
			return b, nil
		}
	}
	if errors.Is(err, ErrNoPoint) {
		return Barrier{}, err
	}
	return Barrier{}, fmt.Errorf("look for %q in the history of branch %s/%s: %w", "@"+p.String(), m.Project, m.Name, err)
}

// resolver looks for one point.
type resolver struct {
	*history
	p    ask.Point
	last *Barrier // of the history; nil if it has none
}

func (h *history) resolve(ctx context.Context, p ask.Point) (Barrier, error) {
	now := h.s.wallTime()
	r := &resolver{history: h, p: p.Settle(now)}
	if p.Exact() {
		return Barrier{}, r.fail(nil, ErrNotBarrier, "it is the point of a transaction, and no barrier")
	}
	var err error
	if r.last, err = h.before(ctx, &cursor{}); err != nil {
		return Barrier{}, err
	}
	if r.last == nil {
		return Barrier{}, r.fail(nil, nil, "nothing was written yet")
	}
	switch r.p.Kind {
	case ask.Head:
		return *r.last, nil
	case ask.Seq:
		return r.seq(ctx, wal.Seq(p.Number))
	case ask.LSN:
		return r.lsn(ctx, p.Number)
	case ask.Snapshot:
		return r.snapshot(ctx, p.Name)
	}
	return r.time(ctx, now)
}

// fail returns a PointError.
func (r *resolver) fail(nearest *Barrier, cause error, format string, args ...any) error {
	return &PointError{
		Project: r.m.Project, Branch: r.m.Name, Point: r.p, Why: fmt.Sprintf(format, args...), Nearest: nearest, Err: cause,
	}
}

// lastOf returns the last barrier for which upTo is true, or nil; see seek.
func (h *history) lastOf(ctx context.Context, upTo func(*Barrier) bool) (*Barrier, error) {
	cur, err := h.seek(ctx, upTo)
	if err != nil {
		return nil, err
	}
	b, err := h.before(ctx, &cur)
	if b != nil && !upTo(b) {
		b = nil // the floor
	}
	return b, err
}

// before returns the barrier before the cursor, or nil if there is none.
func (h *history) before(ctx context.Context, cur *cursor) (*Barrier, error) {
	b, err := h.back(ctx, cur)
	if b == nil && err == nil {
		b = h.floor()
	}
	return b, err
}

// first returns the first barrier of the history, or nil.
func (h *history) first(ctx context.Context) (*Barrier, error) {
	cur, err := h.seek(ctx, func(*Barrier) bool { return false })
	if err != nil {
		return nil, err
	}
	if floor := h.floor(); floor != nil {
		return floor, nil
	}
	return h.forth(ctx, &cur)
}

// tooEarly is the error for what is before the history.
func (r *resolver) tooEarly(ctx context.Context) error {
	first, err := r.first(ctx)
	if err != nil {
		return err
	}
	return r.fail(first, nil, "it is before the history")
}

func (r *resolver) time(ctx context.Context, now time.Time) (Barrier, error) {
	at := r.p.At
	if at.After(now) && at.After(r.last.Time) {
		return Barrier{}, r.fail(r.last, nil, "it is in the future")
	}
	b, err := r.lastOf(ctx, func(b *Barrier) bool { return !b.Time.After(at) })
	if err == nil && b == nil {
		err = r.tooEarly(ctx)
	}
	if err != nil {
		return Barrier{}, err
	}
	return *b, nil
}

func (r *resolver) seq(ctx context.Context, n wal.Seq) (Barrier, error) {
	if n > r.last.Seq {
		return Barrier{}, r.fail(r.last, nil, "it is in the future")
	}
	b, err := r.lastOf(ctx, func(b *Barrier) bool { return b.Seq <= n })
	switch {
	case err != nil:
		return Barrier{}, err
	case b == nil:
		return Barrier{}, r.tooEarly(ctx)
	case b.Seq != n:
		return Barrier{}, r.fail(b, ErrNotKept, "that barrier is not kept any more")
	}
	return *b, nil
}

// lsn looks for an LSN in the line that the branch is on, and before that began, in
// the ones before.
func (r *resolver) lsn(ctx context.Context, lsn uint64) (Barrier, error) {
	if r.last.Mark == (Mark{}) {
		return Barrier{}, r.fail(nil, nil, "no WAL was seen on the branch")
	}
	if lsn >= r.last.LSN+MarkBytes {
		return Barrier{}, r.beyond(ctx, lsn)
	}
	for line := r.last.Line; ; {
		b, err := r.lastOf(ctx, func(b *Barrier) bool { return !(Mark{line, lsn}).Before(b.Mark) })
		switch {
		case err != nil:
			return Barrier{}, err
		case b == nil || b.Line == 0:
			return Barrier{}, r.tooEarly(ctx)
		case b.Line == line || b.LSN <= lsn:
			return *b, nil
		}
		line = b.Line // it went on further than where the next one began
	}
}

// beyond is the error for an LSN that the line of the branch has not reached.
func (r *resolver) beyond(ctx context.Context, lsn uint64) error {
	for line := r.last.Line; ; {
		end, err := r.lastOf(ctx, func(b *Barrier) bool { return b.Line < line })
		if err != nil {
			return err
		}
		if end == nil || end.Line == 0 {
			return r.fail(r.last, nil, "it is in the future: the WAL of the last barrier is at %s", lsnText(r.last.LSN))
		}
		line = end.Line
		if lsn >= end.LSN+MarkBytes {
			continue
		}
		had, err := r.lastOf(ctx, func(b *Barrier) bool { return !(Mark{line, lsn}).Before(b.Mark) })
		if err != nil || had == nil {
			return errors.Join(err, r.tooEarly(ctx))
		}
		return r.fail(r.last, nil, "it is of timeline %d, which has it at @seq:%d and which the branch left after @seq:%d; on timeline %d its WAL is at %s",
			end.timeline(), had.Seq, end.Seq, r.last.timeline(), lsnText(r.last.LSN))
	}
}

func lsnText(lsn uint64) string { return fmt.Sprintf("%X/%X", lsn>>32, uint32(lsn)) }
