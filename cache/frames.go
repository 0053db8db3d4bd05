package cache

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/bough-db/bough/vfs"
)

// Limits of the Bytes of [FramesOptions].
const (
	// FramesBytesMin is the smallest cache file: below it, regions would be too few
	// to tell used frames from unused ones.
	FramesBytesMin = int64(headerBytes + regionsMin*regionBytesMin)
	// FramesBytesMax is the largest: 4 TiB, a million regions.
	FramesBytesMax = int64(4 << 40)
)

// FramesOptions configures [OpenFrames]. The zero value is a safe default.
type FramesOptions struct {
	// Bytes is the size of the cache file, all of which is allocated at once;
	// at least FramesBytesMin and at most FramesBytesMax. Default: 8 GiB.
	Bytes int64

	// BufferBytes bounds the memory for frames that are not on disk yet; a frame
	// that finds it full is not stored. Default: 32 MiB, and never more than a
	// quarter of Bytes, nor less than three regions.
	BufferBytes int64

	// Logger gets a line when the cache has to do without its disk. Default:
	// slog.Default().
	Logger *slog.Logger
}

func (o *FramesOptions) setDefaults() error {
	if o.Bytes == 0 {
		o.Bytes = 8 << 30
	}
	if o.BufferBytes == 0 {
		o.BufferBytes = 32 << 20
	}
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	var problems []error
	if o.Bytes < FramesBytesMin || o.Bytes > FramesBytesMax {
		problems = append(problems, fmt.Errorf("cache of %d bytes: give %d to %d", o.Bytes, FramesBytesMin, FramesBytesMax))
	}
	if o.BufferBytes < 0 {
		problems = append(problems, fmt.Errorf("cache buffer of %d bytes: give a positive number", o.BufferBytes))
	}
	return errors.Join(problems...)
}

// Frames is the cache of frames on local disk. Its methods may be called by any
// number of goroutines, and on a nil *Frames, which is a cache that holds nothing.
type Frames struct {
	log         *slog.Logger
	regionBytes int
	buffersMax  int
	freeMin     int // regions that the keeper keeps free
	salt        uint64

	// rd goes through the page cache, wr past it: see OpenFrames. All three are nil
	// in a cache that has no disk.
	rd, wr vfs.File
	lock   io.Closer

	index   index
	ghosts  *ghosts
	regions []region
	stats   counters
	// off is set once nothing more can be stored: by Close, by a failed write, or
	// from the beginning if there is no disk.
	off atomic.Bool

	mu      sync.Mutex
	closed  bool
	use     uint64           // of the region opened last
	open    [queues]*buffer  // nil until a frame needs one
	pending []*buffer        // full, oldest first
	buffers int              // in open and pending
	spare   []*buffer        // to be reused
	free    []uint32         // regions
	queue   [queues][]uint32 // regions on disk, oldest first
	rounds  int              // regions that went round the main queue since one was freed
	idle    *sync.Cond       // broadcast when the keeper has nothing to do
	working bool             // the keeper is between wake and idle

	wake chan struct{} // holds one token: the keeper has something to do
	done chan struct{} // closed when the keeper has ended
}

// Get returns the frame stored under key. The result is read into dst if its
// capacity suffices (SlotBytesMax always does) and belongs to the caller; it is
// intact, or Get says that there is none.
func (f *Frames) Get(key Key, dst []byte) ([]byte, bool) {
	if f == nil || f.rd == nil {
		return nil, false
	}
	hash := key.hash(f.salt)
	// A frame that the keeper moves between the look-up and the read is found at
	// its new place; it cannot move again within the time of two reads, and if it
	// did, a miss is correct too.
	for range 3 {
		loc, ok := f.index.touch(hash)
		if !ok {
			break
		}
		frame, err := f.read(key, loc, &dst)
		if err == nil {
			f.stats.hits.Add(1)
			return frame, true
		}
		if !errors.Is(err, errReplaced) {
			if f.index.removeAt(hash, loc) {
				f.stats.damaged.Add(1)
			}
			break
		}
		f.stats.replaced.Add(1)
	}
	f.stats.misses.Add(1)
	return nil, false
}

// errReplaced: the slot was given to something else before it had been read.
var errReplaced = errors.New("slot was replaced during the read")

