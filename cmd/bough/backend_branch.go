package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/bough-db/bough/api"
	"github.com/bough-db/bough/cow"
	"github.com/bough-db/bough/postgres"
)

// CreateBranch implements api.Branches.
func (b *backend) CreateBranch(ctx context.Context, project string, req api.CreateBranch) (api.CreatedBranch, error) {
	if err := b.ready(); err != nil {
		return api.CreatedBranch{}, err
	}
	p, err := b.project(ctx, project)
	if err != nil {
		return api.CreatedBranch{}, err
	}
	fork, err := b.askForFork(ctx, project, req.From)
	if err != nil {
		return api.CreatedBranch{}, err
	}
	at, err := pointOf(req.At)
	if err != nil {
		return api.CreatedBranch{}, err
	}
	o := postgres.CreateBranchOptions{From: req.From, At: at, Durability: cow.Durability(req.Durability)}
	br, err := b.makeBranch(ctx, project, req.Name, o)
	if errors.Is(err, cow.ErrNotFound) {
		return api.CreatedBranch{}, branchError(err, project, req.From)
	}
	if err != nil {
		return api.CreatedBranch{}, branchError(err, project, req.Name)
	}
	conn, err := b.connection(ctx, p, br)
	if err != nil {
		return api.CreatedBranch{}, err
	}
	if fork != nil && fork.Seq != br.ForkSeq {
		fork.Seq, fork.Time = br.ForkSeq, time.Time{} // the parent has gone on meanwhile
	}
	return api.CreatedBranch{
		Branch: b.view(br, map[cow.BranchID]string{br.ParentID: req.From}), Connection: conn, Fork: fork,
	}, nil
}

// makeBranch makes a branch of a barrier, or of a transaction.
func (b *backend) makeBranch(ctx context.Context, project, name string, o postgres.CreateBranchOptions) (cow.BranchInfo, error) {
	if !o.At.Exact() {
		return b.endpoint.CreateBranch(ctx, project, name, o)
	}
	if _, err := b.store.Branch(ctx, project, name); err == nil { // before all that work
		return cow.BranchInfo{}, cow.ErrExists
	}
	return b.endpoint.CreateExactBranch(ctx, project, name, postgres.ExactOptions{
		CreateBranchOptions: o,
		Hold: func(name string) func() {
			b.holdThrowaway(project, name)
			return func() { b.letGo(cow.BranchInfo{Project: project, Name: name}) }
		},
	})
}

// askForFork has a host that has the parent of a new branch attached store its last
// barrier. It returns nil if no other host has it.
func (b *backend) askForFork(ctx context.Context, project, from string) (*api.Fork, error) {
	parent, err := b.store.Branch(ctx, project, from)
	if err != nil {
		return nil, branchError(err, project, from)
	}
	if !b.isElsewhere(parent) {
		return nil, nil
	}
	fork, err := b.peers.fork(ctx, parent)
	return fork, branchError(err, project, from)
}

// isElsewhere tells whether another host has the branch attached.
func (b *backend) isElsewhere(br cow.BranchInfo) bool {
	return br.Attached && br.Host != b.store.HostID()
}

// elsewhere returns an error if another host has the branch attached, so that it
// cannot be done here what is asked for.
func (b *backend) elsewhere(br cow.BranchInfo, there string) error {
	if !b.isElsewhere(br) {
		return nil
	}
	return attachedElsewhere(br.Project, br.Name, br.Host, br.Durability, there)
}

// SetBranch implements api.Branches.
func (b *backend) SetBranch(ctx context.Context, project, name string, req api.SetBranch) (api.Branch, error) {
	if err := b.ready(); err != nil {
		return api.Branch{}, err
	}
	_, br, err := b.find(ctx, project, name)
	if err != nil {
		return api.Branch{}, err
	}
	if err := b.elsewhere(br, "set it there, or suspend it"); err != nil {
		return api.Branch{}, err
	}
	if err := b.setLife(ctx, br.ID, req); err != nil {
		return api.Branch{}, branchError(err, project, name)
	}
	if d := cow.Durability(req.Durability); d != "" {
		if err := b.store.SetDurability(ctx, br.ID, d); err != nil {
			return api.Branch{}, branchError(err, project, name)
		}
		err = errors.Join(b.volumes.follow(ctx, br.ID), b.endpoint.SetDurability(ctx, br.ID, d))
		if err != nil {
			return api.Branch{}, fmt.Errorf("the durability of %s/%s is %s, but its device or its Postgres was not told: %w", project, name, d, err)
		}
	}
	return b.Branch(ctx, project, name)
}

