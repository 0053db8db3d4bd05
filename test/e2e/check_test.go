package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/bough-db/bough/api"
)

// connectLimit is how long a connection may take, a start of Postgres included.
const connectLimit = time.Minute

// tryConnect connects to a branch as its owner, through the front door.
func (h *host) tryConnect(ctx context.Context, ref string) (*pgx.Conn, error) {
	r := h.call("url", ref)
	if r.code != 0 {
		return nil, errors.New(r.String())
	}
	ctx, cancel := context.WithTimeout(ctx, connectLimit)
	defer cancel()
	return pgx.Connect(ctx, strings.TrimSpace(r.out))
}

// connect connects to a branch as its owner, until the test ends.
func (h *host) connect(ref string) *pgx.Conn {
	h.t.Helper()
	conn, err := h.tryConnect(h.t.Context(), ref)
	if err != nil {
		h.t.Fatalf("connect to %s: %v", ref, err)
	}
	h.t.Cleanup(func() { _ = conn.Close(context.Background()) })
	return conn
}

// exec runs SQL on a branch, over a connection of its own.
func (h *host) exec(ref string, queries ...string) {
	h.t.Helper()
	conn, err := h.tryConnect(h.t.Context(), ref)
	if err != nil {
		h.t.Fatalf("connect to %s: %v", ref, err)
	}
	defer conn.Close(context.Background())
	for _, q := range queries {
		if _, err := conn.Exec(h.t.Context(), q); err != nil {
			h.t.Fatalf("%s on %s: %v", q, ref, err)
		}
	}
}

// count returns the number that a query on a branch answers with.
func (h *host) count(ref, query string) int64 {
	h.t.Helper()
	n, err := h.tryCount(h.t.Context(), ref, query)
	if err != nil {
		h.t.Fatalf("%s on %s: %v", query, ref, err)
	}
	return n
}

func (h *host) tryCount(ctx context.Context, ref, query string) (n int64, err error) {
	conn, err := h.tryConnect(ctx, ref)
	if err != nil {
		return 0, err
	}
	defer conn.Close(context.Background())
	return n, conn.QueryRow(ctx, query).Scan(&n)
}

// tool runs a program of Postgres.
func tool(t *testing.T, name string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, filepath.Join(run.pgbin, name), args...)
	cmd.Dir, cmd.Env = "/", append(environ(), "LC_ALL=C")
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// pgbench returns what pgbench prints when it has run on a branch.
func (h *host) pgbench(ref string, args ...string) (string, error) {
	r := h.call("url", ref)
	if r.code != 0 {
		return "", errors.New(r.String())
	}
	out, err := tool(h.t, "pgbench", append(args, strings.TrimSpace(r.out))...)
	if err != nil {
		err = fmt.Errorf("pgbench on %s: %w: %s", ref, err, out)
	}
	return out, err
}

// checkBalances checks that pgbench's tables agree, and returns the number of
// transactions in its history.
func (h *host) checkBalances(ref string) int64 {
	h.t.Helper()
	conn, err := h.tryConnect(h.t.Context(), ref)
	if err != nil {
		h.t.Fatalf("connect to %s: %v", ref, err)
	}
	defer conn.Close(context.Background())
	// One statement, one snapshot: the load may go on.
	var a, te, b, d, n int64
	err = conn.QueryRow(h.t.Context(), `select
		(select sum(abalance) from pgbench_accounts), (select sum(tbalance) from pgbench_tellers),
		(select sum(bbalance) from pgbench_branches), (select coalesce(sum(delta), 0) from pgbench_history),
		(select count(*) from pgbench_history)`).Scan(&a, &te, &b, &d, &n)
	if err != nil {
		h.t.Fatalf("read balances of %s: %v", ref, err)
	}
	if a != te || te != b || b != d {
		h.t.Errorf("%s: balances do not agree: accounts %d, tellers %d, branches %d, history %d (%d transactions)", ref, a, te, b, d, n)
	}
	return n
}

