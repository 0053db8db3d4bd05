package cow

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/bough-db/bough/objstore"
	"github.com/bough-db/bough/wal"
	"golang.org/x/sync/errgroup"
)

// A manifest stays small however many packs its log has: it names the newest itself,
// and immutable lists of all others. Only packs that have been cleaned are in lists:
// nothing more happens to them, until they are packed again.
const (
	// packsInline is how many packs a manifest names itself, once they are cleaned.
	packsInline = 16
	// packListMax is how many packs one list has at most.
	packListMax = 2048
	// packListsSmall is how many lists of less than half of that may follow each
	// other before they become one.
	packListsSmall = 8
	packListKind   = "packs"
)

// packListRef is a list of packs as the manifest names it.
type packListRef struct {
	From  wal.SegmentNo `json:"from"` // segments that its packs stand for
	To    wal.SegmentNo `json:"to"`
	Gen   uint64        `json:"gen"`
	Count int           `json:"count"` // of packs
	Next  wal.Seq       `json:"next"`  // the greatest of theirs
}

// packList is a list of packs.
type packList struct {
	Log   BranchID  `json:"log"`
	Gen   uint64    `json:"gen"`
	Packs []packRef `json:"packs"`
}

func packListPrefix(id BranchID) string { return branchPrefix + string(id) + "/packs/" }

func (r *packListRef) key(id BranchID) string {
	return fmt.Sprintf("%s%012d-%012d.%d", packListPrefix(id), r.From, r.To, r.Gen)
}

