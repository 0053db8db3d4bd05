package wal

import (
	"encoding/binary"
	"fmt"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"

	"github.com/bough-db/bough/vfs"
)

// Header says what a journal file is for.
type Header struct {
	Log      string    // the branch's log, 1 to LogMax bytes
	Segment  SegmentNo // which segment of the log the file becomes
	Epoch    uint64    // the writer's
	FirstSeq Seq       // of the first batch; set by the first Write
	Created  time.Time // of the first batch; set by the first Write
}

// Meta describes the batch that a Write belongs to.
type Meta struct {
	Seq  Seq       // one more than that of the batch before
	Time time.Time // kept as Unix nanoseconds
	LSN  uint64    // how far the database's log reaches on the device; 0 = not known
	Line uint64    // the history of that log that LSN is in; it only grows
	// Commit ends the batch and makes it durable. Without it the records are
	// spilled: written, but neither durable nor part of the journal until a
	// Write of the same Seq commits.
	Commit bool
}

// Batch is a committed batch as the journal's index holds it.
type Batch struct {
	Seq     Seq
	Time    time.Time
	LSN     uint64
	Line    uint64
	Entries []Entry // of all its records, in order; shared, read-only
}

// Journal is one journal file, which is exactly one future segment. It is
// written by one writer and read by many.
//
// The owner, who got it from [Pool.Create] or [Pool.Recover], ends by calling
// Release or Abandon, once. Readers other than the owner hold a reference while
// they read: Ref under the lock by which they found the journal, Unref when done.
type Journal struct {
	pool  *Pool
	id    uint64
	path  string
	log   string // for the pool's accounting; Header is guarded by mu
	slots Slot   // in the file

	// refs counts the owner and the readers; at 0 the pool takes the file back.
	refs atomic.Int32
	fate atomic.Int32
	// next is the first slot that no Write has filled yet.
	next atomic.Uint32
	file vfs.File
	// sums holds the CRC32C of every slot before next. An element is written
	// before next moves past it and never again.
	sums []uint32

	mu        sync.Mutex // held for a look or a change, never for the disk's sake
	writing   bool       // a Write is under way
	header    fileHeader
	readOnly  bool // recovered
	err       error
	head      []byte   // slot 0, until the first write took it along
	bufs      [][]byte // scratch of Write
	sumBuf    []byte   // scratch of Write
	openSeq   Seq      // of the batch that has spilled, or of the next one
	spilled   uint32   // records of the open batch already written
	entries   []Entry  // of all batches, the open one's last
	batches   []batchRef
	firstOpen int  // in entries: where the open batch begins
	end       Slot // after the last committed batch
}

// batchRef is a batch in the index; its entries are a range of the journal's.
type batchRef struct {
	seq      Seq
	time     int64
	lsn      uint64
	line     uint64
	from, to int
}

// What becomes of the file when the last reference is gone.
const (
	fateOpen int32 = iota // still owned
	fateRelease
	fateAbandon
	fateAside
	fateClosed // the pool was closed
)

// Path returns the name of the file.
func (j *Journal) Path() string { return j.path }

// Header returns the file's header.
func (j *Journal) Header() Header {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.header.Header
}

// Nonce returns the random number that was drawn when the file was taken into
// use: it tells this journal from every other attempt to write the same segment.
func (j *Journal) Nonce() [16]byte {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.header.nonce
}

// Room returns the number of slots that a committing Write can still take, the
// records' header blocks included (see [Record.Size]). A Write that does not
// commit must leave one of them, for the record that does.
func (j *Journal) Room() int { return int(j.slots) - int(j.next.Load()) }

// End returns the first slot after the last committed batch: the length in
// blocks of the segment that the file would become now.
func (j *Journal) End() Slot {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.end
}

// Err returns the error that made this journal fail, or nil.
func (j *Journal) Err() error {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.err
}

// Batches returns the committed batches in order. The entries are shared and
// must not be changed.
func (j *Journal) Batches() []Batch {
	j.mu.Lock()
	defer j.mu.Unlock()
	out := make([]Batch, len(j.batches))
	for i, b := range j.batches {
		out[i] = Batch{
			Seq: b.seq, Time: time.Unix(0, b.time), LSN: b.lsn, Line: b.line,
			Entries: j.entries[b.from:b.to:b.to],
		}
	}
	return out
}

