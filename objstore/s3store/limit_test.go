package s3store_test

import (
	"bytes"
	"testing"
	"time"

	"github.com/bough-db/bough/objstore"
	"github.com/bough-db/bough/test/s3fault"
)

// TestSlowBody: a body has time in proportion to its length, and no more.
func TestSlowBody(t *testing.T) {
	const size = 1 << 20 // 8 s more, at 128 KiB/s; it comes 1 KiB at a time
	for _, test := range []struct {
		name  string
		every time.Duration
		slow  int // how many answers are
		took  time.Duration
	}{
		{"in time", 17 * time.Millisecond, 1, 1025 * 17 * time.Millisecond},
		{"too slow once", time.Second, 1, 18 * time.Second},
	} {
		t.Run(test.name, func(t *testing.T) {
			inWorld(t, func(w *world) {
				body := bytes.Repeat([]byte("0123456789abcdef"), size/16)
				w.stored("large", string(body))
				w.trip.Add(s3fault.Rule{Op: s3fault.Get, Times: test.slow, Fault: s3fault.SlowBody, Wait: s3fault.Pause(test.every)})
				begun := time.Now()
				got, _, err := w.s.Get(w.Context(), "large")
				if err != nil || !bytes.Equal(got, body) {
					t.Errorf("Get: %d bytes, %v", len(got), err)
				}
				if took := time.Since(begun); took < test.took || took > test.took+time.Second {
					t.Errorf("it took %v, want %v", took, test.took)
				}
			})
		})
	}
}

// TestPutTime: a put has time in proportion to its body.
func TestPutTime(t *testing.T) {
	for _, size := range []int{0, 128 << 10, 16 << 20} {
		inWorld(t, func(w *world) {
			w.trip.Add(s3fault.Rule{Op: s3fault.Put, Fault: s3fault.Hang})
			begun := time.Now()
			_, err := w.s.Put(w.Context(), "n", make([]byte, size), objstore.Condition{})
			checkFinal(t, err, "no answer in time")
			want := callTime + time.Duration(size)*time.Second/(128<<10)
			if took := time.Since(begun); took < want-time.Second || took > want+time.Second {
				t.Errorf("a put of %d bytes was given up after %v, want %v", size, took, want)
			}
		})
	}
}
