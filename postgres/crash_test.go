package postgres

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/bough-db/bough/blockdev"
	"github.com/bough-db/bough/cow"
)

// A daemon that is killed takes its servers with it, at once. This test is its
// own daemon, started as a second process.
func TestServerDiesWithDaemon(t *testing.T) {
	const role = "BOUGH_TEST_DAEMON"
	a, err := lookupAccount("")
	if err != nil {
		t.Skip(err)
	}
	if os.Getenv(role) != "" {
		cmd := exec.Command("/bin/sh", "-c", "exec sleep 1000")
		cmd.SysProcAttr = &unix.SysProcAttr{Credential: a.credential(), Setpgid: true}
		cmd.Dir = "/"
		if err := newSpawner().start(cmd); err != nil {
			t.Fatal(err)
		}
		fmt.Println("pid", cmd.Process.Pid)
		select {}
	}
	daemon := exec.Command(os.Args[0], "-test.run=^TestServerDiesWithDaemon$")
	daemon.Env = append(os.Environ(), role+"=1")
	out, err := daemon.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := daemon.Start(); err != nil {
		t.Fatal(err)
	}
	var pid int
	if _, err := fmt.Fscanf(out, "pid %d", &pid); err != nil {
		t.Fatal(err)
	}
	server, err := identify(pid)
	if err != nil {
		t.Fatal(err)
	}
	fd, err := server.open()
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	daemon.Process.Kill()
	daemon.Wait()
	if !waitPidfd(fd, 10*time.Second) {
		t.Error("the server outlives the daemon")
		server.kill()
	}
}

