package postgres

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"syscall"

	"github.com/jackc/pgx/v5"
)

const defaultPort = 5432

// first is a branch's first start. When the parent is not a template, the branch
// first runs by itself, deaf and dumb, until what the parent did to the outside
// is undone; only the second start, which costs some 30 ms, is like any other.
// Nobody but the superuser can log in before the password is set. All of it is
// done again if it is not recorded as done, which does no harm.
type first struct {
	*endpoint
	spec    serverSpec
	project ProjectSettings
	branch  BranchSettings
	watch   *stopwatch
}

// start returns the running server.
func (f *first) start(ctx context.Context) (*server, error) {
	f.branch.Ready = true
	if f.spec.config.keep {
		s, err := f.launch(ctx, f.spec)
		if err != nil {
			return nil, err
		}
		f.watch.lap("postgres")
		defer f.watch.lap("settle")
		err = f.withAdmin(ctx, s, f.setPassword)
		if err == nil {
			err = f.record(ctx, f.branch)
		}
		return f.orStop(ctx, s, err)
	}

	if err := f.clean(ctx); err != nil {
		return nil, err
	}
	// Everything is undone, and on disk since the server was shut down.
	defer f.watch.lap("postgres")
	recorded := make(chan error, 1)
	go func() { recorded <- f.record(ctx, f.branch) }()
	s, err := f.launch(ctx, f.spec)
	errRecord := <-recorded
	if err != nil {
		return nil, errors.Join(err, errRecord)
	}
	return f.orStop(ctx, s, errRecord)
}

// orStop returns the server, or stops it if something went wrong after its start.
func (f *first) orStop(ctx context.Context, s *server, err error) (*server, error) {
	if err != nil {
		return nil, errors.Join(err, s.stop(context.WithoutCancel(ctx), f.m.options.StopTimeout))
	}
	return s, nil
}

// clean runs the server out of everybody's reach, and undoes the parent's
// effects on the outside.
func (f *first) clean(ctx context.Context) error {
	spec := f.spec
	spec.first = true
	spec.config.cleaning = true
	s, err := f.launch(ctx, spec)
	if err != nil {
		return err
	}
	f.watch.lap("postgres_alone")
	err = f.withAdmin(ctx, s, f.sever)
	f.watch.lap("sever")
	defer f.watch.lap("stop")
	return errors.Join(err, s.stop(context.WithoutCancel(ctx), f.m.options.StopTimeout))
}

// admin is a session of the superuser, and the way to get more of them.
type admin struct {
	*pgx.Conn
	connect func(database string) (*pgx.Conn, error)
}

// withAdmin does work in a session of the superuser.
func (f *first) withAdmin(ctx context.Context, s *server, work func(context.Context, admin) error) error {
	connect := func(database string) (*pgx.Conn, error) {
		return connectAdmin(ctx, s.config.sockets, s.config.port, database)
	}
	conn, err := connect(superuser)
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	return work(ctx, admin{Conn: conn, connect: connect})
}

func (f *first) sever(ctx context.Context, a admin) error {
	undone, err := severEffects(ctx, a.Conn, a.connect)
	if err != nil {
		return err
	}
	if len(undone) > 0 {
		f.m.options.Logger.Info("branch starts without its parent's effects on the outside", "id", f.id, "undone", undone)
	}
	return f.setPassword(ctx, a)
}

func (f *first) setPassword(ctx context.Context, a admin) error {
	role, password := f.project.Role, f.project.Password
	if role == "" || password == "" {
		return nil
	}
	there, err := setPassword(ctx, a.Conn, role, password)
	if err == nil && !there {
		f.m.options.Logger.Warn("the project's role is not on this branch, so its password is not set", "id", f.id, "role", role)
	}
	return err
}

// takeOwnership hands a data directory that another host wrote to this host's
// Postgres user.
func (m *Manager) takeOwnership(ctx context.Context, pgdata string) error {
	if !m.account.other {
		return fmt.Errorf("take over the data: it belongs to another user than %s, and only root can change that", m.account.name)
	}
	owner := fmt.Sprintf("%d:%d", m.account.uid, m.account.gid)
	_, err := m.runTool(ctx, nil, "chown", "-R", "--no-dereference", owner, pgdata)
	return err
}

// runTool runs a program to its end, and returns its output, which is part of the error.
func (m *Manager) runTool(ctx context.Context, as *syscall.Credential, name string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir = "/"
	cmd.Env = m.childEnv("/usr/sbin")
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: as}
	out, err := cmd.CombinedOutput()
	if out = bytes.TrimSpace(out); err != nil {
		return "", fmt.Errorf("run %s: %w: %s", name, err, out)
	}
	return string(out), nil
}
