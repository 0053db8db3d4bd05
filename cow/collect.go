package cow

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"
)

// CollectOptions say what to collect, and how.
type CollectOptions struct {
	// DryRun changes nothing, and reports what would be done.
	DryRun bool
	// Full collects all that is worth it now. Default: what writing allows, see
	// WriteRatio, the worst first.
	Full bool
	// Recent is how long every barrier is kept whatever a branch's history says:
	// somebody may be about to make a branch there. Default: 10 minutes; less than
	// 0 is none.
	Recent time.Duration
	// Grace is how long what a pack stands for stays in the store after the pack
	// has come into use: for hosts that are reading it. Default: 5 minutes; less
	// than 0 is none.
	Grace time.Duration
	// Undelete is how long a deleted branch can come back. Default: 24 hours; less
	// than 0 is none.
	Undelete time.Duration
	// Unclaimed is how old a branch without a name has to be, to which nobody ever
	// wrote, for its creation to have been cut short. Default: 24 hours; at least an
	// hour.
	Unclaimed time.Duration
	// Sweep looks for what crashes have left in the whole store, which takes a list
	// of all objects. Once a day is enough.
	Sweep bool
	// WriteRatio is how many bytes of packs are written for each byte that was ever
	// written to a log, at most. Default: 1.
	WriteRatio float64
	// DeadRatio is which part of a run of objects has to be dead for it to be
	// packed. Default: 0.25; with Full 0.1.
	DeadRatio float64
	// HistoryBytes is how much the history of all branches together may take, as
	// stored. Beyond it the oldest goes first, whatever the branches' settings say.
	// Default: 0, as much as it takes.
	HistoryBytes int64
	// PackBlocks is how many blocks a pack is meant to have. Default: 4096, which
	// takes 32 MiB of memory.
	PackBlocks int
	// Pace is called before bytes are read or written, and may wait: for what is in
	// the foreground. Default: nobody waits.
	Pace func(ctx context.Context, bytes int) error
}

func (o *CollectOptions) setDefaults() {
	def := func(d *time.Duration, v time.Duration) {
		if *d == 0 {
			*d = v
		}
		*d = max(*d, 0)
	}
	def(&o.Recent, 10*time.Minute)
	def(&o.Grace, 5*time.Minute)
	def(&o.Undelete, 24*time.Hour)
	def(&o.Unclaimed, 24*time.Hour)
	o.Unclaimed = max(o.Unclaimed, unclaimedMin)
	if o.WriteRatio == 0 {
		o.WriteRatio = 1
	}
	if o.DeadRatio == 0 {
		o.DeadRatio = 0.25
		if o.Full {
			o.DeadRatio = 0.1
		}
	}
	if o.PackBlocks == 0 {
		o.PackBlocks = 1 << 12
	}
	if o.Pace == nil {
		o.Pace = func(context.Context, int) error { return nil }
	}
}

// CollectReport is what a collection did, or would do.
type CollectReport struct {
	Branches int   `json:"branches"`      // looked at
	Packs    int   `json:"packs"`         // made
	Written  int64 `json:"bytes_written"` // of them
	Replaced int   `json:"replaced"`      // objects that they stand for, which are to be deleted
	// Freeable is how many bytes those take, less the packs'.
	Freeable int64 `json:"bytes_freeable"`
	Deleted  int   `json:"deleted"`     // objects
	Freed    int64 `json:"bytes_freed"` // by that
	Purged   int   `json:"purged"`      // deleted branches of which nothing is left
	// Waiting counts objects that will be deleted when their time of grace is over.
	Waiting int `json:"waiting"`
	// Pressure says that the history was cut short; nil if it was not.
	Pressure *Pressure `json:"pressure,omitempty"`
	// Problems are branches that could not be collected, and why. They are whole:
	// a collection that fails leaves things as they are.
	Problems []CollectProblem `json:"problems,omitempty"`
}

