package e2e

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/bough-db/bough/api"
	"github.com/bough-db/bough/test/netfault"
)

// failoverLimit is how long it may take until another host serves a branch whose host
// is dead, once somebody wants it: 10 s are promised, on a machine that does nothing
// else. The figures say how long it took.
const failoverLimit = time.Minute

// TestTwoHosts works on one store from two hosts, which both live.
func TestTwoHosts(t *testing.T) {
	t.Parallel()
	c := sharedStore(t)
	a, b := c.host(t), c.host(t)
	p := c.project()
	a.start("--create", p)
	b.start()
	main := p + "/main"
	a.exec(p, "create table t (i int primary key)", "insert into t values (0)")

	// Both see everything, and who has what.
	idA := a.id()
	for _, list := range [][]string{{"branch", "list", p}, {"branch", "tree", p}, {"branch", "show", main}} {
		if out := b.bough(list...); !strings.Contains(out, idA) || !strings.Contains(out, "elsewhere") {
			t.Errorf("bough %s on the other host:\n%s", strings.Join(list, " "), out)
		}
		if out := a.bough(list...); !strings.Contains(out, "here") {
			t.Errorf("bough %s on its host:\n%s", strings.Join(list, " "), out)
		}
	}
	var s api.Status
	b.json(&s, "status")
	if !slices.ContainsFunc(s.Store.Hosts, func(h api.HostStatus) bool { return h.ID == idA && !h.Here && h.API != "" }) {
		t.Errorf("the status of one host does not name the other: %+v", s.Store.Hosts)
	}

	// What is in use there cannot be worked on here.
	for _, args := range [][]string{
		{"start", main}, {"attach", main}, {"psql", main, "--admin"}, {"suspend", main}, {"branch", "delete", main},
		{"branch", "rename", main, "other"}, {"project", "delete", p, "--yes"}, {"branch", "set", main, "--durability", "remote"},
	} {
		b.refused(1, []string{main, idA, "bough start " + main}, args...)
	}
	_, err := b.tryConnect(t.Context(), p)
	if pgErr, ok := errors.AsType[*pgconn.PgError](err); !ok || pgErr.Code != "55006" || !strings.Contains(pgErr.Message, idA) || !strings.Contains(pgErr.Hint, "bough suspend "+main) {
		t.Errorf("connect to a branch in use on another host: %v", err)
	}

	// A branch that is made here has what was committed there just before, and
	// nothing that comes later; again and again, while it goes on.
	writer := a.connect(p)
	for i := range 5 {
		if _, err := writer.Exec(t.Context(), "insert into t values ($1)", i+1); err != nil {
			t.Fatal(err)
		}
		ref := fmt.Sprintf("%s/b%d", p, i)
		var created api.CreatedBranch
		b.json(&created, "branch", "create", ref)
		if created.Fork == nil || !created.Fork.Published || created.Fork.Host != idA {
			t.Errorf("branch create: fork = %+v", created.Fork)
		}
		if _, err := writer.Exec(t.Context(), "insert into t values ($1)", -i-1); err != nil {
			t.Fatal(err)
		}
		if i > 0 && i < 4 {
			continue
		}
		if n := b.count(ref, "select count(*) from t where i >= 0"); n != int64(i+2) {
			t.Errorf("branch %d has %d rows, want %d", i, n, i+2)
		}
		if n := b.count(ref, "select count(*) from t where i < 0"); n != int64(i) {
			t.Errorf("branch %d has %d of the rows committed between, want %d", i, n, i)
		}
	}

	// Suspended there, it goes on here; and back.
	a.bough("suspend", p)
	b.exec(p, "insert into t values (100)")
	a.refused(1, []string{b.id(), "bough suspend " + main}, "start", main)
	b.bough("suspend", p)
	if n := a.count(p, "select count(*) from t where i = 100"); n != 1 {
		t.Errorf("%d rows after it came back, want 1", n)
	}

	// One that only is attached by a host that has stopped in the meantime is free.
	a.stop()
	b.json(&s, "status")
	if slices.ContainsFunc(s.Store.Hosts, func(h api.HostStatus) bool { return h.ID == idA }) {
		t.Error("a host that stopped in order is still recorded")
	}
	if n := b.count(p, "select count(*) from t where i = 100"); n != 1 {
		t.Errorf("%d rows on the other host, want 1", n)
	}
	b.checkWhole(p)
}

// TestFailover kills a host under load. With durability remote another host goes on
// with everything that was acknowledged, soon after somebody wants it (I1, I4).
func TestFailover(t *testing.T) {
	t.Parallel()
	c := sharedStore(t)
	f := newFailover(t, c, 0, 0)
	f.round(0, func() {})
	// The dead host comes back with its journals, which are no part of the branch.
	f.a.start()
	f.a.refused(1, []string{f.b.id(), f.project + "/main"}, "start", f.project)
	f.b.bough("suspend", f.project)
	f.ledger.check(f.a, f.project)
	f.a.checkWhole(f.project)
}

