package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/bough-db/bough/cow"
)

// catalogue is the store, whose lookups end when the store does not answer for a
// while: who waits for a command wants to hear of that. Everything else goes on
// trying for as long as its context lasts.
type catalogue struct {
	*cow.Store
	patience time.Duration
}

// storePatience is how long a lookup waits for the store: some ten times what a store
// takes that answers at all.
const storePatience = 15 * time.Second

// errStoreSilent says that a lookup was given up.
var errStoreSilent = errors.New("the store does not answer")

// lookUp makes one lookup.
func lookUp[T any](ctx context.Context, c catalogue, read func(context.Context) (T, error)) (T, error) {
	bounded, cancel := context.WithTimeout(ctx, c.patience)
	defer cancel()
	v, err := read(bounded)
	if err != nil && bounded.Err() != nil && ctx.Err() == nil {
		err = fmt.Errorf("%w, for %v: %v", errStoreSilent, c.patience, err)
	}
	return v, err
}

// Project is that of cow.Store.
func (c catalogue) Project(ctx context.Context, name string) (cow.ProjectInfo, error) {
	return lookUp(ctx, c, func(ctx context.Context) (cow.ProjectInfo, error) { return c.Store.Project(ctx, name) })
}

// Projects is that of cow.Store.
func (c catalogue) Projects(ctx context.Context) ([]cow.ProjectInfo, error) {
	return lookUp(ctx, c, c.Store.Projects)
}

// Branch is that of cow.Store.
func (c catalogue) Branch(ctx context.Context, project, name string) (cow.BranchInfo, error) {
	return lookUp(ctx, c, func(ctx context.Context) (cow.BranchInfo, error) { return c.Store.Branch(ctx, project, name) })
}

// Branches is that of cow.Store.
func (c catalogue) Branches(ctx context.Context, project string) ([]cow.BranchInfo, error) {
	return lookUp(ctx, c, func(ctx context.Context) ([]cow.BranchInfo, error) { return c.Store.Branches(ctx, project) })
}

// BranchByID is that of cow.Store.
func (c catalogue) BranchByID(ctx context.Context, id cow.BranchID) (cow.BranchInfo, error) {
	return lookUp(ctx, c, func(ctx context.Context) (cow.BranchInfo, error) { return c.Store.BranchByID(ctx, id) })
}

// Hosts is that of cow.Store.
func (c catalogue) Hosts(ctx context.Context) ([]cow.HostInfo, error) {
	return lookUp(ctx, c, c.Store.Hosts)
}
