package vfs

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// Direct is a flag of [FS.OpenFile] besides those of package os: it asks for
// O_DIRECT. Where the file system refuses (tmpfs before Linux 6.6, some FUSE
// file systems) the file is opened without; [File.Direct] tells. While in force,
// every buffer address, length and offset must be a multiple of [Align].
const Direct = unix.O_DIRECT

// Align is the alignment of buffers, lengths and offsets that satisfies every
// file opened with [Direct]: 4 KiB.
const Align = 4096

// ErrLocked is returned by [FS.Lock] when another holder, in this process or
// another, has the lock.
var ErrLocked = errors.New("locked by another process")

// FS is a file system. Names are slash-separated paths, as for package os.
type FS interface {
	// OpenFile opens the named file. The flags are those of package os
	// (os.O_RDWR, os.O_CREATE, os.O_EXCL, os.O_TRUNC …) and [Direct]. A
	// created name is durable only after SyncDir of its directory.
	OpenFile(name string, flag int, perm fs.FileMode) (File, error)
	// Rename replaces newname by oldname, atomically.
	Rename(oldname, newname string) error
	// Link gives the file oldname the further name newname, and fails with
	// fs.ErrExist when newname exists.
	Link(oldname, newname string) error
	// Remove removes a file or an empty directory.
	Remove(name string) error
	// MkdirAll makes a directory and its missing parents. See [MkdirAllSync].
	MkdirAll(name string, perm fs.FileMode) error
	// ReadDir lists a directory, sorted by name.
	ReadDir(name string) ([]fs.DirEntry, error)
	// Stat describes a file or directory.
	Stat(name string) (fs.FileInfo, error)
	// SyncDir makes the entries of a directory durable.
	SyncDir(name string) error
	// Lock creates the named file if needed and takes an exclusive lock on it
	// (flock), without waiting: [ErrLocked] when somebody has it. The lock is
	// held until Close of the result, or the end of the process.
	Lock(name string) (io.Closer, error)
}

// File is an open file of an [FS]. It retains no buffer after a call returned.
type File interface {
	// ReadAt fills p from off; n < len(p) only with an error, io.EOF where the
	// file ends.
	ReadAt(p []byte, off int64) (n int, err error)
	// WriteAt writes p at off, whole, without making it durable.
	WriteAt(p []byte, off int64) (n int, err error)
	// WritevAt writes the buffers one after the other from off, whole. With
	// durable set they are on stable storage when it returns nil: one
	// pwritev2 with RWF_DSYNC. Earlier writes are not covered: see Sync.
	WritevAt(bufs [][]byte, off int64, durable bool) error
	// Sync makes all data and the size durable (fdatasync). Data only: times
	// may be lost. After an error the file must not be trusted again.
	Sync() error
	// Truncate sets the size.
	Truncate(size int64) error
	// Allocate reserves disk space for the range, extending the size if needed
	// (fallocate). It leaves unwritten extents, so that the first write into
	// the range still changes file-system metadata: who wants that not to
	// happen writes zeros instead.
	Allocate(off, size int64) error
	// Size returns the current size in bytes.
	Size() (int64, error)
	// Name returns the name given to OpenFile.
	Name() string
	// Direct tells whether O_DIRECT is in force.
	Direct() bool
	// Close waits for calls under way and releases the file. It makes nothing
	// durable.
	Close() error
}

// IsFull tells whether err says that the file system, or the quota of this user
// on it, has no room left.
func IsFull(err error) bool {
	return errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT)
}

// MkdirAllSync is MkdirAll with durable entries: every directory that was
// missing, and each entry that leads to it, survives a crash after it returned.
func MkdirAllSync(fsys FS, name string, perm fs.FileMode) error {
	name = filepath.Clean(name)
	// Walk up to the first ancestor that is there already.
	var missing []string
	for dir := name; ; dir = filepath.Dir(dir) {
		_, err := fsys.Stat(dir)
		if err == nil {
			break
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("stat %s: %w", dir, err)
		}
		missing = append(missing, dir)
		if dir == filepath.Dir(dir) {
			break
		}
	}
	if err := fsys.MkdirAll(name, perm); err != nil {
		return err
	}
	// Outermost first: an entry is worth nothing before its directory is there.
	for i := len(missing) - 1; i >= 0; i-- {
		if err := fsys.SyncDir(filepath.Dir(missing[i])); err != nil {
			return err
		}
	}
	if len(missing) > 0 {
		return nil
	}
	// A previous process may have made the directory and died before its entry
	// was synced.
	return fsys.SyncDir(filepath.Dir(name))
}

// WriteFileSync replaces the contents of the named file durably and atomically:
// a temporary file beside it, synced, renamed over it, and the directory
// synced. A crash leaves the old contents or the new.
func WriteFileSync(fsys FS, name string, data []byte, perm fs.FileMode) error {
	const create = unix.O_WRONLY | unix.O_CREAT | unix.O_TRUNC
	tmp := name + ".tmp"
	f, err := fsys.OpenFile(tmp, create, perm)
	if err != nil {
		return err
	}
	_, err = f.WriteAt(data, 0)
	if err == nil {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = fsys.Rename(tmp, name)
	}
	if err != nil {
		// The first error is what counts; a left-over temporary file is
		// overwritten by the next attempt.
		_ = fsys.Remove(tmp)
		return fmt.Errorf("replace %s: %w", name, err)
	}
	return fsys.SyncDir(filepath.Dir(name))
}

// ReadFile returns the contents of the named file.
func ReadFile(fsys FS, name string) ([]byte, error) {
	f, err := fsys.OpenFile(name, unix.O_RDONLY, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	size, err := f.Size()
	if err != nil {
		return nil, err
	}
	p := make([]byte, size)
	n, err := f.ReadAt(p, 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	return p[:n], nil
}
