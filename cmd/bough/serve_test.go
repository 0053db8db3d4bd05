package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"golang.org/x/sys/unix"

	"github.com/bough-db/bough/api"
	"github.com/bough-db/bough/blockdev"
	"github.com/bough-db/bough/cow"
	"github.com/bough-db/bough/postgres"
	"github.com/bough-db/bough/wal"
)

// TestServe runs testdata/serve/*.txtar: real daemons with real disks, file
// systems and servers.
func TestServe(t *testing.T) {
	if testing.Short() {
		t.Skip("runs Postgres")
	}
	if err := checkHost(t.Context(), slog.New(slog.DiscardHandler), ""); err != nil {
		t.Skipf("this host cannot serve: %v", err)
	}
	s3 := s3ForScripts(t)
	testscript.Run(t, testscript.Params{
		Dir: "testdata/serve",
		Condition: func(cond string) (bool, error) {
			if cond != "s3" {
				return false, fmt.Errorf("unknown condition %q", cond)
			}
			return s3 != nil, nil
		},
		Setup: func(env *testscript.Env) error {
			if s3 != nil {
				s3.setup(env)
			}
			// Postgres runs as another user, who must be able to enter.
			dir, err := os.MkdirTemp("/var/tmp", "bough")
			if err != nil {
				return err
			}
			env.Defer(func() { endDaemon(t, filepath.Join(dir, "s")); os.RemoveAll(dir) })
			if err := os.Chmod(dir, 0o755); err != nil {
				return err
			}
			env.Setenv("STATE", filepath.Join(dir, "s"))
			env.Setenv("BOUGH_STATE", filepath.Join(dir, "s"))
			env.Setenv("OTHER", filepath.Join(dir, "o"))
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"exits":  scriptExits,
			"await":  scriptAwait,
			"sendto": scriptSend,
			"quiet":  s3.quiet,
		},
	})
}

// endDaemon stops the daemon that a script which failed has left, before its
// files are removed under it.
func endDaemon(t *testing.T, state string) {
	p, err := os.ReadFile(filepath.Join(state, "lock"))
	if err != nil {
		return
	}
	f, err := os.Open(filepath.Join(state, "lock"))
	if err != nil {
		return
	}
	defer f.Close()
	if syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB) == nil {
		return
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(p)))
	if err != nil {
		t.Errorf("state directory %s is locked by %q", state, p)
		return
	}
	if err := syscall.Kill(pid, syscall.SIGTERM); err != nil {
		t.Errorf("stop daemon %d: %v", pid, err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX); err != nil { // until it has let go
		t.Errorf("wait for daemon %d: %v", pid, err)
	}
}

// scriptAwait: await FILE waits until a file has a line.
func scriptAwait(ts *testscript.TestScript, _ bool, args []string) {
	deadline := time.Now().Add(time.Minute)
	for tick := time.NewTicker(10 * time.Millisecond); ; <-tick.C {
		if p, err := os.ReadFile(ts.MkAbs(args[0])); err == nil && bytes.Contains(p, []byte("\n")) {
			return
		}
		if time.Now().After(deadline) {
			ts.Fatalf("%s has no line after a minute", args[0])
		}
	}
}

// scriptSend: sendto SIGNAL signals the process that holds the lock of $STATE,
// and waits until it is gone.
func scriptSend(ts *testscript.TestScript, _ bool, args []string) {
	lock := filepath.Join(ts.Getenv("STATE"), "lock")
	pid, err := strconv.Atoi(strings.TrimSpace(ts.ReadFile(lock)))
	ts.Check(err)
	sig := map[string]syscall.Signal{"TERM": syscall.SIGTERM, "KILL": syscall.SIGKILL}[args[0]]
	ts.Check(syscall.Kill(pid, sig))
	f, err := os.Open(lock)
	ts.Check(err)
	defer f.Close()
	ts.Check(syscall.Flock(int(f.Fd()), syscall.LOCK_EX)) // until the daemon has let go
}

