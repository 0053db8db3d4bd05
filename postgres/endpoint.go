package postgres

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"github.com/bough-db/bough/cow"
)

// State is where an endpoint is in its life.
type State string

// The states of an endpoint.
const (
	Stopped  State = "stopped"
	Starting State = "starting"
	Running  State = "running"
	Stopping State = "stopping"
	// Failed is stopped, but not because somebody wanted it.
	Failed State = "failed"
)

// Endpoint is a running server.
type Endpoint struct {
	// ID is the branch.
	ID cow.BranchID
	// Address is where clients connect, with SCRAM: "127.81.7.203:40123".
	Address string
	// Socket is the directory of the admin socket, and Port the number in the
	// socket's name.
	Socket string
	// Port is the server's port.
	Port int
	// Pid is the postmaster.
	Pid int
}

// Status describes an endpoint.
type Status struct {
	// State is where the endpoint is in its life.
	State State `json:"state"`
	// Address and Pid are those of Endpoint, while it runs.
	Address string `json:"address,omitempty"`
	Pid     int    `json:"pid,omitempty"`
	// Since is when it became Running.
	Since time.Time `json:"since,omitzero"`
	// StartMillis is how long the last start took, attach and mount included.
	StartMillis int64 `json:"start_ms,omitempty"`
	// Error says what went wrong, if State is Failed.
	Error string `json:"error,omitempty"`
	// Log holds the server's last lines, if State is Failed.
	Log []string `json:"log,omitempty"`
	// LogPath is the server's log.
	LogPath string `json:"log_path,omitempty"`
}

// operation is a start or a stop under way. Others wait for it.
type operation struct {
	kind   State // Starting or Stopping
	cancel context.CancelCauseFunc
	done   chan struct{}
	err    error // once done is closed
}

// endpoint is the state machine of one branch. At any time at most one
// operation works on its server, mount and device.
type endpoint struct {
	m  *Manager
	id cow.BranchID

	mu      sync.Mutex
	op      *operation
	server  *server // while it runs, and while it is stopped
	volume  *volume // while the branch is held, whatever became of the server
	failure error
	log     []string
	since   time.Time
	took    time.Duration
}

func newEndpoint(m *Manager, id cow.BranchID) *endpoint { return &endpoint{m: m, id: id} }

// begin makes kind the operation under way. mu is held and there is none.
func (e *endpoint) begin(ctx context.Context, kind State, limit time.Duration) (context.Context, *operation) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), limit)
	ctx, cause := context.WithCancelCause(ctx)
	e.op = &operation{kind: kind, done: make(chan struct{}), cancel: func(err error) { cause(err); cancel() }}
	return ctx, e.op
}

// finish ends the operation.
func (e *endpoint) finish(op *operation, err error) {
	e.mu.Lock()
	e.op, op.err = nil, err
	e.mu.Unlock()
	close(op.done)
	op.cancel(nil)
}

// running returns the running server; mu is held.
func (e *endpoint) running() *server {
	if e.op == nil {
		return e.server
	}
	return nil
}

func (e *endpoint) at(s *server) Endpoint {
	return Endpoint{
		ID: e.id, Socket: s.config.sockets, Port: s.config.port, Pid: s.proc.Pid,
		Address: net.JoinHostPort(s.config.host, strconv.Itoa(s.config.port)),
	}
}

// startShared returns the running endpoint, after one start shared by all who wait.
func (e *endpoint) startShared(ctx context.Context, info cow.BranchInfo) (Endpoint, error) {
	for {
		e.mu.Lock()
		e.notice(ctx)
		if s := e.running(); s != nil {
			e.mu.Unlock()
			return e.at(s), nil
		}
		op := e.op
		if op == nil {
			if e.m.isClosed() {
				e.mu.Unlock()
				return Endpoint{}, ErrClosed
			}
			var opCtx context.Context
			opCtx, op = e.begin(ctx, Starting, e.m.options.StartTimeout)
			go e.serve(opCtx, op, info)
		}
		e.mu.Unlock()
		select {
		case <-op.done:
			// Whoever suspended it does not know that somebody waits: again.
			if op.kind == Starting && op.err != nil && !errors.Is(op.err, errStopped) {
				return Endpoint{}, op.err
			}
		case <-ctx.Done():
			return Endpoint{}, context.Cause(ctx)
		}
	}
}

