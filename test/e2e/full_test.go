package e2e

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// smallDisk mounts a small file system, until the test ends, and returns where.
func smallDisk(t *testing.T, bytes int64) string {
	t.Helper()
	if run.skip != "" {
		t.Skip(run.skip)
	}
	dir, err := os.MkdirTemp(run.root, "disk")
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("none", dir, "tmpfs", 0, fmt.Sprintf("size=%d,mode=755", bytes)); err != nil {
		t.Fatalf("mount a small disk: %v", err)
	}
	t.Cleanup(func() {
		if err := errors.Join(unix.Unmount(dir, 0), os.Remove(dir)); err != nil {
			t.Errorf("remove the small disk: %v", err)
		}
	})
	return dir
}

// fill leaves no byte of a disk free, in a file that it returns.
func fill(t *testing.T, dir string) string {
	t.Helper()
	ballast := filepath.Join(dir, "ballast")
	f, err := os.Create(ballast)
	if err != nil {
		t.Fatal(err)
	}
	for size := 1 << 20; size >= 1; {
		if _, err = f.Write(make([]byte, size)); errors.Is(err, unix.ENOSPC) {
			size /= 16
		} else if err != nil {
			break
		}
	}
	if err := errors.Join(f.Close()); err != nil {
		t.Fatal(err)
	}
	return ballast
}

// hostOn returns a host on a small disk. Its log, which must not be lost, is
// elsewhere.
func hostOn(t *testing.T, disk string, args ...string) *host {
	t.Helper()
	dir := filepath.Join(disk, "h")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	h := newHostAt(t, dir, append([]string{"--cache-bytes", "0"}, args...)...)
	h.log = disk + ".log"
	t.Cleanup(func() { _ = os.Remove(h.log) })
	return h
}

// TestStartOnFullDisk starts daemons on a disk that is full from the beginning.
func TestStartOnFullDisk(t *testing.T) {
	t.Parallel()
	disk := smallDisk(t, 300<<20)
	h := hostOn(t, disk)
	ballast := fill(t, disk)
	h.serveFails(h.plainServe("--create", "demo"), 1, "0 B free", "make room", "--state")
	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	h.start("--create", "demo")
	h.exec("demo", "create table t (i int)", "insert into t values (1)")
	h.stop()
	// One that was full when the daemon ended is no reason to lose anything either.
	ballast = fill(t, disk)
	if err := h.tryStart(); err == nil {
		h.stop()
	} else if !strings.Contains(err.Error(), "make room") {
		t.Errorf("start on a full disk: %v", err)
	}
	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	h.start()
	if n := h.count("demo", "select count(*) from t"); n != 1 {
		t.Errorf("%d rows, want 1", n)
	}
	h.checkWhole("demo")
}

// TestFullDisk fills the disk while clients write, and makes room again. Writers
// may wait or fail meanwhile; then they go on, and nothing is lost (I9).
func TestFullDisk(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name string
		args func(t *testing.T) []string
	}{
		{"journal and store", func(t *testing.T) []string { return nil }},
		{"journal alone", func(t *testing.T) []string {
			dir, err := os.MkdirTemp(run.root, "store")
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = os.RemoveAll(dir) })
			return []string{"--store", dir}
		}},
	} {
		for _, mode := range writeModes {
			t.Run(strings.ReplaceAll(c.name+" "+mode, " ", "-"), func(t *testing.T) {
				t.Parallel()
				disk := smallDisk(t, 400<<20)
				h := hostOn(t, disk, append([]string{"--write-mode", mode, "--journal-bytes", "256MiB"}, c.args(t)...)...)
				h.start("--create", "demo")
				l := &ledger{}
				l.create(h, "demo")
				h.exec("demo", "create table bulk (b bytea)", "alter table bulk alter b set storage external")
				h.fullDisk(l, disk, c.name == "journal and store")
			})
		}
	}
}

func (h *host) fullDisk(l *ledger, disk string, stuck bool) {
	t := h.t
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	clients := l.run(ctx, h, "demo")
	eventually(t, connectLimit, "clients commit", l.moved(20))
	ballast := fill(t, disk)
	// Something large, so that what is preallocated does not last.
	bulk := make(chan error, 1)
	go func() {
		conn, err := h.tryConnect(ctx, "demo")
		for err == nil {
			_, err = conn.Exec(ctx, "insert into bulk select string_agg(sha256(random()::text::bytea), '') from generate_series(1, 32768)")
		}
		if conn != nil {
			_ = conn.Close(context.Background())
		}
		bulk <- err
	}()
	// The daemon says what is wrong, once in its log and always when it is asked.
	if stuck {
		eventually(t, connectLimit, "the status tells of the full disk", func() error {
			r := h.call("status")
			if r.code != 0 || !strings.Contains(r.out, "writes wait") || !strings.Contains(r.out, "no space left") {
				return fmt.Errorf("status: %v", r)
			}
			return nil
		})
	} else {
		select {
		case err := <-bulk:
			t.Logf("the bulk writer failed while the disk was full: %v", err)
			bulk <- err
		case <-time.After(8 * time.Second):
			t.Log("the bulk writer went on or waited while the disk was full")
		}
	}
	log, err := os.ReadFile(h.log)
	if err != nil {
		t.Fatal(err)
	}
	if told := strings.Count(string(log), "journal disk is full"); told > 4 {
		t.Errorf("%d lines in the log tell of a full disk", told)
	}
	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	cancel()
	for range clients { // they have failed, or see now that it is over
	}
	<-bulk
	t.Logf("clients ended %v after there was room again", time.Since(began).Round(time.Millisecond))

	// They connect again and go on.
	eventually(t, 2*time.Minute, "a client commits again", func() error {
		conn, err := h.tryConnect(t.Context(), "demo")
		if err != nil {
			return err
		}
		defer conn.Close(context.Background())
		_, err = conn.Exec(t.Context(), "create table if not exists again ()")
		return err
	})
	run.figures.add("full disk: room to commit", time.Since(began))
	l.check(h, "demo")
	ctx, cancel = context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	clients = l.run(ctx, h, "demo")
	eventually(t, connectLimit, "clients commit", l.moved(20))
	cancel()
	for err := range clients {
		t.Errorf("a client failed after there was room again: %v", err)
	}
	l.check(h, "demo")
	h.stop()
	h.start()
	l.check(h, "demo")
	h.checkWhole("demo")
	h.checkNothing()
}

// moved returns a function that says whether n more commits were acknowledged.
func (l *ledger) moved(n int64) func() error {
	goal := l.total() + n
	return func() error {
		if now := l.total(); now < goal {
			return fmt.Errorf("%d of %d commits", now, goal)
		}
		return nil
	}
}
