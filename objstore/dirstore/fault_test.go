package dirstore_test

import (
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/bough-db/bough/objstore"
	"github.com/bough-db/bough/objstore/dirstore"
	"github.com/bough-db/bough/vfs/faultfs"
	"github.com/bough-db/bough/vfs/memfs"
)

const root = "/store"

// faulty opens a store on a file system that fails on demand.
func faulty(t *testing.T) (*dirstore.Store, *faultfs.FS) {
	t.Helper()
	disk := faultfs.New(memfs.New(memfs.Options{}), root)
	s, err := dirstore.Open(root, quiet(disk, true))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s, disk
}

// TestFull fills the disk at every operation of a put: nothing is changed,
// nothing is left behind, and the put succeeds when there is room again.
func TestFull(t *testing.T) {
	for _, kind := range []faultfs.Kind{faultfs.Create, faultfs.Write, faultfs.Sync, faultfs.Mkdir, faultfs.Link, faultfs.Rename} {
		t.Run(string(kind), func(t *testing.T) {
			s, disk := faulty(t)
			cond := objstore.Condition{IfAbsent: kind != faultfs.Rename}
			failed := false
			for n := 0; ; n++ {
				disk.SetHook(faultfs.FailNth(kind, n, faultfs.Torn(unix.ENOSPC)))
				_, err := s.Put(t.Context(), "a/b/c", []byte("body"), cond)
				disk.SetHook(nil)
				if err == nil {
					break
				}
				failed = true
				if !errors.Is(err, objstore.ErrFull) {
					t.Fatalf("%s %d: got error %v, want %v", kind, n, err, objstore.ErrFull)
				}
				if got := contents(t, s); len(got) > 0 {
					t.Fatalf("%s %d: store has %v", kind, n, got)
				}
				if names := temps(t, disk, root); len(names) > 0 {
					t.Fatalf("%s %d: temporary files %v", kind, n, names)
				}
			}
			if !failed {
				t.Fatalf("no %s failed", kind)
			}
			if diff := contents(t, s)["a/b/c"]; diff != "body" {
				t.Fatalf("contents %q", diff)
			}
		})
	}
}

// TestFullQuota is TestFull on a disk that counts.
func TestFullQuota(t *testing.T) {
	mem := memfs.New(memfs.Options{})
	s, err := dirstore.Open(root, quiet(mem, true))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	used := mem.Used()
	mem.SetCapacity(used + 10_000)
	body := strings.Repeat("x", 6000)
	if _, err := s.Put(t.Context(), "a", []byte(body), objstore.Condition{}); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Put(t.Context(), "b", []byte(body), objstore.Condition{}); !errors.Is(err, objstore.ErrFull) {
		t.Fatalf("got error %v, want %v", err, objstore.ErrFull)
	}
	if got := mem.Used(); got != used+6000 {
		t.Errorf("%d bytes are used, want %d", got, used+6000)
	}
	if err := s.Delete(t.Context(), "a"); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Put(t.Context(), "b", []byte(body), objstore.Condition{}); err != nil {
		t.Fatal(err)
	}
}

// TestFailOnce fails every operation of a script once, one run for each. The
// call that met it must say so or not need it; later calls must not be harmed,
// unless a directory failed to sync.
func TestFailOnce(t *testing.T) {
	for k, done := 0, false; !done; k++ {
		s, disk := faulty(t)
		var failed faultfs.Op
		n := 0
		disk.SetHook(func(o faultfs.Op) error {
			n++
			if n != k+1 {
				return nil
			}
			failed = o
			return unix.EIO
		})
		w, err := play(t.Context(), s, script)
		done = failed.Kind == ""
		disk.SetHook(nil)
		what := fmt.Sprintf("operation %d failed: %v: %v", k, failed, err)
		if err != nil && !errors.Is(err, unix.EIO) {
			t.Fatalf("%s: want %v", what, unix.EIO)
		}
		if failed.Kind == faultfs.SyncDir {
			if !errors.Is(err, dirstore.ErrFailed) {
				t.Fatalf("%s: want %v", what, dirstore.ErrFailed)
			}
			if _, _, err := s.Get(t.Context(), "format"); !errors.Is(err, dirstore.ErrFailed) {
				t.Fatalf("%s: Get after it: %v, want %v", what, err, dirstore.ErrFailed)
			}
			continue
		}
		if err := w.agrees(contents(t, s)); err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		if failed.Kind != faultfs.Remove { // of a temporary file, perhaps
			if names := temps(t, disk, root); len(names) > 0 {
				t.Fatalf("%s: temporary files %v", what, names)
			}
		}
	}
}

