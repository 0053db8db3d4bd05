package blockdev

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// This file runs in the helper process only, but for loopTag, loopPath and
// writeCachePath.

const (
	loopMajor        = 7
	loopControl      = "/dev/loop-control"
	loopControlMinor = 237
	miscMajor        = 10

	// loopTries bounds the attempts to take a free device before another process
	// does. Each attempt asks the kernel anew, so that only as many can fail as
	// others succeed meanwhile.
	loopTries = 256

	// pollEvery is how often a state is looked at for which the kernel has no
	// notification.
	pollEvery = 2 * time.Millisecond
)

// tagStart begins the tags of all state directories.
const tagStart = "bough:"

// loopTag is what a loop device of a branch carries in its lo_file_name, which the
// kernel keeps but does not use. Unlike the path of the backing file, it still says
// whose the device is after the branch was renamed. The hash tells state directories
// apart.
func loopTag(state, id string) string {
	tag := stateTag(state) + id
	if len(tag) > 63 {
		tag = tag[:63] // lo_file_name holds 64 bytes and a final zero
	}
	return tag
}

func stateTag(state string) string {
	sum := sha256.Sum256([]byte(state))
	return tagStart + hex.EncodeToString(sum[:6]) + ":"
}

func loopPath(n int) string { return "/dev/loop" + strconv.Itoa(n) }

func loopSys(n int, attr string) string {
	return filepath.Join("/sys/block/loop"+strconv.Itoa(n), attr)
}

func writeCachePath(n int) string { return loopSys(n, "queue/write_cache") }

// loop is a loop device that this process holds open, so that the kernel neither
// gives it away nor clears it meanwhile.
type loop struct {
	number int
	file   *os.File
}

// openLoop opens loop device n, and makes its node in /dev if nobody did: in a
// container there may be no devtmpfs and no udev.
func openLoop(n int) (*loop, error) {
	f, err := openNode(loopPath(n), unix.S_IFBLK, loopMajor, n)
	if err != nil {
		return nil, err
	}
	return &loop{number: n, file: f}, nil
}

func openNode(path string, kind uint32, major, minor int) (*os.File, error) {
	// A plain open(2): os.OpenFile would hand the device to the poller.
	fd, err := unix.Open(path, unix.O_RDWR|unix.O_CLOEXEC, 0)
	if errors.Is(err, fs.ErrNotExist) {
		dev := unix.Mkdev(uint32(major), uint32(minor))
		if err = unix.Mknod(path, kind|0o600, int(dev)); err != nil && !errors.Is(err, fs.ErrExist) {
			return nil, fmt.Errorf("make device node %s: %w", path, err)
		}
		fd, err = unix.Open(path, unix.O_RDWR|unix.O_CLOEXEC, 0)
	}
	switch {
	case errors.Is(err, unix.ENXIO), errors.Is(err, unix.ENODEV):
		return nil, fmt.Errorf("open %s: %w; load the kernel module (modprobe loop)", path, err)
	case errors.Is(err, fs.ErrPermission):
		return nil, fmt.Errorf("open %s: %w; run as root, with access to loop devices", path, err)
	case err != nil:
		return nil, fmt.Errorf("open %s: %w", path, err)
	}
	return os.NewFile(uintptr(fd), path), nil
}

func (l *loop) fd() int      { return int(l.file.Fd()) }
func (l *loop) close() error { return l.file.Close() }

// newLoop binds a free loop device to file, for direct I/O in sectors of one
// block: sectors of 512 bytes would let the file system write in parts of blocks.
//
// With autoclear the kernel unbinds the device when its last user is gone, be it
// this process by dying half-way, or the mount.
func newLoop(ctx context.Context, file *os.File, tag string, autoclear bool) (*loop, error) {
	control, err := openNode(loopControl, unix.S_IFCHR, miscMajor, loopControlMinor)
	if err != nil {
		return nil, err
	}
	defer control.Close()
	config := unix.LoopConfig{Fd: uint32(file.Fd()), Size: BlockSize}
	config.Info.Flags = unix.LO_FLAGS_DIRECT_IO
	if autoclear {
		config.Info.Flags |= unix.LO_FLAGS_AUTOCLEAR
	}
	copy(config.Info.File_name[:63], tag)
	for range loopTries {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		n, err := unix.IoctlRetInt(int(control.Fd()), unix.LOOP_CTL_GET_FREE)
		if err != nil {
			return nil, fmt.Errorf("find free loop device: %w", err)
		}
		l, err := openLoop(n)
		if err != nil {
			return nil, err
		}
		err = unix.IoctlLoopConfigure(l.fd(), &config)
		if err == nil {
			return l, l.verifyDirect()
		}
		_ = l.close()
		if !errors.Is(err, unix.EBUSY) { // else another process was quicker
			return nil, fmt.Errorf("configure %s: %w", loopPath(n), err)
		}
	}
	return nil, fmt.Errorf("find free loop device: others took %d before us: %w", loopTries, ErrBusy)
}

// verifyDirect makes sure that the device bypasses the page cache of the file: the
// kernel turns direct I/O off without an error when it cannot have it.
func (l *loop) verifyDirect() error {
	text, err := readSys(loopSys(l.number, "loop/dio"))
	if err == nil && text != "1" {
		err = errors.New("the kernel refused direct I/O")
	}
	if err != nil {
		return errors.Join(fmt.Errorf("configure %s: %w", loopPath(l.number), err), l.clear(), l.close())
	}
	return nil
}

