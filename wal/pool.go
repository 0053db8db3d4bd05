package wal

import (
	"context"
	"io"
	"log/slog"

	"github.com/bough-db/bough/vfs"
)

// Journal is one journal file: written by one writer, read by many.
type Journal struct{}

// Header returns the file's header.
func (j *Journal) Header() Header { return Header{} }

// Room returns the number of slots that a committing Write can still take,
// record headers included (see Record.Size). A spilling Write must leave one.
func (j *Journal) Room() int { return 0 }

// Write appends the records, in one system call.
func (j *Journal) Write(recs []*Record, m Meta) error { return ErrClosed }

// ReadAt fills p, whole blocks, from slot on, and verifies checksums. p need not be aligned (aligned is faster).
func (j *Journal) ReadAt(p []byte, slot Slot) error { return ErrClosed }

// Batches returns the committed batches (index only).
func (j *Journal) Batches() []Batch { return nil }

// End returns the first slot after the last committed batch: the length of the segment.
func (j *Journal) End() Slot { return 0 }

// Err returns the sticky error.
func (j *Journal) Err() error { return nil }

// Ref keeps the file from being reused; false when it was released already.
func (j *Journal) Ref() bool { return false }

// Unref undoes Ref.
func (j *Journal) Unref() {}

// Release gives the file back: its segment is in the store. The owner's reference is gone.
func (j *Journal) Release() {}

// Abandon lets go of the file but leaves it on disk, for a later Recover.
func (j *Journal) Abandon() {}

// Recovered is a file that an earlier life left behind. It reads like any journal; Write is refused.
type Recovered struct {
	*Journal
	Err error // ErrCorrupt, ErrVersion or an I/O error; Batches holds what came before the damage
}

// PoolOptions …
type PoolOptions struct {
	FileBytes int64 // Default: 16 MiB
	MaxBytes  int64 // Default: 4 GiB
	Spare     int   // Default: 2
	Rand      io.Reader
	Logger    *slog.Logger
}

// Pool …
type Pool struct{}

// OpenPool …
func OpenPool(fsys vfs.FS, dir string, o PoolOptions) (*Pool, error) { return nil, ErrClosed }

// NewRecord returns an empty record with one reference.
func (p *Pool) NewRecord(large bool) *Record { return nil }

func (p *Pool) freeRecord(r *Record) {}

// Recover hands out, once, every file that an earlier life (or Abandon) left with at least one committed batch, or damaged.
func (p *Pool) Recover(ctx context.Context) ([]*Recovered, error) { return nil, ErrClosed }

// Reserve sets one file of the budget aside for a log until release is called: call it at attach.
func (p *Pool) Reserve(log string) (release func(), err error) { return nil, ErrClosed }

// Create blocks while the budget is used up. Only Log, Segment, Epoch of h are used.
func (p *Pool) Create(ctx context.Context, h Header) (*Journal, error) { return nil, ErrClosed }

// Close waits for background work; files stay on disk for Recover.
func (p *Pool) Close() error { return nil }
