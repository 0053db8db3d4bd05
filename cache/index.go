package cache

import (
	"math/bits"
	"sync"
	"sync/atomic"
)

// location says where a slot lies and how often it was used, in one word:
//
//	bits  0-1   frequency, 0-3: hits since it was written
//	bits  2-12  length of the slot in units of 64 bytes, never 0
//	bits 13-30  offset of the slot in its region, in units
//	bits 31-52  region
//
// The zero value is no location.
type location uint64

const (
	freqBits   = 2
	lengthBits = 11
	offsetBits = 18
	regionBits = 22

	freqMax     = 1<<freqBits - 1
	lengthShift = freqBits
	offsetShift = lengthShift + lengthBits
	regionShift = offsetShift + offsetBits
)

func newLocation(region uint32, offset, length int) location {
	return location(uint64(region)<<regionShift |
		uint64(offset/slotUnit)<<offsetShift |
		uint64(length/slotUnit)<<lengthShift)
}

func (l location) freq() int      { return int(l & freqMax) }
func (l location) length() int    { return int(l>>lengthShift&(1<<lengthBits-1)) * slotUnit }
func (l location) offset() int    { return int(l>>offsetShift&(1<<offsetBits-1)) * slotUnit }
func (l location) region() uint32 { return uint32(l >> regionShift) }

// place is the location without its frequency.
func (l location) place() location { return l &^ freqMax }

func (l location) withFreq(n int) location { return l.place() | location(min(n, freqMax)) }

// indexShards is how many ways the index is split. A shard that grows is locked
// while its entries move: with 64 of them that is 40 thousand entries, or well
// under a millisecond, in a full cache of 10 GiB.
const indexShards = 64

// index maps the hash of a key to the location of its slot: flat arrays without
// pointers, so that the collector of garbage never walks them. Two keys with the
// same 64 bits displace each other, and the slot tells whose it is.
type index struct {
	shards [indexShards]indexShard
}

// indexEntry is free when its location is 0.
type indexEntry struct {
	hash uint64
	loc  location
}

// indexShard is a hash table with linear probing. Its size need not be a power of
// two, so that it can grow by a quarter instead of doubling.
type indexShard struct {
	mu      sync.Mutex
	entries []indexEntry
	used    int
	_       [24]byte // keeps the locks of neighbours on cache lines of their own
}

const indexEntryBytes = 16

func (x *index) shard(hash uint64) *indexShard { return &x.shards[hash%indexShards] }

// touch returns the location of hash and counts a use of it.
func (x *index) touch(hash uint64) (location, bool) {
	s := x.shard(hash)
	s.mu.Lock()
	defer s.mu.Unlock()
	i, ok := s.find(hash)
	if !ok {
		return 0, false
	}
	e := &s.entries[i]
	if e.loc.freq() < freqMax {
		e.loc++
	}
	return e.loc, true
}

// peek returns the location of hash without counting a use.
func (x *index) peek(hash uint64) (location, bool) {
	s := x.shard(hash)
	s.mu.Lock()
	defer s.mu.Unlock()
	i, ok := s.find(hash)
	if !ok {
		return 0, false
	}
	return s.entries[i].loc, true
}

// put sets the location of hash.
func (x *index) put(hash uint64, loc location) {
	s := x.shard(hash)
	s.mu.Lock()
	defer s.mu.Unlock()
	if i, ok := s.find(hash); ok {
		s.entries[i].loc = loc
		return
	}
	if (s.used+1)*5 > len(s.entries)*4 {
		s.grow()
	}
	i, _ := s.find(hash)
	s.entries[i] = indexEntry{hash, loc}
	s.used++
}

// move sets the location of hash if it is still at from, and tells whether it was.
func (x *index) move(hash uint64, from, to location) bool {
	s := x.shard(hash)
	s.mu.Lock()
	defer s.mu.Unlock()
	i, ok := s.find(hash)
	if !ok || s.entries[i].loc.place() != from.place() {
		return false
	}
	s.entries[i].loc = to
	return true
}

