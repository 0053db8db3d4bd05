package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/bough-db/bough/api"
	"github.com/bough-db/bough/test/netfault"
)

// TestStoreAway takes the store away while clients commit at durability remote, and
// brings it back. Commits wait, what is on the host goes on, and nothing fails but
// what needs the store; then everything goes on by itself.
func TestStoreAway(t *testing.T) {
	t.Parallel()
	c := sharedStore(t)
	l := newLink(t, c.server.Address())
	h := c.hostAt(t, c.server.URLAt("http://"+l.Address(), "store"))
	p := c.project()
	ref := p + "/main"
	h.start()
	h.bough("project", "create", p, "--durability", "remote")
	ledger := &ledger{}
	ledger.create(h, p)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	clients := ledger.run(ctx, h, p)
	eventually(t, connectLimit, "clients commit", ledger.moved(20))
	// What a query needs, of the catalogue too, is on the host once it has run.
	const query = "select count(*) from counter"
	reader := h.connect(p)
	h.count(p, query)
	if _, err := reader.Exec(t.Context(), query); err != nil {
		t.Fatal(err)
	}

	l.Set(netfault.Line{Blackhole: true})
	defer l.Set(netfault.Line{})
	// The status says what waits, without waiting for the store itself.
	eventually(t, commandLimit, "the status says that commits wait", func() error {
		var s api.Status
		h.json(&s, "status")
		if s.Store.Error == "" || len(s.Branches) != 1 || s.Branches[0].Ref() != ref {
			return fmt.Errorf("%+v", s)
		}
		if b := s.Branches[0]; b.StoreError == "" || b.PendingBytes == 0 || b.PendingSince.IsZero() || b.StoreErrorSince.IsZero() {
			return fmt.Errorf("%+v", b)
		}
		return nil
	})
	if out := h.bough("status"); !strings.Contains(out, "commits have waited for the store for") || !strings.Contains(out, "does not answer") {
		t.Errorf("status:\n%s", out)
	}
	before := ledger.total()
	// Reads of what the host has go on, on old and new connections.
	reads, stop := context.WithTimeout(t.Context(), connectLimit)
	defer stop()
	if n, err := h.tryCount(reads, p, query); err != nil || n != ledgerClients {
		t.Errorf("%d rows on a new connection, %v", n, err)
	}
	if _, err := reader.Exec(reads, query); err != nil {
		t.Errorf("read: %v", err)
	}
	for _, r := range h.together([]string{"branch", "list"}, []string{"branch", "create", p + "/dev"}, []string{"start", p + "/none"}) {
		checkRefused(t, r, 1, []string{"the store does not answer"})
	}
	if now := ledger.total(); now != before {
		t.Errorf("%d commits were acknowledged without the store", now-before)
	}

	l.Set(netfault.Line{})
	eventually(t, connectLimit, "clients go on", ledger.moved(20))
	cancel()
	for err := range clients {
		t.Errorf("a client failed: %v", err)
	}
	ledger.check(h, p)
	eventually(t, connectLimit, "the status is well again", func() error {
		var s api.Status
		if h.json(&s, "status"); s.Store.Error != "" || s.Branches[0].StoreError != "" {
			return fmt.Errorf("%+v", s)
		}
		return nil
	})
	h.bough("branch", "create", p+"/dev")
}

// TestStartWithoutStore starts a daemon while the store is away.
func TestStartWithoutStore(t *testing.T) {
	t.Parallel()
	c := sharedStore(t)
	h := c.hostAt(t, c.server.URLAt("http://127.0.0.1:1", "store"))
	h.serveFails(h.plainServe(), 1, "127.0.0.1:1")
	if left := leftovers(h.dir, h.state); len(left) > 0 {
		t.Errorf("it left %v", left)
	}
}

// openState is what status.json says of a branch that is open.
type openState struct {
	Segment uint64 `json:"segment"`
	Flushes uint64 `json:"flushes"`
	Trims   uint64 `json:"trims"`
}

func (h *host) openState(ref string) openState {
	h.t.Helper()
	text, err := os.ReadFile(filepath.Join(filepath.Dir(h.disk(ref)), "status.json"))
	if err != nil {
		h.t.Fatal(err)
	}
	var s struct {
		Open *openState `json:"open"`
	}
	if err := json.Unmarshal(text, &s); err != nil || s.Open == nil {
		h.t.Fatalf("status.json of %s: %v: %s", ref, err, text)
	}
	return *s.Open
}

