package wal

import (
	"bufio"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"testing"

	"github.com/bough-db/bough/vfs"
)

const killDirEnv = "WAL_TEST_KILL_DIR"

// TestKill writes batches in a child process on a real disk, kills it at a random
// acknowledgement, and recovers what it acknowledged; five times in the same
// directory.
func TestKill(t *testing.T) {
	if dir := os.Getenv(killDirEnv); dir != "" {
		writeForEver(t, dir)
		return
	}
	dir := t.TempDir()
	rng := rand.New(rand.NewPCG(newSeed(t), 5))
	for round := range 5 {
		acked := killWriter(t, dir, 1+rng.IntN(200))
		p := openPool(t, vfs.OS(), dir, killOptions())
		rs, err := p.Recover(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		var seqs []Seq
		for _, r := range rs {
			if r.Err != nil {
				t.Fatal(r.Err)
			}
			for _, b := range r.Batches() {
				seqs = append(seqs, b.Seq)
				got := make([]byte, BlockSize)
				if err := r.ReadAt(got, b.Entries[0].Slot); err != nil || string(got) != string(block(uint64(b.Seq), b.Seq)) {
					t.Fatalf("batch %d: %v", b.Seq, err)
				}
			}
			r.Release()
		}
		slices.Sort(seqs)
		// The writer releases a full file when it goes on to the next but one.
		if n := len(seqs); n == 0 || seqs[n-1] < acked || seqs[n-1]-seqs[0] != Seq(n-1) {
			t.Fatalf("round %d: %d was acknowledged, recovered %v", round, acked, seqs)
		}
		if err := p.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

func killOptions() PoolOptions {
	return PoolOptions{FileBytes: 256 << 10, MaxBytes: 8 * 256 << 10, Logger: quiet()}
}

// killWriter starts a writer, kills it after n acknowledgements, and returns the
// last one that was read.
func killWriter(t *testing.T, dir string, n int) (acked Seq) {
	t.Helper()
	cmd := exec.Command(os.Args[0], "-test.run=^TestKill$")
	cmd.Env = append(os.Environ(), killDirEnv+"="+dir)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(out)
	for i := 0; lines.Scan(); i++ {
		seq, err := strconv.ParseUint(lines.Text(), 10, 64)
		if err != nil {
			t.Fatalf("writer said %q", lines.Text())
		}
		acked = Seq(seq)
		if i == n {
			_ = cmd.Process.Kill()
		}
	}
	_ = cmd.Wait() // killed
	if acked < Seq(n) {
		t.Fatalf("writer stopped at batch %d", acked)
	}
	return acked
}

func writeForEver(t *testing.T, dir string) {
	p := openPool(t, vfs.OS(), dir, killOptions())
	var old, j *Journal
	for seq := Seq(1); ; seq++ {
		if j == nil || j.Room() < 4 {
			if old != nil {
				old.Release()
			}
			old = j
			var err error
			if j, err = p.Create(context.Background(), Header{Log: "a", Segment: SegmentNo(seq)}); err != nil {
				t.Fatal(err)
			}
		}
		if seq%3 == 0 {
			write(t, j, meta(seq, false), record(t, p, seq, uint64(seq)))
			write(t, j, meta(seq, true), p.NewRecord(false))
		} else {
			write(t, j, meta(seq, true), record(t, p, seq, uint64(seq)))
		}
		fmt.Println(seq)
	}
}
