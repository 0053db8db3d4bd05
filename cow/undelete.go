package cow

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/bough-db/bough/objstore"
)

// A deleted branch has no name, so that nothing leads to it but a record of its own:
//
//	deleted/<project>/<branch id>
//
// which is put before the branch is marked as deleted, and is there until it has come
// back or can not any more. The manifest says which of it is true.

const (
	deletedPrefix = "deleted/"
	deletedKind   = "deleted"
)

func deletedKey(project string, id BranchID) string {
	return deletedPrefix + project + "/" + string(id)
}

// deletedRecord leads to a deleted branch.
type deletedRecord struct {
	Project string   `json:"project"`
	ID      BranchID `json:"id"`
}

// putDeleted records that the branch is about to be deleted.
func (s *Store) putDeleted(ctx context.Context, m *manifest) error {
	rec := deletedRecord{Project: m.Project, ID: m.branch()}
	data, err := encodeRecord(deletedKind, &rec)
	if err == nil {
		_, err = s.objects.Put(ctx, deletedKey(m.Project, rec.ID), data, objstore.Condition{IfAbsent: true})
	}
	if err != nil && !errors.Is(err, objstore.ErrExists) {
		return fmt.Errorf("record the deletion of branch %s: %w", rec.ID, err)
	}
	return nil
}

// checkDeleted returns what is wrong with the record of a deletion, if it is there.
func (s *Store) checkDeleted(ctx context.Context, project string, id BranchID) error {
	var rec deletedRecord
	_, err := s.readRecord(ctx, deletedKind, deletedKey(project, id), &rec)
	if isNotExist(err) {
		return nil
	}
	if err == nil && (rec.Project != project || rec.ID != id) {
		err = fmt.Errorf("it is of branch %s of project %q: %w", rec.ID, rec.Project, ErrCorrupt)
	}
	return err
}

// DeletedBranches returns the project's deleted branches that can come back; of
// BranchInfo, Name is the one that each had, and Deleted when it was deleted.
func (s *Store) DeletedBranches(ctx context.Context, project string) ([]BranchInfo, error) {
	if _, err := s.Project(ctx, project); err != nil {
		return nil, err
	}
	ids, err := s.listNames(ctx, deletedPrefix+project+"/")
	if err != nil {
		return nil, err
	}
	return gather(ctx, ids, func(ctx context.Context, id string) (BranchInfo, error) {
		m, _, err := s.readBranch(ctx, BranchID(id))
		if err == nil && (m.Deleted.IsZero() || !m.Gone.IsZero()) {
			err = ErrNotFound // it is back, or gone for good
		}
		if err != nil {
			return BranchInfo{ID: BranchID(id), Project: project, Err: err}, err
		}
		return m.info(), nil
	})
}

// UndeleteBranch brings a deleted branch back under a name, the one that it had if name
// is empty. A call that was cut short is ended by the next one.
func (s *Store) UndeleteBranch(ctx context.Context, id BranchID, name string) (BranchInfo, error) {
	fail := func(err error) (BranchInfo, error) {
		return BranchInfo{}, fmt.Errorf("bring back branch %s: %w", id, err)
	}
	m, _, err := s.readBranch(ctx, id)
	if err != nil {
		return fail(err)
	}
	if name == "" {
		name = m.Name
	}
	if err := CheckName(name); err != nil {
		return BranchInfo{}, err
	}
	if _, err := s.Project(ctx, m.Project); err != nil {
		return fail(err)
	}
	if m.Deleted.IsZero() {
		// Unless a call was cut short, it has a name.
		if named, err := s.resolve(ctx, m.Project, m.Name); err == nil && named == id {
			return fail(fmt.Errorf("it was not deleted: it is %s/%s: %w", m.Project, m.Name, ErrExists))
		}
	}
	named, err := s.resolve(ctx, m.Project, name)
	if err == nil && named != id {
		err = s.checkFree(ctx, m.Project, name) // it may be that of another deletion
	}
	if err != nil && !errors.Is(err, ErrNotFound) {
		return fail(err)
	}
	when, old := m.Deleted, m.Name
	m, err = s.updateBranch(ctx, id, func(m *manifest) error {
		if !m.Gone.IsZero() {
			return fmt.Errorf("it was deleted at %s, too long ago: %w", timeText(m.Deleted), ErrNotFound)
		}
		m.Deleted, m.Name = time.Time{}, name
		m.Expires, m.Throwaway = time.Time{}, "" // or it would go again at once
		return nil
	})
	if err != nil {
		return fail(err)
	}
	if err := s.claimName(ctx, m.Project, name, id); err != nil {
		// Somebody else was quicker with the name.
		_, uerr := s.updateBranch(ctx, id, func(m *manifest) error {
			m.Deleted, m.Name = when, old
			return nil
		})
		return fail(errors.Join(err, uerr))
	}
	if err := s.objects.Delete(ctx, deletedKey(m.Project, id)); err != nil {
		return fail(err)
	}
	return m.info(), nil
}
