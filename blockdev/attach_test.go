package blockdev_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/bough-db/bough/blockdev"
	"github.com/bough-db/bough/blockdev/memdev"
	"github.com/bough-db/bough/branchfs/branchfstest"
)

func TestAttachErrors(t *testing.T) {
	r := start(t)
	blank := r.branch("blank", fresh())
	for _, tc := range []struct {
		name   string
		change func(o *blockdev.AttachOptions)
		want   error
		text   string
	}{
		{"no file system", func(o *blockdev.AttachOptions) {}, unix.EINVAL, "no ext4 file system"},
		{"no such branch", func(o *blockdev.AttachOptions) { o.File = r.fs.DiskPath("p", "none") }, os.ErrNotExist, "none/disk"},
		{"mount point is a file", func(o *blockdev.AttachOptions) { o.Dir = o.File }, nil, "not an absolute path"},
		{"mount point below a file", func(o *blockdev.AttachOptions) { o.Format, o.Dir = true, "/proc/version/x" }, unix.ENOTDIR, "mount point"},
		{"relative paths", func(o *blockdev.AttachOptions) { o.File, o.Dir = "disk", "data" }, nil, "absolute"},
		{"id is a path", func(o *blockdev.AttachOptions) { o.ID = "../x" }, nil, "file name"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			o := blank
			tc.change(&o)
			_, err := r.volumes.Attach(t.Context(), o)
			if err == nil {
				t.Fatal("attached")
			}
			if tc.want != nil {
				wantError(t, err, tc.want, tc.text)
			} else if !strings.Contains(err.Error(), tc.text) {
				t.Fatalf("error %q; want it to have %q", err, tc.text)
			}
			if err := r.src.WaitOpen(t.Context(), 0); err != nil {
				t.Fatal(err)
			}
			if left, _ := filepath.Glob(filepath.Join(r.state, "run", "*", "*")); len(left) > 0 {
				t.Errorf("left behind: %q", left)
			}
		})
	}
	wantError(t, r.volumes.Detach(t.Context(), "br-none"), blockdev.ErrNotAttached, "br-none")
	wantError(t, r.volumes.Trim(t.Context(), "br-none"), blockdev.ErrNotAttached, "br-none")
	wantError(t, r.volumes.Grow(t.Context(), "br-none"), blockdev.ErrNotAttached, "br-none")
	if _, err := blockdev.NewVolumes(blockdev.Options{}); err == nil {
		t.Error("NewVolumes took options without a state directory")
	}
}

func TestFormatErrorHasWhatTheToolSaid(t *testing.T) {
	r := start(t)
	o := r.branch("tiny", memdev.New(64<<10, memdev.Options{}))
	o.Format = true
	_, err := r.volumes.Attach(t.Context(), o)
	if err == nil || !strings.Contains(err.Error(), "mkfs.ext4") || strings.Contains(err.Error(), "\n") {
		t.Fatalf("format of a tiny device: %v; want mkfs.ext4's words on one line", err)
	}
	if err := r.src.WaitOpen(t.Context(), 0); err != nil {
		t.Fatal(err)
	}
}

// TestAttachTakesTurns attaches one branch many times at once: one device results.
func TestAttachTakesTurns(t *testing.T) {
	r := start(t)
	o := r.branch("main", fresh())
	o.Format = true
	first := r.attach(t, o)
	r.detach(t, o.ID)
	o.Format = false
	var mu sync.Mutex
	devices := map[string]int{}
	var g errgroup.Group
	for range 8 {
		g.Go(func() error {
			a, err := r.volumes.Attach(t.Context(), o)
			mu.Lock()
			defer mu.Unlock()
			devices[a.Device]++
			return err
		})
	}
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	if len(devices) != 1 {
		t.Errorf("attached as %v, want one device", devices)
	}
	elsewhere := o
	elsewhere.Dir += "2"
	_, err := r.volumes.Attach(t.Context(), elsewhere)
	wantError(t, err, blockdev.ErrAttached, first.Dir)
	a, ok, err := r.volumes.Get(t.Context(), o.ID)
	if err != nil || !ok || a.Dir != o.Dir {
		t.Errorf("Get = %+v, %v, %v", a, ok, err)
	}
	r.detach(t, o.ID)
	if _, ok, _ := r.volumes.Get(t.Context(), o.ID); ok {
		t.Error("Get finds a detached branch")
	}
}

// TestManyBranchesAtOnce races for loop devices.
func TestManyBranchesAtOnce(t *testing.T) {
	n := 50
	if testing.Short() {
		n = 12
	}
	r := start(t)
	var g errgroup.Group
	for i := range n {
		o := r.branch(fmt.Sprint("b", i), memdev.New(256<<20, memdev.Options{}))
		o.Format = true
		g.Go(func() error {
			if _, err := r.volumes.Attach(t.Context(), o); err != nil {
				return err
			}
			return os.WriteFile(filepath.Join(o.Dir, "name"), []byte(o.ID), 0o600)
		})
	}
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	for i := range n {
		id := fmt.Sprint("br-p-b", i)
		g.Go(func() error {
			got, err := os.ReadFile(filepath.Join(r.state, "data", id, "name"))
			if err == nil && string(got) != id {
				err = fmt.Errorf("branch %s holds the file of %s", id, got)
			}
			return errors.Join(err, r.volumes.Detach(t.Context(), id))
		})
	}
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if err := r.src.WaitOpen(ctx, 0); err != nil {
		t.Fatal(err)
	}
}

