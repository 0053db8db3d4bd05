package cow

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/bough-db/bough/cache"
	"github.com/bough-db/bough/objstore"
	"github.com/bough-db/bough/wal"
	"golang.org/x/sync/errgroup"
)

// ReadAt fills p from offset off. Every byte has been verified against the
// checksum taken when it was written: what does not match is read again from
// the store once, and is an error that wraps ErrCorrupt if it still does not.
func (b *Branch) ReadAt(ctx context.Context, p []byte, off int64) error {
	defer b.store.took.read.since(time.Now())
	b.mu.Lock()
	err := checkRange(off, int64(len(p)), b.size)
	b.counters.reads++
	b.counters.readBytes += uint64(len(p))
	b.mu.Unlock()
	if err != nil {
		return err
	}
	if len(p) > 0 {
		first := uint64(off / BlockSize)
		last := uint64((off + int64(len(p)) - 1) / BlockSize)
		if from, count := b.streams.observe(first, last-first+1); count > 0 {
			b.readAhead(from, count)
		}
	}
	err = inBlocks(p, off, func(p []byte, first uint64) error { return b.readBlocks(ctx, p, first) })
	if err != nil && ctx.Err() == nil {
		b.mu.Lock()
		defer b.mu.Unlock()
		b.counters.readErrors++
		b.unread = err.Error()
	}
	return err
}

// inBlocks fills p from offset off by reading at most requestBlocks whole blocks at a
// time.
func inBlocks(p []byte, off int64, read func(p []byte, first uint64) error) error {
	for len(p) > 0 {
		head := int(off % BlockSize)
		if head == 0 && len(p) >= BlockSize {
			n := min(len(p)&^(BlockSize-1), requestBlocks*BlockSize)
			if err := read(p[:n], uint64(off/BlockSize)); err != nil {
				return err
			}
			p, off = p[n:], off+int64(n)
			continue
		}
		var block [BlockSize]byte
		if err := read(block[:], uint64(off/BlockSize)); err != nil {
			return err
		}
		n := copy(p, block[head:])
		p, off = p[n:], off+int64(n)
	}
	return nil
}

// unlessFenced returns err, for which nothing could be read; or ErrFenced, if another
// host has the branch by now, and so collects what this one still looks for.
func (b *Branch) unlessFenced(ctx context.Context, err error) error {
	if errors.Is(err, ErrCorrupt) {
		if rerr := b.Recheck(ctx); errors.Is(rerr, ErrFenced) {
			return rerr
		}
	}
	return err
}

// readBlocks fills p, at most requestBlocks whole blocks, from block first.
func (b *Branch) readBlocks(ctx context.Context, p []byte, first uint64) error {
	var (
		addrs [requestBlocks]addr
		have  [requestBlocks]bool // the batches had it: in p, or its address
		n     = len(p) / BlockSize
		rest  = n
	)
	if r := b.recording.Load(); r != nil {
		r.read(first, n)
	}
	b.mu.Lock()
	if !b.open.empty() || b.committing != nil {
		for i := range n {
			l, ok := b.open.lookup(first + uint64(i))
			if !ok && b.committing != nil {
				l, ok = b.committing.lookup(first + uint64(i))
			}
			if !ok {
				continue
			}
			have[i], addrs[i] = true, l.at
			rest--
			block := p[i*BlockSize : (i+1)*BlockSize]
			if l.rec != nil {
				copy(block, l.rec.Block(int(l.idx)))
				addrs[i] = addrDone
			}
		}
	}
	b.mu.Unlock()
	if rest > 0 {
		var at [requestBlocks]addr
		if err := b.lookup(ctx, first, at[:n]); err != nil {
			return b.unlessFenced(ctx, err)
		}
		for i := range n {
			if !have[i] {
				addrs[i] = at[i]
			}
		}
	}
	err := b.store.readAddrs(ctx, b.lineage, true, addrs[:n], p)
	b.mu.Lock()
	if b.abandoned {
		// Under the number of a journal that was left behind the store may have a
		// segment of whoever took the branch over.
		err = b.failed
	}
	b.mu.Unlock()
	if err != nil {
		return fmt.Errorf("read branch %s at block %d: %w", b.id, first, b.unlessFenced(ctx, err))
	}
	return nil
}

