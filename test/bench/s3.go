package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/bough-db/bough/api"
	"github.com/bough-db/bough/api/client"
	"github.com/bough-db/bough/objstore"
	"github.com/bough-db/bough/objstore/s3store"
	"github.com/bough-db/bough/test/netfault"
	"github.com/bough-db/bough/test/s3server"
	"github.com/jackc/pgx/v5"
)

// What the S3 suite assumes of a store: a region's own S3, from a machine in it.
const (
	getTime = 20 * time.Millisecond
	putTime = 35 * time.Millisecond

	// List prices per request, in dollars: PUT, POST, LIST; and GET and the rest.
	putPrice = 0.005 / 1000
	getPrice = 0.0004 / 1000

	million = 1e6
)

// remoteResult is what a number of clients reached at durability remote.
type remoteResult struct {
	Clients int     `json:"clients"`
	Local   float64 `json:"local_tps"`
	Remote  float64 `json:"remote_tps"`
	// Bound is clients ÷ (PUT + CPU): each commit waits for one put, and before it
	// for what all clients' transactions cost at durability local.
	Bound float64 `json:"bound_tps"`
	// PutMillis is what a put of 32 KiB took, at the median.
	PutMillis float64 `json:"put_ms"`
	// Pause is what the first of many commits waited for the others in the end.
	Pause float64 `json:"pause_ms"`
	Ratio float64 `json:"ratio"` // Remote ÷ Bound
}

// costResult is what a number of transactions asked of the store.
type costResult struct {
	What         string  `json:"what"`
	Transactions float64 `json:"transactions"`
	// The rest is per million transactions.
	Puts     float64 `json:"puts"`
	Gets     float64 `json:"gets"`
	SentMB   float64 `json:"sent_mb"`
	Received float64 `json:"received_mb"`
	Dollars  float64 `json:"dollars"`
}

// s3Report is what the S3 suite found.
type s3Report struct {
	DatabaseMB float64        `json:"database_mb"`
	CacheMB    float64        `json:"cache_mb"`
	SmallCache float64        `json:"small_cache_tps"`
	Remote     []remoteResult `json:"remote"`
	Costs      []costResult   `json:"costs"`
	IdleFor    string         `json:"idle_for,omitempty"`
	IdleAsked  int            `json:"idle_requests"`
}

// s3Suite is a daemon on a store in S3, behind the latency of a region.
type s3Suite struct {
	o      options
	root   string
	server *s3server.Server
	slow   *netfault.Latency
	url    string
	d      *daemon
	c      *client.Client
	rep    s3Report
}

// runS3 measures a database whose store is a real S3 server with the latency of one.
func runS3(ctx context.Context, root string, o options) (_ *s3Report, err error) {
	s := &s3Suite{o: o, root: root}
	defer func() { err = errors.Join(err, s.close()) }()
	if s.server, err = s3server.Start(ctx, s3server.Options{}); err != nil {
		return nil, err
	}
	if err := useServer(s.server); err != nil {
		return nil, err
	}
	if s.slow, err = netfault.NewLatency(s.server.Address(), getTime, putTime); err != nil {
		return nil, err
	}
	s.url = s.server.URLAt("http://"+s.slow.Address(), "bench")
	for _, step := range []func(context.Context) error{s.fill, s.smallCache, s.remote, s.idle} {
		if err := step(ctx); err != nil {
			return nil, err
		}
	}
	return &s.rep, nil
}

// useServer gives this process and its children what the server wants to see.
func useServer(server *s3server.Server) error {
	for _, kv := range server.Env() {
		k, v, _ := strings.Cut(kv, "=")
		if err := os.Setenv(k, v); err != nil {
			return err
		}
	}
	return nil
}

func (s *s3Suite) close() error {
	var err error
	if s.d != nil {
		err = s.stopDaemon()
	}
	if s.slow != nil {
		err = errors.Join(err, s.slow.Close())
	}
	if s.server != nil {
		err = errors.Join(err, s.server.Close())
	}
	return err
}

// startDaemon starts the daemon on the store, with a disk cache of the given bytes.
func (s *s3Suite) startDaemon(ctx context.Context, cacheBytes int64) (err error) {
	o := s.o
	o.serve = []string{"--store", s.url, "--cache-bytes", strconv.FormatInt(cacheBytes, 10)}
	if s.d, err = startDaemon(ctx, o, filepath.Join(s.root, "s3")); err == nil {
		s.c = client.New(s.d.socket)
	}
	return err
}

func (s *s3Suite) stopDaemon() error {
	s.c.Close()
	d := s.d
	s.d = nil
	return d.stop()
}

