package cow

import (
	"context"
	"sync"
)

// flights lets all who want the same thing at the same time wait for one fetch of
// it. Whoever begins a fetch runs it, under a context of its own choice, and has to
// end it. The zero value is ready for use.
type flights[K comparable, V any] struct {
	mu    sync.Mutex
	calls map[K]*flight[V]
}

// flight is a fetch under way.
type flight[V any] struct {
	done chan struct{} // closed when the rest is set
	v    V
	err  error
	left bool // whoever fetched gave up, which says nothing to those who wait
}

// begin returns the fetch of k that is under way; or, if there is none, a new one
// and true: the caller has to fetch and to call end.
func (f *flights[K, V]) begin(k K) (c *flight[V], mine bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if c = f.calls[k]; c != nil {
		return c, false
	}
	if f.calls == nil {
		f.calls = map[K]*flight[V]{}
	}
	c = &flight[V]{done: make(chan struct{})}
	f.calls[k] = c
	return c, true
}

// end hands the outcome to all who wait.
func (f *flights[K, V]) end(k K, c *flight[V], v V, err error) {
	c.v, c.err = v, err
	f.remove(k, c)
}

// leave ends a fetch without an outcome: one of those who wait, if there are any,
// fetches again.
func (f *flights[K, V]) leave(k K, c *flight[V]) {
	c.left = true
	f.remove(k, c)
}

func (f *flights[K, V]) remove(k K, c *flight[V]) {
	f.mu.Lock()
	delete(f.calls, k)
	f.mu.Unlock()
	close(c.done)
}

// do returns what fetch returns, or what a fetch under way does. fetch runs under
// ctx, and looks first whether the thing has come meanwhile.
func (f *flights[K, V]) do(ctx context.Context, k K, fetch func(context.Context) (V, error)) (V, error) {
	for {
		c, mine := f.begin(k)
		if mine {
			v, err := fetch(ctx)
			if err != nil && ctx.Err() != nil {
				f.leave(k, c) // that says nothing to the others
			} else {
				f.end(k, c, v, err)
			}
			return v, err
		}
		select {
		case <-c.done:
			if !c.left {
				return c.v, c.err
			}
		case <-ctx.Done():
			var none V
			return none, ctx.Err()
		}
	}
}