// read reads and checks the slot at loc. It grows dst if it has to.
func (f *Frames) read(key Key, loc location, dst *[]byte) ([]byte, error) {
	r := &f.regions[loc.region()]
	use := r.use.Load()
	n := loc.length()
	if cap(*dst) < n {
		*dst = make([]byte, n)
	}
	slot := (*dst)[:n]
	inMemory, ok := r.copySlot(slot, loc.offset())
	if inMemory && !ok {
		return nil, errReplaced
	}
	var err error
	if !inMemory {
		_, err = f.rd.ReadAt(slot, f.regionStart(loc.region())+int64(loc.offset()))
	}
	if err == nil {
		var frame []byte
		if frame, err = openSlot(slot, key); err == nil {
			return frame, nil
		}
	}
	// Damage, or a region that was evicted and filled anew meanwhile?
	now, ok := f.index.peek(key.hash(f.salt))
	if !ok || now.place() != loc.place() || r.use.Load() != use {
		return nil, errReplaced
	}
	return nil, err
}

// Put stores a frame, which is not retained, under a key that must never name
// other bytes. It does not wait for the disk: a frame that finds the buffers full is
// not stored.
func (f *Frames) Put(key Key, frame []byte) {
	if f == nil || f.off.Load() {
		return
	}
	if len(frame) > FrameBytesMax || len(key.Log) > LogBytesMax {
		f.stats.dropped.Add(1)
		return
	}
	hash := key.hash(f.salt)
	if _, ok := f.index.peek(hash); ok {
		return
	}
	q := small
	if f.ghosts.has(hash) {
		q = main
	}
	n := slotBytes(len(frame), key.Log)

	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed || f.off.Load() {
		return
	}
	if _, ok := f.index.peek(hash); ok {
		return
	}
	// The last free region is the keeper's: it needs one to make others free.
	b := f.room(q, n, f.buffersMax, 1)
	if b == nil {
		f.stats.dropped.Add(1)
		return
	}
	f.index.put(hash, b.add(hash, n, f.salt, func(slot []byte) { encodeSlot(slot, key, frame) }))
	f.stats.puts.Add(1)
}

// Has tells whether a frame is probably there, without a look at the disk and
// without counting as a use.
func (f *Frames) Has(key Key) bool {
	if f == nil || f.rd == nil {
		return false
	}
	_, ok := f.index.peek(key.hash(f.salt))
	return ok
}

// Delete forgets the frame stored under key: for a reader that found it wanting by
// a measure of its own.
func (f *Frames) Delete(key Key) {
	if f == nil || f.rd == nil {
		return
	}
	f.index.remove(key.hash(f.salt))
}

// room returns the open buffer of queue q with room for n bytes, or nil if that
// would take more buffers, or leave fewer free regions, than given. f.mu is held.
func (f *Frames) room(q queueID, n, buffersMax, freeMin int) *buffer {
	if b := f.open[q]; b != nil {
		if b.fits(n) {
			return b
		}
		f.seal(q)
	}
	if len(f.free) <= freeMin {
		f.signal()
		return nil
	}
	if f.buffers >= buffersMax {
		return nil
	}
	var b *buffer
	if k := len(f.spare); k > 0 {
		b, f.spare = f.spare[k-1], f.spare[:k-1]
	} else {
		b = newBuffer(f.regionBytes)
	}
	no := f.free[len(f.free)-1]
	f.free = f.free[:len(f.free)-1]
	f.use++
	f.buffers++
	b.reset(no, q, f.use)
	f.regions[no].setBuffer(b)
	f.regions[no].use.Store(f.use)
	f.open[q] = b
	if len(f.free) < f.freeMin {
		f.signal()
	}
	return b
}

// seal hands the open buffer of queue q, if any, to the keeper. f.mu is held.
func (f *Frames) seal(q queueID) {
	b := f.open[q]
	if b == nil {
		return
	}
	f.open[q] = nil
	f.regions[b.region].hashes = slices.Clone(b.hashes)
	f.pending = append(f.pending, b)
	f.signal()
}

// signal wakes the keeper.
func (f *Frames) signal() {
	select {
	case f.wake <- struct{}{}:
	default:
	}
}

func (f *Frames) regionStart(no uint32) int64 {
	return headerBytes + int64(no)*int64(f.regionBytes)
}

// Close writes what is in memory, so that the next OpenFrames finds it, and
// releases the file. Later calls of Get miss and of Put do nothing.
func (f *Frames) Close() error {
	if f == nil || f.rd == nil {
		return nil
	}
	f.mu.Lock()
	if f.closed {
		f.mu.Unlock()
		<-f.done
		return nil
	}
	f.closed = true
	for q := range queues {
		f.seal(q)
	}
	f.signal()
	f.mu.Unlock()
	<-f.done
	f.off.Store(true)
	return errors.Join(f.rd.Close(), f.wr.Close(), f.lock.Close())
}
