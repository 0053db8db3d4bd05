package memfs

import (
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/bough-db/bough/vfs"
)

// Options are the settings of an [FS]. The zero value is good.
type Options struct {
	// Capacity bounds the sum of file sizes in bytes. Default: no bound.
	Capacity int64
	// RefuseDirect makes files open without vfs.Direct, as on a file system
	// that has no O_DIRECT.
	RefuseDirect bool
	// Now gives the time of changes. Default: time.Now.
	Now func() time.Time
}

// FS is a file system in memory. It implements vfs.FS.
type FS struct {
	opts Options

	mu      sync.Mutex
	root    *inode
	used    int64 // sum of file sizes
	locks   map[*inode]bool
	pending []*change // not durable, oldest first
}

// inode is a file or directory.
type inode struct {
	dir     bool
	mode    fs.FileMode
	modTime time.Time

	// Of a directory: what is there now, and what a crash is sure to leave.
	names   map[string]*inode
	durable map[string]*inode

	// Of a file.
	links       int
	open        int
	size        int64
	durableSize int64
	pages       map[int64]*page
}

// change is a set of names given or taken, all or nothing.
type change struct{ edits []edit }

type edit struct {
	dir  *inode
	name string
	to   *inode // nil: taken
}

// New returns an empty file system.
func New(o Options) *FS {
	if o.Now == nil {
		o.Now = time.Now
	}
	f := &FS{opts: o, locks: map[*inode]bool{}}
	f.root = f.newInode(true, 0o755)
	return f
}

var _ vfs.FS = (*FS)(nil)

func (f *FS) newInode(dir bool, mode fs.FileMode) *inode {
	n := &inode{dir: dir, mode: mode, modTime: f.opts.Now()}
	if dir {
		n.names, n.durable = map[string]*inode{}, map[string]*inode{}
	} else {
		n.pages = map[int64]*page{}
	}
	return n
}

// SetCapacity changes Options.Capacity; 0 removes the bound.
func (f *FS) SetCapacity(bytes int64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.opts.Capacity = bytes
}

// Used returns the sum of file sizes.
func (f *FS) Used() int64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.used
}

// grow accounts for n more bytes, or returns ENOSPC.
func (f *FS) grow(n int64) error {
	if n > 0 && f.opts.Capacity > 0 && f.used+n > f.opts.Capacity {
		return unix.ENOSPC
	}
	f.used += n
	return nil
}

func split(name string) []string {
	name = strings.Trim(filepath.ToSlash(filepath.Clean("/"+name)), "/")
	if name == "" {
		return nil
	}
	return strings.Split(name, "/")
}

// find returns the inode of a name.
func (f *FS) find(parts []string) (*inode, error) {
	n := f.root
	for _, p := range parts {
		if !n.dir {
			return nil, unix.ENOTDIR
		}
		next := n.names[p]
		if next == nil {
			return nil, fs.ErrNotExist
		}
		n = next
	}
	return n, nil
}

// parent returns the directory that holds a name, and the name in it.
func (f *FS) parent(name string) (*inode, string, error) {
	parts := split(name)
	if len(parts) == 0 {
		return nil, "", unix.EINVAL
	}
	dir, err := f.find(parts[:len(parts)-1])
	if err == nil && !dir.dir {
		err = unix.ENOTDIR
	}
	return dir, parts[len(parts)-1], err
}

// apply makes a change, which is not durable yet.
func (f *FS) apply(edits ...edit) {
	for _, e := range edits {
		old := e.dir.names[e.name]
		if e.to == nil {
			delete(e.dir.names, e.name)
		} else {
			e.dir.names[e.name] = e.to
			e.to.links++
		}
		e.dir.modTime = f.opts.Now()
		if old != nil {
			old.links--
			f.drop(old)
		}
	}
	f.pending = append(f.pending, &change{edits: edits})
}

// drop takes the space of a file that nobody can reach any more.
func (f *FS) drop(n *inode) {
	if !n.dir && n.links == 0 && n.open == 0 {
		f.used -= n.size
	}
}

// OpenFile implements vfs.FS.
func (f *FS) OpenFile(name string, flag int, perm fs.FileMode) (vfs.File, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	fail := func(err error) (vfs.File, error) {
		return nil, &fs.PathError{Op: "open", Path: name, Err: err}
	}
	dir, base, err := f.parent(name)
	if err != nil {
		return fail(err)
	}
	n := dir.names[base]
	switch {
	case n == nil && flag&os.O_CREATE == 0:
		return fail(fs.ErrNotExist)
	case n == nil:
		n = f.newInode(false, perm)
		f.apply(edit{dir, base, n})
	case flag&(os.O_CREATE|os.O_EXCL) == os.O_CREATE|os.O_EXCL:
		return fail(fs.ErrExist)
	case n.dir:
		return fail(unix.EISDIR)
	case flag&os.O_TRUNC != 0:
		f.truncate(n, 0)
	}
	n.open++
	writable := flag&(os.O_WRONLY|os.O_RDWR) != 0
	return &File{fs: f, n: n, name: name, writable: writable,
		direct: flag&vfs.Direct != 0 && !f.opts.RefuseDirect}, nil
}

