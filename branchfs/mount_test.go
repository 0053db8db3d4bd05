package branchfs_test

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/bough-db/bough/branchfs"
	"github.com/bough-db/bough/branchfs/branchfstest"
)

func TestMountErrors(t *testing.T) {
	branchfstest.RequireKernel(t)
	dir := t.TempDir()
	try := func(o branchfs.Options) error {
		s, err := branchfs.Mount(t.Context(), o)
		if err == nil {
			_ = s.Abort(t.Context())
			t.Fatal("mounted")
		}
		return err
	}
	o := branchfs.Options{Source: branchfstest.NewSource(), Dir: filepath.Join(dir, "mnt")}

	noDevice := o
	noDevice.SetDevice(filepath.Join(dir, "nofuse"))
	requireErrors(t, try(noDevice), branchfs.ErrNoFUSE, "modprobe fuse")

	full := o
	full.Dir = filepath.Join(dir, "full")
	if err := os.MkdirAll(filepath.Join(full.Dir, "precious"), 0o700); err != nil {
		t.Fatal(err)
	}
	requireErrors(t, try(full), branchfs.ErrNotEmpty, "precious")

	if err := try(branchfs.Options{}); !strings.Contains(err.Error(), "Source") || !strings.Contains(err.Error(), "Dir") {
		t.Fatalf("empty options: %v, want both faults named", err)
	}
}

func TestMountWithoutRights(t *testing.T) {
	branchfstest.RequireKernel(t)
	dir := filepath.Join(t.TempDir(), "mnt")
	result := make(chan error)
	go func() {
		// The thread loses its capabilities and ends with the goroutine.
		runtime.LockOSThread()
		hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
		var none [2]unix.CapUserData
		if err := unix.Capset(&hdr, &none[0]); err != nil {
			result <- err
			return
		}
		_, err := branchfs.Mount(t.Context(), branchfs.Options{Source: branchfstest.NewSource(), Dir: dir})
		result <- err
	}()
	requireErrors(t, <-result, branchfs.ErrNoRights, "run as root")
}

func TestMountOverLiveServer(t *testing.T) {
	s, src, _ := one(t)
	_, err := branchfs.Mount(t.Context(), branchfs.Options{Source: src, Dir: s.Dir()})
	requireErrors(t, err, branchfs.ErrMounted, "stop who serves it")
}

// TestMountAfterKilledServer finds a mount whose server was killed while a program
// had a file open, and another that was killed over it.
func TestMountAfterKilledServer(t *testing.T) {
	branchfstest.RequireKernel(t)
	dir := filepath.Join(t.TempDir(), "mnt")
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
	path := filepath.Join(dir, "p", "main", "disk")
	for range 2 {
		kill := child(t, "serve", dir)
		child(t, "hold", path)
		kill()
		if got := branchfstest.Script(t, path, "open rd"); got[0] != "ENOTCONN" {
			t.Fatalf("open after the kill answered %s, want ENOTCONN", got[0])
		}
	}
	src := branchfstest.NewSource()
	s, err := branchfs.Mount(t.Context(), branchfs.Options{Source: src, Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := soon()
	defer cancel()
	if err := s.Close(ctx); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(dir); err != nil {
		t.Fatalf("the mount point is still in use: %v", err)
	}
}

// TestChildrenDoNotInherit is what makes the mount of a killed server dead, although
// the server's children live.
func TestChildrenDoNotInherit(t *testing.T) {
	one(t)
	if out := branchfstest.Run(t, "descriptors"); strings.Contains(out, "fuse") {
		t.Fatalf("a child process has the FUSE connection open:\n%s", out)
	}
}

func TestPanicEndsTheProcess(t *testing.T) {
	branchfstest.RequireKernel(t)
	dir := filepath.Join(t.TempDir(), "mnt")
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	cmd := branchfstest.Command(ctx, "serve", dir, "panic")
	var said bytes.Buffer
	cmd.Stderr = &said
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := out.Read(make([]byte, 16)); err != nil {
		t.Fatal(err)
	}
	got := branchfstest.Script(t, filepath.Join(dir, "p", "main", "disk"), "open rd", "pread 0 4096")
	if got[0] != "ok" || got[1] != "ENOTCONN" && got[1] != "ECONNABORTED" {
		t.Errorf("a read on which the server panics answered %q, want ENOTCONN", got)
	}
	err = cmd.Wait()
	if cmd.ProcessState.ExitCode() != 2 || !strings.Contains(said.String(), "index out of range") ||
		!strings.Contains(said.String(), "serveRole") {
		t.Fatalf("the server ended with %v and said:\n%s\nwant exit code 2, the panic and its stack", err, &said)
	}
}

func TestAbortFailsWaitingRequests(t *testing.T) {
	s, src, _ := one(t)
	stop := child(t, "hold", s.DiskPath("p", "main"))
	ctx, cancel := soon()
	defer cancel()
	if err := s.Abort(ctx); err != nil {
		t.Fatal(err)
	}
	if n := src.Open(); n != 0 {
		t.Fatalf("%d devices are open after Abort", n)
	}
	select {
	case <-s.Done():
	default:
		t.Fatal("Done is not closed after Abort")
	}
	stop()
	if err := s.Close(ctx); err != nil && !errors.Is(err, unix.EINVAL) {
		t.Fatalf("close after abort: %v", err)
	}
}
