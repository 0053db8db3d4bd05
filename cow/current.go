package cow

import (
	"context"
	"errors"
	"fmt"
)

// A branch that was restored goes on in another log, with the id that it always had:
// the manifest of the log that it left names the next one, and that of the last one is
// the branch's. So one replacement of one object restores a branch, and whoever has
// read an older manifest is refused when he wants to change it.
//
// The first log of a branch has the branch's id. Its manifest stays for as long as the
// branch does, and names the newest log, so that two reads lead there however often
// the branch was restored.

// nextsMax is how many logs in a row can each name the next one: more than one only
// where a crash came between the two replacements of a restoration.
const nextsMax = 64

// errMoved says that a branch has gone on in another log since its manifest was read.
var errMoved = errors.New("the branch was restored meanwhile")

// branch is the id of the branch that the log is, or was, the log of.
func (m *manifest) branch() BranchID {
	if m.Branch != "" {
		return m.Branch
	}
	return m.ID
}

// readBranch returns the manifest of the log that the branch writes, and its version
// tag.
func (s *Store) readBranch(ctx context.Context, id BranchID) (*manifest, string, error) {
	log := s.logOf(id)
	remembered := log != id
	for range nextsMax {
		m, tag, err := s.readManifest(ctx, log)
		if errors.Is(err, ErrNotFound) && remembered {
			// That is old: a log that nothing leads through any more was collected.
			s.noteLog(id, id)
			log, remembered = id, false
			continue
		}
		if err != nil {
			return nil, "", err
		}
		if m.branch() != id {
			return nil, "", fmt.Errorf("manifest of %s is of branch %s, not %s: %w", log, m.branch(), id, ErrCorrupt)
		}
		if m.Next == "" {
			return m, tag, nil
		}
		log, remembered = m.Next, false
		s.noteLog(id, log)
	}
	return nil, "", fmt.Errorf("branch %s goes on in log %s, and that in another: %w", id, log, ErrCorrupt)
}

// logOf returns the log of a branch, as far as this process knows: it may have gone on
// in another one.
func (s *Store) logOf(id BranchID) BranchID {
	s.mu.Lock()
	defer s.mu.Unlock()
	if log, ok := s.moved[id]; ok {
		return log
	}
	return id
}

// noteLog remembers that a branch goes on in the log.
func (s *Store) noteLog(id, log BranchID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.moved[id] = log
}

// updateBranch is updateManifest for the log that the branch writes.
func (s *Store) updateBranch(ctx context.Context, id BranchID, change func(*manifest) error) (*manifest, error) {
	for {
		m, tag, err := s.readBranch(ctx, id)
		if err != nil {
			return nil, err
		}
		m, err = s.changeManifest(ctx, m, tag, func(m *manifest) error {
			if m.Next != "" {
				return errMoved
			}
			return change(m)
		})
		if !errors.Is(err, errMoved) {
			return m, err
		}
	}
}
