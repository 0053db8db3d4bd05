package dirstore

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/bough-db/bough/vfs"
)

// Names in the store directory that no key can have.
const (
	lockName = ".lock"
	swapName = ".swap"
	tmpName  = ".tmp"
)

// Waiting for a file lock: how often it is tried, and how long Open tries when
// nobody says to whom it belongs, which means that another store is being opened.
const (
	lockPollMin  = 100 * time.Microsecond
	lockPollMax  = 5 * time.Millisecond
	openPatience = 2 * time.Second
)

// enter makes the store directory, takes the locks, removes what dead processes
// left behind, and chooses a slot.
func (s *Store) enter() error {
	if err := s.makeRoot(); err != nil {
		return err
	}
	// The entries of .tmp mean nothing after a power cut: not synced.
	if err := s.fs.MkdirAll(s.path(tmpName), 0o700); err != nil {
		return err
	}
	lock, err := s.gate()
	if err != nil {
		return err
	}
	if err := s.enterLocked(); err != nil {
		return errors.Join(err, lock.Close())
	}
	if s.exclusive {
		s.locks = append(s.locks, lock)
		return nil
	}
	return lock.Close()
}

// makeRoot makes the store directory and what leads to it, durably. That the lock
// file is there means that an earlier Open has done so.
func (s *Store) makeRoot() error {
	if _, err := s.fs.Stat(s.path(lockName)); err == nil {
		return nil
	}
	if err := s.fs.MkdirAll(s.dir, 0o700); err != nil {
		return err
	}
	// All the way up: an earlier process may have made any of them and died.
	for dir := s.dir; dir != filepath.Dir(dir); {
		dir = filepath.Dir(dir)
		err := s.fs.SyncDir(dir)
		if errors.Is(err, fs.ErrPermission) {
			return nil // not ours, and neither is what is above it
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// gate takes the lock that all stores open through and an exclusive one keeps.
func (s *Store) gate() (io.Closer, error) {
	ctx, cancel := context.WithTimeout(context.Background(), openPatience)
	defer cancel()
	for {
		lock, err := s.fs.Lock(s.path(lockName))
		if err == nil || !errors.Is(err, vfs.ErrLocked) {
			return lock, err
		}
		if pid := s.owner(); pid != "" {
			return nil, fmt.Errorf("%w by process %s: stop it, or choose another directory", ErrInUse, pid)
		}
		if err := pause(ctx, lockPollMax); err != nil {
			return nil, fmt.Errorf("%w by an unknown process: stop it, or choose another directory", ErrInUse)
		}
	}
}

// owner returns the process id that an exclusive store has left in the lock.
func (s *Store) owner() string {
	text, err := vfs.ReadFile(s.fs, s.path(lockName))
	if err != nil {
		return ""
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		return ""
	}
	return strconv.Itoa(pid)
}

// setOwner writes text into the lock file, for people and for owner.
func (s *Store) setOwner(text string) error {
	f, err := s.fs.OpenFile(s.path(lockName), os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	err = f.Truncate(0)
	if err == nil && text != "" {
		_, err = f.WriteAt([]byte(text), 0)
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	return err
}

// enterLocked is the part of enter that one store at a time does. Holding the
// gate means that no exclusive store is alive and nobody else is choosing a slot.
func (s *Store) enterLocked() error {
	names, err := s.fs.ReadDir(s.path(tmpName))
	if err != nil {
		return err
	}
	live, dead, err := s.slots(names)
	if err != nil {
		return err
	}
	if s.exclusive && len(live) > 0 {
		return fmt.Errorf("%w by %d others that share it: stop them, or choose another directory", ErrInUse, len(live))
	}
	if dead || s.owner() != "" {
		// What a killed process gave a name and did not sync can be read
		// now. Before anybody builds on it, it must be there for good.
		s.log.Info("store directory was not closed: syncing it", "dir", s.dir)
		if err := s.host.syncAll(s.dir); err != nil {
			return err
		}
	}
	if err := s.sweep(names, live); err != nil {
		return err
	}
	if s.exclusive {
		return s.setOwner(strconv.Itoa(os.Getpid()) + "\n")
	}
	for s.slot = 1; live[s.slot]; s.slot++ {
	}
	lock, err := s.fs.Lock(s.slotPath(s.slot))
	if err != nil {
		return err
	}
	s.locks = append(s.locks, lock)
	// A killed exclusive store's process id would be taken for a live one's.
	return s.setOwner("")
}

// slots returns the slots of live stores, and whether there are any of dead ones.
// An exclusive store is not among them: it uses slot 0 and the gate is its lock.
func (s *Store) slots(names []fs.DirEntry) (live map[int]bool, dead bool, err error) {
	live = make(map[int]bool)
	for _, e := range names {
		number, isLock := strings.CutSuffix(e.Name(), ".lock")
		slot, err := strconv.Atoi(number)
		if !isLock || err != nil {
			continue
		}
		lock, err := s.fs.Lock(s.tmpPath(e.Name()))
		if errors.Is(err, vfs.ErrLocked) {
			live[slot] = true
			continue
		}
		if err != nil {
			return nil, false, err
		}
		dead = true
		if err := lock.Close(); err != nil {
			return nil, false, err
		}
	}
	return live, dead, nil
}

// sweep removes what dead stores have left in .tmp. Their locks go last: as long
// as one is there, the next Open syncs and sweeps again.
func (s *Store) sweep(names []fs.DirEntry, live map[int]bool) error {
	for _, locks := range []bool{false, true} {
		for _, e := range names {
			number, isLock := strings.CutSuffix(e.Name(), ".lock")
			if !isLock {
				number, _, _ = strings.Cut(e.Name(), "-")
			}
			slot, err := strconv.Atoi(number)
			if err != nil || live[slot] || isLock != locks {
				continue
			}
			name := s.tmpPath(e.Name())
			if err := s.fs.Remove(name); err != nil && !absent(err) {
				return err
			}
			s.log.Debug("removed a dead process's file", "file", name)
		}
	}
	return nil
}

// leave gives up the locks.
func (s *Store) leave() error {
	var errs []error
	if s.exclusive {
		errs = append(errs, s.setOwner(""))
	} else {
		// Removed while it is held: nobody takes a lock file that has no name
		// for a slot, and one with a name means that its store has died.
		errs = append(errs, s.fs.Remove(s.slotPath(s.slot)))
	}
	for _, lock := range s.locks {
		errs = append(errs, lock.Close())
	}
	return errors.Join(errs...)
}

func (s *Store) slotPath(slot int) string {
	return s.tmpPath(strconv.Itoa(slot) + ".lock")
}

func (s *Store) tmpPath(name string) string {
	return s.path(tmpName) + "/" + name
}

// lockSwap waits until no other caller, in this process or another, compares
// and replaces or removes a key. The returned function ends it.
func (s *Store) lockSwap(ctx context.Context) (unlock func(), err error) {
	select {
	case s.swap <- struct{}{}:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	if s.exclusive {
		return func() { <-s.swap }, nil
	}
	for wait := lockPollMin; ; wait = min(2*wait, lockPollMax) {
		lock, err := s.fs.Lock(s.path(swapName))
		if err == nil {
			return func() { _ = lock.Close(); <-s.swap }, nil
		}
		if errors.Is(err, vfs.ErrLocked) {
			err = pause(ctx, wait)
		}
		if err != nil {
			<-s.swap
			return nil, err
		}
	}
}

// pause waits for d, or until ctx ends.
func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
