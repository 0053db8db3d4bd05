package cow

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/bough-db/bough/wal"
)

// clean deletes what a log's packs stand for, and packs that are not in use any more,
// once their time of grace is over.
func (c *collector) clean(ctx context.Context, v *logView) error {
	if err := c.dropClaims(ctx, v); err != nil {
		return err
	}
	for i := range v.at.packs {
		if err := c.cleanPack(ctx, v, &v.at.packs[i]); err != nil {
			return err
		}
	}
	if err := c.dropReplaced(ctx, v); err != nil {
		return err
	}
	return c.dropUnnamed(ctx, v)
}

// dropClaims gives up claims of collections that seem to have died.
func (c *collector) dropClaims(ctx context.Context, v *logView) error {
	stale := func(r packClaim) bool { return c.s.now().Sub(r.Since) > claimStale }
	if c.o.DryRun || !slices.ContainsFunc(v.m.Claims, stale) {
		return nil
	}
	m, err := c.s.updateManifest(ctx, v.m.ID, func(m *manifest) error {
		m.Claims = slices.DeleteFunc(m.Claims, stale)
		return nil
	})
	if err == nil {
		v.m = m
	}
	return err
}

// over tells whether the time of grace of something is over.
func (c *collector) over(since time.Time) bool { return c.s.now().Sub(since) >= c.o.Grace }

// cleanPack deletes what a pack stands for.
func (c *collector) cleanPack(ctx context.Context, v *logView, r *packRef) error {
	in := func(g numbered) bool { return g.n >= r.From && g.n <= r.To }
	var segs, ckpts int
	for _, g := range v.segs {
		if in(g) {
			segs++
		}
	}
	for _, g := range v.ckpts {
		if in(g) {
			ckpts++
		}
	}
	if r.Cleaned && segs <= r.Fences && ckpts == 0 {
		return nil
	}
	if c.o.DryRun || !c.over(r.Since) {
		c.rep.Waiting += segs + ckpts - r.Fences
		return nil
	}
	p, err := c.verify(ctx, v.m.ID, r)
	if err != nil {
		return err
	}
	// Is it still in use? If not it is as good as what is: both stand for these.
	m, _, err := c.s.readManifest(ctx, v.m.ID)
	if err != nil {
		return err
	}
	now, err := c.s.layoutOf(ctx, m)
	if err != nil {
		return err
	}
	if now.holder(m.ID, r.From) != r.id(m.ID) {
		return errOvertaken
	}
	for _, g := range v.segs {
		if in(g) && !slices.Contains(p.fences, g.n) {
			if err := c.delete(ctx, segmentKey(m.ID, g.n), g.size); err != nil {
				return err
			}
		}
	}
	for _, g := range v.ckpts {
		if in(g) {
			if err := c.delete(ctx, checkpointKey(m.ID, g.n), g.size); err != nil {
				return err
			}
		}
	}
	if r.Cleaned {
		return nil
	}
	_, err = c.s.updateManifest(ctx, m.ID, func(m *manifest) error {
		for i := range m.Packs {
			if m.Packs[i].id(m.ID) == r.id(m.ID) {
				m.Packs[i].Cleaned = true
			}
		}
		return nil
	})
	return err
}

func (c *collector) delete(ctx context.Context, key string, size int64) error {
	if err := c.s.objects.Delete(ctx, key); err != nil {
		return fmt.Errorf("delete %s: %w", key, err)
	}
	c.rep.Deleted++
	c.rep.Freed += size
	return nil
}

// dropReplaced deletes packs that others have replaced.
func (c *collector) dropReplaced(ctx context.Context, v *logView) error {
	var gone []objectID
	for i := range v.m.Replaced {
		r := &v.m.Replaced[i]
		if c.o.DryRun || !c.over(r.Since) {
			c.rep.Waiting++
			continue
		}
		key := r.id(v.m.ID).key()
		if err := c.delete(ctx, key, v.packs[key]); err != nil {
			return err
		}
		gone = append(gone, r.id(v.m.ID))
	}
	if len(gone) == 0 {
		return nil
	}
	_, err := c.s.updateManifest(ctx, v.m.ID, func(m *manifest) error {
		m.Replaced = slices.DeleteFunc(m.Replaced, func(r packRef) bool { return slices.Contains(gone, r.id(m.ID)) })
		return nil
	})
	return err
}