// fill makes the database.
func (s *s3Suite) fill(ctx context.Context) error {
	if err := s.startDaemon(ctx, 1<<30); err != nil {
		return err
	}
	url, err := s.clientURL(ctx)
	if err != nil {
		return err
	}
	out, err := exec.CommandContext(ctx, "pgbench", "-i", "-q", "-s", strconv.Itoa(s.o.scale), url).CombinedOutput()
	if err != nil {
		return fmt.Errorf("pgbench -i: %w: %s", err, tail(out))
	}
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	var bytes int64
	if err := conn.QueryRow(ctx, "select pg_database_size(current_database())").Scan(&bytes); err != nil {
		return err
	}
	s.rep.DatabaseMB = float64(bytes) / million
	return nil
}

func (s *s3Suite) clientURL(ctx context.Context) (string, error) {
	conn, err := s.c.Connection(ctx, "bench", api.MainBranch)
	return conn.URL, err
}

// smallCache runs TPC-B with a disk cache of a quarter of the database.
func (s *s3Suite) smallCache(ctx context.Context) error {
	if err := s.stopDaemon(); err != nil {
		return err
	}
	bytes := int64(s.rep.DatabaseMB * million / 4)
	s.rep.CacheMB = float64(bytes) / million
	if err := s.startDaemon(ctx, bytes); err != nil {
		return err
	}
	r, err := s.measured(ctx, "durability local, cache of a quarter", s.o.clients, "tpcb-like")
	if err != nil {
		return err
	}
	s.rep.SmallCache = r
	fmt.Printf("%-52s %9.0f tps (database %.0f MB, cache %.0f MB)\n",
		"TPC-B, disk cache of a quarter of the database", r, s.rep.DatabaseMB, s.rep.CacheMB)
	if err := s.stopDaemon(); err != nil {
		return err
	}
	if err := s.startDaemon(ctx, 8<<30); err != nil {
		return err
	}
	return s.warm(ctx)
}

func (s *s3Suite) connect(ctx context.Context) (*pgx.Conn, error) {
	url, err := s.clientURL(ctx)
	if err != nil {
		return nil, err
	}
	return pgx.Connect(ctx, url)
}

// warm reads the database once, into the disk cache.
func (s *s3Suite) warm(ctx context.Context) error {
	conn, err := s.connect(ctx)
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	for _, q := range []string{
		"select count(*) from pgbench_accounts where filler < ' '",
		"set enable_seqscan = off", "set enable_bitmapscan = off",
		"select count(aid) from pgbench_accounts where aid > 0",
	} {
		if _, err := conn.Exec(ctx, q); err != nil {
			return err
		}
	}
	return nil
}

// remote compares durability remote with what one put for each commit allows. The
// workload is pgbench's simple update: in TPC-B clients wait for each other's commits,
// with locks on the few rows of branches and tellers, and the bound is another one. Each
// measurement begins with a server that was stopped, and so without pages to write that
// another one has changed, and has the database in its memory or in the disk cache.
func (s *s3Suite) remote(ctx context.Context) error {
	put, err := s.putTime(ctx)
	if err != nil {
		return err
	}
	for _, clients := range []int{1, 8, 50} {
		r := remoteResult{Clients: clients, PutMillis: float64(put.Microseconds()) / 1000}
		for _, d := range []string{"local", "remote"} {
			if err := s.d.call(ctx, nil, "branch", "set", "bench/main", "--durability", d); err != nil {
				return err
			}
			if err := s.d.call(ctx, nil, "suspend", "bench/main"); err != nil {
				return err
			}
			if err := s.warm(ctx); err != nil {
				return err
			}
			tps, err := s.measured(ctx, fmt.Sprintf("durability %s, %d clients", d, clients), clients, "simple-update")
			if err != nil {
				return err
			}
			if d == "local" {
				r.Local = tps
			} else {
				r.Remote = tps
				if r.Pause, err = s.pause(ctx); err != nil {
					return err
				}
			}
		}
		n := float64(clients)
		r.Bound = n / (put.Seconds() + n/r.Local)
		r.Ratio = r.Remote / r.Bound
		s.rep.Remote = append(s.rep.Remote, r)
		fmt.Printf("%-24s %3d clients  local %7.0f  remote %7.1f  bound %7.1f tps  ratio %.2f  (put %.1f ms, pause %.1f ms)\n",
			"simple-update, remote", clients, r.Local, r.Remote, r.Bound, r.Ratio, r.PutMillis, r.Pause)
	}
	return s.d.call(ctx, nil, "branch", "set", "bench/main", "--durability", "local")
}

// pause returns the commit_delay that the server has, in milliseconds.
func (s *s3Suite) pause(ctx context.Context) (float64, error) {
	conn, err := s.connect(ctx)
	if err != nil {
		return 0, err
	}
	defer conn.Close(ctx)
	var micros float64
	err = conn.QueryRow(ctx, "select current_setting('commit_delay')::float8").Scan(&micros)
	return micros / 1000, err
}

