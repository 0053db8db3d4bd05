package memfs

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/bough-db/bough/vfs"
)

const (
	pageBytes   = 4096
	sectorBytes = 512
)

// page is the history of 4 KiB of a file since they were last durable. Contents
// are never changed in place, so that clones may share them. nil is all zeros.
type page struct {
	durable []byte   // what is on the medium
	since   [][]byte // versions written later, oldest first
	// lost is the number of versions at the front of since that a failed sync
	// left clean: no sync writes them any more.
	lost int
}

func (p *page) now() []byte {
	if p == nil {
		return nil
	}
	if n := len(p.since); n > 0 {
		return p.since[n-1]
	}
	return p.durable
}

// settle makes the page durable as it is.
func (p *page) settle() {
	if p != nil && len(p.since) > p.lost {
		p.durable, p.since, p.lost = p.now(), nil, 0
	}
}

// File is an open file of an [FS]. It implements vfs.File.
type File struct {
	fs       *FS
	n        *inode
	name     string
	writable bool
	direct   bool
	closed   bool // guarded by fs.mu
}

var _ vfs.File = (*File)(nil)

func (f *File) fail(op string, err error) error {
	return &fs.PathError{Op: op, Path: f.name, Err: err}
}

// enter locks the file system and checks that the file is usable.
func (f *File) enter(op string, write bool) (leave func(), err error) {
	f.fs.mu.Lock()
	switch {
	case f.closed:
		err = fs.ErrClosed
	case write && !f.writable:
		err = unix.EBADF
	}
	if err != nil {
		f.fs.mu.Unlock()
		return nil, f.fail(op, err)
	}
	return f.fs.mu.Unlock, nil
}

// misaligned tells whether a direct transfer breaks the rules of O_DIRECT.
func (f *File) misaligned(p []byte, off int64) bool {
	if !f.direct || len(p) == 0 {
		return false
	}
	at := uintptr(unsafe.Pointer(unsafe.SliceData(p)))
	return at%vfs.Align != 0 || len(p)%vfs.Align != 0 || off%vfs.Align != 0
}

// Name implements vfs.File.
func (f *File) Name() string { return f.name }

// Direct implements vfs.File.
func (f *File) Direct() bool { return f.direct }

// ReadAt implements vfs.File.
func (f *File) ReadAt(p []byte, off int64) (int, error) {
	leave, err := f.enter("read", false)
	if err != nil {
		return 0, err
	}
	defer leave()
	if f.misaligned(p, off) || off < 0 {
		return 0, f.fail("read", unix.EINVAL)
	}
	n := 0
	for n < len(p) && off < f.n.size {
		at := off % pageBytes
		m := min(int64(len(p)-n), pageBytes-at, f.n.size-off)
		dst := p[n : n+int(m)]
		if data := f.n.pages[off/pageBytes].now(); data == nil {
			clear(dst)
		} else {
			copy(dst, data[at:])
		}
		n += int(m)
		off += m
	}
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
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
	leave, err := f.enter("write", true)
	if err != nil {
		return err
	}
	defer leave()
	total, at := int64(0), off
	for _, p := range bufs {
		if f.misaligned(p, at) {
			return f.fail("write", unix.EINVAL)
		}
		total += int64(len(p))
		at += int64(len(p))
	}
	if off < 0 {
		return f.fail("write", unix.EINVAL)
	}
	if total == 0 {
		return nil
	}
	n := f.n
	if end := off + total; end > n.size {
		if err := f.fs.grow(end - n.size); err != nil {
			return f.fail("write", err)
		}
		n.size = end
	}
	n.modTime = f.fs.opts.Now()
	at = off
	for _, p := range bufs {
		n.write(p, at)
		at += int64(len(p))
	}
	if durable {
		for i := off / pageBytes; i <= (at-1)/pageBytes; i++ {
			n.pages[i].settle()
		}
		n.durableSize = max(n.durableSize, at)
	}
	return nil
}

// zeros is a page of zeros; nobody writes to it.
var zeros [pageBytes]byte

