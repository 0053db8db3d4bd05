package apitest

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/bough-db/bough/api"
)

// Epoch is when the first thing of every Backend was made; each further one is
// a minute younger.
var Epoch = time.Date(2026, time.March, 1, 12, 0, 0, 0, time.UTC)

// Backend is an [api.Backend] in memory. Create it with [New].
type Backend struct {
	mu       sync.Mutex
	made     int
	projects map[string]*api.Project
	branches map[string]*api.Branch // by project/branch
	attached map[string]api.Attachment
	fail     map[string]error
	block    map[string]chan struct{}
	problems []api.VerifyProblem
	trouble  map[string]string // by project/branch
	hosts    []string          // others that share the store
	// Of branches by project/branch, and those deleted.
	snapshots map[string][]api.Snapshot
	deleted   []api.Branch
}

var _ api.Backend = (*Backend)(nil)

// New returns a Backend without projects.
func New() *Backend {
	return &Backend{
		projects: map[string]*api.Project{},
		branches: map[string]*api.Branch{},
		attached: map[string]api.Attachment{},
		fail:     map[string]error{},
		block:    map[string]chan struct{}{},
		trouble:  map[string]string{},

		snapshots: map[string][]api.Snapshot{},
	}
}

// Fail makes the named method return err from now on; nil ends that.
func (b *Backend) Fail(method string, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.fail[method] = err
}

// Block makes calls of the named method wait until the returned function is
// called or their context ends.
func (b *Backend) Block(method string) (release func()) {
	b.mu.Lock()
	defer b.mu.Unlock()
	ch := make(chan struct{})
	b.block[method] = ch
	return sync.OnceFunc(func() { close(ch) })
}

// AddProblem makes Verify find a problem.
func (b *Backend) AddProblem(p api.VerifyProblem) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.problems = append(b.problems, p)
}

// SetError makes a branch show a sticky failure.
func (b *Backend) SetError(project, branch, text string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if br := b.branches[project+"/"+branch]; br != nil {
		br.Error, br.Endpoint = text, api.EndpointFailed
	}
}

// ThisHost is the id of the host that a Backend is.
const ThisHost = "here-0001"

// SetElsewhere gives a branch to another host.
func (b *Backend) SetElsewhere(project, branch, host string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if br := b.branches[project+"/"+branch]; br != nil {
		br.Host, br.Elsewhere, br.Attached = host, true, false
	}
	b.hosts = append(b.hosts, host)
}

// SetStoreError makes the store refuse what a branch has pending.
func (b *Backend) SetStoreError(project, branch, text string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.trouble[project+"/"+branch] = text
}

// enter waits while the method is blocked, then returns its planned failure.
func (b *Backend) enter(ctx context.Context, method string) error {
	b.mu.Lock()
	ch, err := b.block[method], b.fail[method]
	b.mu.Unlock()
	if ch != nil {
		select {
		case <-ch:
		case <-ctx.Done():
			return fmt.Errorf("%s: %w", method, ctx.Err())
		}
	}
	return err
}

// tick returns the time of the next thing made.
func (b *Backend) tick() time.Time {
	b.made++
	return Epoch.Add(time.Duration(b.made-1) * time.Minute)
}

func (b *Backend) find(project, branch string) (*api.Branch, error) {
	if b.projects[project] == nil {
		return nil, noProject(project)
	}
	if br := b.branches[project+"/"+branch]; br != nil {
		return br, nil
	}
	return nil, api.Errorf(api.CodeNotFound, "no branch %s/%s", project, branch).WithHint("see `bough branch list %s`", project)
}

func noProject(name string) *api.Error {
	return api.Errorf(api.CodeNotFound, "no project %s", name).WithHint("see `bough project list`")
}

