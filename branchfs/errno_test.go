package branchfs

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"syscall"
	"testing"

	"github.com/bough-db/bough/blockdev"
)

func TestErrnoOf(t *testing.T) {
	for _, tc := range []struct {
		name  string
		err   error
		want  syscall.Errno
		known bool
	}{
		{"none", nil, 0, true},
		{"out of range", fmt.Errorf("write: %w", blockdev.ErrOutOfRange), syscall.ENOSPC, true},
		{"own errno", fmt.Errorf("open: %w", syscallError(syscall.EBUSY)), syscall.EBUSY, true},
		{"own errno before a full disk", errors.Join(syscallError(syscall.EROFS), syscall.ENOSPC), syscall.EROFS, true},
		{"full disk", &fs.PathError{Op: "write", Path: "j", Err: syscall.ENOSPC}, syscall.ENOSPC, true},
		{"full quota", fmt.Errorf("write: %w", syscall.EDQUOT), syscall.ENOSPC, true},
		{"cancelled elsewhere", fmt.Errorf("fetch: %w", context.Canceled), syscall.EIO, false},
		{"a missing file of its own", fmt.Errorf("segment: %w", fs.ErrNotExist), syscall.EIO, false},
		{"inner errno is not passed on", &fs.PathError{Op: "write", Path: "j", Err: syscall.EAGAIN}, syscall.EIO, false},
		{"deadline", context.DeadlineExceeded, syscall.EIO, false},
		{"anything", errors.New("checksum mismatch"), syscall.EIO, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got, known := errnoOf(tc.err, syscall.ENOSPC)
			if got != tc.want || known != tc.known {
				t.Fatalf("errnoOf(%v) = %v, %v; want %v, %v", tc.err, got, known, tc.want, tc.known)
			}
		})
	}
}

func TestLookupErrno(t *testing.T) {
	for _, tc := range []struct {
		name  string
		err   error
		want  syscall.Errno
		known bool
	}{
		{"none", nil, 0, true},
		{"missing", fmt.Errorf("branch: %w", fs.ErrNotExist), syscall.ENOENT, true},
		{"forbidden", fs.ErrPermission, syscall.EACCES, true},
		{"own errno", syscallError(syscall.EBUSY), syscall.EBUSY, true},
		{"anything", errors.New("store is down"), syscall.EIO, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got, known := lookupErrno(tc.err)
			if got != tc.want || known != tc.known {
				t.Fatalf("lookupErrno(%v) = %v, %v; want %v, %v", tc.err, got, known, tc.want, tc.known)
			}
		})
	}
}
