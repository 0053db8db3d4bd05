package wal

import (
	"errors"
	"time"
)

// Errors, by phase. All are wrapped with the operation and the path.
var (
	// ErrFull: the disk has no room for another journal file. Nothing is lost;
	// a later Create may succeed.
	ErrFull = errors.New("journal disk is full")
	// ErrBudget: the journal's byte budget is reserved by other writers.
	ErrBudget = errors.New("journal budget is exhausted")
	// ErrNoRoom: the records do not fit in the rest of this journal file.
	// Nothing was written; commit what was spilled, and go on in a new file.
	ErrNoRoom = errors.New("no room left in journal file")
	// ErrSequence: a write out of sequence. Nothing was written.
	ErrSequence = errors.New("batch out of sequence")
	// ErrFailed: an earlier write or sync of this journal failed. What it
	// covered may or may not be on the disk; only recovery can tell.
	ErrFailed = errors.New("journal failed")
	// ErrClosed: the journal was released or abandoned, or the pool closed.
	ErrClosed = errors.New("journal is closed")
	// ErrCorrupt: what is on the disk is not what was written there.
	ErrCorrupt = errors.New("journal is corrupt")
	// ErrVersion: the file was written by a newer version of bough.
	ErrVersion = errors.New("journal format is newer than this program")
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
	LSN  uint64    // the highest Postgres LSN seen so far; 0 = none
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
	Entries []Entry // of all its records, in order; shared, read-only
}