// setLife sets which of a branch's moments stay, whether it is protected and when it
// expires, of which two it can have one: what is taken away goes first.
func (b *backend) setLife(ctx context.Context, id cow.BranchID, req api.SetBranch) error {
	protect := func() error {
		return b.store.UpdateBranch(ctx, id, func(i *cow.BranchInfo) error {
			i.Protected = *req.Protected
			return nil
		})
	}
	if req.Protected != nil && !*req.Protected {
		if err := protect(); err != nil {
			return err
		}
	}
	if req.Expires != nil {
		if err := b.store.SetExpiry(ctx, id, *req.Expires); err != nil {
			return err
		}
		b.expirer.look()
	}
	if req.Protected != nil && *req.Protected {
		if err := protect(); err != nil {
			return err
		}
	}
	if req.History == nil {
		return nil
	}
	history, err := historyOf(*req.History)
	if err != nil {
		return err
	}
	return b.store.UpdateBranch(ctx, id, func(i *cow.BranchInfo) error {
		i.Retention = history
		return nil
	})
}

// ListBranches implements api.Branches.
func (b *backend) ListBranches(ctx context.Context, project string) ([]api.Branch, error) {
	if project != "" {
		if _, err := b.project(ctx, project); err != nil {
			return nil, err
		}
		return b.branchViews(ctx, project)
	}
	all, err := b.projects(ctx)
	if err != nil {
		return nil, err
	}
	var views []api.Branch
	for _, p := range all {
		more, err := b.branchViews(ctx, p.Name)
		if api.CodeOf(err) == api.CodeNotFound {
			continue // deleted meanwhile
		}
		if err != nil {
			return nil, err
		}
		views = append(views, more...)
	}
	return views, nil
}

// branchViews returns a project's branches, by creation.
func (b *backend) branchViews(ctx context.Context, project string) ([]api.Branch, error) {
	all, err := b.store.Branches(ctx, project)
	if err != nil {
		return nil, projectError(err, project)
	}
	slices.SortStableFunc(all, func(x, y cow.BranchInfo) int {
		return cmp.Or(x.Created.Compare(y.Created), cmp.Compare(x.Name, y.Name))
	})
	names := make(map[cow.BranchID]string, len(all))
	for _, br := range all {
		names[br.ID] = br.Name
	}
	views := make([]api.Branch, 0, len(all))
	for _, br := range all {
		if br.Err != nil {
			views = append(views, api.Branch{
				ID: string(br.ID), Project: br.Project, Name: br.Name, Endpoint: api.EndpointSuspended, Error: oneLine(br.Err.Error()),
			})
			continue
		}
		if _, ok := names[br.ParentID]; !ok && br.ParentID != "" && b.foreign(ctx, br) {
			br.ParentID = ""
		}
		views = append(views, b.view(br, names))
	}
	return views, nil
}

// foreign reports whether the parent of a branch is not of its project: the
// template, which is nobody's business.
func (b *backend) foreign(ctx context.Context, br cow.BranchInfo) bool {
	parent, err := b.store.BranchByID(ctx, br.ParentID)
	return err == nil && parent.Project != br.Project
}

// view is the branch in the words of the interface. names has the parent's
// name, if that is a branch of the project.
func (b *backend) view(br cow.BranchInfo, names map[cow.BranchID]string) api.Branch {
	v := api.Branch{
		ID: string(br.ID), Project: br.Project, Name: br.Name, Parent: names[br.ParentID], ParentID: string(br.ParentID),
		ForkSeq: br.ForkSeq, Seq: br.Seq, Created: br.Created, SizeBytes: br.Size, Durability: api.Durability(br.Durability),
		Protected: br.Protected, Expires: br.Expires, Throwaway: br.Throwaway != "",
		Restored: br.Restored, RestoredSeq: br.RestoredSeq, History: historyView(br.Retention),
	}
	if b.host.ID != "" && br.Attached {
		v.Host, v.Elsewhere = br.Host, b.isElsewhere(br)
	}
	st := b.endpoint.StatusOf(br.ID)
	v.Endpoint, v.Error = endpointState(st.State), st.Error
	if v.Elsewhere && v.Endpoint == api.EndpointFailed {
		// Lost to that host, or refused because of it: neither is a failure any more.
		v.Endpoint, v.Error = api.EndpointSuspended, ""
	}
	if open := b.disks.get(br.ID); open != nil {
		s := open.Status()
		v.Attached, v.Seq = true, uint64(s.Seq)
		if s.Error != "" {
			v.Error = s.Error
		}
	}
	if v.Parent == "" && names == nil {
		v.ParentID = ""
	}
	return v
}

// endpointState is a state in the words of the interface.
func endpointState(s postgres.State) api.EndpointState {
	switch s {
	case postgres.Starting:
		return api.EndpointStarting
	case postgres.Running:
		return api.EndpointRunning
	case postgres.Stopping:
		return api.EndpointStopping
	case postgres.Failed:
		return api.EndpointFailed
	default:
		return api.EndpointSuspended
	}
}

// find returns a branch of a project that is not hidden.
func (b *backend) find(ctx context.Context, project, name string) (cow.ProjectInfo, cow.BranchInfo, error) {
	var (
		p      cow.ProjectInfo
		br     cow.BranchInfo
		errBr  error
		lookUp sync.WaitGroup
	)
	lookUp.Go(func() { br, errBr = b.store.Branch(ctx, project, name) })
	p, err := b.project(ctx, project)
	lookUp.Wait()
	if err != nil {
		return p, cow.BranchInfo{}, err
	}
	return p, br, branchError(errBr, project, name)
}

