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

// firstStart starts a branch for the first time. When the parent is not a
// template, the branch first runs by itself, deaf and dumb, until what the
// parent did to the outside is undone; only the second start, which costs some
// 30 ms, is like any other. Nobody but the superuser can log in before the
// password is set. All of it is done again if it is not recorded as done, which
// does no harm.
func (e *endpoint) firstStart(ctx context.Context, spec serverSpec, ps ProjectSettings, bs BranchSettings) (*server, error) {
	if !spec.config.keep {
		if err := e.clean(ctx, spec); err != nil {
			return nil, err
		}
	}
	s, err := e.launch(ctx, spec)
	if err != nil {
		return nil, err
	}
	if err := e.settle(ctx, s, ps, bs); err != nil {
		return nil, errors.Join(err, s.stop(context.WithoutCancel(ctx), e.m.options.StopTimeout))
	}
	return s, nil
}

// clean runs the server on a branch of a project's branch, out of reach, and
// undoes the parent's effects on the outside.
func (e *endpoint) clean(ctx context.Context, spec serverSpec) error {
	spec.first = true
	spec.config.cleaning = true
	s, err := e.launch(ctx, spec)
	if err != nil {
		return err
	}
	err = e.sever(ctx, s)
	return errors.Join(err, s.stop(context.WithoutCancel(ctx), e.m.options.StopTimeout))
}

func (e *endpoint) sever(ctx context.Context, s *server) error {
	connect := func(database string) (*pgx.Conn, error) {
		return connectAdmin(ctx, s.config.sockets, s.config.port, database)
	}
	conn, err := connect(superuser)
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	undone, err := severEffects(ctx, conn, connect)
	if err != nil {
		return err
	}
	if len(undone) > 0 {
		e.m.options.Logger.Info("branch starts without its parent's effects on the outside", "id", e.id, "undone", undone)
	}
	return nil
}

// settle sets the password and records that the first start is done.
func (e *endpoint) settle(ctx context.Context, s *server, ps ProjectSettings, bs BranchSettings) error {
	if ps.Role != "" && ps.Password != "" {
		conn, err := connectAdmin(ctx, s.config.sockets, s.config.port, superuser)
		if err != nil {
			return err
		}
		there, err := setPassword(ctx, conn, ps.Role, ps.Password)
		conn.Close(ctx)
		if err != nil {
			return err
		}
		if !there {
			e.m.options.Logger.Warn("the project's role is not on this branch, so its password is not set", "id", e.id, "role", ps.Role)
		}
	}
	bs.Ready = true
	return e.record(ctx, bs)
}

// takeOwnership hands a data directory that another host wrote to this host's
// Postgres user.
func (m *Manager) takeOwnership(ctx context.Context, pgdata string) error {
	if !m.account.other {
		return fmt.Errorf("take over the data: it belongs to another user than %s, and only root can change that", m.account.name)
	}
	owner := fmt.Sprintf("%d:%d", m.account.uid, m.account.gid)
	return m.runTool(ctx, nil, "chown", "-R", "--no-dereference", owner, pgdata)
}

// runTool runs a program to its end; its output is part of the error.
func (m *Manager) runTool(ctx context.Context, as *syscall.Credential, name string, args ...string) error {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir = "/"
	cmd.Env = m.childEnv("/usr/sbin")
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: as}
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("run %s: %w: %s", name, err, bytes.TrimSpace(out))
	}
	return nil
}
