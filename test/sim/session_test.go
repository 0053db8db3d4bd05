package sim

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/bough-db/bough/cow"
)

// fact is whether something happened.
type fact int

const (
	no fact = iota
	maybe
	yes
)

// branch is a branch as it should be.
type branch struct {
	name    string // where renamed is not no: before that
	other   string // the name that it may have got
	id      cow.BranchID
	created fact
	deleted fact
	// How often somebody has begun to delete it, and how many of them may not have ended.
	deletions, deleting int
	back                clock // when it was brought back last
	busy                bool  // its record is being changed
	// now is the history that the next who attaches the branch goes on from.
	now *history
	// durability as last set; known unless setting it failed.
	durability cow.Durability
	unsure     bool
	attempts   []*attempt
	making     []*origin // of the branches that are being made of it
}

// loses tells whether what only journals have of the branch is lost to a host that
// opens it: they are elsewhere, or somebody may have ended the log without them.
func (b *branch) loses(on *host) bool {
	h := b.now
	return h.host != on || h.disk != on.disk ||
		slices.ContainsFunc(b.attempts, func(a *attempt) bool { return a.inc.host != on && a.end >= h.begin })
}

// attempt is somebody's attempt to take a branch from another host.
type attempt struct {
	inc *incarnation
	end clock
}

// session is a branch that a process has attached.
type session struct {
	inc     *incarnation
	b       *branch
	h       *history
	dev     *cow.Branch // nil until it is open
	begin   clock       // when it began to be opened
	settled bool        // it has been read whole
	busy    bool        // nothing else may be started
	closing bool
	flying  []int // by cell: changes under way
	// From the first chunk of a batch on, it may become a barrier at any time.
	free   []*window
	burst  int  // chunks that are to follow
	remote bool // every flush waits for the store
}

// mayBeGone tells whether the branch may have been a deleted one at some time since then.
func (b *branch) mayBeGone(since clock) bool { return b.deleted != no || b.back >= since }

// mayBeFenced tells whether somebody has tried to take the branch since.
func (s *session) mayBeFenced() bool { return s.b.takenBy(s.inc, s.begin) }

// takenBy tells whether somebody else than the process may have taken the branch over
// since begin.
func (b *branch) takenBy(inc *incarnation, begin clock) bool {
	return slices.ContainsFunc(b.attempts, func(a *attempt) bool { return a.inc != inc && a.end >= begin })
}

// window notes that a barrier is asked for.
func (s *session) window(begin clock) *window {
	w := &window{begin: begin, end: never}
	s.h.windows = append(s.h.windows, w)
	return w
}

// closed notes that a barrier that was asked for at begin is there at end.
func (s *session) closed(begin, end clock) {
	s.free = slices.DeleteFunc(s.free, func(w *window) bool {
		if w.begin > begin {
			return false
		}
		w.end = end
		return true
	})
}

// detached notes that everything that had ended by then is in the store, and the
// branch is free.
func (s *session) detached(begin clock) {
	s.h.local = max(s.h.local, begin)
	s.h.remote = max(s.h.remote, begin)
}

func (inc *incarnation) drop(s *session) {
	for i, o := range inc.sessions {
		if o == s {
			inc.sessions = append(inc.sessions[:i:i], inc.sessions[i+1:]...)
			return
		}
	}
}

// session returns the session that the process has of a branch, or nil.
func (inc *incarnation) session(b *branch) *session {
	for _, s := range inc.sessions {
		if s.b == b {
			return s
		}
	}
	return nil
}

// openBranch attaches a branch.
func (w *world) openBranch(inc *incarnation, b *branch, take cow.TakeOver) {
	s := &session{inc: inc, b: b, flying: make([]int, len(cells)), busy: true, begin: w.tick()}
	inc.sessions = append(inc.sessions, s)
	try := &attempt{inc: inc, end: never}
	if take != cow.TakeOverNone {
		b.attempts = append(b.attempts, try)
	}
	what := fmt.Sprintf("open %s", b.name)
	if take != cow.TakeOverNone {
		what += fmt.Sprintf(" taking over %d", take)
	}
	w.start(inc, what, func(ctx context.Context) (err error) {
		s.dev, err = inc.store.OpenWith(ctx, b.id, cow.OpenOptions{TakeOver: take})
		return err
	}, func(err error) {
		try.end = w.clock
		if err != nil {
			inc.drop(s)
			var gone, raced error
			if b.mayBeGone(s.begin) {
				gone = cow.ErrNotFound
			}
			if s.mayBeFenced() {
				raced = cow.ErrFenced
			}
			w.mustBe(inc, err, what, cow.ErrInUse, gone, raced)
			return
		}
		if take != cow.TakeOverNone {
			w.noteSplit(s, try)
		}
		w.attached(s)
	})
}

