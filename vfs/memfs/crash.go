package memfs

import (
	"maps"
	"math/rand/v2"
	"slices"
)

// Mode says what kind of crash [FS.CrashClone] plays.
type Mode int

// The kinds of crashes.
const (
	// Kill is the death of the process: everything written is there, and what
	// was not durable is not durable yet.
	Kill Mode = iota
	// LoseAll is a power cut that took everything that was not durable.
	LoseAll
	// LoseSome is a power cut in the middle of write-back: of each page any
	// version since it was last durable may be on the medium, and each change
	// of a directory may be or not. How likely survival is, is drawn once per
	// clone from nothing to everything.
	LoseSome
	// Tear is LoseSome by 512-byte sectors: a page may be a mixture of versions.
	Tear
)

// Modes lists every Mode, for tests that try all.
func Modes() []Mode { return []Mode{Kill, LoseAll, LoseSome, Tear} }

// String returns the name of the mode.
func (m Mode) String() string {
	return [...]string{"Kill", "LoseAll", "LoseSome", "Tear"}[m]
}

// CrashClone returns the file system as it would be found after a crash at this
// moment. The same contents, operations and state of rng give the same clone.
// Files open here, locks and the operations that follow do not touch it.
func (f *FS) CrashClone(rng *rand.Rand, mode Mode) *FS {
	f.mu.Lock()
	defer f.mu.Unlock()
	c := &cloner{rng: rng, mode: mode, seen: map[*inode]*inode{}}
	if mode == LoseSome || mode == Tear {
		c.keep = rng.Float64()
	}
	out := &FS{opts: f.opts, locks: map[*inode]bool{}}
	out.root = c.clone(f.root)
	c.pending(out, f.pending)
	if mode != Kill {
		for _, n := range c.order {
			if n.dir {
				n.names = maps.Clone(n.durable)
			}
		}
	}
	out.recount()
	return out
}

type cloner struct {
	rng   *rand.Rand
	mode  Mode
	keep  float64 // probability that something not durable survives
	seen  map[*inode]*inode
	order []*inode
}

func (c *cloner) survives() bool { return c.rng.Float64() < c.keep }

// pending decides about changes that are not durable. A change that survives
// while an earlier one of the same name is lost still takes effect as a whole.
func (c *cloner) pending(out *FS, list []*change) {
	for _, ch := range list {
		copied := &change{}
		for _, e := range ch.edits {
			to := e.to
			if to != nil {
				to = c.clone(to)
			}
			copied.edits = append(copied.edits, edit{c.clone(e.dir), e.name, to})
		}
		switch {
		case c.mode == Kill:
			out.pending = append(out.pending, copied)
		case c.mode != LoseAll && c.survives():
			copied.settle(func(n *inode) *inode { return n })
		}
	}
}

// clone copies an inode and everything below it.
func (c *cloner) clone(n *inode) *inode {
	if o := c.seen[n]; o != nil {
		return o
	}
	o := &inode{dir: n.dir, mode: n.mode, modTime: n.modTime}
	c.seen[n] = o
	c.order = append(c.order, o)
	if n.dir {
		o.names, o.durable = c.names(n.names), c.names(n.durable)
		return o
	}
	o.pages = make(map[int64]*page, len(n.pages))
	if c.mode == Kill {
		o.size, o.durableSize = n.size, n.durableSize
		for i, pg := range n.pages {
			o.pages[i] = &page{durable: pg.durable, since: slices.Clone(pg.since), lost: pg.lost}
		}
		return o
	}
	o.size = n.durableSize
	if n.size != n.durableSize && c.mode != LoseAll && c.survives() {
		o.size = n.size
	}
	o.durableSize = o.size
	// In order, so that the same seed gives the same clone.
	for _, i := range slices.Sorted(maps.Keys(n.pages)) {
		data := c.page(n.pages[i])
		if i*pageBytes < o.size && data != nil {
			o.pages[i] = &page{durable: cut(data, o.size-i*pageBytes)}
		}
	}
	return o
}

// cut zeroes what lies beyond the end of the file.
func cut(data []byte, n int64) []byte {
	if n >= pageBytes {
		return data
	}
	data = slices.Clone(data)
	clear(data[n:])
	return data
}

func (c *cloner) names(m map[string]*inode) map[string]*inode {
	o := make(map[string]*inode, len(m))
	for _, name := range slices.Sorted(maps.Keys(m)) {
		o[name] = c.clone(m[name])
	}
	return o
}

// page chooses what a power cut leaves of a page.
func (c *cloner) page(pg *page) []byte {
	if len(pg.since) == 0 || c.mode == LoseAll {
		return pg.durable
	}
	pick := func() []byte {
		if !c.survives() {
			return pg.durable
		}
		// The last version is the most likely one, but any may be it.
		if c.rng.IntN(4) > 0 {
			return pg.now()
		}
		return pg.since[c.rng.IntN(len(pg.since))]
	}
	if c.mode != Tear {
		return pick()
	}
	data := make([]byte, pageBytes)
	for at := 0; at < pageBytes; at += sectorBytes {
		if v := pick(); v != nil {
			copy(data[at:at+sectorBytes], v[at:])
		}
	}
	return data
}

// recount computes links and used space of a clone.
func (f *FS) recount() {
	counted := map[*inode]bool{}
	var walk func(n *inode)
	walk = func(n *inode) {
		for _, e := range n.names {
			e.links++
			if counted[e] {
				continue
			}
			counted[e] = true
			if e.dir {
				walk(e)
			} else {
				f.used += e.size
			}
		}
	}
	walk(f.root)
}
