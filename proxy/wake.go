package proxy

import (
	"context"
	"sync"
	"time"
)

// Waker makes a branch's endpoint run and says where it listens.
type Waker interface {
	// Wake returns the address of the branch's Postgres, once it accepts
	// connections: HOST:PORT, or the path of a unix socket. It starts the
	// endpoint if it sleeps, and waits for the end of a stop that is under way.
	// The address must not pass to another branch while a client may be on its way
	// to it, or that client would end up on the wrong one. Wake is called for every
	// connection, so it must be cheap when the endpoint runs; calls for one branch
	// never overlap. The names have been checked against the grammar of names. An
	// error that wraps ErrNotFound, or an *Error, is told to the client. Wake must
	// return soon after ctx is done.
	Wake(ctx context.Context, project, branch string) (addr string, err error)
}

// wakes lets all the connections that wait for one branch share one Wake.
type wakes struct {
	waker   Waker
	timeout time.Duration

	mu      sync.Mutex
	flights map[route]*flight
}

// flight is one call of Wake; its results may be read once done is closed.
type flight struct {
	done   chan struct{}
	addr   string
	err    error
	joined int // how many have waited for it, under wakes.mu
}

// wait returns the result of a Wake of r that is under way, or of a new one.
// When ctx ends, only this caller stops waiting: the call itself ends with
// owner.connecting, or after the time limit.
func (w *wakes) wait(ctx context.Context, owner owner, r route) (addr string, err error) {
	w.mu.Lock()
	f := w.flights[r]
	if f == nil {
		f = &flight{done: make(chan struct{})}
		if w.flights == nil {
			w.flights = make(map[route]*flight)
		}
		w.flights[r] = f
		owner.tasks.Go(func() { w.fly(owner.connecting, r, f) })
	}
	f.joined++
	w.mu.Unlock()

	select {
	case <-f.done:
		return f.addr, f.err
	case <-ctx.Done():
		return "", context.Cause(ctx)
	}
}

// fly makes the call for a flight.
func (w *wakes) fly(ctx context.Context, r route, f *flight) {
	ctx, cancel := context.WithTimeout(ctx, w.timeout)
	defer cancel()
	f.addr, f.err = w.waker.Wake(ctx, r.project, r.branch)
	w.mu.Lock()
	delete(w.flights, r)
	w.mu.Unlock()
	close(f.done)
}
