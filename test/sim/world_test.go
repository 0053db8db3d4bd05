package sim

import (
	"context"
	"errors"
	"fmt"
	"hash"
	"hash/fnv"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/bough-db/bough/cow"
	"github.com/bough-db/bough/objstore/memstore"
	"github.com/bough-db/bough/vfs/memfs"
)

// world is everything: the store, the hosts, the clients, and the scheduler, which
// is the goroutine that runs the test. All others are at rest whenever it decides
// something.
type world struct {
	seed   uint64
	rng    *rand.Rand
	conf   config
	faults faults
	timer  *time.Timer

	objects  *memstore.Store
	hosts    []*host
	branches []*branch
	named    int // branches made so far
	stamps   stamp
	clock    clock
	tasks    []*task // under way
	started  int

	collected int // objects that collectors have deleted
	splits    splits

	mu     sync.Mutex
	parked []*parked
	late   []*late
	ended  []*task
	open   bool // nothing waits any more

	log     trace
	steps   int
	failure error // the first thing that is wrong
}

// task is something that a client has asked of a host.
type task struct {
	n      int
	what   string
	inc    *incarnation
	cancel context.CancelFunc
	err    error
	finish func(error) // nil if nobody wants to know any more
	lost   func()      // called when the host dies before; may be nil
}

// tick counts an event.
func (w *world) tick() clock {
	w.clock++
	return w.clock
}

// start has a client do something. finish is called with the outcome, unless the
// host dies before.
func (w *world) start(inc *incarnation, what string, run func(context.Context) error, finish func(error)) *task {
	ctx, cancel := context.WithCancel(inc.ctx)
	t := &task{n: w.started, what: what, inc: inc, cancel: cancel, finish: finish}
	w.started++
	w.tasks = append(w.tasks, t)
	w.say("start   %v #%d %s", inc, t.n, what)
	go func() {
		err := run(ctx)
		w.mu.Lock()
		defer w.mu.Unlock()
		t.err = err
		w.ended = append(w.ended, t)
	}()
	return t
}

// collect takes note of the tasks that have ended.
func (w *world) collect() {
	w.mu.Lock()
	ended := w.ended
	w.ended = nil
	w.mu.Unlock()
	slices.SortFunc(ended, func(a, b *task) int { return a.n - b.n })
	for _, t := range ended {
		w.tasks = slices.DeleteFunc(w.tasks, func(o *task) bool { return o == t })
		t.cancel()
		if t.finish == nil {
			continue
		}
		w.tick()
		w.say("end     %v #%d %s: %s", t.inc, t.n, t.what, outcome(t.err))
		t.finish(t.err)
	}
}

// chance draws.
func (w *world) chance(p float64) bool { return p > 0 && w.rng.Float64() < p }

// fail notes that something is wrong. The first counts.
func (w *world) fail(format string, args ...any) {
	if w.failure == nil {
		w.failure = fmt.Errorf(format, args...)
		w.say("WRONG   %v", w.failure)
	}
}

// rest lets time pass, a little for most steps, and returns when every other
// goroutine waits for the scheduler or for more time. The little differs from step
// to step: so no two timers ever go off at the same time, the order of which
// would be anybody's guess.
func (w *world) rest(d time.Duration) {
	w.timer.Reset(d + time.Duration(1+w.rng.IntN(4000)))
	<-w.timer.C
	w.collect()
}

// say adds a line to the trace.
func (w *world) say(format string, args ...any) {
	w.log.add(w.steps, format, args...)
}

// trace keeps the last lines, and a hash of all.
type trace struct {
	start time.Time
	buf   []byte
	lines []string
	next  int
	hash  hash.Hash64
	all   func(string) // if not nil, gets every line
}

const traceLines = 120

func newTrace() trace { return trace{start: time.Now(), hash: fnv.New64a()} }

