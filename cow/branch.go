package cow

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/bough-db/bough/wal"
)

// Branch is a writable block device, attached by this process. Its methods may
// be called concurrently. See the package doc for how a write travels.
type Branch struct {
	store   *Store
	id      BranchID // of its log
	branch  BranchID // its own
	log     uint16   // index of its log in lineage
	lineage []BranchID
	epoch   uint64
	info    BranchInfo // as of the opening
	unplace func()     // gives back the reserved journal file
	taken   *TakenOver

	ctx    context.Context // ends when the branch is closed in a hurry
	cancel context.CancelFunc
	usable context.Context // ends with ctx, and when the branch fails
	spoil  context.CancelFunc
	refs   int // guarded by store.mu

	mu         sync.Mutex
	size       int64
	open       *batch // takes writes
	committing *batch // being written to the journal, nil if none
	leading    bool   // somebody owns journal, and commits, spills or seals
	leadFree   *sync.Cond
	leadWanted int
	nextSeq    wal.Seq
	waiting    string        // what writers wait for, if they do
	unread     string        // the last failure to read
	failed     error         // sticky: nothing is acknowledged any more
	hasFailed  chan struct{} // closed once failed is set
	closing    bool
	queue      []*liveSegment // sealed, not yet counted as stored, in order
	lastSeal   time.Time      // when the newest of them, or the last one before, was sealed
	putTook    time.Duration  // how long the last one took on its way to the store
	pacing     time.Time      // when somebody is woken because a batch may become a barrier; zero: never
	lastLog    time.Time      // when the last batch with a block of a database's log was committed
	stored     wal.SegmentNo  // all segments up to this one are in the store
	tail       wal.SegmentNo  // the segment of the last batch committed
	durability Durability
	through    bool          // a write waits until it is durable
	progress   chan struct{} // closed when stored, durability or failed changes
	trouble    storeTrouble
	partial    map[uint64]partialBlock
	counters   counters

	// journal takes the batches; only the leader changes it, under mu.
	journal   *liveSegment
	lastTime  time.Time // of the last barrier; the leader's
	marker    Marker    // nil if nobody follows the database's log
	mark      Mark      // of the last barrier, or the one being written
	sealTimer *time.Timer
	nextSeg   wal.SegmentNo
	lastCkpt  wal.SegmentNo // newest checkpoint, or the one about to be written
	abandoned bool          // it has left journals behind: what they have can not be read any more
	savedCkpt wal.SegmentNo // newest checkpoint that the store has; 0 if not known

	// foldMu makes a batch's changes to the tree one: whoever wants the tree
	// and the head that belongs to it takes foldMu first, then treeMu. treeMu
	// alone is enough to look addresses up, or at the head.
	foldMu patientLock
	treeMu sync.RWMutex
	tree   tree
	head   moment // the last barrier

	durabilityMu patientLock // one change of durability at a time
	unrecorded   bool        // the manifest may say another durability; under durabilityMu

	start     starting
	begunAt   point // the newest segment when it was opened: its own, or of the log that it began in
	recording atomic.Pointer[startRecorder]

	streams    streams
	ckptMu     patientLock   // one checkpoint is written at a time
	triedCkpt  wal.SegmentNo // the newest that was begun; under ckptMu
	inherited  inherited     // the same
	background sync.WaitGroup
}

// counters of a branch since it was opened.
type counters struct {
	reads, writes, flushes, trims uint64
	readErrors                    uint64
	readBytes, writeBytes         uint64
	batches                       uint64
}

// BranchStatus is a snapshot of what a branch is doing.
type BranchStatus struct {
	ID         BranchID  `json:"id"`
	Seq        wal.Seq   `json:"seq"`     // the last barrier
	Segment    uint64    `json:"segment"` // that it lies in
	Stored     uint64    `json:"stored_segment"`
	Epoch      uint64    `json:"epoch"`
	SizeBytes  int64     `json:"size_bytes"`
	Pending    int       `json:"pending_segments"` // sealed or open journals not yet in the store
	Exposure   int64     `json:"exposure_bytes"`   // bytes of batches that only the journal has
	Oldest     time.Time `json:"exposure_since,omitzero"`
	Reads      uint64    `json:"reads"`
	Writes     uint64    `json:"writes"`
	Flushes    uint64    `json:"flushes"`
	Trims      uint64    `json:"trims"`
	Batches    uint64    `json:"batches"`
	ReadBytes  uint64    `json:"read_bytes"`
	WriteBytes uint64    `json:"write_bytes"`
	Mode       string    `json:"write_mode"`

	Durability Durability `json:"durability"`
	// StoreError is what the store last answered to a segment that it has not
	// taken yet, and StoreErrorSince when that began.
	StoreError      string     `json:"store_error,omitempty"`
	StoreErrorSince time.Time  `json:"store_error_since,omitzero"`
	TakenOver       *TakenOver `json:"taken_over,omitempty"`
	Waiting         string     `json:"waiting,omitempty"` // what writes wait for
	Error           string     `json:"error,omitempty"`   // the sticky failure
	// ReadErrors counts the reads that failed, and ReadError is the last one's error.
	ReadErrors uint64 `json:"read_errors,omitempty"`
	ReadError  string `json:"read_error,omitempty"`
}

