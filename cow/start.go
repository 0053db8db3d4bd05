package cow

import (
	"context"
	"maps"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
)

const (
	// startLinger is how long after Started the recording goes on when nobody
	// uses what was started, and useLinger how long after Used.
	startLinger = 10 * time.Second
	useLinger   = time.Second
	// useGroupsMax bounds what the first use adds to a recording: it may be
	// anything, while the start is always the same.
	useGroupsMax = 1024
)

// starting is what a branch does because something is started on it. Its fields
// are guarded by the branch's mu.
type starting struct {
	cancel context.CancelFunc // ends the fetching; nil if nothing was fetched
	known  bool               // set is
	set    *startSet          // what the last start read; nil if nothing was stored
	of     BranchID           // whose last start that was
	timer  *time.Timer        // ends the recording
	ending bool               // somebody sees to the end of the recording
}

// startRead is a start set on its way, while the branch is being opened.
type startRead struct {
	cancel  context.CancelFunc
	lineage chan []BranchID // takes one, as soon as it is known
	done    chan struct{}   // closed when set is known
	set     *startSet
	of      BranchID // whose it is
}

// readStartAhead begins to read the start set of a branch, or of its ancestors.
// Whoever calls it hands the result to Branch.fetchAhead, or calls stop.
func (s *Store) readStartAhead(id BranchID) *startRead {
	ctx, cancel := context.WithCancel(s.ctx)
	r := &startRead{cancel: cancel, lineage: make(chan []BranchID, 1), done: make(chan struct{})}
	go func() {
		defer close(r.done)
		r.set, r.of = s.readStart(ctx, id), id
		var lineage []BranchID
		select {
		case lineage = <-r.lineage:
		case <-ctx.Done():
			return
		}
		var g errgroup.Group
		g.Go(func() error {
			s.learnLayouts(ctx, lineage)
			return nil
		})
		if r.set == nil {
			r.set, r.of = s.inheritedStart(ctx, lineage)
		}
		_ = g.Wait() // nothing in it fails
	}()
	return r
}

// startLayouts is how many ancestors of a branch are asked for their layouts.
const startLayouts = 32

// learnLayouts finds out where the blocks of a branch's ancestors are, as far as
// this process does not know, before many look in vain where they were.
func (s *Store) learnLayouts(ctx context.Context, lineage []BranchID) {
	var g errgroup.Group
	g.SetLimit(startRequests)
	above := lineage[:len(lineage)-1]
	for _, id := range above[max(0, len(above)-startLayouts):] {
		if s.knownLayout(id) == nil {
			g.Go(func() error {
				_, _ = s.loadLayout(ctx, id) // whoever needs it hears why not
				return nil
			})
		}
	}
	_ = g.Wait() // nothing in it fails
}

// stop ends the reading, if there is any, and waits for that.
func (r *startRead) stop() {
	if r != nil {
		r.cancel()
		<-r.done
	}
}

// fetchAhead begins to fetch what the last start read, as soon as that is known.
// Nobody else uses the branch yet.
func (b *Branch) fetchAhead(r *startRead) {
	ctx, cancel := context.WithCancel(b.ctx)
	b.start.cancel = cancel
	b.background.Add(1)
	go func() {
		defer b.background.Done()
		defer cancel()
		unhook := context.AfterFunc(ctx, r.cancel)
		<-r.done
		unhook()
		r.cancel()
		b.mu.Lock()
		b.start.known = ctx.Err() == nil
		b.start.set, b.start.of = r.set, r.of
		b.mu.Unlock()
		if r.set != nil {
			b.fetchStart(ctx, r.set)
		}
	}()
}

// RecordStart begins to record which blocks are read, so that the next start,
// on this host or on another one, finds them fetched: see OpenOptions.FetchStart,
// which has to be set. It is called once, right after the branch was opened. The
// recording ends a while after Started or Used, or when the branch is closed. It is
// stored then, in one small object, unless the store has one much like it. All of
// it is a hint: whatever goes wrong is of no consequence.
func (b *Branch) RecordStart() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.start.cancel == nil || b.start.ending || b.closing {
		return // nobody knows what is stored
	}
	b.recording.CompareAndSwap(nil, &startRecorder{groups: map[uint32]uint16{}})
}

// Started tells that what was to be started has started. What is read from now on
// belongs to its use: a while later the recording ends.
func (b *Branch) Started() {
	if r := b.recording.Load(); r != nil && r.started() {
		b.endStartAfter(startLinger)
	}
}

