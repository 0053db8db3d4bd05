package e2e

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// ledgerClients is how many clients append at the same time.
const ledgerClients = 4

// ledger is what clients were told. Each client c appends the rows (c, 1), (c, 2)
// and so on, each in a transaction of its own that also counts in a second table,
// and notes here which ones it was told are committed.
type ledger struct {
	mu    sync.Mutex
	acked [ledgerClients]int64
	extra int // unacknowledged commits that were found
}

// create makes the tables of the ledger.
func (l *ledger) create(h *host, ref string) {
	h.t.Helper()
	h.exec(ref,
		"create table ledger (client int, n bigint, filler text, primary key (client, n))",
		"create table counter (client int primary key, n bigint)",
		fmt.Sprintf("insert into counter select c, 0 from generate_series(0, %d) c", ledgerClients-1))
}

// append appends over a connection until it fails, as it does when the daemon is
// killed, or ctx ends.
func (l *ledger) append(ctx context.Context, conn *pgx.Conn, client int) error {
	for {
		if err := l.appendOne(ctx, conn, client); err != nil {
			return err
		}
	}
}

func (l *ledger) appendOne(ctx context.Context, conn *pgx.Conn, client int) error {
	n := l.next(client)
	_, err := conn.Exec(ctx, `with c as (update counter set n = $2 where client = $1)
		insert into ledger values ($1, $2, $3)`, client, n, strings.Repeat("x", 300))
	if err == nil {
		l.ack(client, n)
	}
	return err
}

func (l *ledger) next(client int) int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.acked[client] + 1
}

func (l *ledger) ack(client int, n int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.acked[client] = n
}

func (l *ledger) total() (n int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, a := range l.acked {
		n += a
	}
	return n
}

// run lets all clients append to a branch until they fail. The channel that it
// returns is closed when all have; before, it has the error of one that failed
// while ctx had not ended.
func (l *ledger) run(ctx context.Context, h *host, ref string) <-chan error {
	errs := make(chan error, ledgerClients)
	var wg sync.WaitGroup
	for c := range ledgerClients {
		wg.Go(func() {
			conn, err := h.tryConnect(ctx, ref)
			if err == nil {
				err = l.append(ctx, conn, c)
				_ = conn.Close(context.Background())
			}
			if err != nil && ctx.Err() == nil {
				errs <- err
			}
		})
	}
	go func() {
		wg.Wait()
		close(errs)
	}()
	return errs
}

// check compares a branch with what the clients were told: every acknowledged row
// is there, no row is missing between, and at most one more per client, which was
// under way when the daemon died (I1, I2). What it finds is the truth from then on.
func (l *ledger) check(h *host, ref string) {
	h.t.Helper()
	conn, err := h.tryConnect(h.t.Context(), ref)
	if err != nil {
		h.t.Fatalf("connect to %s: %v", ref, err)
	}
	defer conn.Close(context.Background())
	for c := range ledgerClients {
		var count, most, counter int64
		err := conn.QueryRow(h.t.Context(), `select count(*), coalesce(max(n), 0), (select n from counter where client = $1)
			from ledger where client = $1`, c).Scan(&count, &most, &counter)
		if err != nil {
			h.t.Fatalf("read the ledger of %s: %v", ref, err)
		}
		acked := l.next(c) - 1
		if count != most || counter != most || most < acked || most > acked+1 {
			h.t.Errorf("%s, client %d: was told of %d commits; there are %d rows up to number %d, and the counter says %d",
				ref, c, acked, count, most, counter)
		}
		if most > acked {
			l.mu.Lock()
			l.extra++
			l.mu.Unlock()
		}
		l.ack(c, most)
	}
}

// writeModes are the modes that tests of crashes run in.
var writeModes = []string{"flush", "through"}

// TestKillDaemon kills the daemon while clients commit. After each restart
// everything that a client was told of is there, and everything is whole.
func TestKillDaemon(t *testing.T) {
	t.Parallel()
	cycles := 3
	if testing.Short() {
		cycles = 1
	}
	for _, mode := range writeModes {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			k := newKiller(t, mode)
			for i := range cycles {
				k.cycle(i)
			}
			k.finish()
		})
	}
}

// soakCyclesLeast is how often the soak kills in each mode, however short it is to be.
const soakCyclesLeast = 50

