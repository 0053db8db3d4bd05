// Package faultfs is a vfs.FS that decorates another: it numbers every
// operation, records the ones that change something, fails those it is told to,
// and stops the machine at any of them.
//
// # Words
//
//   - operation: one call of an FS or File method that reaches the file system.
//     Opening an existing file is an operation of kind [Open]; one that makes a
//     file is a [Create]. Size, Name and Direct are no operations.
//   - mutation: an operation whose kind [Kind.Mutates]. Crash points are counted
//     in mutations, since a crash between two reads is the same crash.
//   - hook: the function that decides about each operation; see [FS.SetHook].
//   - crash: from one mutation on, every operation fails with [ErrCrashed]. That
//     mutation itself is half done: a write is carried out without becoming
//     durable, a change of names is made, a sync is not. What is left of it is
//     then up to memfs.FS.CrashClone.
//   - trace: one line per mutation, in order, for golden files.
//
// # What a failed operation leaves
//
// Nothing, if it fails with an error from a hook; but a failed sync makes the
// unsynced data of its file look clean, as a kernel does, if the file below can
// play that (LoseDirty of memfs). A hook that wraps its error with [Torn] makes a
// write leave its first half.
//
// # Concurrency
//
// Everything may be called concurrently. The hook is called with no lock held
// and may block: that is how a slow disk is played.
package faultfs

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"github.com/bough-db/bough/vfs"
)

// ErrCrashed is what every operation returns after the crash.
var ErrCrashed = errors.New("machine has crashed")

// ErrInjected is an error for hooks that need one of no particular meaning.
var ErrInjected = errors.New("injected fault")

// Kind is the kind of an operation.
type Kind string

// The kinds of operations.
const (
	Open     Kind = "open"
	Create   Kind = "create"
	Read     Kind = "read"
	Write    Kind = "write"
	Sync     Kind = "sync"
	Truncate Kind = "truncate"
	Allocate Kind = "allocate"
	Close    Kind = "close"
	Rename   Kind = "rename"
	Link     Kind = "link"
	Remove   Kind = "remove"
	Mkdir    Kind = "mkdir"
	SyncDir  Kind = "syncdir"
	ReadDir  Kind = "readdir"
	Stat     Kind = "stat"
	Lock     Kind = "lock"
)

// Mutates tells whether operations of this kind change what a later boot finds.
// A sync does: it is the moment from which on something must be found.
func (k Kind) Mutates() bool {
	switch k {
	case Create, Write, Sync, Truncate, Allocate, Rename, Link, Remove, Mkdir, SyncDir:
		return true
	}
	return false
}

// Op is one operation.
type Op struct {
	Kind    Kind
	Path    string
	Path2   string // of Rename and Link
	Off     int64
	Len     int64 // or the size, of Truncate
	Durable bool  // of Write: the write is a sync of what it writes
	N       int   // which of all operations this is, from 0
	M       int   // which of all mutations this is, from 0; -1 if it is none
}

// String returns the line of the operation in a trace.
func (o Op) String() string {
	switch o.Kind {
	case Write:
		s := fmt.Sprintf("write %s %d+%d", o.Path, o.Off, o.Len)
		if o.Durable {
			s += " durable"
		}
		return s
	case Read, Allocate:
		return fmt.Sprintf("%s %s %d+%d", o.Kind, o.Path, o.Off, o.Len)
	case Truncate:
		return fmt.Sprintf("truncate %s %d", o.Path, o.Len)
	case Rename, Link:
		return fmt.Sprintf("%s %s %s", o.Kind, o.Path, o.Path2)
	}
	return fmt.Sprintf("%s %s", o.Kind, o.Path)
}

// Hook decides about an operation: nil lets it pass, any other error fails it.
type Hook func(Op) error

// FS is a decorated file system. It implements vfs.FS.
type FS struct {
	inner vfs.FS
	root  string

	mu      sync.Mutex
	hook    Hook
	ops     int
	muts    int
	crashAt int // mutation; -1: never
	crashed bool
	trace   []string
}

var _ vfs.FS = (*FS)(nil)

// New decorates inner. Paths in operations and traces are given relative to
// root, if they lie in it.
func New(inner vfs.FS, root string) *FS {
	return &FS{inner: inner, root: root, crashAt: -1}
}

// SetHook sets the function that decides about operations; nil lets all pass.
func (f *FS) SetHook(h Hook) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.hook = h
}

// CrashAt stops the machine at mutation m, counted from 0 at New.
func (f *FS) CrashAt(m int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.crashAt = m
}

// Crash stops the machine now.
func (f *FS) Crash() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.crashed = true
}

// Crashed tells whether the machine has stopped.
func (f *FS) Crashed() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.crashed
}

// Mutations returns the number of mutations so far.
func (f *FS) Mutations() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.muts
}

// Trace returns the lines of all mutations since New or the last call, each
// ended by a newline. Failed ones say so.
func (f *FS) Trace() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	s := strings.Join(f.trace, "")
	f.trace = nil
	return s
}

