package cow

import (
	"fmt"

	lru "github.com/hashicorp/golang-lru/v2"
)

// indexSmallBytes is how long an index may be to count as a small one, and
// indexSmallFactor how many of those are kept for each large one: a branch at
// durability remote has a segment of a few blocks for every barrier.
const (
	indexSmallBytes  = 2 << 10
	indexSmallFactor = 8
)

// sized is an index that knows what it takes in memory.
type sized interface{ bytes() int }

// indexCache keeps the indexes that have been used lately, small and large ones
// apart, so that many small ones do not drive out large ones and take no more memory.
type indexCache[K comparable, V sized] struct{ small, large *lru.Cache[K, V] }

func newIndexCache[K comparable, V sized](large int) (*indexCache[K, V], error) {
	c := &indexCache[K, V]{}
	var err error
	if c.large, err = lru.New[K, V](large); err == nil {
		c.small, err = lru.New[K, V](indexSmallFactor * large)
	}
	if err != nil {
		return nil, fmt.Errorf("make index cache: %w", err)
	}
	return c, nil
}

// Get returns the index under the key, which is used by that.
func (c *indexCache[K, V]) Get(k K) (V, bool) {
	if v, ok := c.small.Get(k); ok {
		return v, true
	}
	return c.large.Get(k)
}

// Add keeps the index under the key.
func (c *indexCache[K, V]) Add(k K, v V) {
	if v.bytes() <= indexSmallBytes {
		c.small.Add(k, v)
	} else {
		c.large.Add(k, v)
	}
}

// Remove forgets the index under the key.
func (c *indexCache[K, V]) Remove(k K) {
	c.small.Remove(k)
	c.large.Remove(k)
}

// Keys returns the keys of all that is kept.
func (c *indexCache[K, V]) Keys() []K { return append(c.small.Keys(), c.large.Keys()...) }
