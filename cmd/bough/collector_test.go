package main

import (
	"context"
	"log/slog"
	"math/rand/v2"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"github.com/bough-db/bough/cow"
	"github.com/bough-db/bough/objstore"
	"github.com/bough-db/bough/objstore/memstore"
	"github.com/bough-db/bough/objstore/meterstore"
	"github.com/bough-db/bough/vfs/memfs"
	"github.com/bough-db/bough/wal"
)

// runCollector returns a collector of a store in memory, in virtual time, that runs.
func runCollector(t *testing.T, change func(*collector)) (*collector, *cow.Store) {
	t.Helper()
	meter := meterstore.New(memstore.New(memstore.Options{}), nil)
	pool, err := wal.OpenPool(memfs.New(memfs.Options{}), filepath.Join("/", journalDir), wal.PoolOptions{MaxBytes: 256 << 20})
	if err != nil {
		t.Fatal(err)
	}
	keeps, err := cow.ParseRetention("every barrier for 1m")
	if err != nil {
		t.Fatal(err)
	}
	store, err := cow.OpenStore(t.Context(), cow.Options{Objects: meter, Journals: pool, Retention: &keeps, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	c := &collector{
		store: store, meter: meter, log: slog.New(slog.DiscardHandler), now: time.Now, every: collectEvery,
		pace: &pacer{busy: func() uint64 { return 0 }}, trim: func(context.Context) {},
	}
	if change != nil {
		change(c)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		c.run(ctx)
	}()
	t.Cleanup(func() {
		cancel()
		<-done
		if err := store.Close(context.Background()); err != nil {
			t.Error(err)
		}
		if err := pool.Close(); err != nil {
			t.Error(err)
		}
	})
	return c, store
}

// write makes n barriers of one block each, at the same place, one a second.
func write(t *testing.T, b *cow.Branch, n int) {
	t.Helper()
	p := make([]byte, cow.BlockSize)
	for i := range n {
		p[0], p[1] = byte(i), byte(i>>8)
		if err := b.WriteAt(t.Context(), p, 0); err != nil {
			t.Fatal(err)
		}
		if err := b.Flush(t.Context()); err != nil {
			t.Fatal(err)
		}
		<-time.After(time.Second)
	}
}

// TestCollectorByItself has the daemon's collector find out that there is something to
// do, do it, and then leave the store alone (I8).
func TestCollectorByItself(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, store := runCollector(t, nil)
		_, info, err := store.CreateProject(t.Context(), "demo", cow.ProjectOptions{Size: 1 << 20})
		if err != nil {
			t.Fatal(err)
		}
		b, err := store.Open(t.Context(), info.ID)
		if err != nil {
			t.Fatal(err)
		}
		write(t, b, 600)
		<-time.After(time.Hour)
		if s := c.state(); s.Runs < 2 || s.FreedBytes == 0 || s.Error != "" || s.Result.Waiting > 0 {
			t.Errorf("an hour after the last write: %+v, result %+v", s, s.Result)
		}
		usage := store.LastUsage()
		if usage == nil || usage.History > usage.Total/2 {
			t.Errorf("usage after that: %+v", usage)
		}
		before := c.meter.Snapshot().Total().Requests
		<-time.After(20 * time.Hour)
		if n := c.meter.Snapshot().Total().Requests - before; n != 0 {
			t.Errorf("%d requests while nobody did anything", n)
		}
		<-time.After(5 * time.Hour)
		if n := c.meter.Snapshot().Total().Requests - before; n == 0 {
			t.Error("not a look in a day")
		}
		if err := b.Close(t.Context()); err != nil {
			t.Error(err)
		}
	})
}

// TestCollectorUnderPressure has history take more than it may, long before the next
// round would be due.
func TestCollectorUnderPressure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, store := runCollector(t, func(c *collector) {
			c.historyBytes, c.every = 1<<20, 100*time.Minute
		})
		_, info, err := store.CreateProject(t.Context(), "demo", cow.ProjectOptions{Size: 1 << 30})
		if err != nil {
			t.Fatal(err)
		}
		b, err := store.Open(t.Context(), info.ID)
		if err != nil {
			t.Fatal(err)
		}
		err = store.UpdateBranch(t.Context(), info.ID, func(i *cow.BranchInfo) error {
			r, err := cow.ParseRetention("every barrier for 30d")
			i.Retention = &r
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		noise := rand.NewChaCha8([32]byte{})
		p := make([]byte, 1<<20)
		for range 80 {
			_, _ = noise.Read(p) // it never fails
			if err := b.WriteAt(t.Context(), p, 0); err != nil {
				t.Fatal(err)
			}
			if err := b.Flush(t.Context()); err != nil {
				t.Fatal(err)
			}
			<-time.After(10 * time.Second)
		}
		if s := c.state(); s.Pressure == nil || s.Pressure.BytesMax != 1<<20 || s.HistoryBytesMax != 1<<20 {
			t.Errorf("state under pressure: %+v", s)
		}
		if err := b.Close(t.Context()); err != nil {
			t.Error(err)
		}
	})
}

// TestPacer has the collector go slowly while somebody commits, quickly while nobody
// does, and not wait at all for somebody who waits for it.
func TestPacer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var commits uint64
		p := &pacer{busy: func() uint64 { return commits }}
		took := func(bytes int) time.Duration {
			began := time.Now()
			if err := p.wait(t.Context(), bytes); err != nil {
				t.Error(err)
			}
			return time.Since(began)
		}
		<-time.After(time.Minute)
		if d := took(paceIdle); d != time.Second {
			t.Errorf("alone: %v", d)
		}
		commits++
		if d := took(paceBusy); d != time.Second {
			t.Errorf("beside somebody who commits: %v", d)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := p.wait(ctx, 1<<30); err == nil {
			t.Error("a wait goes on after its context has ended")
		}
		end := p.hurry()
		if d := took(1 << 30); d != 0 {
			t.Errorf("in a hurry: %v", d)
		}
		end()
	})
}

// TestTurnPuts: a round that finds nothing to do must not look like a change.
func TestTurnPuts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, store := runCollector(t, func(c *collector) { c.every = 0 })
		before := c.meter.Snapshot()[objstore.VerbPut].Requests
		if rep, err := store.CollectInTurn(t.Context(), cow.CollectOptions{}, time.Hour); rep == nil || err != nil {
			t.Fatalf("collect in turn: %+v, %v", rep, err)
		}
		if n := c.meter.Snapshot()[objstore.VerbPut].Requests - before; n != turnPuts {
			t.Errorf("a turn takes %d puts, want %d", n, turnPuts)
		}
	})
}
