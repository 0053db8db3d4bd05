package cow

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/bough-db/bough/wal"
)

// packRef is a pack as the manifest of its log names it.
type packRef struct {
	From  wal.SegmentNo `json:"from"` // segments that it stands for
	To    wal.SegmentNo `json:"to"`
	Gen   uint64        `json:"gen"`
	First wal.Seq       `json:"first"` // barriers of those segments
	Last  wal.Seq       `json:"last"`
	Next  wal.Seq       `json:"next"` // see packHead
	// FirstTime and LastTime are those of the barriers First and Last.
	FirstTime time.Time     `json:"first_time"`
	LastTime  time.Time     `json:"last_time"`
	Kept      int           `json:"kept"`      // barriers that can still be opened
	LastRoot  wal.SegmentNo `json:"last_root"` // its newest checkpoint; 0: none
	Fences    int           `json:"fences"`    // of the segments; they stay
	Bytes     int64         `json:"bytes"`     // of the object
	Data      int64         `json:"data"`      // bytes of them, of the blocks
	Blocks    int           `json:"blocks"`    // in it
	Source    int64         `json:"source"`    // bytes of the segments that it stands for
	Written   int64         `json:"written"`   // bytes of all packs that were ever made of them
	// Since is when the manifest came to name it like this.
	Since time.Time `json:"since"`
	// Cleaned says that what it stands for has been deleted.
	Cleaned bool `json:"cleaned,omitempty"`
}

// packClaim is a pack that a collection is making. Before it is Pending only its
// numbers are known. Whoever removes a claim ends that collection's hopes of it.
type packClaim struct {
	packRef
	Host    string `json:"host"`
	Pending bool   `json:"pending,omitempty"`
}

func (r *packRef) id(log BranchID) objectID { return objectID{log, r.From, r.To, r.Gen} }

// hides tells whether the pack may have left out what the barrier needs: whether it
// has, only the pack itself can say.
func (r *packRef) hides(seq wal.Seq) bool { return seq >= r.First && seq < r.Next }

func (m *manifest) checkPacks() error {
	var last wal.SegmentNo
	for i := range m.PackLists {
		r := &m.PackLists[i]
		if r.From <= last || r.To < r.From || r.Count <= 0 || r.Count > packListMax {
			return fmt.Errorf("manifest of %s: list of packs of segments %d to %d after %d: %w", m.ID, r.From, r.To, last, ErrCorrupt)
		}
		last = r.To
	}
	return checkPackRefs(m.ID, m.Packs)
}

// layout is where the blocks and checkpoints of a log are: those of segments that a
// pack stands for in the pack, all others in objects of their own.
type layout struct {
	log   BranchID
	packs []packRef // by number
}

// pack returns the pack that stands for the segment, or nil.
func (l *layout) pack(seg wal.SegmentNo) *packRef {
	if l == nil {
		return nil
	}
	i, _ := slices.BinarySearchFunc(l.packs, seg, func(r packRef, n wal.SegmentNo) int { return int(int64(r.To) - int64(n)) })
	if i == len(l.packs) || l.packs[i].From > seg {
		return nil
	}
	return &l.packs[i]
}

// holder returns the object that holds the blocks of the segment.
func (l *layout) holder(log BranchID, seg wal.SegmentNo) objectID {
	if r := l.pack(seg); r != nil {
		return r.id(log)
	}
	return segmentID(log, seg)
}

// keeps tells whether a barrier of the log can be opened: it can unless a pack has
// left out what only it needs.
func (s *Store) keeps(ctx context.Context, log BranchID, packs []packRef, seq wal.Seq) (bool, error) {
	for i := range packs {
		r := &packs[i]
		if !r.hides(seq) {
			continue
		}
		if seq > r.Last {
			return false, nil
		}
		p, err := s.readPack(ctx, r.id(log), true)
		if err != nil || !p.keeps(seq) {
			return false, err
		}
	}
	return true, nil
}

// available returns ErrNotKept unless the barrier of the log can be the beginning of a
// branch, or be named by a snapshot. A pack that has left it out must not even be
// pending. m is read after whatever names the barrier has been put: see packClaim.
func (s *Store) available(ctx context.Context, m *manifest, seq wal.Seq) error {
	l, err := s.layoutOf(ctx, m)
	if err != nil {
		return err
	}
	packs := l.packs
	for i := range m.Claims {
		if m.Claims[i].Pending {
			packs = append(packs[:len(packs):len(packs)], m.Claims[i].packRef)
		}
	}
	ok, err := s.keeps(ctx, m.ID, packs, seq)
	if err == nil && !ok {
		err = fmt.Errorf("barrier %d of %s: %w", seq, m.ID, ErrNotKept)
	}
	return err
}

