package branchfstest

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// roleVariable is the environment variable that makes a test binary play a role.
const roleVariable = "BRANCHFSTEST_ROLE"

// Role is what a child process does instead of running tests. What it writes to
// standard output is its answer; an error makes it fail.
type Role func(args []string) error

// Main runs the tests, or, in a child process, the role that the child was started
// for. A test that serves a file system must leave the use of it to a child, as
// programs must. The roles behind Script and
// Parallel are always there.
func Main(m *testing.M, roles map[string]Role) {
	name := os.Getenv(roleVariable)
	if name == "" {
		os.Exit(m.Run())
	}
	role := roles[name]
	switch name {
	case "script":
		role = runScript
	case "parallel":
		role = runParallel
	}
	if role == nil {
		role = func([]string) error { return fmt.Errorf("no such role") }
	}
	if err := role(os.Args[1:]); err != nil {
		fmt.Fprintf(os.Stderr, "role %s: %v\n", name, err)
		os.Exit(1)
	}
	os.Exit(0)
}

// Command returns a child process that plays a role. It is killed when ctx ends.
func Command(ctx context.Context, role string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, "/proc/self/exe", args...)
	cmd.Env = append(os.Environ(), roleVariable+"="+role, "GORACE=atexit_sleep_ms=0")
	cmd.Stderr = os.Stderr
	return cmd
}

// Run runs a role to its end and returns what it wrote to standard output.
func Run(t testing.TB, role string, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	cmd := Command(ctx, role, args...)
	var said bytes.Buffer
	cmd.Stderr = &said
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("child %s %q: %v: %s%s", role, args, err, out, said.Bytes())
	}
	return string(out)
}

// Script has a child process carry out system calls on one file, and returns one
// line for each step: its result, or the name of its errno. The steps are
//
//	open rd|rdwr|direct      pread OFF LEN           pwrite OFF LEN BYTE
//	fsync                    fallocate MODE OFF LEN  ftruncate LEN
//	fstat                    discard OFF LEN         zeroout OFF LEN
//	fchmod MODE              mmap                    close
//
// pread answers with the runs of equal bytes that it saw, like "4096*x07". discard
// and zeroout are ioctls of block devices.
func Script(t testing.TB, path string, steps ...string) []string {
	t.Helper()
	out := Run(t, "script", append([]string{path}, steps...)...)
	return strings.Split(strings.TrimSuffix(out, "\n"), "\n")
}

// Parallel has a child process make n direct reads (kind "r") or writes (kind "w") of
// one block each at the same time, at different places of one file or block device.
func Parallel(t testing.TB, path, kind string, n int) {
	t.Helper()
	Run(t, "parallel", path, kind, strconv.Itoa(n))
}

// RequireKernel skips the test, saying why, on a machine that cannot run it.
func RequireKernel(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root, to mount")
	}
	for _, path := range []string{"/dev/fuse", "/dev/loop-control"} {
		var st unix.Stat_t
		if err := unix.Stat(path, &st); err != nil {
			t.Skipf("needs %s: %v", path, err)
		}
	}
}
