package cow

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"time"

	"github.com/bough-db/bough/objstore"
	"github.com/bough-db/bough/wal"
)

// A checkpoint object is the pages that changed since the last checkpoint, one
// after the other, a record that describes the whole, and a trailer:
//
//	offset size  field            (little endian)
//	     0    8  magic "BOUGHCKP"
//	     8    2  version, 1
//	    10    2  reserved, 0
//	    12    4  record length, bytes
//	    16    8  record offset, bytes from the object's start
//	    24    4  CRC32C of the trailer's first 24 bytes
//
// The record carries a checksum of its own, and so does every page.
const (
	checkpointMagic    = "BOUGHCKP"
	checkpointVersion  = 1
	checkpointTrailer  = 28
	checkpointTail     = 4 << 10  // what one read of the end fetches at first
	checkpointOpen     = 64 << 10 // the same, for who wants the pages there too
	checkpointKind     = "checkpoint"
	checkpointBytesMax = 1<<32 - 1
)

// checkpointRecord describes a checkpoint: the tree of branch Log as it is at
// the end of segment Segment, whose last barrier is Seq.
type checkpointRecord struct {
	Log     BranchID      `json:"log"`
	Segment wal.SegmentNo `json:"segment"`
	Seq     wal.Seq       `json:"seq"`
	Time    time.Time     `json:"time,omitzero"` // of that barrier
	Mark
	Epoch   uint64     `json:"epoch"`
	Nonce   nonce      `json:"nonce"`
	Lineage []BranchID `json:"lineage"`
	Pages   int        `json:"pages"`
	Root    pageRecord `json:"root"`
}

// pageRecord is a pageAddr in a record.
type pageRecord struct {
	Checkpoint uint64 `json:"checkpoint"` // log<<48 | number+1; 0: an empty tree
	Offset     uint32 `json:"offset"`
	Bytes      uint32 `json:"bytes"`
}

// checkpointWriter turns what only memory has of a tree into pages.
type checkpointWriter struct {
	buf   []byte
	log   uint16
	ckpt  wal.SegmentNo
	seed  uint32 // of the pages' checksums
	pages int
	at    map[*node]pageAddr // where nodes are saved, once the object is stored
	// Where earlier checkpoints of this branch have the nodes of its ancestors.
	inherited map[*node]pageAddr
	// Copies of the saved nodes for the page cache, without pointers to others.
	fresh map[pageAddr]*node
}

// save returns the address of the node behind r, a node of the level whose
// first block is first, appending the page if no checkpoint has it.
func (w *checkpointWriter) save(r *ref, level uint8, first uint64) (pageAddr, error) {
	if r.n == nil {
		return r.at, nil
	}
	if at := w.saved(r.n); !at.isZero() {
		return at, nil
	}
	var kids []pageAddr
	empty := level == 0 && len(r.n.leafRuns()) == 0
	if level > 0 {
		kids = make([]pageAddr, innerSize)
		empty = true
		for i := range r.n.kids {
			at, err := w.save(&r.n.kids[i], level-1, first+uint64(i)*levelBlocks(level-1))
			if err != nil {
				return at, err
			}
			kids[i] = at
			empty = empty && at.isZero()
		}
	}
	if empty {
		return pageAddr{}, nil
	}
	off := len(w.buf)
	w.buf = encodePage(w.buf, r.n, first, kids, w.seed)
	if len(w.buf) > checkpointBytesMax {
		return pageAddr{}, errors.New("checkpoint of more than 4 GiB")
	}
	at := makePageAddr(w.log, w.ckpt, uint32(off), uint32(len(w.buf)-off))
	w.pages++
	clean := r.n
	if level > 0 {
		clean = newNode(0, w.log, level)
		for i := range kids {
			clean.kids[i].at = kids[i]
		}
	}
	w.fresh[at] = clean
	w.at[r.n] = at
	return at, nil
}

// saved returns where a checkpoint of this branch has the node. Where one of an
// ancestor has it does not count: that may have been written after this branch was
// made, and is kept for as long as the ancestor needs it only.
func (w *checkpointWriter) saved(n *node) pageAddr {
	if p := n.saved.Load(); p != nil && n.log == w.log {
		return *p
	}
	if at, ok := w.at[n]; ok {
		return at
	}
	return w.inherited[n]
}

// inherited remembers where checkpoints of a branch have the nodes of its ancestors,
// for the trees that were cut before the branch's own let go of those nodes: they still
// have the nodes, where the branch's next ones have the pages. Of any two checkpoints
// the later one refers to no page of an earlier one that the one between them does not
// refer to, which is what a collection goes by: so each has to save a node once.
type inherited struct {
	at map[*node]pageAddr
	// Trees of a generation from this one on were cut after all of the nodes had gone.
	gone uint64
}

