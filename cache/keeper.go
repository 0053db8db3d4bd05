package cache

import (
	"cmp"
	"slices"
)

// keep is the keeper: the one goroutine that writes regions and makes others free.
// It ends after Close, when everything pending is written.
func (f *Frames) keep() {
	defer close(f.done)
	// Survivors of an eviction are read into this buffer, one at a time.
	slot := make([]byte, SlotBytesMax)
	page := alignedBytes(pageBytes)
	for range f.wake {
		for f.step(page, slot) {
		}
		f.mu.Lock()
		closed := f.closed
		f.mu.Unlock()
		if closed {
			return
		}
	}
}

// step does the next thing there is to do, and tells whether there was any.
func (f *Frames) step(page, slot []byte) bool {
	f.mu.Lock()
	var b *buffer
	if len(f.pending) > 0 {
		b = f.pending[0]
		f.pending = slices.Delete(f.pending, 0, 1)
	}
	evict := b == nil && f.mustEvict()
	f.working = b != nil || evict
	if !f.working {
		f.idle.Broadcast()
	}
	f.mu.Unlock()

	switch {
	case b != nil:
		f.write(b)
	case evict:
		f.evict(page, slot)
	default:
		return false
	}
	return true
}

// mustEvict tells whether a region has to be freed, and can be. f.mu is held.
func (f *Frames) mustEvict() bool {
	return len(f.free) < f.freeMin && !f.closed && !f.off.Load() &&
		len(f.queue[small])+len(f.queue[main]) > 0
}

// write writes a full buffer to its region. There is no sync: what a power cut
// tears, a checksum finds.
func (f *Frames) write(b *buffer) {
	image := b.image()
	_, err := f.wr.WriteAt(image, f.regionStart(b.region))
	if err != nil {
		f.disable("write", err)
		for _, hash := range b.hashes {
			f.index.removeIn(hash, b.region)
		}
	} else {
		f.stats.written.Add(uint64(len(image)))
	}
	// From here on readers go to the file.
	r := &f.regions[b.region]
	r.setBuffer(nil)

	f.mu.Lock()
	defer f.mu.Unlock()
	if err != nil {
		r.use.Store(0)
		r.hashes = nil
		f.free = append(f.free, b.region)
	} else {
		f.queue[b.queue] = append(f.queue[b.queue], b.region)
	}
	f.buffers--
	if len(f.spare) < int(queues) && f.buffers+len(f.spare) < f.buffersMax {
		f.spare = append(f.spare, b)
	}
}

// disable stops the storing of frames for good, and says so once. What is on disk
// can still be read.
func (f *Frames) disable(verb string, err error) {
	if f.off.CompareAndSwap(false, true) {
		f.log.Warn("cache: nothing more is cached on disk until the next start", "op", verb, "err", err)
	}
}

// survivor is a slot of an evicted region that is to be kept.
type survivor struct {
	hash uint64
	loc  location
}

// evict takes the oldest region of the queue whose turn it is. If more than half of
// it was used, it goes to the back of the main queue as it is, which costs no I/O;
// otherwise it is freed, and what was used is copied to the main queue's open region.
// So every region that is freed gains at least half a region, and the disk writes at
// most about twice what is stored. Only the keeper takes regions out of the queues,
// so that there still is one.
func (f *Frames) evict(page, slot []byte) {
	f.mu.Lock()
	no, q := f.victim()
	hashes := f.regions[no].hashes
	lap := f.rounds >= len(f.queue[main])
	f.mu.Unlock()

	kept, bytes := f.survivors(no, hashes)
	if bytes > f.regionBytes/2 {
		if q == small || !lap {
			f.recirculate(no, q, kept, page)
			return
		}
		// A whole round has freed nothing: everything is in use. The most used half
		// stays.
		kept = f.hottest(kept)
	}
	for _, s := range kept {
		f.rescue(s, q, slot)
	}
	for _, hash := range hashes {
		if !f.index.removeIn(hash, no) {
			continue
		}
		f.stats.evicted.Add(1)
		if q == small {
			f.ghosts.add(hash)
		}
	}

	f.mu.Lock()
	defer f.mu.Unlock()
	f.regions[no].use.Store(0)
	f.regions[no].hashes = nil
	f.free = append(f.free, no)
	f.rounds = 0
}

