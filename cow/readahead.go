package cow

import "sync"

// Read-ahead: who reads a device from front to back finds the next frames in
// memory already.
const (
	aheadStreams = 8   // sequential readers told apart, per branch
	aheadAfter   = 64  // blocks read in a row before anything is fetched: 256 KiB
	aheadBlocks  = 256 // how far ahead: 1 MiB
	aheadFetches = 4   // of them under way at the same time, in the whole store
)

// streams recognises sequential readers of one branch.
type streams struct {
	mu    sync.Mutex
	known [aheadStreams]stream
	turn  int // the one to be forgotten next
}

// stream is a sequential reader: it has read run blocks up to next, and what
// comes before block ahead is fetched or being fetched.
type stream struct{ next, run, ahead uint64 }

// observe notes a read of n blocks from block first and returns which blocks to
// fetch ahead: none unless the reader is sequential.
func (s *streams) observe(first, n uint64) (from, count uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range s.known {
		st := &s.known[i]
		if st.run == 0 || st.next != first {
			continue
		}
		st.next += n
		st.run += n
		if st.run < aheadAfter {
			return 0, 0
		}
		// Half a window at a time, so that not every read starts a fetch.
		end := st.next + aheadBlocks
		from = max(st.ahead, st.next)
		if end < from+aheadBlocks/2 {
			return 0, 0
		}
		st.ahead = end
		return from, end - from
	}
	s.known[s.turn] = stream{next: first + n, run: n}
	s.turn = (s.turn + 1) % aheadStreams
	return 0, 0
}

// readAhead fetches the frames of the blocks into memory, in the background. It
// does nothing when enough others do so already: it must never slow down those
// who wait for their data.
func (b *Branch) readAhead(from, count uint64) {
	b.mu.Lock()
	blocks := uint64(b.size / BlockSize)
	if b.closing || from >= blocks {
		b.mu.Unlock()
		return
	}
	select {
	case b.store.ahead <- struct{}{}:
	default:
		b.mu.Unlock()
		return
	}
	b.background.Add(1)
	b.mu.Unlock()
	count = min(count, blocks-from)
	go func() {
		defer b.background.Done()
		defer func() { <-b.store.ahead }()
		// What fails here fails again for the reader, who can be told.
		addrs := make([]addr, count)
		if b.lookup(b.ctx, from, addrs) != nil {
			return
		}
		for i, a := range addrs {
			if a == 0 || (i > 0 && addrs[i-1] != 0 && a == addrs[i-1]+1 && i%frameBlocks != 0) {
				continue
			}
			if int(a.log()) >= len(b.lineage) {
				continue
			}
			log, seg := b.lineage[a.log()], a.segment()
			if b.store.readsLive(b.lineage, true, a.log()) && b.store.findLive(log, seg) != nil {
				continue
			}
			ix, err := b.store.segmentIndex(b.ctx, log, seg)
			if err != nil {
				return
			}
			if frame, _, ok := ix.find(seg, a.slot()); ok {
				if _, err := b.store.frame(ix.object, frame, ix.frames[frame]); err != nil {
					return
				}
			}
		}
	}()
}
