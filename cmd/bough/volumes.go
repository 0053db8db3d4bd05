package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/bough-db/bough/api"
	"github.com/bough-db/bough/blockdev"
	"github.com/bough-db/bough/branchfs"
	"github.com/bough-db/bough/cow"
)

// holder is who has a branch attached.
type holder string

const (
	heldByEndpoint holder = "endpoint"
	heldByUser     holder = "user"
)

// heldError says that somebody else has the branch attached.
type heldError struct {
	id cow.BranchID
	by holder
	at string // mount point
}

func (e *heldError) Error() string {
	if e.by == heldByUser {
		return fmt.Sprintf("branch %s is attached on %s", e.id, e.at)
	}
	return fmt.Sprintf("branch %s is in use by its Postgres", e.id)
}

// volumes attaches branches for endpoints (it is their postgres.Volumes, and
// hold their postgres.HoldFunc) and for users, never one branch for both:
// Postgres must be alone with its files.
type volumes struct {
	*blockdev.Volumes
	peers   *peers
	files   *branchfs.Server // set before the first use
	disks   *disks           // the same
	through bool
	// lost is told of a branch that has failed since another host took it over. Set
	// before the first use.
	lost func(ctx context.Context, id cow.BranchID, h holding, err error)

	mu     sync.Mutex
	held   map[cow.BranchID]*holding
	unread map[cow.BranchID]string // what the last holder could not read

	watches sync.WaitGroup
}

// holding is a branch that is open and attached, or about to be.
type holding struct {
	by     holder
	branch *cow.Branch // nil while it is being opened
	device string
	dir    string

	mode    *sync.Mutex // one change of the device's promise at a time
	through bool        // the kernel was told that the device needs no flushes
}

func newVolumes(peers *peers, kernel *blockdev.Volumes, through bool) *volumes {
	return &volumes{Volumes: kernel, peers: peers, through: through, held: map[cow.BranchID]*holding{}, unread: map[cow.BranchID]string{}}
}

// get returns how the branch is held; the zero holding if it is not.
func (v *volumes) get(id cow.BranchID) holding {
	v.mu.Lock()
	defer v.mu.Unlock()
	if h := v.held[id]; h != nil {
		return *h
	}
	return holding{}
}

// hold opens a branch for an endpoint; see postgres.HoldFunc.
func (v *volumes) hold(ctx context.Context, id cow.BranchID) (release func(context.Context) error, err error) {
	if err := v.claim(ctx, id, heldByEndpoint, ""); err != nil {
		return nil, err
	}
	return func(ctx context.Context) error { return v.release(ctx, id) }, nil
}

// claim opens a branch for a holder, who must release it.
func (v *volumes) claim(ctx context.Context, id cow.BranchID, by holder, dir string) error {
	v.mu.Lock()
	if h := v.held[id]; h != nil {
		defer v.mu.Unlock()
		return &heldError{id: id, by: h.by, at: h.dir}
	}
	h := &holding{by: by, dir: dir, mode: &sync.Mutex{}}
	v.held[id] = h
	delete(v.unread, id)
	v.mu.Unlock()

	b, err := v.peers.open(ctx, id, api.TakeOver{})
	v.mu.Lock()
	defer v.mu.Unlock()
	if err != nil {
		delete(v.held, id)
		return err
	}
	h.branch = b
	if by == heldByEndpoint {
		b.RecordStart()
	}
	v.watches.Go(func() { v.watch(id, b) })
	return nil
}

// started tells the branch of an endpoint that its server runs, and whether a client
// comes.
func (v *volumes) started(id cow.BranchID, client bool) {
	b := v.get(id).branch
	switch {
	case b == nil: // it has stopped again
	case client:
		b.Used()
	default:
		b.Started()
	}
}

// watch waits until the branch is closed, or has failed.
func (v *volumes) watch(id cow.BranchID, b *cow.Branch) {
	<-b.Failed()
	err := b.Err()
	if !errors.Is(err, cow.ErrFenced) {
		return
	}
	h := v.get(id)
	if h.branch != b {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), lostTimeout)
	defer cancel()
	v.lost(ctx, id, h, err)
}

// lostTimeout bounds how long it takes to stop what uses a branch that was lost.
const lostTimeout = 2 * time.Minute

