package postgres

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/bough-db/bough/cow"
)

// record is endpoint.json: it lets the next daemon find a server that this one
// left behind. It need not survive a crash of the machine, which leaves none.
type record struct {
	Process process `json:"process"`
	PGData  string  `json:"pgdata"`
	Port    int     `json:"port"`
}

// writeRecord replaces the branch's record.
func (l *layout) writeRecord(id cow.BranchID, r record) error {
	text, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return fmt.Errorf("record server of branch %s: %w", id, err)
	}
	tmp := l.record(id) + ".tmp"
	if err := os.WriteFile(tmp, append(text, '\n'), 0o600); err != nil {
		return fmt.Errorf("record server of branch %s: %w", id, err)
	}
	if err := os.Rename(tmp, l.record(id)); err != nil {
		return fmt.Errorf("record server of branch %s: %w", id, err)
	}
	return nil
}

// CleanupStale ends the servers that a daemon which was killed left behind on
// the same state directory, and removes their sockets. Call it when this
// process holds the state directory's lock, before anything is unmounted and
// before the first Start. It touches only processes that are provably ours:
// those with the recorded id, start time and boot, and those whose command
// line has a data directory below the state directory.
func (m *Manager) CleanupStale(ctx context.Context) error {
	victims := make(map[process]bool)
	entries, err := os.ReadDir(m.layout.runRoot())
	if err != nil {
		return fmt.Errorf("look for stale servers: %w", err)
	}
	var problems []error
	var records []string
	for _, e := range entries {
		path := filepath.Join(m.layout.runRoot(), e.Name(), "endpoint.json")
		text, err := os.ReadFile(path)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		var r record
		if err == nil {
			err = json.Unmarshal(text, &r)
		}
		if err != nil {
			// The command lines below find the server as well.
			m.options.Logger.Warn("unreadable record of a server", "path", path, "error", err)
		} else {
			victims[r.Process] = true
		}
		records = append(records, path)
	}
	for _, p := range postmastersUnder(m.layout.dataRoot()) {
		victims[p] = true
	}

	var g errgroup.Group
	results := make(chan error, len(victims))
	for p := range victims {
		g.Go(func() error {
			if fd, err := p.open(); err == nil {
				m.options.Logger.Info("stopping a server that an earlier daemon left", "pid", p.Pid)
				unix.Close(fd)
			}
			results <- p.terminate(lingerLimit)
			return nil
		})
	}
	g.Wait() // no function returns an error
	close(results)
	for err := range results {
		problems = append(problems, err)
	}
	if err := errors.Join(problems...); err != nil {
		return fmt.Errorf("stop stale servers: %w", err)
	}
	for _, path := range records {
		problems = append(problems, m.removeRun(filepath.Dir(path)))
	}
	return errors.Join(problems...)
}

// removeRun removes from a run directory what only a live server has.
func (m *Manager) removeRun(dir string) error {
	var problems []error
	drop := func(path string) {
		if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
			problems = append(problems, fmt.Errorf("remove stale file: %w", err))
		}
	}
	sockets, err := m.layout.socketDir(cow.BranchID(filepath.Base(dir)))
	if err != nil {
		return err
	}
	entries, err := os.ReadDir(sockets)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("remove stale sockets: %w", err)
	}
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), ".s.PGSQL.") {
			drop(filepath.Join(sockets, e.Name()))
		}
	}
	drop(filepath.Join(dir, "endpoint.json"))
	return errors.Join(problems...)
}
