package apitest

import (
	"context"
	"io"
	"net/http"
	"time"

	"github.com/bough-db/bough/api"
)

// Collect implements [api.Upkeep].
func (b *Backend) Collect(ctx context.Context, req api.Collect) (api.Collected, error) {
	if err := b.enter(ctx, "Collect"); err != nil {
		return api.Collected{}, err
	}
	r := api.Collected{Branches: 4, Packs: 3, WrittenBytes: 40 << 20, Replaced: 120, FreeableBytes: 900 << 20, Waiting: 120}
	if !req.DryRun {
		r.Deleted, r.FreedBytes, r.Purged = 17, 64<<20, 1
	}
	return r, nil
}

// Usage implements [api.Upkeep].
func (b *Backend) Usage(ctx context.Context) (api.Usage, error) {
	if err := b.enter(ctx, "Usage"); err != nil {
		return api.Usage{}, err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	u := api.Usage{Time: Epoch.Add(2 * time.Hour), Objects: 321, DeletedBytes: 5 << 20, RecordBytes: 1 << 20}
	for _, br := range b.list("") {
		u.Branches = append(u.Branches, api.BranchUsage{
			Project: br.Project, Branch: br.Name, LogicalBytes: 900 << 20, OwnBytes: 310 << 20, UniqueBytes: 100 << 20, SharedBytes: 20 << 20,
			HistoryBytes: 200 << 20, DeletionFreesBytes: 300 << 20,
		})
		u.HistoryBytes += 200 << 20
		u.TotalBytes += 310 << 20
	}
	u.TotalBytes += u.DeletedBytes + u.RecordBytes
	return u, nil
}

// SetProject implements [api.Projects].
func (b *Backend) SetProject(ctx context.Context, name string, req api.SetProject) (api.Project, error) {
	if err := b.enter(ctx, "SetProject"); err != nil {
		return api.Project{}, err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	p := b.projects[name]
	if p == nil {
		return api.Project{}, noProject(name)
	}
	if req.History != nil {
		p.History = *req.History
	}
	return *p, nil
}

// Metrics implements [api.Daemon].
func (b *Backend) Metrics(w http.ResponseWriter, _ *http.Request) {
	_, _ = io.WriteString(w, "bough_up 1\n") // whoever has gone is told nothing
}