// release closes a branch that is no longer attached, and waits until all that
// was written is in the store.
func (v *volumes) release(ctx context.Context, id cow.BranchID) error {
	// The file system's close first: the last one, which uploads, is ours, and
	// so is its error.
	err := v.files.WaitReleased(ctx, string(id))
	unread := ""
	if b := v.get(id).branch; b != nil {
		unread = b.Status().ReadError
		err = errors.Join(err, b.Close(ctx))
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	delete(v.held, id)
	if unread != "" {
		v.unread[id] = unread
	}
	return err
}

// unreadable returns what could not be read of the branch the last time that it was
// held, or "".
func (v *volumes) unreadable(id cow.BranchID) string {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.unread[id]
}

// Attach implements postgres.Volumes. What the device promises is not up to o.
func (v *volumes) Attach(ctx context.Context, o blockdev.AttachOptions) (blockdev.Attachment, error) {
	h := v.get(cow.BranchID(o.ID))
	if h.branch == nil {
		return blockdev.Attachment{}, fmt.Errorf("attach branch %s: %w", o.ID, cow.ErrClosed)
	}
	defer v.disks.attach(h.branch.Info())()
	h.mode.Lock()
	defer h.mode.Unlock()
	if o.WriteThrough = v.wantsThrough(h.branch); o.WriteThrough {
		if err := h.branch.SetWriteThrough(true); err != nil {
			return blockdev.Attachment{}, err
		}
	}
	at, err := v.Volumes.Attach(ctx, o)
	if err != nil {
		return at, err
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if h := v.held[cow.BranchID(o.ID)]; h != nil {
		h.device, h.dir, h.through = at.Device, at.Dir, at.WriteThrough
	}
	return at, nil
}

// trimTimeout bounds how long a file system may take to discard its free space.
const trimTimeout = time.Minute

// trimAll has all mounted file systems discard their free space, so that what was
// deleted in them takes no room in the store any longer than the history wants it.
func (v *volumes) trimAll(ctx context.Context, log *slog.Logger) {
	v.mu.Lock()
	var ids []cow.BranchID
	for id, h := range v.held {
		if h.device != "" {
			ids = append(ids, id)
		}
	}
	v.mu.Unlock()
	for _, id := range ids {
		trim, cancel := context.WithTimeout(ctx, trimTimeout)
		err := v.Trim(trim, string(id))
		cancel()
		if err != nil && ctx.Err() == nil && !errors.Is(err, blockdev.ErrNotAttached) {
			log.Debug("free space is not discarded", "branch", id, "err", err)
		}
	}
}

// wantsThrough tells whether each write of a branch is to be durable when it is
// acknowledged, so that the kernel sends no flushes. At durability remote it is: a loop
// device does nothing else during a flush, so that every read that reaches it would
// wait as long as a request to the store takes, or as long as the store is away.
func (v *volumes) wantsThrough(b *cow.Branch) bool {
	return v.through || b.Durability() == cow.DurabilityRemote
}

// follow makes the device of a branch promise what the durability, which has changed,
// wants. The branch keeps the promise from before the kernel relies on it until after
// it does not any more.
func (v *volumes) follow(ctx context.Context, id cow.BranchID) error {
	h := v.get(id)
	if h.branch == nil {
		return nil // it will be attached as it is by then
	}
	h.mode.Lock()
	defer h.mode.Unlock()
	now := v.get(id)
	want := v.wantsThrough(h.branch)
	if now.branch != h.branch || now.device == "" || now.through == want {
		return nil
	}
	if want {
		if err := h.branch.SetWriteThrough(true); err != nil {
			return err
		}
	}
	if err := v.SetWriteThrough(ctx, string(id), want); err != nil {
		return err
	}
	v.mu.Lock()
	if held := v.held[id]; held != nil && held.branch == h.branch {
		held.through = want
	}
	v.mu.Unlock()
	if !want {
		return h.branch.SetWriteThrough(false)
	}
	return nil
}

// attachUser attaches a branch for a user, whose mount may be read-only.
func (v *volumes) attachUser(ctx context.Context, info cow.BranchInfo, dir string, readOnly bool) (blockdev.Attachment, error) {
	if err := v.claim(ctx, info.ID, heldByUser, dir); err != nil {
		return blockdev.Attachment{}, err
	}
	at, err := v.Attach(ctx, blockdev.AttachOptions{
		ID: string(info.ID), File: v.files.DiskPath(info.Project, info.Name), Dir: dir, WriteThrough: v.through, ReadOnly: readOnly,
	})
	if err != nil {
		err = errors.Join(err, v.release(context.WithoutCancel(ctx), info.ID))
	}
	return at, err
}

// detachUser undoes attachUser.
func (v *volumes) detachUser(ctx context.Context, id cow.BranchID) error {
	if v.get(id).by != heldByUser {
		return blockdev.ErrNotAttached
	}
	return v.drop(ctx, id)
}

func (v *volumes) drop(ctx context.Context, id cow.BranchID) error {
	if err := v.Detach(ctx, string(id)); err != nil && !errors.Is(err, blockdev.ErrNotAttached) {
		return err
	}
	return v.release(ctx, id)
}

// patience is how long detachAll waits before it says what for.
const patience = 2 * time.Second

// detachAll detaches what is still attached.
func (v *volumes) detachAll(ctx context.Context, log *slog.Logger) error {
	v.mu.Lock()
	ids := make([]cow.BranchID, 0, len(v.held))
	for id := range v.held {
		ids = append(ids, id)
	}
	v.mu.Unlock()
	errs := make([]error, len(ids))
	var wg sync.WaitGroup
	for i, id := range ids {
		wg.Go(func() {
			first, cancel := context.WithTimeout(ctx, patience)
			defer cancel()
			if errs[i] = v.drop(first, id); errors.Is(errs[i], blockdev.ErrBusy) && ctx.Err() == nil {
				log.Warn("waiting for a branch that is in use", "branch", id, "err", errs[i])
				errs[i] = v.drop(ctx, id)
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}
