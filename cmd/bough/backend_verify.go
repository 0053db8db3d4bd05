package main

import (
	"context"

	"github.com/bough-db/bough/api"
	"github.com/bough-db/bough/cow"
)

// Verify implements api.Daemon.
func (b *backend) Verify(ctx context.Context, scope api.VerifyScope, emit func(api.VerifyEvent) error) (api.VerifyResult, error) {
	ids, err := b.verifyScope(ctx, scope)
	if err != nil {
		return api.VerifyResult{}, err
	}
	// Check cannot be told by its callback that nobody listens any more.
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	send := func(ev api.VerifyEvent) {
		if err := emit(ev); err != nil {
			cancel(err)
		}
	}
	var result api.VerifyResult
	seen := map[[2]string]bool{} // branches of a project share ancestors
	for i, id := range ids {
		report, err := b.store.Check(ctx, cow.CheckOptions{Branch: id, Deep: !scope.Quick, Progress: func(p cow.CheckProgress) {
			done, total := p.Done, p.Total
			if id != "" {
				done, total = i, len(ids)
			}
			send(api.VerifyEvent{Progress: &api.VerifyProgress{
				Project: p.Branch.Project, Branch: p.Branch.Name, Done: done, Total: total,
			}})
		}})
		if ctx.Err() != nil {
			return result, context.Cause(ctx)
		}
		if err != nil {
			return result, translate(err)
		}
		for _, d := range report.Damage {
			if key := [2]string{d.Object, d.Detail}; len(ids) == 1 || !seen[key] {
				seen[key] = true
				result.Problems++
				send(api.VerifyEvent{Problem: problemView(d)})
			}
		}
		result.Problems += report.Omitted
		result.Branches += report.Branches
		result.Segments += report.Segments
		result.Blocks += report.Blocks
		result.Bytes += report.Bytes
	}
	if scope.Project != "" || result.Problems > 0 { // what is damaged does not tell what it needs
		return result, nil
	}
	err = b.store.Orphans(ctx, func(o cow.Orphan) {
		result.Orphans++
		result.OrphanBytes += o.Bytes
		send(api.VerifyEvent{Orphan: &api.VerifyOrphan{Object: o.Object, Bytes: o.Bytes, Detail: o.Detail}})
	})
	if ctx.Err() != nil {
		return result, context.Cause(ctx)
	}
	if err != nil {
		result.Problems++
		send(api.VerifyEvent{Problem: &api.VerifyProblem{Detail: oneLine(err.Error())}})
	}
	return result, nil
}

// verifyScope returns the branches to check, or one empty id for all.
func (b *backend) verifyScope(ctx context.Context, scope api.VerifyScope) ([]cow.BranchID, error) {
	switch {
	case scope.Project == "":
		return []cow.BranchID{""}, nil
	case scope.Branch != "":
		_, br, err := b.find(ctx, scope.Project, scope.Branch)
		return []cow.BranchID{br.ID}, err
	}
	if _, err := b.project(ctx, scope.Project); err != nil {
		return nil, err
	}
	branches, err := b.store.Branches(ctx, scope.Project)
	if err != nil {
		return nil, projectError(err, scope.Project)
	}
	ids := make([]cow.BranchID, len(branches))
	for i, br := range branches {
		ids[i] = br.ID
	}
	return ids, nil
}

func problemView(d cow.Damage) *api.VerifyProblem {
	p := &api.VerifyProblem{Object: d.Object, Detail: oneLine(d.Detail)}
	for _, a := range d.Affected {
		p.Affected = append(p.Affected, api.VerifyAffected{Project: a.Project, Branch: a.Name, Blocks: a.Blocks})
	}
	return p
}