// failover is a branch of durability remote that changes hosts.
type failover struct {
	t       *testing.T
	a, b    *host // a has it
	project string
	ledger  *ledger
	// The ways of a and b to the store, and how long what they carry takes.
	wayA, wayB *netfault.Latency
	get, put   time.Duration
}

// newFailover makes the branch on one of two hosts, which are that far from the store.
func newFailover(t *testing.T, c *cloud, get, put time.Duration) *failover {
	t.Helper()
	f := &failover{t: t, project: c.project(), ledger: &ledger{}, get: get, put: put}
	way := func() (*netfault.Latency, *host) {
		l, err := netfault.NewLatency(c.server.Address(), get, put)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := l.Close(); err != nil {
				t.Error(err)
			}
		})
		return l, c.hostAt(t, c.server.URLAt("http://"+l.Address(), "store"))
	}
	f.wayA, f.a = way()
	f.wayB, f.b = way()
	f.a.start()
	f.a.bough("project", "create", f.project, "--durability", "remote")
	f.b.start()
	f.ledger.create(f.a, f.project)
	if _, err := f.a.pgbench(f.project, "-i", "-q"); err != nil {
		t.Fatal(err)
	}
	return f
}

// round kills the host that has the branch while clients commit, and checks what the
// other one finds. gone is called when the host is dead.
func (f *failover) round(after time.Duration, gone func()) {
	f.t.Helper()
	ctx, cancel := context.WithCancel(f.t.Context())
	defer cancel()
	clients := f.ledger.run(ctx, f.a, f.project)
	eventually(f.t, connectLimit, "clients commit", f.ledger.moved(20))
	<-time.After(after)
	lost := f.a.id()
	f.a.kill()
	cancel()
	for range clients { // they end: their server does
	}
	gone()
	began := time.Now()
	var started api.StartedBranch
	f.b.json(&started, "start", f.project)
	took := time.Since(began)
	run.figures.add("failover, once asked", took)
	if took > failoverLimit {
		f.t.Errorf("failover took %v", took)
	}
	if tk := started.TakenOver; tk == nil || tk.Host != lost || !tk.Complete || tk.Seq == 0 || tk.Time.IsZero() {
		f.t.Errorf("start says of the takeover: %+v", tk)
	}
	f.ledger.check(f.b, f.project)
}

// TestLocalIsNotTakenOver kills a host that has a branch of durability local. What
// only its disk has is not given up unless somebody says so.
func TestLocalIsNotTakenOver(t *testing.T) {
	t.Parallel()
	c := sharedStore(t)
	a, b := c.host(t), c.host(t)
	p := c.project()
	a.start("--create", p)
	b.start()
	ref := p + "/main"
	a.exec(p, "create table t (i int)", "insert into t values (1)")
	// Stored, as a branch of it on another host makes sure.
	b.bough("branch", "create", p+"/dev")
	a.exec(p, "insert into t values (2)")
	id := a.id()
	a.kill()
	b.refused(1, []string{ref, id, "does not answer", "barrier", "UTC", "bough start " + ref + " --accept-loss"}, "start", ref)
	b.refused(1, []string{"--accept-loss"}, "start", ref, "--take-over")
	_, err := b.tryConnect(t.Context(), p)
	if pgErr, ok := errors.AsType[*pgconn.PgError](err); !ok || !strings.Contains(pgErr.Hint, "--accept-loss") {
		t.Errorf("connect: %v", err)
	}
	// A branch of it begins with what is stored, and says so.
	out := b.bough("branch", "create", p+"/saved")
	for _, w := range []string{id, "does not answer", "last barrier that the store has", "UTC"} {
		if !strings.Contains(out, w) {
			t.Errorf("branch create does not say %q:\n%s", w, out)
		}
	}
	// The host comes back, and nothing is lost.
	a.start()
	if n := b.count(p, "select count(*) from t"); n != 2 {
		t.Errorf("%d rows when its host is back, want 2", n)
	}
	b.bough("suspend", p)

	// Now it is given up.
	a.exec(p, "insert into t values (3)")
	b.bough("branch", "create", p+"/dev2")
	a.exec(p, "insert into t values (4)")
	a.kill()
	out = b.bough("start", ref, "--accept-loss")
	for _, w := range []string{"took " + ref + " over from host " + id, "barrier", "UTC", "are lost"} {
		if !strings.Contains(out, w) {
			t.Errorf("start does not say %q:\n%s", w, out)
		}
	}
	if n := b.count(p, "select count(*) from t where i <= 3"); n != 3 {
		t.Errorf("%d of the rows that were stored, want 3", n)
	}
	b.exec(p, "insert into t values (5)")
	// What the host finds in its journals is set aside, and does not come back.
	a.start()
	if n := b.count(p, "select count(*) from t where i = 5"); n != 1 {
		t.Errorf("%d rows of the new writer", n)
	}
	b.bough("suspend", p)
	if n := a.count(p, "select count(*) from t where i <= 3"); n != 3 {
		t.Errorf("%d of the rows that were stored, want 3", n)
	}
	b.checkWhole(p + "/saved")
	a.checkWhole(p)
}

