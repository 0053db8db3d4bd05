package blockdev

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
)

// This file runs in the helper process only.

// attach binds a branch's file to a loop device, makes a file system on it when
// asked to, and mounts it. When it fails it leaves nothing behind.
func (r *request) attach(ctx context.Context, resp *response) (err error) {
	a := r.Attachment
	fd, err := unix.Open(a.File, unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open %s: %w", a.File, err)
	}
	file := os.NewFile(uintptr(fd), a.File)
	defer file.Close()
	l, err := newLoop(ctx, file, loopTag(r.State, a.ID), a.Dir != "")
	if err != nil {
		return err
	}
	defer l.close()
	a.Number, a.Device = l.number, loopPath(l.number)
	a.DiskSeq, a.Boot, a.Since = diskSeq(l.number), bootID(), time.Now().UTC()
	defer func() {
		if err != nil {
			err = errors.Join(err, r.unbind(ctx, l), removeRecord(r.State, a.ID))
		}
	}()
	// Recorded before the write cache is touched: that setting must be put back
	// even when the kernel has unbound the device by itself.
	if err := a.write(r.State); err != nil {
		return err
	}
	if err := setWriteCache(l.number, a.WriteThrough); err != nil {
		if !a.WriteThrough {
			return err // flushes would be lost
		}
		// Flushes without need are slow, not wrong.
		resp.Notes = append(resp.Notes, err.Error())
		a.WriteThrough = false
		if err := setWriteCache(l.number, false); err != nil {
			return err
		}
	}
	if r.Format {
		if err := mkfs(ctx, a.Device); err != nil {
			return err
		}
	}
	if a.Dir != "" {
		if err := mountExt4(a.Device, a.Dir, a.ReadOnly); err != nil {
			return err
		}
	}
	resp.Attachment = a
	return nil
}

// detach unmounts a branch's file system and unbinds its device. What is done
// already is no error, so that a detach that failed may be repeated.
func (r *request) detach(ctx context.Context, resp *response) error {
	a := r.Attachment
	l, err := openLoop(a.Number)
	if err != nil {
		return err
	}
	defer l.close()
	tag, _ := l.tag()
	ours := r.owns(a, tag)
	if ours && a.Dir != "" {
		if err := unmountWhenIdle(ctx, a); err != nil {
			return err
		}
	}
	switch {
	case ours:
		if err := r.unbind(ctx, l); err != nil {
			return err
		}
	case a.WriteThrough && !strings.HasPrefix(tag, tagStart):
		// An earlier try unmounted it and died; the kernel unbound it.
		if err := restoreWriteCache(a.Number); err != nil {
			return err
		}
	}
	return removeRecord(r.State, a.ID)
}

// cache tells the kernel whether the device has a volatile cache, while it is in use.
func (r *request) cache(resp *response) error {
	a := r.Attachment
	l, err := openLoop(a.Number)
	if err != nil {
		return err
	}
	defer l.close()
	if tag, _ := l.tag(); !r.owns(a, tag) {
		return fmt.Errorf("%s is bound to something else by now", a.Device)
	}
	// As in attach, the record says that there is something to put back before there is.
	if a.WriteThrough {
		if err := a.write(r.State); err != nil {
			return err
		}
	}
	if err := setWriteCache(a.Number, a.WriteThrough); err != nil {
		return err
	}
	resp.Attachment = a
	if !a.WriteThrough {
		return a.write(r.State)
	}
	return nil
}

// owns reports whether loop device a.Number still has the binding that a tells of.
func (r *request) owns(a Attachment, tag string) bool {
	if a.DiskSeq != "" {
		_, err := os.Stat(loopSys(a.Number, "loop/backing_file"))
		return err == nil && diskSeq(a.Number) == a.DiskSeq && a.Boot == bootID()
	}
	return tag == loopTag(r.State, a.ID)
}

// unbind puts back the write cache setting of l, unbinds it, and waits until it is.
// It closes l.
func (r *request) unbind(ctx context.Context, l *loop) error {
	seq := diskSeq(l.number)
	err := errors.Join(setWriteCache(l.number, false), l.clear(), l.close())
	if err != nil {
		return err
	}
	if err := waitCleared(ctx, l.number, seq); err != nil {
		return fmt.Errorf("detach %s: %w: %w%s", loopPath(l.number), ErrBusy, err, usedBy(loopPath(l.number)))
	}
	return nil
}

// unmountWhenIdle unmounts a's file system, waiting for programs that are still
// leaving it.
func unmountWhenIdle(ctx context.Context, a Attachment) error {
	err := poll(ctx, func() (bool, error) {
		mounted, err := mountsOf(a.Number)
		if err != nil {
			return false, err
		}
		for _, m := range mounted {
			if m.Mountpoint != a.Dir {
				continue
			}
			err := unix.Unmount(a.Dir, unix.UMOUNT_NOFOLLOW)
			if errors.Is(err, unix.EBUSY) {
				return false, nil
			}
			return err == nil, err
		}
		return true, nil // somebody unmounted it
	})
	if errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("unmount %s: %w: %w%s", a.Dir, ErrBusy, err, usedBy(a.Dir))
	}
	if err != nil {
		return fmt.Errorf("unmount %s: %w", a.Dir, err)
	}
	return nil
}

// mountsOf returns the mounts of loop device n that this process sees, newest
// first.
func mountsOf(n int) ([]*mountinfo.Info, error) {
	mounts, err := mountinfo.GetMounts(func(m *mountinfo.Info) (skip, stop bool) {
		return m.Major != loopMajor || m.Minor != n, false
	})
	if err != nil {
		return nil, fmt.Errorf("read mounts: %w", err)
	}
	for i, j := 0, len(mounts)-1; i < j; i, j = i+1, j-1 {
		mounts[i], mounts[j] = mounts[j], mounts[i]
	}
	return mounts, nil
}

// usedBy names some processes that have files open at or below path, as the end of
// an error text. It is best effort: it sees what this process may see.
func usedBy(path string) string {
	var names []string
	dirs, _ := filepath.Glob("/proc/[0-9]*")
	for _, dir := range dirs {
		links, _ := filepath.Glob(dir + "/fd/*")
		for _, link := range append(links, dir+"/cwd", dir+"/root", dir+"/exe") {
			target, err := os.Readlink(link)
			if err != nil || target != path && !strings.HasPrefix(target, path+"/") {
				continue
			}
			comm, _ := readSys(dir + "/comm")
			names = append(names, fmt.Sprintf("%s (pid %s)", comm, filepath.Base(dir)))
			break
		}
		if len(names) == 3 {
			break
		}
	}
	if len(names) == 0 {
		return ""
	}
	return ": used by " + strings.Join(names, ", ")
}
