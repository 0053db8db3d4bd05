package cow

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/bough-db/bough/objstore"
	"github.com/bough-db/bough/wal"
)

// point names one barrier in the log of one branch: the one numbered Seq, which
// lies in segment Segment. Segment 0 is the state before the log's first
// segment: the branch's own fork point.
type point struct {
	Log     BranchID      `json:"log,omitempty"`
	Segment wal.SegmentNo `json:"segment"`
	Seq     wal.Seq       `json:"seq"`
}

// manifest is the record of one branch. It is replaced only with If-Match, and
// Generation grows with each replacement, so that equal contents never have
// equal tags.
type manifest struct {
	Generation uint64 `json:"generation"`
	Nonce      nonce  `json:"nonce"`

	ID      BranchID  `json:"id"`               // of the log
	Branch  BranchID  `json:"branch,omitempty"` // that it is the log of; empty: the same id
	Next    BranchID  `json:"next,omitempty"`   // the log that the branch goes on in
	Project string    `json:"project"`
	Name    string    `json:"name"`
	Created time.Time `json:"created"`
	Deleted time.Time `json:"deleted,omitzero"`
	Size    int64     `json:"size"` // of the device, bytes

	// Parent is the branch that this one was made from; its data begins as it
	// was at Fork, which may lie in the log of an older ancestor. Both are
	// empty for a branch that began empty.
	Parent BranchID `json:"parent,omitempty"`
	Fork   moment   `json:"fork,omitzero"`
	// Lineage has the logs that addresses of this branch can name, by index,
	// the branch's own last.
	Lineage []BranchID `json:"lineage"`

	// Epoch counts the writers. Host is who has the branch attached, or had
	// it last; Clean says that it detached, with the log ending at Head.
	Epoch uint64 `json:"epoch"`
	Host  string `json:"host,omitempty"`
	Clean bool   `json:"clean"`
	Head  moment `json:"head"`

	// Durability is what flushes wait for; empty means local. When it is remote,
	// the store has every flush that returned.
	Durability Durability `json:"durability,omitempty"`

	// Gone is when the branch, deleted before, could come back no more. Doom says that
	// it is about to be removed.
	Gone time.Time `json:"gone,omitzero"`
	Doom *doom     `json:"doom,omitempty"`

	// Packs stand for segments of the log, in order, and so do those of PackLists; see
	// layout. Claims are packs that a collection is making, and Replaced those that it
	// has put out of use.
	Packs     []packRef     `json:"packs,omitempty"`
	PackLists []packListRef `json:"pack_lists,omitempty"`
	Claims    []packClaim   `json:"claims,omitempty"`
	Replaced  []packRef     `json:"replaced,omitempty"`

	// Retention says which barriers stay. Default: what the project says.
	Retention *Retention `json:"history,omitempty"`

	// Protected says that the branch may neither be deleted nor restored. It is
	// deleted by itself after Expires.
	Protected bool      `json:"protected,omitempty"`
	Expires   time.Time `json:"expires,omitzero"`
	// Throwaway is the host that made the branch for one use; empty: none.
	Throwaway string `json:"throwaway,omitempty"`
	// Restored is how the branch came to begin where it does, if it was restored.
	Restored *restored `json:"restored,omitempty"`

	// Snapshots are named barriers, by name, and Dropped the last ones deleted.
	Snapshots []snapshot `json:"snapshots,omitempty"`
	Dropped   []snapshot `json:"dropped,omitempty"`

	// Settings are not ours: the layers above keep theirs here.
	Settings json.RawMessage `json:"settings,omitempty"`
}

const manifestKind = "manifest"

// own is the branch's index in its lineage.
func (m *manifest) own() uint16 { return uint16(len(m.Lineage) - 1) }

func (m *manifest) check(id BranchID) error {
	if m.ID != id || len(m.Lineage) == 0 || len(m.Lineage) > lineageMax || m.Lineage[len(m.Lineage)-1] != id {
		return fmt.Errorf("manifest of %s names %s: %w", id, m.ID, ErrCorrupt)
	}
	if m.Size <= 0 || m.Size%BlockSize != 0 || m.Size/BlockSize > MaxBlocks {
		return fmt.Errorf("manifest of %s: size %d: %w", id, m.Size, ErrCorrupt)
	}
	if err := m.durability().Check(); err != nil {
		return fmt.Errorf("manifest of %s: %w: %w", id, err, ErrNewerFormat)
	}
	for _, l := range m.Lineage {
		if err := checkBranchID(l); err != nil {
			return fmt.Errorf("manifest of %s: %w", id, err)
		}
	}
	return m.checkPacks()
}

// readManifest returns the branch's manifest and its version tag.
func (s *Store) readManifest(ctx context.Context, id BranchID) (*manifest, string, error) {
	if err := checkBranchID(id); err != nil {
		return nil, "", err
	}
	m := &manifest{}
	tag, err := s.readRecord(ctx, manifestKind, manifestKey(id), m)
	if isNotExist(err) {
		return nil, "", fmt.Errorf("branch %s: %w", id, ErrNotFound)
	}
	if err == nil {
		err = m.check(id)
	}
	if err != nil {
		return nil, "", fmt.Errorf("read manifest of %s: %w", id, err)
	}
	return m, tag, nil
}

// putManifest stores a manifest under the condition and returns its new tag. An
// answer that leaves open what happened is settled by reading the object back.
func (s *Store) putManifest(ctx context.Context, m *manifest, cond objstore.Condition) (string, error) {
	m.Generation++
	var err error
	if m.Nonce, err = newNonce(s.random); err != nil {
		return "", err
	}
	data, err := encodeRecord(manifestKind, m)
	if err != nil {
		return "", err
	}
	tag, err := s.objects.Put(ctx, manifestKey(m.ID), data, cond)
	if err == nil {
		return tag, nil
	}
	if now, t, rerr := s.readManifest(ctx, m.ID); rerr == nil && now.Nonce == m.Nonce {
		return t, nil
	}
	return "", fmt.Errorf("write manifest of %s: %w", m.ID, err)
}

// updateManifest changes the branch's manifest, again from the start when
// somebody else changed it meanwhile. change returns an error to give up.
func (s *Store) updateManifest(ctx context.Context, id BranchID, change func(*manifest) error) (*manifest, error) {
	m, tag, err := s.readManifest(ctx, id)
	if err != nil {
		return nil, err
	}
	return s.changeManifest(ctx, m, tag, change)
}

// changeManifest is updateManifest for who has read the manifest already.
func (s *Store) changeManifest(ctx context.Context, m *manifest, tag string, change func(*manifest) error) (*manifest, error) {
	for {
		if err := change(m); err != nil {
			return nil, err
		}
		_, err := s.putManifest(ctx, m, objstore.Condition{IfMatch: tag})
		if err == nil {
			return m, nil
		}
		if !errors.Is(err, objstore.ErrMismatch) {
			return nil, err
		}
		if m, tag, err = s.readManifest(ctx, m.ID); err != nil {
			return nil, err
		}
	}
}
