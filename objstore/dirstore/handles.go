package dirstore

import (
	"sync"

	"github.com/hashicorp/golang-lru/v2/simplelru"
)

// handle is an object's open file, shared by readers and closed by the last.
type handle struct {
	file file
	size int64
	tag  string
	refs int // under handles.mu; the cache's own included
}

// handles keeps files open between ranged reads. It never outlives a change: a
// handle opened before a key was replaced or removed is not kept after it.
type handles struct {
	keep bool
	mu   sync.Mutex
	lru  *simplelru.LRU[string, *handle]
	// changes counts forget calls. A file opened while it moved may show what
	// was there before, and is used once and not kept.
	changes uint64
	// dropped collects what eviction released, to be closed outside of mu.
	dropped []*handle
}

func newHandles(limit int, keep bool) (*handles, error) {
	h := &handles{keep: keep}
	var err error
	h.lru, err = simplelru.NewLRU(limit, func(_ string, old *handle) { h.unref(old) })
	return h, err
}

// unref is called under mu.
func (h *handles) unref(x *handle) {
	x.refs--
	if x.refs == 0 {
		h.dropped = append(h.dropped, x)
	}
}

// unlock releases mu and closes what nobody uses any more. Nothing was written
// through these files: an error from close tells nothing.
func (h *handles) unlock() {
	dropped := h.dropped
	h.dropped = nil
	h.mu.Unlock()
	for _, x := range dropped {
		_ = x.file.close()
	}
}

// acquire returns the handle kept for key, or nil and a ticket for add.
func (h *handles) acquire(key string) (x *handle, ticket uint64) {
	h.mu.Lock()
	defer h.unlock()
	if x, ok := h.lru.Get(key); ok {
		x.refs++
		return x, 0
	}
	return nil, h.changes
}

// add keeps a handle that was opened after ticket was given out, if nothing has
// changed since. The caller uses it and releases it in any case.
func (h *handles) add(key string, x *handle, ticket uint64) {
	h.mu.Lock()
	defer h.unlock()
	x.refs = 1
	if h.keep && ticket == h.changes {
		h.lru.Remove(key) // a concurrent reader's: Add would replace it without a word
		x.refs++
		h.lru.Add(key, x)
	}
}

// release ends one use.
func (h *handles) release(x *handle) {
	h.mu.Lock()
	defer h.unlock()
	h.unref(x)
}

// forget is called after key was replaced or removed, before anybody is told.
func (h *handles) forget(key string) {
	h.mu.Lock()
	defer h.unlock()
	h.changes++
	h.lru.Remove(key)
}

// purge drops everything.
func (h *handles) purge() {
	h.mu.Lock()
	defer h.unlock()
	h.changes++
	h.lru.Purge()
}