func (t *trace) add(step int, format string, args ...any) {
	t.buf = fmt.Appendf(t.buf[:0], "%5d %11.6f ", step, time.Since(t.start).Seconds())
	t.buf = fmt.Appendf(t.buf, format, args...)
	_, _ = t.hash.Write(t.buf)
	line := string(t.buf)
	if t.all != nil {
		t.all(line)
	}
	if len(t.lines) < traceLines {
		t.lines = append(t.lines, line)
		return
	}
	t.lines[t.next] = line
	t.next = (t.next + 1) % traceLines
}

// tail returns the last lines, oldest first.
func (t *trace) tail() []string {
	return append(slices.Clone(t.lines[t.next:]), t.lines[:t.next]...)
}

func newWorld(seed uint64) *world {
	w := &world{
		seed: seed, rng: rand.New(rand.NewPCG(seed, 0x626f756768)), log: newTrace(),
		objects: memstore.New(memstore.Options{}), timer: time.NewTimer(time.Hour),
	}
	w.conf = drawConfig(w.rng)
	w.conf.collecting = drawCollecting(rand.New(rand.NewPCG(seed, 0x636f6c6c656374)))
	w.faults = w.conf.faults
	w.setHosts()
	return w
}

// setHosts makes the hosts that the configuration wants.
func (w *world) setHosts() {
	w.hosts = nil
	for i := range w.conf.hosts {
		w.hosts = append(w.hosts, &host{w: w, name: fmt.Sprintf("h%d", i), mem: memfs.New(memfs.Options{})})
	}
}

// run is one simulation of some steps.
func (w *world) run(steps int) {
	w.say("%v", w.conf)
	w.begin()
	for w.steps = 1; w.steps <= steps && w.failure == nil; w.steps++ {
		w.step()
	}
	if w.failure == nil {
		w.finish()
	}
	w.tearDown()
}

// project is the name of the only project.
const project = "p"

// begin makes a project without any faults.
func (w *world) begin() {
	w.open = true
	h := w.hosts[0]
	w.boot(h)
	w.await("boot")
	if w.failure != nil {
		return
	}
	_, info, err := h.inc.store.CreateProject(h.inc.ctx, project, cow.ProjectOptions{Size: deviceBytes})
	if err != nil {
		w.fail("create project: %v", err)
		return
	}
	b := &branch{name: info.Name, id: info.ID, created: yes, durability: cow.DurabilityLocal}
	b.now = newHistory(b.name, &origin{state: make([]stamp, len(cells))})
	w.branches = append(w.branches, b)
	w.open = false
}

// patience is how long, in virtual time, anything may take without faults.
const patience = 10 * time.Minute

// await waits until all tasks have ended.
func (w *world) await(what string) {
	for deadline := time.Now().Add(patience); len(w.tasks) > 0; {
		if time.Now().After(deadline) {
			w.fail("stuck: %s: %v", what, w.stuck())
			return
		}
		w.rest(100 * time.Millisecond)
	}
}

func (w *world) stuck() error {
	var errs []error
	for _, t := range w.tasks {
		errs = append(errs, fmt.Errorf("%v #%d %s", t.inc, t.n, t.what))
	}
	for _, p := range w.ready() {
		errs = append(errs, fmt.Errorf("%v %v", p.inc, p))
	}
	return errors.Join(errs...)
}

// release lets everything go on that waits, and makes nothing wait from then on.
func (w *world) release() {
	w.faults = faults{}
	for _, h := range w.hosts {
		h.paused = false
		h.mem.SetCapacity(0)
	}
	w.mu.Lock()
	w.open = true
	w.mu.Unlock()
	for _, p := range w.ready() {
		if !p.done {
			p.err = p.effect()
		}
		w.answer(p, p.err)
	}
}

// tearDown ends all goroutines. After a failure the hosts just die.
func (w *world) tearDown() {
	w.release()
	for _, h := range w.hosts {
		if h.inc != nil {
			w.crash(h, memfs.Kill)
		}
	}
	deadline := time.Now().Add(patience)
	for len(w.tasks) > 0 && time.Now().Before(deadline) {
		w.rest(time.Second)
	}
	if len(w.tasks) > 0 {
		w.fail("stuck in the end: %v", w.stuck())
	}
	w.timer.Stop()
}
