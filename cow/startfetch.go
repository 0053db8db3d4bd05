package cow

import (
	"cmp"
	"context"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/bough-db/bough/cache"
	"github.com/bough-db/bough/wal"
)

const (
	// startRequests is how many requests for starts are on their way at the same
	// time, in the whole store: with startRunBytes it bounds their memory.
	startRequests = 48
	// startBytesLimit and startFramesLimit bound what one start fetches, as
	// stored.
	startBytesLimit  = 64 << 20
	startFramesLimit = 4096
	// startRunBytes bounds one request: frames that follow one another in a
	// segment are fetched together, and startGapBytes between two of them that
	// are wanted do not make two requests of it.
	startRunBytes = 512 << 10
	startGapBytes = 16 << 10
	// newestSlots is how many of the blocks written last are fetched too, from so
	// many segments at most: the end of the database's log, and what a stop writes
	// into new places, are read by every start.
	newestSlots    = 256
	newestSegments = 3
)

// startFetch is the fetching of what a start needs.
type startFetch struct {
	b     *Branch
	slots map[indexKey][]wal.Slot // wanted, by segment

	mu     sync.Mutex // guards what follows
	frames []startFrame
	memory int64 // bytes that may still go to the memory cache, decoded
	got    int
	bytes  int64
	runs   int
}

// startFrame is a frame that is wanted.
type startFrame struct {
	ix *blockIndex
	n  int
}

func (fr startFrame) info() frameInfo { return fr.ix.frames[fr.n] }

func (fr startFrame) cacheKey() cache.Key {
	at := fr.ix.object
	return cache.Key{Log: string(at.log), Segment: at.cacheSegment(), Frame: uint32(fr.n)}
}

func (fr startFrame) compare(o startFrame) int {
	a, b := fr.ix.object, o.ix.object
	return cmp.Or(cmp.Compare(a.log, b.log), cmp.Compare(a.from, b.from), cmp.Compare(a.gen, b.gen), cmp.Compare(fr.n, o.n))
}

// follows tells whether the frame comes right after the other one.
func (fr startFrame) follows(o startFrame) bool { return fr.ix.object == o.ix.object && fr.n == o.n+1 }

// fetchStart fetches what the set names, and what was written last, as far as this
// host's caches do not have it: the tree's pages, then the indexes of the segments,
// then the frames, each all at once. What fails is left to whoever needs it.
func (b *Branch) fetchStart(ctx context.Context, set *startSet) {
	began := time.Now()
	f := &startFetch{
		b: b, slots: map[indexKey][]wal.Slot{},
		memory: b.store.opts.Memory.Stats().BytesMax / 2,
	}
	if f.locate(ctx, set) == nil && f.index(ctx) == nil {
		f.fetch(ctx)
	}
	b.store.log.LogAttrs(ctx, slog.LevelDebug, "fetched what the last start read", slog.Any("branch", b.id),
		slog.Int("groups", len(set.groups)), slog.Int("frames", f.got), slog.Int("requests", f.runs),
		slog.Int64("bytes", f.bytes), slog.Duration("took", time.Since(began)))
}

// locate finds the addresses of the blocks.
func (f *startFetch) locate(ctx context.Context, set *startSet) error {
	b := f.b
	groups := slices.Sorted(maps.Keys(set.groups))
	blocks := make([]uint64, len(groups))
	for i, g := range groups {
		blocks[i] = uint64(g) << startGroupBits
	}
	pages := pinned{cache: b.store.pages, lineage: b.lineage}
	look := func(first uint64, out []addr) need {
		b.treeMu.RLock()
		defer b.treeMu.RUnlock()
		_, want := b.tree.lookup(first, out, &pages)
		return want
	}
	err := b.store.warm(ctx, blocks, &pages, func(block uint64) need {
		var at [1]addr
		return look(block, at[:])
	})
	if err != nil {
		return err
	}
	for i, g := range groups {
		var at [startGroupSize]addr
		if set.groups[g] == 0 || !look(blocks[i], at[:]).isZero() {
			continue
		}
		for j, a := range at {
			if set.groups[g]&(1<<j) != 0 && a != 0 && int(a.log()) < len(b.lineage) {
				key := indexKey{b.lineage[a.log()], a.segment()}
				f.slots[key] = append(f.slots[key], a.slot())
			}
		}
	}
	return nil
}

// index finds the frames that hold the blocks, and those that hold the newest.
func (f *startFetch) index(ctx context.Context) error {
	b := f.b
	newest := make([]*blockIndex, newestSegments)
	for i := range newest {
		if n := b.begunAt.Segment; n > wal.SegmentNo(i) {
			key := indexKey{b.begunAt.Log, n - wal.SegmentNo(i)}
			f.slots[key] = append(f.slots[key], 0)
		}
	}
	var g errgroup.Group
	g.SetLimit(startRequests)
	for key, slots := range f.slots {
		if b.store.findLive(key.log, key.seg) != nil {
			continue
		}
		g.Go(func() error {
			if !f.take(ctx) {
				return nil
			}
			ix, err := b.store.segmentIndex(ctx, key.log, key.seg)
			f.give()
			if err != nil {
				return nil // whoever needs it hears why
			}
			f.mu.Lock()
			defer f.mu.Unlock()
			for _, s := range slots {
				if s == 0 {
					newest[b.begunAt.Segment-key.seg] = ix
				} else if n, _, ok := ix.find(key.seg, s); ok {
					f.frames = append(f.frames, startFrame{ix, n})
				}
			}
			return nil
		})
	}
	_ = g.Wait() // nothing in it fails
	f.mu.Lock()
	defer f.mu.Unlock()
	left := newestSlots
	for i, ix := range newest {
		if ix == nil || i > 0 && newest[i-1] != nil && newest[i-1].object == ix.object {
			continue
		}
		for _, n := range ix.newest(b.begunAt.Segment-wal.SegmentNo(i), left) {
			f.frames = append(f.frames, startFrame{ix, n})
			left--
		}
	}
	return ctx.Err()
}

