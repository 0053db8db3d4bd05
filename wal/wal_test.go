package wal

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/bough-db/bough/vfs"
)

// quiet is a logger for tests that provoke warnings.
func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

// openPool opens a pool and closes it with the test.
func openPool(t testing.TB, fsys vfs.FS, dir string, o PoolOptions) *Pool {
	t.Helper()
	if o.Logger == nil {
		o.Logger = quiet()
	}
	p, err := OpenPool(fsys, dir, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.Close() })
	return p
}

func create(t testing.TB, p *Pool, log string, seg SegmentNo) *Journal {
	t.Helper()
	j, err := p.Create(context.Background(), Header{Log: log, Segment: seg, Epoch: 7})
	if err != nil {
		t.Fatal(err)
	}
	return j
}

// block returns the recognizable contents of block n as of batch seq.
func block(n uint64, seq Seq) []byte {
	r := rand.New(rand.NewPCG(n, uint64(seq)))
	b := make([]byte, BlockSize)
	for i := 0; i < len(b); i += 8 {
		v := r.Uint64()
		for k := range 8 {
			b[i+k] = byte(v >> (8 * k))
		}
	}
	return b
}

// record returns a record with the given blocks as of seq.
func record(t testing.TB, p *Pool, seq Seq, blocks ...uint64) *Record {
	t.Helper()
	r := p.NewRecord(len(blocks) > SmallBlocks)
	for _, n := range blocks {
		buf, _, ok := r.AddBlock(n)
		if !ok {
			t.Fatalf("record full at block %d", n)
		}
		copy(buf, block(n, seq))
	}
	return r
}

func meta(seq Seq, commit bool) Meta {
	return Meta{Seq: seq, Time: time.Unix(1700000000, int64(seq)), LSN: uint64(seq) * 10, Line: uint64(seq) << 40, Commit: commit}
}

func write(t testing.TB, j *Journal, m Meta, recs ...*Record) {
	t.Helper()
	if err := j.Write(recs, m); err != nil {
		t.Fatal(err)
	}
	for _, r := range recs {
		r.Free()
	}
}

func recoverOne(t testing.TB, p *Pool) *Recovered {
	t.Helper()
	rs, err := p.Recover(context.Background())
	if err != nil || len(rs) != 1 {
		t.Fatalf("Recover = %d files, %v; want one", len(rs), err)
	}
	return rs[0]
}

func TestWriteReadRecover(t *testing.T) {
	dir := t.TempDir()
	p := openPool(t, vfs.OS(), dir, PoolOptions{FileBytes: 1 << 20})
	j := create(t, p, "br-a", 3)
	write(t, j, meta(41, true), record(t, p, 41, 5, 6, 9))
	write(t, j, meta(42, false), record(t, p, 42, 5))
	r := record(t, p, 42, 7)
	r.AddRange(KindTrim, 100, 50)
	r.AddRange(KindZero, 9, 1)
	write(t, j, meta(42, true), r)
	check := func(t *testing.T, j *Journal) {
		t.Helper()
		h := j.Header()
		if h.Log != "br-a" || h.Segment != 3 || h.Epoch != 7 || h.FirstSeq != 41 {
			t.Fatalf("header = %+v", h)
		}
		bs := j.Batches()
		if len(bs) != 2 || bs[0].Seq != 41 || bs[1].Seq != 42 || bs[1].LSN != 420 || bs[1].Line != 42<<40 ||
			!bs[1].Time.Equal(time.Unix(1700000000, 42)) || len(bs[0].Entries) != 2 || len(bs[1].Entries) != 4 {
			t.Fatalf("batches = %+v", bs)
		}
		for _, b := range bs {
			for _, e := range b.Entries {
				for i := uint64(0); e.Kind == KindData && i < e.Count; i++ {
					got := make([]byte, BlockSize)
					if err := j.ReadAt(got, e.Slot+Slot(i)); err != nil {
						t.Fatal(err)
					}
					if !bytes.Equal(got, block(e.Block+i, b.Seq)) {
						t.Fatalf("block %d of batch %d differs", e.Block+i, b.Seq)
					}
				}
			}
		}
		// All slots at once, header blocks included.
		if err := j.ReadAt(make([]byte, int(j.End())*BlockSize), 0); err != nil {
			t.Fatal(err)
		}
	}
	check(t, j)
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
	if err := j.Write(nil, meta(43, true)); !errors.Is(err, ErrClosed) {
		t.Fatalf("write after close: %v", err)
	}
	p = openPool(t, vfs.OS(), dir, PoolOptions{FileBytes: 1 << 20})
	rj := recoverOne(t, p)
	if rj.Err != nil {
		t.Fatal(rj.Err)
	}
	check(t, rj.Journal)
	rj.Release()
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
	p = openPool(t, vfs.OS(), dir, PoolOptions{FileBytes: 1 << 20})
	if rs, err := p.Recover(context.Background()); err != nil || len(rs) != 0 {
		t.Fatalf("Recover after Release = %d files, %v", len(rs), err)
	}
}
