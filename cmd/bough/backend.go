package main

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"sync"
	"time"

	"github.com/bough-db/bough/api"
	"github.com/bough-db/bough/cache"
	"github.com/bough-db/bough/cow"
	"github.com/bough-db/bough/objstore/meterstore"
	"github.com/bough-db/bough/postgres"
	"github.com/bough-db/bough/proxy"
	"github.com/bough-db/bough/wal"
)

// backend is the api.Backend of the daemon: it puts what the other packages do
// into the words of the interface.
type backend struct {
	app       *app
	log       *slog.Logger
	store     catalogue
	disks     *disks
	volumes   *volumes
	endpoint  *postgres.Manager
	door      *proxy.Server
	expirer   *expirer
	collector *collector
	peers     *peers
	meter     *meterstore.Store
	host      cow.HostInfo // this one; no ID if it does not share its store

	started         time.Time
	listen          string
	state, location string
	writeMode       string
	memoryBytesMax  int64
	journals        *wal.Pool
	journalBytes    int64
	frames          *cache.Frames
	memory          *cache.Memory

	mu       sync.Mutex
	stopping bool
	quiet    map[cow.BranchID]*quiet
	// throwaways are branches that were made for one use and are in use, as
	// project/branch.
	throwaways map[string]bool

	running running
	metrics http.Handler
}

var _ api.Backend = (*backend)(nil)

// stop makes every change fail from now on.
func (b *backend) stop() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.stopping = true
}

// ready returns an error once the daemon stops.
func (b *backend) ready() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.stopping {
		return api.Errorf(api.CodeUnavailable, "the daemon is stopping").WithHint("start it again with `bough serve`")
	}
	return nil
}

// templateName matches the names of the projects that templates are in.
var templateName = regexp.MustCompile(`^template-\d+$`)

// CreateProject implements api.Projects.
func (b *backend) CreateProject(ctx context.Context, req api.CreateProject) (api.CreatedProject, error) {
	if err := b.ready(); err != nil {
		return api.CreatedProject{}, err
	}
	if templateName.MatchString(req.Name) {
		return api.CreatedProject{}, api.Errorf(api.CodeInvalidName, "project name %s is reserved for a template", req.Name).WithHint("choose another name")
	}
	if _, err := b.store.Project(ctx, req.Name); err == nil {
		if _, err := b.store.Branch(ctx, req.Name, api.MainBranch); errors.Is(err, cow.ErrNotFound) {
			// A daemon was killed while it made the project: this completes it.
			_, _, err = b.store.CreateProject(ctx, req.Name, cow.ProjectOptions{})
			return api.CreatedProject{}, projectError(err, req.Name)
		}
		return api.CreatedProject{}, projectError(cow.ErrExists, req.Name)
	}
	p, br, err := b.endpoint.CreateProject(ctx, req.Name, postgres.CreateProjectOptions{
		Major: req.PGVersion, SizeBytes: req.SizeBytes, Durability: cow.Durability(req.Durability),
	})
	if err != nil {
		return api.CreatedProject{}, projectError(err, req.Name)
	}
	conn, err := b.connection(ctx, p, br)
	if err != nil {
		return api.CreatedProject{}, err
	}
	return api.CreatedProject{Project: projectView(p, 1), Branch: b.view(br, nil), Connection: conn}, nil
}

// ListProjects implements api.Projects.
func (b *backend) ListProjects(ctx context.Context) ([]api.Project, error) {
	all, err := b.projects(ctx)
	if err != nil {
		return nil, err
	}
	views := make([]api.Project, 0, len(all))
	for _, p := range all {
		branches, err := b.store.Branches(ctx, p.Name)
		if errors.Is(err, cow.ErrNotFound) {
			continue // deleted meanwhile
		}
		if err != nil {
			return nil, projectError(err, p.Name)
		}
		views = append(views, projectView(p, len(branches)))
	}
	return views, nil
}

// projects returns the projects that are not hidden.
func (b *backend) projects(ctx context.Context) ([]cow.ProjectInfo, error) {
	all, err := b.store.Projects(ctx)
	if err != nil {
		return nil, translate(err)
	}
	shown := all[:0]
	for _, p := range all {
		if !p.Hidden {
			shown = append(shown, p)
		}
	}
	return shown, nil
}

