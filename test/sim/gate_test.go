package sim

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
)

var (
	// errInjected is what a fault returns that says nothing of what happened.
	errInjected = errors.New("injected fault")
	// errCrashed is what everything returns to a process whose machine has stopped.
	errCrashed = errors.New("machine has crashed")
)

// parked is an operation of a host on its way: it waits for the scheduler to decide
// what becomes of it.
type parked struct {
	inc  *incarnation
	disk bool // or else of the store
	verb string
	name string // key or path
	off  int64
	size int
	n    int // which of the operations of its process that look the same it is

	// effect carries the operation out; the scheduler calls it.
	effect func() error
	// late makes an effect that outlives the operation, of one that changes the
	// store; else nil.
	late func() func() error
	// spoil falsifies what was read, if it can be; else nil.
	spoil func() string
	// torn leaves a part of a write to a disk, if it is one; else nil.
	torn func(whole bool)

	done bool // it has had its effect, and its answer is held back
	err  error
	ch   chan struct{} // closed when the operation is over
}

func (p *parked) String() string {
	s := fmt.Sprintf("%s %s", p.verb, p.name)
	if p.size > 0 {
		s += fmt.Sprintf(" %d+%d", p.off, p.size)
	}
	return s
}

// order puts operations into an order that does not depend on which goroutine was
// quicker.
func order(a, b *parked) int {
	return cmp.Or(
		cmp.Compare(a.inc.host.name, b.inc.host.name), cmp.Compare(a.inc.n, b.inc.n),
		cmp.Compare(a.verb, b.verb), cmp.Compare(a.name, b.name),
		cmp.Compare(a.off, b.off), cmp.Compare(a.size, b.size), cmp.Compare(a.n, b.n))
}

// park waits for the scheduler to carry out p, and returns the outcome. If ctx ends
// first the caller goes on; an operation that changes the store may have its effect
// later all the same.
func (inc *incarnation) park(ctx context.Context, p *parked) error {
	w := inc.host.w
	p.inc = inc
	w.mu.Lock()
	switch {
	case inc.dead:
		w.mu.Unlock()
		return errCrashed
	case w.open:
		w.mu.Unlock()
		return p.effect()
	}
	id := p.verb + p.name
	p.n = inc.seen[id]
	inc.seen[id]++
	p.ch = make(chan struct{})
	w.parked = append(w.parked, p)
	w.mu.Unlock()
	select {
	case <-p.ch:
		return p.err
	case <-ctx.Done():
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if i := slices.Index(w.parked, p); i >= 0 {
		w.parked = slices.Delete(w.parked, i, i+1)
		w.leave(p)
	}
	return ctx.Err()
}

// leave notes that the caller of p has gone, and that p may still have its effect.
// w.mu is held.
func (w *world) leave(p *parked) {
	if p.late != nil && !p.done {
		w.late = append(w.late, &late{p: p, do: p.late()})
	}
}

// late is an operation whose caller has given it up, and whose effect may come yet.
type late struct {
	p  *parked
	do func() error
}

// ready returns the parked operations that may go on, in order.
func (w *world) ready() []*parked {
	w.mu.Lock()
	defer w.mu.Unlock()
	var all []*parked
	for _, p := range w.parked {
		if !p.inc.host.paused {
			all = append(all, p)
		}
	}
	slices.SortFunc(all, order)
	return all
}

// answer ends a parked operation.
func (w *world) answer(p *parked, err error) {
	w.mu.Lock()
	i := slices.Index(w.parked, p)
	if i >= 0 {
		w.parked = slices.Delete(w.parked, i, i+1)
	}
	w.mu.Unlock()
	if i < 0 {
		return // its caller has gone: the task that had begun it ended in the last step
	}
	p.err = err
	close(p.ch)
}

// decide lets one parked operation go on, in one way or another.
func (w *world) decide(p *parked) {
	f := &w.faults
	if p.done {
		if w.chance(f.lost) && p.err == nil {
			w.say("lost    %v %v", p.inc, p)
			p.inc.faults++
			w.answer(p, errInjected)
			return
		}
		w.say("answer  %v %v: %s", p.inc, p, outcome(p.err))
		w.answer(p, p.err)
		return
	}
	if p.disk {
		w.decideDisk(p)
		return
	}
	switch {
	case w.chance(f.before):
		w.say("fail    %v %v", p.inc, p)
		p.inc.faults++
		w.answer(p, errInjected)
	case p.late != nil && w.chance(f.late):
		w.say("give up %v %v: it may come later", p.inc, p)
		p.inc.faults++
		w.leave(p)
		w.answer(p, errInjected)
	case w.chance(f.hold):
		p.err = p.effect()
		p.done = true
		w.say("hold    %v %v: %s", p.inc, p, outcome(p.err))
	default:
		err := p.effect()
		if err == nil && p.spoil != nil && w.chance(f.spoil) {
			p.inc.spoiled++
			w.say("spoil   %v %v: %s", p.inc, p, p.spoil())
		} else {
			w.say("do      %v %v: %s", p.inc, p, outcome(err))
		}
		w.answer(p, err)
	}
}

func (w *world) decideDisk(p *parked) {
	switch {
	case w.chance(w.faults.disk):
		w.say("fail    %v %v", p.inc, p)
		p.inc.faults++
		if p.torn != nil {
			p.torn(false)
		}
		w.answer(p, errInjected)
	case w.chance(w.faults.hold):
		p.err = p.effect()
		p.done = true
		w.say("hold    %v %v: %s", p.inc, p, outcome(p.err))
	default:
		err := p.effect()
		w.say("do      %v %v: %s", p.inc, p, outcome(err))
		w.answer(p, err)
	}
}

// land lets one operation have its effect whose caller has gone, or drops it.
func (w *world) land() {
	i := w.rng.IntN(len(w.late))
	l := w.late[i]
	w.late = slices.Delete(w.late, i, i+1)
	if w.rng.IntN(4) == 0 {
		w.say("drop    %v %v", l.p.inc, l.p)
		return
	}
	w.say("late    %v %v: %s", l.p.inc, l.p, outcome(l.do()))
}