// Write appends the records to the journal in one write. With m.Commit set the
// batch, its spilled records included, is durable when Write returns nil; then
// [Record.Slot] tells where the data is. The records stay the caller's to free.
//
// ErrNoRoom and ErrSequence change nothing. Any error of the disk is final: the
// journal has failed, and every later Write returns the same error, wrapping
// ErrFailed. It is not known then whether the batch is on the disk, and neither
// asking nor writing again could tell: a kernel reports a failed write-back once
// and forgets it. Abandon the journal and recover.
func (j *Journal) Write(recs []*Record, m Meta) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	size, err := j.admit(recs, m)
	if err != nil {
		return err
	}
	at := Slot(j.next.Load())
	off := int64(at) * BlockSize
	bufs := j.bufs[:0]
	if j.head != nil {
		j.header.FirstSeq, j.header.Created = m.Seq, m.Time
		encodeHeader(j.head, &j.header, headerLive)
		j.sums[0] = sum(j.head)
		bufs = append(bufs, j.head)
		off = 0
	}
	h := recordHeader{
		slot: at, seq: m.Seq, index: j.spilled, time: m.Time.UnixNano(), lsn: m.LSN, line: m.Line, nonce: j.header.nonce,
	}
	for i, r := range recs {
		if m.Commit && i == len(recs)-1 {
			h.flags = flagCommit
		}
		bufs = append(bufs, j.encode(r, h))
		h.slot += Slot(r.Size())
		h.index++
	}
	j.bufs = bufs
	spilled := j.spilled > 0
	// Readers of the index do not wait for the disk.
	j.writing = true
	j.mu.Unlock()
	err = j.put(bufs, off, m.Commit, spilled)
	j.mu.Lock()
	j.writing = false
	if err != nil {
		j.err = fmt.Errorf("write batch %d to journal %s at slot %d: %w: %w", m.Seq, j.path, at, ErrFailed, err)
		return j.err
	}
	clear(bufs)
	j.head = nil
	j.next.Store(uint32(at) + uint32(size))
	j.note(recs, at, m)
	return nil
}

// slowWrite is how long a write may take before the log names the disk.
const slowWrite = time.Second

// put writes the buffers. A commit that nothing was spilled for is one durable
// write. Otherwise the sync must also cover the earlier writes, which a durable
// write does not: it covers its own range only.
func (j *Journal) put(bufs [][]byte, off int64, commit, spilled bool) error {
	begin := time.Now()
	err := j.file.WritevAt(bufs, off, commit && !spilled)
	if err == nil && commit && spilled {
		err = j.file.Sync()
	}
	if d := time.Since(begin); d >= slowWrite {
		j.pool.log.Warn("disk of the journal is slow", "path", j.path, "took", d, "err", err)
	}
	return err
}

// admit checks that a Write may go ahead, and returns its size in slots.
func (j *Journal) admit(recs []*Record, m Meta) (int, error) {
	switch {
	case j.err != nil:
		return 0, j.err
	case j.readOnly || j.fate.Load() != fateOpen:
		return 0, fmt.Errorf("write to journal %s: %w", j.path, ErrClosed)
	case j.writing:
		return 0, fmt.Errorf("write to journal %s beside another write: %w", j.path, ErrSequence)
	case len(recs) == 0:
		return 0, fmt.Errorf("write to journal %s: no records: %w", j.path, ErrSequence)
	case j.openSeq != 0 && m.Seq != j.openSeq || m.Seq == 0:
		return 0, fmt.Errorf("write to journal %s: batch %d where %d is next: %w", j.path, m.Seq, j.openSeq, ErrSequence)
	}
	size := 0
	for _, r := range recs {
		if r.slot != 0 {
			return 0, fmt.Errorf("write to journal %s: record was written before: %w", j.path, ErrSequence)
		}
		size += r.Size()
	}
	need := size
	if !m.Commit {
		need++ // for the record that commits
	}
	if room := j.Room(); need > room {
		return 0, fmt.Errorf("write %d slots to journal %s: %d left: %w", need, j.path, room, ErrNoRoom)
	}
	return size, nil
}

// encode fills the record's header block and the table of sums, and returns the
// bytes to write.
func (j *Journal) encode(r *Record, h recordHeader) []byte {
	h.blocks = uint32(r.blocks)
	j.sums[h.slot] = recordBlockSum
	sums := j.sums[h.slot+1 : h.slot+1+Slot(r.blocks)]
	for i := range sums {
		sums[i] = sum(r.Block(i))
	}
	h.dataSum, j.sumBuf = sumOfSums(sums, j.sumBuf)
	encodeRecord(r.arena, &h, r.entries)
	return r.arena[:r.Size()*BlockSize]
}

