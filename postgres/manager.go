package postgres

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/bough-db/bough/cow"
)

var (
	// ErrClosed reports a Start after Close.
	ErrClosed = errors.New("the endpoint manager is closed")
	// ErrTemplate reports an attempt to run Postgres on a template.
	ErrTemplate = errors.New("templates do not run: create a project from it")
)

// errStopped is why a start was broken off.
var errStopped = errors.New("endpoint was stopped while it started")

// stopsAtOnce bounds how many servers StopAll shuts down at a time: each one
// writes its checkpoint.
const stopsAtOnce = 16

// Options configure a Manager.
type Options struct {
	// StateDir is the daemon's state directory. Required.
	StateDir string
	// Store is the catalogue. Required.
	Store Store
	// Volumes mounts branches. Required.
	Volumes Volumes
	// Mnt is where the branches' device files are, as <Mnt>/<project>/<branch>/disk.
	// Default: StateDir/mnt.
	Mnt string
	// WriteThrough says that the branches' devices promise durability without
	// flushes. Default: false, which is always safe.
	WriteThrough bool
	// Hold opens a branch before it is attached. Default: whoever opens the
	// device file does.
	Hold HoldFunc
	// BinDir holds the programs of the one Postgres to use. Default: whatever
	// FindInstallations finds.
	BinDir string
	// User is the OS user that Postgres runs as. Default: postgres if this
	// process is root, else the user it runs as.
	User string
	// StartTimeout bounds a start, crash recovery included. Default: 10 min.
	StartTimeout time.Duration
	// StopTimeout bounds a fast shutdown; what takes longer is stopped
	// immediately and recovers at the next start. Default: 1 min.
	StopTimeout time.Duration
	// Clients tells how many clients a branch has; see Retune. It must not block.
	// Default: none.
	Clients func(project, branch string) int
	// Logger receives what happens. Default: slog.Default().
	Logger *slog.Logger
}

func (o Options) check() (Options, error) {
	var problems []error
	if o.StateDir == "" {
		problems = append(problems, errors.New("no state directory"))
	}
	if o.Store == nil {
		problems = append(problems, errors.New("no store"))
	}
	if o.Volumes == nil {
		problems = append(problems, errors.New("no volumes"))
	}
	if o.StartTimeout < 0 || o.StopTimeout < 0 {
		problems = append(problems, errors.New("a timeout is negative"))
	}
	if o.StartTimeout == 0 {
		o.StartTimeout = 10 * time.Minute
	}
	if o.StopTimeout == 0 {
		o.StopTimeout = time.Minute
	}
	if o.Mnt == "" {
		o.Mnt = filepath.Join(o.StateDir, "mnt")
	}
	if o.Hold == nil {
		o.Hold = func(context.Context, cow.BranchID) (func(context.Context) error, error) {
			return func(context.Context) error { return nil }, nil
		}
	}
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	if o.Clients == nil {
		o.Clients = func(string, string) int { return 0 }
	}
	if err := errors.Join(problems...); err != nil {
		return o, fmt.Errorf("check endpoint options: %w", err)
	}
	return o, nil
}

// Manager runs the endpoints of one daemon. Its methods may be called
// concurrently.
type Manager struct {
	options       Options
	account       account
	layout        layout
	installations []Installation
	spawner       *spawner
	peers         []string
	freePort      func(host string) (int, error)
	retuned       chan struct{} // of capacity 1: see Tune

	mu        sync.Mutex
	endpoints map[cow.BranchID]*endpoint
	templates map[int]*templateBuild
	closed    bool
}

// New returns a Manager. It looks for installed servers, so that a machine
// without any is told at once, with the package to install.
func New(ctx context.Context, o Options) (*Manager, error) {
	o, err := o.check()
	if err != nil {
		return nil, err
	}
	installations, err := FindInstallations(ctx, o.BinDir)
	if err != nil {
		return nil, err
	}
	a, err := lookupAccount(o.User)
	if err != nil {
		return nil, err
	}
	l, err := newLayout(o.StateDir, a)
	if err != nil {
		return nil, err
	}
	return &Manager{
		options: o, account: a, layout: l, installations: installations,
		spawner: newSpawner(), peers: peersOf(os.Geteuid()), freePort: freePort,
		endpoints: make(map[cow.BranchID]*endpoint), templates: make(map[int]*templateBuild),
		retuned: make(chan struct{}, 1),
	}, nil
}

// Installations returns the servers that endpoints can use, newest first.
func (m *Manager) Installations() []Installation {
	return append([]Installation(nil), m.installations...)
}

// Close stops all endpoints; a Start from now on is an ErrClosed.
func (m *Manager) Close(ctx context.Context) error {
	m.mu.Lock()
	m.closed = true
	m.mu.Unlock()
	err := m.StopAll(ctx)
	if ctx.Err() == nil {
		// Not while a server may still run: it would get an immediate shutdown.
		m.spawner.close()
	}
	return err
}

// endpoint returns the branch's endpoint, stopped if it is new.
func (m *Manager) endpoint(id cow.BranchID) (*endpoint, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	e := m.endpoints[id]
	if e == nil {
		if m.closed {
			return nil, ErrClosed
		}
		e = newEndpoint(m, id)
		m.endpoints[id] = e
	}
	return e, nil
}

