package cache

import (
	"bytes"
	"encoding/binary"
	"errors"
	"flag"
	"log/slog"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/bough-db/bough/vfs"
)

var seedFlag = flag.Uint64("seed", 0, "seed of the random tests; 0 takes a new one")

// seed returns the seed of this run, and prints it.
func seed(t testing.TB) uint64 {
	t.Helper()
	s := *seedFlag
	if s == 0 {
		s = uint64(time.Now().UnixNano())
	}
	t.Logf("-seed=%d", s)
	return s
}

// newRand returns the source of randomness of a test.
func newRand(t testing.TB) *rand.Rand {
	t.Helper()
	return rand.New(rand.NewPCG(seed(t), 0))
}

// frameOf returns the bytes that key names: a function of the key, so that any
// answer of the cache can be judged without remembering what was put.
func frameOf(key Key) []byte {
	h := key.hash(0)
	rnd := rand.New(rand.NewPCG(h, h))
	n := rnd.IntN(40 << 10)
	switch rnd.IntN(40) {
	case 0:
		n = 0
	case 1:
		n = FrameBytesMax
	case 2:
		n = 1
	}
	return fill(n, rnd)
}

func fill(n int, rnd *rand.Rand) []byte {
	p := make([]byte, n)
	for i := 0; i+8 <= n; i += 8 {
		binary.LittleEndian.PutUint64(p[i:], rnd.Uint64())
	}
	return p
}

func testKey(n int) Key {
	return Key{Log: []string{"br-green-oak-1a2b3c4d", "br-b", ""}[n%3], Segment: uint64(n / 7), Frame: uint32(n)}
}

const testBytes = 9 << 20 // 17 regions of 512 KiB

