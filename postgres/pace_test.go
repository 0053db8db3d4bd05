package postgres

import (
	"math/rand/v2"
	"testing"
	"time"
)

// cycles models what clients make of a pause: each comes back within spread after a
// flush, evenly, and the next flush takes those with it that come within the pause after
// the first. It returns transactions a second.
func cycles(clients int, spread, flush, pause time.Duration, noise *rand.Rand) float64 {
	const rounds = 40
	due := make([]time.Duration, clients)
	back := func(at time.Duration) time.Duration {
		return at + time.Duration(noise.Int64N(int64(spread)))
	}
	for i := range due {
		due[i] = back(0)
	}
	var now time.Duration
	commits := 0
	for range rounds {
		first := due[0]
		for _, d := range due {
			first = min(first, d)
		}
		begun := max(now, first) + pause
		now = begun + flush
		for i, d := range due {
			if d <= begun {
				commits++
				due[i] = back(now)
			}
		}
	}
	return float64(commits) / now.Seconds()
}

// TestPacerFindsThePause: whatever the clients need to come back, the pause that is found
// makes nearly as many transactions as the best there is, and it is found soon.
func TestPacerFindsThePause(t *testing.T) {
	for _, tt := range []struct {
		clients       int
		spread, flush time.Duration
	}{
		{2, 400 * time.Microsecond, 37 * time.Millisecond},
		{8, 1300 * time.Microsecond, 37 * time.Millisecond},
		{8, 4 * time.Millisecond, 50 * time.Millisecond},
		{50, 8 * time.Millisecond, 37 * time.Millisecond},
		{50, 25 * time.Millisecond, 50 * time.Millisecond},
		{8, 2 * time.Millisecond, 2 * time.Millisecond},
	} {
		noise := rand.New(rand.NewPCG(1, uint64(tt.clients)))
		rate := func(pause time.Duration) float64 {
			return cycles(tt.clients, tt.spread, tt.flush, pause, noise)
		}
		best := 0.0
		for pause := time.Duration(0); pause <= pauseMost; pause += pauseLeast {
			best = max(best, rate(pause))
		}
		first := firstPause(groupOf(tt.clients), 2)
		p := &pacer{first: first, pause: first}
		steps := 0
		for ; !p.found; steps++ {
			p.next(rate(p.pause))
		}
		if got := rate(p.pause); got < 0.9*best || steps > 14 {
			t.Errorf("%d clients that come back within %v, flushes of %v: a pause of %v after %d steps makes %.0f transactions a second, the best one %.0f",
				tt.clients, tt.spread, tt.flush, p.pause, steps, got, best)
		}
	}
}

// TestPacerMeetsAnotherLoad: when a pause that was found makes much less than it did, the
// search begins from the longest one again; else it looks a step further down.
func TestPacerMeetsAnotherLoad(t *testing.T) {
	p := &pacer{first: 8 * time.Millisecond, pause: 8 * time.Millisecond}
	for !p.found {
		rate := 100.0
		if p.pause < 4*time.Millisecond {
			rate = 50
		}
		p.next(rate)
	}
	found := p.pause
	if found < 4*time.Millisecond || found > 8*time.Millisecond {
		t.Fatalf("found a pause of %v", found)
	}
	p.next(98)
	if p.found || p.pause >= found {
		t.Errorf("after a while: a pause of %v, want a shorter one than %v to be tried", p.pause, found)
	}
	p.next(50)
	if !p.found || p.pause != found {
		t.Errorf("the shorter one was no good: a pause of %v, want %v", p.pause, found)
	}
	p.next(60)
	if p.found || p.pause != 8*time.Millisecond {
		t.Errorf("another load: a pause of %v, want the longest", p.pause)
	}
}