// FailNth returns a hook that fails the n-th operation of a kind, counted from 0
// when the hook is made, and no other.
func FailNth(kind Kind, n int, err error) Hook {
	var mu sync.Mutex
	return func(o Op) error {
		if o.Kind != kind {
			return nil
		}
		mu.Lock()
		defer mu.Unlock()
		n--
		if n == -1 {
			return err
		}
		return nil
	}
}

// torn marks an error that leaves the first half of a write.
type torn struct{ error }

func (t torn) Unwrap() error { return t.error }

// Torn makes err, returned by a hook for a Write, leave the first half of what
// was to be written.
func Torn(err error) error { return torn{err} }

func (f *FS) rel(name string) string {
	if name == "" {
		return ""
	}
	if r, err := filepath.Rel(f.root, name); err == nil && !strings.HasPrefix(r, "..") {
		return r
	}
	return name
}

// verdict is what is to be done with an operation.
type verdict int

const (
	pass verdict = iota
	fail
	half // carry it out, but make nothing durable; then fail
)

// enter numbers an operation and decides about it.
func (f *FS) enter(o Op) (verdict, error) {
	o.Path, o.Path2 = f.rel(o.Path), f.rel(o.Path2)
	f.mu.Lock()
	if f.crashed {
		f.mu.Unlock()
		return fail, f.wrap(o, ErrCrashed)
	}
	o.N, o.M = f.ops, -1
	f.ops++
	crash := false
	if o.Kind.Mutates() {
		o.M = f.muts
		f.muts++
		crash = o.M == f.crashAt
		f.crashed = crash
	}
	hook := f.hook
	f.mu.Unlock()
	if crash {
		f.note(o, " crash")
		return half, f.wrap(o, ErrCrashed)
	}
	if hook != nil {
		if err := hook(o); err != nil {
			f.note(o, " fail")
			return fail, f.wrap(o, err)
		}
	}
	f.note(o, "")
	return pass, nil
}

func (f *FS) note(o Op, result string) {
	if o.M < 0 {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.trace = append(f.trace, o.String()+result+"\n")
}

func (f *FS) wrap(o Op, err error) error {
	return &fs.PathError{Op: string(o.Kind), Path: o.Path, Err: err}
}

// do carries out an operation that has no result but an error, and that a crash
// leaves done but not durable.
func (f *FS) do(o Op, call func() error) error {
	v, err := f.enter(o)
	if v == half {
		_ = call() // its outcome is nobody's any more
	}
	if err != nil {
		return err
	}
	return call()
}

// Rename implements vfs.FS.
func (f *FS) Rename(oldname, newname string) error {
	return f.do(Op{Kind: Rename, Path: oldname, Path2: newname}, func() error { return f.inner.Rename(oldname, newname) })
}

// Link implements vfs.FS.
func (f *FS) Link(oldname, newname string) error {
	return f.do(Op{Kind: Link, Path: oldname, Path2: newname}, func() error { return f.inner.Link(oldname, newname) })
}

// Remove implements vfs.FS.
func (f *FS) Remove(name string) error {
	return f.do(Op{Kind: Remove, Path: name}, func() error { return f.inner.Remove(name) })
}

// MkdirAll implements vfs.FS.
func (f *FS) MkdirAll(name string, perm fs.FileMode) error {
	return f.do(Op{Kind: Mkdir, Path: name}, func() error { return f.inner.MkdirAll(name, perm) })
}

// SyncDir implements vfs.FS.
func (f *FS) SyncDir(name string) error {
	if _, err := f.enter(Op{Kind: SyncDir, Path: name}); err != nil {
		return err
	}
	return f.inner.SyncDir(name)
}

// ReadDir implements vfs.FS.
func (f *FS) ReadDir(name string) ([]fs.DirEntry, error) {
	if _, err := f.enter(Op{Kind: ReadDir, Path: name}); err != nil {
		return nil, err
	}
	return f.inner.ReadDir(name)
}

// Stat implements vfs.FS.
func (f *FS) Stat(name string) (fs.FileInfo, error) {
	if _, err := f.enter(Op{Kind: Stat, Path: name}); err != nil {
		return nil, err
	}
	return f.inner.Stat(name)
}

// Lock implements vfs.FS.
func (f *FS) Lock(name string) (io.Closer, error) {
	if _, err := f.enter(Op{Kind: Lock, Path: name}); err != nil {
		return nil, err
	}
	return f.inner.Lock(name)
}

// OpenFile implements vfs.FS.
func (f *FS) OpenFile(name string, flag int, perm fs.FileMode) (vfs.File, error) {
	kind := Open
	if flag&os.O_CREATE != 0 {
		if _, err := f.inner.Stat(name); errors.Is(err, fs.ErrNotExist) {
			kind = Create
		}
	}
	if kind == Open && flag&os.O_TRUNC != 0 {
		kind = Truncate
	}
	v, err := f.enter(Op{Kind: kind, Path: name})
	if v == fail {
		return nil, err
	}
	file, ferr := f.inner.OpenFile(name, flag, perm)
	if v == half {
		if ferr == nil {
			_ = file.Close()
		}
		return nil, err
	}
	if ferr != nil {
		return nil, ferr
	}
	return &File{File: file, fs: f}, nil
}
