package sim

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/bough-db/bough/cow"
)

// splits counts takeovers of a branch from a process that goes on living, and does not
// know: split brains.
type splits struct {
	all    int
	paused int // that process was paused
	flying int // it had segments on their way to the store
	asleep int // it was paused, and longer than the collectors keep anything
	atOnce int // others were taking the branch at the same time
}

func (s *splits) add(o splits) {
	s.all += o.all
	s.paused += o.paused
	s.flying += o.flying
	s.asleep += o.asleep
	s.atOnce += o.atOnce
}

// noteSplit counts who else has the branch that a process has just taken over.
func (w *world) noteSplit(s *session, try *attempt) {
	for _, o := range s.b.attempts {
		if o != try && o.inc != s.inc && o.end >= s.begin {
			w.splits.atOnce++
			break
		}
	}
	for _, h := range w.hosts {
		if h.inc == nil || h.inc == s.inc || h.inc.session(s.b) == nil {
			continue
		}
		w.splits.all++
		if h.paused {
			w.splits.paused++
			if w.conf.collecting.forgets() && time.Since(h.pausedAt) > time.Hour {
				w.splits.asleep++
			}
		}
		prefix := fmt.Sprintf("branches/%s/seg/", s.b.id)
		w.mu.Lock()
		for _, p := range w.parked {
			if p.inc == h.inc && !p.disk && strings.HasPrefix(p.name, prefix) && p.late != nil {
				w.splits.flying++
				break
			}
		}
		w.mu.Unlock()
	}
}

// splitSeeds is where the seeds of TestSplitBrain begin.
const splitSeeds = 2_000_000

// TestSplitBrain has hosts that take each other's branches all the time, while the one
// that had it is paused, for a moment or for days, has segments on their way, or is
// taking it back: at least a thousand times. None of them acknowledges what another one
// does not find (I4), and what is found is a prefix (I2).
func TestSplitBrain(t *testing.T) {
	rounds := 1000
	if testing.Short() {
		rounds = 100
	}
	var seen splits
	for seed := uint64(splitSeeds); seen.all < rounds; seed++ {
		var failure error
		synctest.Test(t, func(*testing.T) {
			w := newWorld(seed)
			rng := rand.New(rand.NewPCG(seed, 0x73706c6974))
			c := &w.conf
			c.hosts, c.shared, c.remote = 2+rng.IntN(2), true, true
			c.crash, c.wipe, c.full, c.pause, c.take = 0, 0, 0, 8, 40
			c.faults = faults{hold: 0.1, late: 0.05, lost: 0.05}
			c.collecting = collecting{
				weight: 5, leap: 4, keeps: cow.Retention{},
				opts: cow.CollectOptions{Full: true, Recent: -1, Grace: 20 * time.Second, PackBlocks: 64},
			}
			w.faults = c.faults
			w.setHosts()
			w.run(400)
			failure = w.failure
			seen.add(w.splits)
		})
		collect()
		if failure != nil {
			t.Fatalf("seed %d: %v", seed, failure)
		}
	}
	t.Logf("%d takeovers from a living process: %d of them paused, %d for longer than anything is kept, %d with segments on their way; %d at the same time as others",
		seen.all, seen.paused, seen.asleep, seen.flying, seen.atOnce)
	if least := seen.all / 50; min(seen.paused, seen.asleep, seen.flying, seen.atOnce) < least {
		t.Errorf("too few of a kind, want %d: %+v", least, seen)
	}
}