// find returns the endpoint of a branch by name, with what the store has on it.
func (m *Manager) find(ctx context.Context, project, branch string) (*endpoint, cow.BranchInfo, error) {
	info, err := m.options.Store.Branch(ctx, project, branch)
	if err != nil {
		return nil, cow.BranchInfo{}, fmt.Errorf("find branch %s/%s: %w", project, branch, err)
	}
	e, err := m.endpoint(info.ID)
	return e, info, err
}

// Start returns the branch's running endpoint, and starts it first if it is
// not: attach, mount, Postgres. Any number of callers wait for one start; it
// goes on when ctx of one of them ends, but that caller gets an error. Who finds
// the endpoint stopping waits for that and starts it again: nobody is refused
// because of a Stop.
func (m *Manager) Start(ctx context.Context, project, branch string) (Endpoint, error) {
	_, info, err := m.find(ctx, project, branch)
	if err != nil {
		return Endpoint{}, err
	}
	return m.StartBranch(ctx, info)
}

// StartBranch is Start for who has just looked the branch up.
func (m *Manager) StartBranch(ctx context.Context, info cow.BranchInfo) (Endpoint, error) {
	e, err := m.endpoint(info.ID)
	if err != nil {
		return Endpoint{}, err
	}
	at, err := e.startShared(ctx, info)
	if err != nil {
		return Endpoint{}, fmt.Errorf("start %s/%s: %w", info.Project, info.Name, err)
	}
	return at, nil
}

// Wake is Start for the proxy: it returns the address for clients, as in
// "127.81.7.203:40123". It changes with every start.
func (m *Manager) Wake(ctx context.Context, project, branch string) (string, error) {
	at, err := m.Start(ctx, project, branch)
	return at.Address, err
}

// Stop shuts the branch's endpoint down, unmounts and detaches. It returns nil
// if the endpoint does not run. A start under way is broken off.
func (m *Manager) Stop(ctx context.Context, project, branch string) error {
	e, _, err := m.find(ctx, project, branch)
	if err != nil {
		return err
	}
	if err := e.stopShared(ctx); err != nil {
		return fmt.Errorf("stop %s/%s: %w", project, branch, err)
	}
	return nil
}

// StopAll shuts down every endpoint, many at a time, and joins their errors.
func (m *Manager) StopAll(ctx context.Context) error {
	m.mu.Lock()
	all := make([]*endpoint, 0, len(m.endpoints))
	for _, e := range m.endpoints {
		all = append(all, e)
	}
	m.mu.Unlock()

	results := make(chan error, len(all))
	var g errgroup.Group
	g.SetLimit(stopsAtOnce)
	for _, e := range all {
		g.Go(func() error {
			if err := e.stopShared(ctx); err != nil {
				results <- fmt.Errorf("stop endpoint of branch %s: %w", e.id, err)
			}
			return nil
		})
	}
	g.Wait() // the errors are in results
	close(results)
	var problems []error
	for err := range results {
		problems = append(problems, err)
	}
	return errors.Join(problems...)
}

// Forget stops the branch's endpoint and removes what the state directory has
// of it. Call it for a branch that is about to be deleted.
func (m *Manager) Forget(ctx context.Context, project, branch string) error {
	e, info, err := m.find(ctx, project, branch)
	if err != nil {
		return err
	}
	if err := e.stopShared(ctx); err != nil {
		return fmt.Errorf("stop %s/%s: %w", project, branch, err)
	}
	m.mu.Lock()
	if m.endpoints[info.ID] == e {
		delete(m.endpoints, info.ID)
	}
	m.mu.Unlock()
	return m.removeAll(info.ID)
}

// removeAll removes all that the state directory has of a branch.
func (m *Manager) removeAll(id cow.BranchID) error {
	sockets, err := m.layout.socketDir(id)
	if err == nil && sockets != m.layout.run(id) {
		err = os.RemoveAll(sockets)
	}
	// Never RemoveAll on a mount point: Remove fails if it is one after all.
	errMount := os.Remove(m.layout.mount(id))
	if errors.Is(errMount, os.ErrNotExist) {
		errMount = nil
	}
	return errors.Join(err, os.RemoveAll(m.layout.run(id)), errMount)
}

// Status tells how the branch's endpoint is.
func (m *Manager) Status(ctx context.Context, project, branch string) (Status, error) {
	info, err := m.options.Store.Branch(ctx, project, branch)
	if err != nil {
		return Status{}, fmt.Errorf("find branch %s/%s: %w", project, branch, err)
	}
	return m.StatusOf(info.ID), nil
}

// StatusOf is Status by id. It asks nobody, so it is cheap.
func (m *Manager) StatusOf(id cow.BranchID) Status {
	m.mu.Lock()
	e := m.endpoints[id]
	m.mu.Unlock()
	if e == nil {
		return Status{State: Stopped}
	}
	return e.status()
}

// RunningAt returns the address for clients of the branch's endpoint, if that runs. It
// asks nobody.
func (m *Manager) RunningAt(id cow.BranchID) (addr string, ok bool) {
	m.mu.Lock()
	e := m.endpoints[id]
	m.mu.Unlock()
	if e == nil {
		return "", false
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	s := e.running()
	if s == nil || s.hasExited() {
		return "", false
	}
	return e.at(s).Address, true
}

// AdminSocket returns the directory of the branch's admin socket, for
// psql -h DIR -U postgres. While the endpoint runs, a server listens there; the
// name is that of the default port, 5432, whatever its port for clients is.
func (m *Manager) AdminSocket(id cow.BranchID) (string, error) { return m.layout.socketDir(id) }
