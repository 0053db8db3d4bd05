package wal

import "errors"

// Errors of running out of something; nothing is lost by them.
var (
	// ErrFull: the disk has no room for another journal file. A later Create
	// may succeed.
	ErrFull = errors.New("journal disk is full")
	// ErrBudget: so many writers have reserved a file that the journal's byte
	// budget has none left. Raise PoolOptions.MaxBytes.
	ErrBudget = errors.New("journal budget is exhausted")
	// ErrNoRoom: the records do not fit in the rest of this journal file.
	// Nothing was written: commit what was spilled, and go on in a new file.
	ErrNoRoom = errors.New("no room left in journal file")
)

// Errors of use.
var (
	// ErrSequence: a write out of sequence. Nothing was written.
	ErrSequence = errors.New("batch out of sequence")
	// ErrClosed: the journal was released, abandoned or recovered, or the pool
	// was closed.
	ErrClosed = errors.New("journal is closed")
)

// Errors of the disk.
var (
	// ErrFailed: a write or sync of this journal failed, now or earlier. What
	// it covered may or may not be on the disk; only recovery can tell.
	ErrFailed = errors.New("journal failed")
	// ErrCorrupt: what is on the disk is not what was written there.
	ErrCorrupt = errors.New("journal is corrupt")
	// ErrVersion: the file was written by a newer version of bough; run that.
	ErrVersion = errors.New("journal format is newer than this program")
)
