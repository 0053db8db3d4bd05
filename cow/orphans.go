package cow

import (
	"context"
	"fmt"
	"maps"
	"slices"

	"github.com/bough-db/bough/objstore"
)

// Orphan is an object below the store's branches that no branch needs. It does no harm,
// and a collection deletes it, most of them when their time of grace is over.
type Orphan struct {
	Object string `json:"object"` // its key
	Bytes  int64  `json:"bytes"`
	Detail string `json:"detail"` // why nothing needs it, one line
}

// Orphans calls f with the objects that nothing needs, by branch. It lists all objects,
// and reads no data. A branch that can not be read is passed over: see Check.
func (s *Store) Orphans(ctx context.Context, f func(Orphan)) error {
	s.collectMu.Lock()
	defer s.collectMu.Unlock()
	c, err := s.newCollector(CollectOptions{})
	if err == nil {
		err = c.cat.refresh(ctx, s)
	}
	if err != nil {
		return fmt.Errorf("look for orphans: %w", err)
	}
	for _, id := range c.cat.ids() {
		if err := c.orphansOf(ctx, id, f); ctx.Err() != nil {
			return ctx.Err()
		} else if err != nil {
			s.log.Info("orphans of a branch not looked for", "branch", id, "err", err)
		}
	}
	err = c.nameless(ctx, func(i objstore.Info) error {
		f(Orphan{i.Key, i.Size, "there is no such branch"})
		return nil
	})
	if err != nil {
		return fmt.Errorf("look for orphans: %w", err)
	}
	return nil
}

// orphansOf finds those of one log.
func (c *collector) orphansOf(ctx context.Context, id BranchID, f func(Orphan)) error {
	v, err := c.view(ctx, id)
	if err != nil {
		return err
	}
	if v.m.Epoch > 0 {
		if err := c.findHead(ctx, v); err != nil {
			return err
		}
	}
	if err := c.strayPacks(ctx, v, f); err != nil {
		return err
	}
	fences := map[objectID]*pack{}
	for _, g := range v.segs {
		r := v.at.pack(g.n)
		if r == nil {
			if g.n <= v.head.Segment {
				continue
			}
			// Of a writer that lives on it may be the next one.
			if ft, err := c.s.readFooter(ctx, id, g.n, false); err == nil && ft.head.Epoch < v.epoch {
				f(Orphan{segmentKey(id, g.n), g.size, "its writer had lost the branch, the log ends before it"})
			}
			continue
		}
		at := r.id(id)
		if fences[at] == nil {
			if fences[at], err = c.s.readPack(ctx, at, false); err != nil {
				return err
			}
		}
		if !slices.Contains(fences[at].fences, g.n) {
			f(Orphan{segmentKey(id, g.n), g.size, "a pack stands for it"})
		}
	}
	for _, g := range v.ckpts {
		if v.at.pack(g.n) != nil {
			f(Orphan{checkpointKey(id, g.n), g.size, "a pack stands for it"})
		}
	}
	return nil
}

// strayPacks finds packs, and lists of packs, that are not in use.
func (c *collector) strayPacks(ctx context.Context, v *logView, f func(Orphan)) error {
	known, err := c.s.namedPacks(ctx, v.m)
	if err != nil {
		return err
	}
	for i := range v.m.Replaced {
		delete(known, v.m.Replaced[i].id(v.m.ID).key())
	}
	for _, key := range slices.Sorted(maps.Keys(v.packs)) {
		if !known[key] && !v.m.claimsList(key) {
			f(Orphan{key, v.packs[key], "it is not in use any more, or never was"})
		}
	}
	return nil
}
