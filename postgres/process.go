package postgres

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// process names one process for ever: ids are used again, but not with the
// same start time within one boot.
type process struct {
	Pid   int    `json:"pid"`
	Start uint64 `json:"start_ticks"`
	Boot  string `json:"boot_id"`
}

// thisBoot returns the id of the running boot.
func thisBoot() string {
	text, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(text))
}

// identify returns the process that has the id now.
func identify(pid int) (process, error) {
	_, start, err := procStat(pid)
	if err != nil {
		return process{}, err
	}
	return process{Pid: pid, Start: start, Boot: thisBoot()}, nil
}

// procStat returns the parent and the start time of a process.
func procStat(pid int) (parent int, start uint64, err error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, 0, fmt.Errorf("read state of process %d: %w", pid, err)
	}
	// The command in parentheses may hold anything, so count from its end:
	// field 3 (state) comes next, 4 is the parent, 22 the start time.
	_, rest, _ := strings.Cut(string(text[bytes.LastIndexByte(text, ')')+1:]), " ")
	fields := strings.Fields(rest)
	if len(fields) < 20 {
		return 0, 0, fmt.Errorf("read state of process %d: %q", pid, text)
	}
	parent, errParent := strconv.Atoi(fields[1])
	start, errStart := strconv.ParseUint(fields[19], 10, 64)
	if err := errors.Join(errParent, errStart); err != nil {
		return 0, 0, fmt.Errorf("read state of process %d: %w", pid, err)
	}
	return parent, start, nil
}

// open returns a pidfd of the process, or os.ErrProcessDone if it is gone.
func (p process) open() (int, error) {
	if p.Boot != thisBoot() || p.Pid <= 1 {
		return -1, os.ErrProcessDone
	}
	fd, err := unix.PidfdOpen(p.Pid, 0)
	if errors.Is(err, unix.ESRCH) {
		return -1, os.ErrProcessDone
	}
	if err != nil {
		return -1, fmt.Errorf("open process %d: %w", p.Pid, err)
	}
	// Only now, when the id can not change hands any more, does the start time count.
	if _, start, err := procStat(p.Pid); err != nil || start != p.Start {
		unix.Close(fd)
		return -1, os.ErrProcessDone
	}
	return fd, nil
}

// terminate ends a postmaster and all its children: an immediate shutdown, and
// after grace SIGKILL. It returns nil when they are gone.
func (p process) terminate(grace time.Duration) error {
	fd, err := p.open()
	if errors.Is(err, os.ErrProcessDone) {
		return nil
	}
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	// Before the parent is dead, or nobody knows any more whose they are.
	family := children(p)
	if err := unix.PidfdSendSignal(fd, unix.SIGQUIT, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("stop process %d: %w", p.Pid, err)
	}
	if !waitPidfd(fd, grace) {
		family = append(family, children(p)...)
		if err := unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
			return fmt.Errorf("kill process %d: %w", p.Pid, err)
		}
		if !waitPidfd(fd, killWait) {
			return fmt.Errorf("kill process %d: it does not go away, probably it waits for a device", p.Pid)
		}
	}
	var problems []error
	for _, child := range family {
		problems = append(problems, child.kill())
	}
	return errors.Join(problems...)
}

// killWait is how long a process with a SIGKILL may take to be gone. On a busy
// machine taking its memory down takes a while.
const killWait = 30 * time.Second

// kill ends one process with SIGKILL.
func (p process) kill() error {
	fd, err := p.open()
	if errors.Is(err, os.ErrProcessDone) {
		return nil
	}
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("kill process %d: %w", p.Pid, err)
	}
	if !waitPidfd(fd, killWait) {
		return fmt.Errorf("kill process %d: it does not go away, probably it waits for a device", p.Pid)
	}
	return nil
}

// waitPidfd reports whether the process ended within the time.
func waitPidfd(fd int, limit time.Duration) bool {
	deadline := time.Now().Add(limit)
	for {
		left := max(time.Until(deadline), 0)
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, int(left.Milliseconds())+1)
		switch {
		case n > 0:
			return true
		case errors.Is(err, unix.EINTR):
		default:
			return false
		}
	}
}

// pids returns the ids of all processes.
func pids() []int {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil
	}
	var all []int
	for _, e := range entries {
		if pid, err := strconv.Atoi(e.Name()); err == nil {
			all = append(all, pid)
		}
	}
	return all
}

// children returns the processes whose parent is p.
func children(p process) []process {
	var all []process
	for _, pid := range pids() {
		if parent, start, err := procStat(pid); err == nil && parent == p.Pid {
			all = append(all, process{Pid: pid, Start: start, Boot: p.Boot})
		}
	}
	return all
}

// workingIn returns the processes whose working directory is dir: of a data
// directory, those are the server's, with or without a postmaster. It asks the
// kernel only, never the file system of dir.
func workingIn(dir string) []process {
	var all []process
	for _, pid := range pids() {
		if at, err := os.Readlink(fmt.Sprintf("/proc/%d/cwd", pid)); err != nil || at != dir {
			continue
		}
		if p, err := identify(pid); err == nil {
			all = append(all, p)
		}
	}
	return all
}

// postmastersUnder returns the postmasters whose data directory is below root,
// as their command lines tell: also those that no record is left of.
func postmastersUnder(root string) []process {
	var all []process
	for _, pid := range pids() {
		line, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		if err != nil || !isPostmaster(strings.Split(string(line), "\x00"), root) {
			continue
		}
		if p, err := identify(pid); err == nil {
			all = append(all, p)
		}
	}
	return all
}

// isPostmaster reports whether the command line is one that this package
// starts servers with, for a data directory below root.
func isPostmaster(args []string, root string) bool {
	if len(args) == 0 || filepath.Base(args[0]) != "postgres" && filepath.Base(args[0]) != "sh" {
		return false
	}
	for i := range len(args) - 1 {
		if args[i] == "-D" && strings.HasPrefix(args[i+1], root+"/") {
			return true
		}
	}
	return false
}

// spawner starts processes that the kernel tells to stop when this process
// dies, however it dies. The kernel sends that signal when the *thread* that
// started them ends, so one thread does nothing else for as long as they live.
type spawner struct {
	requests chan func()
	once     sync.Once
	done     chan struct{}
}

func newSpawner() *spawner {
	s := &spawner{requests: make(chan func()), done: make(chan struct{})}
	go s.run()
	return s
}

func (s *spawner) run() {
	defer close(s.done)
	runtime.LockOSThread() // and never unlock: the thread ends with the goroutine
	// What is started must wait when there are too many dirty pages, also if this
	// process said that it must not. A kernel that does not know the call, and one
	// that refuses it, has nothing to undo.
	_ = unix.Prctl(unix.PR_SET_IO_FLUSHER, 0, 0, 0, 0)
	for start := range s.requests {
		start()
	}
}

// start starts cmd. What it starts gets SIGQUIT, Postgres's immediate
// shutdown, at close or when this process dies.
func (s *spawner) start(cmd *exec.Cmd) error {
	cmd.SysProcAttr.Pdeathsig = unix.SIGQUIT
	result := make(chan error, 1)
	s.requests <- func() { result <- cmd.Start() }
	return <-result
}

// close ends the thread. No start may be under way or come later.
func (s *spawner) close() {
	s.once.Do(func() { close(s.requests) })
	<-s.done
}
