package cow

import (
	"context"
	"log/slog"
	"math/rand/v2"
	"testing"

	"github.com/bough-db/bough/objstore/memstore"
	"github.com/bough-db/bough/vfs"
	"github.com/bough-db/bough/wal"
)

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
