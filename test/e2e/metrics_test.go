package e2e

import (
	"context"
	"io"
	"net"
	"net/http"
	"regexp"
	"strconv"
	"testing"
)

// metrics reads what the daemon counts, as Prometheus would.
func (h *host) metrics() string {
	h.t.Helper()
	transport := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", h.socket)
	}}
	defer transport.CloseIdleConnections()
	req, err := http.NewRequestWithContext(h.t.Context(), http.MethodGet, "http://bough/metrics", nil)
	if err != nil {
		h.t.Fatal(err)
	}
	resp, err := (&http.Client{Transport: transport}).Do(req)
	if err != nil {
		h.t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		h.t.Fatalf("metrics: %s, %v: %s", resp.Status, err, text)
	}
	return string(text)
}

// TestMetrics: what the daemon counts is what it has done.
func TestMetrics(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	h.start("--create", "demo")
	value := func(metric string) float64 {
		t.Helper()
		m := regexp.MustCompile(`(?m)^` + regexp.QuoteMeta(metric) + ` (\S+)$`).FindStringSubmatch(h.metrics())
		if m == nil {
			t.Fatalf("no metric %s", metric)
		}
		v, err := strconv.ParseFloat(m[1], 64)
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
	h.exec("demo", "create table t (i int)")
	conn := h.connect("demo")
	flush, barrier := `bough_branch_seconds_count{operation="flush"}`, `bough_branch_barrier{branch="main",project="demo"}`
	before, first := value(flush), value(barrier)
	const commits = 50
	for i := range commits {
		if _, err := conn.Exec(t.Context(), "insert into t values ($1)", i); err != nil {
			t.Fatal(err)
		}
	}
	if n := value(flush) - before; n < commits {
		t.Errorf("%v flushes for %d commits", n, commits)
	}
	if n := value(barrier) - first; n < commits {
		t.Errorf("%v barriers for %d commits", n, commits)
	}
	if n := value(`bough_branch_clients{branch="main",project="demo"}`); n != 1 {
		t.Errorf("%v clients", n)
	}
	if n := value(`bough_store_requests_total{verb="put"}`); n == 0 {
		t.Error("no puts")
	}
	h.bough("suspend", "demo")
	if n := value(`bough_branch_seconds_count{operation="upload"}`); n == 0 {
		t.Error("no uploads")
	}
	h.bough("status", "--usage")
	if value("bough_stored_bytes") == 0 || value("bough_history_max_bytes") == 0 {
		t.Error("what the store holds, and what history may take, is not told")
	}
}