func openTest(t testing.TB, fsys vfs.FS, dir string, size int64) *Frames {
	t.Helper()
	f, err := OpenFrames(fsys, dir, FramesOptions{Bytes: size, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	return f
}

// put stores frames, no faster than the disk takes them.
func put(f *Frames, from, to int) {
	for i := from; i < to; i++ {
		f.Put(testKey(i), frameOf(testKey(i)))
		if i%10 == 9 {
			f.settle()
		}
	}
}

func mustGet(t testing.TB, f *Frames, key Key) {
	t.Helper()
	if !get(t, f, key) {
		t.Errorf("get %v: missed", key)
	}
}

// get tells whether key is there, and fails the test if its bytes are wrong.
func get(t testing.TB, f *Frames, key Key) bool {
	t.Helper()
	got, ok := f.Get(key, nil)
	if ok && !bytes.Equal(got, frameOf(key)) {
		t.Errorf("get %v: %d bytes that were never put there", key, len(got))
	}
	return ok
}

func TestFramesGetPut(t *testing.T) {
	f := openTest(t, vfs.OS(), t.TempDir(), testBytes)
	const n = 40
	for i := range n {
		if get(t, f, testKey(i)) {
			t.Errorf("get %v before put: hit", testKey(i))
		}
		f.Put(testKey(i), frameOf(testKey(i)))
		mustGet(t, f, testKey(i)) // from the buffer
	}
	f.flush()
	for i := range n {
		mustGet(t, f, testKey(i)) // from the file
	}
	if s := f.Stats(); s.Entries != n || s.Puts != n || s.Hits != 2*n || s.Misses != n || s.Dropped != 0 || s.Damaged != 0 {
		t.Errorf("stats: %+v", s)
	}
	f.Delete(testKey(3))
	if get(t, f, testKey(3)) {
		t.Error("get after delete: hit")
	}
	f.Put(testKey(3), frameOf(testKey(3)))
	mustGet(t, f, testKey(3))
	check(t, f)
}

func TestFramesGetReadsIntoDst(t *testing.T) {
	f := openTest(t, vfs.OS(), t.TempDir(), testBytes)
	key := testKey(1)
	f.Put(key, frameOf(key))
	dst := make([]byte, 0, SlotBytesMax)
	got, ok := f.Get(key, dst)
	if !ok || &got[0] != &dst[:1][0] || cap(got) != cap(dst) {
		t.Errorf("get with room in dst: ok %v, result elsewhere", ok)
	}
	allocs := testing.AllocsPerRun(100, func() { got, _ = f.Get(key, got) })
	if allocs != 0 {
		t.Errorf("get with room in dst: %v allocations", allocs)
	}
}

func TestFramesWarmAcrossRestart(t *testing.T) {
	dir := t.TempDir()
	f := openTest(t, vfs.OS(), dir, testBytes)
	const n = 150
	put(f, 0, n)
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	if get(t, f, testKey(0)) {
		t.Error("get after close: hit")
	}
	f.Put(testKey(n), frameOf(testKey(n)))

	f = openTest(t, vfs.OS(), dir, testBytes)
	if s := f.Stats(); s.Loaded != n {
		t.Errorf("loaded %d frames, want %d", s.Loaded, n)
	}
	for i := range n {
		mustGet(t, f, testKey(i))
	}
	check(t, f)
}

func TestFramesGeometryChange(t *testing.T) {
	dir := t.TempDir()
	open := func(size int64) *Frames { return openTest(t, vfs.OS(), dir, size) }
	f := open(testBytes)
	put(f, 0, 100)
	_ = f.Close()
	f = open(2 * testBytes) // grown: all still there
	put(f, 100, 200)
	for i := range 200 {
		mustGet(t, f, testKey(i))
	}
	_ = f.Close()
	f = open(testBytes) // shrunk: some still there
	size, err := f.rd.Size()
	if err != nil || size > testBytes {
		t.Errorf("file of %d bytes (%v), want at most %d", size, err, testBytes)
	}
	hits := 0
	for i := range 200 {
		if get(t, f, testKey(i)) {
			hits++
		}
	}
	if hits < 50 {
		t.Errorf("%d of 200 frames left after halving the cache", hits)
	}
	_ = f.Close()
	f = open(600 << 20) // other regions: empty
	if s := f.Stats(); s.Loaded != 0 {
		t.Errorf("loaded %d frames from a file of another geometry", s.Loaded)
	}
}

func TestFramesLimits(t *testing.T) {
	f := openTest(t, vfs.OS(), t.TempDir(), testBytes)
	big := Key{Log: strings.Repeat("x", LogBytesMax), Segment: 1<<64 - 1, Frame: 1<<32 - 1}
	f.Put(big, make([]byte, FrameBytesMax))
	if got, ok := f.Get(big, nil); !ok || len(got) != FrameBytesMax {
		t.Error("the largest frame under the longest key is not stored")
	}
	f.Put(testKey(1), make([]byte, FrameBytesMax+1))
	f.Put(Key{Log: big.Log + "x"}, []byte("x"))
	if s := f.Stats(); s.Dropped != 2 || s.Entries != 1 {
		t.Errorf("beyond the limits: %+v, want 2 dropped", s)
	}
}

func TestFramesNil(t *testing.T) {
	var f *Frames
	f.Put(testKey(1), nil)
	f.Delete(testKey(1))
	if _, ok := f.Get(testKey(1), nil); ok || f.Close() != nil || f.Stats() != (FramesStats{}) {
		t.Error("a nil cache holds something")
	}
}

func TestOpenFramesRefuses(t *testing.T) {
	for name, opts := range map[string]FramesOptions{
		"too small":       {Bytes: FramesBytesMin - 1},
		"too large":       {Bytes: FramesBytesMax + 1},
		"negative":        {Bytes: -1},
		"negative buffer": {BufferBytes: -1, Bytes: testBytes},
	} {
		if f, err := OpenFrames(vfs.OS(), t.TempDir(), opts); err == nil {
			t.Errorf("%s: no error", name)
			_ = f.Close()
		}
	}
	dir := t.TempDir()
	openTest(t, vfs.OS(), dir, testBytes)
	if _, err := OpenFrames(vfs.OS(), dir, FramesOptions{Bytes: testBytes}); !errors.Is(err, vfs.ErrLocked) {
		t.Errorf("second open: %v, want ErrLocked", err)
	}
}

// TestI9BufferBounded is invariant I9 for what waits to be written: frames that come faster than the disk takes them are dropped,
// and memory stays within its bound.
func TestI9BufferBounded(t *testing.T) {
	f := openTest(t, vfs.OS(), t.TempDir(), testBytes)
	frame := make([]byte, 64<<10)
	for i := range 2000 {
		f.Put(testKey(i), frame)
		if s := f.Stats(); s.BufferBytes > int64(f.buffersMax+1)*int64(f.regionBytes) {
			t.Fatalf("buffers of %d bytes", s.BufferBytes)
		}
	}
	f.settle()
	if s := f.Stats(); s.Puts+s.Dropped != 2000 || s.Puts < 10 {
		t.Errorf("%d stored and %d dropped of 2000", s.Puts, s.Dropped)
	}
	check(t, f)
}