// TestSoakKillDaemon is TestKillDaemon for as long as BOUGH_SOAK says.
func TestSoakKillDaemon(t *testing.T) {
	limit := soakLimit(t)
	for _, mode := range writeModes {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			k := newKiller(t, mode)
			end := time.Now().Add(limit)
			for i := 0; i < soakCyclesLeast || time.Now().Before(end); i++ {
				began := time.Now()
				k.cycle(i)
				t.Logf("cycle %d: %v, %d commits acknowledged so far, %d more found", i, time.Since(began).Round(time.Millisecond), k.ledger.total(), k.ledger.extra)
				if t.Failed() {
					break
				}
			}
			k.finish()
		})
	}
}

// killer kills the daemon of a host again and again.
type killer struct {
	*host
	random *rand.Rand
	ledger *ledger
}

func newKiller(t *testing.T, mode string) *killer {
	t.Helper()
	k := &killer{host: newHost(t, "--write-mode", mode), random: run.random(t), ledger: &ledger{}}
	k.start("--create", "demo")
	k.ledger.create(k.host, "demo")
	if _, err := k.pgbench("demo", "-i", "-q"); err != nil {
		t.Fatal(err)
	}
	return k
}

// cycle lets clients work, kills the daemon at a random moment, and checks what
// the next one finds.
func (k *killer) cycle(i int) {
	k.t.Helper()
	ctx, cancel := context.WithCancel(k.t.Context())
	defer cancel()
	clients := k.ledger.run(ctx, k.host, "demo")
	load := make(chan error, 1)
	go func() {
		_, err := k.pgbench("demo", "-n", "-c", "4", "-T", "60")
		load <- err
	}()
	before := k.ledger.total()
	eventually(k.t, connectLimit, "clients commit", func() error {
		if k.ledger.total() < before+ledgerClients {
			return errors.New("no commit yet")
		}
		return nil
	})
	select {
	case <-time.After(time.Duration(k.random.Int64N(int64(1500 * time.Millisecond)))):
	case err := <-clients:
		k.t.Fatalf("cycle %d: a client failed before the kill: %v", i, err)
	case err := <-load:
		k.t.Fatalf("cycle %d: pgbench ended before the kill: %v", i, err)
	}
	k.kill()
	cancel()
	for range clients { // they end: their server does
	}
	<-load
	k.check(i)
}

// check starts a daemon where one was killed, and checks everything.
func (k *killer) check(i int) {
	k.t.Helper()
	began := time.Now()
	k.start()
	run.figures.add("kill to ready", time.Since(began))
	k.checkReplayed("demo")
	began = time.Now()
	k.ledger.check(k.host, "demo")
	run.figures.add("kill to first answer, once ready", time.Since(began))
	k.checkBalances("demo")
	k.checkWhole("demo")
	if k.t.Failed() {
		k.t.Fatalf("cycle %d found damage (seed %d)", i, run.seed)
	}
}

func (k *killer) finish() {
	k.t.Helper()
	if problems, r := k.verify(); len(problems) > 0 {
		k.t.Errorf("verify: %v", r)
	}
	k.t.Logf("%d commits were acknowledged, %d more were found", k.ledger.total(), k.ledger.extra)
}

