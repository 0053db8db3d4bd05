package cow

import (
	"slices"

	"github.com/bough-db/bough/wal"
)

// Bounds of an open batch.
const (
	// spillBlocks is how many blocks a batch holds in memory before its full
	// records go to the journal early: 1 MiB.
	spillBlocks = wal.LargeBlocks
	// batchSlotsMax is when a batch is closed though nobody asked for a
	// barrier, so that one batch always fits in a journal file: 4 MiB.
	batchSlotsMax = 1024
	// batchSlotsSpan is more than any batch can ever take: what one request
	// adds above batchSlotsMax is at most requestBlocks and their headers.
	batchSlotsSpan = batchSlotsMax + 2*requestBlocks
	// requestBlocks is the largest part of a request that is atomic: 1 MiB.
	requestBlocks = 256
	// holesMax bounds the list of discarded ranges that a lookup walks.
	holesMax = 128
	// batchEntriesMax bounds the entries of a batch, and the blocks that it maps,
	// when it is made of many short discards.
	batchEntriesMax = 1 << 14
	// holeBlocksMin is the shortest discarded range that is kept as a range.
	holeBlocksMin = 65
)

// loc says where the current content of a block of a batch is: in a record (rec
// is not nil), in the journal already (at is not 0), or nowhere: zeros.
type loc struct {
	rec *wal.Record
	idx int32
	at  addr
}

type span struct{ first, end uint64 }

// batch is the writes between two barriers. It is guarded by its branch's mu,
// but for what the leader owns while it writes it.
type batch struct {
	recs    []*wal.Record // not yet written, in order; the last one is being filled
	where   map[uint64]loc
	holes   []span // discarded long ranges; where overrides them
	slots   int    // of all records, written or not
	entries int    // at least as many as the records have
	full    int    // blocks in recs but the last: what may be spilled
	log     bool   // it has a block of a database's log, by the Marker's word

	frozen []*wal.Record // being spilled: not to be changed any more

	// What has been spilled already: the entries, and the journal they are in.
	spilled []wal.Entry
	journal *liveSegment

	finished bool
	err      error         // of the finished batch
	segment  wal.SegmentNo // that the finished batch is in
	waiters  int           // who waits for the batch to finish
	done     chan struct{} // closed when it has
	turn     chan struct{} // tells one waiter that it may commit the batch
}

func newBatch() *batch {
	return &batch{
		where: make(map[uint64]loc), done: make(chan struct{}), turn: make(chan struct{}, 1),
	}
}

// wakeOne lets one of those who wait for the batch look again.
func (bt *batch) wakeOne() {
	select {
	case bt.turn <- struct{}{}:
	default:
	}
}

func (bt *batch) empty() bool { return len(bt.recs) == 0 && len(bt.spilled) == 0 }

// lookup returns where the block's content is, if the batch changed it.
func (bt *batch) lookup(block uint64) (loc, bool) {
	if l, ok := bt.where[block]; ok {
		return l, true
	}
	for _, h := range bt.holes {
		if block >= h.first && block < h.end {
			return loc{}, true
		}
	}
	return loc{}, false
}

// record returns the record to add to, making one where last is full.
func (bt *batch) addRecord(pool recordPool) *wal.Record {
	if n := len(bt.recs); n > 0 {
		bt.full += bt.recs[n-1].Blocks()
	}
	r := pool.NewRecord(bt.slots > 0)
	bt.recs = append(bt.recs, r)
	bt.slots += r.Size()
	return r
}

// block returns the buffer for the new content of a block, which the caller
// fills whole, or had found there before.
func (bt *batch) block(b uint64, pool recordPool) []byte {
	if l, ok := bt.where[b]; ok && l.rec != nil && !slices.Contains(bt.frozen, l.rec) {
		return l.rec.Block(int(l.idx))
	}
	for {
		if n := len(bt.recs); n > 0 {
			r := bt.recs[n-1]
			if buf, idx, ok := r.AddBlock(b); ok {
				bt.slots++
				bt.entries++
				bt.where[b] = loc{rec: r, idx: int32(idx)}
				return buf
			}
		}
		bt.addRecord(pool)
	}
}

// discard makes zeros of a range of blocks.
func (bt *batch) discard(kind wal.Kind, first, count uint64, pool recordPool) {
	for {
		if n := len(bt.recs); n > 0 && bt.recs[n-1].AddRange(kind, first, count) {
			break
		}
		bt.addRecord(pool)
	}
	bt.entries++
	end := first + count
	if count < holeBlocksMin {
		for b := first; b < end; b++ {
			bt.where[b] = loc{}
		}
		return
	}
	if count < uint64(len(bt.where)) {
		for b := first; b < end; b++ {
			delete(bt.where, b)
		}
	} else {
		for b := range bt.where {
			if b >= first && b < end {
				delete(bt.where, b)
			}
		}
	}
	if n := len(bt.holes); n > 0 && bt.holes[n-1].end == first {
		bt.holes[n-1].end = end // a discard that the kernel has cut in pieces
		return
	}
	bt.holes = append(bt.holes, span{first, end})
}

// mustClose tells that the batch has to be committed before it grows further.
func (bt *batch) mustClose() bool {
	return bt.slots >= batchSlotsMax || len(bt.holes) >= holesMax ||
		bt.entries >= batchEntriesMax || len(bt.where) >= batchEntriesMax
}

// moved notes that the records were written to the segment of the log: their
// blocks are to be read from there, and their memory is free.
func (bt *batch) moved(recs []*wal.Record, log uint16, seg wal.SegmentNo) {
	for _, r := range recs {
		for e := range r.Entries() {
			bt.spilled = append(bt.spilled, e)
			if e.Kind != wal.KindData {
				continue
			}
			for i := range e.Count {
				l, ok := bt.where[e.Block+i]
				if ok && l.rec == r && r.Slot(int(l.idx)) == e.Slot+wal.Slot(i) {
					bt.where[e.Block+i] = loc{at: makeAddr(log, seg, e.Slot+wal.Slot(i))}
				}
			}
		}
		bt.full -= r.Blocks()
		r.Free()
	}
	bt.recs = append(bt.recs[:0], bt.recs[len(recs):]...)
}

// recordPool hands out records; *wal.Pool does.
type recordPool interface {
	NewRecord(large bool) *wal.Record
}
