package main

import (
	"context"
	"time"

	"github.com/bough-db/bough/api"
	"github.com/bough-db/bough/cow"
)

// expirer deletes branches when their time has come, and those that an earlier life of
// this host made for one use.
type expirer struct {
	b    *backend
	kick chan struct{} // something may have come to be due
}

func newExpirer(b *backend) *expirer {
	return &expirer{b: b, kick: make(chan struct{}, 1)}
}

const (
	// expireLook is how often the store is asked what other hosts have set.
	expireLook = time.Hour
	// expireAgain is how soon what could not be deleted, or asked, is tried again.
	expireAgain = time.Minute
)

// look makes the expirer look again.
func (e *expirer) look() {
	select {
	case e.kick <- struct{}{}:
	default:
	}
}

// run works until ctx ends.
func (e *expirer) run(ctx context.Context) {
	for {
		timer := time.NewTimer(e.round(ctx))
		select {
		case <-timer.C:
		case <-e.kick:
			timer.Stop()
		case <-ctx.Done():
			timer.Stop()
			return
		}
	}
}

// round deletes what is due, and returns how long there is time.
func (e *expirer) round(ctx context.Context) time.Duration {
	all, err := e.b.store.Expiring(ctx)
	if err != nil {
		if ctx.Err() == nil {
			e.b.log.Warn("look for branches that expire", "err", err)
		}
		return expireAgain
	}
	wait := expireLook
	for _, br := range all {
		left := e.left(br)
		if left > 0 {
			wait = min(wait, left)
			continue
		}
		if err := e.expire(ctx, br); err != nil && ctx.Err() == nil {
			wait = min(wait, expireAgain)
			e.b.log.Warn("branch not deleted, though its time has come", "branch", br.Project+"/"+br.Name, "err", err)
		}
	}
	return wait
}

// left is how long a branch has; what is not this host's to delete has long enough.
func (e *expirer) left(br cow.BranchInfo) time.Duration {
	switch {
	case br.Throwaway != "" && (br.Throwaway != e.b.store.HostID() || e.b.isHeld(br)):
		return expireLook
	case br.Throwaway != "":
		return 0
	}
	return br.Expires.Sub(e.b.app.now())
}

func (e *expirer) expire(ctx context.Context, br cow.BranchInfo) error {
	if h := e.b.volumes.get(br.ID); h.by == heldByUser {
		return attachedError(br.Project, br.Name, h.dir)
	}
	if err := e.b.elsewhere(br, "suspend it"); err != nil {
		return err
	}
	err := e.b.dropBranch(ctx, br)
	if err == nil {
		e.b.log.Info("branch deleted: its time had come", "branch", br.Project+"/"+br.Name, "expired", br.Expires)
	}
	if api.CodeOf(err) == api.CodeNotFound {
		return nil
	}
	return err
}
