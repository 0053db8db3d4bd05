package postgres

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sys/unix"

	"github.com/bough-db/bough/cow"
)

// project creates a project.
func (b *bench) project(name string) {
	b.t.Helper()
	if _, _, err := b.CreateProject(b.ctx, name, CreateProjectOptions{}); err != nil {
		b.t.Fatal(err)
	}
}

// start starts an endpoint.
func (b *bench) start(project, branch string) Endpoint {
	b.t.Helper()
	at, err := b.Start(b.ctx, project, branch)
	if err != nil {
		b.t.Fatal(err)
	}
	return at
}

// stop stops an endpoint.
func (b *bench) stop(project, branch string) {
	b.t.Helper()
	if err := b.Stop(b.ctx, project, branch); err != nil {
		b.t.Fatal(err)
	}
}

// client connects as a client does, but without the front door.
func (b *bench) client(project string, at Endpoint) *pgx.Conn {
	b.t.Helper()
	p, err := b.store.Project(b.ctx, project)
	if err != nil {
		b.t.Fatal(err)
	}
	s, err := ProjectSettingsOf(p.Settings)
	if err != nil {
		b.t.Fatal(err)
	}
	conn, err := pgx.Connect(b.ctx, "postgres://"+s.Role+":"+s.Password+"@"+at.Address+"/"+s.Database)
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() { conn.Close(context.Background()) })
	return conn
}

// admin opens a superuser's session.
func (b *bench) admin(at Endpoint, database string) *pgx.Conn {
	b.t.Helper()
	conn, err := connectAdmin(b.ctx, at.Socket, at.Port, database)
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() { conn.Close(context.Background()) })
	return conn
}

// server returns the running server.
func (b *bench) server(at Endpoint) *server {
	b.mu.Lock()
	e := b.endpoints[at.ID]
	b.mu.Unlock()
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.server
}

// run runs statements.
func (b *bench) run(conn *pgx.Conn, statements ...string) {
	b.t.Helper()
	for _, s := range statements {
		if _, err := conn.Exec(b.ctx, s); err != nil {
			b.t.Fatalf("%s: %v", s, err)
		}
	}
}

// value returns the one value of a query.
func (b *bench) value(conn *pgx.Conn, query string) string {
	b.t.Helper()
	var v string
	if err := conn.QueryRow(b.ctx, query).Scan(&v); err != nil {
		b.t.Fatalf("%s: %v", query, err)
	}
	return v
}

func TestLife(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	began := time.Now()
	if _, err := b.EnsureTemplate(b.ctx, 0); err != nil {
		t.Fatal(err)
	}
	t.Logf("template: %v", time.Since(began))

	began = time.Now()
	b.project("demo")
	created := time.Now()
	at := b.start("demo", "main")
	started := time.Now()
	conn := b.client("demo", at)
	b.run(conn, "CREATE TABLE t (n int)", "INSERT INTO t VALUES (1)")
	t.Logf("create project %v, first start %v, first query %v: %v", created.Sub(began), started.Sub(created), time.Since(started), time.Since(began))

	again := b.start("demo", "main")
	if again != at {
		t.Errorf("second start = %v, want the running %v", again, at)
	}
	began = time.Now()
	b.stop("demo", "main")
	t.Logf("stop: %v", time.Since(began))
	if st := b.StatusOf(at.ID); st.State != Stopped || st.Error != "" {
		t.Errorf("status after stop = %+v", st)
	}
	began = time.Now()
	at = b.start("demo", "main")
	t.Logf("second start: %v", time.Since(began))
	conn = b.client("demo", at)
	if got := b.value(conn, "SELECT sum(n)::text FROM t"); got != "1" {
		t.Errorf("sum = %s, want 1", got)
	}

	// A branch of the running parent is apart from it, and has what is committed.
	b.run(conn, "INSERT INTO t VALUES (2)")
	if _, err := b.CreateBranch(b.ctx, "demo", "dev", CreateBranchOptions{}); err != nil {
		t.Fatal(err)
	}
	b.run(conn, "INSERT INTO t VALUES (4)")
	began = time.Now()
	dev := b.start("demo", "dev")
	devConn := b.client("demo", dev)
	if got := b.value(devConn, "SELECT sum(n)::text FROM t"); got != "3" {
		t.Errorf("sum on the branch = %s, want 3", got)
	}
	t.Logf("branch of a running parent, start to first query: %v", time.Since(began))
	if st := b.StatusOf(dev.ID); st.State != Running || st.Address != dev.Address || st.Pid != dev.Pid {
		t.Errorf("status = %+v, want running at %+v", st, dev)
	}
	b.stop("demo", "dev")
	b.run(conn, "INSERT INTO t VALUES (8)")
	if _, err := b.CreateBranch(b.ctx, "demo", "sub", CreateBranchOptions{From: "dev"}); err != nil {
		t.Fatal(err)
	}
	began = time.Now()
	sub := b.client("demo", b.start("demo", "sub"))
	if got := b.value(sub, "SELECT sum(n)::text FROM t"); got != "3" {
		t.Errorf("sum on the branch's branch = %s, want 3", got)
	}
	t.Logf("branch of a stopped parent, start to first query: %v", time.Since(began))
	if _, err := b.Start(b.ctx, TemplateName(b.installations[0].Major), cow.MainBranch); !errors.Is(err, ErrTemplate) {
		t.Errorf("start of the template = %v, want ErrTemplate", err)
	}
}

// Many callers share one start, a stop waits for nobody, and a start that
// meets a stop waits for it: no caller is refused.
func TestConcurrentStartStop(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.project("demo")
	var wg sync.WaitGroup
	for i := range 24 {
		wg.Go(func() {
			if i%6 == 5 {
				if err := b.Stop(b.ctx, "demo", "main"); err != nil {
					t.Error(err)
				}
				return
			}
			at, err := b.Start(b.ctx, "demo", "main")
			if err != nil || at.Address == "" {
				t.Errorf("start = %+v, %v", at, err)
			}
		})
	}
	wg.Wait()
	at := b.start("demo", "main")
	if got := b.value(b.client("demo", at), "SELECT 1::text"); got != "1" {
		t.Error(got)
	}
}

// A server that dies is noticed, explained, and replaced by the next start.
func TestServerDies(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.project("demo")
	at := b.start("demo", "main")
	b.run(b.client("demo", at), "CREATE TABLE t AS SELECT 42 AS n")
	exited := b.server(at).exited
	if err := unix.Kill(at.Pid, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	<-exited
	again := b.start("demo", "main")
	if got := b.value(b.client("demo", again), "SELECT n::text FROM t"); got != "42" {
		t.Errorf("n = %s, want 42", got)
	}

	// What it cannot start from, it says.
	b.stop("demo", "main")
	if err := b.store.UpdateBranch(b.ctx, at.ID, func(info *cow.BranchInfo) (err error) {
		info.Settings, err = encodeSettings(info.Settings, BranchSettings{Ready: true, Conf: map[string]string{"work_mem": "lots"}})
		return err
	}); err != nil {
		t.Fatal(err)
	}
	_, err := b.Start(b.ctx, "demo", "main")
	if err == nil || !strings.Contains(err.Error(), "work_mem") {
		t.Errorf("start with a bad setting = %v, want what Postgres said", err)
	}
	if st := b.StatusOf(at.ID); st.State != Failed || !strings.Contains(st.Error, "work_mem") {
		t.Errorf("status = %+v, want failed with what Postgres said", st)
	}
	if b.store.mounts[at.ID] != "" {
		t.Error("still mounted after a failed start")
	}
}
