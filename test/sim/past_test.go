package sim

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/bough-db/bough/cow"
	"github.com/bough-db/bough/cow/point"
	"github.com/bough-db/bough/objstore"
)

// past is a barrier of a history that can be named: it has every change that had ended
// at a time, and no other.
type past struct {
	seq uint64
	at  clock
}

// remember notes which barrier a flush has made, if nothing was written meanwhile.
func (s *session) remember(begin clock) {
	busy := slices.ContainsFunc(s.h.changes, func(c *change) bool { return c.begin > begin || c.end > begin })
	if seq := uint64(s.dev.Status().Seq); !busy && seq > 0 {
		s.h.pasts = append(s.h.pasts, past{seq, begin})
	}
}

// past returns a barrier of the branch that a process can open: it is in the store,
// or in the process's own journals.
func (w *world) past(inc *incarnation, b *branch) (*history, past, bool) {
	own := inc.session(b)
	h := b.now
	for h.before != nil && w.rng.IntN(2) == 0 {
		h = h.before
	}
	upTo := h.remote
	if own != nil && own.h == h && !own.mayBeFenced() {
		upTo = never
	}
	var can []past
	for _, p := range h.pasts {
		if p.at <= upTo {
			can = append(can, p)
		}
	}
	if len(can) == 0 || h.base.state == nil {
		return nil, past{}, false
	}
	return h, can[w.rng.IntN(len(can))], true
}

// point is how the barrier is named.
func (p past) point() point.Point { return point.Point{Kind: point.Seq, Number: p.seq} }

// matchAt tells whether got is the state at a past barrier.
func (h *history) matchAt(p past, got []stamp) error {
	m := matcher{h: h, got: got, max: p.at, pos: make([]int, len(cells)), in: make(map[*change]bool)}
	return m.run(p.at, 0, true)
}

// lookBack reads a branch as it was at a barrier, and compares.
func (w *world) lookBack(inc *incarnation, b *branch) bool {
	h, p, ok := w.past(inc, b)
	if !ok {
		return false
	}
	what := fmt.Sprintf("look back at barrier %d of %s", p.seq, h.name)
	got := make([]stamp, len(cells))
	own, asked := inc.session(b), w.tick()
	w.start(inc, what, func(ctx context.Context) error {
		v, err := inc.store.OpenAt(ctx, b.id, p.point())
		if err != nil {
			return err
		}
		defer v.Close()
		return readAll(ctx, v, got)
	}, func(err error) {
		if err != nil {
			w.mayFailOn(inc, b, own, asked, err, what)
			return
		}
		if own != nil && own.mayBeFenced() {
			return // the number may be that of another barrier by now, of whoever took it over
		}
		if err := h.matchAt(p, got); err != nil {
			w.fail("I2: %v: %s: %w", inc, what, err)
		}
	})
	return true
}

// mayFailOn checks the error of something that was done to a branch, which the process
// had attached as own, or not at all, and that was asked for then.
func (w *world) mayFailOn(inc *incarnation, b *branch, own *session, asked clock, err error, what string) {
	switch {
	case isWrong(err):
		w.fail("%v: %s: %v", inc, what, err)
	case b.mayBeGone(asked) && errors.Is(err, cow.ErrNotFound):
	case own != nil && own.mayBeFenced() && (errors.Is(err, objstore.ErrNotExist) || errors.Is(err, cow.ErrNoPoint)):
		// Its own journals were not part of the log any more.
	case slices.ContainsFunc(w.conf.collecting.gone(), func(r error) bool { return errors.Is(err, r) }):
	case own != nil:
		w.mayFail(own, err, what)
	default:
		w.mustBe(inc, err, what, w.conf.collecting.gone()...)
	}
}
