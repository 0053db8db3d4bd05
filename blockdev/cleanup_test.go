package blockdev_test

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/bough-db/bough/blockdev"
	"github.com/bough-db/bough/blockdev/memdev"
	"github.com/bough-db/bough/branchfs/branchfstest"
)

// killedDaemon runs a daemon with two mounted branches and a bare device, kills it, and
// returns the loop devices it had and the Volumes of the next start. In between, during
// runs.
func killedDaemon(t *testing.T, state, mode string, during func(devices []int)) ([]int, *blockdev.Volumes) {
	t.Helper()
	branchfstest.RequireKernel(t)
	volumes, err := blockdev.NewVolumes(blockdev.Options{
		State: state, Logger: slog.New(slog.NewTextHandler(t.Output(), nil)), Timeout: 20 * time.Second,
	})
	if err != nil {
		t.Fatal(err)
	}
	said, kill := child(t, 3, "daemon", state, mode)
	t.Cleanup(func() {
		kill()
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		if report, err := volumes.Cleanup(ctx); err != nil || !report.Empty() {
			t.Errorf("a last cleanup found %+v, %v", report, err)
		}
	})
	var devices []int
	for _, line := range said {
		n, err := strconv.Atoi(line)
		if err != nil {
			t.Fatalf("the daemon said %q: %v", said, err)
		}
		devices = append(devices, n)
	}
	if during != nil {
		during(devices)
	}
	kill()
	return devices, volumes
}

// nothingLeft reports mounts and loop devices of a state directory.
func nothingLeft(t *testing.T, state string, devices []int) {
	t.Helper()
	text, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if strings.Contains(line, state+"/") {
			t.Errorf("still mounted: %s", line)
		}
	}
	for _, n := range devices {
		// Where the mount is gone the path begins at its root. Others may have taken the
		// device since.
		backing := sysfs(t, n, "loop/backing_file")
		if strings.HasPrefix(backing, state+"/") || strings.HasPrefix(backing, "/p/") {
			t.Errorf("loop%d is still bound to %s", n, backing)
		}
	}
	if left, _ := filepath.Glob(filepath.Join(state, "run", "*", "*")); len(left) > 0 {
		t.Errorf("records left: %q", left)
	}
}

