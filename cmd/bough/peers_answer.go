package main

import (
	"context"
	"errors"

	"github.com/bough-db/bough/api"
	"github.com/bough-db/bough/api/hosts"
	"github.com/bough-db/bough/cow"
)

// answers is what this host tells the others: the hosts.Branches of the daemon.
type answers struct{ b *backend }

// find returns the branch if it is open here.
func (a answers) find(id string) (*cow.Branch, error) {
	if open := a.b.volumes.get(cow.BranchID(id)).branch; open != nil {
		return open, nil
	}
	if open := a.b.disks.get(cow.BranchID(id)); open != nil {
		return open, nil
	}
	return nil, api.Errorf(api.CodeNotFound, "branch %s is not open here", id)
}

// Use implements hosts.Branches.
func (a answers) Use(_ context.Context, id string) (hosts.Use, error) {
	_, err := a.find(id)
	return hosts.Use{Open: err == nil}, err
}

// Publish implements hosts.Branches.
func (a answers) Publish(ctx context.Context, id string) (hosts.Published, error) {
	open, err := a.find(id)
	if err != nil {
		return hosts.Published{}, err
	}
	at, err := open.Publish(ctx)
	return hosts.Published{Seq: uint64(at.Seq)}, translate(err)
}

// Release implements hosts.Branches. What is opened here is closed again, with all
// that an earlier life left of it in the store.
func (a answers) Release(ctx context.Context, id string) error {
	if err := a.b.ready(); err != nil {
		return err
	}
	if _, err := a.find(id); err == nil {
		return api.Errorf(api.CodeInUse, "branch %s is in use", id)
	}
	info, err := a.b.store.BranchByID(ctx, cow.BranchID(id))
	if err != nil {
		return translate(err)
	}
	if !info.Attached || info.Host != a.b.store.HostID() {
		return nil // it is not ours to give
	}
	open, err := a.b.store.Open(ctx, info.ID)
	if err != nil {
		return translate(err)
	}
	// Closing goes on when nobody waits for the answer any more.
	return translate(open.Close(context.WithoutCancel(ctx)))
}

// Recheck implements hosts.Branches.
func (a answers) Recheck(ctx context.Context, id string) error {
	open, err := a.find(id)
	if err != nil {
		return err
	}
	err = open.Recheck(ctx)
	if errors.Is(err, cow.ErrFenced) {
		return nil // that is what was to be found out
	}
	return translate(err)
}
