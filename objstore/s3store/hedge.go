package s3store

import (
	"context"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/bough-db/bough/objstore"
)

// When a ranged read counts as slow: when it has taken hedgeFactor times as long as
// nine of ten recent ones, within bounds.
const (
	hedgeFactor  = 3
	hedgeLeast   = 30 * time.Millisecond
	hedgeMost    = 2 * time.Second
	hedgeUnknown = 500 * time.Millisecond // before there are hedgeEvery recent ones
	hedgeRecent  = 128                    // how many recent ones are kept
	hedgeEvery   = 16                     // how often the bound is computed anew
	// hedgeBytesMax: a larger read takes its time in the transfer, and a second
	// one beside it would only slow it down.
	hedgeBytesMax = 1 << 20
	// hedgeShare bounds second requests to one in so many reads in the long
	// run, and hedgeBurst how many may be saved up: a server that is slow to
	// everybody is not helped by twice the requests.
	hedgeShare = 20
	hedgeBurst = 10
)

// hedger makes a second request when a first one is slow. The zero value makes
// none; init it before use.
type hedger struct {
	underWayMax int
	begun, won  atomic.Int64

	mu       sync.Mutex
	recent   [hedgeRecent]time.Duration
	n        int // how many were ever kept
	bound    time.Duration
	credit   int // in parts of a request: a read earns 1, a second request costs hedgeShare
	underWay int
}

func (h *hedger) init(underWayMax int) {
	h.underWayMax = underWayMax
	h.bound = hedgeUnknown
	h.credit = 2 * hedgeShare
}

// result is how one request of a read ended.
type result struct {
	n    int
	info objstore.Info
	err  error
	p    []byte // nil: it is in the caller's buffer
}

// read calls try with p and, if that takes long, a second time with a buffer of its
// own. The first success counts, or the last failure. Both have ended when it
// returns.
func (h *hedger) read(ctx context.Context, p []byte, try func(context.Context, []byte) (int, objstore.Info, error)) (int, objstore.Info, error) {
	begun := time.Now()
	bound := h.start()
	if h.underWayMax <= 0 || len(p) > hedgeBytesMax {
		n, info, err := try(ctx, p)
		return n, info, err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	results := make(chan result, 2) // room for both: none waits to be heard
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	ask := func(own []byte) {
		buf := p
		if own != nil {
			buf = own
		}
		wg.Go(func() {
			n, info, err := try(ctx, buf)
			results <- result{n, info, err, own}
		})
	}
	ask(nil)
	slow := time.NewTimer(bound)
	defer slow.Stop()
	asked := 1
	for {
		select {
		case <-slow.C:
			if h.take() {
				defer h.give()
				asked++
				ask(make([]byte, max(len(p), 1))[:len(p)])
			}
			continue
		case r := <-results:
			if asked--; r.err != nil && asked > 0 {
				continue // the other one may still do it
			}
			if r.err == nil {
				h.note(time.Since(begun))
			}
			if r.p == nil || r.err != nil {
				return r.n, r.info, r.err
			}
			h.won.Add(1)
			cancel()
			wg.Wait() // the first one writes into p until it has ended
			copy(p, r.p[:r.n])
			return r.n, r.info, nil
		}
	}
}

// start earns a read's credit and returns when it will count as slow.
func (h *hedger) start() time.Duration {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.credit = min(h.credit+1, hedgeBurst*hedgeShare)
	return h.bound
}

// take begins a second request, if one may be made.
func (h *hedger) take() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.credit < hedgeShare || h.underWay >= h.underWayMax {
		return false
	}
	h.credit -= hedgeShare
	h.underWay++
	h.begun.Add(1)
	return true
}

// give ends a second request.
func (h *hedger) give() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.underWay--
}

// note keeps how long a read took.
func (h *hedger) note(took time.Duration) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.recent[h.n%hedgeRecent] = took
	h.n++
	if h.n%hedgeEvery != 0 {
		return
	}
	kept := h.recent
	sorted := kept[:min(h.n, hedgeRecent)]
	slices.Sort(sorted)
	h.bound = min(max(hedgeFactor*sorted[len(sorted)*9/10], hedgeLeast), hedgeMost)
}
