package cow

import (
	"context"
	"fmt"
	"time"

	"github.com/bough-db/bough/wal"
)

// Durability says what a flush of a branch has done when it returns. It is kept in
// the branch's manifest and can be changed while the branch is in use.
type Durability string

const (
	// DurabilityLocal: what was flushed is in a journal, synced: it survives a
	// crash of this host, but not the loss of its disk. The default.
	DurabilityLocal Durability = "local"
	// DurabilityRemote: what was flushed is in the store, under this writer's
	// epoch: it survives the loss of this host, and a host that lost the branch to
	// another one can acknowledge nothing more.
	DurabilityRemote Durability = "remote"
)

// remoteDepth is how many segments of one branch are on their way to the store
// before the next barrier waits, at durability remote. Flushes that arrive
// meanwhile share that barrier. Puts do not depend on one another; they are
// counted in order.
//
// While some are under way the next one begins a remoteDepth-th of the time that a put
// takes after the one before it, not sooner. So many small writes, those of a
// checkpoint, do not fill the way with a put each, with a commit behind them that has
// to wait for a whole one to end.
const remoteDepth = 8

// gatherPuts is for how many puts after a batch with blocks of a database's log those
// without any are gathered: see gathers. A database that commits does so every second
// one.
const gatherPuts = 3

// remotePutMax bounds what a put counts for that the store made wait.
const remotePutMax = time.Second

// Check returns nil for a durability that there is.
func (d Durability) Check() error {
	if d != DurabilityLocal && d != DurabilityRemote {
		return fmt.Errorf("durability %q: it is %s or %s", string(d), DurabilityLocal, DurabilityRemote)
	}
	return nil
}

// durability returns what the manifest says; records without the field are local.
func (m *manifest) durability() Durability {
	if m.Durability == "" {
		return DurabilityLocal
	}
	return m.Durability
}

// SetDurability changes what the flushes of the branch wait for. When it returns
// nil after a change to remote, everything acknowledged before is in the store. A
// branch that another host has attached is changed there: ErrInUse.
func (s *Store) SetDurability(ctx context.Context, id BranchID, d Durability) error {
	if err := d.Check(); err != nil {
		return err
	}
	m, _, err := s.readBranch(ctx, id)
	if err != nil {
		return err
	}
	if s.attachedElsewhere(m) {
		return fmt.Errorf("set durability: %w", s.attachedError(ctx, m))
	}
	if !s.isOpen(id) && (m.Epoch == 0 || m.Clean) {
		_, err := s.updateBranch(ctx, id, func(m *manifest) error {
			if m.Epoch > 0 && !m.Clean {
				return fmt.Errorf("set durability of branch %s/%s: it is being opened: %w", m.Project, m.Name, ErrInUse)
			}
			m.Durability = d
			return nil
		})
		return err
	}
	// It is open, or its last life ended without a detach and what that left has
	// to be in the store first.
	b, err := s.Open(ctx, id)
	if err != nil {
		return err
	}
	err = b.setDurability(ctx, d)
	if cerr := b.Close(ctx); err == nil {
		err = cerr
	}
	return err
}

func (b *Branch) setDurability(ctx context.Context, d Durability) error {
	b.durabilityMu.Lock()
	defer b.durabilityMu.Unlock()
	b.mu.Lock()
	old := b.durability
	b.mu.Unlock()
	if old == d && !b.unrecorded {
		return nil
	}
	if d == DurabilityRemote {
		// Flushes wait from now on; the record follows when it is true of all that
		// was flushed before.
		b.useDurability(d)
		if err := b.publishAll(ctx); err != nil {
			b.useDurability(old)
			return err
		}
	}
	_, err := b.store.updateManifest(ctx, b.id, func(m *manifest) error {
		if m.Epoch != b.epoch {
			return fmt.Errorf("epoch %d instead of %d: %w", m.Epoch, b.epoch, ErrFenced)
		}
		m.Durability = d
		return nil
	})
	b.unrecorded = err != nil
	if err != nil {
		if d == DurabilityRemote {
			// The record may say remote by now: only flushes that wait keep that
			// true. Whoever asked can ask again.
			return fmt.Errorf("flushes of branch %s wait for the store, but that is not recorded: %w", b.id, err)
		}
		return err
	}
	b.useDurability(d)
	return nil
}

func (b *Branch) useDurability(d Durability) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.durability = d
	b.progressed() // those who wait for the store may not have to
}

// Durability returns what the branch's flushes wait for.
func (b *Branch) Durability() Durability {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.durability
}

// progressed wakes all who wait for segments to be stored. mu is held.
func (b *Branch) progressed() {
	close(b.progress)
	b.progress = make(chan struct{})
}