// TestSyncLater shows that running out of file descriptors is not the end, but
// that nobody sees an object before its directory has been synced.
func TestSyncLater(t *testing.T) {
	s, disk := faulty(t)
	if _, err := s.Put(t.Context(), "d/a", nil, objstore.Condition{}); err != nil {
		t.Fatal(err)
	}
	disk.SetHook(func(o faultfs.Op) error {
		if o.Kind == faultfs.SyncDir {
			return unix.EMFILE
		}
		return nil
	})
	if _, err := s.Put(t.Context(), "d/b", []byte("body"), objstore.Condition{}); !errors.Is(err, unix.EMFILE) {
		t.Fatalf("Put: got error %v, want %v", err, unix.EMFILE)
	}
	if _, _, err := s.Get(t.Context(), "d/b"); !errors.Is(err, unix.EMFILE) {
		t.Fatalf("Get: got error %v, want %v", err, unix.EMFILE)
	}
	disk.SetHook(nil)
	_ = disk.Trace()
	if p, _, err := s.Get(t.Context(), "d/b"); err != nil || string(p) != "body" {
		t.Fatalf("Get: got %q, %v", p, err)
	}
	if got := disk.Trace(); got != "syncdir d\n" {
		t.Errorf("Get has done %q, want a sync of d", got)
	}
}

// TestSyncFailureIsSticky pins what TestFailOnce finds: after a failed sync of
// a directory a second one would succeed and prove nothing.
func TestSyncFailureIsSticky(t *testing.T) {
	s, disk := faulty(t)
	disk.SetHook(faultfs.FailNth(faultfs.SyncDir, 0, unix.EIO))
	for i := range 3 {
		_, err := s.Put(t.Context(), "a", nil, objstore.Condition{})
		if !errors.Is(err, dirstore.ErrFailed) || !errors.Is(err, unix.EIO) {
			t.Errorf("Put %d: got error %v, want %v because of %v", i, err, dirstore.ErrFailed, unix.EIO)
		}
	}
	if err := s.Delete(t.Context(), "a"); !errors.Is(err, dirstore.ErrFailed) {
		t.Errorf("Delete: got error %v, want %v", err, dirstore.ErrFailed)
	}
	if _, err := s.List(t.Context(), "", "", 0); !errors.Is(err, dirstore.ErrFailed) {
		t.Errorf("List: got error %v, want %v", err, dirstore.ErrFailed)
	}
}

func TestOpenFails(t *testing.T) {
	for k := 0; ; k++ {
		disk := faultfs.New(memfs.New(memfs.Options{}), root)
		n := 0
		disk.SetHook(func(o faultfs.Op) error {
			n++
			// Where the lock file's owner cannot be read it is not known.
			if n == k+1 && o.Kind != faultfs.Stat {
				return unix.EIO
			}
			return nil
		})
		s, err := dirstore.Open(root, quiet(disk, true))
		if n <= k {
			break
		}
		if err == nil {
			_ = s.Close()
			continue
		}
		if !errors.Is(err, unix.EIO) || !strings.Contains(err.Error(), root) {
			t.Fatalf("operation %d failed: got error %v, want %v and the directory's name", k, err, unix.EIO)
		}
		disk.SetHook(nil)
		again, err := dirstore.Open(root, quiet(disk, true))
		if err != nil {
			t.Fatalf("open after operation %d failed: %v", k, err)
		}
		_ = again.Close()
	}
}

func TestClosed(t *testing.T) {
	s, err := dirstore.Open(root, quiet(memfs.New(memfs.Options{}), true))
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); !errors.Is(err, fs.ErrClosed) {
		t.Errorf("Close: got error %v, want %v", err, fs.ErrClosed)
	}
	if _, _, err := s.Get(t.Context(), "k"); !errors.Is(err, fs.ErrClosed) {
		t.Errorf("Get: got error %v, want %v", err, fs.ErrClosed)
	}
	if _, err := s.Put(t.Context(), "k", nil, objstore.Condition{}); !errors.Is(err, fs.ErrClosed) {
		t.Errorf("Put: got error %v, want %v", err, fs.ErrClosed)
	}
}
