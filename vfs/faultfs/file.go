package faultfs

import (
	"errors"

	"github.com/bough-db/bough/vfs"
)

// File is a decorated file. It implements vfs.File.
type File struct {
	vfs.File
	fs *FS
}

var _ vfs.File = (*File)(nil)

// ReadAt implements vfs.File.
func (f *File) ReadAt(p []byte, off int64) (int, error) {
	if _, err := f.fs.enter(Op{Kind: Read, Path: f.Name(), Off: off, Len: int64(len(p))}); err != nil {
		return 0, err
	}
	return f.File.ReadAt(p, off)
}

// WriteAt implements vfs.File.
func (f *File) WriteAt(p []byte, off int64) (int, error) {
	if err := f.WritevAt([][]byte{p}, off, false); err != nil {
		return 0, err
	}
	return len(p), nil
}

// WritevAt implements vfs.File.
func (f *File) WritevAt(bufs [][]byte, off int64, durable bool) error {
	o := Op{Kind: Write, Path: f.Name(), Off: off, Durable: durable}
	for _, b := range bufs {
		o.Len += int64(len(b))
	}
	v, err := f.fs.enter(o)
	switch {
	case v == half:
		_ = f.File.WritevAt(bufs, off, false) // not durable: CrashClone decides
		return err
	case err != nil:
		if errors.As(err, new(torn)) {
			_ = f.File.WritevAt(firstHalf(bufs, o.Len), off, false)
		}
		return err
	}
	return f.File.WritevAt(bufs, off, durable)
}

// firstHalf returns the first half of the bytes, in whole pages where possible.
func firstHalf(bufs [][]byte, total int64) [][]byte {
	left := total / 2
	if left > vfs.Align {
		left -= left % vfs.Align
	}
	if total%vfs.Align == 0 && left < vfs.Align {
		left = 0 // a direct write cannot be cut further
	}
	var out [][]byte
	for _, b := range bufs {
		n := min(left, int64(len(b)))
		out = append(out, b[:n])
		left -= n
	}
	return out
}

// Sync implements vfs.File.
func (f *File) Sync() error {
	if _, err := f.fs.enter(Op{Kind: Sync, Path: f.Name()}); err != nil {
		if l, ok := f.File.(interface{ LoseDirty() }); ok && !errors.Is(err, ErrCrashed) {
			l.LoseDirty()
		}
		return err
	}
	return f.File.Sync()
}

// Truncate implements vfs.File.
func (f *File) Truncate(size int64) error {
	return f.fs.do(Op{Kind: Truncate, Path: f.Name(), Len: size}, func() error { return f.File.Truncate(size) })
}

// Allocate implements vfs.File.
func (f *File) Allocate(off, size int64) error {
	return f.fs.do(Op{Kind: Allocate, Path: f.Name(), Off: off, Len: size}, func() error { return f.File.Allocate(off, size) })
}

// Close implements vfs.File. The file below is closed even after a crash.
func (f *File) Close() error {
	_, err := f.fs.enter(Op{Kind: Close, Path: f.Name()})
	if cerr := f.File.Close(); err == nil {
		err = cerr
	}
	return err
}
