package cache

import (
	"bytes"
	"errors"
	"io/fs"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/bough-db/bough/vfs"
	"github.com/bough-db/bough/vfs/faultfs"
	"github.com/bough-db/bough/vfs/memfs"
	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// lines counts what is logged.
type lines struct {
	mu sync.Mutex
	n  int
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.n += bytes.Count(p, []byte("\n"))
	return len(p), nil
}

func (l *lines) count() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.n
}

func (l *lines) logger() *slog.Logger { return slog.New(slog.NewTextHandler(l, nil)) }

// failing returns a hook that fails every operation of a kind.
func failing(kind faultfs.Kind, err error) faultfs.Hook {
	return func(op faultfs.Op) error {
		if op.Kind == kind {
			return err
		}
		return nil
	}
}

func TestFramesFullDisk(t *testing.T) {
	mem := memfs.New(memfs.Options{Capacity: testBytes - 1<<20})
	var log lines
	f, err := OpenFrames(mem, "cache", FramesOptions{Bytes: testBytes, Logger: log.logger()})
	if err != nil {
		t.Fatal(err)
	}
	for i := range 10 {
		f.Put(testKey(i), frameOf(testKey(i)))
		if get(t, f, testKey(i)) {
			t.Error("hit without a disk")
		}
	}
	if err := f.Close(); err != nil || f.Stats().Enabled || log.count() != 1 {
		t.Errorf("close: %v, enabled %v, %d log lines; want nil, false, 1", err, f.Stats().Enabled, log.count())
	}
	if _, err := mem.Stat("cache/" + framesFile); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the file is left on the full disk: %v", err)
	}
	mem.SetCapacity(2 * testBytes)
	f = openTest(t, mem, "cache", testBytes) // the lock is free again
	f.Put(testKey(1), frameOf(testKey(1)))
	mustGet(t, f, testKey(1))
}

// TestOpenFramesFaults fails every operation of an opening, one after the other. A
// cache that cannot use its disk runs without; it never fails the daemon.
func TestOpenFramesFaults(t *testing.T) {
	for _, kind := range []faultfs.Kind{faultfs.Open, faultfs.Create, faultfs.Read, faultfs.Write, faultfs.Truncate, faultfs.Allocate, faultfs.Remove} {
		for _, existing := range []bool{false, true} {
			faulty := faultfs.New(memfs.New(memfs.Options{}), "")
			if existing {
				f := openTest(t, faulty, "cache", testBytes)
				put(f, 0, 50)
				if err := f.Close(); err != nil {
					t.Fatal(err)
				}
			}
			faulty.SetHook(failing(kind, unix.EIO))
			f, err := OpenFrames(faulty, "cache", FramesOptions{Bytes: testBytes, Logger: slog.New(slog.DiscardHandler)})
			if err != nil {
				t.Errorf("%s fails, existing %v: %v", kind, existing, err)
				continue
			}
			for i := range 50 {
				get(t, f, testKey(i))
				f.Put(testKey(i), frameOf(testKey(i)))
			}
			_ = f.Close()
			faulty.SetHook(nil)
			f = openTest(t, faulty, "cache", testBytes)
			for i := range 50 {
				get(t, f, testKey(i))
			}
			check(t, f)
		}
	}
	for _, kind := range []faultfs.Kind{faultfs.Mkdir, faultfs.Lock} {
		faulty := faultfs.New(memfs.New(memfs.Options{}), "")
		faulty.SetHook(failing(kind, unix.EIO))
		if f, err := OpenFrames(faulty, "cache", FramesOptions{Bytes: testBytes}); !errors.Is(err, unix.EIO) {
			t.Errorf("%s fails: %v, want its error", kind, err)
			_ = f.Close()
		}
	}
}

func TestFramesFailingWrites(t *testing.T) {
	var log lines
	faulty := faultfs.New(memfs.New(memfs.Options{}), "")
	f, err := OpenFrames(faulty, "cache", FramesOptions{Bytes: testBytes, Logger: log.logger()})
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	put(f, 0, 50)
	f.flush()
	faulty.SetHook(failing(faultfs.Write, faultfs.Torn(unix.EIO)))
	for i := 50; i < 250; i++ {
		f.Put(testKey(i), frameOf(testKey(i)))
	}
	f.flush()
	for i := range 50 {
		mustGet(t, f, testKey(i)) // what reached the disk is still there
	}
	for i := 50; i < 250; i++ {
		get(t, f, testKey(i))
	}
	if s := f.Stats(); s.Enabled || log.count() != 1 || s.Damaged != 0 {
		t.Errorf("enabled %v, %d log lines, %d damaged; want false, 1, 0", s.Enabled, log.count(), s.Damaged)
	}
	check(t, f)
}

