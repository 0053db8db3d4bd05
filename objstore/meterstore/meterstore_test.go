package meterstore_test

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/bough-db/bough/objstore"
	"github.com/bough-db/bough/objstore/memstore"
	"github.com/bough-db/bough/objstore/meterstore"
	"github.com/bough-db/bough/objstore/storetest"
)

func TestConformance(t *testing.T) {
	storetest.Run(t, func(t *testing.T) objstore.Store {
		return meterstore.New(memstore.New(memstore.Options{}), nil)
	})
}

// clock goes on by a second at each reading.
type clock struct {
	mu sync.Mutex
	t  time.Time
}

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.t = c.t.Add(time.Second)
	return c.t
}

func TestCounts(t *testing.T) {
	s := meterstore.New(memstore.New(memstore.Options{}), new(clock).now)
	ctx := t.Context()
	cancelled, cancel := context.WithCancel(ctx)
	cancel()

	_, _ = s.Put(ctx, "a", []byte("12345"), objstore.Condition{IfAbsent: true})
	_, _ = s.Put(ctx, "a", []byte("123"), objstore.Condition{IfAbsent: true}) // refused
	_, _, _ = s.Get(ctx, "a")
	_, _, _ = s.Get(ctx, "b") // refused
	before := s.Snapshot()
	_, _, _ = s.Get(cancelled, "a") // failed
	_, _, _ = s.ReadAt(ctx, "a", make([]byte, 100), -2)
	_, _ = s.List(ctx, "", "", 0)
	_ = s.Delete(ctx, "a")

	want := meterstore.Snapshot{
		objstore.VerbGet:    {Requests: 3, Refusals: 1, Failures: 1, Bytes: 5, Time: 3 * time.Second},
		objstore.VerbReadAt: {Requests: 1, Bytes: 2, Time: time.Second},
		objstore.VerbPut:    {Requests: 2, Refusals: 1, Bytes: 8, Time: 2 * time.Second},
		objstore.VerbList:   {Requests: 1, Time: time.Second},
		objstore.VerbDelete: {Requests: 1, Time: time.Second},
	}
	if diff := cmp.Diff(want, s.Snapshot()); diff != "" {
		t.Errorf("Snapshot (-want +got):\n%s", diff)
	}
	total := meterstore.Counts{Requests: 8, Refusals: 2, Failures: 1, Bytes: 15, Time: 8 * time.Second}
	if diff := cmp.Diff(total, s.Snapshot().Total()); diff != "" {
		t.Errorf("Total (-want +got):\n%s", diff)
	}
	since := meterstore.Counts{Requests: 4, Failures: 1, Bytes: 2, Time: 4 * time.Second}
	if diff := cmp.Diff(since, s.Snapshot().Sub(before).Total()); diff != "" {
		t.Errorf("Sub (-want +got):\n%s", diff)
	}
}

// waiting is a store whose Get waits.
type waiting struct {
	objstore.Store
	entered, leave chan struct{}
}

func (s waiting) Get(context.Context, string) ([]byte, objstore.Info, error) {
	s.entered <- struct{}{}
	<-s.leave
	return nil, objstore.Info{}, errors.New("no")
}

func TestInFlight(t *testing.T) {
	inner := waiting{entered: make(chan struct{}), leave: make(chan struct{})}
	s := meterstore.New(inner, nil)
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() { _, _, _ = s.Get(t.Context(), "k") })
		<-inner.entered
	}
	if got := s.Snapshot()[objstore.VerbGet]; got.InFlight != 2 || got.Requests != 0 {
		t.Errorf("got %+v, want 2 in flight and none ended", got)
	}
	close(inner.leave)
	wg.Wait()
	if got := s.Snapshot()[objstore.VerbGet]; got.InFlight != 0 || got.Requests != 2 || got.Failures != 2 {
		t.Errorf("got %+v, want 2 ended and failed, none in flight", got)
	}
}