// checkpoint writes the tree that was cut and then lets the branch's tree go of
// the nodes that the checkpoint holds.
func (b *Branch) checkpoint(ctx context.Context, c *cut) error {
	b.ckptMu.Lock()
	defer b.ckptMu.Unlock()
	if c.at.Segment < b.triedCkpt {
		return nil // a later one was quicker: this one would refer to its pages
	}
	b.triedCkpt = c.at.Segment
	w := &checkpointWriter{
		log: b.log, ckpt: c.at.Segment, seed: pageSeed(b.id, c.at.Segment),
		at: map[*node]pageAddr{}, fresh: map[pageAddr]*node{},
	}
	if c.tree.gen >= b.inherited.gone {
		b.inherited.at = map[*node]pageAddr{}
	}
	w.inherited = b.inherited.at
	root, err := w.save(&c.tree.root, topLevel, 0)
	if err != nil {
		return err
	}
	rec := checkpointRecord{
		Log: b.id, Segment: c.at.Segment, Seq: c.at.Seq, Time: c.at.Time, Mark: c.at.Mark, Epoch: b.epoch, Lineage: b.lineage,
		Pages: w.pages, Root: pageRecord{root.ckpt, root.off, root.n},
	}
	mine, err := b.store.putCheckpoint(ctx, w.buf, &rec)
	if err == nil && mine {
		mine, err = b.store.counts(ctx, b.id, c.at.Segment)
	}
	if err != nil || !mine {
		return err
	}
	for n, at := range w.at {
		// A node that another branch made may not learn of it: that branch's
		// tree can not name this one's log.
		if n.log == b.log {
			n.saved.Store(&at)
		} else {
			w.inherited[n] = at
		}
	}
	b.mu.Lock()
	b.savedCkpt = max(b.savedCkpt, c.at.Segment)
	b.mu.Unlock()
	for at, n := range w.fresh {
		b.store.pages.lru.Add(pageKey{b.id, at.ckpt & (1<<48 - 1), at.off}, n)
	}
	b.foldMu.Lock()
	defer b.foldMu.Unlock()
	b.treeMu.Lock()
	defer b.treeMu.Unlock()
	b.tree.release(w.saved)
	b.inherited.gone = b.tree.gens.next()
	return nil
}

// putCheckpoint appends record and trailer to the pages and stores the object. mine is
// false if there is another one of the same barrier already: the last writer had put
// it before it died, or it came late. That one will do, but its pages are not those
// of this one.
func (s *Store) putCheckpoint(ctx context.Context, pages []byte, rec *checkpointRecord) (mine bool, err error) {
	if rec.Nonce, err = newNonce(s.random); err != nil {
		return false, err
	}
	body, err := encodeRecord(checkpointKind, rec)
	if err != nil {
		return false, err
	}
	at := len(pages)
	data := append(pages, body...)
	start := len(data)
	data = append(data, checkpointMagic...)
	data = binary.LittleEndian.AppendUint16(data, checkpointVersion)
	data = append(data, 0, 0)
	data = binary.LittleEndian.AppendUint32(data, uint32(len(body)))
	data = binary.LittleEndian.AppendUint64(data, uint64(at))
	data = binary.LittleEndian.AppendUint32(data, crc32.Checksum(data[start:], castagnoli))
	key := checkpointKey(rec.Log, rec.Segment)
	_, err = s.objects.Put(ctx, key, data, objstore.Condition{IfAbsent: true})
	if err == nil {
		return true, nil
	}
	now, rerr := s.readCheckpoint(ctx, rec.Log, rec.Segment)
	switch {
	case rerr != nil:
		return false, fmt.Errorf("put checkpoint %s: %w, and then: %w", key, err, rerr)
	case now.Seq != rec.Seq:
		return false, fmt.Errorf("put checkpoint %s of barrier %d: there is one of barrier %d: %w", key, rec.Seq, now.Seq, err)
	}
	return now.Nonce == rec.Nonce, nil
}

// readCheckpoint returns the description of a checkpoint. What does not check out
// is read once more.
func (s *Store) readCheckpoint(ctx context.Context, log BranchID, n wal.SegmentNo) (*checkpointRecord, error) {
	rec, _, err := s.readCheckpointTail(ctx, log, n, checkpointTail)
	return rec, err
}

// openCheckpoint is readCheckpoint for a tree that is about to be used: what the
// same read gets of its newest pages goes to the page cache. Those are the root,
// most of what is below it, and the leaves that changed last.
func (s *Store) openCheckpoint(ctx context.Context, log BranchID, n wal.SegmentNo) (*checkpointRecord, error) {
	rec, tail, err := s.readCheckpointTail(ctx, log, n, checkpointOpen)
	if err == nil {
		s.harvest(rec, tail)
	}
	return rec, err
}

// checkpointEnd is the end of a checkpoint object, from the offset off on.
type checkpointEnd struct {
	buf []byte
	off int64
}

func (s *Store) readCheckpointTail(ctx context.Context, log BranchID, n wal.SegmentNo, size int) (*checkpointRecord, checkpointEnd, error) {
	rec, tail, err := s.readCheckpointOnce(ctx, log, n, size)
	if errors.Is(err, ErrCorrupt) {
		rec, tail, err = s.readCheckpointOnce(ctx, log, n, size)
	}
	return rec, tail, err
}

