package e2e

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"golang.org/x/sys/unix"

	"github.com/bough-db/bough/api"
)

// wantState checks what a branch's Postgres is doing.
func (h *host) wantState(ref string, want api.EndpointState) {
	h.t.Helper()
	if got := h.branchNamed(ref).Endpoint; got != want {
		h.t.Errorf("%s is %s, want %s", ref, got, want)
	}
}

// TestLifeCycle takes branches from birth to death.
func TestLifeCycle(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	began := time.Now()
	h.start("--create", "demo")
	run.figures.add("first start, template made", time.Since(began))
	h.wantState("demo", api.EndpointSuspended)

	// A connection wakes it.
	h.exec("demo", "create table t (i int)", "insert into t values (1)")
	h.wantState("demo", api.EndpointRunning)
	for range 3 {
		h.bough("suspend", "demo")
		h.wantState("demo", api.EndpointSuspended)
		h.bough("suspend", "demo") // again is no error
		began := time.Now()
		if n := h.count("demo", "select count(*) from t"); n != 1 {
			t.Errorf("%d rows after a wake, want 1", n)
		}
		run.figures.add("wake: suspended to first answer", time.Since(began))
	}
	h.bough("start", "demo") // neither is this

	// A quiet parent.
	for i := range 5 {
		ref := fmt.Sprintf("demo/q%d", i)
		began := time.Now()
		h.bough("branch", "create", ref)
		if n := h.count(ref, "select count(*) from t"); n != 1 {
			t.Errorf("%d rows on %s, want 1", n, ref)
		}
		run.figures.add("branch to first query, quiet", time.Since(began))
		h.bough("branch", "delete", ref)
	}
	began = time.Now()
	h.bough("project", "create", "second")
	h.exec("second", "select 1")
	run.figures.add("project to first query", time.Since(began))
	h.bough("project", "delete", "second", "--yes")
	h.refused(1, []string{"no project second"}, "start", "second")

	// A family: names in tree and list, and what a rename and a deletion do to it.
	h.bough("branch", "create", "demo/dev")
	h.exec("demo/dev", "insert into t values (2)")
	h.bough("branch", "create", "demo/dev2", "--from", "demo/dev")
	var list api.BranchList
	h.json(&list, "branch", "list", "demo")
	parents := map[string]string{}
	for _, b := range list.Branches {
		parents[b.Name] = b.Parent
	}
	if len(parents) != 3 || parents["main"] != "" || parents["dev"] != "main" || parents["dev2"] != "dev" {
		t.Errorf("parents: %v", parents)
	}
	tree := h.bough("branch", "tree", "demo")
	if !strings.Contains(tree, "main") || strings.Index(tree, "dev") > strings.Index(tree, "dev2") {
		t.Errorf("tree:\n%s", tree)
	}
	id := h.branchNamed("demo/dev").ID
	h.bough("branch", "rename", "demo/dev", "test")
	h.refused(1, []string{"no branch demo/dev"}, "url", "demo/dev")
	if got := h.branchNamed("demo/test").ID; got != id {
		t.Errorf("the renamed branch has id %s, had %s", got, id)
	}
	if n := h.count("demo/test", "select count(*) from t"); n != 2 {
		t.Errorf("%d rows on the renamed branch, want 2", n)
	}
	h.bough("branch", "delete", "demo/test")
	if out := h.bough("branch", "tree", "demo"); !strings.Contains(out, "dev2") || strings.Contains(out, "test") {
		t.Errorf("tree after a deletion:\n%s", out)
	}
	if n := h.count("demo/dev2", "select count(*) from t"); n != 2 {
		t.Errorf("%d rows on the child of a deleted branch, want 2", n)
	}
	h.bough("branch", "create", "demo/test") // the name is free
	if n := h.count("demo/test", "select count(*) from t"); n != 1 {
		t.Errorf("%d rows on the new branch of an old name, want 1", n)
	}
	h.checkNothing()
}

