package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"strings"
	"time"
)

// options of a run.
type options struct {
	bough    string
	dir      string
	pairs    int
	scale    int
	clients  int
	seconds  int
	jsonOut  string
	only     string
	mode     string
	suite    string
	tries    int
	largeGiB int
	idle     time.Duration
	wakes    int
	// coldScale is that of the cold suite's database.
	coldScale int
	serve     []string // more arguments of the daemon
}

func main() {
	var o options
	flag.StringVar(&o.bough, "bough", "bin/bough", "the binary under test")
	flag.StringVar(&o.dir, "dir", "/var/tmp", "where the state directory and the plain directory are made; on ext4")
	flag.IntVar(&o.pairs, "pairs", 3, "how often each workload runs on each side")
	flag.IntVar(&o.scale, "scale", 50, "pgbench scale: 15 MB each")
	flag.IntVar(&o.clients, "clients", 8, "pgbench clients")
	flag.IntVar(&o.seconds, "seconds", 20, "length of one measurement")
	flag.StringVar(&o.jsonOut, "json", "", "also write the results to this file")
	flag.StringVar(&o.only, "only", "", "run only the workloads whose name contains this")
	flag.StringVar(&o.mode, "write-mode", "", "the daemon's --write-mode. Default: the daemon's default")
	flag.StringVar(&o.suite, "suite", "storage,scale", "what to measure, with commas: storage, scale, s3, cold")
	flag.IntVar(&o.wakes, "wakes", 7, "how often the cold suite takes each wake")
	flag.IntVar(&o.coldScale, "cold-scale", 70, "pgbench scale of the cold suite's database: 15 MB each")
	flag.DurationVar(&o.idle, "idle", 5*time.Minute, "how long the S3 suite watches an idle branch")
	flag.IntVar(&o.tries, "tries", 25, "how often each latency is taken")
	flag.IntVar(&o.largeGiB, "large", 10, "size of a large device in GiB")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, o); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// report is what a run found, as it is written to JSON.
type report struct {
	Time    time.Time `json:"time"`
	CPUs    int       `json:"cpus"`
	Mode    string    `json:"write_mode"`
	Pairs   int       `json:"pairs"`
	Scale   int       `json:"scale"`
	Seconds int       `json:"seconds"`
	Results []result  `json:"results,omitempty"`
	// Latencies of the scale suite, and the daemon's greatest resident set after
	// it, in MiB.
	Latencies []latency `json:"latencies,omitempty"`
	PeakMiB   float64   `json:"peak_rss_mib"`
	Cold      []latency `json:"cold,omitempty"`
	S3        *s3Report `json:"s3,omitempty"`
}

// result of one workload.
type result struct {
	Name   string    `json:"name"`
	Unit   string    `json:"unit"`
	Branch []float64 `json:"branch"`
	Ext4   []float64 `json:"ext4"`
	Ratios []float64 `json:"ratios"`
	Ratio  float64   `json:"ratio"` // the median of Ratios
}

func run(ctx context.Context, o options) (err error) {
	root, err := os.MkdirTemp(o.dir, "bough-bench-")
	if err != nil {
		return err
	}
	defer func() { err = firstError(err, os.RemoveAll(root)) }()
	if err := os.Chmod(root, 0o755); err != nil {
		return err
	}
	rep := report{
		Time: time.Now().UTC(), CPUs: runtime.NumCPU(), Mode: o.mode, Pairs: o.pairs, Scale: o.scale, Seconds: o.seconds,
	}
	if strings.Contains(o.suite, "s3") {
		if rep.S3, err = runS3(ctx, root, o); err != nil {
			return err
		}
	}
	if strings.Contains(o.suite, "cold") {
		if rep.Cold, err = runCold(ctx, root, o); err != nil {
			return err
		}
	}
	if strings.Contains(o.suite, "storage") || strings.Contains(o.suite, "scale") {
		if err := runLocal(ctx, root, o, &rep); err != nil {
			return err
		}
	}
	if o.jsonOut != "" {
		data, err := json.MarshalIndent(rep, "", "  ")
		if err != nil {
			return err
		}
		return os.WriteFile(o.jsonOut, append(data, '\n'), 0o644)
	}
	return nil
}

// runLocal runs the suites whose store is a directory.
func runLocal(ctx context.Context, root string, o options, rep *report) (err error) {
	d, err := startDaemon(ctx, o, filepath.Join(root, "state"))
	if err != nil {
		return err
	}
	defer func() { err = firstError(err, d.stop()) }()
	rep.Mode = d.mode
	if strings.Contains(o.suite, "storage") {
		if rep.Results, err = runStorage(ctx, d, root, o); err != nil {
			return err
		}
	}
	if strings.Contains(o.suite, "scale") {
		if rep.Latencies, err = runScale(ctx, d, root, o); err != nil {
			return err
		}
	}
	if rep.PeakMiB, err = d.peakMemory(); err != nil {
		return err
	}
	fmt.Printf("the daemon's resident set was at most %.0f MiB\n", rep.PeakMiB)
	return nil
}

// runStorage compares a branch with plain ext4.
func runStorage(ctx context.Context, d *daemon, root string, o options) ([]result, error) {
	branch, err := d.attach(ctx, filepath.Join(root, "branch"))
	if err != nil {
		return nil, err
	}
	sides := [2]*side{
		{name: "branch", dir: filepath.Join(branch, "bench")},
		{name: "ext4", dir: filepath.Join(root, "plain")},
	}
	for _, s := range sides {
		if err := s.prepare(ctx, o); err != nil {
			return nil, fmt.Errorf("prepare %s: %w", s.name, err)
		}
		defer s.stop()
	}
	var results []result
	for _, w := range workloads(o) {
		r, err := measure(ctx, w, sides, o.pairs)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", w.name, err)
		}
		results = append(results, r)
		printResult(os.Stdout, r)
	}
	return results, nil
}

func firstError(a, b error) error {
	if a != nil {
		return a
	}
	return b
}