// checkIndexes looks at every table and index of a branch, with amcheck.
func (h *host) checkIndexes(ref string) {
	h.t.Helper()
	h.bough("start", ref)
	var conn api.Connection
	h.json(&conn, "url", ref)
	if conn.Admin == nil {
		h.t.Fatalf("%s runs, and has no admin socket", ref)
	}
	// As root, whom the admin socket lets in.
	cmd := exec.CommandContext(h.t.Context(), filepath.Join(run.pgbin, "pg_amcheck"), "-h", conn.Admin.SocketDir, "-p", fmt.Sprint(conn.Admin.Port),
		"-U", conn.Admin.Role, "--all", "--install-missing", "--heapallindexed", "--rootdescend")
	cmd.Dir, cmd.Env = "/", append(environ(), "LC_ALL=C")
	out, err := cmd.CombinedOutput()
	for line := range strings.Lines(string(out)) {
		if !strings.HasPrefix(line, "NOTICE") && err == nil {
			err = errors.New("it has something to say")
		}
	}
	if err != nil {
		h.t.Errorf("amcheck of %s: %v: %s", ref, err, out)
	}
}

// disk returns the file of a branch's device.
func (h *host) disk(ref string) string {
	project, branch, ok := strings.Cut(ref, "/")
	if !ok {
		branch = "main"
	}
	return filepath.Join(h.state, "mnt", project, branch, "disk")
}

// checkFS checks the file system of a branch that is not in use. Its journal must
// have been replayed: the branch was mounted since the last crash.
func (h *host) checkFS(ref string) {
	h.t.Helper()
	ctx, cancel := context.WithTimeout(h.t.Context(), 2*time.Minute)
	defer cancel()
	out, err := exec.CommandContext(ctx, "e2fsck", "-f", "-n", h.disk(ref)).CombinedOutput()
	if err != nil {
		h.t.Errorf("e2fsck of %s: %v: %s", ref, err, out)
	}
	if strings.Contains(string(out), "skipping journal recovery") {
		h.t.Errorf("e2fsck of %s: the journal was not replayed: %s", ref, out)
	}
}

// checkReplayed mounts a branch, which replays the journal of its file system, and
// checks that this was all the repair that it needed.
func (h *host) checkReplayed(ref string) {
	h.t.Helper()
	h.bough("attach", ref)
	h.bough("detach", ref)
	h.checkFS(ref)
}

// checkPages checks the checksum of every page of a branch that is not in use, and
// was shut down in order.
func (h *host) checkPages(ref string) {
	h.t.Helper()
	var at api.Attachment
	h.json(&at, "attach", ref)
	out, err := tool(h.t, "pg_checksums", "--check", "-D", filepath.Join(at.Mountpoint, "pgdata"))
	if err != nil || !strings.Contains(out, "Bad checksums:  0") {
		h.t.Errorf("pg_checksums of %s: %v: %s", ref, err, out)
	}
	h.bough("detach", ref)
}

// checkWhole checks a branch with everything that can look at it: amcheck while it
// runs, then the file system and the pages. It is suspended afterwards.
func (h *host) checkWhole(ref string) {
	h.t.Helper()
	h.checkIndexes(ref)
	h.bough("suspend", ref)
	h.checkFS(ref)
	h.checkPages(ref)
}

// branchNamed returns a branch as `bough branch show` has it.
func (h *host) branchNamed(ref string) api.Branch {
	h.t.Helper()
	var b api.Branch
	h.json(&b, "branch", "show", ref)
	return b
}

// verify runs `bough verify` and returns the problems that it names.
func (h *host) verify() (problems []api.VerifyProblem, r result) {
	h.t.Helper()
	r = h.call("verify", "--json")
	dec := json.NewDecoder(strings.NewReader(r.out))
	ended := false
	for dec.More() {
		var ev api.VerifyEvent
		if err := dec.Decode(&ev); err != nil {
			h.t.Fatalf("%v: in %v", err, r)
		}
		if ev.Problem != nil {
			problems = append(problems, *ev.Problem)
		}
		ended = ended || ev.Result != nil
	}
	if !ended {
		h.t.Errorf("verify printed no result: %v", r)
	}
	if want := min(len(problems), 1); r.code != want {
		h.t.Errorf("verify found %d problems, want exit code %d: %v", len(problems), want, r)
	}
	return problems, r
}
