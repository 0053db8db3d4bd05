package e2e

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// leftovers says what of a host is still there: processes, mounts, loop devices.
func leftovers(dir, state string) []string {
	var found []string
	for _, pid := range processesOf(dir) {
		line, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid)) // it may be gone by now
		found = append(found, fmt.Sprintf("process %d: %s", pid, strings.ReplaceAll(string(line), "\x00", " ")))
	}
	for _, m := range mountsBelow(dir) {
		found = append(found, "mount "+m.dir)
	}
	for _, n := range loopsOf(dir, state) {
		found = append(found, fmt.Sprintf("/dev/loop%d", n))
	}
	return found
}

// tidy takes away what killed daemons left below a directory. It knows nothing of
// how bough does that.
func tidy(dir string) error {
	for _, pid := range processesOf(dir) {
		_ = syscall.Kill(pid, syscall.SIGKILL) // it may be gone by now
	}
	mounts := mountsBelow(dir)
	slices.SortFunc(mounts, func(a, b mount) int { return cmp.Compare(len(b.dir), len(a.dir)) })
	loops := map[int]bool{}
	for _, m := range mounts {
		if m.major == loopMajor {
			loops[m.minor] = true
		}
	}
	states, err := filepath.Glob(filepath.Join(dir, "*", "s"))
	if err != nil {
		return err
	}
	for _, state := range append(states, filepath.Join(dir, "s")) {
		for _, n := range loopsOf(dir, state) {
			loops[n] = true
		}
	}
	// A loop device goes with its mount, to whoever wants the next one, unless it
	// is held open: then it is still ours when it is cleared.
	held := map[int]int{}
	for n := range loops {
		if held[n], err = unix.Open(loopPath(n), unix.O_RDONLY|unix.O_CLOEXEC, 0); err != nil {
			return fmt.Errorf("open %s: %w", loopPath(n), err)
		}
	}
	for _, m := range mounts {
		if err := unix.Unmount(m.dir, unix.MNT_DETACH); err != nil {
			return fmt.Errorf("unmount %s: %w", m.dir, err)
		}
	}
	for n, fd := range held {
		if err := clearLoop(n, fd); err != nil {
			return err
		}
	}
	return wait(10*time.Second, func() error {
		if left := processesOf(dir); len(left) > 0 {
			return fmt.Errorf("processes %v do not end", left)
		}
		return nil
	})
}

// processesOf returns the processes that work below a directory, or were told to
// on their command line.
func processesOf(dir string) []int {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil
	}
	var found []int
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || pid == os.Getpid() {
			continue
		}
		cwd, _ := os.Readlink(fmt.Sprintf("/proc/%d/cwd", pid)) // of a kernel thread, none
		line, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		if strings.HasPrefix(cwd+"/", dir+"/") || strings.Contains(string(line), dir+"/") {
			found = append(found, pid)
		}
	}
	return found
}

type mount struct {
	dir          string
	major, minor int
}

// mountsBelow returns what is mounted below a directory.
func mountsBelow(dir string) []mount {
	text, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil
	}
	var found []mount
	for line := range strings.Lines(string(text)) {
		// id, parent, major:minor, root, mount point, with blanks as \040.
		f := strings.Fields(line)
		if len(f) < 5 || !strings.HasPrefix(f[4], dir+"/") {
			continue
		}
		m := mount{dir: strings.ReplaceAll(f[4], `\040`, " ")}
		_, _ = fmt.Sscanf(f[2], "%d:%d", &m.major, &m.minor) // the kernel writes them so
		found = append(found, m)
	}
	return found
}

const loopMajor = 7

// loopsOf returns the loop devices whose file is below the directory, and those
// that carry the state directory's mark.
func loopsOf(dir, state string) []int {
	files, err := filepath.Glob("/sys/block/loop*/loop/backing_file")
	if err != nil {
		return nil
	}
	sum := sha256.Sum256([]byte(state))
	mark := "bough:" + hex.EncodeToString(sum[:6]) + ":"
	var found []int
	for _, f := range files {
		n, err := strconv.Atoi(strings.TrimPrefix(strings.Split(f, "/")[3], "loop"))
		if err != nil {
			continue
		}
		text, err := os.ReadFile(f)
		if err != nil {
			continue // unbound just now
		}
		if strings.HasPrefix(string(text), dir+"/") || strings.HasPrefix(loopMark(n), mark) {
			found = append(found, n)
		}
	}
	return found
}

// loopMark returns what the owner of a loop device wrote on it.
func loopMark(n int) string {
	fd, err := unix.Open(loopPath(n), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return ""
	}
	defer unix.Close(fd)
	info, err := unix.IoctlLoopGetStatus64(fd)
	if err != nil {
		return ""
	}
	return strings.TrimRight(string(info.File_name[:]), "\x00")
}

// clearLoop unbinds a loop device that is open as fd, which it closes, and undoes
// what was set on the device: the next one who uses it may need flushes.
func clearLoop(n, fd int) error {
	err := unix.IoctlSetInt(fd, unix.LOOP_CLR_FD, 0)
	if errors.Is(err, unix.ENXIO) {
		err = nil
	}
	err = errors.Join(err, os.WriteFile(fmt.Sprintf("/sys/block/loop%d/queue/write_cache", n), []byte("write back"), 0))
	if err := errors.Join(err, unix.Close(fd)); err != nil {
		return fmt.Errorf("clear %s: %w", loopPath(n), err)
	}
	return nil
}

func loopPath(n int) string { return "/dev/loop" + strconv.Itoa(n) }

// credential returns what makes a child process run as a user.
func credential(name string) (*syscall.Credential, error) {
	u, err := user.Lookup(name)
	if err != nil {
		return nil, err
	}
	uid, errUID := strconv.ParseUint(u.Uid, 10, 32)
	gid, errGID := strconv.ParseUint(u.Gid, 10, 32)
	return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}, errors.Join(errUID, errGID)
}
