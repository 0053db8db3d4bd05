package dirstore_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/bough-db/bough/objstore"
	"github.com/bough-db/bough/objstore/dirstore"
)

const label = "user.bough.tag"

// labelled returns an error when a file has no label.
func labelled(name string) error {
	_, err := unix.Getxattr(name, label, make([]byte, 100))
	return err
}

func put(t *testing.T, s objstore.Store, key, body string) (tag string) {
	t.Helper()
	tag, err := s.Put(t.Context(), key, []byte(body), objstore.Condition{})
	if err != nil {
		t.Fatal(err)
	}
	return tag
}

// TestDamaged changes files behind the store's back.
func TestDamaged(t *testing.T) {
	for _, test := range []struct {
		name   string
		change func(name string) error
		ranged bool // found by a ranged read, too
	}{
		{"Truncated", func(name string) error { return os.Truncate(name, 5000) }, true},
		{"Emptied", func(name string) error { return os.Truncate(name, 0) }, true},
		{"Extended", func(name string) error { return os.Truncate(name, 20_000) }, true},
		{"Flipped", func(name string) error {
			p, err := os.ReadFile(name)
			if err != nil {
				return err
			}
			p[7777] ^= 4
			return os.WriteFile(name, p, 0o600)
		}, false},
		{"BadLabel", func(name string) error { return unix.Setxattr(name, label, []byte("nonsense"), 0) }, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := open(t, t.TempDir(), quiet(nil, true))
			put(t, s, "a/k", strings.Repeat("0123456789", 1000))
			name := filepath.Join(s.Dir(), "a", "k")
			if err := labelled(name); err != nil {
				t.Skip("no extended attributes here")
			}
			if err := test.change(name); err != nil {
				t.Fatal(err)
			}
			if _, _, err := s.Get(t.Context(), "a/k"); !errors.Is(err, dirstore.ErrDamaged) {
				t.Errorf("Get: got error %v, want %v", err, dirstore.ErrDamaged)
			}
			_, _, err := s.ReadAt(t.Context(), "a/k", make([]byte, 100), 6000)
			if errors.Is(err, dirstore.ErrDamaged) != test.ranged {
				t.Errorf("ReadAt: got error %v, want damage found %v", err, test.ranged)
			}
			if errors.Is(err, objstore.ErrNotExist) {
				t.Errorf("ReadAt: %v: damage is not absence", err)
			}
		})
	}
}

// TestShrunkWhileOpen cuts a file that the store keeps open: a short read is an
// error, never zeros.
func TestShrunkWhileOpen(t *testing.T) {
	s := open(t, t.TempDir(), quiet(nil, true))
	put(t, s, "k", strings.Repeat("x", 10_000))
	p := make([]byte, 100)
	if _, _, err := s.ReadAt(t.Context(), "k", p, 9000); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(filepath.Join(s.Dir(), "k"), 9050); err != nil {
		t.Fatal(err)
	}
	if _, _, err := s.ReadAt(t.Context(), "k", p, 9000); !errors.Is(err, dirstore.ErrDamaged) {
		t.Errorf("got error %v, want %v", err, dirstore.ErrDamaged)
	}
}

// TestUnlabelled takes labels away, as copying a store with cp does.
func TestUnlabelled(t *testing.T) {
	s := open(t, t.TempDir(), quiet(nil, false))
	name := filepath.Join(s.Dir(), "k")
	for what, read := range map[string]func() (objstore.Info, error){
		"Get": func() (objstore.Info, error) {
			_, info, err := s.Get(t.Context(), "k")
			return info, err
		},
		"ReadAt": func() (objstore.Info, error) {
			_, info, err := s.ReadAt(t.Context(), "k", make([]byte, 1), 0)
			return info, err
		},
		"List": func() (objstore.Info, error) {
			infos, err := s.List(t.Context(), "", "", 0)
			return infos[0], err
		},
	} {
		tag := put(t, s, "k", "body for "+what)
		if err := unix.Removexattr(name, label); err != nil {
			t.Skip("no extended attributes here")
		}
		if info, err := read(); err != nil || info.Tag != tag {
			t.Errorf("%s: got %+v, %v, want tag %q", what, info, err, tag)
		}
		if err := labelled(name); err != nil {
			t.Errorf("%s has not labelled the file: %v", what, err)
		}
	}
	tag := put(t, s, "k", "last")
	if err := unix.Removexattr(name, label); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Put(t.Context(), "k", []byte("next"), objstore.Condition{IfMatch: tag}); err != nil {
		t.Errorf("Put with IfMatch: %v", err)
	}
}

