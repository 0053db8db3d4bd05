package cache

import (
	"sync"
)

const (
	// memoryShardBytesMin keeps shards large enough to hold a fair number of frames.
	memoryShardBytesMin = 4 << 20
	memoryShardsMax     = 16

	// memoryEntryBytes is what an entry costs besides its frame: itself, its place in
	// the map, its share of the ghosts.
	memoryEntryBytes = 192
)

// Memory is the cache of decoded frames in memory, bounded in bytes. Its methods
// may be called by any number of goroutines, and on a nil *Memory, which is a cache
// that holds nothing.
type Memory struct {
	shards []memoryShard
	salt   uint64
}

// MemoryStats is what a [Memory] holds and has done.
type MemoryStats struct {
	BytesMax int64 // the bound
	Bytes    int64 // frames and what it takes to keep them; at most BytesMax
	Entries  int   // frames
	Hits     uint64
	Misses   uint64
	Puts     uint64 // frames stored
	Evicted  uint64 // frames that made room for others
}

// memoryShard is an S3-FIFO cache: a small queue that most frames leave again, a
// main queue for those that were used while they were in it, and the hashes of those
// that were not, in case they come back.
type memoryShard struct {
	mu       sync.Mutex
	entries  map[uint64]*memoryEntry // by hash of the key
	queue    [queues]memoryQueue
	ghosts   *ghosts
	bytesMax int64
	smallMax int64 // of bytesMax, for the small queue once the shard is full
	// inserted is the clock of the shard: the bytes that ever came in.
	inserted int64

	hits, misses, puts, evicted uint64
}

type memoryEntry struct {
	hash       uint64
	key        Key
	frame      []byte
	queue      queueID
	freq       int   // uses that count, 0 to freqMax
	born       int64 // time of insertion
	prev, next *memoryEntry
}

func (e *memoryEntry) cost() int64 { return int64(cap(e.frame)) + memoryEntryBytes }

// memoryQueue is a doubly linked ring around root; root.next is the youngest.
type memoryQueue struct {
	root  memoryEntry
	bytes int64
}

func (q *memoryQueue) init() { q.root.prev, q.root.next = &q.root, &q.root }

func (q *memoryQueue) push(e *memoryEntry) {
	e.prev, e.next = &q.root, q.root.next
	e.prev.next, e.next.prev = e, e
	q.bytes += e.cost()
}

func (q *memoryQueue) drop(e *memoryEntry) {
	e.prev.next, e.next.prev = e.next, e.prev
	e.prev, e.next = nil, nil
	q.bytes -= e.cost()
}

// oldest returns the entry that came in first, or nil.
func (q *memoryQueue) oldest() *memoryEntry {
	if q.root.prev == &q.root {
		return nil
	}
	return q.root.prev
}

// NewMemory returns an empty cache that never holds more than the given number of
// bytes, what it needs for itself included. With 0 or less it holds nothing.
func NewMemory(bytes int64) *Memory {
	if bytes <= 0 {
		return nil
	}
	n := min(max(bytes/memoryShardBytesMin, 1), memoryShardsMax)
	m := &Memory{shards: make([]memoryShard, n), salt: 0x2545f4914f6cdd1d}
	for i := range m.shards {
		s := &m.shards[i]
		s.bytesMax = bytes / n
		s.smallMax = s.bytesMax / 5
		s.entries = make(map[uint64]*memoryEntry)
		s.ghosts = newGhosts(int(s.bytesMax / (16 << 10)))
		for q := range s.queue {
			s.queue[q].init()
		}
	}
	return m
}

func (m *Memory) shard(key Key) (*memoryShard, uint64) {
	hash := key.hash(m.salt)
	return &m.shards[hash%uint64(len(m.shards))], hash
}

// Get returns the frame stored under key. It is shared with every other caller:
// nobody may write to it. It stays valid after its eviction.
func (m *Memory) Get(key Key) ([]byte, bool) {
	if m == nil {
		return nil, false
	}
	s, hash := m.shard(key)
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.entries[hash]
	if e == nil || e.key != key {
		s.misses++
		return nil, false
	}
	s.hits++
	s.count(e)
	return e.frame, true
}

