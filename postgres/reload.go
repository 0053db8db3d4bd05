package postgres

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"
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
			if s == nil {
				e.mu.Unlock()
				return nil
			}
			changed, err := m.reload(id, s, func(c *serverConfig) { c.remote = d == cow.DurabilityRemote })
			e.mu.Unlock()
			if err != nil || !changed {
				return err
			}
			if d == cow.DurabilityRemote {
				m.prepareWAL(ctx, id, s)
				m.wakeTuner()
			} else {
				s.zeroed.Store(false)
			}
			return nil
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
// Options.Clients has it. One that does not run does so at its start. Tune goes on from
// there.
func (m *Manager) Retune(_ context.Context, project, branch string) error {
	name, clients := project+"/"+branch, m.options.Clients(project, branch)
	for _, e := range m.all() {
		e.mu.Lock()
		var err error
		if s := e.running(); s != nil && s.config.name == name {
			_, err = m.reload(e.id, s, func(c *serverConfig) { c.crowd(clients) })
		}
		e.mu.Unlock()
		if err != nil {
			return err
		}
	}
	m.wakeTuner()
	return nil
}

func (m *Manager) all() []*endpoint {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Collect(maps.Values(m.endpoints))
}

// reload changes the server's configuration, and has it read if that makes a
// difference. The endpoint's mu is held.
func (m *Manager) reload(id cow.BranchID, s *server, change func(*serverConfig)) (changed bool, err error) {
	before := s.config.flushing()
	change(&s.config)
	if slices.Equal(before, s.config.flushing()) {
		return false, nil
	}
	if err := m.layout.writeConf(m.layout.conf(id), s.config.file()); err != nil {
		return false, err
	}
	fd, err := s.proc.open()
	if err == nil {
		err = unix.PidfdSendSignal(fd, unix.SIGHUP, nil, 0)
		unix.Close(fd)
	}
	if err != nil && !errors.Is(err, os.ErrProcessDone) && !errors.Is(err, unix.ESRCH) {
		return false, fmt.Errorf("reload the settings of Postgres: %w", err)
	}
	return true, nil
}

// prepareWAL is zeroWAL for a server that has changed to durability remote, or was
// started at it.
func (m *Manager) prepareWAL(ctx context.Context, id cow.BranchID, s *server) {
	if err := m.zeroWAL(ctx, s); err != nil && ctx.Err() == nil && !s.hasExited() {
		// It costs some requests until the file is full.
		m.options.Logger.Warn("the WAL goes on in a file that was made for durability local", "id", id, "err", err)
	}
	s.zeroed.Store(true)
}

// How long the server may take to read its configuration and to begin new files, and how
// often it is asked.
const (
	reloadWait = 5 * time.Second
	reloadPoll = 20 * time.Millisecond
)

// zeroWAL has the WAL go on in a file that was filled with zeros, as the settings for
// durability remote have it: one that was made for durability local is sparse, and each
// flush of a part of it that was never written takes three. It waits until the server
// has read its settings.
func (m *Manager) zeroWAL(ctx context.Context, s *server) error {
	if _, ok := s.config.overrides["wal_init_zero"]; ok {
		return nil // it is the user's choice
	}
	ctx, cancel := context.WithTimeout(ctx, reloadWait)
	defer cancel()
	conn, err := connectAdmin(ctx, s.config.sockets, s.config.port, superuser)
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	tick := time.NewTicker(reloadPoll)
	defer tick.Stop()
	for zeroed := ""; zeroed != "on"; {
		if err := conn.QueryRow(ctx, "SHOW wal_init_zero").Scan(&zeroed); err != nil {
			return fmt.Errorf("wait until Postgres has read its settings: %w", err)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("wait until Postgres has read its settings: %w", ctx.Err())
		}
	}
	// The next file may have been made ahead, and be a sparse one, too.
	for range walAhead {
		sparse, err := m.walIsSparse(ctx, s, conn)
		if err != nil || !sparse {
			return err
		}
		if _, err := conn.Exec(ctx, "SELECT pg_switch_wal()"); err != nil {
			return fmt.Errorf("begin a new file of WAL: %w", err)
		}
	}
	return nil
}

// walAhead is how many files of WAL are at most gone through for one that is not sparse:
// a server makes one ahead.
const walAhead = 4

// walIsSparse tells whether the file that the WAL is written to has parts that were
// never written. A child looks: see prepareScript.
func (m *Manager) walIsSparse(ctx context.Context, s *server, conn *pgx.Conn) (bool, error) {
	var name string
	var size int64
	var there bool
	// After a switch the next one does nothing until something is written.
	err := conn.QueryRow(ctx, "SELECT name, pg_size_bytes(current_setting('wal_segment_size')),"+
		" (pg_stat_file('pg_wal/' || name, true)).size IS NOT NULL"+
		" FROM (SELECT pg_walfile_name(pg_logical_emit_message(false, 'bough', '')) AS name) AS wal").Scan(&name, &size, &there)
	if err != nil {
		return false, fmt.Errorf("look at the WAL: %w", err)
	}
	if !there {
		return false, nil // it is made when it is needed, as the settings are now
	}
	out, err := m.runTool(ctx, m.account.credential(), "stat", "--format=%b", "--", filepath.Join(s.config.pgdata, "pg_wal", name))
	if err != nil {
		return false, err
	}
	blocks, err := strconv.ParseInt(out, 10, 64)
	return blocks*512 < size, err
}
