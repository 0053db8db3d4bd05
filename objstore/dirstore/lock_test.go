package dirstore_test

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/bough-db/bough/objstore"
	"github.com/bough-db/bough/objstore/dirstore"
)

func TestExclusive(t *testing.T) {
	dir := t.TempDir()
	refused := func(exclusive bool, words ...string) {
		t.Helper()
		s, err := dirstore.Open(dir, quiet(nil, exclusive))
		if err == nil {
			_ = s.Close()
			t.Fatal("opened")
		}
		if !errors.Is(err, dirstore.ErrInUse) {
			t.Fatalf("got error %v, want %v", err, dirstore.ErrInUse)
		}
		for _, word := range append(words, dir) {
			if !strings.Contains(err.Error(), word) || strings.Contains(err.Error(), "\n") {
				t.Errorf("got %q, want one line with %q", err, word)
			}
		}
	}
	s := open(t, dir, quiet(nil, true))
	pid := fmt.Sprintf("process %d", os.Getpid())
	refused(true, pid, "stop it")
	refused(false, pid)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}

	a, b := open(t, dir, quiet(nil, false)), open(t, dir, quiet(nil, false))
	refused(true, "share")
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	refused(true, "share")
	c := open(t, dir, quiet(nil, false)) // in the slot of a
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	refused(true, "share")
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	s = open(t, dir, quiet(nil, true))
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if names, err := os.ReadDir(filepath.Join(dir, ".tmp")); err != nil || len(names) > 0 {
		t.Errorf(".tmp holds %v, %v after all were closed", names, err)
	}
}

// TestSweep puts temporary files of live and dead stores where Open finds them.
func TestSweep(t *testing.T) {
	dir := t.TempDir()
	live := open(t, dir, quiet(nil, false)) // slot 1
	for _, name := range []string{"0-1", "1-1000", "2-1", "2.lock", "7-3"} {
		if err := os.WriteFile(filepath.Join(dir, ".tmp", name), []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	other := open(t, dir, quiet(nil, false))
	var names []string
	entries, err := os.ReadDir(filepath.Join(dir, ".tmp"))
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		names = append(names, e.Name())
	}
	if got, want := strings.Join(names, " "), "1-1000 1.lock 2.lock"; got != want {
		t.Errorf("left in .tmp: %q, want %q", got, want)
	}
	for _, s := range []objstore.Store{live, other} {
		if infos, err := s.List(t.Context(), "", "", 0); err != nil || len(infos) > 0 {
			t.Errorf("List: got %v, %v, want nothing", infos, err)
		}
	}
}

// What TestKilled tells its child, and how large the child's objects are.
const (
	childEnv   = "BOUGH_DIRSTORE_TEST_CHILD"
	childBytes = 200_000
)

// TestChild is not a test: it is the process that TestKilled kills.
func TestChild(t *testing.T) {
	dir := os.Getenv(childEnv)
	if dir == "" {
		t.Skip("runs as a child of TestKilled")
	}
	s, err := dirstore.Open(dir, dirstore.Options{Exclusive: true})
	if err != nil {
		t.Fatal(err)
	}
	body := make([]byte, childBytes)
	for i := 0; ; i++ {
		key := fmt.Sprintf("branches/br-%d/seg/%d", i%3, i)
		if _, err := s.Put(t.Context(), key, body, objstore.Condition{IfAbsent: true}); err != nil {
			t.Fatal(err)
		}
		fmt.Fprintln(os.Stdout, "put "+key)
	}
}

// TestKilled kills a process in the middle of its puts. The directory must be
// free at once, hold what the process has reported, and nothing in part.
func TestKilled(t *testing.T) {
	dir := t.TempDir()
	cmd := exec.Command(os.Args[0], "-test.run=^TestChild$")
	cmd.Env = append(os.Environ(), childEnv+"="+dir)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	reported := make(map[string]bool)
	lines := bufio.NewScanner(out)
	for n := 0; lines.Scan(); n++ {
		key, ok := strings.CutPrefix(lines.Text(), "put ")
		if !ok {
			t.Fatalf("child says %q", lines.Text())
		}
		reported[key] = true
		switch n {
		case 5:
			_, err := dirstore.Open(dir, quiet(nil, true))
			if !errors.Is(err, dirstore.ErrInUse) || !strings.Contains(err.Error(), fmt.Sprint(cmd.Process.Pid)) {
				t.Errorf("while the child lives: got error %v, want %v by %d", err, dirstore.ErrInUse, cmd.Process.Pid)
			}
		case 10:
			if err := cmd.Process.Kill(); err != nil {
				t.Fatal(err)
			}
		}
	}
	_ = cmd.Wait() // killed
	s := open(t, dir, quiet(nil, true))
	for key, body := range contents(t, s) {
		if len(body) != childBytes {
			t.Errorf("%s has %d bytes, want %d", key, len(body), childBytes)
		}
		delete(reported, key)
	}
	if len(reported) > 0 {
		t.Errorf("reported and lost: %v", reported)
	}
	if names, err := os.ReadDir(filepath.Join(dir, ".tmp")); err != nil || len(names) > 0 {
		t.Errorf(".tmp holds %v, %v", names, err)
	}
}