// Rename implements vfs.FS.
func (f *FS) Rename(oldname, newname string) error {
	return f.move("rename", oldname, newname, func(from *inode, a string, to *inode, b string) error {
		n, target := from.names[a], to.names[b]
		if target == n {
			return nil
		}
		if target != nil && target.dir != n.dir {
			return unix.EEXIST
		}
		if target != nil && target.dir && len(target.names) > 0 {
			return unix.ENOTEMPTY
		}
		f.apply(edit{to, b, n}, edit{from, a, nil})
		return nil
	})
}

// Link implements vfs.FS.
func (f *FS) Link(oldname, newname string) error {
	return f.move("link", oldname, newname, func(from *inode, a string, to *inode, b string) error {
		if to.names[b] != nil {
			return fs.ErrExist
		}
		if from.names[a].dir {
			return unix.EPERM
		}
		f.apply(edit{to, b, from.names[a]})
		return nil
	})
}

// move looks up both names of an operation on two.
func (f *FS) move(op, oldname, newname string, do func(from *inode, a string, to *inode, b string) error) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	from, a, err := f.parent(oldname)
	if err == nil && from.names[a] == nil {
		err = fs.ErrNotExist
	}
	var to *inode
	var b string
	if err == nil {
		to, b, err = f.parent(newname)
	}
	if err == nil {
		err = do(from, a, to, b)
	}
	if err != nil {
		return &os.LinkError{Op: op, Old: oldname, New: newname, Err: err}
	}
	return nil
}

// Remove implements vfs.FS.
func (f *FS) Remove(name string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	dir, base, err := f.parent(name)
	if err == nil {
		n := dir.names[base]
		switch {
		case n == nil:
			err = fs.ErrNotExist
		case n.dir && len(n.names) > 0:
			err = unix.ENOTEMPTY
		default:
			f.apply(edit{dir, base, nil})
		}
	}
	if err != nil {
		return &fs.PathError{Op: "remove", Path: name, Err: err}
	}
	return nil
}

// MkdirAll implements vfs.FS.
func (f *FS) MkdirAll(name string, perm fs.FileMode) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	n := f.root
	for _, p := range split(name) {
		next := n.names[p]
		if next == nil {
			next = f.newInode(true, perm)
			f.apply(edit{n, p, next})
		}
		if !next.dir {
			return &fs.PathError{Op: "mkdir", Path: name, Err: unix.ENOTDIR}
		}
		n = next
	}
	return nil
}

// ReadDir implements vfs.FS.
func (f *FS) ReadDir(name string) ([]fs.DirEntry, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	n, err := f.find(split(name))
	if err == nil && !n.dir {
		err = unix.ENOTDIR
	}
	if err != nil {
		return nil, &fs.PathError{Op: "readdir", Path: name, Err: err}
	}
	var out []fs.DirEntry
	for _, base := range slices.Sorted(maps.Keys(n.names)) {
		out = append(out, fs.FileInfoToDirEntry(n.names[base].info(base)))
	}
	return out, nil
}

// Stat implements vfs.FS.
func (f *FS) Stat(name string) (fs.FileInfo, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	n, err := f.find(split(name))
	if err != nil {
		return nil, &fs.PathError{Op: "stat", Path: name, Err: err}
	}
	return n.info(filepath.Base(name)), nil
}

// SyncDir implements vfs.FS: every change that touches the directory becomes
// durable, and with a rename its other directory's half.
func (f *FS) SyncDir(name string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	n, err := f.find(split(name))
	if err == nil && !n.dir {
		err = unix.ENOTDIR
	}
	if err != nil {
		return &fs.PathError{Op: "syncdir", Path: name, Err: err}
	}
	f.pending = slices.DeleteFunc(f.pending, func(c *change) bool {
		if !slices.ContainsFunc(c.edits, func(e edit) bool { return e.dir == n }) {
			return false
		}
		c.settle(func(n *inode) *inode { return n })
		return true
	})
	return nil
}

// settle enters a change into the durable names.
func (c *change) settle(inodeOf func(*inode) *inode) {
	for _, e := range c.edits {
		d := inodeOf(e.dir)
		if e.to == nil {
			delete(d.durable, e.name)
		} else {
			d.durable[e.name] = inodeOf(e.to)
		}
	}
}

// Lock implements vfs.FS.
func (f *FS) Lock(name string) (io.Closer, error) {
	file, err := f.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	n := file.(*File).n
	f.mu.Lock()
	taken := f.locks[n]
	f.locks[n] = true
	f.mu.Unlock()
	if taken {
		_ = file.Close()
		return nil, &fs.PathError{Op: "lock", Path: name, Err: vfs.ErrLocked}
	}
	return &held{File: file, n: n, fs: f}, nil
}

type held struct {
	vfs.File
	n  *inode
	fs *FS
}

func (h *held) Close() error {
	if err := h.File.Close(); err != nil {
		return err
	}
	h.fs.mu.Lock()
	defer h.fs.mu.Unlock()
	delete(h.fs.locks, h.n)
	return nil
}

// info is what Stat and ReadDir say about an inode.
type info struct {
	name    string
	size    int64
	mode    fs.FileMode
	modTime time.Time
}

func (n *inode) info(name string) info {
	mode := n.mode.Perm()
	if n.dir {
		mode |= fs.ModeDir
	}
	return info{name, n.size, mode, n.modTime}
}

func (i info) Name() string       { return i.name }
func (i info) Size() int64        { return i.size }
func (i info) Mode() fs.FileMode  { return i.mode }
func (i info) ModTime() time.Time { return i.modTime }
func (i info) IsDir() bool        { return i.mode.IsDir() }
func (i info) Sys() any           { return nil }