// mayCommit tells whether the open batch may become a barrier now. If not it has to
// wait, for the time returned if that is not 0, or for a place on the way to the store.
// mu is held.
func (b *Branch) mayCommit() (bool, time.Duration) {
	if b.durability != DurabilityRemote {
		return true, 0
	}
	wait := min(b.putTook, remotePutMax)
	switch gathers := b.gathers(wait); {
	case len(b.queue) == 0 && !gathers:
		return true, 0
	case len(b.queue) >= remoteDepth:
		return false, 0
	case !gathers:
		wait /= remoteDepth
	}
	early := wait - time.Since(b.lastSeal)
	return early <= 0, max(early, 0)
}

// gathers tells whether the open batch, at durability remote, should wait for a block of
// the database's log to go with: it has none, it is small, and the log has been written
// not long ago, with puts that take so long. mu is held.
//
// While a database commits, what else is written are mostly pages that no client waits
// for, of a checkpoint or thrown out of its memory. As puts of their own they would be
// several times as many as those of the log. Who does wait for one waits for one put more.
func (b *Branch) gathers(put time.Duration) bool {
	return !b.open.log && b.open.slots < spillBlocks && time.Since(b.lastLog) < gatherPuts*put
}

// armPace wakes all who wait for the store when the next batch may become a barrier. mu
// is held.
func (b *Branch) armPace(d time.Duration) {
	at := time.Now().Add(d)
	if !b.pacing.IsZero() && !at.Before(b.pacing) {
		return
	}
	b.pacing = at
	b.background.Add(1)
	time.AfterFunc(d, func() {
		defer b.background.Done()
		b.mu.Lock()
		defer b.mu.Unlock()
		if b.pacing.Equal(at) { // nobody wanted to be woken sooner
			b.pacing = time.Time{}
		}
		b.progressed()
	})
}

// waitRemote waits until segment n is in the store, if the branch's durability
// wants that. mu is held, but for the waiting.
func (b *Branch) waitRemote(n wal.SegmentNo) error {
	for b.durability == DurabilityRemote && b.stored < n {
		if b.failed != nil {
			return b.failed
		}
		ch := b.progress
		b.mu.Unlock()
		select {
		case <-ch:
		case <-b.ctx.Done():
			b.mu.Lock()
			if b.failed != nil {
				return b.failed
			}
			return fmt.Errorf("wait for segment %d of branch %s to be stored: %w", n, b.id, ErrClosed)
		}
		b.mu.Lock()
	}
	return nil
}

// Published says what Publish brought into the store: the barrier Seq, in segment
// Segment of the branch's log, and all before it.
type Published struct {
	Seq     wal.Seq       `json:"seq"`     // the barrier
	Segment wal.SegmentNo `json:"segment"` // that it lies in
}

// Publish brings the last barrier into the store, where other hosts can branch from
// it, and returns it. It does not make a new barrier.
func (b *Branch) Publish(ctx context.Context) (Published, error) {
	b.treeMu.RLock()
	at := b.head
	b.treeMu.RUnlock()
	if err := b.publish(ctx, at.Segment); err != nil {
		return Published{}, fmt.Errorf("publish branch %s: %w", b.id, err)
	}
	return Published{Seq: at.Seq, Segment: at.Segment}, nil
}

// publishAll brings every barrier that there is into the store.
func (b *Branch) publishAll(ctx context.Context) error {
	_, err := b.Publish(ctx)
	return err
}

// publish sees to it that segment n is in the store, sealing it if it is still
// being filled.
func (b *Branch) publish(ctx context.Context, n wal.SegmentNo) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.stored < n {
		b.lead()
		var err error
		if b.failed == nil && b.journal != nil && b.journal.number <= n {
			err = b.sealNow()
		}
		b.releaseLead()
		if err != nil {
			return err
		}
	}
	for b.stored < n {
		if b.failed != nil {
			return b.failed
		}
		ch := b.progress
		b.mu.Unlock()
		select {
		case <-ch:
		case <-ctx.Done():
			b.mu.Lock()
			return ctx.Err()
		case <-b.ctx.Done():
			b.mu.Lock()
			return ErrClosed
		}
		b.mu.Lock()
	}
	return nil
}

// sealNow seals the journal that is being filled. A batch that has spilled into it
// has to be whole first. The caller leads; mu is held, but for writing.
func (b *Branch) sealNow() error {
	ls := b.journal
	if b.open.journal == ls {
		if err := b.commit(); err != nil {
			return err
		}
	}
	if b.journal == ls {
		b.seal()
	}
	return nil
}

// exposure is what only the journals have. mu is held.
func (b *Branch) exposure() (segments int, bytes int64, since time.Time) {
	for _, ls := range b.queue {
		segments++
		bytes += ls.bytes.Load()
	}
	if b.journal != nil {
		segments++
		bytes += b.journal.bytes.Load()
	}
	switch {
	case len(b.queue) > 0:
		since = b.queue[0].since
	case b.journal != nil:
		since = b.journal.since
	}
	return segments, bytes, since
}
