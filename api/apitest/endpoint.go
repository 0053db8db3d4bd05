package apitest

import (
	"context"
	"fmt"
	"time"

	"github.com/bough-db/bough/api"
)

// connection returns what a client of the branch would be told.
func connection(br api.Branch) api.Connection {
	return api.Connection{
		URL:  "postgresql://app:s3cret@127.0.0.1:6432/app@" + br.Ref(),
		Host: "127.0.0.1", Port: 6432, Role: "app", Password: "s3cret", Database: "app",
		Options: "-c branch=" + br.Ref(),
	}
}

// Start implements [api.Endpoints].
func (b *Backend) Start(ctx context.Context, project, branch string, req api.StartBranch) (api.StartedBranch, error) {
	var taken *api.TakenOver
	br, err := b.update(ctx, "Start", project, branch, func(br *api.Branch) (err error) {
		if taken, err = b.take(br, req.TakeOver); err != nil {
			return err
		}
		br.Endpoint, br.Attached, br.Error = api.EndpointRunning, true, ""
		return nil
	})
	return api.StartedBranch{Branch: br, TakenOver: taken}, err
}

// take takes the branch from the host that SetElsewhere has given it to, which
// answers.
func (b *Backend) take(br *api.Branch, how api.TakeOver) (*api.TakenOver, error) {
	if !br.Elsewhere {
		return nil, nil
	}
	if !how.Force || br.Durability == api.DurabilityLocal && !how.AcceptLoss {
		return nil, api.Errorf(api.CodeInUse, "branch %s is attached by host %s, which answers", br.Ref(), br.Host).
			WithHint("run `bough suspend %s` there", br.Ref())
	}
	t := &api.TakenOver{Host: br.Host, Seq: br.Seq, Time: Epoch.Add(time.Hour), Complete: br.Durability == api.DurabilityRemote}
	br.Host, br.Elsewhere = ThisHost, false
	return t, nil
}

// Suspend implements [api.Endpoints].
func (b *Backend) Suspend(ctx context.Context, project, branch string) (api.Branch, error) {
	return b.update(ctx, "Suspend", project, branch, func(br *api.Branch) error {
		br.Endpoint, br.Attached = api.EndpointSuspended, false
		return nil
	})
}

// Connection implements [api.Endpoints].
func (b *Backend) Connection(ctx context.Context, project, branch string) (api.Connection, error) {
	br, err := b.update(ctx, "Connection", project, branch, func(*api.Branch) error { return nil })
	if err != nil {
		return api.Connection{}, err
	}
	c := connection(br)
	if br.Endpoint == api.EndpointRunning {
		c.Admin = &api.AdminConnection{SocketDir: "/state/run/" + br.ID, Port: 5432, Role: "postgres", Database: "app"}
	}
	return c, nil
}

// Attach implements [api.Endpoints].
func (b *Backend) Attach(ctx context.Context, project, branch string, req api.AttachBranch) (api.Attachment, error) {
	var at api.Attachment
	_, err := b.update(ctx, "Attach", project, branch, func(br *api.Branch) error {
		taken, err := b.take(br, req.TakeOver)
		if err != nil {
			return err
		}
		if br.Endpoint == api.EndpointRunning {
			return api.Errorf(api.CodeInUse, "the Postgres of %s is running on it", br.Ref()).WithHint("run `bough suspend %s` first", br.Ref())
		}
		if old, ok := b.attached[br.Ref()]; ok {
			return api.Errorf(api.CodeInUse, "branch %s is attached at %s", br.Ref(), old.Mountpoint).WithHint("run `bough detach %s` first", br.Ref())
		}
		at = api.Attachment{Project: project, Branch: branch, Device: "/dev/loop7", Mountpoint: req.Mountpoint, TakenOver: taken}
		if req.At != "" {
			bar, err := b.resolve(br, req.At)
			if err != nil {
				return err
			}
			tmp := b.add(b.projects[project], fmt.Sprintf("at-%d", bar.Seq), br)
			tmp.Throwaway, br = true, tmp
			at.Branch, at.ReadOnly, at.Of, at.Seq = tmp.Name, true, branch, bar.Seq
		}
		if at.Mountpoint == "" {
			at.Mountpoint = "/state/data/" + br.ID
		}
		b.attached[br.Ref()] = at
		br.Attached = true
		return nil
	})
	return at, err
}

