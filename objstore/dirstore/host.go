package dirstore

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/bough-db/bough/objstore"
	"github.com/bough-db/bough/vfs"
)

// labelName is the extended attribute that holds an object's tag.
const labelName = "user.bough.tag"

// labelBytesMax is more than any tag has.
const labelBytesMax = 64

// host is what the store needs of a file system beyond vfs.FS: reading objects
// with their labels.
type host interface {
	// open opens an object's file. What is not a regular file is not there.
	open(name string) (file, error)
	// setLabel notes a tag with a file, where that is possible.
	setLabel(name, tag string)
	// label returns the tag noted with a file: "" when there is none to be had.
	label(name string) string
	// syncAll makes durable what is in a directory and below it.
	syncAll(dir string) error
}

// file is an open object. Its methods may be called concurrently, except close.
type file interface {
	readAt(p []byte, off int64) (int, error)
	size() (int64, error)
	label() string
	setLabel(tag string)
	close() error
}

// kernel is the kernel's file system.
type kernel struct{}

func (kernel) open(name string) (file, error) {
	// O_NONBLOCK: a FIFO in place of an object must not stop us for ever.
	const flags = unix.O_RDONLY | unix.O_CLOEXEC | unix.O_NOFOLLOW | unix.O_NONBLOCK
	for {
		fd, err := unix.Open(name, flags, 0)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return nil, &fs.PathError{Op: "open", Path: name, Err: err}
		}
		f := &kernelFile{fd: fd, name: name}
		if err := unix.Fstat(fd, &f.stat); err != nil {
			return nil, errors.Join(f.fail("stat", err), f.close())
		}
		if f.stat.Mode&unix.S_IFMT != unix.S_IFREG {
			return nil, errors.Join(f.fail("open", fs.ErrNotExist), f.close())
		}
		return f, nil
	}
}

func (kernel) setLabel(name, tag string) {
	// Best effort: without label the tag is computed from the contents.
	_ = unix.Lsetxattr(name, labelName, []byte(tag), 0)
}

func (kernel) label(name string) string {
	var buf [labelBytesMax]byte
	n, err := unix.Lgetxattr(name, labelName, buf[:])
	if err != nil {
		return ""
	}
	return string(buf[:n])
}

func (kernel) syncAll(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	if err := unix.Syncfs(int(d.Fd())); err != nil {
		return &fs.PathError{Op: "syncfs", Path: dir, Err: err}
	}
	return nil
}

type kernelFile struct {
	name string
	fd   int
	stat unix.Stat_t
}

func (f *kernelFile) fail(op string, err error) error {
	return &fs.PathError{Op: op, Path: f.name, Err: err}
}

func (f *kernelFile) readAt(p []byte, off int64) (int, error) {
	for n := 0; ; {
		m, err := unix.Pread(f.fd, p[n:], off+int64(n))
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return n, f.fail("read", err)
		}
		n += m
		if n == len(p) {
			return n, nil
		}
		if m == 0 {
			return n, io.EOF
		}
	}
}

// size is that at the time of open: objects do not change.
func (f *kernelFile) size() (int64, error) { return f.stat.Size, nil }

func (f *kernelFile) label() string {
	var buf [labelBytesMax]byte
	n, err := unix.Fgetxattr(f.fd, labelName, buf[:])
	if err != nil {
		return ""
	}
	return string(buf[:n])
}

func (f *kernelFile) setLabel(tag string) {
	_ = unix.Fsetxattr(f.fd, labelName, []byte(tag), 0)
}

func (f *kernelFile) close() error {
	if err := unix.Close(f.fd); err != nil && err != unix.EINTR {
		return f.fail("close", err)
	}
	return nil
}

// generic is any other file system: it has no labels.
type generic struct{ fs vfs.FS }

func (g generic) open(name string) (file, error) {
	info, err := g.fs.Stat(name)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
	}
	f, err := g.fs.OpenFile(name, os.O_RDONLY, 0)
	if err != nil {
		return nil, err
	}
	return genericFile{f}, nil
}

// syncAll syncs directories only: files are synced before they have a name.
func (g generic) syncAll(dir string) error {
	entries, err := g.fs.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.IsDir() {
			if err := g.syncAll(dir + "/" + e.Name()); err != nil {
				return err
			}
		}
	}
	return g.fs.SyncDir(dir)
}

func (generic) setLabel(string, string) {}

func (generic) label(string) string { return "" }

type genericFile struct{ f vfs.File }

func (f genericFile) readAt(p []byte, off int64) (int, error) { return f.f.ReadAt(p, off) }
func (f genericFile) size() (int64, error)                    { return f.f.Size() }
func (f genericFile) label() string                           { return "" }
func (f genericFile) setLabel(string)                         {}
func (f genericFile) close() error                            { return f.f.Close() }

// readFull fills p from off, where the object is known to have bytes. A file that
// ends early is damaged: never silent zeros.
func readFull(f file, p []byte, off int64) error {
	n, err := f.readAt(p, off)
	if n == len(p) {
		return nil
	}
	if err == nil || errors.Is(err, io.EOF) {
		return fmt.Errorf("%w: it ends %d bytes early", ErrDamaged, len(p)-n)
	}
	return err
}

// describe returns the size and tag of an open object. Without label it reads
// all of it, and labels it.
func describe(f file) (size int64, tag string, err error) {
	if size, err = f.size(); err != nil {
		return 0, "", err
	}
	if tag = f.label(); tag != "" {
		if want, ok := tagSize(tag); !ok || want != size {
			return 0, "", fmt.Errorf("%w: it has %d bytes and tag %q", ErrDamaged, size, tag)
		}
		return size, tag, nil
	}
	var t objstore.Tagger
	buf := make([]byte, min(size, 1<<20))
	for off := int64(0); off < size; off += int64(len(buf)) {
		buf = buf[:min(int64(len(buf)), size-off)]
		if err := readFull(f, buf, off); err != nil {
			return 0, "", err
		}
		_, _ = t.Write(buf)
	}
	tag = t.Tag()
	f.setLabel(tag)
	return size, tag, nil
}

// tagSize returns the size that a tag holds.
func tagSize(tag string) (int64, bool) {
	_, text, ok := strings.Cut(tag, "-")
	size, err := strconv.ParseInt(text, 10, 64)
	return size, ok && err == nil && size >= 0
}