// project returns a project that is not hidden.
func (b *backend) project(ctx context.Context, name string) (cow.ProjectInfo, error) {
	p, err := b.store.Project(ctx, name)
	if err == nil && p.Hidden {
		err = cow.ErrNotFound
	}
	return p, projectError(err, name)
}

// Project implements api.Projects.
func (b *backend) Project(ctx context.Context, name string) (api.ProjectDetail, error) {
	p, err := b.project(ctx, name)
	if err != nil {
		return api.ProjectDetail{}, err
	}
	branches, err := b.branchViews(ctx, name)
	if err != nil {
		return api.ProjectDetail{}, err
	}
	return api.ProjectDetail{Project: projectView(p, len(branches)), Branches: branches}, nil
}

// DeleteProject implements api.Projects.
func (b *backend) DeleteProject(ctx context.Context, name string) error {
	if err := b.ready(); err != nil {
		return err
	}
	if _, err := b.project(ctx, name); err != nil {
		return err
	}
	branches, err := b.store.Branches(ctx, name)
	if err != nil {
		return projectError(err, name)
	}
	for _, br := range branches {
		if h := b.volumes.get(br.ID); h.by == heldByUser {
			return attachedError(name, br.Name, h.dir)
		}
	}
	for _, br := range branches {
		if err := b.elsewhere(br, "suspend it"); err != nil {
			return err
		}
	}
	for _, br := range branches {
		done, err := b.quiesce(ctx, br, true)
		if err != nil {
			return err
		}
		defer done()
	}
	return projectError(b.store.DeleteProject(ctx, name), name)
}

func projectView(p cow.ProjectInfo, branches int) api.Project {
	view := api.Project{Name: p.Name, Created: p.Created, SizeBytes: p.Size, Branches: branches}
	view.History = historyView(p.Retention)
	if p.Err != nil {
		view.Error = oneLine(p.Err.Error())
	}
	// Settings that cannot be read make a project without a version, not an error.
	if s, err := postgres.ProjectSettingsOf(p.Settings); err == nil {
		view.PGVersion = s.Major
	}
	return view
}

// connection says how clients reach a branch.
func (b *backend) connection(ctx context.Context, p cow.ProjectInfo, br cow.BranchInfo) (api.Connection, error) {
	s, err := postgres.ProjectSettingsOf(p.Settings)
	if err != nil {
		return api.Connection{}, err
	}
	host, port, err := clientAddress(b.listen)
	if err != nil {
		return api.Connection{}, err
	}
	url, err := b.endpoint.URL(ctx, br.Project, br.Name, net.JoinHostPort(host, strconv.Itoa(port)))
	if err != nil {
		return api.Connection{}, err
	}
	conn := api.Connection{
		URL: url, Host: host, Port: port, Role: s.Role, Password: s.Password, Database: s.Database,
		Options: "-c branch=" + br.Project + "/" + br.Name,
	}
	err = b.addAdmin(&conn, br.ID)
	return conn, err
}

// addAdmin says how the superuser gets in, while the branch's Postgres runs.
func (b *backend) addAdmin(conn *api.Connection, id cow.BranchID) error {
	if b.endpoint.StatusOf(id).State != postgres.Running {
		return nil
	}
	dir, err := b.endpoint.AdminSocket(id)
	if err != nil {
		return err
	}
	conn.Admin = &api.AdminConnection{SocketDir: dir, Port: adminPort, Role: adminRole, Database: conn.Database}
	return nil
}

// The superuser's way in; see postgres.Manager.AdminSocket.
const (
	adminPort = 5432
	adminRole = "postgres"
)

// clientAddress is a listener's address as clients on this host use it.
func clientAddress(listen string) (host string, port int, err error) {
	host, text, err := net.SplitHostPort(listen)
	if err != nil {
		return "", 0, err
	}
	if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
		host = "127.0.0.1"
	}
	port, err = strconv.Atoi(text)
	return host, port, err
}

// mountpoint is where attach mounts a branch when it is not told where.
func (b *backend) mountpoint(id cow.BranchID) string {
	return filepath.Join(b.state, "attached", string(id))
}

// removeMountpoint removes a directory of mountpoint; a full one is left alone.
func (b *backend) removeMountpoint(id cow.BranchID) { _ = os.Remove(b.mountpoint(id)) }
