package cow

import (
	"context"
	"fmt"
)

// head checks the tree of the branch as it was at a barrier: that of the end of
// the log, or at if the branch is open, whose tree then is live.
func (c *checker) head(ctx context.Context, live *tree, at, end point) {
	m := c.now
	if live == nil {
		at.Seq = 0
	}
	l, err := c.s.load(ctx, m, at.Segment, at.Seq, gapsHappen)
	if ctx.Err() != nil {
		return
	}
	if err == nil {
		if live == nil && (l.at.Seq != end.Seq || l.at.Segment != end.Segment) {
			err = fmt.Errorf("it loads at barrier %d in segment %d, the log ends with %d in %d: %w",
				l.at.Seq, l.at.Segment, end.Seq, end.Segment, ErrCorrupt)
		}
	}
	if err != nil {
		c.damage(manifestKey(m.ID), fmt.Errorf("the branch does not open: %w", err), c.here())
	}
	switch {
	case l != nil:
		c.walk(ctx, &l.tree.root, topLevel, 0)
	case live != nil:
		c.walk(ctx, &live.root, topLevel, 0)
	default:
		c.walkNewest(ctx)
	}
	if l != nil && live != nil && !c.same(ctx, l.tree.root, live.root, topLevel, 0) && ctx.Err() == nil {
		c.damage(manifestKey(m.ID), fmt.Errorf("the tree in memory is not that of the log at barrier %d: %w", at.Seq, ErrCorrupt), c.here())
	}
}

// walkNewest walks the newest checkpoint that can be read of a branch that does
// not load: more may be wrong than what keeps it from loading.
func (c *checker) walkNewest(ctx context.Context) {
	all := c.numbers(ctx, checkpointPrefix(c.now.ID))
	for i := len(all) - 1; i >= 0; i-- {
		rec, err := c.s.readCheckpoint(ctx, c.now.ID, all[i])
		if err != nil {
			continue // listed already
		}
		root := ref{at: pageAddr{ckpt: rec.Root.Checkpoint, off: rec.Root.Offset, n: rec.Root.Bytes}}
		c.walk(ctx, &root, topLevel, 0)
		return
	}
}

// walk checks the node behind r and everything below, and tells whether it is
// whole. first is the first block that it maps.
func (c *checker) walk(ctx context.Context, r *ref, level uint8, first uint64) bool {
	if r.isHole() || ctx.Err() != nil {
		return true
	}
	n := r.n
	var key pageKey
	if n == nil {
		if int(r.at.log()) >= len(c.now.Lineage) {
			c.damage(manifestKey(c.now.ID), fmt.Errorf("its tree names a page in %v of %d logs: %w",
				r.at, len(c.now.Lineage), ErrCorrupt), c.blocks(first, levelBlocks(level)))
			return false
		}
		log := c.now.Lineage[r.at.log()]
		key = pageKey{log, r.at.ckpt & (1<<48 - 1), r.at.off}
		if c.whole.Contains(key) {
			return true
		}
		// From the store, not from the cache: that is what is in question.
		var err error
		if n, err = c.readPage(log, need{at: r.at, level: level, first: first}); err != nil {
			c.damage(checkpointKey(log, r.at.checkpoint()), fmt.Errorf("page at byte %d: %w", r.at.off, err),
				c.blocks(first, levelBlocks(level)))
			return false
		}
	}
	whole := true
	if level == 0 {
		for _, run := range n.leafRuns() {
			whole = c.run(ctx, run, first) && whole
		}
	} else {
		for i := range n.kids {
			whole = c.walk(ctx, &n.kids[i], level-1, first+uint64(i)*levelBlocks(level-1)) && whole
		}
	}
	if whole && r.n == nil && ctx.Err() == nil {
		c.whole.Add(key, struct{}{})
	}
	return whole
}

func (c *checker) readPage(log BranchID, want need) (*node, error) {
	n, err := c.s.readPage(c.s.ctx, log, want)
	if err != nil {
		n, err = c.s.readPage(c.s.ctx, log, want)
	}
	if err != nil {
		return nil, err
	}
	c.rep.Pages++
	c.rep.Bytes += int64(want.at.n)
	return n, nil
}

// run checks that the blocks of a run are where the leaf, whose first block is
// first, says.
func (c *checker) run(ctx context.Context, r run, first uint64) bool {
	c.rep.Blocks += int64(r.n)
	at := first + uint64(r.start)
	if int(r.at.log()) >= len(c.now.Lineage) {
		c.damage(manifestKey(c.now.ID), fmt.Errorf("its tree names a block in %v of %d logs: %w",
			r.at, len(c.now.Lineage), ErrCorrupt), c.blocks(at, uint64(r.n)))
		return false
	}
	log := c.now.Lineage[r.at.log()]
	g, id := c.object(ctx, log, r.at.segment())
	if ctx.Err() != nil {
		return true
	}
	if g.err != nil {
		c.damage(id.key(), g.err, c.blocks(at, uint64(r.n)))
		return false
	}
	whole := true
	for i := range r.n {
		seg, slot := r.at.segment(), (r.at + addr(i)).slot()
		if g.holds(seg, slot) {
			continue
		}
		whole = false
		err := g.bad[makeAddr(0, seg, slot)]
		if err == nil {
			err = fmt.Errorf("a block is mapped to a slot that the segment does not have: %w", ErrCorrupt)
		}
		c.damage(id.key(), err, c.blocks(at+uint64(i), 1))
	}
	return whole
}

// same tells whether two trees map the same blocks to the same addresses. What
// can not be read counts as the same: it has been listed.
func (c *checker) same(ctx context.Context, a, b ref, level uint8, first uint64) bool {
	if ctx.Err() != nil || (a.n == nil && b.n == nil && a.at == b.at) || (a.n != nil && a.n == b.n) {
		return true
	}
	na, ok := c.node(a, level, first)
	if !ok {
		return true
	}
	nb, ok := c.node(b, level, first)
	if !ok {
		return true
	}
	if level == 0 {
		var x, y [leafSize]addr
		na.leafGet(0, x[:])
		nb.leafGet(0, y[:])
		return x == y
	}
	for i := range na.kids {
		if !c.same(ctx, na.kids[i], nb.kids[i], level-1, first+uint64(i)*levelBlocks(level-1)) {
			return false
		}
	}
	return true
}

// node returns the node behind r, an empty one for a hole.
func (c *checker) node(r ref, level uint8, first uint64) (*node, bool) {
	if r.n != nil {
		return r.n, true
	}
	if r.at.isZero() {
		return newNode(0, 0, level), true
	}
	if int(r.at.log()) >= len(c.now.Lineage) {
		return nil, false
	}
	n, err := c.readPage(c.now.Lineage[r.at.log()], need{at: r.at, level: level, first: first})
	return n, err == nil
}
