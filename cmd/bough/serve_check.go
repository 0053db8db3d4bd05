package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/bough-db/bough/postgres"
)

// checkHost returns what this host lacks to serve, each problem with what to do
// about it, or nil.
func checkHost(ctx context.Context, log *slog.Logger, pgBin string) error {
	if err := checkRoot(os.Geteuid()); err != nil {
		return err // the rest would follow from it
	}
	_, errPostgres := postgres.FindInstallations(ctx, pgBin)
	if pgBin != "" && errors.Is(errPostgres, fs.ErrNotExist) {
		errPostgres = fmt.Errorf("%w: name the directory of postgres and initdb with --pg-bin, or leave it out", errPostgres)
	}
	return problems(
		errPostgres,
		checkFUSE("/dev/fuse"),
		checkLoop("/dev/loop-control", "/proc/misc"),
		checkPrograms("mkfs.ext4"),
		checkFiles(log),
	)
}

// problemList is several independent errors, one line each.
type problemList []error

func (p problemList) Error() string   { return errors.Join(p...).Error() }
func (p problemList) Unwrap() []error { return p }

// problems returns the errors that are not nil as one.
func problems(errs ...error) error {
	var list problemList
	for _, err := range errs {
		if err != nil {
			list = append(list, err)
		}
	}
	switch len(list) {
	case 0:
		return nil
	case 1:
		return list[0]
	default:
		return list
	}
}

func checkRoot(uid int) error {
	if uid == 0 {
		return nil
	}
	return fmt.Errorf("serve needs root for block devices and mounts, and this is user %d: run `sudo bough serve`", uid)
}

// The number of the FUSE device.
const (
	miscMajor = 10
	fuseMinor = 229
)

func checkFUSE(path string) error {
	fd, err := unix.Open(path, unix.O_RDWR|unix.O_CLOEXEC, 0)
	switch {
	case err == nil:
		var st unix.Stat_t
		err := unix.Fstat(fd, &st)
		_ = unix.Close(fd)
		if err == nil && (st.Mode&unix.S_IFMT != unix.S_IFCHR || st.Rdev != unix.Mkdev(miscMajor, fuseMinor)) {
			return fmt.Errorf("no FUSE: %s is not the device: make it anew with `mknod %s c %d %d`", path, path, miscMajor, fuseMinor)
		}
		return err
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("no permission to open %s: run as root, and in a container give it the device (docker run --device %s --cap-add SYS_ADMIN)", path, path)
	default:
		return fmt.Errorf("no FUSE: open %s: %w: load it with `modprobe fuse`, or in a container give it the device (docker run --device %s)", path, err, path)
	}
}

// checkLoop accepts a missing node when the kernel has the driver, because
// package blockdev makes nodes.
func checkLoop(path, misc string) error {
	fd, err := unix.Open(path, unix.O_RDWR|unix.O_CLOEXEC, 0)
	switch {
	case err == nil:
		return unix.Close(fd)
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("no permission to open %s: run as root, and in a container with access to loop devices (docker run --privileged)", path)
	case errors.Is(err, fs.ErrNotExist):
		if p, err := os.ReadFile(misc); err == nil && strings.Contains(string(p), "loop-control") {
			return nil
		}
	}
	return fmt.Errorf("no loop devices: open %s: %w: load them with `modprobe loop`", path, err)
}

func checkPrograms(names ...string) error {
	for _, name := range names {
		if _, err := exec.LookPath(name); err == nil {
			continue
		}
		if _, err := exec.LookPath("/usr/sbin/" + name); err == nil {
			continue
		}
		if _, err := exec.LookPath("/sbin/" + name); err == nil {
			continue
		}
		return fmt.Errorf("no %s: install e2fsprogs", name)
	}
	return nil
}

// checkStoreDir refuses a directory that is somebody else's, before anything is put
// there. One that lacks only its format object is for the store to judge.
func checkStoreDir(dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("open store directory: %w: choose another one with --store", err)
	}
	for _, e := range entries {
		if e.Name() == "format" || e.Name() == ".lock" {
			return nil
		}
	}
	if len(entries) > 0 {
		return fmt.Errorf("store directory %s holds %q, and is not a bough store: choose an empty or new one with --store", dir, entries[0].Name())
	}
	return nil
}

// filesWanted is how many files a daemon with many branches has open: each
// client takes up to six.
const filesWanted = 16384

// checkFiles raises the limit of open files as far as it goes.
func checkFiles(log *slog.Logger) error {
	var lim unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &lim); err != nil {
		return fmt.Errorf("read the limit of open files: %w", err)
	}
	if lim.Cur >= filesWanted {
		return nil
	}
	lim.Cur = min(lim.Max, filesWanted)
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &lim); err != nil || lim.Cur < filesWanted {
		log.Warn("few open files are allowed: raise the limit with `ulimit -n`", "limit", lim.Cur, "wanted", filesWanted)
	}
	return nil
}

// freeWanted is what a daemon needs of its disk to begin with: a few journal
// files and a first database.
const freeWanted = 128 << 20

// checkDisk refuses to begin on a full disk. Where there are journals already it
// only warns: bringing them into the store is what makes room.
func checkDisk(state string, log *slog.Logger) error {
	var st unix.Statfs_t
	if err := unix.Statfs(state, &st); err != nil {
		return fmt.Errorf("examine the disk of %s: %w", state, err)
	}
	free := int64(st.Bavail) * st.Bsize
	if free >= freeWanted {
		return nil
	}
	if _, err := os.Stat(filepath.Join(state, journalDir)); err == nil {
		log.Warn("the disk is nearly full: make room, or writes will wait until there is some; nothing is lost", "dir", state, "free", size(free))
		return nil
	}
	return fmt.Errorf("the disk of %s has %s free, and %s are needed: make room, or choose another directory with --state", state, size(free), size(freeWanted))
}

// stateLock is the lock that makes a state directory one daemon's.
type stateLock struct{ file *os.File }

// lockState makes the state directory and locks it.
func lockState(dir string) (*stateLock, error) {
	// Postgres runs as another user, and its data directories are below.
	if err := os.MkdirAll(dir, 0o755); err != nil {
		if errors.Is(err, unix.ENOSPC) {
			return nil, fmt.Errorf("make state directory: %w: make room on the disk, or choose another directory with --state", err)
		}
		return nil, fmt.Errorf("make state directory: %w: choose another one with --state", err)
	}
	path := dir + "/lock"
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return nil, fmt.Errorf("open state directory: %w: choose another one with --state", err)
	}
	err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		p := make([]byte, 32)
		n, _ := f.ReadAt(p, 0) // a number that cannot be read is left out
		_ = f.Close()
		who := "another daemon"
		if pid, err := strconv.Atoi(strings.TrimSpace(string(p[:n]))); err == nil {
			who = fmt.Sprintf("another daemon, process %d", pid)
		}
		return nil, fmt.Errorf("state directory %s belongs to %s: stop that one, or choose another directory with --state", dir, who)
	}
	if err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("lock %s: %w", path, err)
	}
	// The number is for people; that a full disk keeps it out is no reason to stop.
	if f.Truncate(0) == nil {
		_, _ = f.WriteAt([]byte(strconv.Itoa(os.Getpid())+"\n"), 0)
	}
	return &stateLock{file: f}, nil
}

// release unlocks the directory. The file stays: removing it would let two
// daemons lock two files of one name.
func (l *stateLock) release() error { return l.file.Close() }