func TestCheckHostParts(t *testing.T) {
	dir := t.TempDir()
	misc := filepath.Join(dir, "misc")
	if err := os.WriteFile(misc, []byte("237 loop-control\n229 fuse\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	none := filepath.Join(dir, "none")
	tests := []struct {
		name string
		err  error
		want string // "" = no error
	}{
		{"root", checkRoot(0), ""},
		{"not root", checkRoot(1000), "sudo bough serve"},
		{"no fuse", checkFUSE(none), "modprobe fuse"},
		{"no loop", checkLoop(none, none), "modprobe loop"},
		{"loop without its node", checkLoop(none, misc), ""},
		{"program", checkPrograms("sh"), ""},
		{"no program", checkPrograms("mkfs.none"), "install e2fsprogs"},
	}
	for _, tt := range tests {
		if tt.want == "" && tt.err != nil || tt.want != "" && (tt.err == nil || !strings.Contains(tt.err.Error(), tt.want)) {
			t.Errorf("%s: %v, want %q", tt.name, tt.err, tt.want)
		}
	}
}

func TestProblemsPrintOneLineEach(t *testing.T) {
	var out bytes.Buffer
	a := &app{err: &out}
	a.report(problems(errors.New("one"), nil, errors.New("two\nlines")))
	if want := "bough: one\nbough: two; lines\n"; out.String() != want {
		t.Errorf("report = %q, want %q", out.String(), want)
	}
	if problems(nil, nil) != nil {
		t.Error("problems of nothing is an error")
	}
}

func TestLockState(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a/b")
	l, err := lockState(dir)
	if err != nil {
		t.Fatal(err)
	}
	_, err = lockState(dir)
	if want := "another daemon, process " + strconv.Itoa(os.Getpid()); err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("second lock = %v, want %q", err, want)
	}
	if err := l.release(); err != nil {
		t.Fatal(err)
	}
	l, err = lockState(dir)
	if err != nil {
		t.Fatalf("lock after release: %v", err)
	}
	l.release()
	if _, err := lockState("/proc/none"); err == nil || !strings.Contains(err.Error(), "--state") {
		t.Errorf("lock where no directory can be = %v, want advice", err)
	}
}

func TestNotify(t *testing.T) {
	path := filepath.Join(t.TempDir(), "n")
	l, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	notify(path, "READY=1")
	notify("", "READY=1")       // no service manager
	notify(path+"x", "READY=1") // one that is gone
	l.SetReadDeadline(time.Now().Add(10 * time.Second))
	p := make([]byte, 64)
	n, err := l.Read(p)
	if err != nil || string(p[:n]) != "READY=1" {
		t.Errorf("received %q, %v", p[:n], err)
	}
}

func TestLoggers(t *testing.T) {
	for _, tt := range []struct {
		terminal, json, plain bool
		want                  string
	}{
		{false, false, false, "level=INFO msg=hello"},
		{false, true, false, `"msg":"hello"`},
		{true, false, false, "\x1b["},
		{true, false, true, "INF hello"},
	} {
		var out bytes.Buffer
		newLogger(&out, tt.terminal, tt.json, tt.plain, slog.LevelInfo).Info("hello")
		if !strings.Contains(out.String(), tt.want) {
			t.Errorf("terminal %v json %v plain %v: %q, want %q in it", tt.terminal, tt.json, tt.plain, out.String(), tt.want)
		}
	}
}

func TestTranslate(t *testing.T) {
	tests := []struct {
		err  error
		code api.Code
	}{
		{cow.ErrNotFound, api.CodeNotFound},
		{cow.ErrExists, api.CodeAlreadyExists},
		{cow.ErrInvalidName, api.CodeInvalidName},
		{cow.ErrInvalidSize, api.CodeInvalidRequest},
		{cow.ErrTooDeep, api.CodeInvalidRequest},
		{cow.ErrInUse, api.CodeInUse},
		{errStoreSilent, api.CodeUnavailable},
		{cow.ErrFenced, api.CodeFenced},
		{cow.ErrCorrupt, api.CodeCorrupt},
		{cow.ErrNewerFormat, api.CodeNewerFormat},
		{cow.ErrClosed, api.CodeUnavailable},
		{wal.ErrFull, api.CodeNoSpace},
		{wal.ErrBudget, api.CodeNoSpace},
		{wal.ErrCorrupt, api.CodeCorrupt},
		{wal.ErrVersion, api.CodeNewerFormat},
		{syscall.ENOSPC, api.CodeNoSpace},
		{blockdev.ErrBusy, api.CodeInUse},
		{blockdev.ErrAttached, api.CodeInUse},
		{postgres.ErrNotInstalled, api.CodeInvalidRequest},
		{postgres.ErrTemplate, api.CodeInvalidRequest},
		{postgres.ErrBadConf, api.CodeInvalidRequest},
		{postgres.ErrClosed, api.CodeUnavailable},
		{context.Canceled, api.CodeInternal},
	}
	for _, tt := range tests {
		for name, fn := range map[string]func(error) error{
			"translate":    translate,
			"projectError": func(err error) error { return projectError(err, "demo") },
			"branchError":  func(err error) error { return branchError(err, "demo", "dev") },
		} {
			if got := api.CodeOf(fn(errors.Join(errors.New("verb object"), tt.err))); got != tt.code {
				t.Errorf("%s(%v) has code %q, want %q", name, tt.err, got, tt.code)
			}
			if err := fn(nil); err != nil {
				t.Errorf("%s(nil) = %v", name, err)
			}
		}
	}
	own := api.Errorf(api.CodeInUse, "mine")
	if got := translate(own); got != error(own) {
		t.Errorf("translate of an interface's error = %v, want it as it was", got)
	}
}

func TestClientAddress(t *testing.T) {
	for listen, want := range map[string]string{
		"127.0.0.1:6432": "127.0.0.1:6432", "[::]:6432": "127.0.0.1:6432", "0.0.0.0:1": "127.0.0.1:1", "[::1]:2": "[::1]:2",
	} {
		host, port, err := clientAddress(listen)
		if got := net.JoinHostPort(host, strconv.Itoa(port)); err != nil || got != want {
			t.Errorf("clientAddress(%s) = %s, %v; want %s", listen, got, err, want)
		}
	}
}

func TestParseSize(t *testing.T) {
	for text, want := range map[string]int64{"": 0, "0": 0, "4096": 4096, "1": 4096, "1GiB": 1 << 30, "1 MB": 1003520, "2TiB": 2 << 40} {
		if got, err := parseSize("--size", text); err != nil || got != want {
			t.Errorf("parseSize(%q) = %d, %v; want %d", text, got, err, want)
		}
	}
	for _, text := range []string{"x", "-1", "1e30", "9EiB", "1 2"} {
		if _, err := parseSize("--size", text); err == nil {
			t.Errorf("parseSize(%q) is no error", text)
		}
	}
}

func TestAutoCacheBytes(t *testing.T) {
	state, other := t.TempDir(), "/dev/shm"
	check := func(store string, want int64) {
		t.Helper()
		if got, err := autoCacheBytes(state, store); err != nil || got != want {
			t.Errorf("cache for the store %s: %d, %v; want %d", store, got, err, want)
		}
	}
	check(t.TempDir(), 0)
	var a, b unix.Stat_t
	if unix.Stat(state, &a) == nil && unix.Stat(other, &b) == nil && a.Dev != b.Dev {
		check(other, 1<<30)
	}
	if _, err := autoCacheBytes(state, state+"/none"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a store that is not there: %v", err)
	}
}

func TestFindPsql(t *testing.T) {
	if _, err := exec.LookPath("psql"); err != nil {
		t.Skip("no psql")
	}
	t.Setenv("PATH", t.TempDir())
	// Debian's wrapper is gone; what it would have called is found.
	if bin, err := findPsql(); err == nil && !strings.HasPrefix(bin, "/usr/lib/postgresql/") {
		t.Errorf("findPsql without PATH = %s", bin)
	}
}
