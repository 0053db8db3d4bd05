package wal

import (
	"context"
	"flag"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/bough-db/bough/vfs/faultfs"
	"github.com/bough-db/bough/vfs/memfs"
)

var update = flag.Bool("update", false, "rewrite testdata/*.trace")

// golden compares a trace with testdata/<name>.trace.
func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name+".trace")
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s (-want +got; -update rewrites):\n%s", path, diff)
	}
}

// stage is a machine whose every write and sync is seen.
type stage struct {
	t    *testing.T
	mem  *memfs.FS
	fs   *faultfs.FS
	pool *Pool
}

func newStage(t *testing.T, mem *memfs.FS) *stage {
	s := &stage{t: t, mem: mem, fs: faultfs.New(mem, "/journal")}
	o := testOptions()
	o.MaxBytes = 2 * o.FileBytes
	s.pool = openPool(t, s.fs, "/journal", o)
	s.pool.quiesce()
	return s
}

// create returns a journal when the worker has made good for its file.
func (s *stage) create(log string, n SegmentNo) *Journal {
	j := create(s.t, s.pool, log, n)
	s.pool.quiesce()
	return j
}

// trace returns what was done since the last call.
func (s *stage) trace() string {
	s.pool.quiesce()
	return s.fs.Trace()
}

// TestTraces fixes the order of writes and syncs: a missing one shows here.
func TestTraces(t *testing.T) {
	s := newStage(t, memfs.New(memfs.Options{}))
	golden(t, "open", s.trace())

	j := s.create("a", 1)
	golden(t, "create", s.trace())

	write(t, j, meta(1, true), record(t, s.pool, 1, 1, 2))
	write(t, j, meta(2, true), record(t, s.pool, 2, 1), record(t, s.pool, 2, 2))
	golden(t, "commit", s.trace())

	write(t, j, meta(3, false), record(t, s.pool, 3, 1))
	write(t, j, meta(3, false), record(t, s.pool, 3, 2))
	write(t, j, meta(3, true), record(t, s.pool, 3, 3))
	write(t, j, meta(4, true), record(t, s.pool, 4, 3))
	golden(t, "spill", s.trace())

	j.Release()
	s.pool.quiesce()
	j = s.create("a", 2)
	write(t, j, meta(5, true), record(t, s.pool, 5, 1))
	golden(t, "recycle", s.trace())

	s = newStage(t, s.mem.CrashClone(rand.New(rand.NewPCG(1, 1)), memfs.Kill))
	rs, err := s.pool.Recover(context.Background())
	if err != nil || len(rs) != 1 || rs[0].Err != nil {
		t.Fatalf("Recover = %v, %v", rs, err)
	}
	rs[0].Release()
	golden(t, "recover", s.trace())

	// A crash in the first write of a life leaves nothing to recover.
	j = s.create("a", 3)
	s.fs.SetHook(faultfs.FailNth(faultfs.Write, 0, faultfs.Torn(unix.EIO)))
	r := s.pool.NewRecord(true)
	r.AddBlock(1)
	if err := j.Write([]*Record{r}, meta(9, true)); err == nil {
		t.Fatal("write succeeded")
	}
	j.Abandon()
	s.pool.quiesce()
	if rs, err := s.pool.Recover(context.Background()); err != nil || len(rs) != 0 {
		t.Fatalf("Recover = %v, %v", rs, err)
	}
	golden(t, "empty", s.trace())

	// A file that cannot be marked as free is removed.
	j = s.create("a", 4)
	write(t, j, meta(9, true), record(t, s.pool, 9, 1))
	s.fs.SetHook(faultfs.FailNth(faultfs.Write, 0, unix.EIO))
	j.Release()
	golden(t, "unmarked", s.trace())
}
