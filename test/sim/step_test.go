package sim

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/bough-db/bough/cow"
	"github.com/bough-db/bough/vfs/memfs"
)

// config is what one run consists of: every seed has faults of some kinds only, so
// that the rare ones are not always hidden behind the others.
type config struct {
	hosts      int
	shared     bool
	through    bool
	remote     bool // durability remote is used
	journals   int  // budget, in files
	seal       time.Duration
	checkpoint int // segments
	uploads    int
	memory     int64
	frames     bool
	flying     int // operations of clients at the same time
	chunks     int // percentage of changes that are chunks
	eager      int // percentage of steps that let an operation go on

	collecting collecting

	faults faults
	// Weights of what happens to hosts.
	crash, pause, wipe, take, full int
}

// faults are the probabilities of what may happen to an operation.
type faults struct {
	before float64 // it fails and does nothing
	late   float64 // it fails and may happen later
	lost   float64 // its answer is lost
	hold   float64 // its answer is held back
	spoil  float64 // what it reads is falsified
	disk   float64 // the disk fails
}

func drawConfig(rng *rand.Rand) config {
	pick := func(all ...int) int { return all[rng.IntN(len(all))] }
	c := config{
		hosts:      1 + rng.IntN(3),
		through:    rng.IntN(4) == 0,
		remote:     rng.IntN(2) == 0,
		journals:   pick(4, 5, 8),
		seal:       time.Duration(pick(20, 200, 2000)) * time.Millisecond,
		checkpoint: pick(1, 2, 4, 64),
		uploads:    pick(1, 2, 3),
		memory:     int64(pick(0, 200<<10, 1<<20)),
		frames:     rng.IntN(8) == 0,
		flying:     pick(1, 3, 6),
		chunks:     pick(0, 0, 0, 4),
		eager:      pick(50, 75, 90),
		crash:      pick(0, 2, 6),
		pause:      pick(0, 0, 6),
		full:       pick(0, 0, 0, 2),
	}
	c.shared = c.hosts > 1 || rng.IntN(2) == 0
	if c.shared {
		c.wipe = pick(0, 0, 2)
	}
	if c.hosts > 1 {
		c.take = pick(0, 3, 6)
	}
	p := func() float64 {
		if rng.IntN(2) == 0 {
			return 0
		}
		return []float64{0.01, 0.05, 0.3}[rng.IntN(3)]
	}
	if rng.IntN(4) > 0 {
		c.faults = faults{before: p(), late: p(), lost: p(), hold: p()}
	}
	if rng.IntN(4) == 0 {
		c.faults.spoil = 0.03
	}
	if rng.IntN(6) == 0 {
		c.faults.disk = 0.01
	}
	return c
}

func (c config) String() string {
	type plain config
	return fmt.Sprintf("%+v", plain(c))
}

// step decides one thing.
func (w *world) step() {
	ready := w.ready()
	switch {
	case len(ready) > 0 && (w.rng.IntN(100) < w.conf.eager || len(w.tasks) >= w.conf.flying && w.rng.IntN(10) > 0):
		w.decide(ready[w.rng.IntN(len(ready))])
	case w.act():
	case len(ready) > 0:
		w.decide(ready[w.rng.IntN(len(ready))])
	default:
		w.rest([]time.Duration{time.Millisecond, 30 * time.Millisecond, 300 * time.Millisecond, 3 * time.Second, 20 * time.Second}[w.rng.IntN(5)])
		return
	}
	w.rest(0)
}

