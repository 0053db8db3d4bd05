package e2e

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/bough-db/bough/postgres/walpage"
)

// otherVersions are those of scripts/install-postgres.sh, which have no pg_controldata,
// and so no exact recovery.
var otherVersions = []string{"16", "17", "18"}

// otherPostgres returns the programs of a version of Postgres, where its server may read
// them.
func otherPostgres(t *testing.T, version string) string {
	t.Helper()
	if run.skip != "" {
		t.Skip(run.skip)
	}
	dir := os.Getenv("BOUGH_POSTGRES")
	if dir == "" {
		t.Skip("BOUGH_POSTGRES does not name a directory with other versions of Postgres: run scripts/install-postgres.sh")
	}
	to := filepath.Join(run.root, "postgres-"+version)
	if out, err := exec.Command("cp", "-a", filepath.Join(dir, version), to).CombinedOutput(); err != nil {
		t.Fatalf("copy Postgres %s: %v: %s", version, err, out)
	}
	t.Cleanup(func() { _ = os.RemoveAll(to) })
	return filepath.Join(to, "bin")
}

// TestPostgresVersions: LSNs are found in the log of every version of Postgres that is
// supported, whatever its pages begin with: across changes of segment and timeline,
// beside VACUUM FULL, and with a table that has the log itself in it.
func TestPostgresVersions(t *testing.T) {
	t.Parallel()
	for _, version := range otherVersions {
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			h := newHost(t, "--pg-bin", otherPostgres(t, version))
			h.start("--create", "demo")
			h.exec("demo", "create table notes (n bigint primary key)")
			h.findAll("demo", h.commit("demo", 0, 20))
		})
	}
	t.Run("timelines", func(t *testing.T) {
		t.Parallel()
		h := newHost(t)
		h.start("--create", "demo")
		h.exec("demo", "create table notes (n bigint primary key)")
		all := h.commit("demo", 0, 12)
		h.findAll("demo", all)
		exact := all[len(all)/2]
		h.bough("branch", "create", "demo/exact", "--from", "demo@xid:"+exact.xid)
		if n := h.count("demo/exact", "select count(*) from notes"); n != exact.n {
			t.Errorf("transaction %s: %d rows, want %d", exact.xid, n, exact.n)
		}
		// It is on a timeline of its own, whose LSNs its parent has too.
		h.findAll("demo/exact", h.commit("demo/exact", exact.n, 8))
	})
}

// commit lets a client commit one transaction after another, and the server do what
// makes its log interesting.
func (h *host) commit(ref string, from int64, count int) (all []commit) {
	h.t.Helper()
	ctx := h.t.Context()
	conn := h.connect(ref)
	for i := range count {
		all = append(all, note(h.t, conn, from+int64(i)+1))
		if i%6 == 2 {
			if _, err := conn.Exec(ctx, "vacuum full notes"); err != nil {
				h.t.Fatal(err)
			}
		}
		switch i {
		case count / 4, count / 2:
			h.bough("psql", ref, "--admin", "--", "-qc", "select pg_switch_wal()")
		case count / 3:
			h.bough("psql", ref, "--admin", "--", "-qc",
				"create table images as select pg_read_binary_file('pg_wal/' || pg_walfile_name(pg_current_wal_lsn())) as wal; checkpoint")
		}
	}
	if err := conn.Close(context.Background()); err != nil {
		h.t.Fatal(err)
	}
	return all
}

// findAll makes a branch of every fifth commit, by LSN. It has that commit, and of the
// later ones no more than those whose records begin in the same page of the log.
func (h *host) findAll(ref string, all []commit) {
	h.t.Helper()
	at := func(c commit) uint64 {
		var high, low uint64
		if _, err := fmt.Sscanf(c.lsn, "%X/%X", &high, &low); err != nil {
			h.t.Fatalf("LSN %q: %v", c.lsn, err)
		}
		return high<<32 | low
	}
	for i := 1; i < len(all); i += 5 {
		most := i // the last one that may be there
		for most+1 < len(all) && at(all[most])/walpage.PageBytes == at(all[i])/walpage.PageBytes {
			most++
		}
		h.bough("branch", "create", "demo/at", "--from", ref+"@lsn:"+all[i].lsn)
		if n := h.count("demo/at", "select max(n) from notes"); n < all[i].n || n > all[most].n {
			h.t.Errorf("%s at LSN %s: the last row is %d, want one from %d to %d", ref, all[i].lsn, n, all[i].n, all[most].n)
		}
		h.bough("branch", "delete", "demo/at")
	}
}