// TestWriteCacheIsSetAtAttach meets a device that somebody left at "write through": a
// branch that needs flushes must not inherit that, nor leave it behind.
func TestWriteCacheIsSetAtAttach(t *testing.T) {
	r := start(t)
	dev := fresh()
	o := r.branch("main", dev)
	o.Format = true
	a := r.attach(t, o)
	r.detach(t, o.ID)
	path := fmt.Sprintf("/sys/block/loop%d/queue/write_cache", a.Number)
	set := func(mode string) {
		whileOurs(t, a.Number, func() {
			if err := os.WriteFile(path, []byte(mode), 0); err != nil {
				t.Error(err)
			}
		})
	}
	set("write through")
	defer set("write back")
	o.Format = false
	b := r.attach(t, o)
	if got := sysfs(t, b.Number, "queue/write_cache"); got != "write back" {
		t.Errorf("a device with a cache is attached as %q", got)
	}
	r.detach(t, o.ID)
	o.WriteThrough = true
	b = r.attach(t, o)
	if got := sysfs(t, b.Number, "queue/write_cache"); got != "write through" {
		t.Errorf("a device without a cache is attached as %q", got)
	}
	r.detach(t, o.ID)
	if got := realCache(t, b.Number); got != "write back" {
		t.Errorf("the next user of loop%d is told of a cache %q", b.Number, got)
	}
}

func TestDetachWaitsForPrograms(t *testing.T) {
	r := start(t)
	o := r.branch("main", fresh())
	o.Format = true
	r.attach(t, o)
	branchfstest.Run(t, "files", o.Dir, "write")
	_, release := child(t, 1, "hold", filepath.Join(o.Dir, "file3"))
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	err := r.volumes.Detach(ctx, o.ID)
	wantError(t, err, blockdev.ErrBusy, "(pid ")
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("error %v does not say that time was up", err)
	}
	branchfstest.Run(t, "files", o.Dir, "check")
	done := make(chan error)
	go func() { done <- r.volumes.Detach(t.Context(), o.ID) }()
	release()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

// TestSilentDevice attaches a device that does not answer: the caller gets its error in
// time, and when the device answers at last, nothing of the attempt is left.
func TestSilentDevice(t *testing.T) {
	r := start(t)
	dev := fresh()
	o := r.branch("main", dev)
	o.Format = true
	r.attach(t, o)
	r.detach(t, o.ID)
	o.Format = false
	answer := make(chan struct{})
	dev.SetHook(func(_ context.Context, c memdev.Call) error { <-answer; return nil })
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	_, err := r.volumes.Attach(ctx, o)
	wantError(t, err, context.DeadlineExceeded, o.ID)
	t.Log(err)
	ctx, cancel = context.WithTimeout(t.Context(), 2500*time.Millisecond) // longer than a cleanup waits
	defer cancel()
	if _, err := r.volumes.Attach(ctx, o); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a second attach beside the first, which hangs: %v", err)
	}
	close(answer)
	dev.SetHook(nil)
	r.attach(t, o) // takes its turn after the first was cleaned up
	r.detach(t, o.ID)
}

// TestWriteCacheChangesInUse changes what the device promises while programs use it.
func TestWriteCacheChangesInUse(t *testing.T) {
	r := start(t)
	o := r.branch("main", fresh())
	o.Format = true
	a := r.attach(t, o)
	const throttle = "queue/wbt_lat_usec"
	// Whatever somebody has left it at.
	err := os.WriteFile(fmt.Sprintf("/sys/block/loop%d/%s", a.Number, throttle), []byte("-1"), 0)
	if err != nil {
		t.Logf("this kernel does not throttle writes: %v", err)
	}
	want := func(mode string, through bool) {
		t.Helper()
		if err == nil {
			if got := sysfs(t, a.Number, throttle); (got == "0") != through {
				t.Errorf("%s is %q beside write cache %q", throttle, got, mode)
			}
		}
		if got := sysfs(t, a.Number, "queue/write_cache"); got != mode {
			t.Errorf("write cache %q, want %q", got, mode)
		}
		at, ok, err := r.volumes.Get(t.Context(), o.ID)
		if err != nil || !ok || at.WriteThrough != through {
			t.Errorf("attached as %+v, %v, %v", at, ok, err)
		}
		text, err := os.ReadFile(filepath.Join(r.state, "run", o.ID, "attach.json"))
		if err != nil || strings.Contains(string(text), `"write_through": true`) != through {
			t.Errorf("recorded: %s, %v", text, err)
		}
	}
	want("write back", false)
	branchfstest.Run(t, "files", o.Dir, "write")
	for _, through := range []bool{true, true, false, true} {
		if err := r.volumes.SetWriteThrough(t.Context(), o.ID, through); err != nil {
			t.Fatal(err)
		}
		want(map[bool]string{true: "write through", false: "write back"}[through], through)
		branchfstest.Run(t, "files", o.Dir, "check")
	}
	r.detach(t, o.ID)
	if got := realCache(t, a.Number); got != "write back" {
		t.Errorf("the next user of loop%d is told of a cache %q", a.Number, got)
	}
	wantError(t, r.volumes.SetWriteThrough(t.Context(), o.ID, true), blockdev.ErrNotAttached, o.ID)
}