// victim takes the oldest region out of the queue whose turn it is: the small
// queue while it has more than its tenth, or while there is nothing else. f.mu is
// held.
func (f *Frames) victim() (no uint32, q queueID) {
	q = main
	if len(f.queue[small]) > max(1, len(f.regions)/10) || len(f.queue[main]) == 0 {
		q = small
	}
	no = f.queue[q][0]
	f.queue[q] = f.queue[q][1:]
	return no, q
}

// survivors lists the slots in the region that were used since they were written, or
// went round last, and how many bytes they take.
func (f *Frames) survivors(no uint32, hashes []uint64) (kept []survivor, bytes int) {
	for _, hash := range hashes {
		loc, ok := f.index.peek(hash)
		if ok && loc.region() == no && loc.freq() > 0 {
			kept = append(kept, survivor{hash, loc})
			bytes += loc.length()
		}
	}
	return kept, bytes
}

// hottest returns the most used of the survivors, up to half a region.
func (f *Frames) hottest(kept []survivor) []survivor {
	slices.SortStableFunc(kept, func(a, b survivor) int { return cmp.Compare(b.loc.freq(), a.loc.freq()) })
	room := f.regionBytes / 2
	for i, s := range kept {
		if room -= s.loc.length(); room < 0 {
			return kept[:i]
		}
	}
	return kept
}

// freqAfter is the frequency of a survivor that leaves queue q: its uses in the small
// queue got it into the main queue; each round there costs one.
func freqAfter(q queueID, loc location) int {
	if q == small {
		return 0
	}
	return max(loc.freq()-1, 0)
}

// recirculate puts a region at the back of the main queue.
func (f *Frames) recirculate(no uint32, q queueID, kept []survivor, page []byte) {
	for _, s := range kept {
		// A use since the survivors were listed is lost; it is one of many.
		if f.index.move(s.hash, s.loc, s.loc.withFreq(freqAfter(q, s.loc))) {
			f.stats.kept.Add(1)
		}
	}
	if q == small {
		f.markMain(no, page)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.queue[main] = append(f.queue[main], no)
	if q == main {
		f.rounds++
	}
}

// markMain notes on disk that a region belongs to the main queue now: in the first
// page of its table, which is where adopt looks.
func (f *Frames) markMain(no uint32, page []byte) {
	start := f.regionStart(no)
	if _, err := f.rd.ReadAt(page, start); err != nil {
		f.stats.damaged.Add(1)
		return
	}
	for p := page; len(p) > 0; p = p[tableEntryBytes:] {
		if e, ok := decodeTableEntry(p[:tableEntryBytes], f.regionBytes, f.salt); ok {
			e.main = true
			encodeTableEntry(p[:tableEntryBytes], e, f.salt)
		}
	}
	if _, err := f.wr.WriteAt(page, start); err != nil {
		f.disable("write", err)
		return
	}
	f.stats.written.Add(pageBytes)
}

// rescue copies a slot to the main queue. If it cannot be read, or there is no
// room, the slot is lost with its region.
func (f *Frames) rescue(s survivor, from queueID, slot []byte) {
	slot = slot[:s.loc.length()]
	if _, err := f.rd.ReadAt(slot, f.regionStart(s.loc.region())+int64(s.loc.offset())); err != nil {
		f.stats.damaged.Add(1)
		return
	}
	v, err := decodeSlot(slot)
	if err != nil || v.key().hash(f.salt) != s.hash {
		f.stats.damaged.Add(1)
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	// One buffer beyond the bound, and the last free region, are the keeper's.
	b := f.room(main, len(slot), f.buffersMax+1, 0)
	if b == nil {
		f.stats.dropped.Add(1)
		return
	}
	loc := b.add(s.hash, len(slot), f.salt, func(dst []byte) { copy(dst, slot) })
	if f.index.move(s.hash, s.loc, loc.withFreq(freqAfter(from, s.loc))) {
		f.stats.kept.Add(1)
	}
}
