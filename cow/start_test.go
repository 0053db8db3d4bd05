package cow

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/bough-db/bough/cache"
	"github.com/bough-db/bough/objstore"
	"github.com/bough-db/bough/wal"
)

// startScript is the blocks that a start reads in the tests of this file: spread
// over many leaves, segments and frames.
func startScript() (blocks []uint64) {
	for i := range uint64(120) {
		blocks = append(blocks, i*701)
	}
	return blocks
}

const startDevice = 1 << 30

// startWorld makes a branch on the near host whose blocks of the script have their
// number plus 1 as stamps, and detaches it.
func startWorld(t *testing.T, w *world) BranchID {
	t.Helper()
	b := w.makeProject("p", startDevice)
	for i, block := range startScript() {
		// Its neighbours fill its frame, so that each block has one of its own.
		for j := range uint64(frameBlocks) {
			w.writeUnflushed(b, block+j, block+j+1)
		}
		if i%5 == 4 {
			if err := b.Flush(context.Background()); err != nil {
				t.Fatal(err)
			}
			wait(2 * time.Second) // a segment
		}
	}
	w.closeBranch(b)
	return b.ID()
}

// cold starts a host that has nothing of the store in memory.
func cold(t *testing.T, objects objstore.Store, opts Options) *world {
	t.Helper()
	opts.SealAfter = time.Second
	w := &world{t: t, objects: objects, opts: opts}
	w.mustStart()
	return w
}

// begin opens the branch as a start does.
func (w *world) begin(id BranchID) *Branch {
	w.t.Helper()
	b, err := w.store.OpenWith(context.Background(), id, OpenOptions{FetchStart: true})
	if err != nil {
		w.t.Fatal(err)
	}
	return b
}

// run reads the script, one block after the other.
func (w *world) run(b *Branch, blocks []uint64) {
	w.t.Helper()
	for _, block := range blocks {
		w.expect(b, block, block+1)
	}
}

// record is a start from its beginning to its end, recorded.
func (w *world) record(id BranchID, blocks []uint64) {
	w.t.Helper()
	b := w.begin(id)
	b.RecordStart()
	w.run(b, blocks)
	b.Started()
	w.closeBranch(b)
}

func (d *distant) count(prefix string) (n int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, r := range d.requests {
		if strings.HasPrefix(r, prefix) {
			n++
		}
	}
	return n
}

// onceEach fails the test if some bytes of a segment were asked for twice.
func (d *distant) onceEach(t *testing.T) {
	t.Helper()
	d.mu.Lock()
	defer d.mu.Unlock()
	ends := map[string]bool{}
	ranges := map[string][][2]int{}
	for _, r := range d.requests {
		var key string
		var off, n int
		if _, err := fmt.Sscanf(r, "read %s %d+%d", &key, &off, &n); err != nil || !strings.Contains(key, "/seg/") {
			continue
		}
		if off < 0 {
			if ends[key] {
				t.Errorf("the footer of %s was read twice", key)
			}
			ends[key] = true
			continue
		}
		for _, o := range ranges[key] {
			if off < o[0]+o[1] && o[0] < off+n {
				t.Errorf("bytes %d+%d of %s were read, and %d+%d before", off, n, key, o[0], o[1])
			}
		}
		ranges[key] = append(ranges[key], [2]int{off, n})
	}
}