// act starts something, and tells whether it found something to start.
func (w *world) act() bool {
	h := w.hosts[w.rng.IntN(len(w.hosts))]
	c := &w.conf
	events := []struct {
		weight int
		do     func() bool
	}{
		{100, func() bool { return w.client(h) }},
		{c.crash, func() bool { return w.die(h) }},
		{c.pause, func() bool {
			if h.inc != nil {
				h.paused, h.pausedAt = !h.paused, time.Now()
				w.say("pause   %v: %v", h.inc, h.paused)
			}
			return h.inc != nil
		}},
		{c.wipe, func() bool {
			if h.inc != nil {
				return false
			}
			w.wipe(h)
			return true
		}},
		{c.full, func() bool { w.setFull(h, w.rng.IntN(2) == 0); return true }},
		{10, func() bool {
			if len(w.late) == 0 {
				return false
			}
			w.land()
			return true
		}},
		{c.collecting.weight, func() bool { return w.gc(h) }},
		{c.collecting.leap, func() bool { w.leap(); return true }},
		{10, func() bool {
			w.rest([]time.Duration{time.Millisecond, 30 * time.Millisecond, 300 * time.Millisecond, 3 * time.Second}[w.rng.IntN(4)])
			return true
		}},
	}
	total := 0
	for _, e := range events {
		total += e.weight
	}
	for range 4 {
		n := w.rng.IntN(total)
		for _, e := range events {
			if n -= e.weight; n < 0 {
				if e.do() {
					return true
				}
				break
			}
		}
	}
	return false
}

// die crashes a host.
func (w *world) die(h *host) bool {
	if h.inc == nil {
		return false
	}
	w.crash(h, memfs.Modes()[w.rng.IntN(4)])
	if w.conf.wipe > 0 && w.rng.IntN(4) == 0 {
		w.wipe(h)
	}
	return true
}

// client starts an operation of a client on a host.
func (w *world) client(h *host) bool {
	if h.paused || len(w.tasks) >= w.conf.flying+4 {
		return false
	}
	inc := h.inc
	switch {
	case inc == nil:
		w.boot(h)
		return true
	case !inc.up || inc.stopping:
		return false
	}
	if len(inc.sessions) > 0 && w.rng.IntN(100) < 85 {
		return w.onSession(inc.sessions[w.rng.IntN(len(inc.sessions))])
	}
	return w.onBranch(inc, w.branches[w.rng.IntN(len(w.branches))])
}

// onSession starts something on an attached branch.
func (w *world) onSession(s *session) bool {
	switch {
	case s.closing || s.busy:
		return false
	case !s.settled:
		if w.rng.IntN(3) == 0 {
			w.closeBranch(s)
		} else {
			w.settle(s)
		}
		return true
	case s.dev.Err() != nil && w.rng.IntN(4) == 0:
		w.closeBranch(s)
		return true
	}
	switch k := w.rng.IntN(100); {
	case k < 48 || s.burst > 0:
		return w.write(s)
	case k < 70:
		w.flush(s)
	case k < 88:
		w.read(s)
	case k < 92:
		return w.child(s.inc, s.b)
	case k < 94 && w.conf.remote:
		w.setDurability(s)
	case k < 95:
		w.publish(s)
	case k < 96:
		return w.lookBack(s.inc, s.b)
	case k < 97:
		w.closeBranch(s)
	default:
		w.flush(s)
	}
	return true
}

const branchesMax = 5

// child makes a branch of b if there is room for one.
func (w *world) child(inc *incarnation, b *branch) bool {
	if b.created != yes || b.deleted == yes || b.now.base.state == nil || w.named >= branchesMax {
		return false
	}
	if s := inc.session(b); s != nil && (s.h == nil || s.h.base.state == nil) {
		return false
	}
	w.create(inc, b)
	return true
}

// onBranch starts something with a branch that the process has not attached.
func (w *world) onBranch(inc *incarnation, b *branch) bool {
	switch {
	case b.deleted == yes && w.conf.collecting.weight > 0 && w.rng.IntN(8) == 0:
		w.undelete(inc, b)
		return true
	case b.deleted != no && w.rng.IntN(4) > 0:
		return false
	case b.created == maybe:
		if w.rng.IntN(4) > 0 {
			return false
		}
		w.look(inc, b)
		return true
	case inc.session(b) != nil:
		return false
	}
	switch k := w.rng.IntN(100); {
	case k < 70:
		// Each attached branch wants a journal file of its own.
		if len(inc.sessions) >= w.conf.journals-2 {
			return false
		}
		take := cow.TakeOverNone
		if w.rng.IntN(10) < w.conf.take {
			take = cow.TakeOverLossy
			if w.conf.remote && w.rng.IntN(2) == 0 {
				take = cow.TakeOverStored
			}
		}
		w.openBranch(inc, b, take)
	case k < 80:
		return w.child(inc, b)
	case k < 84 && len(w.branches) > 1 && b.name != cow.MainBranch && b.other == "":
		w.deleteBranch(inc, b)
	case k < 88 && b.other == "" && b.deleted == no:
		w.rename(inc, b)
	case k < 91:
		w.stop(inc.host)
	case k < 96 && b.deleted == no:
		return w.lookBack(inc, b)
	default:
		return false
	}
	return true
}

