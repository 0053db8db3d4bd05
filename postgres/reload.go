package postgres

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/bough-db/bough/cow"
)

// SetDurability tells a running endpoint that the durability of its branch has
// changed: settings that depend on it are changed with a reload. One that is being
// started is waited for. One that does not run finds out at its start.
func (m *Manager) SetDurability(ctx context.Context, id cow.BranchID, d cow.Durability) error {
	m.mu.Lock()
	e := m.endpoints[id]
	m.mu.Unlock()
	if e == nil {
		return nil
	}
	for {
		e.mu.Lock()
		op, s := e.op, e.server
		if op == nil {
			defer e.mu.Unlock()
			if s == nil {
				return nil
			}
			return m.reload(id, s, func(c *serverConfig) { c.remote = d == cow.DurabilityRemote })
		}
		e.mu.Unlock()
		select {
		case <-op.done:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// Retune adapts the settings of a running endpoint to the number of its clients, as
// Options.Clients has it. One that does not run does so at its start.
func (m *Manager) Retune(_ context.Context, project, branch string) error {
	name := project + "/" + branch
	group := groupOf(m.options.Clients(project, branch))
	m.mu.Lock()
	all := slices.Collect(maps.Values(m.endpoints))
	m.mu.Unlock()
	for _, e := range all {
		e.mu.Lock()
		var err error
		if s := e.running(); s != nil && s.config.name == name {
			err = m.reload(e.id, s, func(c *serverConfig) { c.group = group })
		}
		e.mu.Unlock()
		if err != nil {
			return err
		}
	}
	return nil
}

// reload changes the server's configuration, and has it read if that makes a
// difference. The endpoint's mu is held.
func (m *Manager) reload(id cow.BranchID, s *server, change func(*serverConfig)) error {
	before := s.config.flushing()
	change(&s.config)
	if slices.Equal(before, s.config.flushing()) {
		return nil
	}
	if err := m.layout.writeConf(m.layout.conf(id), s.config.file()); err != nil {
		return err
	}
	fd, err := s.proc.open()
	if err == nil {
		err = unix.PidfdSendSignal(fd, unix.SIGHUP, nil, 0)
		unix.Close(fd)
	}
	if err != nil && !errors.Is(err, os.ErrProcessDone) && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("reload the settings of Postgres: %w", err)
	}
	return nil
}