// Info describes the branch as it was when it was opened, but for its size. It asks
// nobody.
func (b *Branch) Info() BranchInfo {
	info := b.info
	info.Size = b.Size()
	return info
}

// ID returns the branch's id.
func (b *Branch) ID() BranchID { return b.branch }

// Size returns the device's size in bytes.
func (b *Branch) Size() int64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.size
}

// WriteThrough reports whether a write is durable when it returns.
func (b *Branch) WriteThrough() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.through
}

// SetWriteThrough changes whether a write is durable when it returns. When it returns
// nil after turning that on, everything written before is durable too: whoever has been
// sending flushes may stop. Before it is turned off, they have to begin again.
func (b *Branch) SetWriteThrough(on bool) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.through = on
	if !on {
		return nil
	}
	return b.flush()
}

// Err returns the failure after which nothing is acknowledged, or nil.
func (b *Branch) Err() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.failed
}

// Failed returns a channel that is closed when the branch fails, or has been closed:
// when Err is no longer nil.
func (b *Branch) Failed() <-chan struct{} { return b.hasFailed }

// Recheck looks whether this process still is the branch's writer. If another one
// has taken it over the branch fails at once, rather than with its next segment,
// and Recheck returns ErrFenced.
func (b *Branch) Recheck(ctx context.Context) error {
	m, _, err := b.store.readManifest(ctx, b.id)
	if err != nil {
		return err
	}
	if m.Epoch == b.epoch {
		return nil
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.fail(fmt.Errorf("host %s has the branch in epoch %d, this is epoch %d: %w", m.Host, m.Epoch, b.epoch, ErrFenced))
}

// Status describes the branch.
func (b *Branch) Status() BranchStatus {
	b.treeMu.RLock()
	head := b.head
	b.treeMu.RUnlock()
	b.mu.Lock()
	defer b.mu.Unlock()
	st := BranchStatus{
		ID: b.branch, Seq: head.Seq, Segment: uint64(head.Segment), Stored: uint64(b.stored), Epoch: b.epoch,
		SizeBytes: b.size, Reads: b.counters.reads, Writes: b.counters.writes, Flushes: b.counters.flushes,
		Trims: b.counters.trims, Batches: b.counters.batches,
		ReadBytes: b.counters.readBytes, WriteBytes: b.counters.writeBytes, Mode: "flush",
	}
	if b.through {
		st.Mode = "through"
	}
	st.Waiting = b.waiting
	if b.failed != nil {
		st.Error = b.failed.Error()
	}
	st.Durability, st.TakenOver = b.durability, b.taken
	st.ReadErrors, st.ReadError = b.counters.readErrors, b.unread
	st.StoreError, st.StoreErrorSince = b.trouble.text, b.trouble.since
	st.Pending, st.Exposure, st.Oldest = b.exposure()
	return st
}

// storeTrouble is what keeps segments from being stored.
type storeTrouble struct {
	text  string
	since time.Time
}

// patientLock is a mutex that may be held for long, while a store does not answer.
// It is a channel, so that the simulated time of tests goes on meanwhile.
type patientLock chan struct{}

func newPatientLock() patientLock { return make(patientLock, 1) }

func (l patientLock) Lock()   { l <- struct{}{} }
func (l patientLock) Unlock() { <-l }

// checkRange tells whether [off, off+n) lies in the device.
func checkRange(off, n, size int64) error {
	if off < 0 || n < 0 || n > size || off > size-n {
		return fmt.Errorf("bytes %d+%d of a device of %d: %w", off, n, size, ErrOutOfRange)
	}
	return nil
}

// fail records the branch's first failure and returns it. mu is held.
func (b *Branch) fail(err error) error {
	if b.failed == nil {
		b.failed = err
		close(b.hasFailed)
		b.spoil()
		b.progressed()
		b.store.log.Error("branch has failed: no write is acknowledged any more",
			"branch", b.id, "err", err)
	}
	return b.failed
}

// fork returns the tree at the last barrier for the child with the lineage
// index log, and the barrier. It waits for nothing but a fold under way.
func (b *Branch) fork(log uint16) (tree, moment) {
	b.foldMu.Lock()
	defer b.foldMu.Unlock()
	b.treeMu.Lock()
	defer b.treeMu.Unlock()
	return b.tree.fork(log), b.head
}
