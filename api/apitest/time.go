package apitest

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/bough-db/bough/api"
	"github.com/bough-db/bough/cow/point"
)

// firstLSN is where the WAL of every branch begins.
const firstLSN = 0x1500000

// barrier is what every branch has as its barrier of that number.
func barrier(seq uint64) api.Barrier {
	return api.Barrier{
		Seq: seq, Time: Epoch.Add(time.Duration(seq) * time.Minute), LSN: fmt.Sprintf("0/%X", firstLSN+seq*0x2000), Timeline: 1,
		Bytes: int64(seq) * 8192,
	}
}

// resolve finds the barrier of a point.
func (b *Backend) resolve(br *api.Branch, at string) (api.Barrier, error) {
	if at == "" {
		return barrier(br.Seq), nil
	}
	p, err := point.Parse(at, nil)
	if err != nil {
		return api.Barrier{}, api.Errorf(api.CodeInvalidRequest, "%v", err)
	}
	seq := p.Number
	switch p = p.Settle(Epoch.Add(time.Hour)); p.Kind {
	case point.Head:
		seq = br.Seq
	case point.LSN:
		seq = (max(p.Number, firstLSN) - firstLSN) / 0x2000
	case point.Time:
		seq = uint64(max(0, p.At.Sub(Epoch)/time.Minute))
	case point.Snapshot:
		for _, s := range b.snapshots[br.Ref()] {
			if s.Name == p.Name {
				return s.Barrier, nil
			}
		}
		seq = 0
	}
	if seq == 0 || seq > br.Seq {
		return api.Barrier{}, api.Errorf(api.CodeNoPoint, "point %q of %s: there is none: the nearest is @seq:%d", "@"+p.String(), br.Ref(), br.Seq).
			WithHint("see `bough log %s`", br.Ref())
	}
	return barrier(seq), nil
}