// A start on a cold host that was recorded before waits for five round trips,
// however much it reads: two to open the branch, and one each for the tree's pages,
// the segments' indexes and the frames. Without that, for one or more for each
// block. Nothing is asked for twice.
//
// Seen to fail with: a fetch that does not begin the flights of its frames; a close
// that does not end the recording.
func TestStartRoundTrips(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, far, d := distantHosts(t, Options{SealAfter: time.Second, CheckpointSegments: 4})
		id := startWorld(t, near)
		blocks := startScript()
		start := func(w *world) {
			b := w.begin(id)
			b.RecordStart()
			w.run(b, blocks)
			b.Started()
			defer w.closeBranch(b)
		}
		d.trips(t, "the first start", 500, func() { start(far) })
		if n := d.count("put " + startKey(id)); n != 1 {
			t.Errorf("%d puts of the start set, want 1", n)
		}
		for _, cached := range []bool{false, true} {
			opts := Options{}
			if cached {
				frames, err := cache.OpenFrames(near.disk, "/cache", cache.FramesOptions{Bytes: cache.FramesBytesMin, Logger: quiet})
				if err != nil {
					t.Fatal(err)
				}
				defer frames.Close()
				opts.Frames, opts.Memory = frames, cache.NewMemory(64<<10) // of which little gets in
			}
			w := cold(t, d, opts)
			var b *Branch
			d.trips(t, "the second", 5, func() {
				b = w.begin(id)
				b.RecordStart()
				w.run(b, blocks)
			})
			if d.most <= 8 || d.most > startRequests {
				t.Errorf("%d requests at the same time, want more than 8 and at most %d", d.most, startRequests)
			}
			d.onceEach(t)
			b.Started()
			d.trips(t, "closing it", 3, func() { w.closeBranch(b) })
			if n := d.count("put " + startKey(id)); n != 0 {
				t.Errorf("a start like the last one puts the start set %d times", n)
			}
			w.stop()
		}
	})
}

// What the last stop has written is fetched too, wherever it is.
func TestStartFetchesTheNewest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, far, d := distantHosts(t, Options{SealAfter: time.Second, CheckpointSegments: 4})
		id := startWorld(t, near)
		far.record(id, startScript()[:40])
		b := near.open(id)
		for i := range uint64(40) { // on the second half of the device, all in one leaf or two
			near.writeUnflushed(b, startDevice/BlockSize/2+i*17, i+1)
		}
		near.closeBranch(b)
		w := cold(t, d, Options{})
		defer w.stop()
		d.trips(t, "reading what was written last", 6, func() {
			b = w.begin(id)
			for i := range uint64(40) {
				w.expect(b, startDevice/BlockSize/2+i*17, i+1)
			}
		})
		w.closeBranch(b)
	})
}

// A branch that was never started uses what its parent's start read, or its
// grandparent's, and stores none of its own as long as it reads the same.
func TestStartIsInherited(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, far, d := distantHosts(t, Options{SealAfter: time.Second, CheckpointSegments: 4})
		id := startWorld(t, near)
		far.record(id, startScript())
		for _, name := range []string{"child", "grandchild"} {
			info, err := near.store.CreateBranch(context.Background(), "p", name, BranchOptions{From: id})
			if err != nil {
				t.Fatal(err)
			}
			id = info.ID
			w := cold(t, d, Options{})
			var b *Branch
			d.trips(t, "the first start of a "+name, 6, func() {
				b = w.begin(id)
				b.RecordStart()
				w.run(b, startScript())
			})
			b.Started()
			w.write(b, 100_000, 1) // so that its own children begin in its log
			w.closeBranch(b)
			if n := d.count("put " + startKey(id)); n != 0 {
				t.Errorf("%d puts of a start set of its own", n)
			}
			w.stop()
		}
	})
}

// What the first start on a child reads beyond its parent's is there for its siblings,
// and for nobody to put again.
func TestFirstStartIsForSiblings(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, far, d := distantHosts(t, Options{SealAfter: time.Second, CheckpointSegments: 4})
		parent := startWorld(t, near)
		blocks := startScript()
		far.record(parent, blocks[:60])
		for i, want := range []int{1, 0, 0} {
			info, err := near.store.CreateBranch(context.Background(), "p", fmt.Sprint("c", i), BranchOptions{From: parent})
			if err != nil {
				t.Fatal(err)
			}
			w := cold(t, d, Options{})
			d.forget()
			began := time.Now()
			w.record(info.ID, blocks)
			trips := int(time.Since(began) / roundTrip)
			if most := 5 + 3; i > 0 && trips > most { // opening to reading, and closing
				t.Errorf("the first start of child %d takes %d round trips, want at most %d", i, trips, most)
			}
			if n := d.count("put " + startKey(parent)); n != want {
				t.Errorf("child %d: %d puts of the parent's start set, want %d", i, n, want)
			}
			d.forget()
			w.record(info.ID, blocks[:60])
			w.record(parent, blocks[:60])
			if n := d.count("put "+startKey(parent)) + d.count("put "+startKey(info.ID)); n != 0 {
				t.Errorf("child %d: %d puts of start sets by later starts", i, n)
			}
			w.stop()
		}
	})
}