// What survives a daemon all the same, the next one ends, and nothing else.
func TestCleanupStale(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.project("demo")
	if _, err := b.CreateBranch(b.ctx, "demo", "dev", CreateBranchOptions{}); err != nil {
		t.Fatal(err)
	}
	main, dev := b.start("demo", "main"), b.start("demo", "dev")
	recorded, unrecorded := b.server(main), b.server(dev)
	// Nothing in the record of this one can be trusted.
	bystander := exec.Command("/bin/sleep", "1000")
	if err := bystander.Start(); err != nil {
		t.Fatal(err)
	}
	other, err := identify(bystander.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	other.Start++
	if err := b.layout.writeRecord(dev.ID, record{Process: other}); err != nil {
		t.Fatal(err)
	}

	next, err := New(b.ctx, b.options)
	if err != nil {
		t.Fatal(err)
	}
	defer next.Close(b.ctx)
	if err := next.CleanupStale(b.ctx); err != nil {
		t.Fatal(err)
	}
	<-recorded.exited
	<-unrecorded.exited
	for _, at := range []Endpoint{main, dev} {
		left, err := filepath.Glob(at.Socket + "/.s.PGSQL.*")
		if err != nil || len(left) > 0 {
			t.Errorf("sockets are left: %v %v", left, err)
		}
	}
	if bystander.ProcessState != nil || bystander.Process.Signal(unix.Signal(0)) != nil {
		t.Error("a process that is not ours was killed")
	}
	bystander.Process.Kill()
	bystander.Wait()
	if got := b.value(b.client("demo", b.start("demo", "main")), "SELECT 1::text"); got != "1" {
		t.Error(got)
	}
}

// A server that does not stop is stopped, with all its children.
func TestStopOfHungServer(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.project("demo")
	b.options.StopTimeout = 50 * time.Millisecond
	at := b.start("demo", "main")
	b.run(b.client("demo", at), "CREATE TABLE t AS SELECT 42 AS n")
	if err := unix.Kill(at.Pid, unix.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	b.server(at).grace = 50 * time.Millisecond
	b.stop("demo", "main")
	if left := workingIn(b.layout.pgdata(at.ID)); len(left) > 0 {
		t.Errorf("processes are left: %v", left)
	}
	if got := b.value(b.client("demo", b.start("demo", "main")), "SELECT n::text FROM t"); got != "42" {
		t.Errorf("n = %s, want 42", got)
	}
}

// Somebody else may take the port between its choice and its use.
func TestPortTaken(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.project("demo")
	var taken net.Listener
	tries := 0
	b.freePort = func(host string) (int, error) {
		if tries++; tries > 2 {
			return freePort(host)
		}
		if taken == nil {
			l, err := net.Listen("tcp4", net.JoinHostPort(host, "0"))
			if err != nil {
				return 0, err
			}
			t.Cleanup(func() { l.Close() })
			taken = l
		}
		return taken.Addr().(*net.TCPAddr).Port, nil
	}
	b.value(b.client("demo", b.start("demo", "main")), "SELECT 'ok'")
	if tries != 3 {
		t.Errorf("ports tried = %d, want 3", tries)
	}
}

// A template whose build was cut short does not count, and does not stand in
// the way of the next one; many who want one get the same.
func TestTemplateOnce(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	cut := errors.New("power cut")
	b.store.fail("UpdateProject", cut)
	if _, err := b.EnsureTemplate(b.ctx, 0); !errors.Is(err, cut) {
		t.Fatalf("template = %v, want %v", err, cut)
	}
	b.store.fail("UpdateProject", nil)

	var wg sync.WaitGroup
	found := make([]cow.BranchID, 4)
	for i := range found {
		wg.Go(func() {
			info, err := b.EnsureTemplate(b.ctx, b.installations[0].Major)
			if err != nil {
				t.Error(err)
			}
			found[i] = info.ID
		})
	}
	wg.Wait()
	for _, id := range found {
		if id == "" || id != found[0] {
			t.Errorf("templates = %v, want one", found)
			break
		}
	}
	all, err := b.store.Branches(b.ctx, TemplateName(b.installations[0].Major))
	if err != nil || len(all) != 2 {
		t.Errorf("branches = %v, %v, want main of the first build and the second build", all, err)
	}
	b.project("demo")
	b.value(b.client("demo", b.start("demo", "main")), "SELECT 'ok'")
}

// What goes wrong is said, leaves nothing behind, and can be tried again.
func TestStartFails(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	held := 0
	b.options.Hold = func(context.Context, cow.BranchID) (func(context.Context) error, error) {
		held++
		return func(context.Context) error { held--; return nil }, nil
	}
	b.project("demo")
	if _, err := b.Start(b.ctx, "demo", "nope"); !errors.Is(err, cow.ErrNotFound) {
		t.Errorf("start of no branch = %v, want ErrNotFound", err)
	}
	broken := errors.New("no loop device")
	b.store.fail("Attach", broken)
	if _, err := b.Start(b.ctx, "demo", "main"); !errors.Is(err, broken) {
		t.Errorf("start = %v, want %v", err, broken)
	}
	if held != 0 {
		t.Errorf("branch is held %d times after a failed attach", held)
	}
	st, err := b.Status(b.ctx, "demo", "main")
	if err != nil || st.State != Failed || !strings.Contains(st.Error, broken.Error()) {
		t.Errorf("status = %+v, %v", st, err)
	}
	b.store.fail("Attach", nil)
	at := b.start("demo", "main")
	// Files of another host's Postgres user are taken over.
	b.stop("demo", "main")
	if b.account.other {
		if out, err := exec.Command("chown", "-R", "12345:12345", filepath.Join(b.store.device(at.ID), "pgdata")).CombinedOutput(); err != nil {
			t.Fatalf("chown: %v: %s", err, out)
		}
	}
	b.value(b.client("demo", b.start("demo", "main")), "SELECT 'ok'")
	b.stop("demo", "main")
	// A device that somebody made larger is filled at the next start.
	if err := b.store.UpdateBranch(b.ctx, at.ID, func(info *cow.BranchInfo) error { info.Size *= 2; return nil }); err != nil {
		t.Fatal(err)
	}
	b.start("demo", "main")
	b.stop("demo", "main")
	b.start("demo", "main")
	if len(b.store.grown) != 1 {
		t.Errorf("file system grown %d times, want once", len(b.store.grown))
	}
	if err := b.Forget(b.ctx, "demo", "main"); err != nil {
		t.Error(err)
	}
	for _, path := range []string{b.layout.run(at.ID), b.layout.mount(at.ID)} {
		if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s is left", path)
		}
	}
	if held != 0 {
		t.Errorf("branch is held %d times after Forget", held)
	}
	if err := b.Close(b.ctx); err != nil {
		t.Error(err)
	}
	if _, err := b.Start(b.ctx, "demo", "main"); !errors.Is(err, ErrClosed) {
		t.Errorf("start after close = %v, want ErrClosed", err)
	}
}

// The path of a unix socket is short, that of a state directory may be long.
func TestLongStateDir(t *testing.T) {
	t.Parallel()
	b := newBench(t, func(o *Options) {
		o.StateDir = filepath.Join(o.StateDir, strings.Repeat("d", 60), strings.Repeat("e", 60))
	})
	t.Cleanup(func() { os.RemoveAll(shortRoot(b.layout.state)) })
	b.project("demo")
	at := b.start("demo", "main")
	if dir, err := b.AdminSocket(at.ID); err != nil || dir != at.Socket || len(dir) > 80 {
		t.Errorf("socket directory = %s, %v, want the short %s", dir, err, at.Socket)
	}
	b.value(b.admin(at, "app"), "SELECT 'ok'")
	b.stop("demo", "main")
	if err := b.Forget(b.ctx, "demo", "main"); err != nil {
		t.Error(err)
	}
	if _, err := b.AdminSocket(cow.BranchID("br-" + strings.Repeat("x", 100))); err == nil || !strings.Contains(err.Error(), "shorter") {
		t.Errorf("socket directory of a very long name = %v, want advice", err)
	}
}

func TestReach(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	dir := t.TempDir()
	store := newFakeStore(dir, dir)
	_, err := New(t.Context(), Options{StateDir: filepath.Join(dir, "state"), Store: store, Volumes: store})
	if err == nil || !strings.Contains(err.Error(), "chmod o+x") {
		t.Errorf("state directory below one with mode 0700: %v, want advice", err)
	}
}

func TestLogIsBounded(t *testing.T) {
	path := filepath.Join(t.TempDir(), "postgres.log")
	l, err := openLog(path, testLogger(t))
	if err != nil {
		t.Fatal(err)
	}
	var lines int
	long := strings.Repeat("x", 10_000)
	var in bytes.Buffer
	for i := range 4000 {
		fmt.Fprintf(&in, "%d %s\n", i, long)
	}
	in.WriteString("last, without a newline")
	l.copyFrom(&in, func(line []byte) {
		lines++
		if len(line) > logLineMax {
			t.Fatalf("line of %d bytes", len(line))
		}
	})
	l.close()
	if lines != 4001 {
		t.Errorf("lines = %d, want 4001", lines)
	}
	if tail := l.tail(); len(tail) != logLinesKept || tail[logLinesKept-1] != "last, without a newline" || !strings.HasPrefix(tail[0], "3981 x") {
		t.Errorf("tail = %.20q", tail)
	}
	for _, name := range []string{path, path + ".1"} {
		if info, err := os.Stat(name); err != nil || info.Size() > logBytesMax {
			t.Errorf("%s: %v, %v", name, info, err)
		}
	}
}

var _ Volumes = (*blockdev.Volumes)(nil)
var _ Store = (*cow.Store)(nil)