// Log implements [api.Moments].
func (b *Backend) Log(ctx context.Context, project, branch string, q api.LogQuery) (api.LogPage, error) {
	if err := b.enter(ctx, "Log"); err != nil {
		return api.LogPage{}, err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	br, err := b.find(project, branch)
	if err != nil {
		return api.LogPage{}, err
	}
	var all []api.Barrier
	for seq := q.After + 1; seq <= br.Seq && (q.Before == 0 || seq < q.Before); seq++ {
		if bar := barrier(seq); !bar.Time.Before(q.Since) {
			all = append(all, bar)
		}
	}
	if !q.OldestFirst {
		slices.Reverse(all)
	}
	limit := cmp.Or(q.Limit, 100)
	return api.LogPage{Barriers: all[:min(limit, len(all))], More: len(all) > limit}, nil
}

// ListSnapshots implements [api.Moments].
func (b *Backend) ListSnapshots(ctx context.Context, project, branch string) ([]api.Snapshot, error) {
	if err := b.enter(ctx, "ListSnapshots"); err != nil {
		return nil, err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	br, err := b.find(project, branch)
	if err != nil {
		return nil, err
	}
	return slices.Clone(b.snapshots[br.Ref()]), nil
}

// CreateSnapshot implements [api.Moments].
func (b *Backend) CreateSnapshot(ctx context.Context, project, branch string, req api.CreateSnapshot) (api.Snapshot, error) {
	if err := b.enter(ctx, "CreateSnapshot"); err != nil {
		return api.Snapshot{}, err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	br, err := b.find(project, branch)
	if err != nil {
		return api.Snapshot{}, err
	}
	at, err := b.resolve(br, req.At)
	if err != nil {
		return api.Snapshot{}, err
	}
	s := api.Snapshot{Name: req.Name, Created: b.tick(), Barrier: at}
	b.snapshots[br.Ref()] = append(b.snapshots[br.Ref()], s)
	return s, nil
}

// DeleteSnapshot implements [api.Moments].
func (b *Backend) DeleteSnapshot(ctx context.Context, project, branch, name string) error {
	if err := b.enter(ctx, "DeleteSnapshot"); err != nil {
		return err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	br, err := b.find(project, branch)
	if err != nil {
		return err
	}
	all := b.snapshots[br.Ref()]
	i := slices.IndexFunc(all, func(s api.Snapshot) bool { return s.Name == name })
	if i < 0 {
		return api.Errorf(api.CodeNotFound, "no snapshot %s of %s", name, br.Ref())
	}
	b.snapshots[br.Ref()] = slices.Delete(all, i, i+1)
	return nil
}

// RestoreBranch implements [api.Moments].
func (b *Backend) RestoreBranch(ctx context.Context, project, branch string, req api.RestoreBranch) (api.RestoredBranch, error) {
	if err := b.enter(ctx, "RestoreBranch"); err != nil {
		return api.RestoredBranch{}, err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	br, err := b.find(project, branch)
	if err != nil {
		return api.RestoredBranch{}, err
	}
	if br.Protected {
		return api.RestoredBranch{}, api.Errorf(api.CodeProtected, "branch %s is protected", br.Ref())
	}
	src := br
	if req.Parent {
		req.From = br.Parent
	}
	if req.From != "" {
		if src, err = b.find(project, req.From); err != nil {
			return api.RestoredBranch{}, err
		}
	}
	at, err := b.resolve(src, req.At)
	if err != nil {
		return api.RestoredBranch{}, err
	}
	res := api.RestoredBranch{From: src.Name, Seq: at.Seq}
	if req.KeepAs != "" {
		kept := *b.add(b.projects[project], req.KeepAs, br)
		res.Kept = &kept
	}
	br.Seq, br.Restored, br.RestoredSeq = at.Seq, b.tick(), at.Seq
	res.Branch = *br
	return res, nil
}

// ListDeleted implements [api.Moments].
func (b *Backend) ListDeleted(ctx context.Context, project string) ([]api.DeletedBranch, error) {
	if err := b.enter(ctx, "ListDeleted"); err != nil {
		return nil, err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	var all []api.DeletedBranch
	for _, d := range b.deleted {
		if d.Project == project {
			all = append(all, api.DeletedBranch{ID: d.ID, Project: d.Project, Name: d.Name, Deleted: Epoch.Add(time.Hour)})
		}
	}
	return all, nil
}

// UndeleteBranch implements [api.Moments].
func (b *Backend) UndeleteBranch(ctx context.Context, project, name string, req api.UndeleteBranch) (api.Branch, error) {
	if err := b.enter(ctx, "UndeleteBranch"); err != nil {
		return api.Branch{}, err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	i := slices.IndexFunc(b.deleted, func(d api.Branch) bool { return d.Project == project && (d.Name == name || d.ID == name) })
	if i < 0 {
		return api.Branch{}, api.Errorf(api.CodeNotFound, "no deleted branch %s/%s", project, name)
	}
	br := b.deleted[i]
	br.Name = cmp.Or(req.Name, br.Name)
	if b.branches[br.Ref()] != nil {
		return api.Branch{}, api.Errorf(api.CodeAlreadyExists, "branch %s exists", br.Ref())
	}
	b.deleted = slices.Delete(b.deleted, i, i+1)
	b.branches[br.Ref()] = &br
	return br, nil
}

// Throwaway implements [api.Moments].
func (b *Backend) Throwaway(ctx context.Context, project, branch string, req api.ThrowawayBranch, ready func(api.CreatedBranch) error) error {
	if err := b.enter(ctx, "Throwaway"); err != nil {
		return err
	}
	b.mu.Lock()
	br, err := b.find(project, branch)
	var at api.Barrier
	if err == nil {
		at, err = b.resolve(br, req.At)
	}
	if err != nil {
		b.mu.Unlock()
		return err
	}
	tmp := b.add(b.projects[project], fmt.Sprintf("at-%d", at.Seq), br)
	tmp.Throwaway, tmp.ForkSeq, tmp.Seq = true, at.Seq, at.Seq
	made := api.CreatedBranch{Branch: *tmp, Connection: connection(*tmp)}
	b.mu.Unlock()
	if err = ready(made); err == nil {
		<-ctx.Done()
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.branches, made.Branch.Ref())
	return errors.Join(err, ctx.Err())
}
