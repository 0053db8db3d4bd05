package cow

import (
	"sync/atomic"
)

// generations numbers the owners of tree nodes: no two trees that can be
// changed ever have the same number. One per Store.
type generations struct{ last atomic.Uint64 }

func (g *generations) next() uint64 { return g.last.Add(1) }

// tree maps the blocks of a device to addresses. It is persistent: fork is
// constant time, and the two trees then share every node until one of them
// changes it. A tree has no lock of its own; its owner brings one.
type tree struct {
	root    ref
	gen     uint64
	log     uint16 // lineage index of the branch whose tree this is
	gens    *generations
	unsaved int // nodes made since the last checkpoint was cut: at least what only memory holds
}

func newTree(gens *generations, log uint16) tree {
	return tree{gen: gens.next(), log: log, gens: gens}
}

// fork returns a tree with the same contents, for the branch with lineage index
// log. Both get a new generation, so that neither changes what they share.
func (t *tree) fork(log uint16) tree {
	f := tree{root: t.root, gen: t.gens.next(), log: log, gens: t.gens}
	t.gen = t.gens.next()
	return f
}

// pageSource finds pages that are in memory but not held by a tree: pages that
// checkpoints wrote, kept by the store-wide LRU or pinned for one operation.
type pageSource interface {
	page(at pageAddr) *node
}

// need is a page that has to be in memory before an operation can go on, and
// what it must turn out to be. The zero value is "nothing".
type need struct {
	at    pageAddr
	level uint8
	first uint64 // first block that the node maps
}

func (n need) isZero() bool { return n.at.isZero() }

// resolve returns the node of the level behind r, on the way to block b; or nil
// and the page that has to be loaded first. A hole is nil and nothing needed.
func resolve(r *ref, level uint8, b uint64, src pageSource) (*node, need) {
	if r.n != nil || r.at.isZero() {
		return r.n, need{}
	}
	if n := src.page(r.at); n != nil {
		return n, need{}
	}
	return nil, need{at: r.at, level: level, first: b &^ (levelBlocks(level) - 1)}
}

// lookup fills out with the addresses of len(out) blocks from block b. When a
// page is not in memory it returns how many blocks it has filled, and the page.
func (t *tree) lookup(b uint64, out []addr, src pageSource) (int, need) {
	done := 0
	for done < len(out) {
		r := &t.root
		level := uint8(topLevel)
		blk := b + uint64(done)
		n, want := resolve(r, level, blk, src)
		for n != nil && level > 0 {
			level--
			r = &n.kids[blk>>(leafBits+uint(level)*innerBits)&(innerSize-1)]
			n, want = resolve(r, level, blk, src)
		}
		if !want.isZero() {
			return done, want
		}
		// n is a leaf, or a hole at some level: as far as it reaches.
		span := levelBlocks(level)
		c := int(min(span-blk&(span-1), uint64(len(out)-done)))
		if n == nil {
			clear(out[done : done+c])
		} else {
			n.leafGet(int(blk&(leafSize-1)), out[done:done+c])
		}
		done += c
	}
	return done, need{}
}

// set maps count blocks from block b to consecutive addresses from at, or makes
// holes of them if at is 0. It returns how many blocks it has set; fewer than
// count only together with the page that has to be in memory to go on.
func (t *tree) set(b, count uint64, at addr, src pageSource) (uint64, need) {
	var done uint64
	for done < count {
		a := at
		if at != 0 {
			a += addr(done)
		}
		c, want := t.setIn(&t.root, topLevel, b+done, count-done, a, src)
		done += c
		if !want.isZero() {
			return done, want
		}
	}
	return done, need{}
}

// setIn sets as much of the range as lies below r, a ref of this tree to a node
// of the level.
func (t *tree) setIn(r *ref, level uint8, b, count uint64, at addr, src pageSource) (uint64, need) {
	span := levelBlocks(level)
	first := b & (span - 1)
	c := min(span-first, count)
	if at == 0 && (r.isHole() || c == span) {
		*r = ref{}
		return c, need{}
	}
	if level == 0 {
		if want := t.own(r, 0, b, c == span, src); !want.isZero() {
			return 0, want
		}
		r.n.leafSet(int(first), int(c), at)
		return c, need{}
	}
	if want := t.own(r, level, b, false, src); !want.isZero() {
		return 0, want
	}
	childSpan := levelBlocks(level - 1)
	var done uint64
	for done < c {
		kid := &r.n.kids[(first+done)/childSpan]
		a := at
		if at != 0 {
			a += addr(done)
		}
		d, want := t.setIn(kid, level-1, b+done, c-done, a, src)
		done += d
		if !want.isZero() {
			return done, want
		}
	}
	return done, need{}
}

// own makes r lead to a node of this tree's generation, copying the one that is
// there. fresh says that the old content does not matter.
func (t *tree) own(r *ref, level uint8, b uint64, fresh bool, src pageSource) need {
	if r.n != nil && r.n.gen == t.gen {
		return need{}
	}
	if r.isHole() || fresh {
		*r = ref{n: newNode(t.gen, t.log, level)}
	} else {
		n, want := resolve(r, level, b, src)
		if n == nil {
			return want
		}
		*r = ref{n: n.clone(t.gen, t.log)}
	}
	t.unsaved++
	return need{}
}

// release replaces, in this tree, every node that a checkpoint has saved by its
// page address, so that only the LRU keeps it in memory. saved tells where
// nodes were saved; it is asked for nodes this tree does not own.
func (t *tree) release(saved func(*node) pageAddr) {
	t.releaseIn(&t.root, topLevel, saved)
}

func (t *tree) releaseIn(r *ref, level uint8, saved func(*node) pageAddr) {
	if r.n == nil {
		return
	}
	if at := saved(r.n); !at.isZero() {
		*r = ref{at: at}
		return
	}
	if level == 0 {
		return
	}
	if r.n.gen != t.gen {
		// Shared with a fork: copy it, or its saved children would stay in
		// memory for as long as it does.
		*r = ref{n: r.n.clone(t.gen, t.log)}
		t.unsaved++
	}
	for i := range r.n.kids {
		t.releaseIn(&r.n.kids[i], level-1, saved)
	}
}