// Has tells whether the frame is there, which does not count as a use.
func (m *Memory) Has(key Key) bool {
	if m == nil {
		return false
	}
	s, hash := m.shard(key)
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.entries[hash]
	return e != nil && e.key == key
}

// count notes a use of e. A frame is read many times in a row, four kilobytes at
// a time, by the scan that brought it in; that says nothing about whether it will be
// wanted again. So a use counts only after as many bytes came in as half the small
// queue holds.
func (s *memoryShard) count(e *memoryEntry) {
	if e.queue == small && s.inserted-e.born < s.smallMax/2 {
		return
	}
	e.freq = min(e.freq+1, freqMax)
}

// Put stores a frame under a key that must never name other bytes. The frame is
// retained and shared: the caller must not write to it again. A frame that is there
// already stays.
func (m *Memory) Put(key Key, frame []byte) {
	if m == nil {
		return
	}
	s, hash := m.shard(key)
	s.mu.Lock()
	defer s.mu.Unlock()
	e := &memoryEntry{hash: hash, key: key, frame: frame}
	if old := s.entries[hash]; old != nil || e.cost() > s.bytesMax {
		return
	}
	if s.ghosts.has(hash) {
		e.queue = main
	}
	s.inserted += e.cost()
	e.born = s.inserted
	s.puts++
	// Room first, so that the bound holds at every moment.
	for s.bytes()+e.cost() > s.bytesMax {
		s.evict()
	}
	s.entries[hash] = e
	s.queue[e.queue].push(e)
}

// Delete forgets the frame stored under key.
func (m *Memory) Delete(key Key) {
	if m == nil {
		return
	}
	s, hash := m.shard(key)
	s.mu.Lock()
	defer s.mu.Unlock()
	if e := s.entries[hash]; e != nil && e.key == key {
		s.remove(e)
	}
}

// DeleteLog forgets every frame of a log. It looks at all frames that there are.
func (m *Memory) DeleteLog(log string) {
	if m == nil {
		return
	}
	for i := range m.shards {
		s := &m.shards[i]
		s.mu.Lock()
		for _, e := range s.entries {
			if e.key.Log == log {
				s.remove(e)
			}
		}
		s.mu.Unlock()
	}
}

func (s *memoryShard) bytes() int64 { return s.queue[small].bytes + s.queue[main].bytes }

func (s *memoryShard) remove(e *memoryEntry) {
	s.queue[e.queue].drop(e)
	delete(s.entries, e.hash)
}

// evict makes one step towards more room: the oldest frame moves on or goes. Each
// frame moves at most freqMax+1 times between two uses, so that repeating it ends.
func (s *memoryShard) evict() {
	q := main
	if s.queue[small].bytes > s.smallMax || s.queue[main].oldest() == nil {
		q = small
	}
	e := s.queue[q].oldest()
	switch {
	case e.freq == 0:
		s.remove(e)
		s.evicted++
		if q == small {
			s.ghosts.add(e.hash)
		}
	case q == small:
		s.queue[small].drop(e)
		e.queue, e.freq = main, 0
		s.queue[main].push(e)
	default:
		s.queue[main].drop(e)
		e.freq--
		s.queue[main].push(e)
	}
}

// Stats returns a momentary view, each shard's at a slightly different moment.
func (m *Memory) Stats() MemoryStats {
	var st MemoryStats
	if m == nil {
		return st
	}
	for i := range m.shards {
		s := &m.shards[i]
		s.mu.Lock()
		st.BytesMax += s.bytesMax
		st.Bytes += s.bytes()
		st.Entries += len(s.entries)
		st.Hits += s.hits
		st.Misses += s.misses
		st.Puts += s.puts
		st.Evicted += s.evicted
		s.mu.Unlock()
	}
	return st
}
