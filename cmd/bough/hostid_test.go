package main

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/bough-db/bough/cow"
	"github.com/bough-db/bough/vfs"
)

func TestHostIDIsMadeOnce(t *testing.T) {
	state := t.TempDir()
	first, err := loadHostID(vfs.OS(), state, "Box-7.example.org", time.Now())
	if err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(first, "box-7-") || cow.CheckName(first) != nil {
		t.Errorf("id %q, want box-7-…", first)
	}
	again, err := loadHostID(vfs.OS(), state, "renamed", time.Now())
	if err != nil || again != first {
		t.Errorf("the second time: %q, %v; want %q", again, err, first)
	}
	other, err := loadHostID(vfs.OS(), t.TempDir(), "Box-7.example.org", time.Now())
	if err != nil || other == first {
		t.Errorf("another state directory of the machine: %q, %v", other, err)
	}
	left, err := os.ReadDir(state)
	if err != nil || len(left) != 1 {
		t.Errorf("in the directory: %v, %v", left, err)
	}
}

func TestHostFileDamaged(t *testing.T) {
	good, err := encodeHostID(hostIdentity{ID: "box-0123", Created: time.Unix(1e9, 0).UTC()})
	if err != nil {
		t.Fatal(err)
	}
	load := func(text []byte) error {
		state := t.TempDir()
		if err := os.WriteFile(filepath.Join(state, hostFile), text, 0o644); err != nil {
			t.Fatal(err)
		}
		_, err := loadHostID(vfs.OS(), state, "x", time.Now())
		now, rerr := os.ReadFile(filepath.Join(state, hostFile))
		if rerr != nil || string(now) != string(text) {
			t.Errorf("the file was changed: %q, %v", now, rerr)
		}
		return err
	}
	if err := load(good); err != nil {
		t.Errorf("a good file: %v", err)
	}
	for i := range good {
		for _, bad := range [][]byte{good[:i], append(append([]byte{}, good[:i]...), append([]byte{good[i] ^ 1}, good[i+1:]...)...)} {
			err := load(bad)
			if !errors.Is(err, errHostFileDamaged) && !errors.Is(err, errHostFileNewer) {
				t.Fatalf("%q: %v", bad, err)
			}
			if text := err.Error(); !strings.Contains(text, hostFile) || strings.Contains(text, "\n") {
				t.Errorf("%q: not a clear line: %s", bad, text)
			}
		}
	}
	newer := strings.Replace(string(good), " 1 ", " 2 ", 1)
	if err := load([]byte(newer)); !errors.Is(err, errHostFileNewer) {
		t.Errorf("a newer version: %v", err)
	}
}

func TestSanitizeHostname(t *testing.T) {
	for name, want := range map[string]string{
		"db1": "db1", "DB1.example.org": "db1", "": "host", "-": "host", "../../x": "host", "a_b c": "a-b-c", "Größe": "gr--e",
		strings.Repeat("x", 300): strings.Repeat("x", hostnameBytesMax),
	} {
		got := sanitizeHostname(name)
		if got != want {
			t.Errorf("sanitizeHostname(%q) = %q, want %q", name, got, want)
		}
		if err := cow.CheckName(newHostID(name)); err != nil {
			t.Errorf("id of %q: %v", name, err)
		}
	}
}

func FuzzHostFile(f *testing.F) {
	good, err := encodeHostID(hostIdentity{ID: "box-0123", Created: time.Unix(1e9, 0).UTC()})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add([]byte("bough host-id 1 00000000\n{}\n"))
	f.Add([]byte("bough host-id 7 0\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		h, err := decodeHostID(text)
		if err != nil {
			if !errors.Is(err, errHostFileDamaged) && !errors.Is(err, errHostFileNewer) {
				t.Errorf("error without a cause: %v", err)
			}
			return
		}
		again, err := encodeHostID(h)
		if err != nil {
			t.Fatal(err)
		}
		if back, err := decodeHostID(again); err != nil || back.ID != h.ID || !back.Created.Equal(h.Created) {
			t.Errorf("decoded %+v, encoded and decoded again %+v, %v", h, back, err)
		}
	})
}
