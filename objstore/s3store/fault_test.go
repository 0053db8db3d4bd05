package s3store_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/bough-db/bough/objstore"
	"github.com/bough-db/bough/objstore/s3store"
	"github.com/bough-db/bough/test/s3fault"
)

// callTime and retryFor are the limits in the worlds of these tests, where time costs
// nothing.
const (
	callTime = 10 * time.Second
	retryFor = time.Minute
)

// world is a store that meets faults, and what is behind it, without a network.
type world struct {
	*testing.T
	s     *s3store.Store // through trip
	trip  *s3fault.Trip
	plain *s3store.Store // the same place, reached without faults
}

// inWorld runs f in a bubble where time is fake, on a store with an object "k".
func inWorld(t *testing.T, f func(w *world)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		server := s3fault.Direct(fakeHandler(t))
		w := &world{T: t, trip: s3fault.ForTest(t, server)}
		const url = "s3://bough/p?endpoint=http://s3.test"
		w.s = open(t, url, s3store.Options{Wrap: w.trip.Wrap, CallTime: callTime, RetryFor: retryFor})
		w.plain = open(t, url, s3store.Options{Wrap: s3fault.New(server, 0).Wrap})
		w.stored("k", kBody)
		f(w)
	})
}

const kBody = "the object under k"

// stored puts an object behind the faults' back and returns its tag.
func (w *world) stored(key, body string) string {
	w.Helper()
	tag, err := w.plain.Put(w.Context(), key, []byte(body), objstore.Condition{})
	if err != nil {
		w.Fatal(err)
	}
	return tag
}

// has returns what is stored under key.
func (w *world) has(key string) string {
	w.Helper()
	p, _, err := w.plain.Get(w.Context(), key)
	if errors.Is(err, objstore.ErrNotExist) {
		return "(nothing)"
	}
	if err != nil {
		w.Fatal(err)
	}
	return string(p)
}

// calls are the calls that may be repeated, on the object k: each returns what it has
// found out, to be compared.
var calls = []struct {
	name string
	op   s3fault.Op
	body bool // its answer has one
	call func(w *world) (string, error)
	want string
}{
	{"Get", s3fault.Get, true, func(w *world) (string, error) {
		p, info, err := w.s.Get(w.Context(), "k")
		return fmt.Sprintf("%s %d", p, info.Size), err
	}, kBody + " 18"},
	{"ReadAt", s3fault.Get, true, func(w *world) (string, error) {
		p := make([]byte, 6)
		n, info, err := w.s.ReadAt(w.Context(), "k", p, 4)
		return fmt.Sprintf("%s %d", p[:n], info.Size), err
	}, "object 18"},
	{"ReadTail", s3fault.Get, true, func(w *world) (string, error) {
		p := make([]byte, 6)
		n, info, err := w.s.ReadAt(w.Context(), "k", p, -7)
		return fmt.Sprintf("%s %d", p[:n], info.Size), err
	}, "under  18"},
	{"List", s3fault.List, true, func(w *world) (string, error) {
		infos, err := w.s.List(w.Context(), "", "", 0)
		if err != nil || len(infos) != 1 {
			return fmt.Sprint(len(infos)), err
		}
		return fmt.Sprintf("%s %d", infos[0].Key, infos[0].Size), nil
	}, "k 18"},
	{"Delete", s3fault.Delete, false, func(w *world) (string, error) {
		err := w.s.Delete(w.Context(), "k")
		return w.has("k"), err
	}, "(nothing)"},
}

// sequential leaves a test of one goroutine after the other out of a short run, which is
// that under the race detector.
func sequential(t *testing.T) {
	t.Helper()
	if testing.Short() {
		t.Skip("has no races to show")
	}
}

