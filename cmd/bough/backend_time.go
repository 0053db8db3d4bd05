package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/bough-db/bough/api"
	"github.com/bough-db/bough/cow"
	"github.com/bough-db/bough/cow/point"
	"github.com/bough-db/bough/postgres"
	"github.com/bough-db/bough/postgres/walpage"
	"github.com/bough-db/bough/wal"
)

// pointOf reads a point of a request; "" is the last barrier.
func pointOf(at string) (point.Point, error) {
	if at == "" {
		return point.Point{}, nil
	}
	p, err := point.Parse(at, nil)
	if err != nil {
		return p, api.Errorf(api.CodeInvalidRequest, "%v", err)
	}
	return p, nil
}

// barrierView is a barrier in the words of the interface.
func barrierView(b cow.Barrier) api.Barrier {
	v := api.Barrier{Seq: uint64(b.Seq), Time: b.Time, Bytes: b.Bytes, Timeline: walpage.Timeline(b.Line)}
	if b.LSN > 0 {
		v.LSN = walpage.FormatLSN(b.LSN)
	}
	return v
}

// Log implements api.Moments.
func (b *backend) Log(ctx context.Context, project, branch string, q api.LogQuery) (api.LogPage, error) {
	_, br, err := b.find(ctx, project, branch)
	if err != nil {
		return api.LogPage{}, err
	}
	page, err := b.store.History(ctx, br.ID, cow.HistoryQuery{
		Before: wal.Seq(q.Before), After: wal.Seq(q.After), Since: q.Since, OldestFirst: q.OldestFirst, Limit: q.Limit,
	})
	if err != nil {
		return api.LogPage{}, branchError(err, project, branch)
	}
	v := api.LogPage{Barriers: make([]api.Barrier, len(page.Barriers)), More: page.More}
	for i, bar := range page.Barriers {
		v.Barriers[i] = barrierView(bar)
	}
	return v, nil
}

func snapshotView(s cow.SnapshotInfo) api.Snapshot {
	return api.Snapshot{Name: s.Name, Created: s.Created, Barrier: barrierView(s.Barrier)}
}

// ListSnapshots implements api.Moments.
func (b *backend) ListSnapshots(ctx context.Context, project, branch string) ([]api.Snapshot, error) {
	_, br, err := b.find(ctx, project, branch)
	if err != nil {
		return nil, err
	}
	all, err := b.store.Snapshots(ctx, br.ID)
	if err != nil {
		return nil, branchError(err, project, branch)
	}
	views := make([]api.Snapshot, len(all))
	for i, s := range all {
		views[i] = snapshotView(s)
	}
	return views, nil
}

// CreateSnapshot implements api.Moments.
func (b *backend) CreateSnapshot(ctx context.Context, project, branch string, req api.CreateSnapshot) (api.Snapshot, error) {
	if err := b.ready(); err != nil {
		return api.Snapshot{}, err
	}
	at, err := pointOf(req.At)
	if err != nil {
		return api.Snapshot{}, err
	}
	_, br, err := b.find(ctx, project, branch)
	if err != nil {
		return api.Snapshot{}, err
	}
	s, err := b.store.CreateSnapshot(ctx, br.ID, req.Name, at)
	if errors.Is(err, cow.ErrExists) {
		return api.Snapshot{}, api.Errorf(api.CodeAlreadyExists, "branch %s/%s has a snapshot %s", project, branch, req.Name).WithHint("choose another name")
	}
	if err != nil {
		return api.Snapshot{}, branchError(err, project, branch)
	}
	return snapshotView(s), nil
}

// DeleteSnapshot implements api.Moments.
func (b *backend) DeleteSnapshot(ctx context.Context, project, branch, name string) error {
	if err := b.ready(); err != nil {
		return err
	}
	_, br, err := b.find(ctx, project, branch)
	if err != nil {
		return err
	}
	err = b.store.DeleteSnapshot(ctx, br.ID, name)
	if errors.Is(err, cow.ErrNotFound) {
		return api.Errorf(api.CodeNotFound, "branch %s/%s has no snapshot %s", project, branch, name).
			WithHint("see `bough snapshot list %s/%s`", project, branch)
	}
	return branchError(err, project, branch)
}