// clear unbinds the device, at once or when its last user is gone. A device that
// is not bound is no error.
func (l *loop) clear() error {
	err := unix.IoctlSetInt(l.fd(), unix.LOOP_CLR_FD, 0)
	if err != nil && !errors.Is(err, unix.ENXIO) {
		return fmt.Errorf("detach %s: %w", loopPath(l.number), err)
	}
	return nil
}

// tag returns the device's lo_file_name, or "" when it is not bound. dead says that
// it is bound to a file whose FUSE server has died: then the kernel tells no tag.
func (l *loop) tag() (tag string, dead bool) {
	info, err := unix.IoctlLoopGetStatus64(l.fd())
	if err != nil {
		return "", errors.Is(err, unix.ENOTCONN) || errors.Is(err, unix.ECONNABORTED)
	}
	tag, _, _ = strings.Cut(string(info.File_name[:]), "\x00")
	return tag, false
}

// boundLoops lists the loop devices that have a backing file, with its path as
// the kernel shows it: below the root of its mount, perhaps with " (deleted)".
func boundLoops() (map[int]string, error) {
	paths, err := filepath.Glob("/sys/block/loop*/loop/backing_file")
	if err != nil {
		return nil, fmt.Errorf("list loop devices: %w", err)
	}
	bound := make(map[int]string)
	for _, p := range paths {
		n, err := strconv.Atoi(strings.TrimPrefix(filepath.Base(filepath.Dir(filepath.Dir(p))), "loop"))
		if err != nil {
			continue // not a loop device
		}
		if text, err := readSys(p); err == nil { // else it was unbound just now
			bound[n] = text
		}
	}
	return bound, nil
}

// diskSeq returns the kernel's number for the present binding of loop device n, or ""
// on an old kernel.
func diskSeq(n int) string {
	seq, err := readSys(loopSys(n, "diskseq"))
	if err != nil {
		return ""
	}
	return seq
}

// waitCleared returns when the binding of loop device n with this disk sequence
// number is gone: the last close of a device, and so its unbinding, happen some time
// after umount(2) and close(2) returned.
func waitCleared(ctx context.Context, n int, seq string) error {
	return poll(ctx, func() (bool, error) {
		_, err := os.Stat(loopSys(n, "loop/backing_file"))
		return err != nil || diskSeq(n) != seq, nil
	})
}

// poll calls done until it says so, or ctx ends.
func poll(ctx context.Context, done func() (bool, error)) error {
	ticker := time.NewTicker(pollEvery)
	defer ticker.Stop()
	for {
		if ok, err := done(); ok || err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-ticker.C:
		}
	}
}

func readSys(path string) (string, error) {
	text, err := os.ReadFile(path)
	return strings.TrimSuffix(string(text), "\n"), err
}

// The values of queue/write_cache.
const (
	writeBack    = "write back"
	writeThrough = "write through"
)

// setWriteCache makes the kernel believe that loop device n has a volatile cache,
// or that it has none. A device believed to have none is never flushed, and the
// belief outlives the binding: whoever gets the device next would lose commits.
// So it is set at every attach, read back, and put back at detach.
//
// A device without a volatile cache is not throttled: see setThrottle. Setting either
// freezes the queue, so a value that is right is left alone.
func setWriteCache(n int, through bool) error {
	want := writeBack
	if through {
		want = writeThrough
	}
	path := writeCachePath(n)
	for write := true; ; write = false {
		got, err := readSys(path)
		if err != nil {
			return fmt.Errorf("read write cache of %s: %w", loopPath(n), err)
		}
		if got == want {
			if through || !write {
				setThrottle(n, !through)
			}
			return nil
		}
		if !write {
			return fmt.Errorf("set write cache of %s: it stays %q, want %q", loopPath(n), got, want)
		}
		if err := os.WriteFile(path, []byte(want), 0); err != nil {
			return fmt.Errorf("set write cache of %s to %q: %w", loopPath(n), want, err)
		}
	}
}

// restoreWriteCache puts back what the kernel begins with. An unbound device shows
// "write through" whatever was set, so this one writes without a look.
func restoreWriteCache(n int) error {
	err := os.WriteFile(writeCachePath(n), []byte(writeBack), 0)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("restore write cache of %s: %w", loopPath(n), err)
	}
	setThrottle(n, true)
	return nil
}

// setThrottle turns the kernel's throttling of buffered writes on loop device n on, as
// it is at first, or off (queue/wbt_lat_usec of Documentation/ABI/stable/sysfs-block).
// With it, writes stand in one line for a place: a database's fsync of its log, of a
// few pages, behind all that the kernel or a checkpoint has begun to write. Where each
// write takes as long as a request to a store that doubles the time of a commit. A
// kernel without it has nothing to turn off, and one that refuses is slow, not wrong.
func setThrottle(n int, on bool) {
	const off = "0"
	path, want := loopSys(n, "queue/wbt_lat_usec"), off
	if on {
		want = "-1" // the kernel's own choice
	}
	if got, err := readSys(path); err == nil && (got == off) == on {
		_ = os.WriteFile(path, []byte(want), 0)
	}
}
