package s3store_test

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/bough-db/bough/test/s3fault"
)

// read reads a part of k and returns how long it took.
func (w *world) read() time.Duration {
	w.Helper()
	begun := time.Now()
	p := make([]byte, 6)
	n, info, err := w.s.ReadAt(w.Context(), "k", p, 4)
	if err != nil || string(p[:n]) != "object" || info.Size != int64(len(kBody)) {
		w.Errorf("ReadAt: got %q, %+v, %v", p[:n], info, err)
	}
	return time.Since(begun)
}

// delay lets every request for a part take d.
func (w *world) delay(d time.Duration) {
	w.trip.Heal()
	w.trip.Add(s3fault.Rule{Op: s3fault.Get, Times: -1, Wait: s3fault.Pause(d)})
}

// TestHedge: a read that is slow gets a second request, and the first answer counts.
func TestHedge(t *testing.T) {
	inWorld(t, func(w *world) {
		slow := s3fault.Rule{Op: s3fault.Get, Wait: s3fault.Pause(5 * time.Second)}
		// Nothing is known yet: it is slow after half a second.
		w.trip.Add(slow)
		if took := w.read(); took != 500*time.Millisecond {
			t.Errorf("first slow read took %v, want 500ms", took)
		}
		w.delay(20 * time.Millisecond)
		for range 64 {
			w.read()
		}
		// Now it is after three times 20 ms.
		w.trip.Heal()
		w.trip.Add(slow)
		if took := w.read(); took != 60*time.Millisecond {
			t.Errorf("slow read took %v, want 60ms", took)
		}
		if st := w.s.Stats(); st.Hedges != 2 || st.HedgesWon != 2 || st.Retries != 0 {
			t.Errorf("got %+v, want 2 hedges, both won", st)
		}
	})
}

// TestHedgeLoses: the first request answers after all.
func TestHedgeLoses(t *testing.T) {
	inWorld(t, func(w *world) {
		w.trip.Add(s3fault.Rule{Op: s3fault.Get, Wait: s3fault.Pause(700 * time.Millisecond)})
		w.trip.Add(s3fault.Rule{Op: s3fault.Get, Wait: s3fault.Pause(time.Hour)})
		if took := w.read(); took != 700*time.Millisecond {
			t.Errorf("it took %v, want 700ms", took)
		}
		if st := w.s.Stats(); st.Hedges != 1 || st.HedgesWon != 0 {
			t.Errorf("got %+v, want one hedge that lost", st)
		}
	})
}

// TestHedgeOutlivesFailure: as long as one of the two may succeed, the other's failure
// is no news; and when both have failed, it is tried again.
func TestHedgeOutlivesFailure(t *testing.T) {
	inWorld(t, func(w *world) {
		w.trip.Add(s3fault.Rule{Op: s3fault.Get, Fault: s3fault.ResetAfter, Wait: s3fault.Pause(600 * time.Millisecond)})
		w.trip.Add(s3fault.Rule{Op: s3fault.Get, Wait: s3fault.Pause(time.Second)})
		if took := w.read(); took != 1500*time.Millisecond {
			t.Errorf("it took %v, want the second request's 1.5s", took)
		}
		w.trip.Add(s3fault.Rule{Op: s3fault.Get, Times: 2, Fault: s3fault.ResetAfter, Wait: s3fault.Pause(600 * time.Millisecond)})
		w.read()
		if st := w.s.Stats(); st.Retries != 1 {
			t.Errorf("got %+v, want one retry", st)
		}
	})
}

// TestHedgesAreFew: where everything is slow, second requests stay one in twenty.
func TestHedgesAreFew(t *testing.T) {
	inWorld(t, func(w *world) {
		w.delay(20 * time.Millisecond)
		for range 200 {
			w.read()
		}
		before := w.trip.Requests(s3fault.Get)
		w.delay(4 * time.Second)
		var wg sync.WaitGroup
		const reads = 400
		for range reads {
			wg.Go(func() { w.read() })
		}
		wg.Wait()
		// Those that were saved up, and one for each twenty reads.
		st := w.s.Stats()
		if st.Hedges < 8 || st.Hedges > 10+reads/20 {
			t.Errorf("%d second requests for %d slow reads", st.Hedges, reads)
		}
		if n := w.trip.Requests(s3fault.Get) - before; int64(n) != reads+st.Hedges {
			t.Errorf("%d requests, want %d and %d", n, reads, st.Hedges)
		}
	})
}

// TestHedgeCancelled: when the caller gives up, both requests have ended before the call
// does, and nothing touches the buffer any more.
func TestHedgeCancelled(t *testing.T) {
	inWorld(t, func(w *world) {
		w.delay(time.Hour)
		ctx, cancel := contextFor(w, 2*time.Second)
		defer cancel()
		begun := time.Now()
		p := make([]byte, 6)
		if _, _, err := w.s.ReadAt(ctx, "k", p, 0); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got error %v", err)
		}
		if took := time.Since(begun); took != 2*time.Second {
			t.Errorf("it took %v, want 2s", took)
		}
		if n := w.trip.Requests(s3fault.Get); n != 2 {
			t.Errorf("%d requests, want 2", n)
		}
	})
}
