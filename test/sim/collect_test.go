package sim

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"github.com/bough-db/bough/cow"
)

// collecting is how a run collects what nothing can reach any more.
type collecting struct {
	weight int           // how often a collection begins; 0: never
	leap   int           // how often a long time goes by
	keeps  cow.Retention // of all branches
	opts   cow.CollectOptions
}

// forever keeps every barrier.
var forever = cow.Retention{Tiers: []cow.Tier{{Age: 50 * 365 * 24 * time.Hour}}}

// drawCollecting says which collections a run has: half of the runs have none, and
// keep everything.
func drawCollecting(rng *rand.Rand) collecting {
	c := collecting{keeps: forever}
	if rng.IntN(2) == 0 {
		return c
	}
	c.weight = 2 + rng.IntN(8)
	c.leap = rng.IntN(4)
	c.keeps = []cow.Retention{
		forever,
		{},
		{Tiers: []cow.Tier{{Age: time.Minute}}},
		{Tiers: []cow.Tier{{Age: time.Minute}, {Age: 12 * time.Hour, Every: 10 * time.Second}}},
	}[rng.IntN(4)]
	c.opts = cow.CollectOptions{
		Full: true, Recent: -1, Grace: []time.Duration{0, 20 * time.Second}[rng.IntN(2)],
		Sweep: rng.IntN(4) == 0, PackBlocks: []int{1, 64, 4096}[rng.IntN(3)],
	}
	if rng.IntN(2) == 0 {
		c.opts.Recent = 30 * time.Second
	}
	return c
}

// forgets tells whether barriers go that are not a head.
func (c *collecting) forgets() bool { return c.weight > 0 && c.keeps.String() != forever.String() }

// gone returns the errors that are right where a barrier is asked for that need not be
// kept.
func (c *collecting) gone() []error {
	if !c.forgets() {
		return nil
	}
	return []error{cow.ErrNotKept, cow.ErrNoPoint}
}

// gc collects on a host.
func (w *world) gc(h *host) bool {
	inc := h.inc
	if h.paused || inc == nil || !inc.up || inc.stopping || inc.collecting {
		return false
	}
	inc.collecting = true
	opts := w.conf.collecting.opts
	var rep *cow.CollectReport
	w.start(inc, "collect", func(ctx context.Context) (err error) {
		rep, err = inc.store.Collect(ctx, opts)
		return err
	}, func(err error) {
		inc.collecting = false
		if err != nil {
			w.mustBe(inc, err, "collect")
			return
		}
		for _, p := range rep.Problems {
			w.say("problem %v %s: %s", inc, p.Branch, p.Detail)
			if inc.faults == 0 && inc.spoiled == 0 && !w.takenFrom(inc.host, p.Branch) {
				w.fail("%v: collect: %s: %s", inc, p.Branch, p.Detail)
			}
		}
		w.collected += rep.Deleted
	})
	return true
}

// takenFrom tells whether another host has tried to take the branch: a host that does
// not know yet may have journals in its view of the log that are no part of it.
func (w *world) takenFrom(h *host, id cow.BranchID) bool {
	return slices.ContainsFunc(w.branches, func(b *branch) bool {
		return b.id == id && slices.ContainsFunc(b.attempts, func(a *attempt) bool { return a.inc.host != h })
	})
}

// leap lets a long time go by, with everything that is under way in the middle of it.
// Nobody sleeps for a day in the middle of making a branch, and nothing is on its way to
// the store for as long.
func (w *world) leap() {
	d := []time.Duration{time.Minute, 10 * time.Minute, 2 * time.Hour, 30 * time.Hour}[w.rng.IntN(4)]
	making := func(t *task) bool {
		return strings.HasPrefix(t.what, "create") || strings.HasPrefix(t.what, "rename") || strings.HasPrefix(t.what, "undelete") || strings.HasPrefix(t.what, "collect")
	}
	if len(w.late) > 0 || slices.ContainsFunc(w.tasks, making) || slices.ContainsFunc(w.branches, func(b *branch) bool { return b.created == maybe }) {
		d = time.Minute
	}
	w.say("leap    %v", d)
	w.rest(d)
}

// undelete brings a deleted branch back, if not all of it is gone.
func (w *world) undelete(inc *incarnation, b *branch) {
	what := "undelete " + b.name
	id := b.id
	b.deleted = maybe
	w.start(inc, what, func(ctx context.Context) error {
		_, err := inc.store.UndeleteBranch(ctx, id, "")
		return err
	}, func(err error) {
		if err == nil {
			b.back = w.tick()
			if b.deleting == 0 { // else it may go again
				b.deleted = no
			}
			return
		}
		w.mustBe(inc, err, what, cow.ErrNotFound, cow.ErrExists)
	})
}

// mayGo tells whether a collector may remove an object of this kind, which nobody else
// does. Whether somebody needed it is seen when that is read.
func (w *world) mayGo(kind string) error {
	if w.conf.collecting.weight == 0 {
		return errors.New("nobody collects")
	}
	switch kind {
	case "format", "projects":
		return fmt.Errorf("an object of kind %s", kind)
	}
	return nil
}