// Pressure says that the history of all branches takes more than it may, and so which
// part of it is kept.
type Pressure struct {
	Bytes    int64     `json:"bytes"`     // that it took
	BytesMax int64     `json:"bytes_max"` // that it may take
	Since    time.Time `json:"since"`     // what was before is not kept
}

// CollectProblem says why a branch could not be collected.
type CollectProblem struct {
	Branch BranchID `json:"branch"`
	Detail string   `json:"detail"` // one line
}

// collector is one run of Collect.
type collector struct {
	s   *Store
	o   CollectOptions
	now time.Time
	cat *catalogue
	rep *CollectReport

	past  []pastBytes   // what only the history needs, of all branches
	limit time.Duration // of the age of history; 0 is none

	pages *pageCache // of the trees that it goes through
	raw   []byte     // the blocks of a pack
	frame [frameBlocks * BlockSize]byte
	// made has the packs that this run has put, and that wait for the second look at
	// all manifests, by their logs, which undecided has in order.
	made      map[BranchID][]made
	doomed    map[BranchID]nonce // branches that it is about to remove
	undecided []BranchID
}

// Collect removes what nothing can reach any more: it replaces runs of segments and
// old packs by new packs, deletes what packs stand for once that has been left alone
// for a while, and whole branches that were deleted. It may run at any time, with any
// number of collections, writers, readers and creators of branches, on any host, at
// the same time, and may be cut off at any point: the next one goes on from there.
// One process runs one at a time; others wait.
//
// What can not be read stops the collection of its branch; a manifest that can not be
// read, which may name anything as needed, stops all of it.
func (s *Store) Collect(ctx context.Context, o CollectOptions) (*CollectReport, error) {
	s.collectMu.Lock()
	defer s.collectMu.Unlock()
	c, err := s.newCollector(o)
	if err != nil {
		return nil, err
	}
	if err := c.run(ctx); err != nil {
		return c.rep, fmt.Errorf("collect: %w", err)
	}
	return c.rep, nil
}

func (s *Store) newCollector(o CollectOptions) (*collector, error) {
	o.setDefaults()
	c := &collector{
		s: s, o: o, now: s.now(), cat: &s.catalogue, rep: &CollectReport{}, made: map[BranchID][]made{}, doomed: map[BranchID]nonce{},
	}
	var err error
	c.pages, err = newPageCache(collectPages)
	return c, err
}

func (c *collector) run(ctx context.Context) error {
	if err := c.cat.refresh(ctx, c.s); err != nil {
		return err
	}
	if err := c.press(ctx); err != nil {
		return err
	}
	for ids := range slices.Chunk(c.due(), gatherMax) {
		seen, err := c.look(ctx, ids)
		if err != nil {
			return err
		}
		for i, id := range ids {
			if err := c.branch(ctx, id, seen[i]); err != nil {
				return err
			}
		}
	}
	if c.o.Sweep {
		if err := c.sweep(ctx); err != nil {
			return err
		}
	}
	if len(c.undecided) == 0 {
		return nil
	}
	// Whoever made a branch of a barrier before the packs were announced is seen
	// now; whoever does so later sees the packs.
	if err := c.cat.refresh(ctx, c.s); err != nil {
		return err
	}
	for _, id := range c.undecided {
		if err := c.guard(ctx, id, c.decide); err != nil {
			return err
		}
		if err := c.guard(ctx, id, c.condemn); err != nil {
			return err
		}
	}
	return nil
}

