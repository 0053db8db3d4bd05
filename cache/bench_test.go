package cache

import (
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/bough-db/bough/vfs"
	"golang.org/x/sys/unix"
)

const benchFrame = 24 << 10 // 64 KiB of heap pages, compressed

func benchFrames(b *testing.B, size int64) (*Frames, int) {
	f, err := OpenFrames(vfs.OS(), b.TempDir(), FramesOptions{Bytes: size, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = f.Close() })
	frame := make([]byte, benchFrame)
	n := int(size / benchFrame * 3 / 4)
	for i := range n {
		f.Put(Key{Log: "br-green-oak-1a2b3c4d", Segment: uint64(i)}, frame)
		if i%40 == 39 {
			f.settle()
		}
	}
	f.flush()
	return f, n
}

// BenchmarkFramesGet reads from the file, which the page cache has.
func BenchmarkFramesGet(b *testing.B) {
	f, n := benchFrames(b, 64<<20)
	b.SetBytes(benchFrame)
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		dst := make([]byte, 0, SlotBytesMax)
		for pb.Next() {
			if _, ok := f.Get(Key{Log: "br-green-oak-1a2b3c4d", Segment: uint64(rand.IntN(n))}, dst); !ok {
				b.Error("miss")
			}
		}
	})
}

func BenchmarkFramesMiss(b *testing.B) {
	f, _ := benchFrames(b, 64<<20)
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		f.Get(Key{Log: "br-other", Segment: uint64(i)}, nil)
	}
}

// BenchmarkFramesPut stores frames no faster than the disk takes them: ns/put is the
// time in Put alone, MB/s the rate at which frames reach the disk, evictions included.
func BenchmarkFramesPut(b *testing.B) {
	f, n := benchFrames(b, 64<<20)
	frame := make([]byte, benchFrame)
	b.SetBytes(benchFrame)
	b.ReportAllocs()
	var inPut time.Duration
	i := n
	for b.Loop() {
		key := Key{Log: "br-green-oak-1a2b3c4d", Segment: uint64(i)}
		start := time.Now()
		f.Put(key, frame)
		inPut += time.Since(start)
		if i++; i%20 == 0 {
			f.settle()
		}
	}
	if s := f.Stats(); s.Dropped > 0 {
		b.Errorf("%d dropped", s.Dropped)
	}
	b.ReportMetric(float64(inPut.Nanoseconds())/float64(i-n), "ns/put")
}

// BenchmarkFramesOpen opens a cache with a full set of tables, none of them in the page
// cache.
func BenchmarkFramesOpen(b *testing.B) {
	for _, gib := range []int64{1, 10} {
		b.Run(fmt.Sprintf("%dGiB", gib), func(b *testing.B) {
			dir := b.TempDir()
			opts := FramesOptions{Bytes: gib << 30, Logger: slog.New(slog.DiscardHandler)}
			f, err := OpenFrames(vfs.OS(), dir, opts)
			if err != nil {
				b.Fatal(err)
			}
			writeTables(b, f)
			_ = f.Close()
			b.ResetTimer()
			for b.Loop() {
				b.StopTimer()
				dropPages(b, filepath.Join(dir, framesFile))
				b.StartTimer()
				start := time.Now()
				f, err := OpenFrames(vfs.OS(), dir, opts)
				if err != nil {
					b.Fatal(err)
				}
				b.ReportMetric(float64(time.Since(start).Milliseconds()), "ms/open")
				s := f.Stats()
				b.ReportMetric(float64(s.Loaded), "frames")
				b.ReportMetric(float64(s.IndexBytes)/float64(s.Entries), "index-B/frame")
				_ = f.Close()
			}
		})
	}
}

// dropPages takes a file out of the page cache.
func dropPages(b *testing.B, name string) {
	f, err := os.Open(name)
	if err != nil {
		b.Fatal(err)
	}
	defer f.Close()
	if err := errors.Join(f.Sync(), unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED)); err != nil {
		b.Fatal(err)
	}
}

// writeTables writes the tables of a full cache, and leaves out the frames.
func writeTables(b *testing.B, f *Frames) {
	n := slotBytes(benchFrame, "br-green-oak-1a2b3c4d")
	buf := newBuffer(f.regionBytes)
	for no := range f.regions {
		buf.reset(uint32(no), queueID(no/(len(f.regions)/10)%2), uint64(no+1))
		for buf.fits(n) {
			buf.add(rand.Uint64(), n, f.salt, func([]byte) {})
		}
		if _, err := f.wr.WriteAt(buf.bytes[:tableBytes(f.regionBytes)], f.regionStart(uint32(no))); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkMemoryGet(b *testing.B) {
	m := NewMemory(64 << 20)
	n := 0
	for ; m.Stats().Evicted == 0; n++ {
		m.Put(Key{Log: "br-green-oak-1a2b3c4d", Segment: uint64(n)}, make([]byte, 64<<10))
	}
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			m.Get(Key{Log: "br-green-oak-1a2b3c4d", Segment: uint64(rand.IntN(n))})
		}
	})
}

func BenchmarkMemoryPut(b *testing.B) {
	m := NewMemory(64 << 20)
	frame := make([]byte, 64<<10)
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		m.Put(Key{Log: "br-green-oak-1a2b3c4d", Segment: uint64(i)}, frame)
	}
}
