package cache

import "sync/atomic"

// FramesStats is what a [Frames] holds and has done since it was opened.
type FramesStats struct {
	Enabled     bool  // frames are being stored
	BytesMax    int64 // size of the file
	Entries     int   // frames in the cache
	IndexBytes  int64 // memory for the index, the ghosts and the regions' lists
	BufferBytes int64 // memory for frames that are not on disk yet

	Loaded   uint64 // frames found on disk when the cache was opened
	Hits     uint64 // Get returned a frame
	Misses   uint64 // Get returned none
	Puts     uint64 // frames stored
	Dropped  uint64 // frames not stored: buffers full, or beyond the limits
	Evicted  uint64 // frames that made room for others
	Kept     uint64 // frames that were moved to, or within, the main queue
	Damaged  uint64 // slots and tables that failed their checksum or could not be read
	Replaced uint64 // reads that had to be repeated because the slot was evicted
	Written  uint64 // bytes written to disk
}

type counters struct {
	loaded, hits, misses, puts, dropped, evicted, kept, damaged, replaced, written atomic.Uint64
}

// Stats returns a momentary view.
func (f *Frames) Stats() FramesStats {
	if f == nil {
		return FramesStats{}
	}
	s := FramesStats{
		Enabled:  !f.off.Load(),
		Loaded:   f.stats.loaded.Load(),
		Hits:     f.stats.hits.Load(),
		Misses:   f.stats.misses.Load(),
		Puts:     f.stats.puts.Load(),
		Dropped:  f.stats.dropped.Load(),
		Evicted:  f.stats.evicted.Load(),
		Kept:     f.stats.kept.Load(),
		Damaged:  f.stats.damaged.Load(),
		Replaced: f.stats.replaced.Load(),
		Written:  f.stats.written.Load(),
	}
	if f.rd == nil {
		return s
	}
	s.BytesMax = f.regionStart(uint32(len(f.regions)))
	s.Entries, s.IndexBytes = f.index.size()
	s.IndexBytes += int64(len(f.ghosts.buckets)) * ghostWays * 4
	f.mu.Lock()
	defer f.mu.Unlock()
	for i := range f.regions {
		s.IndexBytes += int64(cap(f.regions[i].hashes)) * 8
	}
	s.BufferBytes = int64(f.buffers+len(f.spare)) * int64(f.regionBytes)
	return s
}
