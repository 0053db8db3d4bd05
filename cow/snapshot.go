package cow

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	ask "github.com/bough-db/bough/cow/point"
)

// snapshot is a named barrier, as the branch's manifest has it. It may lie in the log
// of an ancestor, or in one that the branch left when it was restored.
type snapshot struct {
	Name    string    `json:"name"`
	Created time.Time `json:"created"`
	Deleted time.Time `json:"deleted,omitzero"` // of those that are remembered only
	moment
}

// SnapshotInfo describes a snapshot: a barrier with a name, which is kept whatever the
// branch's history is.
type SnapshotInfo struct {
	Name    string    `json:"name"`
	Created time.Time `json:"created"`
	Barrier           // that it names
}

func (sn *snapshot) info() SnapshotInfo {
	return SnapshotInfo{Name: sn.Name, Created: sn.Created, Barrier: sn.barrier()}
}

const (
	// SnapshotsMax is how many snapshots a branch can have.
	SnapshotsMax = 1000
	// droppedMax is how many deleted snapshots are remembered, so that whoever asks
	// for one learns where it was.
	droppedMax = 16
)

// CheckSnapshotName returns nil for a name that a snapshot may have: that of a branch,
// unless it means something as a point.
func CheckSnapshotName(name string) error {
	if err := CheckName(name); err != nil {
		return err
	}
	if p, err := ask.Parse(name, nil); err != nil || p.Kind != ask.Snapshot {
		return fmt.Errorf("%w %q: it means something else as a point", ErrInvalidName, name)
	}
	return nil
}

// find returns the place of a snapshot in the list, which is ordered by name.
func findSnapshot(all []snapshot, name string) (int, bool) {
	return slices.BinarySearchFunc(all, name, func(sn snapshot, name string) int { return strings.Compare(sn.Name, name) })
}

// CreateSnapshot names the barrier that the point names. The barrier stays for as long
// as the snapshot.
func (s *Store) CreateSnapshot(ctx context.Context, id BranchID, name string, p ask.Point) (SnapshotInfo, error) {
	if err := CheckSnapshotName(name); err != nil {
		return SnapshotInfo{}, err
	}
	fail := func(err error) (SnapshotInfo, error) {
		return SnapshotInfo{}, fmt.Errorf("create snapshot %q of branch %s: %w", name, id, err)
	}
	m, _, err := s.readBranch(ctx, id)
	if err != nil {
		return fail(err)
	}
	at, _, err := s.barrierAt(ctx, m, p)
	if err != nil {
		return fail(err)
	}
	sn := snapshot{Name: name, Created: s.now().UTC(), moment: at}
	_, err = s.updateBranch(ctx, id, func(m *manifest) error {
		i, taken := findSnapshot(m.Snapshots, name)
		switch {
		case !m.Deleted.IsZero():
			return ErrNotFound
		case taken && m.Snapshots[i].point == at.point && m.Snapshots[i].Created.Equal(sn.Created):
			return nil // by a call whose answer was lost
		case taken:
			return ErrExists
		case len(m.Snapshots) >= SnapshotsMax:
			return fmt.Errorf("%w snapshots: delete some of the %d", ErrTooMany, len(m.Snapshots))
		}
		m.Snapshots = slices.Insert(m.Snapshots, i, sn)
		return nil
	})
	if err != nil {
		return fail(err)
	}
	if err := s.confirm(ctx, at); err != nil {
		if derr := s.dropSnapshot(ctx, id, sn); derr != nil {
			err = fmt.Errorf("%w; and the snapshot stays: %w", err, derr)
		}
		return fail(err)
	}
	return sn.info(), nil
}

// dropSnapshot takes back a snapshot that did not come to be.
func (s *Store) dropSnapshot(ctx context.Context, id BranchID, sn snapshot) error {
	_, err := s.updateBranch(ctx, id, func(m *manifest) error {
		if i, ok := findSnapshot(m.Snapshots, sn.Name); ok && m.Snapshots[i].Created.Equal(sn.Created) {
			m.Snapshots = slices.Delete(m.Snapshots, i, i+1)
		}
		return nil
	})
	return err
}

// Snapshots returns the snapshots of a branch, by name.
func (s *Store) Snapshots(ctx context.Context, id BranchID) ([]SnapshotInfo, error) {
	m, _, err := s.readBranch(ctx, id)
	if err != nil {
		return nil, fmt.Errorf("list snapshots of branch %s: %w", id, err)
	}
	all := make([]SnapshotInfo, len(m.Snapshots))
	for i := range m.Snapshots {
		all[i] = m.Snapshots[i].info()
	}
	return all, nil
}

// DeleteSnapshot takes the name from a barrier, which from then on stays only if
// something else keeps it.
func (s *Store) DeleteSnapshot(ctx context.Context, id BranchID, name string) error {
	_, err := s.updateBranch(ctx, id, func(m *manifest) error {
		i, ok := findSnapshot(m.Snapshots, name)
		if !ok {
			return ErrNotFound
		}
		sn := m.Snapshots[i]
		sn.Deleted = s.now().UTC()
		m.Snapshots = slices.Delete(m.Snapshots, i, i+1)
		m.Dropped = append(slices.DeleteFunc(m.Dropped, func(d snapshot) bool { return d.Name == name }), sn)
		m.Dropped = m.Dropped[max(0, len(m.Dropped)-droppedMax):]
		return nil
	})
	if err != nil {
		return fmt.Errorf("delete snapshot %q of branch %s: %w", name, id, err)
	}
	return nil
}

// snapshot returns the barrier that a snapshot names.
func (r *resolver) snapshot(ctx context.Context, name string) (Barrier, error) {
	if i, ok := findSnapshot(r.m.Snapshots, name); ok {
		return r.m.Snapshots[i].barrier(), nil
	}
	for i := range r.m.Dropped {
		sn := &r.m.Dropped[i]
		if sn.Name != name {
			continue
		}
		near, err := r.lastOf(ctx, func(b *Barrier) bool { return b.Seq <= sn.Seq })
		if err == nil && near == nil {
			near, err = r.first(ctx)
		}
		if err != nil {
			return Barrier{}, err
		}
		return Barrier{}, r.fail(near, nil, "that snapshot, of barrier %d, was deleted at %s", sn.Seq, timeText(sn.Deleted))
	}
	if len(r.m.Snapshots) == 0 {
		return Barrier{}, r.fail(r.last, nil, "there is no such snapshot, nor any other")
	}
	return Barrier{}, r.fail(nil, nil, "there is no such snapshot; there is @%s", r.nearName(name))
}

// nearName returns the name of a snapshot next to where the name would be.
func (r *resolver) nearName(name string) string {
	i, _ := findSnapshot(r.m.Snapshots, name)
	return r.m.Snapshots[min(i, len(r.m.Snapshots)-1)].Name
}