// addrDone marks a block that needs no reading any more.
const addrDone = ^addr(0)

// lookup finds the addresses of consecutive blocks in the tree.
func (b *Branch) lookup(ctx context.Context, first uint64, out []addr) error {
	pages := pinned{cache: b.store.pages, lineage: b.lineage}
	for done := 0; ; {
		b.treeMu.RLock()
		n, want := b.tree.lookup(first+uint64(done), out[done:], &pages)
		b.treeMu.RUnlock()
		if want.isZero() {
			return nil
		}
		done += n
		if err := b.store.loadPage(ctx, want, &pages); err != nil {
			return err
		}
	}
}

// fetch is the blocks of a request that one frame, or one run of slots of a
// journal, holds.
type fetch struct {
	frame int
	ix    *blockIndex
	dst   []int // block of the request, by position in src
	src   []int // block of the frame
}

// missingError says that an object that holds blocks is not there.
type missingError struct {
	object objectID
	err    error
}

func (e *missingError) Error() string { return e.err.Error() }
func (e *missingError) Unwrap() error { return e.err }

// readAddrs fills p with the blocks at the addresses. own says that the last log of the
// lineage is this process' own; see readsLive. Frames that are not in
// memory are fetched at the same time. What a collection has moved meanwhile is
// looked for again.
func (s *Store) readAddrs(ctx context.Context, lineage []BranchID, own bool, addrs []addr, p []byte) error {
	for i := 0; ; i++ {
		err := s.readAddrsOnce(ctx, lineage, own, addrs, p)
		var gone *missingError
		if i == relocations || !errors.As(err, &gone) {
			return err
		}
		s.indexes.Remove(gone.object)
		l, lerr := s.loadLayout(ctx, gone.object.log)
		if lerr != nil || l.holder(gone.object.log, gone.object.from) == gone.object {
			return err
		}
	}
}

func (s *Store) readAddrsOnce(ctx context.Context, lineage []BranchID, own bool, addrs []addr, p []byte) error {
	var fetches []fetch
	for i := 0; i < len(addrs); {
		a := addrs[i]
		switch {
		case a == addrDone:
			i++
			continue
		case a == 0:
			clear(p[i*BlockSize : (i+1)*BlockSize])
			i++
			continue
		case int(a.log()) >= len(lineage):
			return fmt.Errorf("address %v of %d logs: %w", a, len(lineage), ErrCorrupt)
		}
		log, seg := lineage[a.log()], a.segment()
		n := 1
		for i+n < len(addrs) && addrs[i+n].segmentKey() == a.segmentKey() {
			n++
		}
		done := false
		if s.readsLive(lineage, own, a.log()) {
			var err error
			if done, err = s.readLive(log, seg, addrs[i:i+n], p[i*BlockSize:(i+n)*BlockSize]); err != nil {
				return err
			}
		}
		if !done {
			ix, err := s.segmentIndex(ctx, log, seg)
			if err != nil {
				return err
			}
			for j := i; j < i+n; j++ {
				frame, pos, ok := ix.find(seg, addrs[j].slot())
				if !ok {
					return fmt.Errorf("object %s has no slot %d of segment %d: %w", ix.object.key(), addrs[j].slot(), seg, ErrCorrupt)
				}
				fetches = addFetch(fetches, frame, ix, j, pos)
			}
		}
		i += n
	}
	return s.fetchAll(fetches, p)
}

func addFetch(fs []fetch, frame int, ix *blockIndex, dst, src int) []fetch {
	for i := len(fs) - 1; i >= 0; i-- {
		if f := &fs[i]; f.frame == frame && f.ix.object == ix.object {
			f.dst, f.src = append(f.dst, dst), append(f.src, src)
			return fs
		}
	}
	return append(fs, fetch{frame: frame, ix: ix, dst: []int{dst}, src: []int{src}})
}