// newest returns the frames of the most slots that were written last, not after the
// segment.
func (x *blockIndex) newest(seg wal.SegmentNo, most int) (frames []int) {
	end := len(x.place)
	if x.object.gen > 0 && seg < x.object.to {
		end, _ = slices.BinarySearch(x.keys, packedKey(x.object.from, seg+1, 0))
	}
	for i := end - 1; i >= 0 && len(frames) < most; i-- {
		if p := x.place[i]; p != 0 {
			frames = append(frames, int((p-1)>>4))
		}
	}
	return frames
}

// take waits until one request more may be made, and returns false when ctx ends
// before that. After the request comes give.
func (f *startFetch) take(ctx context.Context) bool {
	select {
	case f.b.store.starts <- struct{}{}:
		return true
	case <-ctx.Done():
		return false
	}
}

func (f *startFetch) give() { <-f.b.store.starts }

// fetch fetches the frames.
func (f *startFetch) fetch(ctx context.Context) {
	slices.SortFunc(f.frames, startFrame.compare)
	frames := bridge(slices.CompactFunc(f.frames, func(a, b startFrame) bool { return a.compare(b) == 0 }))
	frames = f.bound(slices.DeleteFunc(frames, f.cached))
	var g errgroup.Group
	g.SetLimit(startRequests)
	for len(frames) > 0 && ctx.Err() == nil {
		n, size := 1, frames[0].info().size
		for n < len(frames) && frames[n].follows(frames[n-1]) && size+frames[n].info().size <= startRunBytes {
			size += frames[n].info().size
			n++
		}
		run := frames[:n]
		frames = frames[n:]
		g.Go(func() error {
			f.run(ctx, run)
			return nil
		})
	}
	_ = g.Wait() // nothing in it fails
}

// bridge adds the frames that lie in small gaps between the wanted ones.
func bridge(frames []startFrame) []startFrame {
	out := make([]startFrame, 0, len(frames))
	for i, fr := range frames {
		if i > 0 && frames[i-1].ix.object == fr.ix.object {
			last := frames[i-1].info()
			if fr.info().off-(last.off+last.size) <= startGapBytes {
				for n := frames[i-1].n + 1; n < fr.n; n++ {
					out = append(out, startFrame{fr.ix, n})
				}
			}
		}
		out = append(out, fr)
	}
	return out
}

// bound cuts off what is too much for one start. Without a disk cache, what memory
// does not take would be fetched for nothing.
func (f *startFetch) bound(frames []startFrame) []startFrame {
	frames = frames[:min(len(frames), startFramesLimit)]
	stored, blocks := int64(0), int64(0)
	for i, fr := range frames {
		stored += int64(fr.info().size)
		blocks += int64(fr.info().n) * BlockSize
		if stored > startBytesLimit || f.b.store.opts.Frames == nil && blocks > f.memory {
			return frames[:i]
		}
	}
	return frames
}

// cached tells whether this host has the frame already.
func (f *startFetch) cached(fr startFrame) bool {
	key := fr.cacheKey()
	return f.b.store.opts.Memory.Has(key) || f.b.store.opts.Frames.Has(key)
}

// run fetches frames that follow one another, but those that somebody else has
// fetched meanwhile, or is fetching.
func (f *startFetch) run(ctx context.Context, run []startFrame) {
	s := f.b.store
	// Before the frames are begun: nobody who needs one waits for that.
	if !f.take(ctx) {
		return
	}
	defer f.give()
	for len(run) > 0 {
		var calls []*flight[[]byte]
		for _, fr := range run {
			c, mine := s.frameFlights.begin(fr.cacheKey())
			if !mine {
				break
			}
			if f.cached(fr) {
				s.frameFlights.leave(fr.cacheKey(), c)
				break
			}
			calls = append(calls, c)
		}
		if len(calls) > 0 {
			f.request(ctx, run[:len(calls)], calls)
		}
		run = run[min(len(calls)+1, len(run)):] // the next one is somebody else's
	}
}

// request fetches frames that follow one another with one request. A frame that
// does not check out is left to those who wait for it.
func (f *startFetch) request(ctx context.Context, run []startFrame, calls []*flight[[]byte]) {
	s := f.b.store
	first, last := run[0].info(), run[len(run)-1].info()
	buf := make([]byte, last.off+last.size-first.off)
	got, _, err := s.objects.ReadAt(ctx, run[0].ix.object.key(), buf, int64(first.off))
	f.mu.Lock()
	f.runs++
	f.bytes += int64(got)
	f.mu.Unlock()
	for i, fr := range run {
		key := fr.cacheKey()
		info := fr.info()
		from, to := int(info.off-first.off), int(info.off-first.off+info.size)
		if err != nil || to > got {
			s.frameFlights.leave(key, calls[i])
			continue
		}
		blocks, derr := decodeFrame(s.zr, info, buf[from:to], nil)
		if derr != nil {
			s.frameFlights.leave(key, calls[i])
			continue
		}
		s.opts.Frames.Put(key, buf[from:to])
		if f.room(int64(len(blocks))) {
			s.opts.Memory.Put(key, blocks)
		}
		s.frameFlights.end(key, calls[i], blocks, nil)
	}
}

// room tells whether the memory cache may take so many bytes more, and counts
// them.
func (f *startFetch) room(n int64) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.got++
	f.memory -= n
	return f.memory >= 0
}
