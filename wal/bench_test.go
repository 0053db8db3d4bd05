package wal

import (
	"flag"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/bough-db/bough/vfs"
)

var benchDir = flag.String("wal.dir", "", "directory for the benchmarks' files (default: a temporary one)")

func benchPath(b *testing.B) string {
	if *benchDir == "" {
		return b.TempDir()
	}
	dir, err := os.MkdirTemp(*benchDir, "walbench")
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

func reportLatencies(b *testing.B, d []time.Duration) {
	slices.Sort(d)
	b.ReportMetric(float64(d[len(d)/2].Microseconds()), "p50-µs")
	b.ReportMetric(float64(d[len(d)*99/100].Microseconds()), "p99-µs")
}

// BenchmarkCommit8K is one commit of two blocks: what a small Postgres
// transaction costs.
func BenchmarkCommit8K(b *testing.B) {
	p := openPool(b, vfs.OS(), benchPath(b), PoolOptions{})
	j := create(b, p, "bench", 1)
	seq := Seq(0)
	recs := make([]*Record, 1)
	lat := make([]time.Duration, 0, b.N)
	data := block(1, 1)
	b.ReportAllocs()
	b.ResetTimer()
	for b.Loop() {
		if j.Room() < 3 {
			b.StopTimer()
			j.Release()
			j = create(b, p, "bench", 1)
			b.StartTimer()
		}
		seq++
		r := p.NewRecord(false)
		for n := range uint64(2) {
			buf, _, _ := r.AddBlock(n)
			copy(buf, data)
		}
		recs[0] = r
		begin := time.Now()
		if err := j.Write(recs, Meta{Seq: seq, Time: begin, Commit: true}); err != nil {
			b.Fatal(err)
		}
		lat = append(lat, time.Since(begin))
		r.Free()
	}
	reportLatencies(b, lat)
}

// BenchmarkBare8K is the floor: pwrite and fdatasync of a preallocated file,
// through the page cache and without it.
func BenchmarkBare8K(b *testing.B) {
	for _, v := range []struct {
		name string
		flag int
		size int
	}{{"buffered", 0, 8192}, {"direct", vfs.Direct, 8192}, {"direct12K", vfs.Direct, 12288}} {
		b.Run(v.name, func(b *testing.B) {
			f, err := vfs.OS().OpenFile(filepath.Join(benchPath(b), "f"), os.O_RDWR|os.O_CREATE|v.flag, 0o600)
			if err != nil {
				b.Fatal(err)
			}
			defer f.Close()
			const size = 16 << 20
			buf := alignedBytes(1 << 20)
			for off := int64(0); off < size; off += int64(len(buf)) {
				if _, err := f.WriteAt(buf, off); err != nil {
					b.Fatal(err)
				}
			}
			if err := f.Sync(); err != nil {
				b.Fatal(err)
			}
			lat := make([]time.Duration, 0, b.N)
			off := int64(0)
			for b.Loop() {
				begin := time.Now()
				if _, err := f.WriteAt(buf[:v.size], off); err != nil {
					b.Fatal(err)
				}
				if err := f.Sync(); err != nil {
					b.Fatal(err)
				}
				lat = append(lat, time.Since(begin))
				off = (off + int64(v.size)) % (size - 1<<20)
			}
			reportLatencies(b, lat)
		})
	}
}

// BenchmarkEncode is the processor time of a commit, without the disk.
func BenchmarkEncode(b *testing.B) {
	p := openPool(b, vfs.OS(), benchPath(b), PoolOptions{})
	j := create(b, p, "bench", 1)
	j.file = discard{}
	r := record(b, p, 1, 1, 2)
	recs := []*Record{r}
	m := meta(1, true)
	b.ReportAllocs()
	for b.Loop() {
		if j.Room() < 3 {
			j.next.Store(1)
			j.entries, j.batches, j.firstOpen = j.entries[:0], j.batches[:0], 0
		}
		r.slot = 0
		r.entries[0].Slot = 1
		if err := j.Write(recs, m); err != nil {
			b.Fatal(err)
		}
		m.Seq++
	}
	j.file = discard{}
}

type discard struct{ vfs.File }

func (discard) WritevAt([][]byte, int64, bool) error { return nil }
func (discard) Close() error                         { return nil }