// TestFenced stops a host without killing it, lets another one take its branch over,
// and lets it go on. It acknowledges nothing more (I4), and its clients, its server and
// its device are gone.
func TestFenced(t *testing.T) {
	t.Parallel()
	c := sharedStore(t)
	f := newFailover(t, c, 0, 0)
	f.splitBrain(0)
	// The branch can be had back without a restart.
	f.b.bough("suspend", f.project)
	f.ledger.check(f.a, f.project)
	f.a.checkWhole(f.project)
}

// splitBrain stops the host that has the branch, takes it over, and lets the first one
// go on. What it stores shortly before it is stopped takes that much longer.
func (f *failover) splitBrain(late time.Duration) {
	f.t.Helper()
	load := f.load(8)
	ctx, cancel := context.WithCancel(f.t.Context())
	defer cancel()
	clients := f.ledger.run(ctx, f.a, f.project)
	eventually(f.t, connectLimit, "clients commit", f.ledger.moved(20))
	disk := f.a.disk(f.project)
	if late > 0 {
		f.wayA.Set(f.get, late)
		before := f.wayA.Counts().Puts
		eventually(f.t, connectLimit, "a put is on its way", func() error {
			if f.wayA.Counts().Puts == before {
				return errors.New("none yet")
			}
			return nil
		})
	}
	daemon := f.a.daemon().cmd.Process
	if err := daemon.Signal(syscall.SIGSTOP); err != nil {
		f.t.Fatal(err)
	}
	began := time.Now()
	f.b.bough("start", f.project)
	took := time.Since(began)
	run.figures.add("failover from a stopped host", took)
	if took > failoverLimit {
		f.t.Errorf("failover took %v", took)
	}
	var found [ledgerClients]int64
	for client := range found {
		found[client] = f.b.count(f.project, fmt.Sprintf("select coalesce(max(n), 0) from ledger where client = %d", client))
	}
	f.b.exec(f.project, "create table if not exists mine (i int)", "insert into mine values (1)")
	if err := daemon.Signal(syscall.SIGCONT); err != nil {
		f.t.Fatal(err)
	}
	if err := <-load; err == nil {
		f.t.Error("pgbench did not notice that its server is gone")
	}
	failed := 0
	for err := range clients {
		failed++
		if err == nil {
			f.t.Error("a client ended without an error")
		}
	}
	if failed != ledgerClients {
		f.t.Errorf("%d clients of the host that was fenced failed, want %d", failed, ledgerClients)
	}
	// An answer that was on its way through the stopped host comes late, but what it
	// tells of is there. Nothing that was not there then is acknowledged.
	for client := range found {
		if acked := f.ledger.next(client) - 1; acked > found[client] {
			f.t.Errorf("client %d was told of %d commits, and the other host had %d when it took over", client, acked, found[client])
		}
	}
	eventually(f.t, stopLimit, "the log says why", func() error {
		return f.a.logHas("branch is lost to this host", f.project+"/main", "taken over")
	})
	eventually(f.t, stopLimit, "its server is gone", func() error {
		if at := f.a.branchNamed(f.project); at.Attached || at.Endpoint != api.EndpointSuspended || !at.Elsewhere {
			return fmt.Errorf("%+v", at)
		}
		return nil
	})
	if left := mountsBelow(f.a.dir); slices.ContainsFunc(left, func(m mount) bool { return m.major == loopMajor }) {
		f.t.Errorf("mounts of the host that was fenced: %v", left)
	}
	if file, err := os.Open(disk); err == nil {
		f.t.Error("its device can still be opened")
		_ = file.Close()
	}
	f.wayA.Set(f.get, f.put)
	f.a.refused(1, []string{f.b.id()}, "start", f.project)
	f.ledger.check(f.b, f.project)
	f.b.checkBalances(f.project)
	if n := f.b.count(f.project, "select count(*) from mine"); n < 1 {
		f.t.Error("a row of the new writer is missing")
	}
}