// The recording ends a while after the start, sooner if it is used, and when the
// branch is closed; then nothing more happens. It is stored again when it has
// become another one.
func TestStartRecording(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, far, d := distantHosts(t, Options{SealAfter: time.Second, CheckpointSegments: 4})
		id := startWorld(t, near)
		blocks := startScript()
		puts := func(what string, want int, f func(b *Branch)) {
			t.Helper()
			d.forget()
			b := far.begin(id)
			b.RecordStart()
			f(b)
			wait(time.Hour)
			if n := d.count("put " + startKey(id)); n != want {
				t.Errorf("%s: %d puts of the start set, want %d", what, n, want)
			}
			if b.recording.Load() != nil {
				t.Errorf("%s: the recording goes on", what)
			}
			d.forget()
			far.closeBranch(b)
			if n := d.count("put " + startKey(id)); n != 0 {
				t.Errorf("%s: closing puts the start set again", what)
			}
		}
		stored := func() *startSet {
			synctest.Wait()
			return near.store.readStart(context.Background(), id)
		}
		puts("nothing was read", 0, func(b *Branch) { b.Started() })
		puts("a first start", 1, func(b *Branch) {
			far.run(b, blocks[:50])
			b.Started()
			wait(startLinger - time.Second)
			far.run(b, blocks[50:52]) // of the use, though nobody says so
			if stored() != nil {
				t.Error("it is stored before its end")
			}
		})
		if set := stored(); set == nil || set.used || len(set.groups) != 52 {
			t.Fatalf("stored %+v", set)
		}
		puts("the same again", 0, func(b *Branch) { far.run(b, blocks[:50]); b.Started() })
		puts("the same, used", 1, func(b *Branch) {
			far.run(b, blocks[:50])
			b.Started()
			b.Used()
			far.run(b, blocks[60:70])
			b.Used()
			b.Started()
			wait(useLinger + roundTrip)
			far.run(b, blocks[80:]) // too late
		})
		if set := stored(); set == nil || !set.used || len(set.groups) != 60 {
			t.Fatalf("stored %+v", set)
		}
		puts("less", 0, func(b *Branch) { far.run(b, blocks[:30]); b.Used() })
		puts("not used", 0, func(b *Branch) { far.run(b, blocks[:50]); b.Started() })
		puts("a little more", 0, func(b *Branch) { far.run(b, blocks[:50]); far.run(b, blocks[100:100+startDrift]); b.Used() })
		puts("used in another way", 0, func(b *Branch) { far.run(b, blocks[:50]); b.Used(); far.run(b, blocks[70:]) })
		puts("another start", 1, func(b *Branch) { far.run(b, blocks[80:]); b.Used() })

		d.forget()
		b := far.begin(id)
		far.closeBranch(b)
		b = far.begin(id)
		b.RecordStart()
		far.run(b, blocks)
		far.closeBranch(b)
		b.Started() // to no avail
		b.Used()
		if n := d.count("put " + startKey(id)); n != 1 {
			t.Errorf("closing during a start: %d puts of the start set, want 1", n)
		}
		d.forget()
		b = far.open(id)
		b.RecordStart() // nobody has read what is stored
		far.run(b, blocks[:60])
		b.Used()
		wait(time.Hour)
		far.closeBranch(b)
		if n := d.count("put " + startKey(id)); n != 0 {
			t.Errorf("%d puts of the start set without FetchStart", n)
		}
	})
}

