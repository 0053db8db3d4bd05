package branchfs_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/bough-db/bough/blockdev/memdev"
	"github.com/bough-db/bough/branchfs/branchfstest"
)

// recorder collects the calls on a device.
type recorder struct {
	mu    sync.Mutex
	calls []string
}

func (r *recorder) hook(_ context.Context, c memdev.Call) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.calls = append(r.calls, fmt.Sprintf("%v %d+%d", c.Kind, c.Off, c.Len))
	return nil
}

func (r *recorder) list() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.calls
}

func TestFileCallsBecomeDeviceCalls(t *testing.T) {
	const mib = 1 << 20
	for _, tc := range []struct {
		name    string
		steps   []string
		answers []string
		calls   []string
	}{
		{
			"write, sync, read",
			[]string{"pwrite 8192 4096 7", "fsync", "pread 4096 12288"},
			[]string{"ok", "ok", "4096*x00 4096*x07 4096*x00"},
			[]string{"write 8192+4096", "flush 0+0", "read 4096+12288"},
		},
		{
			"parts of blocks",
			[]string{"pwrite 100 10 1", "pread 99 12"},
			[]string{"ok", "1*x00 10*x01 1*x00"},
			[]string{"write 100+10", "read 99+12"},
		},
		{
			"one mebibyte is one call",
			[]string{fmt.Sprintf("pwrite 0 %d 5", mib), fmt.Sprintf("pread 0 %d", mib)},
			[]string{"ok", fmt.Sprintf("%d*x05", mib)},
			[]string{"write 0+1048576", "read 0+1048576"},
		},
		{
			"punch is trim",
			[]string{"pwrite 0 8192 9", "fallocate 3 4096 536870912", "pread 0 8192"},
			[]string{"ok", "ok", "4096*x09 4096*x00"},
			[]string{"write 0+8192", "trim 4096+536870912", "read 0+8192"},
		},
		{
			"zero range is write zeroes",
			[]string{"fallocate 0x10 0 1073741824", "fallocate 0x11 4096 4096"},
			[]string{"ok", "ok"},
			[]string{"zero 0+1073741824", "zero 4096+4096"},
		},
		{"plain fallocate", []string{"fallocate 0 0 1048576", "fallocate 1 0 4096"}, []string{"ok", "ok"}, nil},
		{"other fallocate", []string{"fallocate 8 0 4096"}, []string{"ENOTSUP"}, nil},
		{
			"the end",
			[]string{fmt.Sprintf("pread %d 8192", deviceSize-4096), fmt.Sprintf("pread %d 4096", deviceSize), fmt.Sprintf("pread %d 4096", 1<<40)},
			[]string{"4096*x00", "nothing", "nothing"},
			[]string{fmt.Sprintf("read %d+4096", deviceSize-4096)},
		},
		{
			"beyond the end",
			[]string{
				fmt.Sprintf("pwrite %d 4096 1", deviceSize), fmt.Sprintf("pwrite %d 4096 1", deviceSize-1), fmt.Sprintf("pwrite %d 4096 1", 1<<50),
				fmt.Sprintf("fallocate 3 %d 4096", deviceSize), fmt.Sprintf("fallocate 0x10 0 %d", deviceSize+1), fmt.Sprintf("fallocate 0 0 %d", deviceSize+1),
				"fstat",
			},
			[]string{"ENOSPC", "ENOSPC", "ENOSPC", "ENOSPC", "ENOSPC", "ENOSPC", fmt.Sprintf("mode 100600 size %d blksize 4096", deviceSize)},
			nil,
		},
		{
			"what a device cannot do",
			[]string{"ftruncate 4096", fmt.Sprintf("ftruncate %d", 2*deviceSize), fmt.Sprintf("ftruncate %d", deviceSize), "fchmod 0777", "mmap"},
			[]string{"EPERM", "EPERM", "ok", "EPERM", "ENODEV"},
			nil,
		},
		{"close is no barrier", []string{"pwrite 0 4096 1", "close"}, []string{"ok", "ok"}, []string{"write 0+4096"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s, _, dev := one(t)
			var rec recorder
			dev.SetHook(rec.hook)
			got := branchfstest.Script(t, s.DiskPath("p", "main"), append([]string{"open rdwr"}, tc.steps...)...)
			if diff := cmp.Diff(append([]string{"ok"}, tc.answers...), got); diff != "" {
				t.Errorf("answers of %q (-want +got):\n%s", tc.steps, diff)
			}
			if diff := cmp.Diff(tc.calls, rec.list()); diff != "" {
				t.Errorf("device calls of %q (-want +got):\n%s", tc.steps, diff)
			}
		})
	}
}

