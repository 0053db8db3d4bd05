package e2e

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// TestBranchUnderLoad branches a database while clients work on it. Parent and
// branches must be whole, and the clients see nothing of it.
func TestBranchUnderLoad(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("takes a minute")
	}
	const branches = 10
	h := newHost(t)
	h.start("--create", "demo")
	if _, err := h.pgbench("demo", "-i", "-q", "-s", strconv.Itoa(*flagScale)); err != nil {
		t.Fatal(err)
	}

	load := h.startLoad("demo", 8, 5*time.Minute)
	defer load.cancel()
	eventually(t, connectLimit, "the load begins", func() error {
		n, err := h.tryCount(t.Context(), "demo", "select count(*) from pgbench_history")
		if err == nil && n == 0 {
			err = errors.New("no transactions yet")
		}
		return err
	})
	history := make([]int64, branches)
	for i := range branches {
		ref := fmt.Sprintf("demo/b%d", i)
		began := time.Now()
		r := h.call("branch", "create", ref)
		if r.code != 0 {
			t.Fatal(r)
		}
		run.figures.add("branch create (whole command)", r.took)
		conn := h.connect(ref)
		var n int64
		if err := conn.QueryRow(t.Context(), "select count(*) from pgbench_branches").Scan(&n); err != nil || n != int64(*flagScale) {
			t.Fatalf("first query on %s: %d, %v", ref, n, err)
		}
		run.figures.add("branch to first query, loaded", time.Since(began))
		history[i] = h.checkBalances(ref)
		if i > 0 && history[i] < history[i-1] {
			t.Errorf("%s has %d transactions, the branch made before it %d", ref, history[i], history[i-1])
		}
		// I5: what happens on a branch stays there.
		h.exec(ref, fmt.Sprintf("update pgbench_branches set filler = 'only on %s'", ref))
		if load.ended() {
			t.Fatalf("the load ended early: %v", load.stop())
		}
	}
	if err := load.stop(); err != nil {
		t.Error(err)
	}

	total := h.checkBalances("demo")
	if total < history[branches-1] || history[0] == 0 || total == history[0] {
		t.Errorf("transactions: %v on the branches, %d on the parent", history, total)
	}
	t.Logf("transactions on the branches %v, on the parent %d", history, total)
	if n := h.count("demo", "select count(*) from pgbench_branches where filler is not null and filler like 'only%'"); n != 0 {
		t.Errorf("the parent has %d rows that were changed on branches only", n)
	}
	refs := []string{"demo"}
	for i := range branches {
		ref := fmt.Sprintf("demo/b%d", i)
		refs = append(refs, ref)
		if n := h.checkBalances(ref); n != history[i] {
			t.Errorf("%s has %d transactions, and had %d when it was made", ref, n, history[i])
		}
		if n := h.count(ref, fmt.Sprintf("select count(*) from pgbench_branches where filler <> 'only on %s'", ref)); n != 0 {
			t.Errorf("%s has %d rows of another branch", ref, n)
		}
	}
	t.Run("whole", func(t *testing.T) {
		for _, ref := range refs {
			t.Run(strings.ReplaceAll(ref, "/", "."), func(t *testing.T) {
				t.Parallel()
				h.with(t).checkWhole(ref)
			})
		}
	})
	if problems, r := h.verify(); len(problems) > 0 {
		t.Errorf("verify: %v", r)
	}
}

// load is a pgbench that runs in the background.
type load struct {
	cancel context.CancelFunc
	done   chan struct{}
	err    error
}

// startLoad runs TPC-B on a branch, until it is stopped or the time is over.
func (h *host) startLoad(ref string, clients int, limit time.Duration) *load {
	ctx, cancel := context.WithCancel(context.Background())
	l := &load{cancel: cancel, done: make(chan struct{})}
	go func() {
		defer close(l.done)
		// In rounds of a few seconds, so that it can be stopped between them:
		// pgbench itself knows no end but the kill, which hides its errors.
		for end := time.Now().Add(limit); ctx.Err() == nil && time.Now().Before(end); {
			// -n: it must not truncate the history, which the balances need.
			out, err := h.pgbench(ref, "-n", "-c", strconv.Itoa(clients), "-j", "2", "-T", "5")
			if err == nil && !strings.Contains(out, "number of failed transactions: 0 ") {
				err = fmt.Errorf("pgbench on %s: failed transactions: %s", ref, out)
			}
			if err == nil && (strings.Contains(out, "aborted") || strings.Contains(out, "error")) {
				err = fmt.Errorf("pgbench on %s: %s", ref, out)
			}
			if err != nil {
				l.err = err
				return
			}
		}
	}()
	return l
}

// ended reports whether the load has ended by itself.
func (l *load) ended() bool {
	select {
	case <-l.done:
		return true
	default:
		return false
	}
}

// stop lets the load end and returns what went wrong with it.
func (l *load) stop() error {
	l.cancel()
	<-l.done
	return l.err
}

// TestBranchHasCommit branches right after a commit, again and again: the branch
// has it, always. A client that commits and then branches knows no other order.
func TestBranchHasCommit(t *testing.T) {
	t.Parallel()
	rounds := 50
	if testing.Short() {
		rounds = 5
	}
	h := newHost(t)
	h.start("--create", "demo")
	writer := h.connect("demo")
	if _, err := writer.Exec(t.Context(), "create table t (i int primary key)"); err != nil {
		t.Fatal(err)
	}
	refs := make(chan int)
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() {
			for i := range refs {
				if err := h.checkHasCommit(t.Context(), i); err != nil {
					t.Error(err)
				}
			}
		})
	}
	for i := range rounds {
		if _, err := writer.Exec(t.Context(), "insert into t values ($1)", i); err != nil {
			t.Errorf("insert %d: %v", i, err)
			break
		}
		if r := h.call("branch", "create", fmt.Sprintf("demo/c%d", i)); r.code != 0 {
			t.Error(r)
			break
		}
		// One that comes later is not in the branch (I5).
		if _, err := writer.Exec(t.Context(), "insert into t values ($1)", -i-1); err != nil {
			t.Errorf("insert %d: %v", -i-1, err)
			break
		}
		refs <- i
	}
	close(refs)
	wg.Wait()
}

// checkHasCommit checks branch i: it has rows 0 to i, and -1 to -i, and no more.
func (h *host) checkHasCommit(ctx context.Context, i int) error {
	ref := fmt.Sprintf("demo/c%d", i)
	began := time.Now()
	conn, err := h.tryConnect(ctx, ref)
	if err != nil {
		return fmt.Errorf("connect to %s: %w", ref, err)
	}
	defer conn.Close(context.WithoutCancel(ctx))
	rows, err := conn.Query(ctx, "select i from t")
	if err != nil {
		return fmt.Errorf("read %s: %w", ref, err)
	}
	all, err := pgx.CollectRows(rows, pgx.RowTo[int])
	if err != nil {
		return fmt.Errorf("read %s: %w", ref, err)
	}
	run.figures.add("connect to a new branch", time.Since(began))
	if len(all) != 2*i+1 {
		return fmt.Errorf("%s has %d rows, want %d: commit %d came before the branch, %d after it", ref, len(all), 2*i+1, i, -i-1)
	}
	if err := conn.Close(ctx); err != nil {
		return fmt.Errorf("leave %s: %w", ref, err)
	}
	if r := h.call("branch", "delete", ref); r.code != 0 {
		return fmt.Errorf("%v", r)
	}
	return nil
}