// RestoreBranch implements api.Moments.
func (b *backend) RestoreBranch(ctx context.Context, project, branch string, req api.RestoreBranch) (api.RestoredBranch, error) {
	if err := b.ready(); err != nil {
		return api.RestoredBranch{}, err
	}
	at, err := pointOf(req.At)
	if err != nil {
		return api.RestoredBranch{}, err
	}
	_, br, err := b.find(ctx, project, branch)
	if err != nil {
		return api.RestoredBranch{}, err
	}
	src, err := b.restoreSource(ctx, br, req)
	if err != nil {
		return api.RestoredBranch{}, err
	}
	if err := b.restorable(ctx, br, src, at); err != nil {
		return api.RestoredBranch{}, err
	}
	done, err := b.quiesce(ctx, br, false)
	if err != nil {
		return api.RestoredBranch{}, err
	}
	defer done()
	o := postgres.RestoreOptions{From: src.ID, At: at, KeepAs: req.KeepAs, Own: src.ID == br.ID}
	if at.Exact() {
		// To a branch that ends with the transaction, which is there for that only.
		exact, err := b.makeExact(ctx, src, at, o.Own)
		if err != nil {
			return api.RestoredBranch{}, branchError(err, src.Project, src.Name)
		}
		defer b.dropThrowaway(context.WithoutCancel(ctx), exact)
		o.From, o.At = exact.ID, point.Point{}
	}
	br, err = b.endpoint.RestoreBranch(ctx, project, branch, o)
	if errors.Is(err, cow.ErrExists) {
		return api.RestoredBranch{}, branchError(err, project, req.KeepAs)
	}
	if err != nil {
		return api.RestoredBranch{}, branchError(err, project, branch)
	}
	r := api.RestoredBranch{Branch: b.viewAlone(ctx, br), From: src.Name, Seq: br.RestoredSeq}
	if req.KeepAs != "" {
		kept, err := b.Branch(ctx, project, req.KeepAs)
		if err != nil {
			return r, err
		}
		r.Kept = &kept
	}
	return r, nil
}

// restoreSource returns the branch whose past a branch is to be restored to, with its
// last barrier in the store if another host has it.
func (b *backend) restoreSource(ctx context.Context, br cow.BranchInfo, req api.RestoreBranch) (cow.BranchInfo, error) {
	from := req.From
	if req.Parent {
		p := b.parent(ctx, br)
		if p.name == "" {
			return br, api.Errorf(api.CodeInvalidRequest, "branch %s/%s has no parent to be reset to", br.Project, br.Name).
				WithHint("give a point of its own past with `bough branch restore`")
		}
		from = p.name
	}
	if from == "" || from == br.Name {
		return br, nil
	}
	if _, err := b.askForFork(ctx, br.Project, from); err != nil {
		return br, err
	}
	_, src, err := b.find(ctx, br.Project, from)
	return src, err
}

// restorable returns why a branch can not be restored, before its Postgres is stopped
// for nothing.
func (b *backend) restorable(ctx context.Context, br, src cow.BranchInfo, at point.Point) error {
	if br.Protected {
		return branchError(cow.ErrProtected, br.Project, br.Name)
	}
	if err := b.elsewhere(br, "suspend it"); err != nil {
		return err
	}
	if h := b.volumes.get(br.ID); h.by == heldByUser {
		return attachedError(br.Project, br.Name, h.dir)
	}
	if at.Kind == point.Head || at.Exact() {
		return nil
	}
	_, err := b.store.Resolve(ctx, src.ID, at)
	return branchError(err, src.Project, src.Name)
}

// ListDeleted implements api.Moments.
func (b *backend) ListDeleted(ctx context.Context, project string) ([]api.DeletedBranch, error) {
	if _, err := b.project(ctx, project); err != nil {
		return nil, err
	}
	all, err := b.store.DeletedBranches(ctx, project)
	if err != nil {
		return nil, projectError(err, project)
	}
	slices.SortFunc(all, func(x, y cow.BranchInfo) int {
		return cmp.Or(y.Deleted.Compare(x.Deleted), cmp.Compare(x.Name, y.Name))
	})
	views := make([]api.DeletedBranch, len(all))
	for i, br := range all {
		views[i] = api.DeletedBranch{ID: string(br.ID), Project: project, Name: br.Name, Deleted: br.Deleted}
	}
	return views, nil
}

// UndeleteBranch implements api.Moments.
func (b *backend) UndeleteBranch(ctx context.Context, project, name string, req api.UndeleteBranch) (api.Branch, error) {
	if err := b.ready(); err != nil {
		return api.Branch{}, err
	}
	all, err := b.ListDeleted(ctx, project)
	if err != nil {
		return api.Branch{}, err
	}
	i := slices.IndexFunc(all, func(d api.DeletedBranch) bool { return d.ID == name })
	if i < 0 {
		i = slices.IndexFunc(all, func(d api.DeletedBranch) bool { return d.Name == name })
	}
	if i < 0 {
		return api.Branch{}, api.Errorf(api.CodeNotFound, "no deleted branch %s/%s", project, name).
			WithHint("see `bough branch list %s --deleted`", project)
	}
	br, err := b.store.UndeleteBranch(ctx, cow.BranchID(all[i].ID), req.Name)
	if errors.Is(err, cow.ErrExists) {
		return api.Branch{}, api.Errorf(api.CodeAlreadyExists, "branch %s/%s exists", project, cmp.Or(req.Name, all[i].Name)).
			WithHint("give it another name with --as")
	}
	if err != nil {
		return api.Branch{}, branchError(err, project, all[i].Name)
	}
	return b.viewAlone(ctx, br), nil
}

