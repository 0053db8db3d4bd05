package cow

import (
	"context"
	"fmt"

	"github.com/bough-db/bough/wal"
)

// collectPages is how many tree pages a collection keeps in memory, apart from those
// that branches use.
const collectPages = 2048

// treeAt returns the tree of a barrier that stays.
func (p *planner) treeAt(ctx context.Context, at moment) (*tree, error) {
	if p.tree != nil && p.treeSeq == at.Seq {
		return p.tree, nil
	}
	l, err := p.s.load(ctx, p.v.m, at.Segment, at.Seq, gapsHappen)
	if err != nil {
		return nil, fmt.Errorf("load barrier %d: %w", at.Seq, err)
	}
	p.tree, p.treeSeq = &l.tree, at.Seq
	return p.tree, nil
}

// walking goes through what a tree has of its branch's own log, beyond the number
// after: the pages of later checkpoints, and the blocks of later segments. What is
// older than a page that is left out lies below it.
type walking struct {
	p      *planner
	after  wal.SegmentNo
	all    bool // not only the branch's own log
	page   func(at pageAddr) error
	blocks func(block uint64, at addr, n int)
}

func (p *planner) walk(ctx context.Context, root ref, w walking) error {
	w.p = p
	return w.node(ctx, &root, topLevel, 0, &pinned{cache: p.pages, lineage: p.v.m.Lineage})
}

// wanted tells whether the page behind r belongs to what is walked.
func (w *walking) wanted(r *ref) bool {
	return r.n != nil || !r.at.isZero() && w.all || !r.at.isZero() && r.at.log() == w.p.v.m.own() && r.at.checkpoint() > w.after
}

func (w *walking) node(ctx context.Context, r *ref, level uint8, first uint64, pages *pinned) error {
	if !w.wanted(r) {
		return nil
	}
	n := r.n
	if n == nil {
		if w.page != nil {
			if err := w.page(r.at); err != nil {
				return err
			}
		}
		if n = pages.page(r.at); n == nil {
			if err := w.p.s.loadPage(ctx, need{at: r.at, level: level, first: first}, pages); err != nil {
				return err
			}
			n = pages.page(r.at)
		}
	}
	if level == 0 {
		if w.blocks == nil {
			return nil
		}
		for _, run := range n.leafRuns() {
			if w.all || run.at.log() == w.p.v.m.own() && run.at.segment() > w.after {
				w.blocks(first+uint64(run.start), run.at, int(run.n))
			}
		}
		return nil
	}
	// The children at once, and no longer than they are needed.
	below := &pinned{cache: pages.cache, lineage: pages.lineage}
	var wants []need
	for i := range n.kids {
		k := &n.kids[i]
		if k.n == nil && w.wanted(k) && (level > 1 || w.blocks != nil) {
			wants = append(wants, need{at: k.at, level: level - 1, first: first + uint64(i)*levelBlocks(level-1)})
		}
	}
	if err := w.p.s.loadPages(ctx, wants, below); err != nil {
		return err
	}
	for i := range n.kids {
		k := &n.kids[i]
		if level == 1 && w.blocks == nil { // leaves are not needed themselves
			if k.n == nil && w.wanted(k) {
				if err := w.page(k.at); err != nil {
					return err
				}
			}
			continue
		}
		if err := w.node(ctx, k, level-1, first+uint64(i)*levelBlocks(level-1), below); err != nil {
			return err
		}
	}
	return nil
}

// lookup finds the addresses of blocks in a tree, in order. It keeps few pages in
// memory at a time.
func (p *planner) lookup(ctx context.Context, t *tree, blocks []uint64, found func(i int, at addr)) error {
	const chunk = 1024
	for base := 0; base < len(blocks); base += chunk {
		part := blocks[base:min(base+chunk, len(blocks))]
		pages := pinned{cache: p.pages, lineage: p.v.m.Lineage}
		look := func(b uint64) (at [1]addr, want need) {
			_, want = t.lookup(b, at[:], &pages)
			return at, want
		}
		if err := p.s.warm(ctx, part, &pages, func(b uint64) need { _, want := look(b); return want }); err != nil {
			return err
		}
		for i, b := range part {
			at, want := look(b)
			for !want.isZero() {
				if err := p.s.loadPage(ctx, want, &pages); err != nil {
					return err
				}
				at, want = look(b)
			}
			found(base+i, at[0])
		}
	}
	return nil
}