// Branch implements api.Branches.
func (b *backend) Branch(ctx context.Context, project, name string) (api.Branch, error) {
	_, br, err := b.find(ctx, project, name)
	if err != nil {
		return api.Branch{}, err
	}
	return b.viewAlone(ctx, br), nil
}

// viewAlone is view, with the parent's name looked up.
func (b *backend) viewAlone(ctx context.Context, br cow.BranchInfo) api.Branch {
	return b.viewBelow(br, b.parent(ctx, br))
}

// parent returns the parent's name, if that is a branch of the project, and whether
// it is of another project, which is nobody's business.
func (b *backend) parent(ctx context.Context, br cow.BranchInfo) (p parentName) {
	if br.ParentID == "" {
		return p
	}
	// A parent that cannot be read is shown as one that was deleted.
	parent, err := b.store.BranchByID(ctx, br.ParentID)
	if err == nil && parent.Project != br.Project {
		p.foreign = true
	} else if err == nil {
		if now, err := b.store.Branch(ctx, parent.Project, parent.Name); err == nil && now.ID == parent.ID {
			p.name = parent.Name
		}
	}
	return p
}

// parentName is what is shown of a branch's parent.
type parentName struct {
	name    string
	foreign bool
}

func (b *backend) viewBelow(br cow.BranchInfo, p parentName) api.Branch {
	names := map[cow.BranchID]string{}
	if p.name != "" {
		names[br.ParentID] = p.name
	}
	if p.foreign {
		br.ParentID = ""
	}
	return b.view(br, names)
}

// RenameBranch implements api.Branches.
func (b *backend) RenameBranch(ctx context.Context, project, name, to string) (api.Branch, error) {
	if err := b.ready(); err != nil {
		return api.Branch{}, err
	}
	_, br, err := b.find(ctx, project, name)
	if err != nil {
		return api.Branch{}, err
	}
	if err := b.elsewhere(br, "suspend it"); err != nil {
		return api.Branch{}, err
	}
	b.running.forget(project + "/" + name)
	defer b.running.forget(project + "/" + name)
	if err := b.store.RenameBranch(ctx, project, name, to); err != nil {
		return api.Branch{}, branchError(err, project, to)
	}
	return b.Branch(ctx, project, to)
}

// DeleteBranch implements api.Branches.
func (b *backend) DeleteBranch(ctx context.Context, project, name string) error {
	if err := b.ready(); err != nil {
		return err
	}
	_, br, err := b.find(ctx, project, name)
	if err != nil {
		return err
	}
	if err := b.elsewhere(br, "suspend it"); err != nil {
		return err
	}
	if h := b.volumes.get(br.ID); h.by == heldByUser {
		return attachedError(project, name, h.dir)
	}
	if br.Protected {
		return branchError(cow.ErrProtected, project, name)
	}
	return b.dropBranch(ctx, br)
}

// quiet is a branch whose endpoint nobody can start for a while.
type quiet struct {
	deleting bool          // it is being deleted: clients are told that it is not there
	over     chan struct{} // closed when it is over; else clients wait for that
}

// quiesce stops a branch's endpoint and keeps clients from starting it again until
// done is called: because it is being deleted, or restored.
func (b *backend) quiesce(ctx context.Context, br cow.BranchInfo, deleting bool) (done func(), err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if q := b.quiet[br.ID]; q != nil {
		what := "restored"
		if q.deleting {
			what = "deleted"
		}
		return nil, api.Errorf(api.CodeInUse, "branch %s/%s is being %s", br.Project, br.Name, what)
	}
	q := &quiet{deleting: deleting, over: make(chan struct{})}
	b.quiet[br.ID] = q
	done = func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		delete(b.quiet, br.ID)
		close(q.over)
	}
	b.mu.Unlock()
	err = b.endpoint.Forget(ctx, br.Project, br.Name)
	b.mu.Lock()
	if err != nil {
		delete(b.quiet, br.ID)
		close(q.over)
		return nil, branchError(err, br.Project, br.Name)
	}
	return done, nil
}

// isQuiet reports whether nobody can start the branch's endpoint for a while.
func (b *backend) isQuiet(id cow.BranchID) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.quiet[id] != nil
}

// findToUse is find for who is about to start or attach the branch: it waits while that
// is being restored, and does not find one that is being deleted.
func (b *backend) findToUse(ctx context.Context, project, name string) (cow.BranchInfo, error) {
	for {
		_, br, err := b.find(ctx, project, name)
		if err != nil {
			return br, err
		}
		b.mu.Lock()
		q := b.quiet[br.ID]
		b.mu.Unlock()
		switch {
		case q == nil:
			return br, nil
		case q.deleting:
			return br, branchError(cow.ErrNotFound, project, name)
		}
		select {
		case <-q.over: // and look again: it begins elsewhere now
		case <-ctx.Done():
			return br, ctx.Err()
		}
	}
}
