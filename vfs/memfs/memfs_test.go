package memfs_test

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/bough-db/bough/vfs"
	"github.com/bough-db/bough/vfs/memfs"
	"github.com/bough-db/bough/vfs/vfstest"
)

var seed = flag.Uint64("seed", uint64(time.Now().UnixNano()), "seed of the random tests")

func newRand(t *testing.T) *rand.Rand {
	t.Logf("seed %d", *seed)
	return rand.New(rand.NewPCG(*seed, 0))
}

func TestConformance(t *testing.T) {
	vfstest.Run(t, func(t *testing.T) (vfs.FS, string) { return memfs.New(memfs.Options{}), "/" })
}

func TestConformanceWithoutDirect(t *testing.T) {
	vfstest.Run(t, func(t *testing.T) (vfs.FS, string) {
		return memfs.New(memfs.Options{RefuseDirect: true}), ""
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

func put(t *testing.T, f vfs.File, off int64, s string) {
	t.Helper()
	if _, err := f.WriteAt([]byte(s), off); err != nil {
		t.Fatal(err)
	}
}

func get(fsys vfs.FS, name string) string {
	p, err := vfs.ReadFile(fsys, name)
	if err != nil {
		return "-"
	}
	return string(p)
}

func TestLoseAll(t *testing.T) {
	fsys := memfs.New(memfs.Options{})
	f := create(t, fsys, "f")
	put(t, f, 0, "one")
	if err := f.Sync(); err != nil {
		t.Fatal(err)
	}
	after := func() string { return get(fsys.CrashClone(newRand(t), memfs.LoseAll), "f") }
	if got := after(); got != "-" {
		t.Fatalf("name without SyncDir survived: %q", got)
	}
	if err := fsys.SyncDir(""); err != nil {
		t.Fatal(err)
	}
	put(t, f, 0, "two!")
	if got := after(); got != "one" {
		t.Fatalf("after unsynced write: %q", got)
	}
	if err := f.WritevAt([][]byte{[]byte("T")}, 0, true); err != nil {
		t.Fatal(err)
	}
	// The page is durable, and the size as far as that write needed it.
	if got := after(); got != "Two" {
		t.Fatalf("after durable write: %q", got)
	}
	if err := f.Truncate(1); err != nil {
		t.Fatal(err)
	}
	if got := after(); got != "Two" {
		t.Fatalf("after unsynced truncation: %q", got)
	}
}

func TestDurableWriteCoversItselfOnly(t *testing.T) {
	fsys := memfs.New(memfs.Options{})
	f := create(t, fsys, "f")
	if err := fsys.SyncDir(""); err != nil {
		t.Fatal(err)
	}
	page := func(c byte) []byte { return bytes.Repeat([]byte{c}, 4096) }
	put(t, f, 0, string(page('a')))
	if err := f.WritevAt([][]byte{page('b')}, 4096, true); err != nil {
		t.Fatal(err)
	}
	want := string(make([]byte, 4096)) + string(page('b'))
	if got := get(fsys.CrashClone(newRand(t), memfs.LoseAll), "f"); got != want {
		t.Fatal("the durable write carried an earlier one")
	}
}

func TestLoseDirty(t *testing.T) {
	fsys := memfs.New(memfs.Options{})
	f := create(t, fsys, "f")
	if err := fsys.SyncDir(""); err != nil {
		t.Fatal(err)
	}
	put(t, f, 0, "one")
	f.(*memfs.File).LoseDirty()
	if err := f.Sync(); err != nil {
		t.Fatal(err)
	}
	if got := get(fsys, "f"); got != "one" {
		t.Fatalf("read %q", got)
	}
	if got := get(fsys.CrashClone(newRand(t), memfs.LoseAll), "f"); got != "\x00\x00\x00" {
		t.Fatalf("a sync after a failed one made %q durable", got)
	}
	put(t, f, 0, "two")
	if err := f.Sync(); err != nil {
		t.Fatal(err)
	}
	if got := get(fsys.CrashClone(newRand(t), memfs.LoseAll), "f"); got != "two" {
		t.Fatalf("after a new write and sync: %q", got)
	}
}

func TestKillKeepsEverythingUnsynced(t *testing.T) {
	fsys := memfs.New(memfs.Options{})
	f := create(t, fsys, "f")
	put(t, f, 0, "one")
	killed := fsys.CrashClone(newRand(t), memfs.Kill)
	if got := get(killed, "f"); got != "one" {
		t.Fatalf("after kill: %q", got)
	}
	if got := get(killed.CrashClone(newRand(t), memfs.LoseAll), "f"); got != "-" {
		t.Fatalf("after kill and power cut: %q", got)
	}
	put(t, f, 0, "xxx")
	if got := get(killed, "f"); got != "one" {
		t.Fatalf("clone changed with the original: %q", got)
	}
}

// TestRenameIsAtomic: whatever survives, one of the contents is under the name.
func TestRenameIsAtomic(t *testing.T) {
	rng := newRand(t)
	seen := map[string]bool{}
	for range 200 {
		fsys := memfs.New(memfs.Options{})
		if err := vfs.WriteFileSync(fsys, "f", []byte("old"), 0o600); err != nil {
			t.Fatal(err)
		}
		f := create(t, fsys, "g")
		put(t, f, 0, "new")
		if err := f.Sync(); err != nil {
			t.Fatal(err)
		}
		if err := fsys.Rename("g", "f"); err != nil {
			t.Fatal(err)
		}
		got := get(fsys.CrashClone(rng, memfs.LoseSome), "f")
		if got != "old" && got != "new" {
			t.Fatalf("after crash: %q", got)
		}
		seen[got] = true
	}
	if len(seen) != 2 {
		t.Fatalf("200 crashes gave only %v", seen)
	}
}

// TestTear: sectors survive one by one, and versions mix only in Tear.
func TestTear(t *testing.T) {
	rng := newRand(t)
	for _, mode := range []memfs.Mode{memfs.LoseSome, memfs.Tear} {
		mixed := 0
		for range 100 {
			fsys := memfs.New(memfs.Options{})
			if err := vfs.WriteFileSync(fsys, "f", bytes.Repeat([]byte{'0'}, 4096), 0o600); err != nil {
				t.Fatal(err)
			}
			f := create(t, fsys, "f")
			for c := byte('1'); c <= '3'; c++ {
				put(t, f, 0, string(bytes.Repeat([]byte{c}, 4096)))
			}
			got := get(fsys.CrashClone(rng, mode), "f")
			if len(got) != 4096 {
				t.Fatalf("%v: size %d", mode, len(got))
			}
			for at := 0; at < 4096; at += 512 {
				if got[at:at+512] != string(bytes.Repeat([]byte{got[at]}, 512)) {
					t.Fatalf("%v: a sector is torn", mode)
				}
				if got[at] != got[0] {
					mixed++
				}
			}
		}
		if (mixed > 0) != (mode == memfs.Tear) {
			t.Fatalf("%v: %d sectors differ from their neighbours", mode, mixed)
		}
	}
}

func TestCapacity(t *testing.T) {
	fsys := memfs.New(memfs.Options{Capacity: 100})
	f := create(t, fsys, "f")
	put(t, f, 0, string(make([]byte, 90)))
	if _, err := f.WriteAt(make([]byte, 20), 85); !errors.Is(err, unix.ENOSPC) {
		t.Fatalf("write beyond capacity: %v", err)
	}
	if err := f.Truncate(200); !vfs.IsFull(err) {
		t.Fatalf("truncate beyond capacity: %v", err)
	}
	if err := f.Allocate(0, 200); !vfs.IsFull(err) {
		t.Fatalf("allocate beyond capacity: %v", err)
	}
	if n, _ := f.Size(); n != 90 {
		t.Fatalf("size after failed writes: %d", n)
	}
	if err := fsys.Remove("f"); err != nil {
		t.Fatal(err)
	}
	if fsys.Used() != 90 {
		t.Fatalf("space of an open removed file: %d", fsys.Used())
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	if fsys.Used() != 0 {
		t.Fatalf("used after close: %d", fsys.Used())
	}
}

// TestCloneIsDeterministic: a seed must reproduce a failure.
func TestCloneIsDeterministic(t *testing.T) {
	fsys := memfs.New(memfs.Options{})
	for i := range 20 {
		f := create(t, fsys, fmt.Sprint("f", i))
		for k := range 10 {
			put(t, f, int64(k)*5000, fmt.Sprint(i, k))
		}
	}
	dump := func(c *memfs.FS) string {
		s := ""
		list, err := c.ReadDir("")
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range list {
			s += e.Name() + "=" + get(c, e.Name()) + ";"
		}
		return s
	}
	for _, mode := range memfs.Modes() {
		a := dump(fsys.CrashClone(rand.New(rand.NewPCG(*seed, 1)), mode))
		b := dump(fsys.CrashClone(rand.New(rand.NewPCG(*seed, 1)), mode))
		if a != b {
			t.Fatalf("%v: two clones of seed %d differ", mode, *seed)
		}
	}
}
