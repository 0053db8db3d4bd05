package blockdev

import (
	"context"
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"
)

// This file runs in the helper process only.

// grow makes the device as large as its file, and the file system as large as the
// device.
func (r *request) grow(ctx context.Context) error {
	a := r.Attachment
	l, err := openLoop(a.Number)
	if err != nil {
		return err
	}
	defer l.close()
	if err := unix.IoctlSetInt(l.fd(), unix.LOOP_SET_CAPACITY, 0); err != nil {
		return fmt.Errorf("set capacity of %s: %w", a.Device, err)
	}
	if a.Dir == "" {
		return nil
	}
	return runTool(ctx, "resize2fs", a.Device)
}

// fitrim is FITRIM of linux/fs.h, and fstrimRange its argument.
const fitrim = 0xc0185879

type fstrimRange struct{ start, length, minimum uint64 }

// trim discards the free space of the file system. Extents below 64 KiB are not
// worth an entry in the journal.
func (r *request) trim() error {
	dir := r.Attachment.Dir
	fd, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open %s: %w", dir, err)
	}
	defer unix.Close(fd)
	arg := fstrimRange{length: ^uint64(0), minimum: 64 << 10}
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), fitrim, uintptr(unsafe.Pointer(&arg))); errno != 0 {
		return fmt.Errorf("trim %s: %w", dir, errno)
	}
	return nil
}