// layoutOf returns where the blocks and checkpoints of the manifest's log are.
func (s *Store) layoutOf(ctx context.Context, m *manifest) (*layout, error) {
	if len(m.PackLists) == 0 {
		return &layout{log: m.ID, packs: m.Packs}, nil
	}
	lists := make([][]packRef, len(m.PackLists))
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(gatherMax)
	for i := range m.PackLists {
		g.Go(func() (err error) {
			lists[i], err = s.readPackList(gctx, m.ID, &m.PackLists[i])
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	l := &layout{log: m.ID, packs: slices.Concat(append(lists, m.Packs)...)}
	slices.SortFunc(l.packs, func(a, b packRef) int { return cmp.Compare(a.From, b.From) })
	if err := checkPackRefs(m.ID, l.packs); err != nil {
		return nil, err
	}
	return l, nil
}

// noteLayout remembers what a manifest, which was just read, says of its log.
func (s *Store) noteLayout(m *manifest) {
	if len(m.PackLists) > 0 {
		s.layouts.Remove(m.ID) // whoever needs it reads the lists
		return
	}
	s.layouts.Add(m.ID, &layout{log: m.ID, packs: m.Packs})
}

// readPackList reads a list of packs. It never changes, so that it is read once.
func (s *Store) readPackList(ctx context.Context, id BranchID, r *packListRef) ([]packRef, error) {
	key := r.key(id)
	if packs, ok := s.packLists.Get(key); ok {
		return packs, nil
	}
	var list packList
	_, err := s.readRecord(ctx, packListKind, key, &list)
	if err != nil {
		return nil, fmt.Errorf("read list of packs %s: %w", key, err)
	}
	n := len(list.Packs)
	if list.Log != id || list.Gen != r.Gen || n != r.Count || n == 0 || list.Packs[0].From != r.From || list.Packs[n-1].To != r.To {
		return nil, fmt.Errorf("list of packs %s is not as the manifest says: %w", key, ErrCorrupt)
	}
	s.packLists.Add(key, list.Packs)
	return list.Packs, nil
}

// packListsMax is how many lists of packs are kept in memory.
const packListsMax = 256

// packedUpTo returns the last segment that a pack stands for.
func (m *manifest) packedUpTo() (last wal.SegmentNo) {
	for i := range m.PackLists {
		last = max(last, m.PackLists[i].To)
	}
	if n := len(m.Packs); n > 0 {
		last = max(last, m.Packs[n-1].To)
	}
	return last
}

func checkPackRefs(id BranchID, packs []packRef) error {
	var last wal.SegmentNo
	for i := range packs {
		r := &packs[i]
		if r.From <= last || r.To < r.From || r.Gen == 0 || r.First == 0 || r.Last < r.First || r.Next <= r.Last {
			return fmt.Errorf("manifest of %s: pack of segments %d to %d after %d: %w", id, r.From, r.To, last, ErrCorrupt)
		}
		last = r.To
	}
	return nil
}

// setPacks makes the manifest name the packs, which are all of its log's, by number.
// Lists that it has to put carry the generation gen: that of a claim which the
// manifest in the store has, and this one has not. So a list is always named, by one
// or the other.
func (s *Store) setPacks(ctx context.Context, m *manifest, packs []packRef, gen uint64) error {
	kept := m.keptLists(packs, func(r *packListRef) []packRef {
		list, _ := s.packLists.Get(r.key(m.ID)) // layoutOf has read it
		return list
	})
	m.PackLists, m.Packs = nil, nil
	for len(packs) > 0 {
		if len(kept) > 0 && kept[0].From == packs[0].From {
			m.PackLists = append(m.PackLists, kept[0])
			packs, kept = packs[kept[0].Count:], kept[1:]
			continue
		}
		n := 0
		for n < len(packs) && (len(kept) == 0 || packs[n].From < kept[0].From) {
			n++
		}
		if err := s.spill(ctx, m, packs[:n], gen, len(kept) == 0); err != nil {
			return err
		}
		packs = packs[n:]
	}
	return nil
}

// keptLists returns the lists of the manifest that still are as they were: those whose
// packs are all among packs, less those that had better become one.
func (m *manifest) keptLists(packs []packRef, read func(*packListRef) []packRef) (kept []packListRef) {
	for i := range m.PackLists {
		r := &m.PackLists[i]
		at, ok := slices.BinarySearchFunc(packs, r.From, func(p packRef, n wal.SegmentNo) int { return cmp.Compare(p.From, n) })
		list := read(r)
		if ok && len(list) == r.Count && at+r.Count <= len(packs) &&
			slices.EqualFunc(list, packs[at:at+r.Count], func(a, b packRef) bool { return a == b }) {
			kept = append(kept, *r)
		}
	}
	small := 0
	for i := len(kept) - 1; i >= 0 && kept[i].Count < packListMax/2; i-- {
		small++
	}
	if small >= packListsSmall {
		kept = kept[:len(kept)-small]
	}
	return kept
}

// spill adds packs to the manifest that no list has: to new lists, but for those that
// are not cleaned, and the newest.
func (s *Store) spill(ctx context.Context, m *manifest, packs []packRef, gen uint64, newest bool) error {
	for len(packs) > 0 {
		n := 0
		for n < len(packs) && n < packListMax && packs[n].Cleaned {
			n++
		}
		if newest {
			n = min(n, max(len(packs)-packsInline, 0))
		}
		if n < packsInline {
			n = max(n, 1) // too few for a list
			m.Packs = append(m.Packs, packs[:n]...)
			packs = packs[n:]
			continue
		}
		r := packListRef{From: packs[0].From, To: packs[n-1].To, Gen: gen, Count: n}
		for i := range packs[:n] {
			r.Next = max(r.Next, packs[i].Next)
		}
		if err := s.putPackList(ctx, m.ID, &r, packs[:n]); err != nil {
			return err
		}
		m.PackLists = append(m.PackLists, r)
		packs = packs[n:]
	}
	return nil
}

func (s *Store) putPackList(ctx context.Context, id BranchID, r *packListRef, packs []packRef) error {
	data, err := encodeRecord(packListKind, &packList{Log: id, Gen: r.Gen, Packs: packs})
	if err != nil {
		return err
	}
	key := r.key(id)
	if _, err := s.objects.Put(ctx, key, data, objstore.Condition{IfAbsent: true}); err != nil {
		now, _, rerr := s.objects.Get(ctx, key)
		if rerr != nil {
			return fmt.Errorf("put list of packs %s: %w", key, err)
		}
		if !bytes.Equal(now, data) {
			return errors.Join(errOvertaken, err)
		}
	}
	s.packLists.Add(key, slices.Clone(packs))
	return nil
}
