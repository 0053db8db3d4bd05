package cow

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"

	lru "github.com/hashicorp/golang-lru/v2"
	"golang.org/x/sync/errgroup"
)

// pageKey names a page of any branch of the store.
type pageKey struct {
	log  BranchID
	ckpt uint64
	off  uint32
}

// pageCache keeps the tree pages that checkpoints hold and that have been used
// lately, of all branches together.
type pageCache struct {
	lru     *lru.Cache[pageKey, *node]
	flights flights[pageKey, *node]
}

func newPageCache(pages int) (*pageCache, error) {
	c, err := lru.New[pageKey, *node](pages)
	if err != nil {
		return nil, fmt.Errorf("make page cache: %w", err)
	}
	return &pageCache{lru: c}, nil
}

// pinned is the pageSource of one operation of one branch: the cache, and what
// the operation itself had to load, which stays until it is done.
type pinned struct {
	cache   *pageCache
	lineage []BranchID
	own     map[pageAddr]*node
}

func (p *pinned) page(at pageAddr) *node {
	if n := p.own[at]; n != nil {
		return n
	}
	if int(at.log()) >= len(p.lineage) {
		return nil
	}
	n, _ := p.cache.lru.Get(pageKey{p.lineage[at.log()], at.ckpt & (1<<48 - 1), at.off})
	return n
}

// keyOf returns the name of the page at an address, which a lineage gives its
// meaning.
func keyOf(lineage []BranchID, at pageAddr) (pageKey, error) {
	if int(at.log()) >= len(lineage) {
		return pageKey{}, fmt.Errorf("tree page in %v of %d logs: %w", at, len(lineage), ErrCorrupt)
	}
	return pageKey{lineage[at.log()], at.ckpt & (1<<48 - 1), at.off}, nil
}

// loadPage reads the page that an operation needs, and pins it.
func (s *Store) loadPage(ctx context.Context, want need, p *pinned) error {
	key, err := keyOf(p.lineage, want.at)
	if err != nil {
		return err
	}
	n, err := s.page(ctx, p.cache, key, want)
	if err != nil {
		return err
	}
	p.pin(want.at, n)
	return nil
}

// page returns the page that an operation needs, from memory or the store.
func (s *Store) page(ctx context.Context, cache *pageCache, key pageKey, want need) (n *node, err error) {
	name := checkpointKey(key.log, want.at.checkpoint())
	n, ok := cache.lru.Get(key)
	if !ok {
		n, err = cache.flights.do(ctx, key, func(ctx context.Context) (*node, error) {
			if n, ok := cache.lru.Get(key); ok {
				return n, nil
			}
			n, err := s.readPage(ctx, key.log, want)
			if errors.Is(err, ErrCorrupt) {
				n, err = s.readPage(ctx, key.log, want) // once more: it may have happened on the way
			}
			if err == nil {
				cache.lru.Add(key, n)
			}
			return n, err
		})
		if err != nil {
			return nil, fmt.Errorf("read tree page in %s at %d: %w", name, want.at.off, err)
		}
	}
	if n.level != want.level {
		return nil, fmt.Errorf("tree page in %s at %d has level %d instead of %d: %w",
			name, want.at.off, n.level, want.level, ErrCorrupt)
	}
	return n, nil
}

func (p *pinned) pin(at pageAddr, n *node) {
	if p.own == nil {
		p.own = make(map[pageAddr]*node)
	}
	p.own[at] = n
}

// readPage reads a page from the store, wherever collections have put it.
func (s *Store) readPage(ctx context.Context, log BranchID, want need) (*node, error) {
	l := s.knownLayout(log)
	for i := 0; ; i++ {
		run := []need{want}
		nodes, err := s.readPagesAt(ctx, l, log, run)
		if err == nil || !isNotExist(err) {
			return nodes[0].n, cmp.Or(err, nodes[0].err)
		}
		now, lerr := s.loadLayout(ctx, log)
		if lerr != nil && !errors.Is(lerr, ErrNotFound) {
			return nil, lerr
		}
		ckpt := want.at.checkpoint()
		if i == relocations || l.holder(log, ckpt) == now.holder(log, ckpt) {
			return nil, fmt.Errorf("%w: %w", err, ErrCorrupt)
		}
		l = now
	}
}

// pageRead is what became of a page that was read.
type pageRead struct {
	n   *node
	err error // what is wrong with it
}

