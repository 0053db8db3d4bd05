package blockdev_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/bough-db/bough/blockdev"
	"github.com/bough-db/bough/blockdev/memdev"
	"github.com/bough-db/bough/branchfs"
	"github.com/bough-db/bough/branchfs/branchfstest"
)

const deviceSize = 4 << 30

func TestMain(m *testing.M) {
	branchfstest.Main(m, map[string]branchfstest.Role{
		"daemon": daemonRole,
		"files":  filesRole,
		"hold":   holdRole,
	})
}

// rig is a state directory with a file system of branches over it, as a daemon has.
type rig struct {
	state   string
	src     *branchfstest.Source
	fs      *branchfs.Server
	volumes *blockdev.Volumes
}

func newRig(state string, log *slog.Logger) (*rig, error) {
	r := &rig{state: state, src: branchfstest.NewSource()}
	var err error
	r.volumes, err = blockdev.NewVolumes(blockdev.Options{State: state, Logger: log, Timeout: 30 * time.Second})
	if err != nil {
		return nil, err
	}
	r.fs, err = branchfs.Mount(context.Background(), branchfs.Options{
		Source: r.src, Dir: filepath.Join(state, "mnt"), Logger: log,
	})
	return r, err
}

// start makes a rig that is taken down with the test, whatever the test left in it.
func start(t *testing.T) *rig {
	t.Helper()
	branchfstest.RequireKernel(t)
	r, err := newRig(t.TempDir(), slog.New(slog.NewTextHandler(t.Output(), nil)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.takeDown(t) })
	return r
}

func (r *rig) takeDown(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	if err := r.fs.Close(ctx); err != nil {
		if !t.Failed() {
			t.Errorf("the test left something attached: %v", err)
		}
		if err := r.fs.Abort(ctx); err != nil {
			t.Errorf("abort: %v", err)
		}
	}
	if report, err := r.volumes.Cleanup(ctx); err != nil || !report.Empty() && !t.Failed() {
		t.Errorf("cleanup after the test: %+v, %v", report, err)
	}
}

// branch adds a branch p/name on dev and returns how to attach and mount it.
func (r *rig) branch(name string, dev blockdev.Device) blockdev.AttachOptions {
	id := r.src.Add("p", name, dev)
	return blockdev.AttachOptions{ID: id, File: r.fs.DiskPath("p", name), Dir: filepath.Join(r.state, "data", id)}
}

// attach attaches a branch and fails the test if it cannot.
func (r *rig) attach(t *testing.T, o blockdev.AttachOptions) blockdev.Attachment {
	t.Helper()
	a, err := r.volumes.Attach(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func (r *rig) detach(t *testing.T, id string) {
	t.Helper()
	if err := r.volumes.Detach(t.Context(), id); err != nil {
		t.Fatal(err)
	}
}

// fresh is an empty device of the usual size.
func fresh() *memdev.Device { return memdev.New(deviceSize, memdev.Options{}) }

// daemonRole attaches branches and waits to be killed. Its arguments are the state
// directory and "back" or "through".
func daemonRole(args []string) error {
	r, err := newRig(args[0], slog.Default())
	if err != nil {
		return err
	}
	for _, name := range []string{"a", "b"} {
		o := r.branch(name, memdev.New(deviceSize, memdev.Options{WriteThrough: args[1] == "through"}))
		o.Format, o.WriteThrough = true, args[1] == "through"
		a, err := r.volumes.Attach(context.Background(), o)
		if err != nil {
			return err
		}
		fmt.Println(a.Number)
	}
	bare := r.branch("bare", fresh())
	bare.Dir = ""
	a, err := r.volumes.Attach(context.Background(), bare)
	if err != nil {
		return err
	}
	fmt.Println(a.Number)
	select {}
}

// filesRole works on files in a directory: "write" makes some and syncs them, "check"
// reads them back, "sync N" overwrites 8 KiB of one file and syncs, N times.
func filesRole(args []string) error {
	dir, what := args[0], args[1]
	for i := range 20 {
		path, text := filepath.Join(dir, fmt.Sprint("file", i)), strings.Repeat(fmt.Sprint(i, " bottles\n"), 5000*i)
		switch what {
		case "write":
			f, err := os.Create(path)
			if err != nil {
				return err
			}
			_, err = f.WriteString(text)
			if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
				return err
			}
		case "check":
			got, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			if string(got) != text {
				return fmt.Errorf("%s holds %d bytes, or others than were written", path, len(got))
			}
		}
	}
	if what != "sync" {
		return nil
	}
	f, err := os.OpenFile(filepath.Join(dir, "synced"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	var n int
	if _, err := fmt.Sscan(args[2], &n); err != nil {
		return err
	}
	for i := range n {
		if _, err := f.WriteAt(make([]byte, 8192), int64(i%4)*8192); err != nil {
			return err
		}
		if err := unix.Fdatasync(int(f.Fd())); err != nil {
			return err
		}
	}
	return nil
}

// holdRole opens a file, says so, and waits for the end of its standard input.
func holdRole(args []string) error {
	f, err := os.Open(args[0])
	if err != nil {
		return err
	}
	defer f.Close()
	fmt.Println("open")
	_, err = io.Copy(io.Discard, os.Stdin)
	return err
}

// child starts a role, reads lines lines of its output, and returns them with what
// ends it.
func child(t *testing.T, lines int, role string, args ...string) (said []string, stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	cmd := branchfstest.Command(ctx, role, args...)
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	stopped := false
	stop = func() {
		if stopped {
			return
		}
		stopped = true
		_ = in.Close()
		cancel()
		_ = cmd.Wait() // it was killed
	}
	t.Cleanup(stop)
	for range lines {
		var line string
		if _, err := fmt.Fscanln(out, &line); err != nil {
			t.Fatalf("child %s said %q, then: %v", role, said, err)
		}
		said = append(said, line)
	}
	return said, stop
}

// tool runs a program that must succeed, or skips the test when it is not there.
func tool(t *testing.T, name string, args ...string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		t.Skipf("needs %s: %v", name, err)
	}
	out, err := exec.CommandContext(t.Context(), path, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %q: %v\n%s", name, args, err, out)
	}
	return string(out)
}

// sysfs reads an attribute of a loop device.
func sysfs(t *testing.T, n int, attr string) string {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/sys/block/loop%d/%s", n, attr))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(text))
}

// wantError reports a missing sentinel or text in err, or a second line.
func wantError(t *testing.T, err, want error, text string) {
	t.Helper()
	if !errors.Is(err, want) || !strings.Contains(err.Error(), text) || strings.Contains(err.Error(), "\n") {
		t.Fatalf("got error %v; want one that wraps %v and has %q in its one line", err, want, text)
	}
}