// Throwaway implements api.Moments.
func (b *backend) Throwaway(ctx context.Context, project, branch string, req api.ThrowawayBranch, ready func(api.CreatedBranch) error) error {
	if err := b.ready(); err != nil {
		return err
	}
	p, parent, err := b.find(ctx, project, branch)
	if err != nil {
		return err
	}
	br, err := b.makeThrowaway(ctx, parent, req.At)
	if err != nil {
		return err
	}
	conn, err := b.connection(ctx, p, br)
	if err == nil {
		err = ready(api.CreatedBranch{Branch: b.view(br, map[cow.BranchID]string{parent.ID: branch}), Connection: conn})
	}
	if err == nil {
		<-ctx.Done()
	}
	// Whoever asked has gone.
	b.dropThrowaway(context.WithoutCancel(ctx), br)
	return err
}

// dropThrowaway deletes a branch that was made for one use.
func (b *backend) dropThrowaway(ctx context.Context, br cow.BranchInfo) {
	ctx, cancel := context.WithTimeout(ctx, throwawayLimit)
	defer cancel()
	err := b.dropBranch(ctx, br)
	b.letGo(br)
	if err != nil {
		b.log.Warn("throwaway branch not deleted yet: it will be", "branch", br.Project+"/"+br.Name, "err", err)
		b.expirer.look()
	}
}

// holdThrowaway notes that a throwaway branch, which may be about to be made, is in use.
func (b *backend) holdThrowaway(project, name string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.throwaways[project+"/"+name] = true
}

// letGo notes that a throwaway branch is not in use any more.
func (b *backend) letGo(br cow.BranchInfo) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.throwaways, br.Project+"/"+br.Name)
}

// isHeld tells whether a throwaway branch is in use.
func (b *backend) isHeld(br cow.BranchInfo) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.throwaways[br.Project+"/"+br.Name]
}

// throwawayLimit bounds the deletion of a throwaway branch; what is not done by then,
// the expirer does.
const throwawayLimit = time.Minute

// makeThrowaway makes a branch of a point, for one use; dropThrowaway ends that.
func (b *backend) makeThrowaway(ctx context.Context, parent cow.BranchInfo, at string) (cow.BranchInfo, error) {
	p, err := pointOf(at)
	if err != nil {
		return cow.BranchInfo{}, err
	}
	if _, err := b.askForFork(ctx, parent.Project, parent.Name); err != nil {
		return cow.BranchInfo{}, err
	}
	if p.Exact() {
		br, err := b.makeExact(ctx, parent, p, false)
		return br, branchError(err, parent.Project, parent.Name)
	}
	bar, err := b.store.Resolve(ctx, parent.ID, p)
	if err != nil {
		return cow.BranchInfo{}, branchError(err, parent.Project, parent.Name)
	}
	if p.Kind != point.Snapshot { // which may lie outside of what the branch's numbers mean now
		p = point.Point{Kind: point.Seq, Number: uint64(bar.Seq)}
	}
	for {
		name := fmt.Sprintf("at-%d-%05x", bar.Seq, rand.Uint32N(1<<20))
		b.holdThrowaway(parent.Project, name)
		br, err := b.endpoint.CreateBranch(ctx, parent.Project, name, postgres.CreateBranchOptions{From: parent.Name, At: p, Throwaway: true})
		if err == nil {
			return br, nil
		}
		b.letGo(cow.BranchInfo{Project: parent.Project, Name: name})
		if !errors.Is(err, cow.ErrExists) {
			return br, branchError(err, parent.Project, parent.Name)
		}
	}
}

// makeExact makes a branch of a transaction, for one use; dropThrowaway ends that.
func (b *backend) makeExact(ctx context.Context, parent cow.BranchInfo, p point.Point, keepEffects bool) (cow.BranchInfo, error) {
	for {
		name := fmt.Sprintf("at-tx-%08x", rand.Uint32())
		b.holdThrowaway(parent.Project, name)
		br, err := b.makeBranch(ctx, parent.Project, name, postgres.CreateBranchOptions{
			From: parent.Name, At: p, Throwaway: true, KeepEffects: keepEffects,
		})
		if err == nil {
			return br, nil
		}
		b.letGo(cow.BranchInfo{Project: parent.Project, Name: name})
		if !errors.Is(err, cow.ErrExists) {
			return br, err
		}
	}
}

// dropBranch deletes a branch, whatever uses it here but a mount of a user's.
func (b *backend) dropBranch(ctx context.Context, br cow.BranchInfo) error {
	done, err := b.quiesce(ctx, br, true)
	if err != nil {
		return err
	}
	defer done()
	defer b.running.forget(br.Project + "/" + br.Name)
	err = b.store.DeleteBranch(ctx, br.Project, br.Name)
	if errors.Is(err, cow.ErrNotFound) {
		return nil
	}
	return branchError(err, br.Project, br.Name)
}