// whileOurs binds loop device n to a plain file while f runs. If somebody else on this
// machine has taken the device meanwhile it returns false and leaves it alone.
func whileOurs(t *testing.T, n int, f func()) bool {
	t.Helper()
	file := filepath.Join(t.TempDir(), "plain")
	if err := os.WriteFile(file, make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	dev := fmt.Sprint("/dev/loop", n)
	out, err := exec.CommandContext(t.Context(), "losetup", dev, file).CombinedOutput()
	if err != nil {
		if backing := sysfs(t, n, "loop/backing_file"); backing == "" {
			t.Fatalf("losetup %s: %v\n%s", dev, err, out)
		} else {
			t.Logf("%s is bound to %s", dev, backing)
		}
		return false
	}
	defer tool(t, "losetup", "-d", dev)
	f()
	return true
}

// realCache returns what the next user of loop device n would be told of its cache; what
// it should be if there is a next user already.
func realCache(t *testing.T, n int) string {
	t.Helper()
	cache := "write back"
	whileOurs(t, n, func() { cache = sysfs(t, n, "queue/write_cache") })
	return cache
}

func TestCleanupAfterKilledDaemon(t *testing.T) {
	for _, tc := range []struct {
		name, mode string
		between    func(t *testing.T, state string)
	}{
		{"plain", "back", func(*testing.T, string) {}},
		{"write-through", "through", func(*testing.T, string) {}},
		{"without records", "back", func(t *testing.T, state string) {
			if err := os.RemoveAll(filepath.Join(state, "run")); err != nil {
				t.Fatal(err)
			}
		}},
		{"with torn records", "back", func(t *testing.T, state string) {
			for _, id := range []string{"br-p-a", "br-p-bare"} {
				if err := os.WriteFile(filepath.Join(state, "run", id, "attach.json"), []byte(`{"id":`), 0o600); err != nil {
					t.Fatal(err)
				}
			}
		}},
		{"without the FUSE mount", "through", func(t *testing.T, state string) {
			if err := unix.Unmount(filepath.Join(state, "mnt"), unix.MNT_DETACH); err != nil {
				t.Fatal(err)
			}
		}},
		{"unbound by the kernel", "through", func(t *testing.T, state string) {
			for _, id := range []string{"br-p-a", "br-p-b"} {
				if err := unix.Unmount(filepath.Join(state, "data", id), 0); err != nil {
					t.Fatal(err)
				}
			}
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			state := t.TempDir()
			devices, volumes := killedDaemon(t, state, tc.mode, nil)
			tc.between(t, state)
			report, err := volumes.Cleanup(t.Context())
			if err != nil || len(report.Busy) > 0 {
				t.Fatalf("cleanup: %+v, %v", report, err)
			}
			t.Logf("%+v", report)
			nothingLeft(t, state, devices)
			for _, n := range devices {
				if got := realCache(t, n); got != "write back" {
					t.Errorf("the next user of loop%d is told of a cache %q, want write back", n, got)
				}
			}
		})
	}
}

// TestCleanupWithProgramsLeft cleans up while a program of the killed daemon has a file
// open: it keeps its device, which fails, and the next daemon is not kept from starting.
func TestCleanupWithProgramsLeft(t *testing.T) {
	state := t.TempDir()
	var release func()
	devices, volumes := killedDaemon(t, state, "back", func([]int) {
		branchfstest.Run(t, "files", filepath.Join(state, "data", "br-p-a"), "write")
		_, release = child(t, 1, "hold", filepath.Join(state, "data", "br-p-a", "file1"))
	})
	report, err := volumes.Cleanup(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if want := fmt.Sprint("/dev/loop", devices[0]); len(report.Busy) != 1 || report.Busy[0] != want {
		t.Errorf("report %+v; want %s to be busy", report, want)
	}
	r, err := newRig(state, slog.Default())
	if err != nil {
		t.Fatal(err)
	}
	o := r.branch("a", fresh())
	o.Format = true
	r.attach(t, o)
	release()
	r.detach(t, o.ID)
	if err := r.fs.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func TestCleanupRefusesLiveServer(t *testing.T) {
	r := start(t)
	o := r.branch("main", fresh())
	o.Format = true
	r.attach(t, o)
	_, err := r.volumes.Cleanup(t.Context())
	wantError(t, err, blockdev.ErrInUse, "a live process serves")
	branchfstest.Run(t, "files", o.Dir, "write") // still there
	r.detach(t, o.ID)
}

// TestCleanupLeavesOthers cleans up next to another daemon's branch, an administrator's
// loop device, and a mount of an unrelated disk below the state directory.
func TestCleanupLeavesOthers(t *testing.T) {
	other := start(t)
	dev := memdev.New(deviceSize, memdev.Options{WriteThrough: true})
	o := other.branch("main", dev)
	o.Format, o.WriteThrough = true, true
	a := other.attach(t, o)

	state := t.TempDir()
	store := filepath.Join(state, "data", "store")
	if err := os.MkdirAll(store, 0o700); err != nil {
		t.Fatal(err)
	}
	image := filepath.Join(state, "disk")
	if err := os.WriteFile(image, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(image, 16<<20); err != nil {
		t.Fatal(err)
	}
	tool(t, "mkfs.ext4", "-q", image)
	tool(t, "mount", "-o", "loop", image, store)
	defer tool(t, "umount", store)

	// A record of ours that tells of the other's device, from before it was theirs.
	record := fmt.Sprintf(`{"id":"br-x","device":%q,"number":%d,"write_through":true,"boot":%q,"disk_seq":"1"}`, a.Device, a.Number, a.Boot)
	if err := os.MkdirAll(filepath.Join(state, "run", "br-x"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(state, "run", "br-x", "attach.json"), []byte(record), 0o600); err != nil {
		t.Fatal(err)
	}
	volumes, err := blockdev.NewVolumes(blockdev.Options{State: state})
	if err != nil {
		t.Fatal(err)
	}
	if report, err := volumes.Cleanup(t.Context()); err != nil || !report.Empty() {
		t.Errorf("cleanup of an unused state directory: %+v, %v", report, err)
	}
	if got := sysfs(t, a.Number, "queue/write_cache"); got != "write through" {
		t.Errorf("the other daemon's device has its cache at %q now", got)
	}
	if err := os.WriteFile(filepath.Join(store, "file"), []byte("x"), 0o600); err != nil {
		t.Error(err)
	}
	branchfstest.Run(t, "files", o.Dir, "write")
	other.detach(t, o.ID)
}
