package cow

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"testing"

	"github.com/bough-db/bough/objstore/memstore"
	"github.com/bough-db/bough/vfs"
	"github.com/bough-db/bough/wal"
)

// BenchmarkRead is what a read of one 8 KiB page from memory costs, without a
// recording of the start and with one.
func BenchmarkRead(b *testing.B) {
	for _, recorded := range []bool{false, true} {
		b.Run(fmt.Sprintf("recorded=%v", recorded), func(b *testing.B) { benchmarkRead(b, recorded) })
	}
}

func benchmarkRead(b *testing.B, recorded bool) {
	const size = 16 << 20 // bytes, all of which memory takes
	ctx := context.Background()
	w := newWorld(b, Options{})
	dev := w.makeProject("p", size)
	rng := rand.New(rand.NewPCG(1, 2))
	for off := int64(0); off < size; off += 1 << 20 {
		if err := dev.WriteAt(ctx, pattern(rng, 1<<20), off); err != nil {
			b.Fatal(err)
		}
	}
	w.closeBranch(dev)
	dev, err := w.store.OpenWith(ctx, dev.ID(), OpenOptions{FetchStart: true})
	if err != nil {
		b.Fatal(err)
	}
	if recorded {
		dev.RecordStart()
	}
	if err := dev.ReadAt(ctx, make([]byte, size), 0); err != nil {
		b.Fatal(err)
	}
	page := make([]byte, 8192)
	b.SetBytes(int64(len(page)))
	b.ReportAllocs()
	for b.Loop() {
		if err := dev.ReadAt(ctx, page, rng.Int64N(size/8192)*8192); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkCommit is what a commit of one 8 KiB page costs: a write and a flush,
// down to the journal's system call.
func BenchmarkCommit(b *testing.B) {
	ctx := context.Background()
	quiet := slog.New(slog.DiscardHandler)
	pool, err := wal.OpenPool(vfs.OS(), b.TempDir(), wal.PoolOptions{Logger: quiet})
	if err != nil {
		b.Fatal(err)
	}
	defer pool.Close()
	s, err := OpenStore(ctx, Options{Objects: memstore.New(memstore.Options{}), Journals: pool, Logger: quiet})
	if err != nil {
		b.Fatal(err)
	}
	defer s.Close(ctx)
	_, info, err := s.CreateProject(ctx, "p", ProjectOptions{Size: 1 << 30})
	if err != nil {
		b.Fatal(err)
	}
	dev, err := s.Open(ctx, info.ID)
	if err != nil {
		b.Fatal(err)
	}
	defer dev.Close(ctx)
	rng := rand.New(rand.NewPCG(1, 2))
	page := make([]byte, 8192)
	for i := range page {
		page[i] = byte(rng.Uint32())
	}
	b.SetBytes(int64(len(page)))
	b.ReportAllocs()
	for b.Loop() {
		if err := dev.WriteAt(ctx, page, rng.Int64N(1<<30/8192)*8192); err != nil {
			b.Fatal(err)
		}
		if err := dev.Flush(ctx); err != nil {
			b.Fatal(err)
		}
	}
}