// press measures the history, if there is a bound for it, and finds out from which age
// on it has to go.
func (c *collector) press(ctx context.Context) error {
	if c.o.HistoryBytes <= 0 {
		return nil
	}
	u, err := c.usage(ctx)
	if err != nil {
		return err
	}
	c.s.noteUsage(u)
	slices.SortFunc(c.past, func(a, b pastBytes) int { return a.last.Compare(b.last) })
	var owed int64
	for _, p := range c.past {
		owed += p.bytes
	}
	if owed <= c.o.HistoryBytes {
		return nil
	}
	// A tenth more than it has to be, so that it is not the same again at once.
	excess := owed - c.o.HistoryBytes + c.o.HistoryBytes/10
	for _, p := range c.past {
		if excess <= 0 {
			break
		}
		excess -= p.bytes
		c.limit = max(c.now.Sub(p.last), c.o.Recent, time.Second)
	}
	c.rep.Pressure = &Pressure{Bytes: owed, BytesMax: c.o.HistoryBytes, Since: c.now.Add(-c.limit).UTC()}
	c.s.log.Warn("history takes more than it may: the oldest goes first",
		"bytes", owed, "bytes_max", c.o.HistoryBytes, "kept_since", c.rep.Pressure.Since)
	return nil
}

// guard calls f for one branch. Whatever goes wrong there is a problem of that
// branch, unless the collection has to end.
func (c *collector) guard(ctx context.Context, id BranchID, f func(context.Context, BranchID) error) error {
	err := f(ctx, id)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err != nil && !errors.Is(err, ErrNotFound) {
		c.problem(id, err)
	}
	return nil
}

// errOvertaken says that somebody else changed what a collection was about to.
var errOvertaken = errors.New("overtaken by another collection, or a writer")

// due returns the logs in which something can have changed, and counts all of them.
func (c *collector) due() []BranchID {
	return slices.DeleteFunc(c.cat.ids(), func(id BranchID) bool {
		n := c.cat.notes[id]
		c.rep.Branches++
		if c.now.Before(n.until) && c.limit == 0 && slices.Equal(n.settled, c.cat.pins[id]) && !c.o.Full && !c.o.DryRun && !c.o.Sweep {
			return true
		}
		n.until = time.Time{}
		return false
	})
}

// looked is a log as it was found.
type looked struct {
	v   *logView
	err error // why there is none
}

// look views logs, and finds the heads of those that somebody writes, or has written:
// most of them have nothing that is worth collecting.
func (c *collector) look(ctx context.Context, ids []BranchID) ([]looked, error) {
	return gather(ctx, ids, func(ctx context.Context, id BranchID) (looked, error) {
		v, err := c.view(ctx, id)
		if err == nil && v.lives && v.m.Epoch > 0 {
			_ = c.findHead(ctx, v) // whoever needs it is told what went wrong
		}
		return looked{v, err}, ctx.Err()
	})
}

func (c *collector) branch(ctx context.Context, id BranchID, seen looked) error {
	return c.guard(ctx, id, func(ctx context.Context, id BranchID) error {
		v, err := seen.v, seen.err
		if err != nil {
			return err
		}
		if done, err := c.bury(ctx, v); done || err != nil {
			return err
		}
		err = c.clean(ctx, v)
		if err == nil {
			err = c.packLog(ctx, v)
		}
		if n := c.cat.notes[id]; err == nil && v.idle() && len(c.made[id]) == 0 {
			n.until, n.settled = c.now.Add(v.rest), c.cat.pins[id]
		}
		return c.explain(ctx, v, err)
	})
}

// explain returns errOvertaken in place of an error that comes of what another
// collection has moved or dropped: an object is not there any more, or the pack that
// stands for it has not kept what this collection looks for, which looks like damage. A
// barrier that something begins at and that is not kept is such a case: whoever put the
// record of that is about to find out, and takes the record back, or has died, and it is
// swept.
func (c *collector) explain(ctx context.Context, v *logView, err error) error {
	switch {
	case errors.Is(err, ErrNotKept):
		return errOvertaken
	case isNotExist(err) && c.s.writes(v.m):
		return errOvertaken // the log ends with journals of this process, which are on their way
	case !isNotExist(err) && !errors.Is(err, ErrCorrupt):
		return err
	}
	if now, lerr := c.s.loadLayout(ctx, v.m.ID); lerr == nil && !now.same(v.at) {
		return errOvertaken
	}
	return err
}