// putTime returns how long a put of 32 KiB takes, at the median.
func (s *s3Suite) putTime(ctx context.Context) (time.Duration, error) {
	store, err := s3store.Open(ctx, s.server.URLAt("http://"+s.slow.Address(), "probe"), s3store.Options{})
	if err != nil {
		return 0, err
	}
	defer store.Close()
	var took []float64
	for i := range 21 {
		began := time.Now()
		if _, err := store.Put(ctx, fmt.Sprint("x/", i), make([]byte, 32<<10), objstore.Condition{IfAbsent: true}); err != nil {
			return 0, err
		}
		took = append(took, time.Since(began).Seconds())
	}
	return time.Duration(median(took) * float64(time.Second)), nil
}

// measured runs a script of pgbench, notes what it asked of the store, and checks its sums.
func (s *s3Suite) measured(ctx context.Context, what string, clients int, script string) (float64, error) {
	url, err := s.clientURL(ctx)
	if err != nil {
		return 0, err
	}
	before := s.slow.Counts()
	out, err := exec.CommandContext(ctx, "pgbench", "-n", "-b", script, "-c", strconv.Itoa(clients), "-j", strconv.Itoa(min(clients, 2)),
		"-T", strconv.Itoa(s.o.seconds), url).CombinedOutput()
	if err != nil {
		return 0, fmt.Errorf("pgbench: %w: %s", err, tail(out))
	}
	tps, count := tpsLine.FindSubmatch(out), doneLine.FindSubmatch(out)
	if tps == nil || count == nil || !strings.Contains(string(out), "number of failed transactions: 0 ") {
		return 0, fmt.Errorf("pgbench: %s", tail(out))
	}
	after := s.slow.Counts()
	n, err := strconv.ParseFloat(string(count[1]), 64)
	if err != nil {
		return 0, err
	}
	s.cost(what, n, before, after)
	if err := checkSums(ctx, url); err != nil {
		return 0, err
	}
	return strconv.ParseFloat(string(tps[1]), 64)
}

var doneLine = regexp.MustCompile(`(?m)^number of transactions actually processed: ([0-9]+)`)

// checkSums compares the sums that pgbench keeps equal. Its simple update leaves out
// branches and tellers.
func checkSums(ctx context.Context, url string) error {
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	var accounts, branches, tellers, history int64
	err = conn.QueryRow(ctx, "select (select sum(abalance) from pgbench_accounts), (select sum(bbalance) from pgbench_branches), "+
		"(select sum(tbalance) from pgbench_tellers), (select coalesce(sum(delta), 0) from pgbench_history)").
		Scan(&accounts, &branches, &tellers, &history)
	if err == nil && (accounts != history || branches != tellers) {
		err = fmt.Errorf("the sums differ: accounts %d, history %d; branches %d, tellers %d", accounts, history, branches, tellers)
	}
	return err
}

// cost notes what n transactions asked of the store.
func (s *s3Suite) cost(what string, n float64, before, after netfault.Counts) {
	each := func(x int64) float64 { return float64(x) / n * million }
	c := costResult{
		What: what, Transactions: n,
		Puts: each(after.Puts - before.Puts), Gets: each(after.Gets - before.Gets),
		SentMB: each(after.SentBytes-before.SentBytes) / million, Received: each(after.ReceivedBytes-before.ReceivedBytes) / million,
	}
	c.Dollars = c.Puts*putPrice + c.Gets*getPrice
	s.rep.Costs = append(s.rep.Costs, c)
	fmt.Printf("%-44s per million transactions: %9.0f puts %7.0f gets %8.0f MB sent %7.0f MB read  $%.4f\n",
		what, c.Puts, c.Gets, c.SentMB, c.Received, c.Dollars)
}

// idle counts what a branch that nobody writes to asks of the store.
func (s *s3Suite) idle(ctx context.Context) error {
	dir := filepath.Join(s.root, "idle")
	if err := s.d.call(ctx, nil, "branch", "create", "bench/idle"); err != nil {
		return err
	}
	if err := s.d.call(ctx, nil, "attach", "bench/idle", dir); err != nil {
		return err
	}
	if err := s.d.call(ctx, nil, "suspend", "bench/main"); err != nil {
		return err
	}
	// What the mount wrote has to reach the store first.
	for last := int64(-1); ; {
		now := s.slow.Counts()
		if total := now.Puts + now.Gets; total == last {
			break
		} else {
			last = total
		}
		if !pause(ctx, 15*time.Second) {
			return ctx.Err()
		}
	}
	lines, err := s.server.Requests()
	if err != nil {
		return err
	}
	if !pause(ctx, s.o.idle) {
		return ctx.Err()
	}
	after, err := s.server.Requests()
	if err != nil {
		return err
	}
	s.rep.IdleFor, s.rep.IdleAsked = s.o.idle.String(), len(after)-len(lines)
	fmt.Printf("%-52s %d requests in %v\n", "a branch that is attached and idle", s.rep.IdleAsked, s.o.idle)
	return nil
}

// pause waits, and reports whether ctx still goes on.
func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
