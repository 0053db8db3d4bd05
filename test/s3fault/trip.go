package s3fault

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"
)

// Rule chooses requests. The first rule that chooses one applies; one that chooses no
// more is dropped.
type Rule struct {
	// Op is what the request asks for. Default: Any.
	Op Op
	// Key is a part of its key. Default: every key.
	Key string
	// Nth is the first of the matching requests that is chosen, counted from when
	// the rule is added. Default: 1, the next.
	Nth int
	// Times is how many are chosen from there on; -1 for all. Default: 1.
	Times int
	// Fault is what they meet. Default: None.
	Fault Fault
	// Wait is called before the request is passed on or answered; of Late, after the
	// client has given up; of SlowBody, before each read of the body. Its error
	// is the client's, with nothing done. Default: no wait.
	Wait func(context.Context) error
}

// Rate is the probability, from 0 to 1, that a request for Op meets Fault.
type Rate struct {
	Op    Op      // Op is what the request asks for.
	Fault Fault   // Fault is what it meets.
	P     float64 // P is how probable that is.
}

// Trip is a faulty transport. Its methods may be called concurrently.
type Trip struct {
	inner http.RoundTripper
	seed  uint64

	mu    sync.Mutex
	rng   *rand.Rand
	rules []*Rule
	rates []Rate
	met   map[Fault]int
	n     map[Op]int
	lists map[string]kept // the last listings, by their query
	late  sync.WaitGroup
}

// New returns a transport that passes requests on to inner, as far as rules and rates
// let it.
func New(inner http.RoundTripper, seed uint64) *Trip {
	return &Trip{
		inner: inner, seed: seed, rng: rand.New(rand.NewPCG(seed, 0x73336661756c74)),
		met: map[Fault]int{}, n: map[Op]int{}, lists: map[string]kept{},
	}
}

// Wrap returns the transport itself: what it is given goes unused, because New has said
// what is behind. It is what s3store.Options.Wrap wants.
func (t *Trip) Wrap(http.RoundTripper) http.RoundTripper { return t }

// Seed returns the seed that the faults follow from.
func (t *Trip) Seed() uint64 { return t.seed }

// Add adds a rule after those that are there.
func (t *Trip) Add(r Rule) {
	r.Nth = max(r.Nth, 1)
	if r.Times == 0 {
		r.Times = 1
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.rules = append(t.rules, &r)
}

// SetRates replaces the rates.
func (t *Trip) SetRates(rates ...Rate) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.rates = rates
}

// Heal drops all rules and rates.
func (t *Trip) Heal() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.rules, t.rates = nil, nil
}

// Met returns how many requests have met a fault.
func (t *Trip) Met(f Fault) int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.met[f]
}

// Requests returns how many requests there were for op, faults or not; for Any, all.
func (t *Trip) Requests(op Op) int {
	t.mu.Lock()
	defer t.mu.Unlock()
	if op != Any {
		return t.n[op]
	}
	sum := 0
	for _, n := range t.n {
		sum += n
	}
	return sum
}

// Settle waits until all late requests have been passed on.
func (t *Trip) Settle() { t.late.Wait() }

// plan is what was decided about a request when it began.
type plan struct {
	Rule
	op   Op
	dice uint64 // where to cut, which bit to flip
}

// begin decides what a request meets.
func (t *Trip) begin(r *http.Request) plan {
	t.mu.Lock()
	defer t.mu.Unlock()
	op := opOf(r)
	p := plan{Rule: t.choose(op, key(r)), op: op, dice: t.rng.Uint64()}
	t.n[op]++
	if p.Fault != None {
		t.met[p.Fault]++
	}
	return p
}

// choose returns the rule that applies: possibly one made of the rates.
func (t *Trip) choose(op Op, key string) Rule {
	// Drawn for each request, so that one rule more does not change what the
	// others meet.
	x := t.rng.Float64()
	for i, r := range t.rules {
		if r.Op != Any && r.Op != op || !strings.Contains(key, r.Key) {
			continue
		}
		if r.Nth > 1 {
			r.Nth--
			continue
		}
		if r.Times > 0 {
			r.Times--
		}
		if r.Times == 0 {
			t.rules = slices.Delete(t.rules, i, i+1)
		}
		return *r
	}
	for _, rate := range t.rates {
		if rate.Op != Any && rate.Op != op {
			continue
		}
		if x -= rate.P; x < 0 {
			return Rule{Fault: rate.Fault}
		}
	}
	return Rule{}
}

// RoundTrip passes a request on, or does what was planned for it.
func (t *Trip) RoundTrip(r *http.Request) (*http.Response, error) {
	p := t.begin(r)
	if p.Wait != nil && p.Fault != Late && p.Fault != SlowBody {
		if err := p.Wait(r.Context()); err != nil {
			return nil, closing(r, err)
		}
	}
	if err := r.Context().Err(); err != nil {
		return nil, closing(r, err)
	}
	return t.meet(r, p)
}

// Pause returns a Wait that lasts for d, or until the context ends.
func Pause(d time.Duration) func(context.Context) error {
	return func(ctx context.Context) error {
		timer := time.NewTimer(d)
		defer timer.Stop()
		select {
		case <-timer.C:
			return nil
		case <-ctx.Done():
			return fmt.Errorf("paused for %v: %w", d, ctx.Err())
		}
	}
}