// CreateProject implements [api.Projects].
func (b *Backend) CreateProject(ctx context.Context, req api.CreateProject) (api.CreatedProject, error) {
	if err := b.enter(ctx, "CreateProject"); err != nil {
		return api.CreatedProject{}, err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.projects[req.Name] != nil {
		return api.CreatedProject{}, api.Errorf(api.CodeAlreadyExists, "project %s exists", req.Name).WithHint("choose another name")
	}
	p := &api.Project{
		Name: req.Name, Created: b.tick(), SizeBytes: cmp.Or(req.SizeBytes, 256<<30),
		PGVersion: cmp.Or(req.PGVersion, 15), Branches: 1,
	}
	b.projects[p.Name] = p
	br := b.add(p, api.MainBranch, nil)
	br.Durability = cmp.Or(req.Durability, api.DurabilityLocal)
	return api.CreatedProject{Project: *p, Branch: *br, Connection: connection(*br)}, nil
}

func (b *Backend) add(p *api.Project, name string, parent *api.Branch) *api.Branch {
	at := p.Created
	if parent != nil {
		at = b.tick()
	}
	br := &api.Branch{
		ID: fmt.Sprintf("br-calm-oak-%08d", len(b.branches)+1), Project: p.Name, Name: name,
		Created: at, SizeBytes: p.SizeBytes, Seq: 7, Endpoint: api.EndpointSuspended,
	}
	if parent != nil {
		br.Parent, br.ParentID, br.ForkSeq, br.Seq = parent.Name, parent.ID, parent.Seq, parent.Seq
	}
	b.branches[br.Ref()] = br
	return br
}

// ListProjects implements [api.Projects].
func (b *Backend) ListProjects(ctx context.Context) ([]api.Project, error) {
	if err := b.enter(ctx, "ListProjects"); err != nil {
		return nil, err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	var ps []api.Project
	for _, p := range b.projects {
		ps = append(ps, *p)
	}
	slices.SortFunc(ps, func(x, y api.Project) int { return cmp.Compare(x.Name, y.Name) })
	return ps, nil
}

// Project implements [api.Projects].
func (b *Backend) Project(ctx context.Context, name string) (api.ProjectDetail, error) {
	if err := b.enter(ctx, "Project"); err != nil {
		return api.ProjectDetail{}, err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	p := b.projects[name]
	if p == nil {
		return api.ProjectDetail{}, noProject(name)
	}
	return api.ProjectDetail{Project: *p, Branches: b.list(name)}, nil
}

// DeleteProject implements [api.Projects].
func (b *Backend) DeleteProject(ctx context.Context, name string) error {
	if err := b.enter(ctx, "DeleteProject"); err != nil {
		return err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.projects[name] == nil {
		return noProject(name)
	}
	for _, br := range b.list(name) {
		delete(b.branches, br.Ref())
	}
	delete(b.projects, name)
	return nil
}

// list returns branches by project and creation.
func (b *Backend) list(project string) []api.Branch {
	var bs []api.Branch
	for _, br := range b.branches {
		if project == "" || br.Project == project {
			bs = append(bs, *br)
		}
	}
	slices.SortFunc(bs, func(x, y api.Branch) int {
		return cmp.Or(cmp.Compare(x.Project, y.Project), x.Created.Compare(y.Created))
	})
	return bs
}

// CreateBranch implements [api.Branches].
func (b *Backend) CreateBranch(ctx context.Context, project string, req api.CreateBranch) (api.CreatedBranch, error) {
	if err := b.enter(ctx, "CreateBranch"); err != nil {
		return api.CreatedBranch{}, err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	parent, err := b.find(project, req.From)
	if err != nil {
		return api.CreatedBranch{}, err
	}
	if b.branches[project+"/"+req.Name] != nil {
		return api.CreatedBranch{}, api.Errorf(api.CodeAlreadyExists, "branch %s/%s exists", project, req.Name).WithHint("choose another name")
	}
	at, err := b.resolve(parent, req.At)
	if err != nil {
		return api.CreatedBranch{}, err
	}
	br := b.add(b.projects[project], req.Name, parent)
	br.ForkSeq, br.Seq = at.Seq, at.Seq
	br.Durability = cmp.Or(req.Durability, parent.Durability)
	b.projects[project].Branches++
	created := api.CreatedBranch{Branch: *br, Connection: connection(*br)}
	if parent.Elsewhere {
		created.Fork = &api.Fork{Host: parent.Host, Published: true, Seq: br.ForkSeq}
	}
	return created, nil
}

// ListBranches implements [api.Branches].
func (b *Backend) ListBranches(ctx context.Context, project string) ([]api.Branch, error) {
	if err := b.enter(ctx, "ListBranches"); err != nil {
		return nil, err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if project != "" && b.projects[project] == nil {
		return nil, noProject(project)
	}
	return b.list(project), nil
}

// Branch implements [api.Branches].
func (b *Backend) Branch(ctx context.Context, project, name string) (api.Branch, error) {
	return b.update(ctx, "Branch", project, name, func(*api.Branch) error { return nil })
}

// RenameBranch implements [api.Branches].
func (b *Backend) RenameBranch(ctx context.Context, project, name, to string) (api.Branch, error) {
	return b.update(ctx, "RenameBranch", project, name, func(br *api.Branch) error {
		if b.branches[project+"/"+to] != nil {
			return api.Errorf(api.CodeAlreadyExists, "branch %s/%s exists", project, to).WithHint("choose another name")
		}
		delete(b.branches, br.Ref())
		br.Name = to
		b.branches[br.Ref()] = br
		for _, child := range b.branches {
			if child.ParentID == br.ID {
				child.Parent = to
			}
		}
		return nil
	})
}

// SetBranch implements [api.Branches].
func (b *Backend) SetBranch(ctx context.Context, project, name string, req api.SetBranch) (api.Branch, error) {
	return b.update(ctx, "SetBranch", project, name, func(br *api.Branch) error {
		br.Durability = cmp.Or(req.Durability, br.Durability)
		if req.Protected != nil {
			br.Protected = *req.Protected
		}
		if req.Expires != nil {
			br.Expires = *req.Expires
		}
		if req.History != nil {
			br.History = *req.History
		}
		return nil
	})
}

// DeleteBranch implements [api.Branches].
func (b *Backend) DeleteBranch(ctx context.Context, project, name string) error {
	_, err := b.update(ctx, "DeleteBranch", project, name, func(br *api.Branch) error {
		if _, ok := b.attached[br.Ref()]; ok {
			return api.Errorf(api.CodeInUse, "branch %s is attached", br.Ref()).WithHint("run `bough detach %s` first", br.Ref())
		}
		if br.Protected {
			return api.Errorf(api.CodeProtected, "branch %s is protected", br.Ref()).WithHint("run `bough branch set %s --unprotect` first", br.Ref())
		}
		delete(b.branches, br.Ref())
		b.deleted = append(b.deleted, *br)
		b.projects[project].Branches--
		for _, child := range b.branches {
			if child.ParentID == br.ID {
				child.Parent = ""
			}
		}
		return nil
	})
	return err
}

// update enters the method, finds the branch and calls fn with the lock held.
func (b *Backend) update(ctx context.Context, method, project, name string, fn func(*api.Branch) error) (api.Branch, error) {
	if err := b.enter(ctx, method); err != nil {
		return api.Branch{}, err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	br, err := b.find(project, name)
	if err != nil {
		return api.Branch{}, err
	}
	if err := fn(br); err != nil {
		return api.Branch{}, err
	}
	return *br, nil
}
