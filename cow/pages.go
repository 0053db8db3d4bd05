package cow

import (
	"context"
	"errors"
	"fmt"

	lru "github.com/hashicorp/golang-lru/v2"
	"golang.org/x/sync/singleflight"
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
	lru    *lru.Cache[pageKey, *node]
	flight singleflight.Group
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

// loadPage reads the page that an operation needs, and pins it.
func (s *Store) loadPage(ctx context.Context, want need, p *pinned) error {
	if int(want.at.log()) >= len(p.lineage) {
		return fmt.Errorf("tree page in %v of %d logs: %w", want.at, len(p.lineage), ErrCorrupt)
	}
	key := pageKey{p.lineage[want.at.log()], want.at.ckpt & (1<<48 - 1), want.at.off}
	name := checkpointKey(key.log, want.at.checkpoint())
	n, ok := s.pages.lru.Get(key)
	if !ok {
		// Under a context of its own: the others who wait must not fail
		// because the first of them went away.
		ch := s.pages.flight.DoChan(fmt.Sprint(name, want.at.off), func() (any, error) {
			n, err := s.readPage(key.log, want)
			if errors.Is(err, ErrCorrupt) {
				n, err = s.readPage(key.log, want) // once more: it may have happened on the way
			}
			if err == nil {
				s.pages.lru.Add(key, n)
			}
			return n, err
		})
		select {
		case <-ctx.Done():
			return ctx.Err()
		case r := <-ch:
			if r.Err != nil {
				return fmt.Errorf("read tree page in %s at %d: %w", name, want.at.off, r.Err)
			}
			n = r.Val.(*node)
		}
	}
	if n.level != want.level {
		return fmt.Errorf("tree page in %s at %d has level %d instead of %d: %w",
			name, want.at.off, n.level, want.level, ErrCorrupt)
	}
	if p.own == nil {
		p.own = make(map[pageAddr]*node)
	}
	p.own[want.at] = n
	return nil
}

// readPage reads a page from the store.
func (s *Store) readPage(log BranchID, want need) (*node, error) {
	buf := make([]byte, want.at.n)
	ckpt := want.at.checkpoint()
	got, _, err := s.objects.ReadAt(s.ctx, checkpointKey(log, ckpt), buf, int64(want.at.off))
	if err != nil {
		if isNotExist(err) {
			err = fmt.Errorf("%w: %w", err, ErrCorrupt)
		}
		return nil, err
	}
	return decodePage(buf[:got], want.level, want.first, pageSeed(log, ckpt))
}
