package cow

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	ask "github.com/bough-db/bough/cow/point"
	"github.com/bough-db/bough/objstore"
	"github.com/bough-db/bough/wal"
)

// RestoreOptions say what to make of a branch.
type RestoreOptions struct {
	// From is the branch whose past it is. Default: the branch itself.
	From BranchID
	// At is the point of From to go back to. Default: its last barrier.
	At ask.Point
	// KeepAs is the name of a new branch that has the state before. Default: nobody
	// has it, and it goes as a deleted branch does.
	KeepAs string
	// Settings makes the branch's settings from those that it had. Default: they stay.
	Settings func(json.RawMessage) (json.RawMessage, error)
	// KeptSettings are those of the branch KeepAs. Default: what the branch had.
	KeptSettings json.RawMessage
}

// restored says what a branch was restored to.
type restored struct {
	Time time.Time `json:"time"`
	From BranchID  `json:"from"` // the branch whose past it was
	Seq  wal.Seq   `json:"seq"`  // the barrier
	// ForkSeq is that of the parent at which the branch was made, if it was not
	// restored from its parent since.
	ForkSeq wal.Seq `json:"fork_seq"`
}

// RestoreBranch makes a branch begin anew at a point of its own past, or of another
// branch's. It keeps its id, name, parent, snapshots and settings, and goes on in a log
// of its own: the one before stays as it is, for its children, its snapshots and the
// branch that keeps the state before. A branch that is in use is refused.
//
// It is done by one replacement of the manifest, which needs that nobody has the branch
// attached. If it fails half way, the branch is as it was or restored, and the same
// call again does not do it twice: a branch KeepAs that has the state before is taken
// for the one asked for.
func (s *Store) RestoreBranch(ctx context.Context, id BranchID, o RestoreOptions) (BranchInfo, error) {
	if o.KeepAs != "" {
		if err := CheckName(o.KeepAs); err != nil {
			return BranchInfo{}, err
		}
	}
	for {
		m, err := s.restoreOnce(ctx, id, &o)
		if err == nil {
			return m.info(), nil
		}
		if !errors.Is(err, objstore.ErrMismatch) && !errors.Is(err, errMoved) {
			return BranchInfo{}, fmt.Errorf("restore branch %s: %w", id, err)
		}
		// Somebody changed the manifest meanwhile: from the start.
	}
}

func (s *Store) restoreOnce(ctx context.Context, id BranchID, o *RestoreOptions) (*manifest, error) {
	m, tag, err := s.detached(ctx, id)
	if err != nil {
		return nil, err
	}
	src := m
	if o.From != "" && o.From != id {
		if src, _, err = s.readBranch(ctx, o.From); err != nil {
			return nil, err
		}
		if !src.Deleted.IsZero() {
			return nil, fmt.Errorf("branch %s: %w", o.From, ErrNotFound)
		}
	}
	at, lineage, tr, err := s.beginning(ctx, src, o.At)
	if err != nil {
		return nil, err
	}
	if len(lineage) >= lineageMax {
		return nil, fmt.Errorf("restore from branch %s: %w: %d", src.branch(), ErrTooDeep, len(lineage))
	}
	kept := false
	if o.KeepAs != "" {
		if kept, err = s.keepState(ctx, m, o); err != nil {
			return nil, fmt.Errorf("keep the state before as %s/%s: %w", m.Project, o.KeepAs, err)
		}
	}
	next, err := s.nextLog(m, src, at, lineage)
	if err != nil {
		return nil, err
	}
	if o.Settings != nil {
		if next.Settings, err = o.Settings(m.Settings); err != nil {
			return nil, err
		}
	}
	if _, err := s.putManifest(ctx, next, objstore.Condition{IfAbsent: true}); err != nil {
		return nil, err
	}
	if err := s.confirm(ctx, at); err != nil {
		s.dropManifest(ctx, next.ID)
		return nil, err
	}
	if err := s.goOn(ctx, m, tag, next); err != nil {
		if errors.Is(err, objstore.ErrMismatch) {
			s.dropManifest(ctx, next.ID)
			if kept { // a state that somebody has changed since
				if derr := s.DeleteBranch(ctx, m.Project, o.KeepAs); derr != nil {
					return nil, fmt.Errorf("take back branch %s/%s: %w", m.Project, o.KeepAs, derr)
				}
			}
		}
		return nil, err
	}
	if err := s.confirmLog(ctx, m, next); err != nil {
		return nil, err
	}
	if tr != nil {
		tr.log = next.own()
	}
	s.remember(next.ID, tr)
	return next, nil
}

