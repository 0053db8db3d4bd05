package branchfs

import (
	"bytes"
	"context"
	"math"
	"sync"
	"syscall"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/bough-db/bough/blockdev"
)

const blockSize = blockdev.BlockSize

// diskFlags are how the kernel treats an open disk file. Direct I/O alone would
// let one request be in flight on each file: parallel direct writes, and
// asynchronous direct I/O (a capability of the connection), make it many.
const diskFlags = fuse.FOPEN_DIRECT_IO | fuse.FOPEN_PARALLEL_DIRECT_WRITES | fuse.FOPEN_NOFLUSH

// handleTable maps the numbers of open files and directories to what is behind
// them: *disk, []byte (a status file) or listing.
type handleTable struct {
	mu   sync.RWMutex
	next uint64
	open map[uint64]any
}

func (t *handleTable) add(h any) uint64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.next++
	t.open[t.next] = h
	return t.next
}

func (t *handleTable) get(fh uint64) any {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.open[fh]
}

func (t *handleTable) remove(fh uint64) any {
	t.mu.Lock()
	defer t.mu.Unlock()
	h := t.open[fh]
	delete(t.open, fh)
	return h
}

// all returns what is open and forgets it.
func (t *handleTable) all() []any {
	t.mu.Lock()
	defer t.mu.Unlock()
	var l []any
	for _, h := range t.open {
		l = append(l, h)
	}
	clear(t.open)
	return l
}

// Open implements fuse.RawFileSystem.
func (f *fileSystem) Open(cancel <-chan struct{}, in *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	n, ok := f.nodes.get(in.NodeId)
	if !ok {
		return fuse.ENOENT
	}
	ctx := callCtx(cancel)
	switch n.kind {
	case kindDisk:
		if n.readOnly() && in.Flags&unix.O_ACCMODE != unix.O_RDONLY {
			return fuse.EROFS
		}
		d, err := f.disks.open(ctx, f.life, n.branch, n.path)
		if err != nil {
			return f.status(ctx, "open", n.path, err)
		}
		out.Fh = f.handles.add(d)
		out.OpenFlags = diskFlags
		return fuse.OK
	case kindStatus:
		if in.Flags&unix.O_ACCMODE != unix.O_RDONLY {
			return fuse.EACCES
		}
		text, err := n.branch.Status(ctx)
		if err != nil {
			return f.status(ctx, "status", n.path, err)
		}
		// Direct I/O, so that reads see this text to its end whatever size an
		// earlier stat(2) saw.
		out.Fh = f.handles.add(text)
		out.OpenFlags = fuse.FOPEN_DIRECT_IO | fuse.FOPEN_NOFLUSH
		return fuse.OK
	}
	return fuse.EISDIR
}

// Release implements fuse.RawFileSystem. The kernel does not wait for the answer.
func (f *fileSystem) Release(cancel <-chan struct{}, in *fuse.ReleaseIn) {
	if d, ok := f.handles.remove(in.Fh).(*disk); ok {
		f.disks.release(f.life, d)
	}
}

// Read implements fuse.RawFileSystem. buf is go-fuse's, goes to the kernel as it
// is, and is only used again after that: the device fills it in place.
func (f *fileSystem) Read(cancel <-chan struct{}, in *fuse.ReadIn, buf []byte) (fuse.ReadResult, fuse.Status) {
	switch h := f.handles.get(in.Fh).(type) {
	case *disk:
		size := uint64(h.dev.Size())
		if in.Offset >= size {
			return fuse.ReadResultData(nil), fuse.OK
		}
		buf = buf[:min(uint64(len(buf)), size-in.Offset)]
		ctx := callCtx(cancel)
		if err := h.dev.ReadAt(ctx, buf, int64(in.Offset)); ctx.Err() != nil {
			return nil, fuse.EINTR
		} else if err != nil {
			return nil, h.status("read", int64(in.Offset), int64(len(buf)), syscall.EINVAL, err)
		}
		return fuse.ReadResultData(buf), fuse.OK
	case []byte:
		var r bytes.Reader
		r.Reset(h)
		n, _ := r.ReadAt(buf, int64(min(in.Offset, math.MaxInt64)))
		return fuse.ReadResultData(buf[:n]), fuse.OK
	}
	return nil, fuse.EBADF
}

