package cache

import (
	"os"
	"testing"

	"github.com/bough-db/bough/vfs/faultfs"
	"github.com/bough-db/bough/vfs/memfs"
)

// TestFramesReplacedDuringRead: a slot that is overwritten while somebody reads it is
// neither a wrong answer nor damage. The reader looks again.
func TestFramesReplacedDuringRead(t *testing.T) {
	key := testKey(1)
	for _, test := range []struct {
		name   string
		during func(t *testing.T, f *Frames) // what happens during the first read
		hit    bool
	}{
		{"region filled anew with the same key", func(_ *testing.T, f *Frames) {
			loc, _ := f.index.peek(key.hash(f.salt))
			f.regions[loc.region()].use.Add(1)
		}, true},
		{"slot moved", func(t *testing.T, f *Frames) {
			f.Delete(key)
			f.Put(key, frameOf(key))
			f.flush()
		}, true},
		{"slot evicted", func(_ *testing.T, f *Frames) { f.Delete(key) }, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			mem := memfs.New(memfs.Options{})
			faulty := faultfs.New(mem, "")
			f := openTest(t, faulty, "cache", FramesBytesMin)
			f.Put(key, frameOf(key))
			f.flush()
			loc, _ := f.index.peek(key.hash(f.salt))
			at := f.regionStart(loc.region()) + int64(loc.offset()+loc.length()) - 1
			reads := 0
			faulty.SetHook(func(op faultfs.Op) error {
				if op.Kind != faultfs.Read {
					return nil
				}
				if reads++; reads == 1 {
					scribble(t, mem, at)
					test.during(t, f)
				} else if reads == 2 {
					scribble(t, mem, at) // back again
				}
				return nil
			})
			hit := get(t, f, key)
			if s := f.Stats(); hit != test.hit || s.Replaced != 1 || s.Damaged != 0 {
				t.Errorf("hit %v, want %v; %d replaced, want 1; %d damaged, want 0", hit, test.hit, s.Replaced, s.Damaged)
			}
		})
	}
}

// scribble inverts a byte of the file of frames.
func scribble(t *testing.T, mem *memfs.FS, at int64) {
	t.Helper()
	file, err := mem.OpenFile("cache/"+framesFile, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	p := make([]byte, 1)
	if _, err := file.ReadAt(p, at); err != nil {
		t.Fatal(err)
	}
	p[0] = ^p[0]
	if _, err := file.WriteAt(p, at); err != nil {
		t.Fatal(err)
	}
}

// TestCopySlotBounds: a reader with an old location never sees the part of a buffer
// that is still being filled.
func TestCopySlotBounds(t *testing.T) {
	b := newBuffer(regionBytesMin)
	b.reset(0, small, 1)
	first := b.add(1, 128, 0, func(slot []byte) { slot[0] = 1 })
	var r region
	if inMemory, _ := r.copySlot(make([]byte, 64), first.offset()); inMemory {
		t.Error("a region without a buffer copied from memory")
	}
	r.setBuffer(b)
	for _, test := range []struct {
		offset, n int
		want      bool
	}{
		{first.offset(), 128, true},
		{first.offset() + 64, 64, true},
		{first.offset() + 64, 128, false},
		{first.offset() + 128, 64, false},
		{regionBytesMin - 64, 64, false},
	} {
		if inMemory, ok := r.copySlot(make([]byte, test.n), test.offset); !inMemory || ok != test.want {
			t.Errorf("copy %d bytes at %d: %v, want %v", test.n, test.offset, ok, test.want)
		}
	}
}

// TestMemoryComesBack: see TestFramesComeBack.
func TestMemoryComesBack(t *testing.T) {
	m := NewMemory(4 << 20)
	next := 0
	scan := func(n int) {
		for range n {
			m.Put(Key{Log: "scan", Segment: uint64(next)}, make([]byte, 64<<10))
			next++
		}
	}
	back := Key{Log: "back"}
	m.Put(back, make([]byte, 64<<10))
	scan(80) // evicts it, and is soon over
	if _, ok := m.Get(back); ok {
		t.Fatal("still there")
	}
	m.Put(back, make([]byte, 64<<10))
	scan(1000)
	if _, ok := m.Get(back); !ok {
		t.Error("a frame that came back was evicted by a scan")
	}
}

// TestFramesAllInUse: readers that use everything all the time cannot keep the keeper
// going round for ever.
func TestFramesAllInUse(t *testing.T) {
	f := openTest(t, memfs.New(memfs.Options{}), "cache", testBytes)
	for i := range 2000 {
		f.Put(Key{Segment: uint64(i)}, make([]byte, 24<<10))
		touchAll(f, 100)
		f.settle()
	}
	free := func() int {
		f.mu.Lock()
		defer f.mu.Unlock()
		return len(f.free)
	}
	page, slot := alignedBytes(pageBytes), make([]byte, SlotBytesMax)
	want := free() + 1
	for i := 0; free() < want; i++ {
		if i > 2*len(f.regions) {
			t.Fatal("nothing was freed in two rounds")
		}
		touchAll(f, 100)
		f.evict(page, slot)
	}
	check(t, f)
}