// What a start writes needs the tree's pages, and nothing else.
func TestStartRecordsWrites(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, far, d := distantHosts(t, Options{SealAfter: time.Second, CheckpointSegments: 4})
		id := startWorld(t, near)
		b := far.begin(id)
		b.RecordStart()
		for _, block := range startScript() {
			far.write(b, block, block+1)
		}
		far.closeBranch(b)
		set := far.store.readStart(context.Background(), id)
		if set == nil || len(set.groups) < 100 {
			t.Fatalf("stored %+v", set)
		}
		for g, mask := range set.groups {
			if mask != 0 {
				t.Errorf("group %d has blocks %b, none was read", g, mask)
			}
		}
		near.closeBranch(near.open(id)) // whose newest segment has nothing
		w := cold(t, d, Options{})
		defer w.stop()
		b = w.begin(id)
		wait(time.Minute)
		d.trips(t, "writing", 0, func() {
			for _, block := range startScript() {
				w.write(b, block, block+1)
			}
		})
		w.closeBranch(b)
	})
}

// However much a start reads, the set and what is fetched are bounded. I9.
func TestI9StartIsBounded(t *testing.T) {
	r := &startRecorder{groups: map[uint32]uint16{}}
	for i := range uint64(2 * startGroupsMax) {
		r.read(i*startGroupSize, 1)
		r.wrote(1<<28+i<<leafBits, 1<<28+i<<leafBits)
	}
	r.wrote(0, MaxBlocks-1)
	set := r.result()
	if len(set.groups) != startGroupsMax {
		t.Errorf("recorded %d groups, want %d", len(set.groups), startGroupsMax)
	}
	if n := len(encodeStart("k", set)); n > startBytesMax {
		t.Errorf("the set has %d bytes, want at most %d", n, startBytesMax)
	}
	r = &startRecorder{groups: map[uint32]uint16{}}
	r.read(0, 100*startGroupSize)
	r.beginUse()
	r.read(0, 10*useGroupsMax*startGroupSize)
	if n := len(r.result().groups); n != 100+useGroupsMax {
		t.Errorf("with its use it is %d groups, want %d", n, 100+useGroupsMax)
	}
	synctest.Test(t, func(t *testing.T) {
		near, far, d := distantHosts(t, Options{SealAfter: time.Second, CheckpointSegments: 4})
		id := startWorld(t, near)
		far.record(id, startScript())
		memory := cache.NewMemory(2 << 20)
		w := cold(t, d, Options{Memory: memory})
		defer w.stop()
		b := w.begin(id)
		wait(time.Minute)
		got := memory.Stats()
		if got.Entries == 0 || got.Entries*frameBlocks*BlockSize > 1<<20 || got.Evicted > 0 {
			t.Errorf("of 7.5 MiB a memory cache of 2 MiB got %d frames, %d were evicted", got.Entries, got.Evicted)
		}
		w.run(b, startScript())
		w.closeBranch(b)
	})
}

// Whatever is stored as the start set, branches open, and read what they should.
func TestStartSetIsAHint(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, far, d := distantHosts(t, Options{SealAfter: time.Second})
		ctx := context.Background()
		id := startWorld(t, near)
		other, _, err := near.store.CreateProject(ctx, "q", ProjectOptions{Size: 16 << 20})
		if err != nil {
			t.Fatal(err)
		}
		far.record(id, startScript())
		key := startKey(id)
		good, _, err := near.objects.Get(ctx, key)
		if err != nil {
			t.Fatal(err)
		}
		everything := &startSet{groups: map[uint32]uint16{}}
		beyond := &startSet{groups: map[uint32]uint16{}}
		for i := range uint32(startGroupsMax) {
			everything.groups[i*7] = 0xffff
			beyond.groups[startGroupsEnd-1-i] = 0xffff
		}
		newer := bytes.Clone(good)
		newer[8]++
		for what, data := range map[string][]byte{
			"nothing": {}, "half": good[:len(good)/2], "a bit": slices.Concat(good[:20], []byte{good[20] ^ 1}, good[21:]),
			"more": append(bytes.Clone(good), 0), "newer": newer, "of another branch": encodeStart(startKey(other.Main), everything),
			"all": encodeStart(key, everything), "beyond the device": encodeStart(key, beyond), "none": encodeStart(key, &startSet{}),
			"large": bytes.Repeat(good, 1000),
		} {
			if _, err := near.objects.Put(ctx, key, data, objstore.Condition{}); err != nil {
				t.Fatal(err)
			}
			w := cold(t, d, Options{})
			b := w.begin(id)
			b.RecordStart()
			w.run(b, startScript()[:50])
			b.Used()
			w.closeBranch(b)
			w.stop()
			if t.Failed() {
				t.Fatalf("with a start set of %s", what)
			}
		}
	})
}