// sumOfSums is the data checksum of a record: the CRC32C of the CRC32Cs of its
// blocks. So one pass over the data serves both the record on the disk and the
// check of single blocks when they are read back.
func sumOfSums(sums []uint32, scratch []byte) (uint32, []byte) {
	scratch = scratch[:0]
	for _, s := range sums {
		scratch = binary.LittleEndian.AppendUint32(scratch, s)
	}
	return sum(scratch), scratch
}

// note enters what was written into the index.
func (j *Journal) note(recs []*Record, at Slot, m Meta) {
	for _, r := range recs {
		r.slot = at
		for i := range r.entries {
			if r.entries[i].Kind == KindData {
				r.entries[i].Slot += at
			}
		}
		j.entries = append(j.entries, r.entries...)
		at += Slot(r.Size())
	}
	if !m.Commit {
		j.openSeq = m.Seq
		j.spilled += uint32(len(recs))
		return
	}
	j.commit(m, at)
}

// commit closes the open batch in the index.
func (j *Journal) commit(m Meta, end Slot) {
	j.batches = append(j.batches, batchRef{
		seq: m.Seq, time: m.Time.UnixNano(), lsn: m.LSN, line: m.Line, from: j.firstOpen, to: len(j.entries),
	})
	j.firstOpen = len(j.entries)
	j.openSeq = m.Seq + 1
	j.spilled = 0
	j.end = end
}

// ReadAt fills p, a whole number of blocks, from the given slot on, and checks
// every block against the checksum taken when it was written or recovered:
// ErrCorrupt when it differs. Slots are readable once the Write that filled
// them returned. A page-aligned p saves a copy.
func (j *Journal) ReadAt(p []byte, slot Slot) error {
	n := len(p) / BlockSize
	if len(p)%BlockSize != 0 || uint64(slot)+uint64(n) > uint64(j.next.Load()) {
		return fmt.Errorf("read %d bytes of journal %s at slot %d: outside of what is written", len(p), j.path, slot)
	}
	if n == 0 {
		return nil
	}
	if j.file.Direct() && !aligned(p) {
		return j.readBounced(p, slot)
	}
	return j.readAligned(p, slot)
}

func aligned(p []byte) bool {
	return uintptr(unsafe.Pointer(unsafe.SliceData(p)))%vfs.Align == 0
}

func (j *Journal) readAligned(p []byte, slot Slot) error {
	if _, err := j.file.ReadAt(p, int64(slot)*BlockSize); err != nil {
		return fmt.Errorf("read journal %s at slot %d: %w", j.path, slot, err)
	}
	for i := 0; i < len(p); i += BlockSize {
		if sum(p[i:i+BlockSize]) != j.sums[slot] {
			return fmt.Errorf("read journal %s: checksum of slot %d does not match: %w", j.path, slot, ErrCorrupt)
		}
		slot++
	}
	return nil
}

// readBounced reads through a record's aligned memory.
func (j *Journal) readBounced(p []byte, slot Slot) error {
	r := j.pool.NewRecord(false)
	defer r.Free()
	for len(p) > 0 {
		n := min(len(p), len(r.arena))
		if err := j.readAligned(r.arena[:n], slot); err != nil {
			return err
		}
		copy(p, r.arena[:n])
		p = p[n:]
		slot += Slot(n / BlockSize)
	}
	return nil
}

// Ref takes a reference that keeps the file from being reused. It returns false
// when the last reference is gone already: the segment is in the store then.
func (j *Journal) Ref() bool {
	for {
		n := j.refs.Load()
		if n <= 0 {
			return false
		}
		if j.refs.CompareAndSwap(n, n+1) {
			return true
		}
	}
}

// Unref drops a reference taken with Ref.
func (j *Journal) Unref() {
	switch n := j.refs.Add(-1); {
	case n == 0:
		j.pool.retire(j)
	case n < 0:
		panic("wal: journal unreferenced twice") // unreachable: a programming error that would corrupt data if it went on
	}
}

// Release ends the owner's use of the file: its segment is in the store, or its
// data is not wanted any more. When the last reader is gone the file is marked
// as free, durably, and goes back to the pool. A crash before that mark lets the
// file be recovered once more, so whoever recovers a file compares it with the
// store. Calls after the first do nothing.
func (j *Journal) Release() { j.finish(fateRelease) }

// Abandon ends the owner's use of the file and leaves it on the disk for a later
// [Pool.Recover], of this process or the next. Calls after the first do nothing.
func (j *Journal) Abandon() { j.finish(fateAbandon) }

func (j *Journal) finish(fate int32) {
	if j.fate.CompareAndSwap(fateOpen, fate) {
		if fate == fateAbandon {
			j.pool.leave()
		}
		j.Unref()
	}
}