// Detach implements [api.Endpoints].
func (b *Backend) Detach(ctx context.Context, project, branch string) error {
	_, err := b.update(ctx, "Detach", project, branch, func(br *api.Branch) error {
		if _, ok := b.attached[br.Ref()]; !ok {
			return api.Errorf(api.CodeInvalidRequest, "branch %s is not attached", br.Ref())
		}
		delete(b.attached, br.Ref())
		br.Attached = false
		return nil
	})
	return err
}

// Version implements [api.Daemon].
func (b *Backend) Version() api.Version {
	return api.Version{Version: "v0.0.0-test", Revision: "0123456789ab", Go: "go1.26"}
}

// Status implements [api.Daemon].
func (b *Backend) Status(ctx context.Context) (api.Status, error) {
	if err := b.enter(ctx, "Status"); err != nil {
		return api.Status{}, err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	s := api.Status{
		Daemon: api.DaemonStatus{
			Version: "v0.0.0-test", PID: 4711, Started: Epoch, StateDir: "/state", Listen: "127.0.0.1:6432",
			WriteMode: "through", MemoryBytes: 96 << 20, MemoryBytesMax: 512 << 20,
		},
		Store:   api.StoreStatus{Location: "/state/store", Projects: len(b.projects), Branches: len(b.branches), Requests: 1234, SentBytes: 5 << 20, ReceivedBytes: 6 << 20},
		Journal: api.JournalStatus{UsedBytes: 48 << 20, BytesMax: 1 << 30},
		Cache: api.CacheStatus{
			MemoryBytes: 30 << 20, MemoryBytesMax: 64 << 20, MemoryHits: 900, MemoryMisses: 100,
			DiskFrames: 3200, DiskBytesMax: 1 << 30, DiskHits: 75, DiskMisses: 25,
		},
		Branches: []api.BranchStatus{},
	}
	for i, id := range b.hosts {
		if i == 0 {
			s.Store.Host, s.Store.API = ThisHost, "127.0.0.1:7001"
			s.Store.Hosts = append(s.Store.Hosts, api.HostStatus{ID: ThisHost, Started: Epoch, Version: "v0.0.0-test", API: "127.0.0.1:7001", Here: true})
		}
		s.Store.Hosts = append(s.Store.Hosts, api.HostStatus{ID: id, Started: Epoch.Add(time.Hour), Version: "v0.0.0-test", API: "192.0.2.7:7001"})
	}
	for _, br := range b.list("") {
		if !br.Attached && br.Error == "" {
			continue
		}
		bs := api.BranchStatus{Branch: br}
		if br.Attached {
			bs.Device, bs.Mountpoint, bs.PendingBytes = "/dev/loop7", "/state/data/"+br.ID, 3<<20
		}
		if br.Endpoint == api.EndpointRunning {
			bs.Connections = 2
		}
		if text := b.trouble[br.Ref()]; text != "" {
			bs.StoreError, bs.StoreErrorSince, bs.PendingSince = text, Epoch.Add(2*time.Hour), Epoch.Add(time.Hour)
		}
		s.Branches = append(s.Branches, bs)
	}
	return s, nil
}

// Verify implements [api.Daemon].
func (b *Backend) Verify(ctx context.Context, scope api.VerifyScope, emit func(api.VerifyEvent) error) (api.VerifyResult, error) {
	b.mu.Lock()
	problems := b.problems
	var list []api.Branch
	var err error
	switch {
	case scope.Branch != "":
		var br *api.Branch
		if br, err = b.find(scope.Project, scope.Branch); err == nil {
			list = []api.Branch{*br}
		}
	case scope.Project != "" && b.projects[scope.Project] == nil:
		err = noProject(scope.Project)
	default:
		list = b.list(scope.Project)
	}
	b.mu.Unlock()
	if err != nil {
		return api.VerifyResult{}, err
	}
	for i, br := range list {
		if err := emit(api.VerifyEvent{Progress: &api.VerifyProgress{Project: br.Project, Branch: br.Name, Done: i, Total: len(list)}}); err != nil {
			return api.VerifyResult{}, err
		}
	}
	for i := range problems {
		if err := emit(api.VerifyEvent{Problem: &problems[i]}); err != nil {
			return api.VerifyResult{}, err
		}
	}
	if err := b.enter(ctx, "Verify"); err != nil {
		return api.VerifyResult{}, err
	}
	n := int64(len(list))
	return api.VerifyResult{Branches: len(list), Segments: 3 * len(list), Blocks: 1000 * n, Bytes: 4096000 * n, Problems: len(problems)}, nil
}
