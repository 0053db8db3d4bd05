package blockdev

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
)

// This file runs in the helper process only, but for CleanupReport.

// CleanupReport says what a cleanup found and took away.
type CleanupReport struct {
	// Unmounted holds the mount points that were unmounted.
	Unmounted []string `json:"unmounted,omitempty"`
	// Detached holds the block devices that were unbound.
	Detached []string `json:"detached,omitempty"`
	// Busy holds the block devices that processes still use. They are unmounted,
	// fail every request, and will be unbound by the kernel when those processes
	// end.
	Busy []string `json:"busy,omitempty"`
}

// Empty reports whether nothing was found.
func (r CleanupReport) Empty() bool {
	return len(r.Unmounted) == 0 && len(r.Detached) == 0 && len(r.Busy) == 0
}

// busyWait is how long cleanup waits for a device that is still used. The users
// may be servers of a killed daemon, and another part of the start ends those.
const busyWait = time.Second

// cleanup takes away what a killed process left, of one branch or of all.
func (r *request) cleanup(ctx context.Context, resp *response) error {
	id := r.Attachment.ID
	if id == "" {
		if err := refuseServed(ctx, r.Mnt); err != nil {
			return err
		}
	}
	records, err := readRecords(r.State)
	if err != nil {
		return err
	}
	if id != "" {
		records = slices.DeleteFunc(records, func(a Attachment) bool { return a.ID != id })
	}
	owned, err := r.ownedLoops(records)
	if err != nil {
		return err
	}
	var errs []error
	for _, n := range owned {
		if err := r.releaseLoop(ctx, n, &resp.Report); err != nil {
			errs = append(errs, err)
		}
	}
	if err := r.forgetRecords(records, owned); err != nil {
		errs = append(errs, err)
	}
	if id == "" {
		if err := unmountDead(r.Mnt, &resp.Report); err != nil {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// releaseLoop unmounts and unbinds loop device n.
func (r *request) releaseLoop(ctx context.Context, n int, report *CleanupReport) error {
	mounted, err := mountsOf(n)
	if err != nil {
		return err
	}
	l, err := openLoop(n)
	if err != nil {
		return err
	}
	defer l.close()
	for _, m := range mounted {
		// Lazily: a server of the killed daemon may still sit in it.
		if err := unix.Unmount(m.Mountpoint, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil {
			return fmt.Errorf("unmount %s: %w", m.Mountpoint, err)
		}
		report.Unmounted = append(report.Unmounted, m.Mountpoint)
	}
	ctx, cancel := context.WithTimeout(ctx, busyWait)
	defer cancel()
	switch err := r.unbind(ctx, l); {
	case errors.Is(err, ErrBusy):
		report.Busy = append(report.Busy, loopPath(n))
	case err != nil:
		return err
	default:
		report.Detached = append(report.Detached, loopPath(n))
	}
	return nil
}

// ownedLoops returns the bound loop devices that are ours: of the branch that the
// request names, or of all. A record that tells of the very binding is proof; so is
// the tag; and if neither can be had, for the FUSE server has died, the path of the
// backing file.
func (r *request) ownedLoops(records []Attachment) ([]int, error) {
	bound, err := boundLoops()
	if err != nil {
		return nil, err
	}
	others, err := r.otherMounts()
	if err != nil {
		return nil, err
	}
	var owned []int
	for _, n := range slices.Sorted(maps.Keys(bound)) {
		backing := strings.TrimSuffix(bound[n], " (deleted)")
		below := func(dir string) bool { return strings.HasPrefix(backing, dir+"/") }
		if !strings.HasSuffix(backing, "/disk") || slices.ContainsFunc(others, below) {
			continue // not opened at all: it cannot be ours
		}
		l, err := openLoop(n)
		if err != nil {
			return nil, err
		}
		tag, dead := l.tag()
		_ = l.close()
		id := r.Attachment.ID
		recorded := slices.ContainsFunc(records, func(a Attachment) bool {
			return a.Number == n && a.DiskSeq != "" && r.owns(a, tag)
		})
		tagged := id == "" && strings.HasPrefix(tag, stateTag(r.State)) || id != "" && tag == loopTag(r.State, id)
		ours := dead && id == "" && below(r.Mnt)
		if recorded || tagged || ours {
			owned = append(owned, n)
		}
	}
	return owned, nil
}

// otherMounts returns where other FUSE file systems are mounted. What lies below
// them is not asked anything: whoever serves it may have been stopped, and the
// question would wait for its answer.
func (r *request) otherMounts() ([]string, error) {
	fuse, err := mountinfo.GetMounts(func(i *mountinfo.Info) (skip, stop bool) {
		return !strings.HasPrefix(i.FSType, "fuse") || strings.HasPrefix(r.Mnt+"/", strings.TrimSuffix(i.Mountpoint, "/")+"/"), false
	})
	if err != nil {
		return nil, fmt.Errorf("read mounts: %w", err)
	}
	dirs := make([]string, len(fuse))
	for i, m := range fuse {
		dirs[i] = m.Mountpoint
	}
	return dirs, nil
}

// forgetRecords removes attachment records. A device that was told to have no
// cache and was unbound since, by the kernel itself, is put right first.
func (r *request) forgetRecords(records []Attachment, released []int) error {
	boot := bootID()
	var errs []error
	for _, a := range records {
		// Another daemon's branch on that device chose its own setting.
		if a.WriteThrough && a.Boot == boot && !slices.Contains(released, a.Number) && !foreignBough(a.Number) {
			errs = append(errs, restoreWriteCache(a.Number))
		}
		errs = append(errs, removeRecord(r.State, a.ID))
	}
	return errors.Join(errs...)
}

// foreignBough reports whether loop device n is bound by any bough.
func foreignBough(n int) bool {
	l, err := openLoop(n)
	if err != nil {
		return false
	}
	defer l.close()
	tag, _ := l.tag()
	return strings.HasPrefix(tag, tagStart)
}

// refuseServed returns an error that wraps ErrInUse when a live process serves a
// file system at mnt: then nothing here is left over.
func refuseServed(ctx context.Context, mnt string) error {
	mounts, err := fuseMounts(mnt)
	if err != nil || len(mounts) == 0 {
		return err
	}
	// This blocks while the server is stopped: then the helper is killed.
	var st unix.Statfs_t
	err = unix.Statfs(mnt, &st)
	switch {
	case err == nil:
		return fmt.Errorf("%w: a live process serves %s", ErrInUse, mnt)
	case errors.Is(err, unix.ENOTCONN), errors.Is(err, unix.ECONNABORTED):
		return nil
	}
	return fmt.Errorf("examine %s: %w", mnt, err)
}

func fuseMounts(mnt string) ([]*mountinfo.Info, error) {
	mounts, err := mountinfo.GetMounts(mountinfo.SingleEntryFilter(mnt))
	if err != nil {
		return nil, fmt.Errorf("read mounts: %w", err)
	}
	return slices.DeleteFunc(mounts, func(m *mountinfo.Info) bool { return m.FSType != "fuse.bough" }), nil
}

// unmountDead takes away the dead FUSE mounts at mnt.
func unmountDead(mnt string, report *CleanupReport) error {
	mounts, err := fuseMounts(mnt)
	if err != nil {
		return err
	}
	for range mounts {
		// MNT_FORCE ends the connection, should a child of the dead server still
		// hold it.
		if err := unix.Unmount(mnt, unix.MNT_DETACH|unix.MNT_FORCE|unix.UMOUNT_NOFOLLOW); err != nil {
			return fmt.Errorf("unmount %s: %w", mnt, err)
		}
		report.Unmounted = append(report.Unmounted, mnt)
	}
	return nil
}
