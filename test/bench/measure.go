package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// workload measures one thing on one side.
type workload struct {
	name, unit string
	run        func(ctx context.Context, s *side) (float64, error)
}

func workloads(o options) []workload {
	secs := strconv.Itoa(o.seconds)
	clients := strconv.Itoa(o.clients)
	threads := strconv.Itoa(min(o.clients, 2))
	all := []workload{
		{"pgbench TPC-B", "tps", func(ctx context.Context, s *side) (float64, error) {
			if err := s.sql(ctx, "checkpoint"); err != nil {
				return 0, err
			}
			return s.pgbench(ctx, "-c", clients, "-j", threads, "-T", secs)
		}},
		{"pgbench select-only", "tps", func(ctx context.Context, s *side) (float64, error) {
			return s.pgbench(ctx, "-S", "-c", clients, "-j", threads, "-T", secs)
		}},
		{"fio 8k random read", "IOPS", fio("randread", "read", secs, "--iodepth=16", "--ioengine=libaio")},
		{"fio 8k random write", "IOPS", fio("randwrite", "write", secs, "--iodepth=16", "--ioengine=libaio")},
		{"fio 8k write+fdatasync", "IOPS", fio("randwrite", "write", secs, "--fdatasync=1", "--ioengine=psync")},
	}
	return slices.DeleteFunc(all, func(w workload) bool { return !strings.Contains(w.name, o.only) })
}

// fioBytes is the size of the file that fio works on.
const fioBytes = "1g"

func fio(rw, key, secs string, extra ...string) func(context.Context, *side) (float64, error) {
	return func(ctx context.Context, s *side) (float64, error) {
		args := append([]string{
			"--name=x", "--filename=" + s.fioFile, "--size=" + fioBytes, "--bs=8k", "--direct=1", "--rw=" + rw,
			"--time_based", "--runtime=" + secs, "--output-format=json", "--refill_buffers", "--buffer_compress_percentage=50",
		}, extra...)
		out, err := exec.CommandContext(ctx, "fio", args...).Output()
		if err != nil {
			return 0, fmt.Errorf("fio: %w: %s", err, tail(out))
		}
		var r struct {
			Jobs []map[string]json.RawMessage `json:"jobs"`
		}
		var part struct {
			IOPS float64 `json:"iops"`
		}
		if i := strings.IndexByte(string(out), '{'); i > 0 {
			out = out[i:]
		}
		if err := json.Unmarshal(out, &r); err != nil || len(r.Jobs) != 1 {
			return 0, fmt.Errorf("fio's answer: %w: %s", err, tail(out))
		}
		if err := json.Unmarshal(r.Jobs[0][key], &part); err != nil {
			return 0, fmt.Errorf("fio's answer: %w", err)
		}
		return part.IOPS, nil
	}
}

var tpsLine = regexp.MustCompile(`(?m)^tps = ([0-9.]+)`)

// pgbench runs pgbench and returns its transactions per second; a transaction
// that failed is an error.
func (s *side) pgbench(ctx context.Context, args ...string) (float64, error) {
	out, err := s.as(ctx, "pgbench", append([]string{"-h", s.socket, "-p", s.port}, append(args, "postgres")...)...)
	if err != nil {
		return 0, err
	}
	m := tpsLine.FindSubmatch(out)
	if m == nil || !strings.Contains(string(out), "number of failed transactions: 0 ") {
		return 0, fmt.Errorf("pgbench: %s", tail(out))
	}
	return strconv.ParseFloat(string(m[1]), 64)
}

// measure runs the workload in pairs.
func measure(ctx context.Context, w workload, sides [2]*side, pairs int) (result, error) {
	r := result{Name: w.name, Unit: w.unit}
	for i := range pairs {
		var v [2]float64
		for j := range 2 {
			k := (i + j) % 2
			var err error
			if v[k], err = w.run(ctx, sides[k]); err != nil {
				return r, fmt.Errorf("on %s: %w", sides[k].name, err)
			}
			fmt.Fprintf(os.Stderr, "%s on %s: %.0f %s\n", w.name, sides[k].name, v[k], w.unit)
		}
		r.Branch, r.Ext4 = append(r.Branch, v[0]), append(r.Ext4, v[1])
		r.Ratios = append(r.Ratios, v[0]/v[1])
	}
	r.Ratio = median(r.Ratios)
	return r, nil
}

func median(v []float64) float64 {
	s := slices.Sorted(slices.Values(v))
	if n := len(s); n%2 == 0 {
		return (s[n/2-1] + s[n/2]) / 2
	}
	return s[len(s)/2]
}

func printResult(w io.Writer, r result) {
	fmt.Fprintf(w, "%-24s branch %9.0f  ext4 %9.0f  %-5s ratio %.2f  (%.2f to %.2f)\n", r.Name,
		median(r.Branch), median(r.Ext4), r.Unit, r.Ratio, slices.Min(r.Ratios), slices.Max(r.Ratios))
}

func tail(out []byte) string {
	s := strings.TrimSpace(string(out))
	return s[max(0, len(s)-400):]
}
