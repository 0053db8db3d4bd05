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
	for range f.wake {
		for f.step(slot) {
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
func (f *Frames) step(slot []byte) bool {
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
		f.evict(slot)
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

// evict frees the oldest region of the queue whose turn it is, and moves those of
// its slots that were used to the main queue. Only the keeper takes regions out of
// the queues, so that there still is one.
func (f *Frames) evict(slot []byte) {
	f.mu.Lock()
	no, q := f.victim()
	r := &f.regions[no]
	hashes := r.hashes
	f.mu.Unlock()

	kept := f.survivors(no, q, hashes)
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
	r.use.Store(0)
	r.hashes = nil
	f.free = append(f.free, no)
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

// survivors lists the slots in the region that were used since they were written.
// Of a main region it keeps the most used, up to half of the region: that every
// eviction frees at least half a region bounds what the disk has to write when
// everything is in use, to three times what is stored.
func (f *Frames) survivors(no uint32, q queueID, hashes []uint64) []survivor {
	var kept []survivor
	for _, hash := range hashes {
		loc, ok := f.index.peek(hash)
		if ok && loc.region() == no && loc.freq() > 0 {
			kept = append(kept, survivor{hash, loc})
		}
	}
	if q == small {
		return kept
	}
	slices.SortStableFunc(kept, func(a, b survivor) int { return cmp.Compare(b.loc.freq(), a.loc.freq()) })
	room := f.regionBytes / 2
	for i, s := range kept {
		if room -= s.loc.length(); room < 0 {
			return kept[:i]
		}
	}
	return kept
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
	freq := 0
	if from == main {
		freq = s.loc.freq() - 1
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
	if f.index.move(s.hash, s.loc, loc.withFreq(freq)) {
		f.stats.kept.Add(1)
	}
}