// remove deletes hash, and tells whether it was there.
func (x *index) remove(hash uint64) bool {
	return x.removeIf(hash, func(location) bool { return true })
}

// removeAt deletes hash if it is at loc, and tells whether it was.
func (x *index) removeAt(hash uint64, loc location) bool {
	return x.removeIf(hash, func(l location) bool { return l.place() == loc.place() })
}

// removeIn deletes hash if it lies in the region, and tells whether it did.
func (x *index) removeIn(hash uint64, region uint32) bool {
	return x.removeIf(hash, func(l location) bool { return l.region() == region })
}

func (x *index) removeIf(hash uint64, cond func(location) bool) bool {
	s := x.shard(hash)
	s.mu.Lock()
	defer s.mu.Unlock()
	i, ok := s.find(hash)
	if !ok || !cond(s.entries[i].loc) {
		return false
	}
	s.vacate(i)
	return true
}

// size returns the number of entries, and the bytes that the index takes.
func (x *index) size() (entries int, bytes int64) {
	for i := range x.shards {
		s := &x.shards[i]
		s.mu.Lock()
		entries += s.used
		bytes += int64(len(s.entries)) * indexEntryBytes
		s.mu.Unlock()
	}
	return entries, bytes
}

// home is where the probe for hash begins.
func (s *indexShard) home(hash uint64) int {
	hi, _ := bits.Mul64(hash, uint64(len(s.entries)))
	return int(hi)
}

// find returns the position of hash, or else the free position where it belongs
// (meaningless in a table without room, which only put sees, and mends).
func (s *indexShard) find(hash uint64) (int, bool) {
	if len(s.entries) == 0 {
		return 0, false
	}
	i := s.home(hash)
	for s.entries[i].loc != 0 {
		if s.entries[i].hash == hash {
			return i, true
		}
		if i++; i == len(s.entries) {
			i = 0
		}
	}
	return i, false
}

// vacate frees position i and moves later entries of the same run back, so that
// no probe stops short of its entry.
func (s *indexShard) vacate(i int) {
	n := len(s.entries)
	for j := (i + 1) % n; s.entries[j].loc != 0; j = (j + 1) % n {
		// The entry at j may move to i unless its home lies in (i, j].
		home := s.home(s.entries[j].hash)
		if (j-home+n)%n >= (j-i+n)%n {
			s.entries[i] = s.entries[j]
			i = j
		}
	}
	s.entries[i] = indexEntry{}
	s.used--
}

func (s *indexShard) grow() {
	old := s.entries
	s.entries = make([]indexEntry, max(16, len(old)+len(old)/4+1))
	for _, e := range old {
		if e.loc != 0 {
			i, _ := s.find(e.hash)
			s.entries[i] = e
		}
	}
}

// ghosts remembers hashes that were evicted without having been used, four bytes
// each, the oldest of a bucket forgotten first. A false memory costs a place in the
// main queue, nothing else.
type ghosts struct {
	buckets [][ghostWays]atomic.Uint32
}

const ghostWays = 4

func newGhosts(n int) *ghosts {
	return &ghosts{buckets: make([][ghostWays]atomic.Uint32, max(1, n/ghostWays))}
}

func (g *ghosts) bucket(hash uint64) (*[ghostWays]atomic.Uint32, uint32) {
	hi, lo := bits.Mul64(hash, uint64(len(g.buckets)))
	return &g.buckets[hi], uint32(lo>>32) | 1 // never 0, which is no ghost
}

// add remembers hash. Adders must not run at the same time.
func (g *ghosts) add(hash uint64) {
	b, tag := g.bucket(hash)
	for i := ghostWays - 1; i > 0; i-- {
		b[i].Store(b[i-1].Load())
	}
	b[0].Store(tag)
}

// has tells whether hash is remembered.
func (g *ghosts) has(hash uint64) bool {
	b, tag := g.bucket(hash)
	for i := range b {
		if b[i].Load() == tag {
			return true
		}
	}
	return false
}