// TestDurabilityOnline changes the durability of a branch while clients work on it, who
// see nothing of it; the settings of its server follow, the pause of those who commit
// adapts to them, and a commit is one segment.
func TestDurabilityOnline(t *testing.T) {
	t.Parallel()
	c := sharedStore(t)
	h := c.host(t)
	p := c.project()
	ref := p + "/main"
	h.start("--create", p)
	if _, err := h.pgbench(p, "-i", "-q", "-s", "2"); err != nil {
		t.Fatal(err)
	}
	// A branch at remote of a parent at local goes on in its parent's file of WAL.
	h.bough("branch", "create", p+"/early", "--durability", "remote")
	settings := func() (initZero, recycle string) {
		conn := h.connect(p)
		if err := conn.QueryRow(t.Context(), "select current_setting('wal_init_zero'), current_setting('wal_recycle')").Scan(&initZero, &recycle); err != nil {
			t.Fatal(err)
		}
		return initZero, recycle
	}
	load := h.startLoad(p, 4, 5*time.Minute)
	defer load.cancel()
	history := func() int64 { return h.count(p, "select count(*) from pgbench_history") }
	for i, d := range []string{"remote", "local", "remote"} {
		h.bough("branch", "set", ref, "--durability", d)
		if b := h.branchNamed(ref); string(b.Durability) != d {
			t.Errorf("the durability is %s, want %s", b.Durability, d)
		}
		want := map[string]string{"remote": "on", "local": "off"}[d]
		eventually(t, connectLimit, "the settings follow", func() error {
			if zero, recycle := settings(); zero != want || recycle != want {
				return fmt.Errorf("wal_init_zero %s, wal_recycle %s", zero, recycle)
			}
			return nil
		})
		before := history()
		eventually(t, connectLimit, "clients go on", func() error {
			if n := history(); n < before+20 {
				return errors.New("not yet")
			}
			return nil
		})
		if load.ended() {
			t.Fatalf("change %d: the load ended: %v", i, load.stop())
		}
	}
	pauses := map[string]bool{}
	eventually(t, connectLimit, "the pause before a flush is adapted", func() error {
		var delay string
		if err := h.connect(p).QueryRow(t.Context(), "show commit_delay").Scan(&delay); err != nil {
			t.Fatal(err)
		}
		if pauses[delay] = true; len(pauses) < 3 {
			return fmt.Errorf("commit_delay has been %v", slices.Collect(maps.Keys(pauses)))
		}
		return nil
	})
	if err := load.stop(); err != nil {
		t.Error(err)
	}
	h.checkBalances(p)
	// Branches begin with the durability of their parent, or their own.
	h.bough("branch", "create", p+"/same")
	h.bough("branch", "create", p+"/other", "--durability", "local")
	if a, b := h.branchNamed(p+"/same").Durability, h.branchNamed(p+"/other").Durability; a != "remote" || b != "local" {
		t.Errorf("durability of branches: %s and %s", a, b)
	}
	h.refused(2, []string{"local or remote"}, "branch", "set", ref, "--durability", "twice")

	for _, name := range []string{"main", "early"} {
		h.commitsAreSegments(p, name)
	}
}

// commitsAreSegments has one client commit at durability remote: a commit is one segment,
// and one request. What comes besides is of the file system's journal, every 5 s, and of a
// checkpoint.
func (h *host) commitsAreSegments(project, name string) {
	t, ref := h.t, project+"/"+name
	t.Helper()
	const commits = 200
	eventually(t, connectLimit, "a commit is a segment", func() error {
		if _, err := h.pgbench(ref, "-n", "-c", "1", "-t", "50"); err != nil {
			t.Fatal(err)
		}
		began, from := time.Now(), h.openState(ref)
		if _, err := h.pgbench(ref, "-n", "-c", "1", "-t", fmt.Sprint(commits)); err != nil {
			t.Fatal(err)
		}
		to := h.openState(ref)
		segments, most := to.Segment-from.Segment, uint64(commits*11/10+20+2*time.Since(began)/time.Second)
		t.Logf("%s: %d commits of one client: %d segments, %d flushes in %v", name, commits, segments, to.Flushes-from.Flushes, time.Since(began).Round(time.Millisecond))
		if segments > most || segments < commits {
			return fmt.Errorf("%s: %d segments for %d commits, want one each, and %d at most", name, segments, commits, most)
		}
		return nil
	})
}

// TestFreeSpaceIsDiscarded drops a table: before the next collection in the background
// the file system gives the room back to the branch.
func TestFreeSpaceIsDiscarded(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	h.start("--create", "demo", "--gc-every", "1s")
	h.exec("demo", "create table keep as select generate_series(1, 1000) i",
		"create table t as select md5(i::text) from generate_series(1, 100000) i", "drop table t")
	eventually(t, connectLimit, "free space is discarded", func() error {
		if h.openState("demo").Trims == 0 {
			return errors.New("nothing was trimmed")
		}
		return nil
	})
	if n := h.count("demo", "select count(*) from keep"); n != 1000 {
		t.Errorf("%d rows are left, want 1000", n)
	}
	h.bough("verify", "--deep", "demo")
}
