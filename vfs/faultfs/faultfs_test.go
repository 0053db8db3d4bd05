package faultfs_test

import (
	"errors"
	"math/rand/v2"
	"os"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/bough-db/bough/vfs"
	"github.com/bough-db/bough/vfs/faultfs"
	"github.com/bough-db/bough/vfs/memfs"
	"github.com/bough-db/bough/vfs/vfstest"
)

func TestConformance(t *testing.T) {
	vfstest.Run(t, func(t *testing.T) (vfs.FS, string) {
		return faultfs.New(memfs.New(memfs.Options{}), "/"), "/"
	})
}

func create(t *testing.T, fsys vfs.FS, name string) vfs.File {
	t.Helper()
	f, err := fsys.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func TestTrace(t *testing.T) {
	fsys := faultfs.New(memfs.New(memfs.Options{}), "/r")
	if err := vfs.MkdirAllSync(fsys, "/r/d", 0o700); err != nil {
		t.Fatal(err)
	}
	if err := vfs.WriteFileSync(fsys, "/r/d/f", []byte("abc"), 0o600); err != nil {
		t.Fatal(err)
	}
	f := create(t, fsys, "/r/d/f")
	if err := f.WritevAt([][]byte{{1}, {2, 3}}, 4, true); err != nil {
		t.Fatal(err)
	}
	fsys.SetHook(faultfs.FailNth(faultfs.Sync, 0, unix.EIO))
	if err := f.Sync(); !errors.Is(err, unix.EIO) {
		t.Fatalf("Sync = %v, want EIO", err)
	}
	if err := f.Sync(); err != nil {
		t.Fatal(err)
	}
	if err := f.Truncate(0); err != nil {
		t.Fatal(err)
	}
	if err := fsys.Remove("/r/d/f"); err != nil {
		t.Fatal(err)
	}
	want := `mkdir d
syncdir /
syncdir .
create d/f.tmp
write d/f.tmp 0+3
sync d/f.tmp
rename d/f.tmp d/f
syncdir d
write d/f 4+3 durable
sync d/f fail
sync d/f
truncate d/f 0
remove d/f
`
	if diff := cmp.Diff(want, fsys.Trace()); diff != "" {
		t.Fatalf("trace (-want +got):\n%s", diff)
	}
}

// TestCrash: the mutation at which the machine stops may or may not survive,
// those before it as far as they were synced, and nothing happens after it.
func TestCrash(t *testing.T) {
	for k := range 5 {
		mem := memfs.New(memfs.Options{})
		fsys := faultfs.New(mem, "")
		fsys.CrashAt(k)
		err := vfs.WriteFileSync(fsys, "f", []byte("abc"), 0o600)
		if !errors.Is(err, faultfs.ErrCrashed) || !fsys.Crashed() {
			t.Fatalf("crash at %d: %v", k, err)
		}
		if _, err := fsys.Stat("f"); !errors.Is(err, faultfs.ErrCrashed) {
			t.Fatalf("operation after the crash: %v", err)
		}
		if n := fsys.Mutations(); n != k+1 {
			t.Fatalf("%d mutations counted, crash at %d", n, k)
		}
		all := mem.CrashClone(rand.New(rand.NewPCG(1, 1)), memfs.LoseAll)
		if _, err := all.Stat("f"); err == nil {
			t.Fatalf("crash at %d: the name was durable already", k)
		}
	}
	fsys := faultfs.New(memfs.New(memfs.Options{}), "")
	fsys.CrashAt(5)
	if err := vfs.WriteFileSync(fsys, "f", []byte("abc"), 0o600); err != nil {
		t.Fatalf("crash after the last mutation: %v", err)
	}
}

func TestTornWrite(t *testing.T) {
	fsys := faultfs.New(memfs.New(memfs.Options{}), "")
	f := create(t, fsys, "f")
	fsys.SetHook(faultfs.FailNth(faultfs.Write, 0, faultfs.Torn(faultfs.ErrInjected)))
	if _, err := f.WriteAt([]byte("abcdef"), 0); !errors.Is(err, faultfs.ErrInjected) {
		t.Fatalf("WriteAt = %v", err)
	}
	if got, err := vfs.ReadFile(fsys, "f"); err != nil || string(got) != "abc" {
		t.Fatalf("left behind: %q, %v", got, err)
	}
}

// TestFailedSync: a sync that failed is not made good by one that succeeds.
func TestFailedSync(t *testing.T) {
	mem := memfs.New(memfs.Options{})
	fsys := faultfs.New(mem, "")
	f := create(t, fsys, "f")
	if err := fsys.SyncDir(""); err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt([]byte("abc"), 0); err != nil {
		t.Fatal(err)
	}
	fsys.SetHook(faultfs.FailNth(faultfs.Sync, 0, unix.EIO))
	if err := f.Sync(); !errors.Is(err, unix.EIO) {
		t.Fatalf("Sync = %v", err)
	}
	if err := f.Sync(); err != nil {
		t.Fatal(err)
	}
	got, err := vfs.ReadFile(mem.CrashClone(rand.New(rand.NewPCG(1, 1)), memfs.LoseAll), "f")
	if err != nil || string(got) != "\x00\x00\x00" {
		t.Fatalf("after a failed sync, a good one and a power cut: %q, %v", got, err)
	}
}