func TestDeviceErrorsReachTheCaller(t *testing.T) {
	s, src, dev := one(t)
	path := s.DiskPath("p", "main")
	steps := []string{"open rdwr", "pread 0 4096", "pwrite 0 4096 1", "fsync", "fallocate 3 0 4096", "fallocate 0x10 0 4096", "open rd"}
	for _, tc := range []struct {
		name string
		err  error
		want string
	}{
		{"anything", errors.New("checksum mismatch"), "EIO"},
		{"cancelled elsewhere", fmt.Errorf("fetch: %w", context.Canceled), "EIO"},
		{"full", fmt.Errorf("append: %w", syscall.ENOSPC), "ENOSPC"},
		{"own errno", errnoError(syscall.EROFS), "EROFS"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			dev.SetHook(func(context.Context, memdev.Call) error { return tc.err })
			want := []string{"ok", tc.want, tc.want, tc.want, tc.want, tc.want, "ok"}
			if diff := cmp.Diff(want, branchfstest.Script(t, path, steps...)); diff != "" {
				t.Fatalf("answers of %q (-want +got):\n%s", steps, diff)
			}
		})
	}
	src.FailOpens(errnoError(syscall.EBUSY))
	if got := branchfstest.Script(t, path, "open rdwr"); got[0] != "EBUSY" {
		t.Fatalf("open answered %s, want EBUSY", got)
	}
}

type errnoError syscall.Errno

func (e errnoError) Error() string        { return "refused" }
func (e errnoError) Errno() syscall.Errno { return syscall.Errno(e) }

// TestInterruptStopsReads also shows that it does not stop writes: the call's context
// lives on, and the write takes effect.
func TestInterruptStopsReads(t *testing.T) {
	s, src, dev := one(t)
	path := s.DiskPath("p", "main")
	entered := make(chan context.Context, 1)
	proceed := make(chan struct{})
	dev.SetHook(func(ctx context.Context, c memdev.Call) error {
		entered <- ctx
		if c.Kind == memdev.Read {
			<-ctx.Done()
			return ctx.Err()
		}
		<-proceed
		return nil
	})
	for _, step := range []string{"pread 0 4096", "pwrite 0 4096 7"} {
		ctx, kill := context.WithCancel(t.Context())
		cmd := branchfstest.Command(ctx, "script", path, "open rdwr", step)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		call := <-entered
		kill()
		if strings.HasPrefix(step, "pread") {
			select {
			case <-call.Done():
			case <-time.After(10 * time.Second):
				t.Error("a killed reader's call was not cancelled")
			}
		} else {
			select {
			case <-call.Done():
				t.Error("a killed writer's call was cancelled")
			case <-time.After(300 * time.Millisecond): // the interrupt has arrived by then
			}
			close(proceed)
		}
		_ = cmd.Wait() // it was killed
	}
	ctx, cancel := soon()
	defer cancel()
	if err := src.WaitOpen(ctx, 0); err != nil {
		t.Fatal(err)
	}
	dev.SetHook(nil)
	if got := branchfstest.Script(t, path, "open rd", "pread 0 4096"); got[1] != "4096*x07" {
		t.Fatalf("after the interrupted write the block holds %s", got[1])
	}
}
