package branchfs

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"time"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
)

// Errors of Mount. Each is wrapped by an error that says what to do.
var (
	// ErrNoFUSE means that the kernel's FUSE device is missing.
	ErrNoFUSE = errors.New("no FUSE device")
	// ErrNoRights means that this process may not mount.
	ErrNoRights = errors.New("no right to mount")
	// ErrNotEmpty means that the mount point has files in it, which the mount
	// would hide.
	ErrNotEmpty = errors.New("mount point is not empty")
	// ErrMounted means that a live process serves a mount at the mount point.
	ErrMounted = errors.New("mount point is in use")
)

// probeTimeout bounds the question whether a mount is alive. A server that does
// not answer for so long is stopped or hung, not dead.
const probeTimeout = 3 * time.Second

// mountDir mounts a new FUSE connection at dir and returns its descriptor, which
// child processes do not inherit.
func mountDir(ctx context.Context, device, dir string, log *slog.Logger) (fd int, err error) {
	if err := clearStale(ctx, dir, log); err != nil {
		return -1, err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return -1, fmt.Errorf("make mount point: %w", err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return -1, fmt.Errorf("read mount point: %w", err)
	}
	if len(entries) > 0 {
		return -1, fmt.Errorf("%w: it holds %q and %d more; move them away",
			ErrNotEmpty, entries[0].Name(), len(entries)-1)
	}
	fd, err = unix.Open(device, unix.O_RDWR|unix.O_CLOEXEC, 0)
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, unix.ENODEV), errors.Is(err, unix.ENXIO):
		return -1, fmt.Errorf("%w: %s: %w; load the kernel module (modprobe fuse) or give the container the device",
			ErrNoFUSE, device, err)
	case errors.Is(err, fs.ErrPermission):
		return -1, fmt.Errorf("%w: open %s: %w; run as root", ErrNoRights, device, err)
	case err != nil:
		return -1, fmt.Errorf("open %s: %w", device, err)
	}
	// Without default_permissions every user could open every disk: the kernel
	// would leave the check to us.
	opts := fmt.Sprintf("fd=%d,rootmode=%o,user_id=%d,group_id=%d,max_read=%d,allow_other,default_permissions",
		fd, unix.S_IFDIR, os.Geteuid(), os.Getegid(), maxRequestBytes)
	err = unix.Mount(fsSource, dir, "fuse."+fsType, unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC|unix.MS_NOATIME, opts)
	if err == nil {
		return fd, nil
	}
	_ = unix.Close(fd)
	if errors.Is(err, unix.EPERM) {
		return -1, fmt.Errorf("%w: %w; run as root, or with CAP_SYS_ADMIN", ErrNoRights, err)
	}
	return -1, err
}

// clearStale takes away mounts at dir whose server is dead, newest first.
func clearStale(ctx context.Context, dir string, log *slog.Logger) error {
	for {
		mounts, err := mountinfo.GetMounts(mountinfo.SingleEntryFilter(dir))
		if err != nil {
			return fmt.Errorf("read mounts: %w", err)
		}
		if len(mounts) == 0 {
			return nil
		}
		dead, err := serverDead(ctx, dir)
		if err != nil {
			return err
		}
		if !dead {
			return fmt.Errorf("%w: a live %s is mounted there; stop who serves it, or choose another directory",
				ErrMounted, mounts[0].FSType)
		}
		if err := unmount(dir, unix.MNT_DETACH|unix.MNT_FORCE); err != nil {
			return fmt.Errorf("take away dead mount: %w", err)
		}
		log.Warn("took away the mount of a dead server", "dir", dir)
	}
}

// serverDead asks the file system mounted at dir for its attributes. A FUSE mount
// whose server has died answers ENOTCONN.
func serverDead(ctx context.Context, dir string) (bool, error) {
	answer := make(chan error, 1)
	go func() { // ends when the server answers or dies
		var st unix.Statfs_t
		answer <- unix.Statfs(dir, &st)
	}()
	timer := time.NewTimer(probeTimeout)
	defer timer.Stop()
	select {
	case err := <-answer:
		switch {
		case err == nil:
			return false, nil
		case errors.Is(err, unix.ENOTCONN), errors.Is(err, unix.ECONNABORTED):
			return true, nil
		case errors.Is(err, unix.EACCES), errors.Is(err, unix.EPERM):
			return false, fmt.Errorf("%w: examine mount: %w; run as root", ErrNoRights, err)
		}
		return false, fmt.Errorf("examine mount: %w", err)
	case <-timer.C:
		return false, fmt.Errorf("%w: its server does not answer; kill it, or abort its connection with umount -f",
			ErrMounted)
	case <-ctx.Done():
		return false, ctx.Err()
	}
}

// unmount unmounts the newest mount at dir.
func unmount(dir string, flags int) error {
	err := unix.Unmount(dir, flags|unix.UMOUNT_NOFOLLOW)
	if errors.Is(err, unix.EBUSY) {
		return fmt.Errorf("unmount %s: %w: branches are still attached, or programs use files there", dir, err)
	}
	if err != nil {
		return fmt.Errorf("unmount %s: %w", dir, err)
	}
	return nil
}