// finish ends the run: all faults end, every process is stopped and started once
// more, and everything that should be there has to be.
func (w *world) finish() {
	w.say("finish")
	w.release()
	// A branch that has failed keeps its journals until it is closed, and others on
	// its host may wait for those.
	for _, h := range w.hosts {
		if h.inc == nil {
			continue
		}
		for _, s := range slices.Clone(h.inc.sessions) {
			if s.dev != nil && s.dev.Err() != nil && !s.closing {
				w.closeBranch(s)
			}
		}
	}
	w.await("what was under way")
	for _, h := range w.hosts {
		if h.inc != nil && w.failure == nil {
			w.stop(h)
		}
	}
	w.await("stopping")
	for _, l := range w.late {
		if w.rng.IntN(2) == 0 {
			w.say("late    %v %v: %s", l.p.inc, l.p, outcome(l.do()))
		}
	}
	w.late = nil
	for _, h := range w.hosts {
		if w.failure == nil {
			w.boot(h)
		}
	}
	w.await("the last start")
	for _, b := range w.branches {
		if w.failure == nil {
			w.last(b)
		}
	}
	for _, h := range w.hosts {
		if h.inc != nil && h.inc.up && w.failure == nil {
			w.stop(h)
		}
	}
	w.await("the last stop")
	if w.failure == nil {
		w.check()
	}
}

// last opens a branch for the last time, and compares it with what it should be.
func (w *world) last(b *branch) {
	h := w.hosts[0]
	if h.inc == nil || !h.inc.up {
		w.fail("%s does not start", h.name)
		return
	}
	ctx := context.Background()
	info, err := h.inc.store.Branch(ctx, project, b.name)
	if errors.Is(err, cow.ErrNotFound) && b.other != "" {
		info, err = h.inc.store.Branch(ctx, project, b.other)
	}
	switch {
	case errors.Is(err, cow.ErrNotFound):
		if b.created == yes && b.deleted == no {
			w.fail("%s is not there: %v", b.name, err)
		}
		return
	case err != nil:
		w.fail("%s: %v", b.name, err)
		return
	case b.deleted == yes:
		w.fail("%s is back from deletion", b.name)
		return
	}
	b.id, b.deleted = info.ID, no
	take := cow.TakeOverNone
	if info.Attached && info.Host != h.name {
		for _, o := range w.hosts {
			if o.name == info.Host && o.inc != nil && o.inc.up {
				h = o
			}
		}
		if h.name != info.Host {
			take = cow.TakeOverLossy
		}
	}
	w.openBranch(h.inc, b, take)
	w.await("the last open of " + b.name)
	if s := h.inc.session(b); w.failure == nil && (s == nil || !s.settled) {
		w.fail("%s can not be read without faults", b.name)
	} else if w.failure == nil {
		w.closeBranch(s)
		w.await("the last close of " + b.name)
	}
}

// check looks at the store with the eyes of a host that has never been there: all
// branches must be whole.
func (w *world) check() {
	v := &host{w: w, name: "verifier", mem: memfs.New(memfs.Options{})}
	w.hosts = append(w.hosts, v)
	w.boot(v)
	w.await("the start of a new host")
	if w.failure != nil {
		return
	}
	rep, err := v.inc.store.Check(context.Background(), cow.CheckOptions{Deep: true})
	if err != nil {
		w.fail("check: %v", err)
		return
	}
	for _, d := range rep.Damage {
		w.fail("check: %v", d)
	}
	w.stop(v)
	w.await("the stop of a new host")
}
