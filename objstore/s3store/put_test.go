package s3store_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/bough-db/bough/objstore"
	"github.com/bough-db/bough/test/s3fault"
)

// TestPutFaults lets conditional puts meet every fault: what is returned, what is
// stored, and how many requests it took.
func TestPutFaults(t *testing.T) {
	sequential(t)
	const body = "the new object"
	absent := objstore.Condition{IfAbsent: true}
	open := errors.New("none of the sentinels") // it may or may not have happened
	for _, test := range []struct {
		name   string
		fault  s3fault.Fault
		times  int
		key    string // n is not there, k is
		cond   objstore.Condition
		want   error
		stored string
		puts   int
	}{
		{"500 before", s3fault.Internal, 1, "n", absent, open, "(nothing)", 1},
		{"500 after", s3fault.InternalAfter, 1, "n", absent, open, body, 1},
		{"503", s3fault.SlowDown, 1, "n", absent, open, "(nothing)", 1},
		{"hang", s3fault.Hang, 1, "n", absent, open, "(nothing)", 1},
		{"lost answer", s3fault.Lost, 1, "n", absent, open, body, 1},
		{"reset instead of an answer", s3fault.ResetAfter, 1, "n", absent, open, body, 1},
		{"lost answer, lost race", s3fault.Lost, 1, "k", absent, open, kBody, 1},
		{"409 thrice", s3fault.Conflict, 3, "n", absent, nil, body, 4},
		{"409 and then a lost race", s3fault.Conflict, 2, "k", absent, objstore.ErrExists, kBody, 3},
		{"412 of a create", s3fault.Refused, 1, "n", absent, objstore.ErrExists, "(nothing)", 1},
		{"412 of a replace", s3fault.Refused, 1, "k", objstore.Condition{IfMatch: "current"}, objstore.ErrMismatch, kBody, 1},
		{"412 without condition", s3fault.Refused, 1, "n", objstore.Condition{}, open, "(nothing)", 1},
		{"no connection", s3fault.Unreached, 4, "n", absent, nil, body, 5},
		{"reset in the body", s3fault.ResetRequest, 2, "n", absent, nil, body, 3},
		{"reset in the body of a create that has lost", s3fault.ResetRequest, 1, "k", absent, objstore.ErrExists, kBody, 1},
		{"reset in the body of a replace", s3fault.ResetRequest, 1, "k", objstore.Condition{IfMatch: "current"}, nil, body, 2},
		{"reset in the body of a replace that has lost", s3fault.ResetRequest, 1, "k", objstore.Condition{IfMatch: "old"}, objstore.ErrMismatch, kBody, 1},
		{"reset in the body of an unconditional put", s3fault.ResetRequest, 2, "k", objstore.Condition{}, nil, body, 3},
		{"clock", s3fault.Skewed, 1, "n", absent, nil, body, 2},
		{"expired", s3fault.Expired, 1, "n", absent, nil, body, 2},
	} {
		t.Run(test.name, func(t *testing.T) {
			inWorld(t, func(w *world) {
				cond := test.cond
				if cond.IfMatch == "current" {
					cond.IfMatch = w.stored("k", kBody)
				}
				w.trip.Add(s3fault.Rule{Op: s3fault.Put, Times: test.times, Fault: test.fault})
				tag, err := w.s.Put(w.Context(), test.key, []byte(body), cond)
				switch {
				case test.want == open:
					checkFinal(t, err, "put "+test.key)
				case !errors.Is(err, test.want):
					t.Errorf("got error %v, want %v", err, test.want)
				case err == nil && tag == "":
					t.Error("no tag")
				}
				if got := w.has(test.key); got != test.stored {
					t.Errorf("%q is stored, want %q", got, test.stored)
				}
				if n := w.trip.Requests(s3fault.Put); n != test.puts {
					t.Errorf("%d puts, want %d", n, test.puts)
				}
			})
		})
	}
}

// TestPutLate: a put that was given up takes effect later, unless its condition does
// not hold any more.
func TestPutLate(t *testing.T) {
	for _, overtaken := range []bool{false, true} {
		inWorld(t, func(w *world) {
			tag := w.stored("m", "generation 1")
			w.trip.Add(s3fault.Rule{Op: s3fault.Put, Fault: s3fault.Late, Wait: s3fault.Pause(time.Minute)})
			_, err := w.s.Put(w.Context(), "m", []byte("generation 2"), objstore.Condition{IfMatch: tag})
			checkFinal(t, err, "no answer in time: 10.")
			if got := w.has("m"); got != "generation 1" {
				t.Errorf("%q is stored before the put arrives", got)
			}
			want := "generation 2"
			if overtaken {
				want = "generation 2 of another writer"
				if _, err := w.s.Put(w.Context(), "m", []byte(want), objstore.Condition{IfMatch: tag}); err != nil {
					t.Fatal(err)
				}
			}
			w.trip.Settle()
			if got := w.has("m"); got != want {
				t.Errorf("%q is stored in the end, want %q", got, want)
			}
		})
	}
}

// TestClock: a clock that stays wrong is named.
func TestClock(t *testing.T) {
	inWorld(t, func(w *world) {
		w.trip.SetRates(s3fault.Rate{Fault: s3fault.Skewed, P: 1})
		_, _, err := w.s.Get(w.Context(), "k")
		checkFinal(t, err, "set the clock of this machine, which says 2000-01-01")
		if n := w.trip.Requests(s3fault.Get); n != 2 {
			t.Errorf("%d requests, want 2", n)
		}
	})
}

var errGone = context.DeadlineExceeded

func contextFor(w *world, d time.Duration) (context.Context, context.CancelFunc) {
	return context.WithTimeout(w.Context(), d)
}

// TestNoSecrets: whatever goes wrong, no error has a credential in it.
func TestNoSecrets(t *testing.T) {
	sequential(t)
	for _, fault := range []s3fault.Fault{s3fault.Denied, s3fault.Expired, s3fault.Skewed, s3fault.Internal, s3fault.Unreached, s3fault.Hang, s3fault.Elsewhere, s3fault.NotS3} {
		inWorld(t, func(w *world) {
			w.trip.SetRates(s3fault.Rate{Fault: fault, P: 1})
			for _, c := range calls {
				if _, err := c.call(w); err == nil || strings.Contains(err.Error(), "fake") {
					t.Errorf("%s, %s: error %v", c.name, fault, err)
				}
			}
		})
	}
}