// checkKept returns ErrNotKept unless the barrier can be opened.
func (s *Store) checkKept(ctx context.Context, l *layout, seq wal.Seq) error {
	ok, err := s.keeps(ctx, l.log, l.packs, seq)
	if err == nil && !ok {
		err = fmt.Errorf("barrier %d of %s: %w", seq, l.log, ErrNotKept)
	}
	return err
}

// piece is a part of a log: one segment, or those that a pack stands for.
type piece struct {
	from, to wal.SegmentNo
	pack     *packRef // nil: a segment
}

// piece returns the one that has the segment.
func (l *layout) piece(n wal.SegmentNo) piece {
	if r := l.pack(n); r != nil {
		return piece{r.From, r.To, r}
	}
	return piece{from: n, to: n}
}

// same tells whether both have the same packs.
func (l *layout) same(o *layout) bool {
	return slices.EqualFunc(l.packs, o.packs, func(a, b packRef) bool { return a.From == b.From && a.To == b.To && a.Gen == b.Gen })
}

// knownLayout returns what this process remembers of a log's layout, nil if nothing. It
// may be out of date: whoever meets an object that is not there asks loadLayout.
func (s *Store) knownLayout(log BranchID) *layout {
	l, _ := s.layouts.Get(log)
	return l
}

// layoutsMax is how many layouts are kept in memory.
const layoutsMax = 1024

// relocations is how often a reader looks again for what a collection has moved:
// while it looks, that may have been moved once more.
const relocations = 4

// loadLayout reads a log's layout from the store.
func (s *Store) loadLayout(ctx context.Context, log BranchID) (*layout, error) {
	for i := 0; ; i++ {
		m, _, err := s.readManifest(ctx, log)
		if err != nil {
			return nil, err
		}
		l, err := s.layoutOf(ctx, m)
		if err == nil {
			s.layouts.Add(log, l)
		}
		if !isNotExist(err) || i == relocations {
			return l, err
		}
	}
}

// currentLayout is layoutOf for a manifest that may be out of date.
func (s *Store) currentLayout(ctx context.Context, m *manifest) (*layout, error) {
	l, err := s.layoutOf(ctx, m)
	if isNotExist(err) {
		return s.loadLayout(ctx, m.ID)
	}
	return l, err
}

// readIndex returns where the blocks of a segment are.
func (s *Store) readIndex(ctx context.Context, log BranchID, seg wal.SegmentNo) (*blockIndex, error) {
	l := s.knownLayout(log)
	for i := 0; ; i++ {
		at := l.holder(log, seg)
		ix, err := s.objectIndex(ctx, at)
		if err == nil || i == relocations || !isNotExist(err) {
			return ix, err
		}
		// Its branch may have left it on disk when it was closed, or a collection
		// has moved it.
		left, perr := s.pickUp(ctx, log)
		now, lerr := s.loadLayout(ctx, log)
		if lerr != nil && !errors.Is(lerr, ErrNotFound) {
			return nil, lerr
		}
		if now.holder(log, seg) == at && (!left || perr != nil) {
			return nil, s.blameJournals([]BranchID{log}, cmp.Or(perr, err))
		}
		l = now
	}
}

// objectIndex returns where the blocks of an object are.
func (s *Store) objectIndex(ctx context.Context, at objectID) (*blockIndex, error) {
	if ix, ok := s.indexes.Get(at); ok {
		return ix, nil
	}
	return s.indexFlights.do(ctx, at, func(ctx context.Context) (*blockIndex, error) {
		if ix, ok := s.indexes.Get(at); ok {
			return ix, nil
		}
		var ix *blockIndex
		if at.gen == 0 {
			f, err := s.readFooter(ctx, at.log, at.from, false)
			if err != nil {
				return nil, err
			}
			ix = &f.index
		} else {
			p, err := s.readPack(ctx, at, false)
			if err != nil {
				return nil, err
			}
			ix = &p.index
		}
		ix.object = at
		s.indexes.Add(at, ix)
		return ix, nil
	})
}

// packPages returns the pages that a pack has. They are kept apart from its blocks:
// who reads pages reads many.
func (s *Store) packPages(ctx context.Context, at objectID) (packPages, error) {
	if g, ok := s.packedPages.Get(at); ok {
		return g, nil
	}
	p, err := s.readPack(ctx, at, false)
	if err != nil {
		return nil, err
	}
	s.packedPages.Add(at, p.pages)
	return p.pages, nil
}

// packedPagesMax is of how many packs the pages are known in memory: at most 384 KiB
// each.
const packedPagesMax = 64