// TestRepeated lets every call that may be repeated meet every fault that may pass,
// three times in a row: it succeeds all the same.
func TestRepeated(t *testing.T) {
	sequential(t)
	always := []s3fault.Fault{
		s3fault.Internal, s3fault.InternalAfter, s3fault.SlowDown, s3fault.Hang, s3fault.Lost, s3fault.ResetRequest,
		s3fault.ResetAfter, s3fault.Unreached,
	}
	withBody := append([]s3fault.Fault{s3fault.ResetResponse, s3fault.ShortBody}, always...)
	for _, c := range calls {
		faults := always
		if c.body {
			faults = withBody
		}
		for _, fault := range faults {
			t.Run(c.name+"/"+strings.ReplaceAll(string(fault), " ", "-"), func(t *testing.T) {
				inWorld(t, func(w *world) {
					w.trip.Add(s3fault.Rule{Op: c.op, Times: 3, Fault: fault})
					got, err := c.call(w)
					if err != nil || got != c.want {
						t.Errorf("got %q, %v, want %q", got, err, c.want)
					}
					if n := w.trip.Requests(c.op); n != 4 {
						t.Errorf("%d requests, want 4", n)
					}
				})
			})
		}
	}
}

// TestDamageIsRepeated: what a body's checksum or range gives away is asked for again.
func TestDamageIsRepeated(t *testing.T) {
	for _, test := range []struct {
		call  int
		fault s3fault.Fault
	}{
		{0, s3fault.FlipBit},
		{0, s3fault.WrongChecksum},
		{0, s3fault.Truncated},
		{1, s3fault.Truncated},
		{1, s3fault.WrongRange},
		{1, s3fault.IgnoreRange},
		{2, s3fault.Truncated},
		{2, s3fault.WrongRange},
		{2, s3fault.IgnoreRange},
		{3, s3fault.Truncated},
	} {
		c := calls[test.call]
		t.Run(c.name+"/"+string(test.fault), func(t *testing.T) {
			inWorld(t, func(w *world) {
				w.trip.Add(s3fault.Rule{Op: c.op, Times: 2, Fault: test.fault})
				got, err := c.call(w)
				if err != nil || got != c.want {
					t.Errorf("got %q, %v, want %q", got, err, c.want)
				}
				if n := w.trip.Met(test.fault); n != 2 {
					t.Errorf("met the fault %d times, want 2", n)
				}
			})
		})
	}
}

// TestFlippedPart says what is not noticed: a bit of a part, which no checksum of the
// store covers.
func TestFlippedPart(t *testing.T) {
	inWorld(t, func(w *world) {
		w.trip.Add(s3fault.Rule{Op: s3fault.Get, Fault: s3fault.FlipBit})
		got, err := calls[1].call(w)
		if err != nil || got == calls[1].want {
			t.Errorf("got %q, %v, want a flipped bit", got, err)
		}
	})
}

// TestStaleListing says what is not noticed either: a listing of a moment ago.
func TestStaleListing(t *testing.T) {
	inWorld(t, func(w *world) {
		list := func(want int) {
			t.Helper()
			infos, err := w.s.List(w.Context(), "", "", 0)
			if err != nil || len(infos) != want {
				t.Errorf("List: got %v, %v, want %d", infos, err, want)
			}
		}
		list(1)
		w.stored("l", "x")
		w.trip.Add(s3fault.Rule{Op: s3fault.List, Fault: s3fault.StaleList})
		list(1)
		list(2)
	})
}

// TestGivesUp: a fault that does not pass ends a call after the time that was set for
// it, and the error says how it was.
func TestGivesUp(t *testing.T) {
	for _, c := range calls {
		t.Run(c.name, func(t *testing.T) {
			inWorld(t, func(w *world) {
				w.trip.SetRates(s3fault.Rate{Op: c.op, Fault: s3fault.SlowDown, P: 1})
				begun := time.Now()
				_, err := c.call(w)
				if err == nil || !strings.Contains(err.Error(), "503 SlowDown: Please reduce your request rate. (request FAULT) (tried ") {
					t.Errorf("got error %v, want the server's", err)
				}
				if took := time.Since(begun); took < retryFor-6*time.Second || took > retryFor {
					t.Errorf("it was tried for %v, want nearly %v", took, retryFor)
				}
				if n := w.trip.Requests(c.op); n < 15 || n > 40 {
					t.Errorf("%d requests in %v", n, retryFor)
				}
			})
		})
	}
}