// readLive reads blocks of a segment that is still a journal of this process.
// It returns false when it is not.
func (s *Store) readLive(log BranchID, seg wal.SegmentNo, addrs []addr, p []byte) (bool, error) {
	ls := s.findLive(log, seg)
	if ls == nil || !ls.journal.Ref() {
		return false, nil
	}
	defer ls.journal.Unref()
	for i := 0; i < len(addrs); {
		n := 1
		for i+n < len(addrs) && addrs[i+n] == addrs[i]+addr(n) {
			n++
		}
		if err := ls.journal.ReadAt(p[i*BlockSize:(i+n)*BlockSize], addrs[i].slot()); err != nil {
			if errors.Is(err, wal.ErrCorrupt) {
				err = fmt.Errorf("%w: %w", err, ErrCorrupt)
			}
			return true, err
		}
		i += n
	}
	return true, nil
}

// fetchesMax is how many frames one request fetches at the same time.
const fetchesMax = 8

func (s *Store) fetchAll(fetches []fetch, p []byte) error {
	one := func(f *fetch) error {
		blocks, err := s.frame(f.ix.object, f.frame, f.ix.frames[f.frame])
		if err != nil {
			return err
		}
		for i, d := range f.dst {
			copy(p[d*BlockSize:(d+1)*BlockSize], blocks[f.src[i]*BlockSize:])
		}
		return nil
	}
	switch len(fetches) {
	case 0:
		return nil
	case 1:
		return one(&fetches[0])
	}
	var g errgroup.Group
	g.SetLimit(fetchesMax)
	for i := range fetches {
		g.Go(func() error { return one(&fetches[i]) })
	}
	return g.Wait()
}

// frame returns the blocks of a frame, shared and read-only: from memory, the
// disk cache or the store, in this order, fetched once however many wait.
func (s *Store) frame(at objectID, n int, info frameInfo) ([]byte, error) {
	key := cache.Key{Log: string(at.log), Segment: at.cacheSegment(), Frame: uint32(n)}
	if blocks, ok := s.opts.Memory.Get(key); ok {
		return blocks, nil
	}
	return s.frameFlights.do(s.ctx, key, func(ctx context.Context) ([]byte, error) {
		if blocks, ok := s.opts.Memory.Get(key); ok {
			return blocks, nil
		}
		blocks, err := s.fetchFrame(ctx, key, at, info)
		if err == nil {
			s.opts.Memory.Put(key, blocks)
		}
		return blocks, err
	})
}

func (s *Store) fetchFrame(ctx context.Context, key cache.Key, at objectID, info frameInfo) ([]byte, error) {
	blocks := make([]byte, 0, int(info.n)*BlockSize)
	buf := s.buffers.Get().(*[]byte)
	defer s.buffers.Put(buf)
	name := at.key()
	if stored, ok := s.opts.Frames.Get(key, (*buf)[:0]); ok {
		if out, err := decodeFrame(s.zr, info, stored, blocks); err == nil {
			return out, nil
		}
		s.log.Warn("cached frame does not match: fetching it again", "object", name, "frame", key.Frame)
		s.opts.Frames.Delete(key)
	}
	stored := (*buf)[:info.size]
	var err error
	for range 2 {
		var got int
		got, _, err = s.objects.ReadAt(ctx, name, stored, int64(info.off))
		if err != nil {
			break
		}
		var out []byte
		if out, err = decodeFrame(s.zr, info, stored[:got], blocks); err == nil {
			s.opts.Frames.Put(key, stored)
			return out, nil
		}
		s.log.Error("frame is damaged", "object", name, "frame", key.Frame, "err", err)
	}
	err = fmt.Errorf("read frame %d of %s: %w", key.Frame, name, err)
	if isNotExist(err) {
		return nil, &missingError{at, err}
	}
	return nil, err
}

// fillCache writes the frames of a segment that this process has stored through to the
// disk cache, where they are compared with the segment's checksums before they are
// believed; and returns its index, or nil, to be kept once the segment counts.
func (s *Store) fillCache(head segmentHead, data []byte) *blockIndex {
	t, err := decodeTrailer(segmentMagic, data[len(data)-segmentTrailer:], int64(len(data)))
	if err != nil {
		return nil
	}
	f, err := decodeFooter(s.zr, t, data[t.off:t.off+t.size], false)
	if err != nil {
		return nil
	}
	f.index.object = segmentID(head.Log, head.Number)
	for i, fr := range f.index.frames {
		key := cache.Key{Log: string(head.Log), Segment: uint64(head.Number), Frame: uint32(i)}
		s.opts.Frames.Put(key, data[fr.off:fr.off+fr.size])
	}
	return &f.index
}

