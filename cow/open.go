package cow

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/bough-db/bough/objstore"
)

func isNotExist(err error) bool { return errors.Is(err, objstore.ErrNotExist) }

// Open attaches the branch to this process, its only writer from then on, and
// returns it; the same one to everybody while it is open. Each success wants a
// Close. A branch that another host has attached is refused with an AttachedError.
func (s *Store) Open(ctx context.Context, id BranchID) (*Branch, error) {
	return s.OpenWith(ctx, id, OpenOptions{})
}

// OpenWith is Open with options.
func (s *Store) OpenWith(ctx context.Context, id BranchID, opts OpenOptions) (*Branch, error) {
	for {
		log := s.logOf(id)
		s.mu.Lock()
		if s.closed {
			s.mu.Unlock()
			return nil, fmt.Errorf("open branch %s: %w", id, ErrClosed)
		}
		o := s.open[log]
		if o == nil {
			o = &opening{ready: make(chan struct{}), gone: make(chan struct{})}
			s.open[log] = o
			s.mu.Unlock()
			b, err := s.openFirst(ctx, log, o, opts)
			if errors.Is(err, errMoved) {
				continue
			}
			return b, err
		}
		if o.branch != nil && o.branch.refs > 0 {
			o.branch.refs++
			s.mu.Unlock()
			return o.branch, nil
		}
		s.mu.Unlock()
		// It is being opened, or closed by the last user: wait, then look again.
		wait := o.ready
		select {
		case <-wait:
			wait = o.gone
			s.mu.Lock()
			up := o.branch != nil && o.branch.refs > 0
			s.mu.Unlock()
			if up {
				continue
			}
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		select {
		case <-wait:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

func (s *Store) openFirst(ctx context.Context, log BranchID, o *opening, opts OpenOptions) (*Branch, error) {
	b, err := s.attach(ctx, log, opts)
	s.mu.Lock()
	defer s.mu.Unlock()
	if err != nil {
		delete(s.open, log)
		o.err = fmt.Errorf("open branch %s: %w", log, err)
		close(o.ready)
		close(o.gone)
		return nil, o.err
	}
	b.refs = 1
	o.branch = b
	close(o.ready)
	return b, nil
}

// attach opens the branch, and begins to fetch what its start needs if that is
// wanted.
func (s *Store) attach(ctx context.Context, id BranchID, opts OpenOptions) (*Branch, error) {
	if !opts.FetchStart {
		return s.attachAt(ctx, id, opts, nil)
	}
	start := s.readStartAhead(id)
	b, err := s.attachAt(ctx, id, opts, start)
	if err != nil {
		start.stop()
		return nil, err
	}
	b.fetchAhead(start)
	return b, nil
}

// attachAt raises the epoch of the branch that writes the log id, and loads its tree.
func (s *Store) attachAt(ctx context.Context, id BranchID, opts OpenOptions, start *startRead) (*Branch, error) {
	m, tag, err := s.readManifest(ctx, id)
	if err != nil {
		return nil, err
	}
	if m.Next != "" {
		s.noteLog(m.branch(), m.Next)
		return nil, errMoved
	}
	if start != nil {
		start.lineage <- m.Lineage
	}
	if err := s.pickUpAll(ctx, m); err != nil {
		return nil, err
	}
	unplace, err := s.journals.Reserve(string(id))
	if err != nil {
		return nil, err
	}
	b, err := s.attachReserved(ctx, m, tag, opts)
	if err != nil {
		unplace()
		return nil, s.blame(m, err)
	}
	b.unplace = unplace
	return b, nil
}

func (s *Store) attachReserved(ctx context.Context, m *manifest, tag string, opts OpenOptions) (*Branch, error) {
	id := m.ID
	var last manifest // as the last writer left it
	var attached *manifest
	// What a detached branch holds is known before the epoch is raised: if somebody
	// is quicker, the put below is refused.
	var ahead *loading
	defer func() { ahead.stop() }()
	tr, forked := s.forked.Get(id)
	m, err := s.changeManifest(ctx, m, tag, func(m *manifest) error {
		switch {
		case m.Next != "":
			s.noteLog(m.branch(), m.Next)
			return errMoved
		case !m.Deleted.IsZero():
			return fmt.Errorf("branch %s/%s was deleted: %w", m.Project, m.Name, ErrNotFound)
		case s.attachedElsewhere(m) && !opts.mayTake(m):
			attached = m
			return ErrInUse
		}
		ahead.stop() // it reads last
		ahead = nil
		last = *m
		if last.Epoch == 0 && !forked || last.Clean {
			ahead = s.loadAhead(ctx, &last)
		}
		m.Epoch++
		m.Host, m.Clean = s.opts.Host, false
		return nil
	})
	if attached != nil {
		return nil, s.attachedError(ctx, attached)
	}
	if err != nil {
		return nil, err
	}
	if last.Host != s.opts.Host {
		s.forgetLog(id)
	}
	s.noteLayout(m)
	l := &loaded{at: m.begin()}
	var taken *TakenOver
	switch {
	case ahead != nil:
		l, err = ahead.wait()
	case last.Epoch == 0:
		l.tree = tr
	default:
		l, taken, err = s.loadFenced(ctx, m, &last)
	}
	if err == nil {
		err = m.checkEpoch(l)
	}
	if err != nil {
		return nil, err
	}
	s.forked.Remove(id)
	b := &Branch{
		store: s, id: id, branch: m.branch(), info: m.info(), log: m.own(), lineage: m.Lineage, epoch: m.Epoch, size: m.Size,
		open: newBatch(), nextSeq: l.at.Seq + 1, partial: map[uint64]partialBlock{},
		stored: l.at.Segment, nextSeg: l.at.Segment + 1, lastCkpt: l.ckpt, savedCkpt: l.ckpt, tree: l.tree, head: l.at,
		lastTime: l.at.Time, mark: l.at.Mark,
		tail: l.at.Segment, durability: m.durability(), progress: make(chan struct{}), taken: taken,
		hasFailed: make(chan struct{}), through: s.opts.WriteThrough,
		durabilityMu: newPatientLock(),
	}
	if s.opts.Marker != nil {
		b.marker = s.opts.Marker(l.at.Mark)
	}
	if b.begunAt = l.at.point; b.begunAt.Segment == 0 {
		b.begunAt = m.Fork.point
	}
	b.leadFree = sync.NewCond(&b.mu)
	b.foldMu, b.ckptMu = newPatientLock(), newPatientLock()
	b.ctx, b.cancel = context.WithCancel(s.ctx)
	b.usable, b.spoil = context.WithCancel(b.ctx)
	return b, nil
}

// Close gives the branch back. The last Close detaches it: everything is
// flushed, stored and checkpointed, and the branch is free for other hosts; an earlier
// one says whether the branch has failed. If
// ctx ends before that, or the branch has failed, the journals stay on disk and
// the branch stays this host's.
func (b *Branch) Close(ctx context.Context) error {
	s := b.store
	s.mu.Lock()
	b.refs--
	last := b.refs == 0
	o := s.open[b.id]
	s.mu.Unlock()
	if o == nil || o.branch != b {
		return nil
	}
	if !last {
		b.mu.Lock()
		defer b.mu.Unlock()
		if b.failed != nil {
			return fmt.Errorf("close branch %s: %w", b.id, b.failed)
		}
		return nil
	}
	return s.detach(ctx, o)
}

// shut detaches a branch that may still be in use: the Store is closing.
func (s *Store) shut(ctx context.Context, o *opening) error {
	s.mu.Lock()
	inUse := o.branch.refs > 0
	o.branch.refs = 0
	s.mu.Unlock()
	if !inUse {
		select { // somebody's last Close is at it
		case <-o.gone:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return s.detach(ctx, o)
}

func (s *Store) detach(ctx context.Context, o *opening) error {
	b := o.branch
	err := b.finish(ctx)
	b.cancel()
	b.background.Wait()
	b.abandon()
	b.unplace()
	if err == nil {
		err = b.markClean(ctx)
	}
	s.mu.Lock()
	closed := s.closed
	s.mu.Unlock()
	if errors.Is(err, ErrFenced) && !closed {
		// What it left is set aside now: others may wait for room for their journals.
		if _, perr := s.pickUp(ctx, b.id); perr != nil {
			s.log.Warn("journals of a branch that was taken over are not set aside yet", "branch", b.id, "err", perr)
		}
	}
	s.mu.Lock()
	delete(s.open, b.id)
	close(o.gone)
	s.mu.Unlock()
	if err != nil {
		return fmt.Errorf("close branch %s: %w", b.id, err)
	}
	return nil
}

// finish flushes the branch and brings all of it into the store.
func (b *Branch) finish(ctx context.Context) error {
	// When time is up, whatever waits inside gives up.
	stop := context.AfterFunc(ctx, b.cancel)
	defer stop()
	b.mu.Lock()
	err := b.flush()
	b.closing = true
	b.stopStart()
	b.lead()
	if err == nil && b.failed == nil && b.journal != nil {
		b.seal()
	}
	b.releaseLead()
	if err == nil {
		err = b.failed
	}
	b.mu.Unlock()
	b.background.Wait()
	if err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	b.mu.Lock()
	err = b.failed
	last := b.stored
	if err == nil && len(b.queue) > 0 {
		err = fmt.Errorf("segment %d is not stored", b.queue[0].number)
	}
	b.mu.Unlock()
	if err != nil || last <= b.lastCkpt {
		return err
	}
	b.foldMu.Lock()
	b.treeMu.Lock()
	c := &cut{tree: b.tree.fork(b.log), at: b.head}
	b.treeMu.Unlock()
	b.foldMu.Unlock()
	return b.checkpoint(ctx, c)
}

// abandon leaves the journals that are not in the store on disk, for a later
// life to recover.
func (b *Branch) abandon() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if errors.Is(b.failed, ErrFenced) {
		b.store.loseViews(b.id)
	}
	left := b.queue
	if b.journal != nil {
		left = append(left, b.journal)
	}
	b.abandoned = b.abandoned || len(left) > 0
	for _, ls := range left {
		b.store.dropLive(ls)
		ls.journal.Abandon()
		b.store.leaveBehind(b.id)
	}
	b.queue, b.journal = nil, nil
	if b.failed == nil {
		b.failed = ErrClosed
		close(b.hasFailed)
	}
	b.progressed()
}

// markClean says in the manifest that the branch is detached and where its log
// ends.
func (b *Branch) markClean(ctx context.Context) error {
	_, err := b.store.updateManifest(ctx, b.id, func(m *manifest) error {
		if m.Epoch != b.epoch {
			return fmt.Errorf("epoch %d instead of %d: %w", m.Epoch, b.epoch, ErrFenced)
		}
		m.Clean = true
		m.Head = b.head
		return nil
	})
	return err
}

// headOf returns the last barrier of a branch that is not open here.
func (s *Store) headOf(ctx context.Context, m *manifest) (moment, error) {
	if m.Epoch == 0 {
		return m.begin(), nil
	}
	if m.Clean {
		return m.Head, nil
	}
	if err := s.pickUpAll(ctx, m); err != nil {
		return moment{}, err
	}
	gaps := gapsAreLoss
	if s.attachedElsewhere(m) {
		gaps = gapsHappen
	}
	l, err := s.load(ctx, m, logEnd, 0, gaps)
	if err != nil {
		return moment{}, err
	}
	return l.at, nil
}

// setSize makes the device larger.
func (b *Branch) setSize(size int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.size = max(b.size, size)
}
