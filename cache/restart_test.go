package cache

import (
	"slices"
	"testing"

	"github.com/bough-db/bough/vfs/memfs"
	"github.com/google/go-cmp/cmp"
)

// TestFramesRestartKeepsOrder: the queues are as they were, the youngest of two
// slots with the same key wins, and uses go on counting.
func TestFramesRestartKeepsOrder(t *testing.T) {
	mem := memfs.New(memfs.Options{})
	f := openTest(t, mem, "cache", 3*testBytes)
	for i := range 3000 {
		key := testKey(i)
		f.Put(key, frameOf(key))
		if i%3 == 0 {
			f.index.touch(key.hash(f.salt)) // so that some move to the main queue
		}
		if i%10 == 9 {
			f.settle()
		}
	}
	before := [queues][]uint32{slices.Clone(f.queue[small]), slices.Clone(f.queue[main])}
	use := f.use
	if len(before[small]) < 2 || len(before[main]) < 2 {
		t.Fatalf("queues of %d and %d regions", len(before[small]), len(before[main]))
	}
	places := make(map[uint64]location)
	for i := range 3000 {
		hash := testKey(i).hash(f.salt)
		if loc, ok := f.index.peek(hash); ok {
			places[hash] = loc.place()
		}
	}
	f.flush()
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}

	f = openTest(t, mem, "cache", 3*testBytes)
	// Freed regions still have a table, and come back as the oldest; the keeper may
	// have freed them again. The others follow in their old order.
	f.settle()
	for q := range queues {
		got := f.queue[q]
		from := slices.Index(got, before[q][len(before[q])/2])
		if want := before[q][len(before[q])/2:]; from < 0 || len(got) < from+len(want) || !slices.Equal(got[from:from+len(want)], want) {
			t.Errorf("queue %d: %v after restart, want %v in it", q, got, want)
		}
	}
	if f.use < use {
		t.Errorf("uses count on from %d, want %d", f.use, use)
	}
	moved := 0
	for hash, want := range places {
		if got, ok := f.index.peek(hash); ok && got.place() != want {
			moved++
		}
	}
	if moved > 0 {
		t.Errorf("%d of %d frames are somewhere else after a restart", moved, len(places))
	}
	check(t, f)
}

// TestReadTableLeftovers: of a table that a torn write left half old and half new,
// only what belongs to the latest use counts, wherever it is.
func TestReadTableLeftovers(t *testing.T) {
	const perPage = pageBytes / tableEntryBytes
	mem := memfs.New(memfs.Options{})
	f := openTest(t, mem, "cache", 1<<30)
	if f.regionBytes != regionBytesMax {
		t.Fatalf("regions of %d bytes", f.regionBytes)
	}
	write := func(use uint64, from, to int) {
		buf := newBuffer(f.regionBytes)
		buf.reset(3, small, use)
		for i := range to {
			buf.add(use*1000+uint64(i), 64, f.salt, func([]byte) {})
		}
		p := buf.bytes[from*tableEntryBytes : to*tableEntryBytes]
		if _, err := f.rd.WriteAt(p, f.regionStart(3)+int64(from*tableEntryBytes)); err != nil {
			t.Fatal(err)
		}
	}
	read := func() (use uint64, slots []int) {
		for _, e := range f.readTable(3, make([]byte, pageBytes)) {
			use = e.use
			slots = append(slots, int(e.hash%1000))
		}
		return use, slots
	}
	numbers := func(from, to int) (s []int) {
		for i := from; i < to; i++ {
			s = append(s, i)
		}
		return s
	}
	expect := func(name string, wantUse uint64, want []int) {
		t.Helper()
		use, got := read()
		if d := cmp.Diff(want, got); use != wantUse || d != "" {
			t.Errorf("%s: use %d, want %d; slots (-want +got):\n%s", name, use, wantUse, d)
		}
	}
	expect("empty", 0, nil)
	write(5, 0, 3*perPage)
	expect("three pages", 5, numbers(0, 3*perPage))
	write(8, 0, 20)
	expect("new entries in front", 8, numbers(0, 20))
	write(9, perPage, 2*perPage)
	expect("new page in the middle", 9, numbers(perPage, 2*perPage))
}

// TestFramesForget: what was used and then no more goes round the main queue once
// for each use that counted, and leaves.
func TestFramesForget(t *testing.T) {
	mem := memfs.New(memfs.Options{})
	f := openTest(t, mem, "cache", testBytes)
	old := Key{Log: "old"}
	hash := old.hash(f.salt)
	f.Put(old, make([]byte, 24<<10))
	f.index.touch(hash)
	last, _ := f.index.peek(hash)
	moves := 0
	for n := range uint64(20_000) {
		// Others come, every fourth is used once, and they push it through both queues.
		key := Key{Log: "other", Segment: n}
		f.Put(key, make([]byte, 24<<10))
		if n%4 == 0 {
			f.index.touch(key.hash(f.salt))
		}
		f.settle()
		loc, ok := f.index.peek(hash)
		if !ok {
			if moves != 1+freqMax {
				t.Errorf("moved %d times before it left, want %d", moves, 1+freqMax)
			}
			return
		}
		if loc.place() != last.place() {
			if moves++; moves == 1 { // into the main queue
				for range 5 {
					f.index.touch(hash)
				}
			}
			last = loc
		}
	}
	t.Errorf("still there after %d moves", moves)
}

// TestFramesRecirculate: a region of which more than half is used goes to the main
// queue without being copied, and is found there after a restart.
func TestFramesRecirculate(t *testing.T) {
	mem := memfs.New(memfs.Options{})
	f := openTest(t, mem, "cache", testBytes)
	n := 0
	for ; len(f.queue[main]) == 0; n++ {
		key := Key{Segment: uint64(n)}
		f.Put(key, make([]byte, 24<<10))
		f.index.touch(key.hash(f.salt))
		f.settle()
	}
	s := f.Stats()
	if limit := uint64(n*slotBytes(24<<10, "") + len(f.regions)*3*pageBytes); s.Written > limit {
		t.Errorf("%d bytes written for %d frames of 24 KiB, want no copies", s.Written, n)
	}
	want := slices.Clone(f.queue[main])
	_ = f.Close()
	f = openTest(t, mem, "cache", testBytes)
	f.settle()
	for _, no := range want[len(want)/2:] {
		if !slices.Contains(f.queue[main], no) {
			t.Errorf("region %d is not in the main queue after a restart", no)
		}
	}
	check(t, f)
}