// attached notes that a session has begun: its device is what the one before left.
func (w *world) attached(s *session) {
	b := s.b
	name := fmt.Sprintf("%s@%v", b.name, s.inc)
	epoch := s.dev.Status().Epoch
	if epoch < b.now.epoch {
		// Somebody has taken the branch while it was being opened. It does not know
		// yet.
		after := b.now
		for after.before.epoch > epoch {
			after = after.before
		}
		s.h = after.before.fork(name, 0, 0, true, w.clock)
		s.h.host, s.h.disk, s.h.begin = s.inc.host, s.inc.host.disk, w.clock
		s.h.next = after.base
	} else {
		loss := b.loses(s.inc.host)
		if !loss {
			// Its journals were stored before it was opened.
			b.now.remote = b.now.bound(false)
		}
		s.h = b.now.follow(name, s.inc.host, loss, w.clock)
		s.h.epoch = epoch
		b.now = s.h
		for _, o := range b.making {
			o.also = append(o.also, alternative{from: s.h})
		}
	}
	s.remote = s.dev.Durability() == cow.DurabilityRemote
	if !b.unsure && !s.mayBeFenced() && s.dev.Durability() != b.durability {
		w.fail("%v: %s has durability %s, not %s", s.inc, b.name, s.dev.Durability(), b.durability)
	}
	if !s.mayBeFenced() { // else it has what another host may have changed since
		b.unsure, b.durability = false, s.dev.Durability()
	}
	w.settle(s)
}

// settle reads the device whole and compares it with what it may be.
func (w *world) settle(s *session) {
	s.busy = true
	got := make([]stamp, len(cells))
	w.start(s.inc, "settle "+s.b.name, func(ctx context.Context) error {
		return readAll(ctx, s.dev, got)
	}, func(err error) {
		s.busy = false
		if err != nil {
			w.mayFail(s, err, "read "+s.b.name)
			return
		}
		if err := s.h.base.resolve(got); err != nil {
			w.fail("%v: %s is not as at a barrier that it may be at: %w", s.inc, s.b.name, err)
			return
		}
		s.settled = true
	})
}

// errWrong is what a read of bytes that nobody wrote there wraps.
var errWrong = errors.New("I7: wrong bytes")

func isWrong(err error) bool { return errors.Is(err, errWrong) }

// readable is a device, or what it was.
type readable interface {
	ReadAt(ctx context.Context, p []byte, off int64) error
}

// readAll reads every cell; of a chunk, its ends and a block between.
func readAll(ctx context.Context, dev readable, got []stamp) error {
	buf := make([]byte, 6*blockBytes)
	for i := 0; i < sectors; {
		n := i + 1
		for n < sectors && cells[n].off == cells[n-1].off+sectorBytes {
			n++
		}
		p := buf[:(n-i)*sectorBytes]
		if err := dev.ReadAt(ctx, p, cells[i].off); err != nil {
			return err
		}
		for ; i < n; i++ {
			var err error
			if got[i], err = stampOf(p[:sectorBytes], i, 0); err != nil {
				return fmt.Errorf("%w: %w", errWrong, err)
			}
			p = p[sectorBytes:]
		}
	}
	for i := sectors; i < len(cells); i++ {
		for n, block := range []int64{0, 100, chunkBlocks - 1} {
			if err := dev.ReadAt(ctx, buf[:blockBytes], cells[i].off+block*blockBytes); err != nil {
				return err
			}
			s, err := stampOf(buf[:blockBytes], i, block*blockBytes)
			if err == nil && n > 0 && s != got[i] {
				err = fmt.Errorf("cell %d is a mixture of stamps %d and %d", i, got[i], s)
			}
			if err != nil {
				return fmt.Errorf("%w: %w", errWrong, err)
			}
			got[i] = s
		}
	}
	return nil
}

// mayFail checks the error of an operation on a device.
func (w *world) mayFail(s *session, err error, what string) {
	if isWrong(err) {
		w.fail("%v: %s: %v", s.inc, what, err)
		return
	}
	var closed, fenced, taken, gone error
	if s.b.mayBeGone(s.begin) {
		gone = cow.ErrNotFound
	}
	if s.closing {
		closed = cow.ErrClosed
	}
	if s.mayBeFenced() {
		fenced, taken = cow.ErrFenced, cow.ErrInUse
	}
	w.mustBe(s.inc, err, what, closed, fenced, taken, gone)
}

// closeBranch detaches a branch, or gives up when the hurry is too great.
func (w *world) closeBranch(s *session) {
	s.closing = true
	begin := w.tick()
	win := s.window(begin)
	w.start(s.inc, "close "+s.b.name, func(ctx context.Context) error { return s.dev.Close(ctx) }, func(err error) {
		s.inc.drop(s)
		if err != nil {
			w.mayFail(s, err, "close "+s.b.name)
			return
		}
		win.end = w.clock
		s.detached(begin)
	})
}

// flush asks for a barrier.
func (w *world) flush(s *session) {
	begin := w.tick()
	win := s.window(begin)
	remote := s.remote
	w.start(s.inc, "flush "+s.b.name, func(ctx context.Context) error { return s.dev.Flush(ctx) }, func(err error) {
		if err != nil {
			w.mayFail(s, err, "flush "+s.b.name)
			return
		}
		win.end = w.clock
		s.closed(begin, w.clock)
		s.remember(begin)
		w.acknowledged(s, begin, remote && s.remote)
	})
}

// acknowledged notes that what had ended by then is durable, and checks that nobody
// has taken the branch without it.
func (w *world) acknowledged(s *session, begin clock, remote bool) {
	s.h.local = max(s.h.local, begin)
	if remote {
		s.h.remote = max(s.h.remote, begin)
		w.agree(s)
	}
}

func (w *world) agree(s *session) {
	if err := s.h.agrees(); err != nil {
		w.fail("I4: %v: %s was taken over, then a flush that the new writer does not have was acknowledged: %w", s.inc, s.b.name, err)
	}
}
