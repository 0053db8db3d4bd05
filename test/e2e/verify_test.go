package e2e

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestVerifyOffline checks a store without a daemon, whole and damaged, and changes
// nothing in it.
func TestVerifyOffline(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	h.start("--create", "demo")
	h.exec("demo", "create table t as select g, md5(g::text) from generate_series(1, 20000) g")
	h.bough("branch", "create", "demo/dev")
	id := h.branchNamed("demo").ID
	// While somebody uses it, it is told to go through the daemon.
	h.refused(1, []string{"in use by process"}, "verify", "--store", filepath.Join(h.state, "store"))
	h.stop()
	store := filepath.Join(h.state, "store")
	before := files(t, store)
	if out := h.bough("verify", "--store", store); !strings.Contains(out, "all whole") {
		t.Errorf("verify of a whole store: %s", out)
	}
	if out := h.bough("verify", "--store", store, "demo/dev"); !strings.Contains(out, "checked 1 branch") {
		t.Errorf("verify of a branch: %s", out)
	}
	if after := files(t, store); before != after {
		t.Errorf("verify has changed the store:\n%s\nwas\n%s", after, before)
	}
	// What nothing needs is named, and is no problem.
	stray := "branches/br-calm-oak-00000001/seg/000000000007"
	if err := errors.Join(os.MkdirAll(filepath.Dir(h.object(stray)), 0o755), os.WriteFile(h.object(stray), []byte("late"), 0o644)); err != nil {
		t.Fatal(err)
	}
	out := h.bough("verify", "--store", store)
	for _, want := range []string{"orphan " + stray, "there is no such branch", "1 orphan", "all whole"} {
		if !strings.Contains(out, want) {
			t.Errorf("verify of a store with an orphan does not say %q: %s", want, out)
		}
	}
	key := h.newest("branches/" + id + "/seg/")
	flip(t, h.object(key), 100*8)
	r := h.call("verify", "--store", store)
	if r.code != 1 || !strings.Contains(r.out, key) || !strings.Contains(r.out, "affects demo/main") {
		t.Errorf("verify of a damaged store does not name %s: %v", key, r)
	}
	flip(t, h.object(key), 100*8)
	h.refused(1, []string{"is not a bough store"}, "verify", "--store", t.TempDir())
	h.refused(2, []string{"--boot"}, "verify", "--boot")
}

// files lists the files of a store, with their sizes and times.
func files(t *testing.T, dir string) string {
	t.Helper()
	var all strings.Builder
	err := filepath.WalkDir(filepath.Join(dir, "branches"), func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		info, err := d.Info()
		if err == nil {
			all.WriteString(path + " " + info.ModTime().String() + "\n")
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all.String()
}

// TestVerifyBoot has Postgres's own tools look at a moment of the past, and at one with
// a page that was damaged from inside.
func TestVerifyBoot(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	h.start("--create", "demo")
	h.exec("demo", "create table t as select g, md5(g::text) from generate_series(1, 20000) g", "create index on t (g)")
	h.bough("snapshot", "create", "demo", "good")
	h.exec("demo", "drop table t")
	type certificate struct {
		Seq          uint64 `json:"seq"`
		AmcheckClean bool   `json:"amcheck_clean"`
		Pages        int64  `json:"pages"`
		BadPages     int64  `json:"bad_pages"`
	}
	var good, now certificate
	h.json(&good, "verify", "--boot", "demo@good")
	h.json(&now, "verify", "--boot", "demo")
	if !good.AmcheckClean || !now.AmcheckClean || good.BadPages+now.BadPages > 0 || good.Pages <= now.Pages || good.Seq >= now.Seq {
		t.Errorf("certificates: %+v, and after the table was dropped %+v", good, now)
	}
	if left := h.bough("branch", "list", "demo"); strings.Contains(left, "at-") {
		t.Errorf("the branch that was made for it is still there:\n%s", left)
	}
	// A table of which a page was overwritten, with a suspended server.
	h.exec("demo", "create table u as select g from generate_series(1, 20000) g", "checkpoint")
	path := ""
	conn := h.connect("demo")
	if err := conn.QueryRow(t.Context(), "select pg_relation_filepath('u')").Scan(&path); err != nil {
		t.Fatal(err)
	}
	_ = conn.Close(t.Context())
	h.bough("suspend", "demo")
	dir := h.attach("demo")
	flip(t, filepath.Join(dir, "pgdata", path), 8192*8+4000)
	h.bough("detach", "demo")
	r := h.call("verify", "--boot", "demo")
	if r.code != 1 || !strings.Contains(r.out, "bad page") || !strings.Contains(r.err, "is damaged") {
		t.Errorf("verify of a damaged table: %v", r)
	}
}
