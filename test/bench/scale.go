package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/bough-db/bough/api"
	"github.com/bough-db/bough/api/client"
	"github.com/jackc/pgx/v5"
)

// latency is what a number of tries took.
type latency struct {
	Name   string    `json:"name"`
	Tries  int       `json:"tries"`
	Millis []float64 `json:"ms,omitempty"` // each try, if they are few
	Median float64   `json:"median_ms"`
	P95    float64   `json:"p95_ms"`
}

// scale measures what must not depend on size: making a branch of a small, a
// large and a fragmented device, among few and many branches; and how long it
// takes from nothing to the first query.
type scale struct {
	d     *daemon
	c     *client.Client
	root  string
	tries int
	found []latency
}

func runScale(ctx context.Context, d *daemon, root string, o options) ([]latency, error) {
	s := &scale{d: d, c: client.New(d.socket), root: root, tries: o.tries}
	defer s.c.Close()
	for _, step := range []func(context.Context, options) error{s.queries, s.sizes, s.counts, s.many} {
		if err := step(ctx, o); err != nil {
			return s.found, err
		}
	}
	return s.found, nil
}

func (s *scale) add(name string, took []time.Duration) {
	s.found = append(s.found, newLatency(name, took))
}

// newLatency sums up what tries took, and prints it.
func newLatency(name string, took []time.Duration) latency {
	l := latency{Name: name}
	for _, t := range took {
		l.Millis = append(l.Millis, float64(t.Microseconds())/1000)
	}
	sorted := slices.Sorted(slices.Values(l.Millis))
	l.Tries, l.Median, l.P95 = len(sorted), median(sorted), sorted[len(sorted)*95/100]
	if len(l.Millis) > 100 {
		l.Millis = nil
	}
	fmt.Printf("%-52s median %8.2f ms  p95 %8.2f ms  of %d\n", name, l.Median, l.P95, len(took))
	return l
}

// branch makes a branch of the project's main and returns how long the answer
// took.
func (s *scale) branch(ctx context.Context, project, name string) (time.Duration, error) {
	start := time.Now()
	_, err := s.c.CreateBranch(ctx, project, api.CreateBranch{Name: name})
	return time.Since(start), err
}

// sizes compares devices of different contents, in turn.
func (s *scale) sizes(ctx context.Context, o options) error {
	large := fmt.Sprintf("%dg", o.largeGiB)
	devices := []struct{ project, what, lay, scatter string }{
		{"small", "100 MB", "100m", ""},
		{"large", large + "B in order", large, ""},
		{"scattered", large + "B in random order", "", large},
	}
	for _, d := range devices {
		if _, err := s.c.CreateProject(ctx, api.CreateProject{Name: d.project}); err != nil {
			return err
		}
		dir := filepath.Join(s.root, d.project)
		if err := s.d.call(ctx, nil, "attach", d.project, dir); err != nil {
			return err
		}
		args := []string{"--name=x", "--filename=" + filepath.Join(dir, "x"), "--direct=1", "--ioengine=libaio",
			"--refill_buffers", "--buffer_compress_percentage=50", "--fsync=4096"}
		if d.lay != "" {
			args = append(args, "--rw=write", "--bs=1m", "--iodepth=4", "--size="+d.lay)
		} else {
			args = append(args, "--rw=randwrite", "--bs=4k", "--iodepth=32", "--size="+d.scatter)
		}
		fmt.Fprintf(os.Stderr, "filling %s: %s\n", d.project, d.what)
		if out, err := exec.CommandContext(ctx, "fio", args...).CombinedOutput(); err != nil {
			return fmt.Errorf("fio: %w: %s", err, tail(out))
		}
	}
	took := map[string][]time.Duration{}
	for i := range s.tries {
		for _, d := range devices {
			t, err := s.branch(ctx, d.project, fmt.Sprintf("b%d", i))
			if err != nil {
				return err
			}
			took[d.project] = append(took[d.project], t)
		}
	}
	for _, d := range devices {
		s.add("create a branch of "+d.what, took[d.project])
		for i := range s.tries {
			if err := s.c.DeleteBranch(ctx, d.project, fmt.Sprintf("b%d", i)); err != nil {
				return err
			}
		}
	}
	return nil
}

// counts makes branches while there are 1, 100 and 1000 already.
func (s *scale) counts(ctx context.Context, _ options) error {
	have := 1
	for _, n := range []int{1, 100, 1000} {
		for ; have < n; have++ {
			if _, err := s.branch(ctx, "small", fmt.Sprintf("fill%d", have)); err != nil {
				return err
			}
		}
		var took []time.Duration
		for i := range s.tries {
			t, err := s.branch(ctx, "small", fmt.Sprintf("n%d-%d", n, i))
			if err != nil {
				return err
			}
			took = append(took, t)
		}
		for i := range s.tries {
			if err := s.c.DeleteBranch(ctx, "small", fmt.Sprintf("n%d-%d", n, i)); err != nil {
				return err
			}
		}
		s.add(fmt.Sprintf("create a branch beside %d", n), took)
	}
	return nil
}

// queries measures from nothing to the first row, through the front door.
func (s *scale) queries(ctx context.Context, _ options) error {
	var project, branch, wake []time.Duration
	for i := range s.tries {
		name := fmt.Sprintf("q%d", i)
		start := time.Now()
		if _, err := s.c.CreateProject(ctx, api.CreateProject{Name: name}); err != nil {
			return err
		}
		if err := s.firstRow(ctx, name, "main"); err != nil {
			return err
		}
		project = append(project, time.Since(start))

		start = time.Now()
		if _, err := s.branch(ctx, name, "dev"); err != nil {
			return err
		}
		if err := s.firstRow(ctx, name, "dev"); err != nil {
			return err
		}
		branch = append(branch, time.Since(start))

		if _, err := s.c.Suspend(ctx, name, "dev"); err != nil {
			return err
		}
		start = time.Now()
		if err := s.firstRow(ctx, name, "dev"); err != nil {
			return err
		}
		wake = append(wake, time.Since(start))
		for _, b := range []string{"dev", "main"} {
			if _, err := s.c.Suspend(ctx, name, b); err != nil {
				return err
			}
		}
	}
	s.add("create a project, to the first row", project)
	s.add("branch of a quiet parent, to the first row", branch)
	s.add("wake on connect, to the first row", wake)
	return nil
}

func (s *scale) firstRow(ctx context.Context, project, branch string) error {
	conn, err := s.c.Connection(ctx, project, branch)
	if err != nil {
		return err
	}
	db, err := pgx.Connect(ctx, conn.URL)
	if err != nil {
		return err
	}
	defer db.Close(ctx)
	var one int
	return db.QueryRow(ctx, "select 1").Scan(&one)
}

// peakMemory returns the daemon's greatest resident set so far, in MiB.
func (d *daemon) peakMemory() (float64, error) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", d.cmd.Process.Pid))
	if err != nil {
		return 0, err
	}
	for _, line := range strings.Split(string(data), "\n") {
		if rest, ok := strings.CutPrefix(line, "VmHWM:"); ok {
			var kib float64
			_, err := fmt.Sscanf(rest, "%f kB", &kib)
			return kib / 1024, err
		}
	}
	return 0, fmt.Errorf("no VmHWM of process %d", d.cmd.Process.Pid)
}