// write puts p into the pages, as one new version of each. Zeros where nothing was
// ever written change nothing, in memory or on the medium: files that are made of
// zeros take no memory.
func (n *inode) write(p []byte, off int64) {
	for len(p) > 0 {
		i, at := off/pageBytes, off%pageBytes
		m := min(len(p), int(pageBytes-at))
		switch {
		case n.pages[i] == nil && bytes.Equal(p[:m], zeros[:m]):
		case m == pageBytes:
			n.page(i).add(bytes.Clone(p[:m]))
		default:
			n.put(i, func(data []byte) { copy(data[at:], p[:m]) })
		}
		p = p[m:]
		off += int64(m)
	}
}

// page returns page i, making it if it was never written.
func (n *inode) page(i int64) *page {
	pg := n.pages[i]
	if pg == nil {
		pg = &page{}
		n.pages[i] = pg
	}
	return pg
}

// put adds a version of page i, made by change from the one before.
func (n *inode) put(i int64, change func(data []byte)) {
	pg := n.page(i)
	data := make([]byte, pageBytes)
	copy(data, pg.now())
	change(data)
	pg.add(data)
}

// versionsMax bounds the history of a page that is written again and again
// without a sync.
const versionsMax = 8

// add adds a version, and forgets one of the oldest when there are many.
func (p *page) add(data []byte) {
	p.since = append(p.since, data)
	if len(p.since) > versionsMax {
		p.since = append(p.since[:0], p.since[1:]...)
		p.lost = max(0, p.lost-1)
	}
}

// Sync implements vfs.File.
func (f *File) Sync() error {
	leave, err := f.enter("fdatasync", false)
	if err != nil {
		return err
	}
	defer leave()
	for _, pg := range f.n.pages {
		pg.settle()
	}
	f.n.durableSize = f.n.size
	return nil
}

// LoseDirty does what a failed write-back does to a file: what is not durable
// now counts as clean, so that no later Sync makes it durable, although reads
// return it. Pages written again afterwards are dirty again.
func (f *File) LoseDirty() {
	f.fs.mu.Lock()
	defer f.fs.mu.Unlock()
	for _, pg := range f.n.pages {
		pg.lost = len(pg.since)
	}
}

// Truncate implements vfs.File.
func (f *File) Truncate(size int64) error {
	leave, err := f.enter("truncate", true)
	if err != nil {
		return err
	}
	defer leave()
	if size < 0 {
		return f.fail("truncate", unix.EINVAL)
	}
	if err := f.fs.grow(max(0, size-f.n.size)); err != nil {
		return f.fail("truncate", err)
	}
	f.fs.truncate(f.n, size)
	return nil
}

// truncate sets the size; a growth has been accounted for.
func (f *FS) truncate(n *inode, size int64) {
	if size < n.size {
		f.used -= n.size - size
		for i, pg := range n.pages {
			switch start := i * pageBytes; {
			case pg.now() == nil:
			case start >= size:
				pg.add(nil)
			case start+pageBytes > size:
				n.put(i, func(data []byte) { clear(data[size-start:]) })
			}
		}
	}
	n.size = size
	n.modTime = f.opts.Now()
}

// Allocate implements vfs.File.
func (f *File) Allocate(off, size int64) error {
	leave, err := f.enter("allocate", true)
	if err != nil {
		return err
	}
	defer leave()
	if off < 0 || size <= 0 {
		return f.fail("allocate", unix.EINVAL)
	}
	if end := off + size; end > f.n.size {
		if err := f.fs.grow(end - f.n.size); err != nil {
			return f.fail("allocate", err)
		}
		f.n.size = end
	}
	return nil
}

// Size implements vfs.File.
func (f *File) Size() (int64, error) {
	leave, err := f.enter("stat", false)
	if err != nil {
		return 0, err
	}
	defer leave()
	return f.n.size, nil
}

// Close implements vfs.File.
func (f *File) Close() error {
	f.fs.mu.Lock()
	defer f.fs.mu.Unlock()
	if f.closed {
		return f.fail("close", errors.Join(fs.ErrClosed))
	}
	f.closed = true
	f.n.open--
	f.fs.drop(f.n)
	return nil
}
