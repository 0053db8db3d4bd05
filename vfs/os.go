package vfs

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"sync"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"
)

// OS returns the kernel's file system.
func OS() FS { return osFS{} }

type osFS struct{}

func (osFS) OpenFile(name string, flag int, perm fs.FileMode) (File, error) {
	fd, err := open(name, flag, perm)
	direct := flag&Direct != 0
	if direct && errors.Is(err, unix.EINVAL) {
		direct = false
		fd, err = reopenBuffered(name, flag&^Direct, perm)
	}
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: name, Err: err}
	}
	return &osFile{name: name, fd: fd, direct: direct}, nil
}

// reopenBuffered opens a file whose direct open was refused. Linux creates the
// file before it finds out that O_DIRECT is not supported, and leaves it there;
// an O_EXCL open that got as far as EINVAL was the one that created it.
func reopenBuffered(name string, flag int, perm fs.FileMode) (int, error) {
	fd, err := open(name, flag, perm)
	if err == unix.EEXIST && flag&os.O_EXCL != 0 {
		fd, err = open(name, flag&^os.O_EXCL, perm)
	}
	return fd, err
}

func open(name string, flag int, perm fs.FileMode) (int, error) {
	for {
		fd, err := unix.Open(name, flag|unix.O_CLOEXEC, uint32(perm.Perm()))
		if err != unix.EINTR {
			return fd, err
		}
	}
}

func (osFS) Rename(oldname, newname string) error         { return os.Rename(oldname, newname) }
func (osFS) Link(oldname, newname string) error           { return os.Link(oldname, newname) }
func (osFS) Remove(name string) error                     { return os.Remove(name) }
func (osFS) MkdirAll(name string, perm fs.FileMode) error { return os.MkdirAll(name, perm) }
func (osFS) ReadDir(name string) ([]fs.DirEntry, error)   { return os.ReadDir(name) }
func (osFS) Stat(name string) (fs.FileInfo, error)        { return os.Stat(name) }

func (osFS) SyncDir(name string) error {
	d, err := os.Open(name)
	if err != nil {
		return err
	}
	err = d.Sync()
	if cerr := d.Close(); err == nil {
		err = cerr
	}
	return err
}

func (osFS) Lock(name string) (io.Closer, error) {
	f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	if err := flock(int(f.Fd())); err != nil {
		_ = f.Close()
		if err == unix.EWOULDBLOCK {
			err = ErrLocked
		}
		return nil, &fs.PathError{Op: "lock", Path: name, Err: err}
	}
	return f, nil
}

func flock(fd int) error {
	for {
		err := unix.Flock(fd, unix.LOCK_EX|unix.LOCK_NB)
		if err != unix.EINTR {
			return err
		}
	}
}

// osFile is a bare descriptor rather than an os.File: pwritev2 is not offered
// there, and reaching it through SyscallConn costs an allocation per write.
type osFile struct {
	name   string
	direct bool
	// noDsync is set when the kernel or file system refused RWF_DSYNC: from then
	// on a durable write is a plain one and an fdatasync.
	noDsync atomic.Bool

	// mu is held shared by every call and exclusively by Close, so that no
	// call can reach a descriptor number that has been reused: a journal write
	// into somebody else's file is the worst thing this package could do.
	mu sync.RWMutex
	fd int // -1 once closed
}

func (f *osFile) Name() string { return f.name }
func (f *osFile) Direct() bool { return f.direct }

func (f *osFile) fail(op string, err error) error {
	return &fs.PathError{Op: op, Path: f.name, Err: err}
}

func (f *osFile) ReadAt(p []byte, off int64) (int, error) {
	f.mu.RLock()
	defer f.mu.RUnlock()
	if f.fd < 0 {
		return 0, f.fail("read", fs.ErrClosed)
	}
	n := 0
	for n < len(p) {
		m, err := unix.Pread(f.fd, p[n:], off+int64(n))
		switch {
		case err == unix.EINTR:
		case err != nil:
			return n, f.fail("read", err)
		case m == 0:
			return n, io.EOF
		default:
			n += m
		}
	}
	return n, nil
}

func (f *osFile) WriteAt(p []byte, off int64) (int, error) {
	f.mu.RLock()
	defer f.mu.RUnlock()
	if f.fd < 0 {
		return 0, f.fail("write", fs.ErrClosed)
	}
	n := 0
	for n < len(p) {
		m, err := unix.Pwrite(f.fd, p[n:], off+int64(n))
		switch {
		case err == unix.EINTR:
		case err != nil:
			return n, f.fail("write", err)
		case m == 0:
			return n, f.fail("write", io.ErrShortWrite)
		default:
			n += m
		}
	}
	return n, nil
}

