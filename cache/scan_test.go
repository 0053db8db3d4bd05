package cache

import (
	"container/list"
	"fmt"
	"testing"

	"github.com/bough-db/bough/vfs"
	"github.com/bough-db/bough/vfs/memfs"
)

// lru is what both tiers are compared with.
type lru struct {
	max, bytes int
	order      list.List
	entries    map[Key]*list.Element
}

type lruEntry struct {
	key  Key
	size int
}

func (l *lru) get(key Key) bool {
	e, ok := l.entries[key]
	if ok {
		l.order.MoveToFront(e)
	}
	return ok
}

func (l *lru) put(key Key, size int) {
	if l.get(key) {
		return
	}
	l.entries[key] = l.order.PushFront(lruEntry{key, size})
	for l.bytes += size; l.bytes > l.max; {
		old := l.order.Remove(l.order.Back()).(lruEntry)
		delete(l.entries, old.key)
		l.bytes -= old.size
	}
}

// tier is what a scan is run against.
type tier interface {
	get(key Key) bool
	put(key Key, size int)
}

type framesTier struct{ f *Frames }

func (x framesTier) get(key Key) bool { _, ok := x.f.Get(key, nil); return ok }
func (x framesTier) put(key Key, n int) {
	x.f.Put(key, make([]byte, n))
	x.f.settle() // so that nothing is dropped
}

type memoryTier struct{ m *Memory }

func (x memoryTier) get(key Key) bool   { _, ok := x.m.Get(key); return ok }
func (x memoryTier) put(key Key, n int) { x.m.Put(key, make([]byte, n)) }

// scan uses a working set that fills half of the cache a few times, then reads
// everything else once, each frame repeats times in a row, four times the cache's
// size, and returns which part of the working set is still there.
func scan(c tier, cacheBytes, repeats int) float64 {
	const frame = 32 << 10
	use := func(key Key) {
		if !c.get(key) {
			c.put(key, frame)
		}
	}
	working := cacheBytes / 2 / frame
	for range 4 {
		for i := range working {
			use(Key{Log: "working", Frame: uint32(i)})
		}
	}
	for i := range 4 * cacheBytes / frame {
		for range repeats {
			use(Key{Log: "scan", Frame: uint32(i)})
		}
	}
	hits := 0
	for i := range working {
		if c.get(Key{Log: "working", Frame: uint32(i)}) {
			hits++
		}
	}
	return float64(hits) / float64(working)
}

func TestScanResistance(t *testing.T) {
	const size = 32 << 20
	frames := func() tier { return framesTier{openTest(t, vfs.OS(), t.TempDir(), size)} }
	memory := func() tier { return memoryTier{NewMemory(size)} }
	plain := func() tier { return &lru{max: size, entries: make(map[Key]*list.Element)} }
	for _, test := range []struct {
		name     string
		tier     func() tier
		repeats  int
		min, max float64
	}{
		{"lru", plain, 1, 0, 0},
		{"frames", frames, 1, 0.95, 1},
		// Uses in the first tenth of the cache's time do not count (see count), so what
		// came in just before the scan is not known to be used, and goes with it.
		{"memory", memory, 1, 0.75, 1},
		// A scan reads a frame of 64 KiB 16 times, 4 KiB at a time. The disk tier sees
		// it once, because the memory tier stands in front of it.
		{"memory, 16 reads a frame", memory, 16, 0.75, 1},
	} {
		t.Run(test.name, func(t *testing.T) {
			got := scan(test.tier(), size, test.repeats)
			t.Logf("%.0f %% of the working set survived", 100*got)
			if got < test.min || got > test.max {
				t.Errorf("%.0f %% of the working set survived a scan, want %.0f to %.0f %%", 100*got, 100*test.min, 100*test.max)
			}
		})
	}
}

// TestFramesWriteAmplification uses a part of everything all the time. The worst for a
// cache that moves what is used is a little less than half: more is not copied.
func TestFramesWriteAmplification(t *testing.T) {
	for _, percent := range []uint64{0, 20, 45, 60, 100} {
		t.Run(fmt.Sprint(percent), func(t *testing.T) {
			f := openTest(t, memfs.New(memfs.Options{}), "cache", 16<<20)
			const frame = 24 << 10
			const n = 3000 // more than four times what fits
			for i := range n {
				f.Put(Key{Segment: uint64(i)}, make([]byte, frame))
				touchAll(f, percent)
				f.settle()
			}
			s := f.Stats()
			if s.Dropped > 0 || float64(s.Written) > 2.05*n*frame {
				t.Errorf("%d bytes written for %d bytes stored, %d moved, %d dropped", s.Written, n*frame, s.Kept, s.Dropped)
			}
			t.Logf("%.2f bytes written for each one stored", float64(s.Written)/(n*frame))
			check(t, f)
		})
	}
}

// touchAll uses a part of all frames as often as counts.
func touchAll(f *Frames, percent uint64) {
	for k := range f.index.shards {
		s := &f.index.shards[k]
		s.mu.Lock()
		for j := range s.entries {
			if e := &s.entries[j]; e.loc != 0 && e.hash>>32%100 < percent {
				e.loc = e.loc.withFreq(freqMax)
			}
		}
		s.mu.Unlock()
	}
}

// TestFramesComeBack: a frame that is stored again soon after it was evicted unused
// goes to the main queue, where a scan does not reach it.
func TestFramesComeBack(t *testing.T) {
	f := openTest(t, vfs.OS(), t.TempDir(), testBytes)
	back := Key{Log: "back"}
	f.Put(back, make([]byte, 24<<10))
	next := 0
	scan := func(until func() bool) {
		for ; !until(); next++ {
			f.Put(Key{Log: "scan", Segment: uint64(next)}, make([]byte, 24<<10))
			f.settle()
		}
	}
	there := func() bool { _, ok := f.index.peek(back.hash(f.salt)); return ok }
	scan(func() bool { return !there() })
	f.Put(back, make([]byte, 24<<10))
	end := next + 2000 // five times what fits
	scan(func() bool { return next == end })
	if !there() {
		t.Error("a frame that came back was evicted by a scan")
	}
	check(t, f)
}
