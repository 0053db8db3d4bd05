package blockdev

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"

	"golang.org/x/sys/unix"
)

// This file runs in the helper process only.

// ext4Features are the features of a new file system, all of them: the machine's
// /etc/mke2fs.conf has no say in what a branch looks like. Left out on purpose:
// orphan_file, metadata_csum_seed (kernels before 5.15 and e2fsck before 1.47
// refuse them) and fast_commit (young, and of no use to overwrites).
const ext4Features = "none,has_journal,extent,huge_file,flex_bg,metadata_csum,64bit,dir_nlink," +
	"extra_isize,sparse_super,large_file,filetype,resize_inode,dir_index,ext_attr"

// mkfsArgs are the arguments of mkfs.ext4 for a device that reads as zeros.
//
//   - nodiscard: a new branch has nothing to discard.
//   - assume_storage_prezeroed: neither inode tables (2 GiB of them at 256 GiB) nor
//     the journal are written, now or by a kernel thread later.
//   - a journal of 64 MiB, not 1 GiB: it is overwritten in a circle, so its size
//     is what every branch comes to hold of it, and bounds what a mount replays.
//   - an inode for 32 KiB, and no blocks reserved for root: the file system is one
//     database.
//
// At 256 GiB this writes 6.6 MiB in 156 requests, of which 4 MiB are the block
// lists that let it grow online, in about 15 ms.
func mkfsArgs(device string, prezeroed bool) []string {
	extended := "nodiscard"
	if prezeroed {
		extended += ",assume_storage_prezeroed=1"
	}
	return []string{
		"-q", "-F", "-t", "ext4", "-b", "4096", "-I", "256", "-i", "32768", "-m", "0",
		"-J", "size=64", "-O", ext4Features, "-E", extended, device,
	}
}

// mkfs makes an ext4 file system on device.
func mkfs(ctx context.Context, device string) error {
	err := runTool(ctx, "mkfs.ext4", mkfsArgs(device, true)...)
	if err != nil && strings.Contains(err.Error(), "assume_storage_prezeroed") {
		// Before e2fsprogs 1.47. A kernel thread will zero the inode tables.
		err = runTool(ctx, "mkfs.ext4", mkfsArgs(device, false)...)
	}
	return err
}

// runTool runs a program and puts what it said, on one line, into its error.
func runTool(ctx context.Context, name string, args ...string) error {
	path, err := findTool(name)
	if err != nil {
		return err
	}
	var said bytes.Buffer
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Stdout, cmd.Stderr = &said, &said
	if err := cmd.Run(); err != nil {
		if ctx.Err() != nil {
			err = ctx.Err()
		}
		return fmt.Errorf("%s %s: %w: %s", name, args[len(args)-1], err, oneLine(said.String()))
	}
	return nil
}

// findTool finds a system program: a service's PATH often lacks the sbin
// directories.
func findTool(name string) (string, error) {
	if path, err := exec.LookPath(name); err == nil {
		return path, nil
	}
	for _, dir := range []string{"/usr/sbin/", "/sbin/", "/usr/bin/", "/bin/"} {
		if path, err := exec.LookPath(dir + name); err == nil {
			return path, nil
		}
	}
	return "", fmt.Errorf("find %s: %w; install e2fsprogs", name, exec.ErrNotFound)
}

// oneLine joins lines for an error message, and cuts what is too long for one.
func oneLine(text string) string {
	text = strings.Join(strings.Fields(text), " ")
	if len(text) > 500 {
		text = text[:500] + "…"
	}
	return text
}

const (
	mountFlags = unix.MS_NOATIME | unix.MS_NODEV | unix.MS_NOSUID

	// mountOptions: a failed write must stop the file system and reach fsync, not
	// be a line in the kernel's log (data_err's default). Discards go by fstrim,
	// not inline with every deletion.
	mountOptions = "errors=remount-ro,data_err=abort,nodiscard"

	// mountOptionsMore saves reading every used block bitmap (129 reads on an empty
	// file system of 256 GiB) in the background after each mount: waking a sleeping
	// branch should fetch what is asked for, and an idle one nothing. Linux 5.13.
	mountOptionsMore = ",no_prefetch_block_bitmaps"
)

// mountExt4 mounts device at dir, which is made if it is missing.
func mountExt4(device, dir string, readOnly bool) error {
	// Nobody but root may write into the bare mount point, lest a server that is
	// started without its branch write there.
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("make mount point: %w", err)
	}
	flags := uintptr(mountFlags)
	if readOnly {
		flags |= unix.MS_RDONLY
	}
	err := unix.Mount(device, dir, "ext4", flags, mountOptions+mountOptionsMore)
	if errors.Is(err, unix.EINVAL) {
		err = unix.Mount(device, dir, "ext4", flags, mountOptions)
	}
	switch {
	case errors.Is(err, unix.EINVAL):
		return fmt.Errorf("mount %s at %s: %w: no ext4 file system there? the kernel's log says more", device, dir, err)
	case err != nil:
		return fmt.Errorf("mount %s at %s: %w", device, dir, err)
	}
	return nil
}