// iovMax is the number of buffers handed to one system call: enough for every
// caller in this repository, small enough to live on the stack.
const iovMax = 64

func (f *osFile) WritevAt(bufs [][]byte, off int64, durable bool) error {
	f.mu.RLock()
	defer f.mu.RUnlock()
	if f.fd < 0 {
		return f.fail("write", fs.ErrClosed)
	}
	sync := false
	done := 0 // bytes of bufs[0] that are written
	for len(bufs) > 0 {
		var iov [iovMax]unix.Iovec
		n := 0
		for i := 0; i < len(bufs) && n < iovMax; i++ {
			b := bufs[i]
			if i == 0 {
				b = b[done:]
			}
			if len(b) == 0 {
				continue
			}
			iov[n].Base = &b[0]
			iov[n].SetLen(len(b))
			n++
		}
		if n == 0 {
			break
		}
		flags := uintptr(0)
		if durable && !f.noDsync.Load() {
			flags = unix.RWF_DSYNC
		}
		m, errno := pwritev2(f.fd, &iov, n, off, flags)
		switch {
		case errno == unix.EINTR:
			continue
		case flags != 0 && (errno == unix.EOPNOTSUPP || errno == unix.ENOSYS):
			f.noDsync.Store(true)
			continue
		case errno != 0:
			return f.fail("write", errno)
		case m == 0:
			return f.fail("write", io.ErrShortWrite)
		}
		if durable && flags == 0 {
			sync = true
		}
		off += int64(m)
		bufs, done = advance(bufs, done+m)
	}
	if sync {
		if err := fdatasync(f.fd); err != nil {
			return f.fail("fdatasync", err)
		}
	}
	return nil
}

// advance drops the first n bytes of bufs, and returns how many bytes of the
// then first buffer were dropped.
func advance(bufs [][]byte, n int) ([][]byte, int) {
	for len(bufs) > 0 && n >= len(bufs[0]) {
		n -= len(bufs[0])
		bufs = bufs[1:]
	}
	return bufs, n
}

// pwritev2 is the bare system call: unix.Pwritev2 builds its vector on the heap.
func pwritev2(fd int, iov *[iovMax]unix.Iovec, n int, off int64, flags uintptr) (int, unix.Errno) {
	// The kernel takes the offset in two halves; on 64-bit machines the high
	// half is ignored.
	r, _, errno := unix.Syscall6(unix.SYS_PWRITEV2, uintptr(fd),
		uintptr(unsafe.Pointer(iov)), uintptr(n), uintptr(off), 0, flags)
	return int(r), errno
}

func fdatasync(fd int) error {
	for {
		err := unix.Fdatasync(fd)
		if err != unix.EINTR {
			return err
		}
	}
}

func (f *osFile) Sync() error {
	f.mu.RLock()
	defer f.mu.RUnlock()
	if f.fd < 0 {
		return f.fail("fdatasync", fs.ErrClosed)
	}
	if err := fdatasync(f.fd); err != nil {
		return f.fail("fdatasync", err)
	}
	return nil
}

func (f *osFile) Truncate(size int64) error {
	f.mu.RLock()
	defer f.mu.RUnlock()
	if f.fd < 0 {
		return f.fail("truncate", fs.ErrClosed)
	}
	if err := unix.Ftruncate(f.fd, size); err != nil {
		return f.fail("truncate", err)
	}
	return nil
}

func (f *osFile) Allocate(off, size int64) error {
	f.mu.RLock()
	defer f.mu.RUnlock()
	if f.fd < 0 {
		return f.fail("allocate", fs.ErrClosed)
	}
	for {
		err := unix.Fallocate(f.fd, 0, off, size)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return f.fail("allocate", err)
		}
		return nil
	}
}

func (f *osFile) Size() (int64, error) {
	f.mu.RLock()
	defer f.mu.RUnlock()
	if f.fd < 0 {
		return 0, f.fail("stat", fs.ErrClosed)
	}
	var st unix.Stat_t
	if err := unix.Fstat(f.fd, &st); err != nil {
		return 0, f.fail("stat", err)
	}
	return st.Size, nil
}

func (f *osFile) Close() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.fd < 0 {
		return f.fail("close", fs.ErrClosed)
	}
	fd := f.fd
	f.fd = -1
	// EINTR from close leaves the descriptor closed on Linux: never retried.
	if err := unix.Close(fd); err != nil && err != unix.EINTR {
		return f.fail("close", err)
	}
	return nil
}