// silent is a store in which reads of segments wait for the end of their context.
type silent struct {
	*distant
	asked chan struct{} // takes one for each
}

func (s silent) ReadAt(ctx context.Context, key string, p []byte, off int64) (int, objstore.Info, error) {
	if strings.Contains(key, "/seg/") && off >= 0 {
		s.asked <- struct{}{}
		<-ctx.Done()
		return 0, objstore.Info{}, ctx.Err()
	}
	return s.distant.ReadAt(ctx, key, p, off)
}

// Closing a branch ends its fetching; whoever waits for a frame of it, on another
// branch, fetches it then.
//
// Seen to fail with: flights that end with the error of whoever gave up; a close that
// does not end the fetching.
func TestStartIsCancelled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, far, d := distantHosts(t, Options{SealAfter: time.Second, CheckpointSegments: 4})
		id := startWorld(t, near)
		far.record(id, startScript())
		child, err := near.store.CreateBranch(context.Background(), "p", "c", BranchOptions{From: id})
		if err != nil {
			t.Fatal(err)
		}
		s := silent{d, make(chan struct{}, 1000)}
		w := cold(t, s, Options{})
		b := w.begin(id)
		c := w.open(child.ID)
		<-s.asked
		synctest.Wait()
		var key cache.Key // of a frame on its way
		w.store.frameFlights.mu.Lock()
		for key = range w.store.frameFlights.calls {
			break
		}
		w.store.frameFlights.mu.Unlock()
		read := make(chan error)
		go func() {
			ix, err := w.store.segmentIndex(context.Background(), BranchID(key.Log), wal.SegmentNo(key.Segment))
			if err == nil {
				_, err = w.store.frame(ix.object, int(key.Frame), ix.frames[key.Frame])
			}
			read <- err
		}()
		synctest.Wait()
		began := time.Now()
		w.closeBranch(b)
		if took := time.Since(began); took > 4*roundTrip {
			t.Errorf("closing a branch that is fetching takes %v", took)
		}
		synctest.Wait()
		select {
		case err := <-read:
			t.Fatalf("a reader was told of the end of somebody else's context: %v", err)
		default:
		}
		w.store.cancel() // and this is the end of its own
		if err := <-read; !errors.Is(err, context.Canceled) {
			t.Errorf("the reader's own fetch: %v", err)
		}
		_ = c.Close(context.Background())
		_ = w.shut()
	})
}

// A frame that comes damaged with many others is fetched again by whoever needs
// it, and nobody else is told.
func TestStartHeals(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, far, d := distantHosts(t, Options{SealAfter: time.Second, CheckpointSegments: 4})
		id := startWorld(t, near)
		far.record(id, startScript())
		w := cold(t, flipping{d}, Options{})
		defer w.stop()
		b := w.begin(id)
		wait(time.Minute)
		w.run(b, startScript())
		w.closeBranch(b)
	})
}

// flipping is a store that flips a bit in the middle of every long part of a segment.
type flipping struct{ *distant }

func (f flipping) ReadAt(ctx context.Context, key string, p []byte, off int64) (int, objstore.Info, error) {
	n, info, err := f.distant.ReadAt(ctx, key, p, off)
	if err == nil && off >= 0 && n > 3*BlockSize {
		p[n/2] ^= 4
	}
	return n, info, err
}