// TestAttach mounts branches by hand.
func TestAttach(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	h.start("--create", "demo")
	h.exec("demo", "create table t (i int)")
	h.refused(1, []string{"demo/main", "bough suspend demo/main"}, "attach", "demo")
	h.bough("suspend", "demo")
	at := h.attach("demo")
	h.refused(1, []string{at, "bough detach demo/main"}, "attach", "demo")
	h.refused(1, []string{at, "bough detach demo/main"}, "start", "demo")
	h.refused(1, []string{"demo/main", "bough detach demo/main"}, "branch", "delete", "demo/main")
	_, err := h.tryConnect(t.Context(), "demo")
	if pgErr := new(pgconn.PgError); !errors.As(err, &pgErr) || !strings.Contains(pgErr.Hint, "bough detach") {
		t.Errorf("connect to an attached branch: %v", err)
	}
	if _, err := os.Stat(filepath.Join(at, "pgdata", "PG_VERSION")); err != nil {
		t.Error(err)
	}

	// A program that sits in the mount keeps it, and is named.
	cmd := exec.Command("sleep", "1000")
	cmd.Dir = at
	if err := run.spawner.start(cmd); err != nil {
		t.Fatal(err)
	}
	h.refused(1, []string{"in use", "sleep"}, "detach", "demo")
	_ = cmd.Process.Kill()
	_ = cmd.Wait() // it was killed
	h.bough("detach", "demo")
	h.refused(1, []string{"not attached"}, "detach", "demo")

	// A branch of an attached one has what was synced there.
	dir := filepath.Join(h.dir, "my mount")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	h.bough("attach", "demo", dir)
	f, err := os.Create(filepath.Join(dir, "note"))
	if err != nil {
		t.Fatal(err)
	}
	_, err = f.WriteString("hello")
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		t.Fatal(err)
	}
	h.bough("branch", "create", "demo/dev")
	h.bough("detach", "demo")
	text, err := os.ReadFile(filepath.Join(h.attach("demo/dev"), "note"))
	if err != nil || string(text) != "hello" {
		t.Errorf("the branch of an attached one has %q, %v", text, err)
	}

	// status.json says what the branch is, and no secret.
	text, err = os.ReadFile(filepath.Join(filepath.Dir(h.disk("demo/dev")), "status.json"))
	if err != nil || !strings.Contains(string(text), h.branchNamed("demo/dev").ID) {
		t.Errorf("status.json: %v: %s", err, text)
	}
	var conn api.Connection
	h.json(&conn, "url", "demo/dev")
	if strings.Contains(string(text), conn.Password) {
		t.Errorf("status.json has the password: %s", text)
	}
	h.start2(func() {}) // an attached branch does not keep a daemon from stopping
	h.exec("demo/dev", "insert into t values (1)")
}

// start2 stops the daemon in order and starts another one.
func (h *host) start2(between func(), args ...string) {
	h.t.Helper()
	h.stop()
	between()
	h.start(args...)
}

// TestRestart stops daemons in order while clients work, and starts others on the
// same directory, as `make run` does.
func TestRestart(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	h.start("--create", "demo")
	url := h.bough("url", "demo")
	l := &ledger{}
	l.create(h, "demo")
	h.bough("branch", "create", "demo/dev")
	before := h.bough("branch", "list")
	for i := range 3 {
		ctx, cancel := context.WithCancel(t.Context())
		clients := l.run(ctx, h, "demo")
		eventually(t, connectLimit, "clients commit", l.moved(20))
		began := time.Now()
		h.stop() // clients or not
		run.figures.add("stop under load", time.Since(began))
		cancel()
		for range clients {
		}
		h.start("--create", "demo") // which is there already
		l.check(h, "demo")
		if n := h.count("demo/dev", "select count(*) from ledger"); n != 0 {
			t.Errorf("%d rows on the branch, want none", n)
		}
		if i == 0 {
			continue
		}
		h.bough("suspend", "demo") // one stops with endpoints that sleep
	}
	// The port is another one, all else stays.
	cut := func(url string) string { return url[:strings.LastIndex(url, ":")] }
	if now := h.bough("url", "demo"); cut(now) != cut(url) {
		t.Errorf("the URL was %s, and is %s", url, now)
	}
	if now := h.bough("branch", "list"); strings.Count(now, "\n") != strings.Count(before, "\n") {
		t.Errorf("the branches were\n%s and are\n%s", before, now)
	}
	h.checkWhole("demo")
}