func TestFramesFailingReads(t *testing.T) {
	faulty := faultfs.New(memfs.New(memfs.Options{}), "")
	f := openTest(t, faulty, "cache", testBytes)
	f.Put(testKey(1), frameOf(testKey(1)))
	f.flush()
	faulty.SetHook(failing(faultfs.Read, unix.EIO))
	if get(t, f, testKey(1)) {
		t.Error("hit although the disk cannot be read")
	}
	faulty.SetHook(nil)
	if s := f.Stats(); s.Damaged != 1 || get(t, f, testKey(1)) {
		t.Errorf("damaged %d, want 1, and the entry gone", s.Damaged)
	}
}

// TestFramesEvictionSurvivesReadErrors: used frames that cannot be moved are lost,
// and the region is free all the same.
func TestFramesEvictionSurvivesReadErrors(t *testing.T) {
	faulty := faultfs.New(memfs.New(memfs.Options{}), "")
	f := openTest(t, faulty, "cache", testBytes)
	for i := range 3000 {
		if i == 1000 {
			faulty.SetHook(failing(faultfs.Read, unix.EIO))
		}
		key := testKey(i)
		f.Put(key, frameOf(key))
		if i%10 == 9 {
			f.index.touch(key.hash(f.salt))
			f.settle()
		}
	}
	if s := f.Stats(); s.Damaged == 0 || s.Evicted < 1000 {
		t.Errorf("damaged %d, evicted %d: want some, and many", s.Damaged, s.Evicted)
	}
	check(t, f)
}

// script fills the cache several times over, with uses in between, and reopens it.
func script(fsys vfs.FS) {
	opts := FramesOptions{Bytes: FramesBytesMin, Logger: slog.New(slog.DiscardHandler)}
	for round := range 3 {
		f, err := OpenFrames(fsys, "cache", opts)
		if err != nil {
			return // crashed
		}
		for i := range 600 {
			key := testKey(1000*round + i)
			f.Put(key, frameOf(key))
			f.Get(testKey(1000*round+i/2), nil)
			if i%10 == 9 {
				f.settle()
			}
		}
		if f.Close() != nil {
			return
		}
	}
}

// TestFramesCrash stops the machine at every mutation of a script, in every mode,
// and reopens what is left. Nothing but right answers may come out of it.
func TestFramesCrash(t *testing.T) {
	rnd := newRand(t)
	for k := 0; ; k++ {
		mem := memfs.New(memfs.Options{})
		faulty := faultfs.New(mem, "")
		faulty.CrashAt(k)
		script(faulty)
		for _, mode := range memfs.Modes() {
			f := openTest(t, mem.CrashClone(rnd, mode), "cache", FramesBytesMin)
			for i := range 3000 {
				if i%1000 < 600 {
					get(t, f, testKey(i))
				}
			}
			put(f, 5000, 5050)
			check(t, f)
			_ = f.Close()
		}
		if !faulty.Crashed() {
			t.Logf("%d mutations", k)
			return
		}
		if testing.Short() {
			k += 14
		}
	}
}

// TestFramesTrace pins the order of writes: allocation and header at creation, whole
// regions afterwards, and never a sync.
func TestFramesTrace(t *testing.T) {
	faulty := faultfs.New(memfs.New(memfs.Options{}), "")
	key := Key{Log: "br-a", Segment: 1}
	var trace strings.Builder
	step := func(name string) { trace.WriteString("# " + name + "\n" + faulty.Trace()) }
	f := openTest(t, faulty, "cache", FramesBytesMin)
	step("create")
	f.Put(key, make([]byte, 5000))
	f.flush()
	step("write a region that is not full")
	if _, ok := f.Get(key, nil); !ok {
		t.Error("miss")
	}
	step("read")
	f.Put(Key{Log: "br-a", Segment: 2}, make([]byte, 50))
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	step("close")
	f = openTest(t, faulty, "cache", FramesBytesMin)
	step("open again")
	_ = f.Close()
	want, err := os.ReadFile(filepath.Join("testdata", "frames.trace"))
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(string(want), trace.String()); d != "" {
		t.Errorf("trace (-want +got):\n%s", d)
	}
}

