package main

import (
	"context"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/bough-db/bough/api"
	"github.com/bough-db/bough/cow"
	"github.com/bough-db/bough/objstore"
	"github.com/bough-db/bough/objstore/meterstore"
)

// collector removes from the store what nothing can reach any more: by itself, while
// this host changes the store, and when somebody asks.
//
// A daemon in which nobody does anything makes no requests: a round is due some time
// after something was put, and again for as long as rounds find something to do, and
// once a day, for what only gets old.
type collector struct {
	store *cow.Store
	meter *meterstore.Store
	log   *slog.Logger
	now   func() time.Time
	pace  *pacer
	// trim has mounted file systems discard their free space.
	trim func(context.Context)
	// every is how long after a change a round is due; 0 is never.
	every time.Duration
	// historyBytes is how much history may take; 0 is as much as it takes.
	historyBytes int64

	mu     sync.Mutex
	status api.CollectorStatus
	begun  time.Time // of the last round, or of the daemon
	// The store's puts and deletions, and the bytes put, when the last round had found
	// everything done.
	changes, bytes int64
	unsettled      bool // there is more to do
	// seen is the number of changes at the last look, and changedAt when it last grew.
	seen      int64
	changedAt time.Time
}

const (
	// collectEvery is how long after a change the collector works.
	collectEvery = 10 * time.Minute
	// collectDaily is how often it does without one.
	collectDaily = 24 * time.Hour
	// collectLook is how often it looks, at counters of its own process, whether a
	// round is due.
	collectLook = 10 * time.Second
	// collectCalm is how long after the last change a round has to begin for it to have met
	// all that the change has left: what is more recent is left alone.
	collectCalm = 20 * time.Minute
	// turnPuts is how many puts the collector's turn itself takes.
	turnPuts = 2
)

// run works until ctx ends.
func (c *collector) run(ctx context.Context) {
	if c.every <= 0 {
		return
	}
	c.mu.Lock()
	c.begun = c.now()
	c.mu.Unlock()
	tick := time.NewTicker(min(collectLook, c.every))
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		if c.due() {
			c.round(ctx)
		}
	}
}

// changed returns what the process has changed in the store: how often, and bytes.
func (c *collector) changed() (changes, bytes int64) {
	s := c.meter.Snapshot()
	return s[objstore.VerbPut].Requests + s[objstore.VerbDelete].Requests, s[objstore.VerbPut].Bytes
}

// due tells whether it is time for a round.
func (c *collector) due() bool {
	changes, bytes := c.changed()
	c.mu.Lock()
	defer c.mu.Unlock()
	if changes != c.seen {
		c.seen, c.changedAt = changes, c.now()
	}
	age := c.now().Sub(c.begun)
	switch {
	case age >= collectDaily:
		return true
	case c.historyBytes > 0 && bytes-c.bytes > max(c.historyBytes/8, 64<<20) && age >= c.every/10:
		return true // there may soon be more history than there may be
	}
	return age >= c.every && (c.unsettled || changes != c.changes || c.begun.Sub(c.changedAt) < collectCalm)
}

// round collects once, if it is this host's turn.
func (c *collector) round(ctx context.Context) {
	c.trim(ctx)
	changes, bytes := c.changed()
	began := c.begin()
	rep, err := c.store.CollectInTurn(ctx, cow.CollectOptions{HistoryBytes: c.historyBytes, Pace: c.pace.wait}, c.every)
	if ctx.Err() != nil {
		c.end(began, nil, nil)
		return
	}
	did := rep != nil && (rep.Packs > 0 || rep.Deleted > 0 || rep.Purged > 0 || rep.Waiting > 0)
	if err == nil && did {
		_, err = c.store.Usage(ctx)
	}
	if err != nil {
		c.log.Warn("collection failed, and is tried again", "err", err)
	}
	c.end(began, rep, err)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.changes, c.bytes, c.unsettled = changes, bytes, did || err != nil
	c.seen, _ = c.changed() // but for its own
	if rep != nil {
		c.changes += turnPuts
	}
}

// all collects all that is worth it, for somebody who waits for that.
func (c *collector) all(ctx context.Context, dryRun bool) (*cow.CollectReport, error) {
	if dryRun {
		return c.store.Collect(ctx, cow.CollectOptions{DryRun: true, Full: true, HistoryBytes: c.historyBytes})
	}
	defer c.pace.hurry()()
	began := c.begin()
	rep, err := c.store.Collect(ctx, cow.CollectOptions{Full: true, Sweep: true, HistoryBytes: c.historyBytes})
	if err == nil {
		_, err = c.store.Usage(ctx)
	}
	c.end(began, rep, err)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.unsettled = true // what is in its time of grace goes by itself
	return rep, err
}

func (c *collector) begin() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.begun = c.now()
	c.status.Running = true
	return c.begun
}

// end notes what a collection did; without report and error it was another host's turn,
// or was cut off.
func (c *collector) end(began time.Time, rep *cow.CollectReport, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := &c.status
	s.Running = false
	if rep == nil && err == nil {
		return
	}
	s.Runs++
	s.Last, s.LastSeconds, s.Error = began, c.now().Sub(began).Seconds(), ""
	if err != nil {
		s.Error = oneLine(err.Error())
	}
	if rep == nil {
		return
	}
	v := collectedView(rep)
	s.Result, s.Pressure = &v, v.Pressure
	s.WrittenBytes += rep.Written
	s.FreedBytes += rep.Freed
	if rep.Packs > 0 || rep.Deleted > 0 || len(rep.Problems) > 0 {
		c.log.Info("collected", "packs", rep.Packs, "written", rep.Written, "deleted", rep.Deleted, "freed", rep.Freed,
			"waiting", rep.Waiting, "problems", len(rep.Problems), "took", c.now().Sub(began).Round(time.Millisecond))
	}
}

// state returns what the collector does.
func (c *collector) state() api.CollectorStatus {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.status
	s.HistoryBytesMax = c.historyBytes
	return s
}

// pacer holds the collector back while branches are written to.
type pacer struct {
	busy    func() uint64 // grows while somebody commits
	hurried atomic.Int32  // somebody waits for the collector

	mu   sync.Mutex
	last uint64
	seen time.Time
}

// What the collector reads and writes, in bytes a second, while somebody commits, and
// while nobody does.
const (
	paceBusy = 8 << 20
	paceIdle = 128 << 20
	// paceLook is how often it is found out whether somebody commits.
	paceLook = 100 * time.Millisecond
)

// hurry lets the collector go on without waiting until the function that it returns is
// called.
func (p *pacer) hurry() (end func()) {
	p.hurried.Add(1)
	return func() { p.hurried.Add(-1) }
}

// wait waits for as long as that many bytes take.
func (p *pacer) wait(ctx context.Context, bytes int) error {
	rate := time.Duration(paceIdle)
	if p.isBusy() {
		rate = paceBusy
	}
	t := time.NewTimer(time.Duration(bytes) * time.Second / rate)
	defer t.Stop()
	look := time.NewTicker(paceLook)
	defer look.Stop()
	for p.hurried.Load() == 0 {
		select {
		case <-t.C:
			return ctx.Err()
		case <-look.C:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return ctx.Err()
}

// isBusy tells whether somebody has committed lately.
func (p *pacer) isBusy() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if n := p.busy(); n != p.last {
		p.last, p.seen = n, time.Now()
	}
	return time.Since(p.seen) < time.Second
}