// stopShared returns when the endpoint is stopped.
func (e *endpoint) stopShared(ctx context.Context) error {
	for {
		e.mu.Lock()
		op := e.op
		switch {
		case op == nil && e.server == nil && e.volume == nil:
			e.mu.Unlock()
			return nil
		case op == nil:
			var opCtx context.Context
			opCtx, op = e.begin(ctx, Stopping, e.m.options.StopTimeout+time.Minute)
			go func() { e.finish(op, e.stop(opCtx)) }()
		case op.kind == Starting:
			op.cancel(errStopped)
		}
		e.mu.Unlock()
		select {
		case <-op.done:
			if op.kind == Stopping {
				return op.err
			}
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

func (m *Manager) isClosed() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.closed
}

// serve starts the server and waits for its end. One that nobody asked for is
// a failure: what is left of the endpoint goes, so that the next start begins
// anew.
func (e *endpoint) serve(ctx context.Context, op *operation, info cow.BranchInfo) {
	s, err := e.start(ctx, info)
	e.finish(op, err)
	if err != nil {
		return
	}
	<-s.exited
	e.mu.Lock()
	defer e.mu.Unlock()
	e.notice(ctx)
}

// notice begins to clear away a server that has ended by itself; mu is held.
func (e *endpoint) notice(ctx context.Context) {
	s := e.server
	if e.op != nil || s == nil || !s.hasExited() {
		return // somebody asked for it, or noticed earlier
	}
	ctx, op := e.begin(ctx, Stopping, e.m.options.StopTimeout+time.Minute)
	e.server = nil
	go func() {
		err := fmt.Errorf("server ended by itself: %v", s.state)
		e.m.options.Logger.Error("endpoint failed", "id", e.id, "state", s.state.String(), "log", s.log.tail())
		e.fail(errors.Join(err, e.release(ctx)), s.log.tail())
		e.finish(op, nil)
	}()
}

// start is the work of a start; it owns the endpoint.
func (e *endpoint) start(ctx context.Context, info cow.BranchInfo) (*server, error) {
	watch := newStopwatch()
	s, err := e.open(ctx, info, watch)
	if err != nil {
		left := e.release(context.WithoutCancel(ctx))
		if left == nil && errors.Is(context.Cause(ctx), errStopped) {
			e.fail(nil, nil)
			return nil, errStopped // whatever it was that was broken off
		}
		err = errors.Join(err, left)
		e.fail(err, nil)
		return nil, err
	}
	e.mu.Lock()
	e.server, e.failure, e.log = s, nil, nil
	e.since, e.took = time.Now(), watch.total()
	e.mu.Unlock()
	if s.config.remote {
		e.m.wakeTuner()
	}
	e.m.options.Logger.Info("endpoint started", "branch", info.Project+"/"+info.Name, "id", e.id,
		"pid", s.proc.Pid, "port", s.config.port, "took", e.took, slog.Group("stage", watch.laps...))
	return s, nil
}

// open makes the server run: mount, Postgres, and what a first start takes.
func (e *endpoint) open(ctx context.Context, info cow.BranchInfo, watch *stopwatch) (*server, error) {
	info, project, err := e.lookUp(ctx, info)
	if err != nil {
		return nil, err
	}
	ps, err := ProjectSettingsOf(project.Settings)
	if err != nil {
		return nil, err
	}
	bs, err := BranchSettingsOf(info.Settings)
	if err != nil {
		return nil, err
	}
	if bs.Recovering != "" {
		return nil, fmt.Errorf("%w: to @%s", ErrRecovering, bs.Recovering)
	}
	spec, err := e.m.specOf(info, ps, bs)
	if err != nil {
		return nil, err
	}
	watch.lap("look_up")
	if err := e.mount(ctx, info); err != nil {
		return nil, err
	}
	watch.lap("mount")
	if err := e.grow(ctx, info, &bs); err != nil {
		return nil, err
	}
	if !bs.Ready {
		f := first{endpoint: e, spec: spec, project: ps, branch: bs, watch: watch}
		return f.start(ctx)
	}
	s, err := e.launch(ctx, spec)
	watch.lap("postgres")
	return s, err
}

// lookUp finds what a start has to know, and opens the branch meanwhile: a store may
// be far away.
func (e *endpoint) lookUp(ctx context.Context, info cow.BranchInfo) (cow.BranchInfo, cow.ProjectInfo, error) {
	if err := e.unmount(ctx); err != nil { // what an earlier stop could not
		return info, cow.ProjectInfo{}, err
	}
	var (
		now                              cow.BranchInfo
		project                          cow.ProjectInfo
		errBranch, errProject, errVolume error
		wg                               sync.WaitGroup
	)
	// Again, now that nobody else works on the branch: an earlier start may have
	// changed its settings.
	wg.Go(func() { now, errBranch = e.m.options.Store.Branch(ctx, info.Project, info.Name) })
	wg.Go(func() { project, errProject = e.m.options.Store.Project(ctx, info.Project) })
	wg.Go(func() { errVolume = e.hold(ctx) })
	wg.Wait()
	switch {
	case errBranch != nil:
		return info, project, fmt.Errorf("find branch: %w", errBranch)
	case now.ID != e.id:
		return info, project, fmt.Errorf("find branch: %s/%s is another one by now", info.Project, info.Name)
	case errProject != nil:
		return info, project, fmt.Errorf("find project %s: %w", info.Project, errProject)
	}
	return now, project, errVolume
}

// hold opens the branch.
func (e *endpoint) hold(ctx context.Context) error {
	v, err := e.m.hold(ctx, e.id)
	if err != nil {
		return err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.volume = v
	return nil
}

// mount mounts the file system of the branch, which is open.
func (e *endpoint) mount(ctx context.Context, info cow.BranchInfo) error {
	e.mu.Lock()
	v := e.volume
	e.mu.Unlock()
	return v.mount(ctx, e.m, info, false)
}

// unmount undoes mount, if there is anything to undo.
func (e *endpoint) unmount(ctx context.Context) error {
	e.mu.Lock()
	v := e.volume
	e.mu.Unlock()
	if v == nil {
		return nil
	}
	err := v.unmount(ctx)
	if v.mounted {
		return err
	}
	e.mu.Lock()
	e.volume = nil
	e.mu.Unlock()
	return err
}

// grow lets the file system fill a device that has grown.
func (e *endpoint) grow(ctx context.Context, info cow.BranchInfo, bs *BranchSettings) error {
	if bs.FSBytes == 0 || info.Size <= bs.FSBytes {
		return nil
	}
	if err := e.m.options.Volumes.Grow(ctx, string(e.id)); err != nil {
		return fmt.Errorf("grow file system to %d bytes: %w", info.Size, err)
	}
	bs.FSBytes = info.Size
	if !bs.Ready {
		return nil // the first start records it
	}
	return e.record(ctx, *bs)
}

// record replaces the branch's settings.
func (e *endpoint) record(ctx context.Context, bs BranchSettings) error {
	err := e.m.options.Store.UpdateBranch(ctx, e.id, func(info *cow.BranchInfo) error {
		raw, err := encodeSettings(info.Settings, bs)
		info.Settings = raw
		return err
	})
	if err != nil {
		return fmt.Errorf("record settings of the branch: %w", err)
	}
	return nil
}

// launch starts the server. Files that belong to the Postgres user of another
// host are handed over first.
func (e *endpoint) launch(ctx context.Context, spec serverSpec) (*server, error) {
	s, err := e.m.startServer(ctx, e.id, spec)
	var failed *startError
	if errors.As(err, &failed) && failed.code == exitWrongOwner {
		if err := e.m.takeOwnership(ctx, spec.config.pgdata); err != nil {
			return nil, err
		}
		s, err = e.m.startServer(ctx, e.id, spec)
	}
	if err != nil {
		return nil, err
	}
	if err := linkDefaultSocket(s.config); err != nil {
		e.m.options.Logger.Warn("the admin socket has no name with the default port", "branch", e.id, "error", err)
	}
	return s, nil
}

// linkDefaultSocket gives the admin socket a second name, with the default
// port, so that people need not know the port.
func linkDefaultSocket(c serverConfig) error {
	name := filepath.Join(c.sockets, portName(defaultPort))
	if c.port == defaultPort {
		return nil
	}
	if err := os.Remove(name); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("link admin socket: %w", err)
	}
	if err := os.Symlink(portName(c.port), name); err != nil {
		return fmt.Errorf("link admin socket: %w", err)
	}
	return nil
}

// stop is the work of a stop; it owns the endpoint.
func (e *endpoint) stop(ctx context.Context) error {
	e.mu.Lock()
	s := e.server
	e.mu.Unlock()
	var unclean error
	if s != nil {
		if unclean = s.stop(ctx, e.m.options.StopTimeout); unclean != nil {
			e.m.options.Logger.Warn("endpoint was not shut down cleanly", "id", e.id, "error", unclean)
		}
		select {
		case <-s.exited:
		default:
			e.fail(unclean, s.log.tail())
			return unclean // it is still there: unmounting would be wrong
		}
	}
	e.mu.Lock()
	e.server = nil
	e.mu.Unlock()
	if err := e.release(ctx); err != nil {
		e.fail(err, nil)
		return err
	}
	e.mu.Lock()
	e.failure, e.log = nil, nil
	e.mu.Unlock()
	if s != nil {
		e.m.options.Logger.Info("endpoint stopped", "id", e.id)
	}
	return nil
}

// release unmounts and detaches, and removes what only a live server has.
func (e *endpoint) release(ctx context.Context) error {
	return errors.Join(e.unmount(ctx), e.m.removeRun(e.m.layout.run(e.id)))
}

func (e *endpoint) fail(err error, log []string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.failure, e.log = err, log
}

func (e *endpoint) status() Status {
	e.mu.Lock()
	defer e.mu.Unlock()
	st := Status{State: Stopped, StartMillis: e.took.Milliseconds(), LogPath: e.m.layout.log(e.id)}
	switch {
	case e.op != nil:
		st.State = e.op.kind
	case e.server != nil:
		st.State = Running
		at := e.at(e.server)
		st.Address, st.Pid, st.Since = at.Address, at.Pid, e.since
	case e.failure != nil:
		st.State = Failed
	}
	if e.failure != nil && st.State != Running {
		st.Error, st.Log = e.failure.Error(), e.log
	}
	return st
}
