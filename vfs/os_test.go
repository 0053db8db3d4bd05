package vfs_test

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/bough-db/bough/vfs"
	"github.com/bough-db/bough/vfs/vfstest"
)

func TestOS(t *testing.T) {
	vfstest.Run(t, func(t *testing.T) (vfs.FS, string) { return vfs.OS(), t.TempDir() })
}

// TestShm runs the suite on a tmpfs, which is where O_DIRECT may be refused.
func TestShm(t *testing.T) {
	if _, err := os.Stat("/dev/shm"); err != nil {
		t.Skip("no /dev/shm")
	}
	vfstest.Run(t, func(t *testing.T) (vfs.FS, string) {
		dir, err := os.MkdirTemp("/dev/shm", "vfs")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { os.RemoveAll(dir) })
		return vfs.OS(), dir
	})
}

func TestDurableWriteAllocatesNothing(t *testing.T) {
	f, err := vfs.OS().OpenFile(filepath.Join(t.TempDir(), "f"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	bufs := [][]byte{make([]byte, 100), make([]byte, 200)}
	p := make([]byte, 300)
	got := testing.AllocsPerRun(50, func() {
		if f.WritevAt(bufs, 0, true) != nil || f.WritevAt(bufs, 0, false) != nil {
			t.Fail()
		}
		if _, err := f.ReadAt(p, 0); err != nil {
			t.Fail()
		}
	})
	if got != 0 {
		t.Fatalf("%v allocations per write and read, want 0", got)
	}
}

func TestIsFull(t *testing.T) {
	for err, want := range map[error]bool{
		unix.ENOSPC: true, unix.EDQUOT: true, unix.EIO: false, os.ErrNotExist: false,
		&os.PathError{Op: "write", Err: unix.ENOSPC}: true,
	} {
		if got := vfs.IsFull(err); got != want {
			t.Errorf("IsFull(%v) = %v", err, got)
		}
	}
}

// TestErrorNamesThePath: an error of the disk that does not say which file it
// is about is of no use to anybody.
func TestErrorNamesThePath(t *testing.T) {
	name := filepath.Join(t.TempDir(), "f")
	f, err := vfs.OS().OpenFile(name, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	_ = f.Close()
	var pe *os.PathError
	if err := f.Sync(); !errors.As(err, &pe) || pe.Path != name || pe.Op != "fdatasync" {
		t.Fatalf("Sync of a closed file: %v", err)
	}
}

// TestWriteBeyondLimit: a write that the kernel cuts short or refuses is an error.
func TestWriteBeyondLimit(t *testing.T) {
	f, err := vfs.OS().OpenFile("/dev/full", os.O_RDWR, 0)
	if err != nil {
		t.Skip(err)
	}
	defer f.Close()
	if err := f.WritevAt([][]byte{{1}}, 0, false); !errors.Is(err, unix.ENOSPC) {
		t.Fatalf("write to a full device: %v", err)
	}
	if _, err := f.WriteAt([]byte{1}, 0); !vfs.IsFull(err) {
		t.Fatalf("write to a full device: %v", err)
	}
}
