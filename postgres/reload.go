package postgres

import (
	"context"
	"errors"
	"fmt"
	"os"

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
			return m.reload(id, s, d)
		}
		e.mu.Unlock()
		select {
		case <-op.done:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// reload writes the server's configuration anew and has it read. The endpoint's mu is
// held.
func (m *Manager) reload(id cow.BranchID, s *server, d cow.Durability) error {
	remote := d == cow.DurabilityRemote
	if s.config.remote == remote {
		return nil
	}
	s.config.remote = remote
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
