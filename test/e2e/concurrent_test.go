package e2e

import (
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/bough-db/bough/api"
)

// together runs commands at the same time and returns what they did.
func (h *host) together(commands ...[]string) []result {
	results := make([]result, len(commands))
	var wg sync.WaitGroup
	begin := make(chan struct{})
	for i, c := range commands {
		wg.Go(func() {
			<-begin
			results[i] = h.call(c...)
		})
	}
	close(begin)
	wg.Wait()
	return results
}

// succeeded returns how many commands did, and fails the test if one that did not
// says something else than one of the words.
func succeeded(t *testing.T, results []result, words ...string) (n int) {
	t.Helper()
	for _, r := range results {
		if r.code == 0 {
			n++
			continue
		}
		expected := r.code == 1 && strings.Count(r.err, "\n") == 1
		known := false
		for _, w := range words {
			known = known || strings.Contains(r.err, w)
		}
		if !expected || !known {
			t.Error(r)
		}
	}
	return n
}

// times returns n times the same command.
func times(n int, command ...string) (all [][]string) {
	for range n {
		all = append(all, command)
	}
	return all
}

// TestConcurrentCommands runs commands against each other.
func TestConcurrentCommands(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	h.start("--create", "demo")
	h.exec("demo", "create table t (i int)", "insert into t values (1)")

	// Different branches: all of them.
	var creates [][]string
	for i := range 20 {
		creates = append(creates, []string{"branch", "create", fmt.Sprintf("demo/b%d", i)})
	}
	if n := succeeded(t, h.together(creates...)); n != 20 {
		t.Errorf("%d of 20 branches were made", n)
	}
	var list api.BranchList
	if h.json(&list, "branch", "list", "demo"); len(list.Branches) != 21 {
		t.Errorf("%d branches are listed, want 21", len(list.Branches))
	}
	// The same one: one of them.
	if n := succeeded(t, h.together(times(8, "branch", "create", "demo/same")...), "demo/same exists"); n != 1 {
		t.Errorf("%d commands made the same branch, want 1", n)
	}
	if n := succeeded(t, h.together(times(8, "project", "create", "same")...), "project same exists"); n != 1 {
		t.Errorf("%d commands made the same project, want 1", n)
	}
	h.exec("same", "select 1")
	if n := succeeded(t, h.together(times(4, "project", "delete", "same", "--yes")...), "no project same", "being deleted"); n < 1 {
		t.Error("no command deleted the project")
	}
	h.refused(1, []string{"no project same"}, "project", "show", "same")

	// Connections to one that sleeps share a start.
	var wg sync.WaitGroup
	for range 10 {
		wg.Go(func() {
			if n, err := h.tryCount(t.Context(), "demo/b0", "select count(*) from t"); err != nil || n != 1 {
				t.Errorf("one of many first connections: %d, %v", n, err)
			}
		})
	}
	wg.Wait()

	// Start and suspend at once: each does what it says, in some order.
	if n := succeeded(t, h.together(append(times(5, "start", "demo/b1"), times(5, "suspend", "demo/b1")...)...)); n != 10 {
		t.Errorf("%d of 10 starts and suspends succeeded", n)
	}
	if n := h.count("demo/b1", "select count(*) from t"); n != 1 {
		t.Errorf("%d rows, want 1", n)
	}

	// A branch that goes while it is used, started and branched from.
	conn := h.connect("demo/b2")
	results := h.together([]string{"branch", "delete", "demo/b2"}, []string{"branch", "delete", "demo/b2"}, []string{"start", "demo/b2"},
		[]string{"branch", "create", "demo/of-b2", "--from", "demo/b2"}, []string{"branch", "rename", "demo/b2", "b2new"}, []string{"attach", "demo/b2"})
	succeeded(t, results, "no branch demo/b2", "in use", "running", "delet")
	if _, err := conn.Exec(t.Context(), "select 1"); err == nil && h.call("branch", "show", "demo/b2").code != 0 && h.call("branch", "show", "demo/b2new").code != 0 {
		t.Error("a deleted branch still answers")
	}
	for _, ref := range []string{"demo/b2", "demo/b2new", "demo/of-b2"} {
		h.call("detach", ref)
		if h.call("branch", "show", ref).code != 0 {
			continue
		}
		if n := h.count(ref, "select count(*) from t"); n != 1 {
			t.Errorf("%d rows on %s, want 1", n, ref)
		}
	}
	h.checkNothing()
	h.exec("demo", "insert into t values (2)")
	h.start2(func() {})
	if n := h.count("demo", "select count(*) from t"); n != 2 {
		t.Errorf("%d rows, want 2", n)
	}
}