// keepIndex keeps the index of a segment that this process has stored and that
// counts: nobody can put another in its place any more.
func (s *Store) keepIndex(ix *blockIndex) {
	if ix != nil {
		s.indexes.Add(ix.object, ix)
	}
}

// indexKey names a segment.
type indexKey struct {
	log BranchID
	seg wal.SegmentNo
}

// segmentIndex returns where the slots of a stored segment are.
func (s *Store) segmentIndex(ctx context.Context, log BranchID, seg wal.SegmentNo) (*blockIndex, error) {
	if ix, ok := s.indexes.Get(segmentID(log, seg)); ok {
		return ix, nil
	}
	return s.readIndex(ctx, log, seg)
}

// readFooter reads a segment's footer from the store: one read of its tail, two
// if it is uncommonly long. What does not check out is read once more.
func (s *Store) readFooter(ctx context.Context, log BranchID, seg wal.SegmentNo, batches bool) (*footer, error) {
	key := segmentKey(log, seg)
	f, err := s.readFooterOnce(ctx, log, seg, batches)
	if errors.Is(err, ErrCorrupt) {
		f, err = s.readFooterOnce(ctx, log, seg, batches)
	}
	if errors.Is(err, objstore.ErrNotExist) {
		return nil, fmt.Errorf("segment %s: %w: %w", key, err, ErrCorrupt)
	}
	if err != nil {
		return nil, fmt.Errorf("read segment %s: %w", key, err)
	}
	return f, nil
}

func (s *Store) readFooterOnce(ctx context.Context, log BranchID, seg wal.SegmentNo, batches bool) (*footer, error) {
	t, packed, err := s.readTail(ctx, segmentKey(log, seg), segmentMagic)
	if err != nil {
		return nil, err
	}
	f, err := decodeFooter(s.zr, t, packed, batches)
	if err == nil && (f.head.Log != log || f.head.Number != seg) {
		err = fmt.Errorf("it is number %d of %s: %w", f.head.Number, f.head.Log, ErrCorrupt)
	}
	return f, err
}

// readTail reads the trailer and the compressed footer of a segment or a pack.
func (s *Store) readTail(ctx context.Context, key, magic string) (trailerInfo, []byte, error) {
	buf := make([]byte, segmentTail)
	got, info, err := s.objects.ReadAt(ctx, key, buf, -segmentTail)
	if err != nil {
		return trailerInfo{}, nil, err
	}
	buf = buf[:got]
	if got < segmentTrailer {
		return trailerInfo{}, nil, fmt.Errorf("%d bytes: %w", info.Size, ErrCorrupt)
	}
	t, err := decodeTrailer(magic, buf[got-segmentTrailer:], info.Size)
	if err != nil {
		return t, nil, err
	}
	packed := buf[:got-segmentTrailer]
	if t.size <= uint64(len(packed)) {
		return t, packed[uint64(len(packed))-t.size:], nil
	}
	packed = make([]byte, t.size)
	got, _, err = s.objects.ReadAt(ctx, key, packed, int64(t.off))
	return t, packed[:got], err
}

// readPack reads the description of a pack. What does not check out is read once
// more.
func (s *Store) readPack(ctx context.Context, at objectID, batches bool) (*pack, error) {
	p, err := s.readPackOnce(ctx, at, batches)
	if errors.Is(err, ErrCorrupt) {
		p, err = s.readPackOnce(ctx, at, batches)
	}
	if isNotExist(err) {
		return nil, fmt.Errorf("pack %s: %w: %w", at.key(), err, ErrCorrupt)
	}
	if err != nil {
		return nil, fmt.Errorf("read pack %s: %w", at.key(), err)
	}
	return p, nil
}

func (s *Store) readPackOnce(ctx context.Context, at objectID, batches bool) (*pack, error) {
	t, packed, err := s.readTail(ctx, at.key(), packMagic)
	if err != nil {
		return nil, err
	}
	p, err := decodePackFooter(s.zr, t, packed, batches)
	if err == nil && p.head.id() != at {
		err = fmt.Errorf("it is %s: %w", p.head.id().key(), ErrCorrupt)
	}
	return p, err
}
