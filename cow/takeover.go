package cow

import (
	"context"
	"fmt"
	"time"

	"github.com/bough-db/bough/wal"
)

// TakeOver says whether Open may take a branch that another host has attached.
// That host is fenced: it acknowledges nothing that the store would have to take,
// and its device fails when it next stores something.
type TakeOver int

const (
	// TakeOverNone leaves the branch to the host that has it.
	TakeOverNone TakeOver = iota
	// TakeOverStored takes it if nothing acknowledged can be lost: its durability
	// is remote, so that the store has every flush that returned.
	TakeOverStored
	// TakeOverLossy takes it in any case. With durability local, what that host
	// acknowledged after the last barrier in the store is lost to the branch.
	TakeOverLossy
)

// OpenOptions say how to open a branch.
type OpenOptions struct {
	// TakeOver: see there. Default: TakeOverNone.
	TakeOver TakeOver
	// Epoch is that of the writer to take the branch from, as AttachedError had it:
	// whoever has it by now is another one, whom nobody has asked. Default: any.
	Epoch uint64
	// FetchStart has the branch fetch what its last recorded start read, all at
	// once and in the background, for what this host's caches do not have; see
	// Branch.RecordStart. It is for stores that are far away. Default: false.
	FetchStart bool
}

// AttachedError says that another host has a branch, and up to which barrier the
// store has it. It wraps ErrInUse.
type AttachedError struct {
	ID            BranchID
	Project, Name string
	Host          string // who has it
	Epoch         uint64 // that it has it in
	Durability    Durability
	// Seq is the last barrier in the store, of time Time. Both are zero where the
	// store could not tell.
	Seq  wal.Seq
	Time time.Time
}

// Error says who has the branch.
func (e *AttachedError) Error() string {
	return fmt.Sprintf("branch %s/%s is attached by host %s: %v", e.Project, e.Name, e.Host, ErrInUse)
}

// Unwrap returns ErrInUse.
func (e *AttachedError) Unwrap() error { return ErrInUse }

// TakenOver describes how this process got a branch from another host.
type TakenOver struct {
	Host string    `json:"host"` // who had it
	Seq  wal.Seq   `json:"seq"`  // the last barrier that the store had
	Time time.Time `json:"time"` // of that barrier
	// Complete says that the store had all that was acknowledged: its durability
	// was remote.
	Complete bool `json:"complete"`
}

// TakenOver returns from whom the branch was taken when it was opened, or nil if
// nobody had it.
func (b *Branch) TakenOver() *TakenOver { return b.taken }

// attachedElsewhere tells whether another host has the branch, or had it when it
// died.
func (s *Store) attachedElsewhere(m *manifest) bool {
	return m.Epoch > 0 && !m.Clean && m.Host != s.opts.Host
}

// attachedError describes who has the branch. What the store has of it is looked
// up as far as that is possible.
func (s *Store) attachedError(ctx context.Context, m *manifest) *AttachedError {
	e := &AttachedError{
		ID: m.branch(), Project: m.Project, Name: m.Name, Host: m.Host, Epoch: m.Epoch, Durability: m.durability(),
	}
	if at, err := s.storedHead(ctx, m); err == nil {
		e.Seq, e.Time = at.Seq, at.Time
	}
	return e
}

// Stored returns the last barrier of a branch that the store has, which is all that
// other hosts see of it, and its time.
func (s *Store) Stored(ctx context.Context, id BranchID) (wal.Seq, time.Time, error) {
	m, _, err := s.readBranch(ctx, id)
	if err != nil {
		return 0, time.Time{}, err
	}
	at, err := s.storedHead(ctx, m)
	if err != nil {
		return 0, time.Time{}, fmt.Errorf("look for the last stored barrier of branch %s: %w", id, err)
	}
	return at.Seq, at.Time, nil
}

// storedHead returns the last barrier of a branch that the store has.
func (s *Store) storedHead(ctx context.Context, m *manifest) (moment, error) {
	l, err := s.load(ctx, m, logEnd, 0, gapsHappen)
	if err != nil {
		return moment{}, err
	}
	return l.at, nil
}

// mayTake tells whether the branch, which another host has, may be taken over.
func (o OpenOptions) mayTake(m *manifest) bool {
	if o.Epoch != 0 && m.Epoch != o.Epoch {
		return false
	}
	switch o.TakeOver {
	case TakeOverLossy:
		return true
	case TakeOverStored:
		return m.durability() == DurabilityRemote
	default:
		return false
	}
}

// forgetLog drops from memory what this process knows of the branch's segments. A
// segment that it stored beyond the end of the log, before it was fenced, may
// have been replaced by another host's.
func (s *Store) forgetLog(id BranchID) {
	for _, k := range s.indexes.Keys() {
		if k.log == id {
			s.indexes.Remove(k)
		}
	}
	s.layouts.Remove(id)
	s.opts.Memory.DeleteLog(string(id))
}