// readPagesAt reads pages of one checkpoint that lie close together, in order, with
// one request, from where the layout has them.
func (s *Store) readPagesAt(ctx context.Context, l *layout, log BranchID, run []need) ([]pageRead, error) {
	ckpt := run[0].at.checkpoint()
	out := make([]pageRead, len(run))
	offs := make([]uint32, len(run))
	key := checkpointKey(log, ckpt)
	for i, w := range run {
		offs[i] = w.at.off
	}
	if r := l.pack(ckpt); r != nil {
		pages, err := s.packPages(ctx, r.id(log))
		if err != nil {
			return out, err
		}
		key = r.id(log).key()
		for i, w := range run {
			p, ok := pages.find(ckpt, w.at.off)
			if !ok || p.n != w.at.n {
				return out, fmt.Errorf("pack %s does not have the page of checkpoint %d at %d: %w", key, ckpt, w.at.off, ErrCorrupt)
			}
			offs[i] = p.at
		}
	}
	last := len(run) - 1
	buf := make([]byte, offs[last]+run[last].at.n-offs[0])
	read, _, err := s.objects.ReadAt(ctx, key, buf, int64(offs[0]))
	if err != nil {
		return out, err
	}
	for i, w := range run {
		from, to := int(offs[i]-offs[0]), int(offs[i]-offs[0]+w.at.n)
		out[i].n, out[i].err = decodePage(buf[min(from, read):min(to, read)], w.level, w.first, pageSeed(log, ckpt))
	}
	return out, nil
}

// Reading many pages at once.
const (
	pageRunGap   = 16 << 10  // bytes read for nothing, rather than in two requests
	pageRunBytes = 256 << 10 // of one request, at most
	pageRunsMax  = 32        // requests at the same time
)

// loadPages reads pages with as few requests as possible, all at the same time,
// and pins them. A page that can not be had is left out: who needs it reads it
// again, and hears why. It returns an error only when ctx ends.
func (s *Store) loadPages(ctx context.Context, wants []need, p *pinned) error {
	slices.SortFunc(wants, func(a, b need) int {
		return cmp.Or(cmp.Compare(a.at.ckpt, b.at.ckpt), cmp.Compare(a.at.off, b.at.off))
	})
	var mu sync.Mutex // guards p
	var g errgroup.Group
	g.SetLimit(pageRunsMax)
	for len(wants) > 0 {
		n := 1
		first := wants[0].at
		for end := first.off + first.n; n < len(wants); n++ {
			at := wants[n].at
			if at.ckpt != first.ckpt || at.off < end || at.off-end > pageRunGap || at.off+at.n-first.off > pageRunBytes {
				break
			}
			end = at.off + at.n
		}
		run := wants[:n]
		wants = wants[n:]
		if int(first.log()) < len(p.lineage) {
			g.Go(func() error {
				s.loadPageRun(ctx, p.cache, p.lineage[first.log()], run, func(at pageAddr, n *node) {
					mu.Lock()
					defer mu.Unlock()
					p.pin(at, n)
				})
				return nil
			})
		}
	}
	_ = g.Wait() // nothing in it fails
	return ctx.Err()
}

// loadPageRun reads pages of one checkpoint that lie close together, in order,
// with one request, and calls got for each. It waits for those that others are
// reading already.
func (s *Store) loadPageRun(ctx context.Context, cache *pageCache, log BranchID, run []need, got func(pageAddr, *node)) {
	var mine, theirs []need
	var calls []*flight[*node]
	for _, w := range run {
		key := pageKey{log, w.at.ckpt & (1<<48 - 1), w.at.off}
		c, first := cache.flights.begin(key)
		if !first {
			theirs = append(theirs, w)
		} else if n, ok := cache.lru.Get(key); ok { // it has come meanwhile
			cache.flights.end(key, c, n, nil)
			got(w.at, n)
		} else {
			mine, calls = append(mine, w), append(calls, c)
		}
	}
	if len(mine) > 0 {
		nodes, err := s.readPagesAt(ctx, s.knownLayout(log), log, mine)
		if isNotExist(err) { // a collection has moved them
			if l, lerr := s.loadLayout(ctx, log); lerr == nil {
				nodes, err = s.readPagesAt(ctx, l, log, mine)
			}
		}
		for i, w := range mine {
			key := pageKey{log, w.at.ckpt & (1<<48 - 1), w.at.off}
			n := nodes[i].n
			if err != nil || nodes[i].err != nil { // whoever needs it reads it again, and hears why
				cache.flights.leave(key, calls[i])
				continue
			}
			cache.lru.Add(key, n)
			got(w.at, n)
			cache.flights.end(key, calls[i], n, nil)
		}
	}
	for _, w := range theirs { // only now: nobody waits for others while others wait for him
		key := pageKey{log, w.at.ckpt & (1<<48 - 1), w.at.off}
		if n, err := s.page(ctx, cache, key, w); err == nil {
			got(w.at, n)
		}
	}
}

// warm loads the pages on the way to the blocks that are not in memory, level by
// level, each level at once, and pins them. look finds a block in the tree, and
// returns what it misses. An error is that of ctx.
func (s *Store) warm(ctx context.Context, blocks []uint64, p *pinned, look func(block uint64) need) error {
	for range topLevel + 1 {
		wants := map[pageAddr]need{}
		for _, b := range blocks {
			if want := look(b); !want.isZero() {
				wants[want.at] = want
			}
		}
		if len(wants) == 0 {
			return nil
		}
		if err := s.loadPages(ctx, slices.Collect(maps.Values(wants)), p); err != nil {
			return err
		}
	}
	return nil
}
