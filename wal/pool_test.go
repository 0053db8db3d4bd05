package wal

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"testing"
	"testing/synctest"

	"golang.org/x/sys/unix"

	"github.com/bough-db/bough/vfs"
	"github.com/bough-db/bough/vfs/faultfs"
	"github.com/bough-db/bough/vfs/memfs"
)

func TestOptions(t *testing.T) {
	for _, o := range []PoolOptions{
		{FileBytes: 5000}, {FileBytes: 4096}, {FileBytes: 2 << 30}, {FileBytes: 1 << 20, MaxBytes: 1 << 19}, {Spare: -1},
	} {
		if p, err := OpenPool(memfs.New(memfs.Options{}), "j", o); err == nil {
			_ = p.Close()
			t.Errorf("options %+v were accepted", o)
		}
	}
}

func TestPoolIsLocked(t *testing.T) {
	dir := t.TempDir()
	o := testOptions()
	p := openPool(t, vfs.OS(), dir, o)
	if _, err := OpenPool(vfs.OS(), dir, o); !errors.Is(err, vfs.ErrLocked) {
		t.Fatalf("second pool: %v", err)
	}
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
	openPool(t, vfs.OS(), dir, o)
}

func TestCreateRefusesBadLogs(t *testing.T) {
	p := openPool(t, memfs.New(memfs.Options{}), "j", testOptions())
	for _, log := range []string{"", string(make([]byte, LogMax+1))} {
		if _, err := p.Create(context.Background(), Header{Log: log}); err == nil {
			t.Errorf("log id of %d bytes was accepted", len(log))
		}
	}
}

// budget is a pool of n files inside a synctest bubble, where waiting can be seen.
func budget(t *testing.T, n int64) *Pool {
	o := testOptions()
	o.MaxBytes = n * o.FileBytes
	return openPool(t, memfs.New(memfs.Options{}), "j", o)
}

// asking is a Create under way.
type asking struct {
	j    *Journal
	err  error
	done bool
}

func ask(ctx context.Context, p *Pool, log string) *asking {
	a := &asking{}
	go func() {
		a.j, a.err = p.Create(ctx, Header{Log: log, Segment: 1})
		a.done = true
	}()
	return a
}

func TestBudgetBlocksInOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := budget(t, 2)
		first, second := create(t, p, "a", 1), create(t, p, "a", 2)
		ctx, cancel := context.WithCancel(t.Context())
		b, c, d := ask(t.Context(), p, "b"), (*asking)(nil), (*asking)(nil)
		synctest.Wait()
		c = ask(ctx, p, "c")
		synctest.Wait()
		d = ask(t.Context(), p, "d")
		synctest.Wait()
		if b.done || c.done || d.done || p.Stats().Waiting != 3 {
			t.Fatalf("budget of 2 files gave out more: %+v", p.Stats())
		}
		cancel()
		synctest.Wait()
		if !errors.Is(c.err, context.Canceled) {
			t.Fatalf("cancelled Create: %v", c.err)
		}
		first.Release()
		synctest.Wait()
		if !b.done || b.err != nil || d.done {
			t.Fatalf("first in line was not served first: b %v, d %v", b.done, d.done)
		}
		second.Release()
		synctest.Wait()
		if !d.done || d.err != nil {
			t.Fatal("last in line was not served")
		}
		b.j.Release()
		d.j.Release()
		if err := p.Close(); err != nil {
			t.Fatal(err)
		}
	})
}

// TestReserve: a log that floods leaves one file for each log that reserved one,
// and a log that comes for its own does not wait behind those that want more.
func TestReserve(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := budget(t, 4)
		free := map[string]func(){}
		for _, log := range []string{"a", "b", "c"} {
			var err error
			if free[log], err = p.Reserve(log); err != nil {
				t.Fatal(err)
			}
		}
		own, shared := create(t, p, "a", 1), create(t, p, "a", 2)
		more := ask(t.Context(), p, "a")
		synctest.Wait()
		other := ask(t.Context(), p, "x")
		synctest.Wait()
		if more.done || other.done {
			t.Fatal("the files reserved for b and c were given away")
		}
		b := ask(t.Context(), p, "b")
		synctest.Wait()
		if !b.done || b.err != nil {
			t.Fatal("b did not get its file at once")
		}
		b2 := ask(t.Context(), p, "b")
		synctest.Wait()
		if b2.done {
			t.Fatal("b got the file of c")
		}
		free["c"]()
		free["c"]() // does nothing
		synctest.Wait()
		if !more.done || more.err != nil || other.done || b2.done {
			t.Fatal("the end of a reservation did not serve the first in line")
		}
		own.Release()
		synctest.Wait()
		if !other.done || b2.done {
			t.Fatal("a released file did not serve the next in line")
		}
		for _, j := range []*Journal{shared, b.j, more.j, other.j} {
			j.Release()
		}
		synctest.Wait()
		if !b2.done || b2.err != nil {
			t.Fatal("b is still waiting")
		}
		if err := p.Close(); err != nil {
			t.Fatal(err)
		}
	})
}

