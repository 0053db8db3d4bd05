package cache

import (
	"math/rand/v2"
	"path/filepath"
	"sync"
	"testing"

	"github.com/bough-db/bough/vfs"
)

// check verifies what must hold whenever the keeper rests: every region is in
// exactly one state, every entry of the index is listed by the region that it
// points to, and no two entries overlap.
func check(t testing.TB, f *Frames) {
	t.Helper()
	f.settle()
	f.mu.Lock()
	defer f.mu.Unlock()
	state := make(map[uint32]string)
	enter := func(no uint32, s string) {
		if old, ok := state[no]; ok {
			t.Errorf("region %d is both %s and %s", no, old, s)
		}
		state[no] = s
		if inUse := f.regions[no].use.Load() != 0; inUse == (s == "free") {
			t.Errorf("region %d is %s but its use is %d", no, s, f.regions[no].use.Load())
		}
	}
	listed := make(map[uint32]map[uint64]bool)
	list := func(no uint32, hashes []uint64) {
		listed[no] = make(map[uint64]bool)
		for _, h := range hashes {
			listed[no][h] = true
		}
	}
	for _, no := range f.free {
		enter(no, "free")
	}
	for q := range queues {
		if b := f.open[q]; b != nil {
			enter(b.region, "open")
			list(b.region, b.hashes)
		}
		for _, no := range f.queue[q] {
			enter(no, "queued")
			list(no, f.regions[no].hashes)
		}
	}
	if len(state) != len(f.regions) {
		t.Errorf("%d of %d regions are accounted for", len(state), len(f.regions))
	}
	taken := make(map[location]bool)
	for i := range f.index.shards {
		s := &f.index.shards[i]
		n := 0
		for _, e := range s.entries {
			if e.loc == 0 {
				continue
			}
			n++
			if !listed[e.loc.region()][e.hash] {
				t.Errorf("index: %x is in region %d (%s), which does not list it", e.hash, e.loc.region(), state[e.loc.region()])
			}
			if taken[e.loc.place()] {
				t.Errorf("index: two keys at %x", e.loc)
			}
			taken[e.loc.place()] = true
			if pos, ok := s.find(e.hash); !ok || s.entries[pos] != e {
				t.Errorf("index: %x is out of reach", e.hash)
			}
		}
		if n != s.used {
			t.Errorf("index: shard %d has %d entries and counts %d", i, n, s.used)
		}
	}
}

// TestFramesModel drives the cache at random. The model is the rule of a cache: an
// answer is the bytes that the key names, or nothing; and the file keeps its size.
func TestFramesModel(t *testing.T) {
	rnd := newRand(t)
	dir := t.TempDir()
	const keys = 900 // about twice what fits
	f := openTest(t, vfs.OS(), dir, testBytes)
	hits := 0
	for step := range 12000 {
		key := testKey(rnd.IntN(rnd.IntN(keys) + 1)) // skewed: low numbers are wanted more
		switch op := rnd.IntN(1000); {
		case op < 2:
			if err := f.Close(); err != nil {
				t.Fatal(err)
			}
			f = openTest(t, vfs.OS(), dir, testBytes)
		case op < 12:
			f.Delete(key)
			if get(t, f, key) {
				t.Fatalf("step %d: get %v after delete: hit", step, key)
			}
		case op < 32:
			damage(t, filepath.Join(dir, framesFile), rnd)
		case op < 600:
			if get(t, f, key) {
				hits++
			}
		default:
			f.Put(key, frameOf(key))
		}
		if step%1000 == 0 {
			check(t, f)
		}
	}
	check(t, f)
	s := f.Stats()
	size, err := f.rd.Size()
	if err != nil || size > testBytes {
		t.Errorf("file of %d bytes (%v), want at most %d", size, err, testBytes)
	}
	if hits < 500 {
		t.Errorf("only %d hits: %+v", hits, s)
	}
	t.Logf("%d hits, last run %+v", hits, s)
}

// damage overwrites a few bytes anywhere in the file.
func damage(t testing.TB, name string, rnd *rand.Rand) {
	t.Helper()
	file, err := vfs.OS().OpenFile(name, 2, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	size, err := file.Size()
	if err != nil {
		t.Fatal(err)
	}
	p := fill(8*(1+rnd.IntN(64)), rnd)
	if _, err := file.WriteAt(p, rnd.Int64N(size-int64(len(p)))); err != nil {
		t.Fatal(err)
	}
}

// TestFramesConcurrent lets readers, writers and the keeper meet in a cache so
// small that regions are reused under the readers' hands.
func TestFramesConcurrent(t *testing.T) {
	s := seed(t)
	f := openTest(t, vfs.OS(), t.TempDir(), FramesBytesMin)
	frames := make([][]byte, 1500)
	for i := range frames {
		frames[i] = frameOf(testKey(i))
	}
	var wg sync.WaitGroup
	for w := range 6 {
		wg.Go(func() {
			rnd := rand.New(rand.NewPCG(s, uint64(w)))
			buf := make([]byte, 0, SlotBytesMax)
			for i := 0; f.Stats().Evicted < 3000; i++ {
				n := rnd.IntN(len(frames))
				if w < 3 {
					f.Put(testKey(n), frames[n])
					if i%50 == 49 {
						f.settle() // memory is faster than the disk
					}
					continue
				}
				if got, ok := f.Get(testKey(n), buf); ok && string(got) != string(frames[n]) {
					t.Errorf("get %v: wrong bytes", testKey(n))
				}
			}
		})
	}
	wg.Wait()
	st := f.Stats()
	if st.Damaged != 0 {
		t.Errorf("damaged %d, want 0", st.Damaged)
	}
	check(t, f)
	t.Logf("%+v", st)
}