// Used tells that what was started is being used: a little of that is recorded
// too, then the recording ends.
func (b *Branch) Used() {
	if r := b.recording.Load(); r != nil && r.beginUse() {
		b.endStartAfter(useLinger)
	}
}

// endStartAfter has the recording end after a while, in place of a time that was
// set before.
func (b *Branch) endStartAfter(d time.Duration) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closing || b.start.ending {
		return
	}
	if b.start.timer != nil && b.start.timer.Stop() {
		b.background.Done()
	}
	b.background.Add(1)
	b.start.timer = time.AfterFunc(d, func() {
		defer b.background.Done()
		b.endStart()
	})
}

// stopStart ends the fetching, and has the recording end in the background. mu is
// held.
func (b *Branch) stopStart() {
	if b.start.cancel == nil {
		return
	}
	b.start.cancel()
	if b.start.timer != nil && b.start.timer.Stop() {
		b.background.Done()
	}
	b.background.Add(1)
	go func() {
		defer b.background.Done()
		b.endStart()
	}()
}

// endStart ends the recording, if there is one, and stores it if that helps.
func (b *Branch) endStart() {
	b.mu.Lock()
	old, of := b.start.set, b.start.of
	wanted := b.start.known && !b.start.ending && b.failed == nil
	b.start.ending = true
	b.mu.Unlock()
	r := b.recording.Swap(nil)
	if r == nil || !wanted || !r.worth(old) {
		return
	}
	set := r.result()
	if b.epoch > 1 || len(b.lineage) == 1 {
		b.store.writeStart(b.ctx, b.id, set)
		return
	}
	// Nobody has started this branch before, and its first start may read what none
	// of the later ones will, but that of each of its siblings. So it is the parent's
	// set that gets better.
	if old == nil {
		of = b.lineage[len(b.lineage)-2]
	}
	b.store.writeStart(b.ctx, of, set.and(old))
}

// startRecorder notes which blocks are read. Its methods may be called
// concurrently.
type startRecorder struct {
	mu     sync.Mutex
	groups map[uint32]uint16
	core   map[uint32]uint16 // what the start itself read; nil as long as it goes on
	used   bool
}

// read notes that n blocks from block first on are read.
func (r *startRecorder) read(first uint64, n int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for b := first; b < first+uint64(n); b++ {
		r.note(uint32(b>>startGroupBits), 1<<(b&(startGroupSize-1)))
	}
}

// wrote notes that the blocks from first to last are written: that takes the pages
// on the way there.
func (r *startRecorder) wrote(first, last uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for leaf := first >> leafBits; leaf <= last>>leafBits; leaf++ {
		if !r.note(uint32(leaf<<leafGroupsShift), 0) {
			return
		}
	}
}

// note adds to a group, and tells whether there was room for it. mu is held.
func (r *startRecorder) note(group uint32, mask uint16) bool {
	old, ok := r.groups[group]
	if !ok && (len(r.groups) >= startGroupsMax || r.core != nil && len(r.groups) >= len(r.core)+useGroupsMax) {
		return false
	}
	r.groups[group] = old | mask
	return true
}

// started ends the part that is the start itself, and tells whether that is news.
func (r *startRecorder) started() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.core != nil {
		return false
	}
	r.core = maps.Clone(r.groups)
	return true
}

// beginUse notes that the first use has begun, and tells whether that is news.
func (r *startRecorder) beginUse() bool {
	r.started()
	r.mu.Lock()
	defer r.mu.Unlock()
	news := !r.used
	r.used = true
	return news
}

// result returns what was recorded; the recording is over.
func (r *startRecorder) result() *startSet {
	r.mu.Lock()
	defer r.mu.Unlock()
	return &startSet{groups: maps.Clone(r.groups), used: r.used} // somebody may be in read still
}

// How much a start may differ from the stored set before that is replaced, in
// groups. Some always differ, such as files that each start makes anew.
const (
	startDrift      = 16
	startDriftShare = 8   // of that many, one
	startExcess     = 512 // more than were read
)

// worth tells whether the recording is worth a put in place of the old set, nil
// if there is none: a start like the last one is not.
func (r *startRecorder) worth(old *startSet) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	core := r.core
	if core == nil {
		core = r.groups
	}
	switch {
	case len(r.groups) == 0:
		return false
	case old == nil:
		return true
	case r.used && !old.used:
		return true
	case r.used && len(old.groups) > len(r.groups)+startExcess:
		return true
	}
	missing := 0
	for g, mask := range core {
		if have, ok := old.groups[g]; !ok || mask&^have != 0 {
			missing++
		}
	}
	return missing > startDrift && missing > len(core)/startDriftShare
}