func (s *Store) readCheckpointOnce(ctx context.Context, log BranchID, n wal.SegmentNo, size int) (*checkpointRecord, checkpointEnd, error) {
	key := checkpointKey(log, n)
	var none checkpointEnd
	for {
		buf := make([]byte, size)
		got, info, err := s.objects.ReadAt(ctx, key, buf, -int64(size))
		if err != nil {
			return nil, none, fmt.Errorf("read checkpoint %s: %w", key, err)
		}
		rec, more, err := decodeCheckpoint(buf[:got], info.Size)
		if err != nil {
			return nil, none, fmt.Errorf("read checkpoint %s: %w", key, err)
		}
		if more > 0 {
			size = more
			continue
		}
		if rec.Log != log || rec.Segment != n {
			return nil, none, fmt.Errorf("checkpoint %s is that of %s segment %d: %w", key, rec.Log, rec.Segment, ErrCorrupt)
		}
		return rec, checkpointEnd{buf[:got], info.Size - int64(got)}, nil
	}
}

// harvestMax bounds the pages that one open brings into the page cache unasked.
const harvestMax = 512

// harvest puts the pages that lie in the end of a checkpoint into the page cache.
// A page that does not check out is left to whoever needs it.
func (s *Store) harvest(rec *checkpointRecord, end checkpointEnd) {
	seed := pageSeed(rec.Log, rec.Segment)
	var todo []need
	want := func(w need) {
		if !w.at.isZero() && int(w.at.log()) < len(rec.Lineage) && rec.Lineage[w.at.log()] == rec.Log &&
			w.at.checkpoint() == rec.Segment && int64(w.at.off) >= end.off {
			todo = append(todo, w)
		}
	}
	want(need{at: pageAddr{rec.Root.Checkpoint, rec.Root.Offset, rec.Root.Bytes}, level: topLevel})
	for found := 0; len(todo) > 0 && found < harvestMax; found++ {
		w := todo[0]
		todo = todo[1:]
		from := int64(w.at.off) - end.off
		to := min(from+int64(w.at.n), int64(len(end.buf)))
		n, err := decodePage(end.buf[min(from, to):to], w.level, w.first, seed)
		if err != nil {
			continue
		}
		s.pages.lru.ContainsOrAdd(pageKey{rec.Log, w.at.ckpt & (1<<48 - 1), w.at.off}, n)
		if w.level > 0 {
			for i := range n.kids {
				want(need{at: n.kids[i].at, level: w.level - 1, first: w.first + uint64(i)*levelBlocks(w.level-1)})
			}
		}
	}
}

// decodeCheckpoint reads the record from the last bytes of a checkpoint of the
// given size. If the tail is too short it returns how long it has to be.
func decodeCheckpoint(tail []byte, total int64) (rec *checkpointRecord, more int, err error) {
	if len(tail) < checkpointTrailer {
		return nil, 0, fmt.Errorf("%d bytes: %w", total, ErrCorrupt)
	}
	t := tail[len(tail)-checkpointTrailer:]
	if !bytes.Equal(t[:8], []byte(checkpointMagic)) ||
		crc32.Checksum(t[:24], castagnoli) != binary.LittleEndian.Uint32(t[24:]) {
		return nil, 0, fmt.Errorf("trailer: %w", ErrCorrupt)
	}
	if v := binary.LittleEndian.Uint16(t[8:]); v != checkpointVersion {
		return nil, 0, fmt.Errorf("version %d: %w", v, ErrNewerFormat)
	}
	n, off := int64(binary.LittleEndian.Uint32(t[12:])), binary.LittleEndian.Uint64(t[16:])
	if n > 8<<20 || off > uint64(total) || int64(off)+n+checkpointTrailer != total {
		return nil, 0, fmt.Errorf("record at %d+%d of %d bytes: %w", off, n, total, ErrCorrupt)
	}
	if n+checkpointTrailer > int64(len(tail)) {
		return nil, int(n + checkpointTrailer), nil
	}
	rec = &checkpointRecord{}
	body := tail[int64(len(tail))-checkpointTrailer-n : len(tail)-checkpointTrailer]
	if err := decodeRecord(checkpointKind, body, rec); err != nil {
		return nil, 0, err
	}
	for _, l := range rec.Lineage {
		if err := checkBranchID(l); err != nil {
			return nil, 0, err
		}
	}
	root := pageAddr{ckpt: rec.Root.Checkpoint, off: rec.Root.Offset, n: rec.Root.Bytes}
	if len(rec.Lineage) == 0 || (!root.isZero() && (int(root.log()) >= len(rec.Lineage) || root.n > pageBytesMax)) {
		return nil, 0, fmt.Errorf("root %v of %d logs: %w", root, len(rec.Lineage), ErrCorrupt)
	}
	return rec, 0, nil
}
