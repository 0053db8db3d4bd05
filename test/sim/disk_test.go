package sim

import (
	"context"
	"hash/fnv"
	"io"
	"io/fs"
	"strings"

	"github.com/bough-db/bough/vfs"
	"github.com/bough-db/bough/vfs/memfs"
)

// diskView is a host's disk as one process has it. What makes something durable
// waits for the scheduler, and so does a batch that spills; everything else happens
// at once: a crash between two of those is the same crash.
type diskView struct {
	inc *incarnation
	mem *memfs.FS
}

var _ vfs.FS = diskView{}

func (d diskView) alive() error {
	w := d.inc.host.w
	w.mu.Lock()
	defer w.mu.Unlock()
	if d.inc.dead {
		return errCrashed
	}
	return nil
}

// OpenFile implements vfs.FS.
func (d diskView) OpenFile(name string, flag int, perm fs.FileMode) (vfs.File, error) {
	if err := d.alive(); err != nil {
		return nil, err
	}
	f, err := d.mem.OpenFile(name, flag, perm)
	if err != nil {
		return nil, err
	}
	return &fileView{File: f, disk: d}, nil
}

// Rename implements vfs.FS.
func (d diskView) Rename(oldname, newname string) error {
	if err := d.alive(); err != nil {
		return err
	}
	return d.mem.Rename(oldname, newname)
}

// Link implements vfs.FS.
func (d diskView) Link(oldname, newname string) error {
	if err := d.alive(); err != nil {
		return err
	}
	return d.mem.Link(oldname, newname)
}

// Remove implements vfs.FS.
func (d diskView) Remove(name string) error {
	if err := d.alive(); err != nil {
		return err
	}
	return d.mem.Remove(name)
}

// MkdirAll implements vfs.FS.
func (d diskView) MkdirAll(name string, perm fs.FileMode) error {
	if err := d.alive(); err != nil {
		return err
	}
	return d.mem.MkdirAll(name, perm)
}

// ReadDir implements vfs.FS.
func (d diskView) ReadDir(name string) ([]fs.DirEntry, error) {
	if err := d.alive(); err != nil {
		return nil, err
	}
	return d.mem.ReadDir(name)
}

// Stat implements vfs.FS.
func (d diskView) Stat(name string) (fs.FileInfo, error) {
	if err := d.alive(); err != nil {
		return nil, err
	}
	return d.mem.Stat(name)
}

// SyncDir implements vfs.FS.
func (d diskView) SyncDir(name string) error {
	return d.inc.park(context.Background(), &parked{
		disk: true, verb: "syncdir", name: name,
		effect: func() error { return d.mem.SyncDir(name) },
	})
}

// Lock implements vfs.FS.
func (d diskView) Lock(name string) (io.Closer, error) {
	if err := d.alive(); err != nil {
		return nil, err
	}
	return d.mem.Lock(name)
}

// fileView is an open file of a diskView.
type fileView struct {
	vfs.File
	disk diskView
	// live says that this process has begun a journal in the file: what it reads
	// from there it has checksums of. Of a journal that an earlier life left the
	// last batch is told from a torn one by its checksum alone, so that nobody
	// could tell damage on that way from a crash.
	live  bool
	reads int
}

// ReadAt implements vfs.File.
func (f *fileView) ReadAt(p []byte, off int64) (int, error) {
	if err := f.disk.alive(); err != nil {
		return 0, err
	}
	n, err := f.File.ReadAt(p, off)
	inc := f.disk.inc
	w := inc.host.w
	if n == 0 || w.faults.spoil == 0 || !f.live && !strings.HasPrefix(f.Name(), cacheDir) {
		return n, err
	}
	// By name and count, so that it does not depend on which goroutine is quicker.
	h := fnv.New64a()
	f.reads++
	_, _ = io.WriteString(h, f.Name())
	_, _ = h.Write([]byte{byte(f.reads), byte(off >> 9), byte(off >> 17), byte(inc.n), byte(w.seed), byte(w.seed >> 8), byte(w.seed >> 16)})
	x := h.Sum64()
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.open && float64(x>>40)/(1<<24) < w.faults.spoil {
		inc.spoiled++
		p[x%uint64(n)] ^= 1 << (x >> 32 & 7)
	}
	return n, err
}

// WriteAt implements vfs.File.
func (f *fileView) WriteAt(p []byte, off int64) (int, error) {
	if err := f.disk.alive(); err != nil {
		return 0, err
	}
	return f.File.WriteAt(p, off)
}

// WritevAt implements vfs.File.
func (f *fileView) WritevAt(bufs [][]byte, off int64, durable bool) error {
	p := &parked{disk: true, verb: "write", name: f.Name(), off: off}
	if durable {
		p.verb = "commit"
	}
	for _, b := range bufs {
		p.size += len(b)
	}
	p.effect = func() error {
		f.live = f.live || off == 0
		return f.File.WritevAt(bufs, off, durable)
	}
	p.torn = func(whole bool) {
		part := bufs
		if !whole {
			part = bufs[:len(bufs)/2]
		}
		if len(part) > 0 {
			_ = f.File.WritevAt(part, off, false) // its outcome is nobody's any more
		}
	}
	return f.disk.inc.park(context.Background(), p)
}

// Sync implements vfs.File.
func (f *fileView) Sync() error {
	return f.disk.inc.park(context.Background(), &parked{
		disk: true, verb: "sync", name: f.Name(),
		effect: f.File.Sync,
		// What a sync that failed did not write counts as clean from then on.
		torn: func(bool) {
			if l, ok := f.File.(interface{ LoseDirty() }); ok {
				l.LoseDirty()
			}
		},
	})
}
