package e2e

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// commit is one transaction of a client that does one after the other, and what it was
// told about it.
type commit struct {
	n    int64
	xid  string
	lsn  string    // of the WAL when it was acknowledged
	told time.Time // when it was
}

// note commits the row n, and takes note of that.
func note(t *testing.T, conn *pgx.Conn, n int64) commit {
	t.Helper()
	c := commit{n: n}
	tx, err := conn.Begin(t.Context())
	if err == nil {
		err = tx.QueryRow(t.Context(), "insert into notes values ($1) returning pg_current_xact_id()::text", c.n).Scan(&c.xid)
	}
	if err == nil {
		err = tx.Commit(t.Context())
	}
	if err == nil {
		c.told = time.Now()
		err = conn.QueryRow(t.Context(), "select pg_current_wal_lsn()::text").Scan(&c.lsn)
	}
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// past is a branch with a past that is known to the transaction.
type past struct {
	*host
	ref     string
	commits []commit
}

// newPast lets a client commit transaction after transaction, beside others, and takes
// note of each.
func newPast(t *testing.T, commits int) *past {
	t.Helper()
	p := &past{host: newHost(t), ref: "demo"}
	p.start("--create", "demo")
	if _, err := p.pgbench("demo", "-i", "-q"); err != nil {
		t.Fatal(err)
	}
	p.exec("demo", "create table notes (n bigint primary key)")
	load := p.startLoad("demo", 4, 10*time.Minute)
	defer load.cancel()
	conn := p.connect("demo")
	for n := range int64(commits) {
		p.commits = append(p.commits, note(t, conn, n+1))
		switch {
		case n%(int64(commits)/4) == 7: // what is looked for lies behind it
			p.bough("psql", "demo", "--admin", "--", "-qc", "checkpoint")
		case n%10 == 3:
			<-time.After(20 * time.Millisecond)
		}
	}
	if err := load.stop(); err != nil {
		t.Fatal(err)
	}
	return p
}

// look makes a branch of a point of some kind of a commit, and compares.
func (p *past) look(i int, kind string, c commit) {
	p.t.Helper()
	point := map[string]string{
		"xid": "xid:" + c.xid, "lsn": "lsn:" + c.lsn + "!",
		"exact time": c.told.UTC().Format(time.RFC3339Nano) + "!", "time": c.told.UTC().Format(time.RFC3339Nano),
	}[kind]
	ref := fmt.Sprintf("demo/look%d", i)
	r := p.call("branch", "create", ref, "--from", "demo@"+point)
	if r.code != 0 {
		p.t.Fatalf("commit %d: %v", c.n, r)
	}
	began := time.Now()
	conn := p.connect(ref)
	defer conn.Close(context.Background())
	var count, most int64
	if err := conn.QueryRow(p.t.Context(), "select count(*), max(n) from notes").Scan(&count, &most); err != nil {
		p.t.Fatal(err)
	}
	run.figures.add("branch by "+kind, r.took)
	run.figures.add("first row of a branch by "+kind, r.took+time.Since(began))
	if count != c.n || most != c.n {
		p.t.Errorf("%s of commit %d (@%s): %d rows, the last is %d", kind, c.n, point, count, most)
	}
	p.checkBalances(ref)
	if i%10 == 0 {
		p.checkIndexes(ref)
	}
	_ = conn.Close(context.Background())
	p.bough("branch", "delete", ref)
}

// TestExactCutShort kills the daemon while it recovers a branch to a transaction: the
// next one deletes what it finds of that, and its name can be used again.
func TestExactCutShort(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	h.start("--create", "demo")
	h.exec("demo", "create table notes (n bigint primary key)")
	all := h.commit("demo", 0, 4)
	done := make(chan result, 1)
	go func() { done <- h.call("branch", "create", "demo/half", "--from", "demo@xid:"+all[1].xid) }()
	eventually(t, time.Minute, "the branch is being recovered", func() error {
		if r := h.call("branch", "show", "demo/half"); r.code != 0 {
			return errors.New(r.String())
		}
		return nil
	})
	h.kill()
	if r := <-done; r.code == 0 {
		t.Fatal("the branch was done before the daemon was killed")
	}
	h.start()
	eventually(t, time.Minute, "the half branch is deleted", func() error {
		if r := h.call("branch", "show", "demo/half"); r.code == 0 {
			return errors.New("it is still there")
		}
		return nil
	})
	h.bough("branch", "create", "demo/half", "--from", "demo@xid:"+all[1].xid)
	if n := h.count("demo/half", "select count(*) from notes"); n != all[1].n {
		t.Errorf("%d rows, want %d", n, all[1].n)
	}
	if h.branchNamed("demo/half").Throwaway {
		t.Error("the branch that was recovered is for one use")
	}
}

var exactKinds = []string{"xid", "lsn", "exact time", "time"}

// TestExact makes branches of single transactions of a busy branch: by transaction id, by
// LSN and by time, each has exactly what it must have, of the client that asked and of
// all others.
func TestExact(t *testing.T) {
	t.Parallel()
	p := newPast(t, 120)
	random := run.random(t)
	for i, kind := range exactKinds {
		p.look(2*i, kind, p.commits[random.IntN(len(p.commits))])
		p.look(2*i+1, kind, p.commits[len(p.commits)-1-i])
	}
	p.badPoints()
	p.undo(random)
}

// badPoints asks for transactions that there are not.
func (p *past) badPoints() {
	p.t.Helper()
	var rolledBack string
	conn := p.connect("demo")
	tx, err := conn.Begin(p.t.Context())
	if err == nil {
		err = tx.QueryRow(p.t.Context(), "insert into notes values (0) returning pg_current_xact_id()::text").Scan(&rolledBack)
	}
	if err != nil {
		p.t.Fatal(err)
	}
	create := func(point string, words ...string) {
		p.t.Helper()
		p.refused(1, words, "branch", "create", "demo/none", "--from", "demo@"+point)
	}
	create("xid:"+rolledBack, "no such transaction has ended")
	if err := tx.Rollback(p.t.Context()); err != nil {
		p.t.Fatal(err)
	}
	p.exec("demo", "insert into notes values (1000000)")
	create("xid:"+rolledBack, "rolled back", "the nearest is @seq:")
	create("xid:3000000000", "no such transaction has ended", "the nearest is @seq:")
	create("restore:never", "no restore point has that name")
	create("lsn:FF/0!", "in the future")
	create(time.Now().Add(time.Hour).UTC().Format(time.RFC3339)+"!", "in the future")
	create("2020-01-01T00:00:00Z!", "before the history")
	p.refused(1, []string{"demo/none"}, "branch", "show", "demo/none")
}

// undo brings back what three mistakes have done, each with one command.
func (p *past) undo(random *rand.Rand) {
	p.t.Helper()
	for i, mistake := range []string{"drop table notes", "truncate notes", "update notes set n = -n"} {
		want := p.count("demo", "select sum(n) from notes")
		p.exec("demo", fmt.Sprintf("insert into notes values (%d)", 2_000_000+i))
		want += 2_000_000 + int64(i)
		var xid string
		conn := p.connect("demo")
		tx, err := conn.Begin(p.t.Context())
		if err == nil {
			_, err = tx.Exec(p.t.Context(), mistake)
		}
		if err == nil {
			err = tx.QueryRow(p.t.Context(), "select pg_current_xact_id()::text").Scan(&xid)
		}
		if err == nil {
			err = tx.Commit(p.t.Context())
		}
		if err != nil {
			p.t.Fatal(err)
		}
		_ = conn.Close(context.Background())
		last, err := strconv.ParseInt(xid, 10, 64)
		if err != nil {
			p.t.Fatal(err)
		}
		for range random.IntN(5) {
			p.exec("demo", "insert into pgbench_history values (1, 1, 1, 0, now())")
		}
		began := time.Now()
		p.bough("branch", "restore", "demo@xid:"+strconv.FormatInt(last-1, 10))
		if got := p.count("demo", "select sum(n) from notes"); got != want {
			p.t.Errorf("after %q was undone: the sum is %d, want %d", mistake, got, want)
		}
		run.figures.add("restore to a transaction, to the first row", time.Since(began))
	}
	p.checkWhole("demo")
}

// TestSoakExact looks at two hundred points, and more for as long as BOUGH_SOAK says.
func TestSoakExact(t *testing.T) {
	limit := soakLimit(t)
	t.Parallel()
	p := newPast(t, 2000)
	random := run.random(t)
	end := time.Now().Add(limit)
	for i := 0; i < 200 || time.Now().Before(end); i++ {
		p.look(i, exactKinds[i%len(exactKinds)], p.commits[random.IntN(len(p.commits))])
		if t.Failed() {
			t.Fatalf("wrong (seed %d)", run.seed)
		}
	}
}
