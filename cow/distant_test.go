package cow

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/bough-db/bough/objstore"
	"github.com/bough-db/bough/objstore/memstore"
)

// distant is a store whose every answer takes one round trip of virtual time, so
// that the time that something takes tells how many requests wait for one another.
type distant struct {
	objstore.Store
	mu       sync.Mutex
	requests []string // what was asked for, in the order of asking
	inFlight int
	most     int // in flight at the same time
}

// roundTrip is what a request takes.
const roundTrip = 20 * time.Millisecond

func (d *distant) take(what string) func() {
	d.mu.Lock()
	d.requests = append(d.requests, what)
	d.inFlight++
	d.most = max(d.most, d.inFlight)
	d.mu.Unlock()
	return func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		d.inFlight--
	}
}

// away waits for the answer, or for the end of ctx.
func away(ctx context.Context) error {
	timer := time.NewTimer(roundTrip)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (d *distant) Get(ctx context.Context, key string) ([]byte, objstore.Info, error) {
	defer d.take("get " + key)()
	if err := away(ctx); err != nil {
		return nil, objstore.Info{}, err
	}
	return d.Store.Get(ctx, key)
}

func (d *distant) ReadAt(ctx context.Context, key string, p []byte, off int64) (int, objstore.Info, error) {
	defer d.take(fmt.Sprintf("read %s %d+%d", key, off, len(p)))()
	if err := away(ctx); err != nil {
		return 0, objstore.Info{}, err
	}
	return d.Store.ReadAt(ctx, key, p, off)
}

func (d *distant) Put(ctx context.Context, key string, data []byte, cond objstore.Condition) (string, error) {
	defer d.take("put " + key)()
	if err := away(ctx); err != nil {
		return "", err
	}
	return d.Store.Put(ctx, key, data, cond)
}

func (d *distant) List(ctx context.Context, prefix, after string, limit int) ([]objstore.Info, error) {
	defer d.take("list " + prefix)()
	if err := away(ctx); err != nil {
		return nil, err
	}
	return d.Store.List(ctx, prefix, after, limit)
}

// forget begins a new count.
func (d *distant) forget() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.requests, d.most = nil, 0
}

// trips fails the test unless f takes at most so many requests that wait for one
// another.
func (d *distant) trips(t *testing.T, what string, most int, f func()) {
	t.Helper()
	d.forget()
	began := time.Now()
	f()
	got := int(time.Since(began) / roundTrip)
	d.mu.Lock()
	defer d.mu.Unlock()
	t.Logf("%s: %d round trips, %d requests, %d at the same time", what, got, len(d.requests), d.most)
	if got > most {
		t.Errorf("%s takes %d round trips, want at most %d: %q", what, got, most, d.requests)
	}
}

// distantHosts starts two hosts with the same store, the second of which finds it
// a round trip away.
func distantHosts(t *testing.T, opts Options) (near, far *world, d *distant) {
	t.Helper()
	mem := memstore.New(memstore.Options{})
	near = &world{t: t, objects: mem, opts: opts}
	near.mustStart()
	t.Cleanup(near.stop)
	d = &distant{Store: mem}
	far = &world{t: t, objects: d, opts: opts}
	far.mustStart()
	t.Cleanup(far.stop)
	return near, far, d
}

// Opening a branch that is detached takes two round trips, whatever it holds: its
// manifest; the conditional put of it, and meanwhile the tree's root. So does a
// branch of it that nobody has opened yet.
func TestOpenRoundTrips(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, far, d := distantHosts(t, Options{SealAfter: time.Second, CheckpointSegments: 4})
		ctx := context.Background()
		b := near.makeProject("p", 1<<30)
		var inside BranchInfo // begins at a barrier between two checkpoints
		for i := range 50 {
			for j := range 20 {
				near.writeUnflushed(b, uint64(i*5000+j*3), uint64(i+1))
			}
			near.write(b, uint64(i), uint64(i+1))
			wait(2 * time.Second)
			if i == 46 {
				var err error
				if inside, err = near.store.CreateBranch(ctx, "p", "inside", BranchOptions{From: b.ID()}); err != nil {
					t.Fatal(err)
				}
				near.store.forked.Purge()
			}
		}
		near.closeBranch(b)
		child, err := near.store.CreateBranch(ctx, "p", "c", BranchOptions{From: b.ID()})
		if err != nil {
			t.Fatal(err)
		}
		var c *Branch
		d.trips(t, "opening a new branch", 2, func() { c = far.open(child.ID) })
		far.expect(c, 49, 50)
		far.closeBranch(c)
		d.trips(t, "opening a branch that was opened before", 2, func() { c = far.open(child.ID) })
		far.expect(c, 48, 49)
		far.closeBranch(c)
		d.trips(t, "opening a detached branch", 2, func() { b = far.open(b.ID()) })
		far.expect(b, 47, 48)
		far.closeBranch(b)
		// The manifest; a list and a guess; the checkpoint; the footers since.
		d.trips(t, "opening a branch of a barrier between checkpoints", 4, func() { c = far.open(inside.ID) })
		far.expect(c, 46, 47)
		far.expect(c, 47, 0)
		far.closeBranch(c)
	})
}

// A name is looked up once: after that the manifest tells whether it is still that
// branch's. What another host did to it is seen all the same.
func TestNameRoundTrips(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, far, d := distantHosts(t, Options{})
		ctx := context.Background()
		if _, _, err := near.store.CreateProject(ctx, "p", ProjectOptions{Size: 1 << 30}); err != nil {
			t.Fatal(err)
		}
		look := func(name string, trips int, want error) (id BranchID) {
			t.Helper()
			d.trips(t, "looking "+name+" up", trips, func() {
				info, err := far.store.Branch(ctx, "p", name)
				if !errors.Is(err, want) {
					t.Errorf("%s: %v, want %v", name, err, want)
				}
				id = info.ID
			})
			return id
		}
		main := look("main", 2, nil)
		look("main", 1, nil)
		look("other", 1, ErrNotFound)
		if err := near.store.RenameBranch(ctx, "p", "main", "other"); err != nil {
			t.Fatal(err)
		}
		look("main", 2, ErrNotFound)
		if id := look("other", 2, nil); id != main {
			t.Errorf("other is %s, want %s", id, main)
		}
		again, err := near.store.CreateBranch(ctx, "p", "main", BranchOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if err := near.store.DeleteBranch(ctx, "p", "other"); err != nil {
			t.Fatal(err)
		}
		look("other", 2, ErrNotFound)
		if id := look("main", 2, nil); id != again.ID {
			t.Errorf("main is %s, want %s", id, again.ID)
		}
	})
}