// TestHurry stops a daemon that cannot stop, because somebody sits in a mount, with
// a second signal. The next one cleans up.
func TestHurry(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	h.start("--create", "demo")
	h.exec("demo", "create table t (i int)", "insert into t values (1)")
	h.bough("branch", "create", "demo/dev")
	cmd := exec.Command("sleep", "1000")
	cmd.Dir = h.attach("demo/dev")
	if err := run.spawner.start(cmd); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait() // it was killed
	}()
	d := h.daemon()
	h.setDaemon(nil)
	signal := func() {
		if err := d.cmd.Process.Signal(syscall.SIGINT); err != nil {
			t.Fatal(err)
		}
	}
	signal()
	eventually(t, stopLimit, "the daemon says what it waits for", func() error {
		text, err := os.ReadFile(h.log)
		if err == nil && !strings.Contains(string(text), "waiting for a branch that is in use") {
			err = errors.New("not in the log")
		}
		return err
	})
	began := time.Now()
	signal()
	select {
	case <-d.exited:
		run.figures.add("stop in a hurry", time.Since(began))
	case <-time.After(stopLimit):
		t.Fatal("the second signal does not end the daemon")
	}
	if code := d.cmd.ProcessState.ExitCode(); code != 1 {
		t.Errorf("exit code %d, want 1", code)
	}
	if text, err := os.ReadFile(h.log); err != nil || !strings.Contains(string(text), "the next start cleans up") {
		t.Errorf("the log does not say what the next start does: %v", err)
	}
	h.start() // although the sleeper still sits there
	if n := h.count("demo", "select count(*) from t"); n != 1 {
		t.Errorf("%d rows, want 1", n)
	}
	_ = cmd.Process.Kill()
	h.exec("demo/dev", "insert into t values (2)")
	h.checkWhole("demo/dev")
}