// TestForeign fills the directory with what are no objects.
func TestForeign(t *testing.T) {
	s := open(t, t.TempDir(), quiet(nil, true))
	in := func(name string) string { return filepath.Join(s.Dir(), name) }
	secret := filepath.Join(t.TempDir(), "secret")
	for _, err := range []error{
		os.WriteFile(secret, []byte("secret"), 0o600),
		os.Mkdir(in("lost+found"), 0o700),
		os.WriteFile(in("lost+found/x"), nil, 0o600),
		os.WriteFile(in("README"), nil, 0o600),
		os.WriteFile(in(".hidden"), nil, 0o600),
		os.WriteFile(in("a~"), nil, 0o600),
		os.Symlink(secret, in("link")),
		unix.Mkfifo(in("fifo"), 0o600),
		os.Mkdir(in("empty"), 0o700),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	put(t, s, "object", "x")
	if got := contents(t, s); len(got) != 1 || got["object"] != "x" {
		t.Errorf("contents are %v, want one object", got)
	}
	if p, _, err := s.Get(t.Context(), "link"); err == nil {
		t.Errorf("Get followed a symbolic link to %q", p)
	}
	for _, key := range []string{"fifo", "empty"} {
		if _, _, err := s.Get(t.Context(), key); !errors.Is(err, objstore.ErrNotExist) {
			t.Errorf("Get(%q): got error %v, want %v", key, err, objstore.ErrNotExist)
		}
	}
	if err := s.Delete(t.Context(), "object"); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"README", "lost+found/x", ".hidden"} {
		if _, err := os.Stat(in(name)); err != nil {
			t.Errorf("foreign file is gone: %v", err)
		}
	}
}

// TestEmptyDirectories shows that an exclusive store keeps no directories that
// hold nothing, and that their keys can be used again.
func TestEmptyDirectories(t *testing.T) {
	s := open(t, t.TempDir(), quiet(nil, true))
	for round := range 3 {
		put(t, s, "a/b/c/d", "x")
		put(t, s, "a/e", "x")
		for _, key := range []string{"a/b/c/d", "a/e"} {
			if err := s.Delete(t.Context(), key); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := os.Stat(filepath.Join(s.Dir(), "a")); !errors.Is(err, os.ErrNotExist) {
			t.Fatalf("round %d: stat of an emptied directory: got error %v, want %v", round, err, os.ErrNotExist)
		}
	}
	put(t, s, "a", "now an object")
	for key, want := range map[string]error{"a/b": objstore.ErrInvalidKey, "a/b/c": objstore.ErrInvalidKey, "ab": nil} {
		for _, cond := range []objstore.Condition{{}, {IfAbsent: true}} {
			if _, err := s.Put(t.Context(), key, nil, cond); !errors.Is(err, want) && !errors.Is(err, objstore.ErrExists) {
				t.Errorf("Put(%q): got error %v, want %v", key, err, want)
			}
		}
	}
	put(t, s, "d/x", "x")
	for _, cond := range []objstore.Condition{{}, {IfAbsent: true}} {
		if _, err := s.Put(t.Context(), "d", nil, cond); !errors.Is(err, objstore.ErrInvalidKey) {
			t.Errorf("Put of a directory, %+v: got error %v, want %v", cond, err, objstore.ErrInvalidKey)
		}
	}
}

// TestPruneRace makes and empties directories from many sides.
func TestPruneRace(t *testing.T) {
	s := open(t, t.TempDir(), quiet(nil, true))
	var wg sync.WaitGroup
	errs := make([]error, 8)
	for i := range errs {
		wg.Go(func() {
			key := fmt.Sprintf("a/b%d/c", i%2)
			for range 100 {
				if _, err := s.Put(t.Context(), fmt.Sprintf("%s/%d", key, i), nil, objstore.Condition{IfAbsent: true}); err != nil {
					errs[i] = err
					return
				}
				if err := s.Delete(t.Context(), fmt.Sprintf("%s/%d", key, i)); err != nil {
					errs[i] = err
					return
				}
			}
		})
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}

// TestOpenFiles reads from more objects than may be open, and counts.
func TestOpenFiles(t *testing.T) {
	count := func() int {
		names, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Skip("no /proc here")
		}
		return len(names)
	}
	before := count()
	opts := quiet(nil, true)
	opts.OpenFiles = 5
	s := open(t, t.TempDir(), opts)
	const objects = 20
	for i := range objects {
		put(t, s, fmt.Sprintf("k%d", i), string(bytes.Repeat([]byte{byte(i)}, 1000)))
	}
	var wg sync.WaitGroup
	errs := make([]error, 8)
	for w := range errs {
		wg.Go(func() {
			p := make([]byte, 100)
			for i := range 50 * objects {
				k := (i*(w+1) + w) % objects
				if _, _, err := s.ReadAt(t.Context(), fmt.Sprintf("k%d", k), p, 500); err != nil || p[99] != byte(k) {
					errs[w] = fmt.Errorf("k%d: read %d, %w", k, p[99], err)
					return
				}
			}
		})
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
	if got := count() - before; got > 5+1 { // and the lock
		t.Errorf("%d more files are open, want at most 6", got)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if got := count() - before; got != 0 {
		t.Errorf("%d more files are open after Close than before Open", got)
	}
}