func TestReserveWithinBudget(t *testing.T) {
	p := budget(t, 2)
	for _, log := range []string{"a", "b", "a"} {
		if _, err := p.Reserve(log); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := p.Reserve("c"); !errors.Is(err, ErrBudget) {
		t.Fatalf("third reservation of two files: %v", err)
	}
}

// TestManyWriters: fifty logs share a budget of barely more files, one of them
// wanting as many as it can get, and all of them finish.
func TestManyWriters(t *testing.T) {
	p := budget(t, 52)
	var wg sync.WaitGroup
	for n := range 50 {
		log := fmt.Sprintf("log-%d", n)
		free, err := p.Reserve(log)
		if err != nil {
			t.Fatal(err)
		}
		segments := 5
		if n == 0 {
			segments = 100
		}
		wg.Go(func() {
			defer free()
			var mine []*Journal
			for s := range segments {
				if len(mine) > 2 {
					mine[0].Release()
					mine = mine[1:]
				}
				ctx, cancel := context.WithCancel(t.Context())
				j, err := p.Create(ctx, Header{Log: log, Segment: SegmentNo(s + 1)})
				cancel()
				if err != nil {
					t.Error(err)
					return
				}
				write(t, j, meta(Seq(s+1), true), record(t, p, Seq(s+1), 1))
				if n == 0 {
					mine = append(mine, j)
				} else {
					j.Release()
				}
			}
			for _, j := range mine {
				j.Release()
			}
		})
	}
	wg.Wait()
	p.quiesce()
	if s := p.Stats(); s.Used != 0 || s.Waiting != 0 || s.Spare > s.Files {
		t.Fatalf("afterwards: %+v", s)
	}
}

// TestDiskFull: a full disk is met when a file is made, before anything is
// acknowledged; it takes nothing with it, and passes.
func TestDiskFull(t *testing.T) {
	mem := memfs.New(memfs.Options{Capacity: 3*64<<10 + 5000})
	o := testOptions()
	o.MaxBytes = 8 * o.FileBytes
	p := openPool(t, mem, "/journal", o)
	var js []*Journal
	for n := range SegmentNo(3) {
		j := create(t, p, "a", n+1)
		write(t, j, meta(Seq(n+1), true), record(t, p, Seq(n+1), 1))
		js = append(js, j)
	}
	for range 2 {
		_, err := p.Create(t.Context(), Header{Log: "a", Segment: 4})
		if !errors.Is(err, ErrFull) || !errors.Is(err, unix.ENOSPC) {
			t.Fatalf("Create on a full disk: %v", err)
		}
		if used := mem.Used(); used != 3*64<<10 {
			t.Fatalf("the file that could not be made takes %d bytes", used-3*64<<10)
		}
	}
	write(t, js[2], meta(4, true), record(t, p, 4, 1))
	js[0].Release()
	j := create(t, p, "a", 4)
	write(t, j, meta(5, true), record(t, p, 5, 1))
	mem.SetCapacity(0)
	create(t, p, "a", 5)
}

// TestAbandon: a journal that failed is recovered from the disk by the same
// process, and so is one that was given up.
func TestAbandon(t *testing.T) {
	mem := memfs.New(memfs.Options{})
	ffs := faultfs.New(mem, "/journal")
	o := testOptions()
	o.MaxBytes = 4 * o.FileBytes
	p := openPool(t, ffs, "/journal", o)
	j := create(t, p, "a", 1)
	write(t, j, meta(1, true), record(t, p, 1, 1))
	ffs.SetHook(faultfs.FailNth(faultfs.Write, 0, unix.EIO))
	r := record(t, p, 2, 2)
	if err := j.Write([]*Record{r}, meta(2, true)); !errors.Is(err, ErrFailed) || !errors.Is(err, unix.EIO) {
		t.Fatalf("failed write: %v", err)
	}
	buf := make([]byte, BlockSize)
	if err := j.ReadAt(buf, 2); err != nil {
		t.Fatalf("what was acknowledged before the failure cannot be read: %v", err)
	}
	j.Abandon()
	j.Abandon()
	j.Release() // too late
	unused := create(t, p, "a", 2)
	unused.Abandon()
	p.quiesce()
	if s := p.Stats(); s.Quarantined != 1 || s.Used != 1 {
		t.Fatalf("after Abandon: %+v", s)
	}
	got := recoverOne(t, p)
	if got.Err != nil || len(got.Batches()) != 1 || got.Header().Log != "a" {
		t.Fatalf("recovered %v, %v", got.Batches(), got.Err)
	}
	if err := got.Write([]*Record{p.NewRecord(false)}, meta(2, true)); !errors.Is(err, ErrClosed) {
		t.Fatalf("write to a recovered journal: %v", err)
	}
	if rs, err := p.Recover(t.Context()); err != nil || len(rs) != 0 {
		t.Fatalf("recovered twice: %d, %v", len(rs), err)
	}
	got.Abandon()
	p.quiesce()
	got = recoverOne(t, p)
	got.Release()
	p.quiesce()
	if s := p.Stats(); s.Used != 0 {
		t.Fatalf("after Release: %+v", s)
	}
}

// TestDamagedFileIsReportedAlone: damage of one file does not hide the others,
// and the file stays until its owner lets go of it.
func TestDamagedFileIsReportedAlone(t *testing.T) {
	dir := t.TempDir()
	o := testOptions()
	o.MaxBytes = 4 * o.FileBytes
	p := openPool(t, vfs.OS(), dir, o)
	var paths []string
	for n := range SegmentNo(2) {
		j := create(t, p, "a", n+1)
		paths = append(paths, j.Path())
		for s := range Seq(3) {
			write(t, j, meta(Seq(n)*3+s+1, true), record(t, p, s, 1))
		}
	}
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(paths[0], os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt([]byte("damage"), 4*BlockSize); err != nil {
		t.Fatal(err)
	}
	_ = f.Close()
	for range 2 {
		p = openPool(t, vfs.OS(), dir, o)
		rs, err := p.Recover(t.Context())
		if err != nil || len(rs) != 2 {
			t.Fatalf("Recover = %d, %v", len(rs), err)
		}
		for _, r := range rs {
			want, bad := 3, r.Path() == paths[0]
			if bad {
				want = 1
			}
			if errors.Is(r.Err, ErrCorrupt) != bad || len(r.Batches()) != want {
				t.Fatalf("%s: %d batches, %v", r.Path(), len(r.Batches()), r.Err)
			}
		}
		if err := p.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// TestRecoverStops: a cancelled recovery leaves the rest for the next call.
func TestRecoverStops(t *testing.T) {
	mem := memfs.New(memfs.Options{})
	o := testOptions()
	o.MaxBytes = 4 * o.FileBytes
	p := openPool(t, mem, "j", o)
	for n := range SegmentNo(3) {
		j := create(t, p, "a", n+1)
		write(t, j, meta(Seq(n+1), true), record(t, p, 1, 1))
	}
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
	p = openPool(t, mem, "j", o)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if rs, err := p.Recover(ctx); !errors.Is(err, context.Canceled) || len(rs) != 0 {
		t.Fatalf("cancelled Recover = %d, %v", len(rs), err)
	}
	if rs, err := p.Recover(t.Context()); err != nil || len(rs) != 3 {
		t.Fatalf("Recover = %d, %v", len(rs), err)
	}
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := p.Recover(t.Context()); !errors.Is(err, ErrClosed) {
		t.Fatalf("Recover of a closed pool: %v", err)
	}
	if _, err := p.Create(t.Context(), Header{Log: "a"}); !errors.Is(err, ErrClosed) {
		t.Fatalf("Create of a closed pool: %v", err)
	}
}

// TestOtherFileSize: files left from other settings are recovered, and then go.
func TestOtherFileSize(t *testing.T) {
	mem := memfs.New(memfs.Options{})
	o := testOptions()
	p := openPool(t, mem, "/journal", o)
	j := create(t, p, "a", 1)
	write(t, j, meta(1, true), record(t, p, 1, 1))
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
	o.FileBytes, o.MaxBytes = 128<<10, 256<<10
	p = openPool(t, mem, "/journal", o)
	r := recoverOne(t, p)
	if r.Err != nil || len(r.Batches()) != 1 {
		t.Fatalf("%d batches, %v", len(r.Batches()), r.Err)
	}
	r.Release()
	p.quiesce()
	if _, err := mem.Stat(testPath); err == nil {
		t.Fatal("a file of the wrong size was kept")
	}
	// A foreign file is nobody's business.
	if err := vfs.WriteFileSync(mem, "/journal/j-1", []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
	openPool(t, mem, "/journal", o)
	if _, err := mem.Stat("/journal/j-1"); err != nil {
		t.Fatal(err)
	}
}

// TestRecoverWaitsForAbandoned: who abandons a journal and then recovers gets it
// back, even if a reader was still at it.
func TestRecoverWaitsForAbandoned(t *testing.T) {
	p := openPool(t, memfs.New(memfs.Options{}), "/journal", testOptions())
	j := create(t, p, "a", 1)
	write(t, j, meta(1, true), record(t, p, 1, 1))
	j.Ref()
	j.Abandon()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if got, err := p.Recover(ctx); !errors.Is(err, context.Canceled) || len(got) > 0 {
		t.Fatalf("Recover gave %d files and %v while a reader held the only one", len(got), err)
	}
	go j.Unref()
	got, err := p.Recover(t.Context())
	if err != nil || len(got) != 1 {
		t.Fatalf("Recover gave %d files and %v, want the abandoned one", len(got), err)
	}
}