// TestPostgresKilled kills servers under the daemon. The next connection starts them
// again, and nothing that was committed is missing.
func TestPostgresKilled(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	h.start("--create", "demo")
	l := &ledger{}
	l.create(h, "demo")
	for range 3 {
		ctx, cancel := context.WithCancel(t.Context())
		clients := l.run(ctx, h, "demo")
		eventually(t, connectLimit, "clients commit", l.moved(20))
		if err := syscall.Kill(h.postmaster("demo"), syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		for range clients { // each of them fails
		}
		cancel()
		l.check(h, "demo")
		run.figures.add("postmaster killed to answer", time.Since(began))
	}
	// A backend that dies takes the others with it, and Postgres begins anew.
	var backend, checkpointer, now int
	const query = "select pg_backend_pid(), (select pid from pg_stat_activity where backend_type = 'checkpointer')"
	if err := h.connect("demo").QueryRow(t.Context(), query).Scan(&backend, &checkpointer); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(backend, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	eventually(t, connectLimit, "Postgres begins anew", func() error {
		conn, err := h.tryConnect(t.Context(), "demo")
		if err != nil {
			return err
		}
		defer conn.Close(context.Background())
		err = conn.QueryRow(t.Context(), query).Scan(&backend, &now)
		if err == nil && now == checkpointer {
			err = errors.New("not yet")
		}
		return err
	})
	l.check(h, "demo")
	h.checkWhole("demo")
}

// postmaster returns the process of a branch's server.
func (h *host) postmaster(ref string) int {
	h.t.Helper()
	pid := filepath.Join(h.state, "data", h.branchNamed(ref).ID, "pgdata", "postmaster.pid")
	text, err := os.ReadFile(pid)
	if err != nil {
		h.t.Fatal(err)
	}
	var n int
	if _, err := fmt.Sscan(string(text), &n); err != nil || n < 2 {
		h.t.Fatalf("%s has %q", pid, text)
	}
	return n
}

// TestInterrupt interrupts clients: a query through the front door, and a command.
func TestInterrupt(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	h.start("--create", "demo")
	conn := h.connect("demo")

	// psql sends a CancelRequest at Ctrl-C, and so does this.
	done := make(chan error, 1)
	go func() {
		_, err := conn.Exec(context.Background(), "select pg_sleep(600)")
		done <- err
	}()
	watch := h.connect("demo")
	eventually(t, connectLimit, "the query runs", func() error {
		var n int
		err := watch.QueryRow(t.Context(), "select count(*) from pg_stat_activity where query = 'select pg_sleep(600)' and state = 'active'").Scan(&n)
		if err == nil && n != 1 {
			err = errors.New("not yet")
		}
		return err
	})
	if err := conn.PgConn().CancelRequest(t.Context()); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-done:
		if pgErr := new(pgconn.PgError); !errors.As(err, &pgErr) || pgErr.Code != "57014" {
			t.Errorf("the cancelled query: %v", err)
		}
	case <-time.After(connectLimit):
		t.Fatal("the query was not cancelled")
	}
	if _, err := conn.Exec(t.Context(), "select 1"); err != nil {
		t.Errorf("after the cancel: %v", err)
	}

	// A command says what becomes of what it began, which the daemon finishes.
	h.bough("branch", "create", "demo/dev")
	cmd := exec.Command(h.bin, "start", "demo/dev")
	cmd.Env = append(environ(), "BOUGH_SOCKET="+h.socket)
	timer := time.AfterFunc(20*time.Millisecond, func() { _ = cmd.Process.Signal(os.Interrupt) })
	defer timer.Stop()
	if r := execute(cmd); r.code == 0 {
		t.Logf("the start was quicker than the signal: %v", r)
	} else if !strings.Contains(r.err, "signal: interrupt") && r.code != -1 {
		checkRefused(t, r, 1, []string{"interrupted"})
	}
	h.exec("demo/dev", "select 1")
}

// TestStopAtOnce stops daemons while they start and right after. They end in order,
// whatever they were doing, and leave nothing.
func TestStopAtOnce(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	h.start("--create", "demo")
	h.exec("demo", "create table t (i int)", "insert into t values (1)")
	h.stop()
	random := run.random(t)
	for i := range 12 {
		d, err := h.launch(h.serve())
		if err != nil {
			t.Fatal(err)
		}
		if i%2 == 0 {
			<-d.first // the moment that it is ready
		} else {
			<-time.After(time.Duration(random.Int64N(int64(100 * time.Millisecond))))
		}
		if err := d.cmd.Process.Signal(syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
		select {
		case <-d.exited:
		case <-time.After(stopLimit):
			_ = d.cmd.Process.Signal(syscall.SIGQUIT) // says in the log what it does
			<-d.exited
			t.Fatalf("round %d: it does not end: %s", i, h.logTail())
		}
		// Before it takes signals at all, one ends it like any program.
		status, _ := d.cmd.ProcessState.Sys().(syscall.WaitStatus)
		early := status.Signaled() && status.Signal() == syscall.SIGTERM || status.ExitStatus() == 1 && strings.Contains(h.logTail(), "before it was ready")
		if d.err != nil && (i%2 == 0 || !early) {
			t.Errorf("round %d: %v: %s", i, d.err, h.logTail())
		}
		if left := leftovers(h.dir, h.state); len(left) > 0 {
			t.Errorf("round %d left:\n  %s", i, strings.Join(left, "\n  "))
		}
	}
	h.start()
	if n := h.count("demo", "select count(*) from t"); n != 1 {
		t.Errorf("%d rows, want 1", n)
	}
}

// TestFlusher checks that no thread of the daemon can be made to wait for pages that
// only the daemon can write, and that its Postgres servers can.
func TestFlusher(t *testing.T) {
	t.Parallel()
	if _, err := unix.PrctlRetInt(unix.PR_GET_IO_FLUSHER, 0, 0, 0, 0); err != nil {
		t.Skip("needs a kernel that knows I/O flushers, and CAP_SYS_RESOURCE: ", err)
	}
	h := newHost(t)
	h.start("--create", "demo")
	h.exec("demo", "select 1")
	const memallocNoIO, localThrottle = 0x00080000, 0x00100000 // in include/linux/sched.h
	flags := func(stat string) (n uint64) {
		text, err := os.ReadFile(stat)
		if err != nil {
			t.Fatal(err)
		}
		// The name in parentheses may hold anything; flags is the seventh field after it.
		fields := strings.Fields(string(text[strings.LastIndexByte(string(text), ')')+1:]))
		if _, err := fmt.Sscan(fields[6], &n); err != nil {
			t.Fatal(err)
		}
		return n & (memallocNoIO | localThrottle)
	}
	tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", h.daemon().ready.PID))
	if err != nil || len(tasks) < 3 {
		t.Fatalf("tasks of the daemon: %v, %v", tasks, err)
	}
	flushers := 0
	for _, task := range tasks {
		if flags(task) == memallocNoIO|localThrottle {
			flushers++
		}
	}
	// One thread does nothing but start servers.
	if flushers < len(tasks)-1 {
		t.Errorf("%d of %d threads of the daemon are I/O flushers", flushers, len(tasks))
	}
	if f := flags(fmt.Sprintf("/proc/%d/stat", h.postmaster("demo"))); f != 0 {
		t.Errorf("the server has the flags %#x of an I/O flusher", f)
	}
}
