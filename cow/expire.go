package cow

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/bough-db/bough/objstore"
)

// A branch that is to be deleted by itself has a record that leads to it,
//
//	expiring/<branch id>
//
// so that nobody has to look at all branches to find those that are due. It is put
// before the manifest says so, which has the last word, and goes with the branch.

const (
	expiringPrefix = "expiring/"
	expiringKind   = "expiring"
)

func expiringKey(id BranchID) string { return expiringPrefix + string(id) }

// expiringRecord leads to a branch that will be deleted by itself.
type expiringRecord struct {
	ID   BranchID  `json:"id"`
	Time time.Time `json:"time"` // when that was asked for
}

// expiringStale is how old a record has to be whose branch is not there, for the branch
// to come no more.
const expiringStale = time.Hour

func (s *Store) putExpiring(ctx context.Context, id BranchID) error {
	data, err := encodeRecord(expiringKind, &expiringRecord{ID: id, Time: s.now().UTC()})
	if err == nil {
		_, err = s.objects.Put(ctx, expiringKey(id), data, objstore.Condition{IfAbsent: true})
	}
	if err != nil && !errors.Is(err, objstore.ErrExists) {
		return fmt.Errorf("record that branch %s expires: %w", id, err)
	}
	return nil
}

// SetExpiry lets a branch be deleted by itself at a time, or not, for the zero time. A
// protected branch does not expire: ErrProtected. Whoever calls Expiring does it.
func (s *Store) SetExpiry(ctx context.Context, id BranchID, at time.Time) error {
	if !at.IsZero() {
		if err := s.putExpiring(ctx, id); err != nil {
			return err
		}
	}
	_, err := s.updateBranch(ctx, id, func(m *manifest) error {
		if !at.IsZero() && m.Protected {
			return fmt.Errorf("branch %s/%s: %w", m.Project, m.Name, ErrProtected)
		}
		m.Expires = at.UTC()
		if at.IsZero() {
			m.Expires = time.Time{}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("set the expiry of branch %s: %w", id, err)
	}
	return nil
}

// Expiring returns the branches that are to be deleted by themselves: those that
// expire, and those that some host made for one use.
func (s *Store) Expiring(ctx context.Context) ([]BranchInfo, error) {
	ids, err := s.listNames(ctx, expiringPrefix)
	if err != nil {
		return nil, err
	}
	return gather(ctx, ids, func(ctx context.Context, id string) (BranchInfo, error) {
		var rec expiringRecord
		if _, err := s.readRecord(ctx, expiringKind, expiringKey(BranchID(id)), &rec); err != nil {
			if isNotExist(err) {
				err = ErrNotFound
			}
			return BranchInfo{}, err
		}
		m, _, err := s.readBranch(ctx, BranchID(id))
		switch {
		case err == nil && m.Deleted.IsZero() && (!m.Expires.IsZero() || m.Throwaway != ""):
			return m.info(), nil
		case err == nil && m.Deleted.IsZero():
			return BranchInfo{}, ErrNotFound // not any more, or not yet
		case err != nil && !errors.Is(err, ErrNotFound):
			return BranchInfo{}, err
		case err != nil && s.now().Sub(rec.Time) < expiringStale:
			return BranchInfo{}, ErrNotFound // it is being made
		}
		err = s.objects.Delete(ctx, expiringKey(BranchID(id)))
		if err == nil {
			err = ErrNotFound
		}
		return BranchInfo{}, err
	})
}