// TestFramesBitFlips flips bits of a cache at rest. Each flip costs at most the
// entries of the page it is in, and never gives a wrong answer.
func TestFramesBitFlips(t *testing.T) {
	rnd := newRand(t)
	mem := memfs.New(memfs.Options{})
	f := openTest(t, mem, "cache", FramesBytesMin)
	const n = 60
	put(f, 0, n)
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	image, err := vfs.ReadFile(mem, "cache/"+framesFile)
	if err != nil {
		t.Fatal(err)
	}
	table := tableBytes(regionBytesMin)
	flips := 400
	if testing.Short() {
		flips = 60
	}
	for i := range flips {
		// The header, a table, or anything that was written.
		at := []int{rnd.IntN(28), headerBytes + rnd.IntN(n*tableEntryBytes/3), headerBytes + table + rnd.IntN(regionBytesMin-table)}[i%3]
		hits, damaged := flip(t, mem, image, at, byte(1)<<rnd.IntN(8), n)
		switch {
		case i%3 == 0 && hits != 0 && hits != n:
			t.Errorf("flip in the header at %d: %d of %d frames left", at, hits, n)
		case i%3 == 1 && hits < n-1:
			t.Errorf("flip in a table at %d: %d of %d frames left", at, hits, n)
		case i%3 == 2 && (hits < n-1 || hits+damaged != n):
			t.Errorf("flip in a slot at %d: %d of %d frames left, %d counted as damaged", at, hits, n, damaged)
		}
	}
}

// flip opens a copy of the image with one bit changed, and returns how many of the n
// first frames are still there, and how many were found damaged.
func flip(t *testing.T, mem *memfs.FS, image []byte, at int, bit byte, n int) (hits, damaged int) {
	t.Helper()
	file, err := mem.OpenFile("cache/"+framesFile, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if err := file.Truncate(0); err != nil {
		t.Fatal(err)
	}
	if _, err := file.WriteAt(image, 0); err != nil {
		t.Fatal(err)
	}
	if _, err := file.WriteAt([]byte{image[at] ^ bit}, int64(at)); err != nil {
		t.Fatal(err)
	}
	f := openTest(t, mem, "cache", FramesBytesMin)
	defer f.Close()
	for i := range n {
		if get(t, f, testKey(i)) {
			hits++
		}
	}
	return hits, int(f.Stats().Damaged)
}

// TestFramesFileLost: the file may be truncated or removed at any time.
func TestFramesFileLost(t *testing.T) {
	dir := t.TempDir()
	f := openTest(t, vfs.OS(), dir, FramesBytesMin)
	put(f, 0, 50)
	f.flush()
	if err := os.Truncate(filepath.Join(dir, framesFile), 100); err != nil {
		t.Fatal(err)
	}
	for i := range 50 {
		if get(t, f, testKey(i)) {
			t.Errorf("get %v: hit in an empty file", testKey(i))
		}
	}
	put(f, 0, 50)
	f.flush()
	for i := range 50 {
		mustGet(t, f, testKey(i))
	}
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	for i := range 50 {
		mustGet(t, f, testKey(i)) // an open file lives on
	}
	_ = f.Close()
	f = openTest(t, vfs.OS(), dir, FramesBytesMin)
	if s := f.Stats(); s.Loaded != 0 || !s.Enabled {
		t.Errorf("after removal: %+v", s)
	}
}

// TestFramesTornRegion: half of a region's image is as good as its checksums.
func TestFramesTornRegion(t *testing.T) {
	rnd := rand.New(rand.NewPCG(seed(t), 1))
	mem := memfs.New(memfs.Options{})
	f := openTest(t, mem, "cache", FramesBytesMin)
	put(f, 0, 2000)
	file, err := mem.OpenFile("cache/"+framesFile, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	for range 20 {
		at := f.regionStart(uint32(rnd.IntN(len(f.regions)))) + rnd.Int64N(int64(f.regionBytes)/2)
		if _, err := file.WriteAt(make([]byte, f.regionBytes/2), at); err != nil {
			t.Fatal(err)
		}
	}
	_ = f.Close()
	f = openTest(t, mem, "cache", FramesBytesMin)
	for i := range 2000 {
		get(t, f, testKey(i))
	}
	put(f, 2000, 3000)
	check(t, f)
}