// Writev implements fuse.RawFileSystem. data points into go-fuse's request buffer,
// which is not used again before the call returns. From the kernel it is one
// slice; other transports may split it.
//
// An interrupt does not stop a write: a device whose write fails is a failed
// device, and a signal to some program is no reason for that. The same goes for
// Fsync and Fallocate.
func (f *fileSystem) Writev(cancel <-chan struct{}, in *fuse.WriteIn, data [][]byte) (uint32, fuse.Status) {
	d, ok := f.handles.get(in.Fh).(*disk)
	if !ok {
		return 0, fuse.EBADF
	}
	if d.readOnly {
		return 0, fuse.EROFS
	}
	// The whole range is checked first, so that a write beyond the end changes
	// nothing, and the kernel never makes the file longer.
	if st := d.check(in.Offset, uint64(in.Size), syscall.ENOSPC); st != fuse.OK {
		return 0, st
	}
	off := int64(in.Offset)
	for _, p := range data {
		if err := d.dev.WriteAt(f.life, p, off); err != nil {
			return 0, d.status("write", off, int64(len(p)), syscall.ENOSPC, err)
		}
		off += int64(len(p))
	}
	return in.Size, fuse.OK
}

// Fsync implements fuse.RawFileSystem: it is a barrier, with or without the flag
// that asks for data alone.
func (f *fileSystem) Fsync(cancel <-chan struct{}, in *fuse.FsyncIn) fuse.Status {
	d, ok := f.handles.get(in.Fh).(*disk)
	if !ok || d.readOnly {
		return fuse.OK // a status file, or a device that cannot have changed
	}
	return d.status("flush", 0, 0, syscall.EIO, d.dev.Flush(f.life))
}

// Flush implements fuse.RawFileSystem: close(2) promises nothing. ENOSYS makes
// the kernel ask no more.
func (f *fileSystem) Flush(cancel <-chan struct{}, in *fuse.FlushIn) fuse.Status { return fuse.ENOSYS }

// Fallocate implements fuse.RawFileSystem: holes are trims, zeroed ranges are
// write-zeroes, and allocation has nothing to do on a thin device.
func (f *fileSystem) Fallocate(cancel <-chan struct{}, in *fuse.FallocateIn) fuse.Status {
	d, ok := f.handles.get(in.Fh).(*disk)
	if !ok {
		return fuse.EBADF
	}
	if d.readOnly {
		return fuse.EROFS
	}
	if st := d.check(in.Offset, in.Length, syscall.ENOSPC); st != fuse.OK {
		return st
	}
	op, change := "trim", (func(context.Context, int64, int64) error)(nil)
	switch in.Mode {
	case 0, unix.FALLOC_FL_KEEP_SIZE:
		return fuse.OK
	case unix.FALLOC_FL_PUNCH_HOLE | unix.FALLOC_FL_KEEP_SIZE:
		if d.trim != nil {
			change = d.trim.Trim
		}
	case unix.FALLOC_FL_ZERO_RANGE, unix.FALLOC_FL_ZERO_RANGE | unix.FALLOC_FL_KEEP_SIZE:
		op = "write zeroes"
		if d.zero != nil {
			change = d.zero.WriteZeroes
		}
	}
	if change == nil {
		return fuse.Status(syscall.EOPNOTSUPP)
	}
	off, n := int64(in.Offset), int64(in.Length)
	return d.status(op, off, n, syscall.ENOSPC, change(f.life, off, n))
}

// check answers a range that the device does not have, before it is converted to
// signed numbers.
func (d *disk) check(off, n uint64, beyondEnd syscall.Errno) fuse.Status {
	size := uint64(d.dev.Size())
	if off > size || n > size-off {
		return fuse.Status(beyondEnd)
	}
	return fuse.OK
}

// syscallError is an error that is exactly an errno.
type syscallError syscall.Errno

func (e syscallError) Error() string        { return syscall.Errno(e).Error() }
func (e syscallError) Errno() syscall.Errno { return syscall.Errno(e) }