// dropUnnamed deletes packs that the manifest does not speak of: it does before one is
// put, and for as long as anybody may read it.
func (c *collector) dropUnnamed(ctx context.Context, v *logView) error {
	known, err := c.s.namedPacks(ctx, v.m)
	if err != nil {
		return err
	}
	if !slices.ContainsFunc(slices.Collect(maps.Keys(v.packs)), func(k string) bool { return !known[k] }) {
		return nil
	}
	// The manifest was read before the packs were listed: now it is the other way.
	m, _, err := c.s.readManifest(ctx, v.m.ID)
	if err != nil {
		return err
	}
	if known, err = c.s.namedPacks(ctx, m); err != nil {
		return err
	}
	for _, key := range slices.Sorted(maps.Keys(v.packs)) {
		if known[key] || m.claimsList(key) {
			continue
		}
		if c.o.DryRun {
			c.rep.Waiting++
			continue
		}
		if err := c.delete(ctx, key, v.packs[key]); err != nil {
			return err
		}
	}
	return nil
}

// namedPacks returns the keys of the packs, and of the lists of packs, that a manifest
// speaks of.
func (s *Store) namedPacks(ctx context.Context, m *manifest) (map[string]bool, error) {
	all := map[string]bool{}
	l, err := s.layoutOf(ctx, m)
	if err != nil {
		return nil, err
	}
	for _, list := range [][]packRef{l.packs, m.Replaced} {
		for i := range list {
			all[list[i].id(m.ID).key()] = true
		}
	}
	for i := range m.PackLists {
		all[m.PackLists[i].key(m.ID)] = true
	}
	for i := range m.Claims {
		all[m.Claims[i].id(m.ID).key()] = true
	}
	return all, nil
}

// claimsList tells whether the object is a list of packs that a collection puts which
// has claims.
func (m *manifest) claimsList(key string) bool {
	if !strings.HasPrefix(key, packListPrefix(m.ID)) {
		return false
	}
	return slices.ContainsFunc(m.Claims, func(c packClaim) bool { return strings.HasSuffix(key, fmt.Sprintf(".%d", c.Gen)) })
}

// verify reads a whole pack back from the store, before what it stands for is
// deleted.
func (c *collector) verify(ctx context.Context, id BranchID, r *packRef) (*pack, error) {
	p, err := c.s.readPack(ctx, r.id(id), true)
	if err != nil {
		return nil, err
	}
	key := r.id(id).key()
	wrong := func(what string) error { return fmt.Errorf("pack %s: %s: %w", key, what, ErrCorrupt) }
	if h := p.head; h.First != r.First || h.Last != r.Last || h.Next != r.Next || p.index.blocks() != r.Blocks {
		return nil, wrong("it is not as the manifest says")
	}
	for i := range p.batches {
		for _, e := range p.batches[i].Entries {
			if e.Kind != wal.KindData {
				continue
			}
			for j := range e.Count {
				if _, _, ok := p.index.find(e.Segment, e.Slot+wal.Slot(j)); !ok {
					return nil, wrong("a block is in no frame")
				}
			}
		}
	}
	var ranges []byteRange
	for _, f := range p.index.frames {
		ranges = append(ranges, byteRange{f.off, f.size, func(b []byte) error {
			_, err := decodeFrame(c.s.zr, f, b, c.frame[:0])
			return err
		}})
	}
	for _, g := range p.pages {
		seed := pageSeed(id, g.ckpt)
		ranges = append(ranges, byteRange{g.at, g.n, func(b []byte) error { return checkPage(b, int(g.n), seed) }})
	}
	return p, c.readRanges(ctx, key, ranges)
}
