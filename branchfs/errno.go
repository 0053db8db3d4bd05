package branchfs

import (
	"context"
	"errors"
	"io/fs"
	"syscall"

	"github.com/hanwen/go-fuse/v2/fuse"

	"github.com/bough-db/bough/blockdev"
)

// errnoer is an error that knows which errno a file system should answer with.
type errnoer interface {
	Errno() syscall.Errno
}

// errnoOf maps an error of a Disk to the errno that the kernel is
// told. known is false when nothing in err says which it should be: the answer is
// then EIO, and the cause is lost unless it is logged.
//
// An errno deep inside err is not passed on, but for a full disk: an ENOENT or
// EAGAIN of some file of the journal would mean something else to the guest.
func errnoOf(err error, beyondEnd syscall.Errno) (errno syscall.Errno, known bool) {
	var own errnoer
	switch {
	case err == nil:
		return 0, true
	case errors.As(err, &own):
		return own.Errno(), true
	case errors.Is(err, blockdev.ErrOutOfRange):
		return beyondEnd, true
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		return syscall.ENOSPC, true
	}
	return syscall.EIO, false
}

// lookupErrno is errnoOf for what finds, lists and opens branches, where an error may
// say that there is none.
func lookupErrno(err error) (errno syscall.Errno, known bool) {
	errno, known = errnoOf(err, syscall.EINVAL)
	switch {
	case known:
		return errno, true
	case errors.Is(err, fs.ErrNotExist):
		return syscall.ENOENT, true
	case errors.Is(err, fs.ErrPermission):
		return syscall.EACCES, true
	}
	return errno, false
}

// status answers a request on the tree that failed with err, and logs an error that has no
// errno of its own: the caller sees a bare EIO.
func (f *fileSystem) status(ctx context.Context, op, path string, err error) fuse.Status {
	if ctx.Err() != nil {
		return fuse.EINTR
	}
	errno, known := lookupErrno(err)
	if !known {
		f.log.Error("request failed", "op", op, "path", path, "err", err)
	}
	return fuse.Status(errno)
}