// TestNobodyThere: where no server is, the error says so, of puts too.
func TestNobodyThere(t *testing.T) {
	inWorld(t, func(w *world) {
		w.trip.SetRates(s3fault.Rate{Fault: s3fault.Unreached, P: 1})
		_, _, err := w.s.Get(w.Context(), "k")
		checkFinal(t, err, "connection refused: is the endpoint right, and does the server run? (tried ")
		_, err = w.s.Put(w.Context(), "n", []byte("x"), objstore.Condition{IfAbsent: true})
		checkFinal(t, err, "connection refused: is the endpoint right, and does the server run? (tried ")
	})
}

// TestFinal lets calls meet what cannot pass: one request, and a line that says what
// to do. None of it is "not there".
func TestFinal(t *testing.T) {
	sequential(t)
	for _, test := range []struct {
		fault s3fault.Fault
		want  string
	}{
		{s3fault.Denied, "allow these credentials s3:GetObject, s3:PutObject, s3:DeleteObject and s3:ListBucket"},
		{s3fault.NoBucket, `there is no bucket "bough": create it, or correct the URL`},
		{s3fault.Elsewhere, "write region=" + s3fault.Region + " in the URL"},
		{s3fault.NotS3, "is the endpoint that of an S3 server?"},
	} {
		for _, c := range calls {
			t.Run(c.name+"/"+string(test.fault), func(t *testing.T) {
				inWorld(t, func(w *world) {
					w.trip.SetRates(s3fault.Rate{Fault: test.fault, P: 1})
					_, err := c.call(w)
					checkFinal(t, err, test.want)
					if n := w.trip.Requests(s3fault.Any); n != 1 {
						t.Errorf("%d requests, want 1", n)
					}
				})
			})
		}
		t.Run("Put/"+string(test.fault), func(t *testing.T) {
			inWorld(t, func(w *world) {
				w.trip.SetRates(s3fault.Rate{Fault: test.fault, P: 1})
				_, err := w.s.Put(w.Context(), "n", []byte("x"), objstore.Condition{IfMatch: "t"})
				checkFinal(t, err, test.want)
				if n := w.trip.Requests(s3fault.Any); n != 1 {
					t.Errorf("%d requests, want 1", n)
				}
			})
		})
	}
}

// checkFinal wants an error of one line that says want and is no sentinel.
func checkFinal(t *testing.T, err error, want string) {
	t.Helper()
	if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "\n") {
		t.Fatalf("got error %v, want one line that says %q", err, want)
	}
	for _, sentinel := range []error{objstore.ErrNotExist, objstore.ErrExists, objstore.ErrMismatch, objstore.ErrFull} {
		if errors.Is(err, sentinel) {
			t.Errorf("error %v is %v", err, sentinel)
		}
	}
}

// TestRangesIgnored: a server that knows no ranges is refused, not believed.
func TestRangesIgnored(t *testing.T) {
	inWorld(t, func(w *world) {
		w.trip.SetRates(s3fault.Rate{Op: s3fault.Get, Fault: s3fault.IgnoreRange, P: 1})
		_, err := calls[1].call(w)
		checkFinal(t, err, "wrong range: asked for bytes=4-9 of 18 bytes, announced bytes 0-17")
		// Where all is asked for, all is right.
		p := make([]byte, 100)
		n, _, err := w.s.ReadAt(w.Context(), "k", p, 0)
		if err != nil || string(p[:n]) != kBody {
			t.Errorf("ReadAt of all: got %q, %v", p[:n], err)
		}
	})
}

// TestCancelled: a context ends waits of every kind at once.
func TestCancelled(t *testing.T) {
	for _, fault := range []s3fault.Fault{s3fault.Hang, s3fault.SlowDown, s3fault.Lost} {
		t.Run(string(fault), func(t *testing.T) {
			inWorld(t, func(w *world) {
				w.trip.SetRates(s3fault.Rate{Fault: fault, P: 1})
				ctx, cancel := contextFor(w, 3*time.Second)
				defer cancel()
				begun := time.Now()
				_, _, err := w.s.Get(ctx, "k")
				if !errors.Is(err, errGone) && !errors.Is(err, ctx.Err()) || time.Since(begun) != 3*time.Second {
					t.Errorf("got error %v after %v, want %v after 3s", err, time.Since(begun), ctx.Err())
				}
			})
		})
	}
}