// detached returns the manifest of a branch that nobody has attached, so that nobody
// can be writing to it when the manifest is replaced. What the last writer here left
// behind is in the store then.
func (s *Store) detached(ctx context.Context, id BranchID) (*manifest, string, error) {
	for {
		m, tag, err := s.readBranch(ctx, id)
		switch {
		case err != nil:
			return nil, "", err
		case !m.Deleted.IsZero():
			return nil, "", fmt.Errorf("branch %s/%s was deleted: %w", m.Project, m.Name, ErrNotFound)
		case m.Protected:
			return nil, "", fmt.Errorf("branch %s/%s: %w", m.Project, m.Name, ErrProtected)
		case s.attachedElsewhere(m):
			return nil, "", s.attachedError(ctx, m)
		case s.isOpen(id):
			return nil, "", fmt.Errorf("branch %s/%s: %w", m.Project, m.Name, ErrInUse)
		case m.Epoch == 0 || m.Clean:
			return m, tag, nil
		}
		b, err := s.Open(ctx, id)
		if err == nil {
			err = b.Close(ctx)
		}
		if err != nil {
			return nil, "", err
		}
	}
}

// nextLog prepares the manifest of the log that the branch of m goes on in: all that
// belongs to the branch stays, and what belongs to the log begins anew.
func (s *Store) nextLog(m, src *manifest, at moment, lineage []BranchID) (*manifest, error) {
	id, err := newBranchID(s.random)
	if err != nil {
		return nil, err
	}
	next := *m
	next.Generation, next.Nonce = 0, nonce{}
	next.ID, next.Branch, next.Next = id, m.branch(), ""
	next.Fork, next.Lineage = at, append(slices.Clone(lineage), id)
	next.Epoch, next.Host, next.Clean, next.Head = 0, "", false, moment{}
	next.Packs, next.PackLists, next.Claims, next.Replaced, next.Doom = nil, nil, nil, nil, nil
	next.Size = max(m.Size, src.Size)
	next.Restored = &restored{Time: s.now().UTC(), From: src.branch(), Seq: at.Seq, ForkSeq: m.forkSeq()}
	if src.branch() == m.Parent {
		next.Restored.ForkSeq = at.Seq
	}
	return &next, nil
}

// begun is when the log was made.
func (m *manifest) begun() time.Time {
	if m.Restored != nil {
		return m.Restored.Time
	}
	return m.Created
}

// forkSeq returns the barrier of the parent that the branch began as.
func (m *manifest) forkSeq() wal.Seq {
	if m.Restored != nil {
		return m.Restored.ForkSeq
	}
	return m.Fork.Seq
}

// goOn makes the branch of m go on in the log next. tag is the version of m that
// was read.
func (s *Store) goOn(ctx context.Context, m *manifest, tag string, next *manifest) error {
	old := *m
	old.Next = next.ID
	// They are the next one's now, and must not be kept twice.
	old.Snapshots, old.Dropped = nil, nil
	if _, err := s.putManifest(ctx, &old, objstore.Condition{IfMatch: tag}); err != nil {
		return err
	}
	s.forked.Remove(m.ID)
	id := next.branch()
	s.noteLog(id, next.ID)
	if id == m.ID {
		return nil
	}
	// Whoever begins with the branch's first log need not go through all of them.
	_, err := s.updateManifest(ctx, id, func(first *manifest) error {
		first.Next = next.ID
		return nil
	})
	if err != nil {
		s.log.Warn("the first log of a branch does not name its newest one", "branch", id, "log", next.ID, "err", err)
	}
	return nil
}

// confirmLog tells whether the log that a branch goes on in is still there: a restoration
// that was paused for days looks like one that was cut short, whose log nobody needs.
// Then the branch goes back to the log that it left.
func (s *Store) confirmLog(ctx context.Context, m, next *manifest) error {
	now, _, err := s.readManifest(ctx, next.ID)
	if err == nil && now.Deleted.IsZero() || err != nil && !errors.Is(err, ErrNotFound) {
		return err
	}
	_, err = s.updateManifest(ctx, m.ID, func(old *manifest) error {
		if old.Next == next.ID {
			old.Next, old.Snapshots, old.Dropped = "", m.Snapshots, m.Dropped
		}
		return nil
	})
	if id := next.branch(); err == nil && id != m.ID {
		_, err = s.updateManifest(ctx, id, func(first *manifest) error {
			if first.Next == next.ID {
				first.Next = m.ID
			}
			return nil
		})
	}
	s.noteLog(next.branch(), m.ID)
	return errors.Join(fmt.Errorf("it took so long that its log was collected: try again: %w", ErrNotFound), err)
}

// keepState makes a branch of the last barrier of m, unless there is one of that name
// already, from a call that was cut short.
func (s *Store) keepState(ctx context.Context, m *manifest, o *RestoreOptions) (made bool, err error) {
	settings := o.KeptSettings
	if settings == nil {
		settings = m.Settings
	}
	_, err = s.CreateBranch(ctx, m.Project, o.KeepAs, BranchOptions{From: m.branch(), Settings: settings})
	if !errors.Is(err, ErrExists) {
		return err == nil, err
	}
	id, rerr := s.resolve(ctx, m.Project, o.KeepAs)
	if rerr != nil {
		return false, err
	}
	k, _, rerr := s.readBranch(ctx, id)
	if rerr != nil {
		return false, err
	}
	want := m.Fork
	if m.Epoch > 0 && m.Head.Segment > 0 {
		want = m.Head
	}
	if k.Epoch > 0 || k.Parent != m.branch() || k.Fork.point != want.point || !k.Deleted.IsZero() {
		return false, err
	}
	return false, nil
}
