package main

import (
	"context"
	"errors"
	"strings"
	"syscall"

	"github.com/bough-db/bough/api"
	"github.com/bough-db/bough/cow"
)

// Collect implements api.Upkeep.
func (b *backend) Collect(ctx context.Context, req api.Collect) (api.Collected, error) {
	if err := b.ready(); err != nil {
		return api.Collected{}, err
	}
	rep, err := b.collector.all(ctx, req.DryRun)
	if err != nil {
		return api.Collected{}, translate(err)
	}
	return collectedView(rep), nil
}

// Usage implements api.Upkeep.
func (b *backend) Usage(ctx context.Context) (api.Usage, error) {
	u, err := b.store.Usage(ctx)
	if err != nil {
		return api.Usage{}, translate(err)
	}
	return usageView(u), nil
}

func collectedView(r *cow.CollectReport) api.Collected {
	v := api.Collected{
		Branches: r.Branches, Packs: r.Packs, WrittenBytes: r.Written, Replaced: r.Replaced, FreeableBytes: r.Freeable,
		Deleted: r.Deleted, FreedBytes: r.Freed, Purged: r.Purged, Waiting: r.Waiting, Problems: upkeepProblems(r.Problems),
	}
	if p := r.Pressure; p != nil {
		v.Pressure = &api.Pressure{Bytes: p.Bytes, BytesMax: p.BytesMax, Since: p.Since}
	}
	return v
}

func upkeepProblems(all []cow.CollectProblem) (views []api.UpkeepProblem) {
	for _, p := range all {
		views = append(views, api.UpkeepProblem{Branch: string(p.Branch), Detail: oneLine(p.Detail)})
	}
	return views
}

// usageView is a measurement in the words of the interface. What templates take is one
// with the records.
func usageView(u *cow.StoreUsage) api.Usage {
	v := api.Usage{
		Time: u.Time, TotalBytes: u.Total, Objects: u.Objects, HistoryBytes: u.History, DeletedBytes: u.Deleted, RecordBytes: u.Records,
		Branches: []api.BranchUsage{}, Problems: upkeepProblems(u.Problems),
	}
	for _, b := range u.Branches {
		if templateName.MatchString(b.Project) {
			v.RecordBytes += b.Own()
			v.HistoryBytes -= b.History
			continue
		}
		v.Branches = append(v.Branches, api.BranchUsage{
			Project: b.Project, Branch: b.Name, LogicalBytes: b.Logical, OwnBytes: b.Own(), UniqueBytes: b.Unique, SharedBytes: b.Shared,
			HistoryBytes: b.History, DeletionFreesBytes: b.Deletion,
		})
	}
	return v
}

// historyOf reads a history; nil is what stands above says.
func historyOf(text string) (*cow.Retention, error) {
	if strings.TrimSpace(text) == "" {
		return nil, nil
	}
	r, err := cow.ParseRetention(text)
	if errors.Is(err, cow.ErrInvalidRetention) {
		return nil, api.Errorf(api.CodeInvalidRequest, "%v", err)
	}
	return &r, err
}

// historyView is a history as people write it, "" for none of its own.
func historyView(r *cow.Retention) string {
	if r == nil {
		return ""
	}
	return r.String()
}

// SetProject implements api.Projects.
func (b *backend) SetProject(ctx context.Context, name string, req api.SetProject) (api.Project, error) {
	if err := b.ready(); err != nil {
		return api.Project{}, err
	}
	if _, err := b.project(ctx, name); err != nil {
		return api.Project{}, err
	}
	if req.History != nil {
		r, err := historyOf(*req.History)
		if err != nil {
			return api.Project{}, err
		}
		err = b.store.UpdateProject(ctx, name, func(p *cow.ProjectInfo) error {
			p.Retention = r
			return nil
		})
		if err != nil {
			return api.Project{}, projectError(err, name)
		}
	}
	d, err := b.Project(ctx, name)
	return d.Project, err
}

// autoHistoryBytes is how much history may take where nobody says: a fifth of the disk
// that the store is on. A bucket has no end.
func autoHistoryBytes(store string) (int64, error) {
	if isURL(store) {
		return 0, nil
	}
	var st syscall.Statfs_t
	if err := syscall.Statfs(store, &st); err != nil {
		return 0, err
	}
	return int64(st.Blocks) * st.Bsize / 5, nil
}