// TestKillDuring kills the daemon while it does what changes the store or the
// kernel. What was under way is there or is not; the rest is as it was; and it can
// be done again.
func TestKillDuring(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name string
		// prepare makes what round i begins with, work is what is killed half-way, and check
		// looks at what became of it after the restart; all of them know the round.
		prepare, check func(k *killer, i int)
		work           func(k *killer, i int) result
		most           time.Duration // of random delay before the kill
	}{
		{
			name: "branch create", most: 15 * time.Millisecond,
			work: func(k *killer, i int) result { return k.call("branch", "create", branchRef(i)) },
			check: func(k *killer, i int) {
				k.createAgain(branchRef(i), "branch", "create", branchRef(i))
				k.ledger.check(k.host, branchRef(i))
				k.bough("suspend", branchRef(i))
				k.checkFS(branchRef(i))
			},
		},
		{
			name: "project create", most: 40 * time.Millisecond,
			work: func(k *killer, i int) result { return k.call("project", "create", projectName(i)) },
			check: func(k *killer, i int) {
				k.createAgain(projectName(i), "project", "create", projectName(i))
				k.exec(projectName(i), "create table t (i int)")
			},
		},
		{
			name: "first project", most: time.Second,
			// The daemon makes the template, which takes longest.
			prepare: func(k *killer, i int) {
				k.host = newHost(k.t, "--write-mode", "flush")
				k.start()
			},
			work: func(k *killer, i int) result { return k.call("project", "create", "demo") },
			check: func(k *killer, i int) {
				k.createAgain("demo", "project", "create", "demo")
				k.exec("demo", "create table t (i int)")
			},
		},
		{
			name: "branch delete", most: 15 * time.Millisecond,
			prepare: func(k *killer, i int) { k.bough("branch", "create", branchRef(i)) },
			work:    func(k *killer, i int) result { return k.call("branch", "delete", branchRef(i)) },
			check: func(k *killer, i int) {
				if r := k.call("branch", "delete", branchRef(i)); r.code != 0 && !strings.Contains(r.err, "no branch") {
					k.t.Error(r)
				}
				k.bough("branch", "create", branchRef(i))
				k.ledger.check(k.host, branchRef(i))
			},
		},
		{
			name: "start", most: 300 * time.Millisecond,
			prepare: func(k *killer, i int) { k.bough("suspend", "demo") },
			work:    func(k *killer, i int) result { return k.call("start", "demo") },
		},
		{
			name: "first start", most: 400 * time.Millisecond,
			prepare: func(k *killer, i int) { k.bough("branch", "create", branchRef(i)) },
			work:    func(k *killer, i int) result { return k.call("start", branchRef(i)) },
			check:   func(k *killer, i int) { k.ledger.check(k.host, branchRef(i)); k.checkWhole(branchRef(i)) },
		},
		{
			name: "suspend", most: 300 * time.Millisecond,
			prepare: func(k *killer, i int) {
				k.exec("demo", "create table if not exists s (i int)", "insert into s select generate_series(1, 20000)")
			},
			work: func(k *killer, i int) result { return k.call("suspend", "demo") },
			check: func(k *killer, i int) {
				if n := k.count("demo", "select count(*) from s"); n != 20000*int64(i+1) {
					k.t.Errorf("%d rows, want %d", n, 20000*(i+1))
				}
			},
		},
		{
			name: "stop", most: 300 * time.Millisecond,
			work: func(k *killer, i int) result {
				_ = k.daemon().cmd.Process.Signal(os.Interrupt)
				return result{}
			},
		},
	} {
		t.Run(strings.ReplaceAll(c.name, " ", "-"), func(t *testing.T) {
			t.Parallel()
			rounds := 3
			if testing.Short() {
				rounds = 1
			}
			k := &killer{host: newHost(t), random: run.random(t), ledger: &ledger{}}
			k.start("--create", "demo")
			k.ledger.create(k.host, "demo")
			for i := range rounds {
				owner := k.host
				k.appendSome(3)
				if c.prepare != nil {
					c.prepare(k, i)
				}
				k.killDuring(c.most, func() { c.work(k, i) })
				k.start()
				if c.check != nil {
					c.check(k, i)
				}
				if k.host == owner {
					k.ledger.check(k.host, "demo")
					continue
				}
				k.host = owner
			}
			k.checkWhole("demo")
		})
	}
}

func branchRef(i int) string   { return "demo/b" + strconv.Itoa(i) }
func projectName(i int) string { return "p" + strconv.Itoa(i) }

// appendSome lets one client append n rows.
func (k *killer) appendSome(n int) {
	k.t.Helper()
	conn := k.connect("demo")
	defer conn.Close(context.Background())
	for range n {
		if err := k.ledger.appendOne(k.t.Context(), conn, 0); err != nil {
			k.t.Fatalf("append: %v", err)
		}
	}
}

// killDuring kills the daemon while work goes on, after a random time. It returns
// when work has.
func (k *killer) killDuring(most time.Duration, work func()) {
	k.t.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		work()
	}()
	<-time.After(time.Duration(k.random.Int64N(int64(most))))
	k.kill()
	<-done
}

// createAgain runs a command that was killed half-way again: either it succeeds, or
// what it makes exists.
func (k *killer) createAgain(what string, args ...string) {
	k.t.Helper()
	if r := k.call(args...); r.code != 0 && !strings.Contains(r.err, what+" exists") {
		k.t.Errorf("again after the kill: %v", r)
	}
}

// TestKillRecovery kills daemons while they recover from the kill of the one before.
func TestKillRecovery(t *testing.T) {
	t.Parallel()
	for _, mode := range writeModes {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			k := newKiller(t, mode)
			ctx, cancel := context.WithCancel(t.Context())
			clients := k.ledger.run(ctx, k.host, "demo")
			<-time.After(time.Second)
			k.kill()
			cancel()
			for range clients {
			}
			rounds := 6
			if testing.Short() {
				rounds = 2
			}
			for range rounds {
				d, err := k.launch(k.serve())
				if err != nil {
					t.Fatal(err)
				}
				<-time.After(time.Duration(k.random.Int64N(int64(400 * time.Millisecond))))
				_ = d.cmd.Process.Kill()
				<-d.exited
			}
			k.check(0)
			k.finish()
		})
	}
}
