package dirstore

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
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
	if err := vfs.MkdirAllSync(s.fs, s.dir, 0o700); err != nil {
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
	// What a killed exclusive store left would be taken for a live one's.
	if err := s.setOwner(""); err != nil {
		return err
	}
	names, err := s.fs.ReadDir(s.path(tmpName))
	if err != nil {
		return err
	}
	// An exclusive store uses slot 0 and has the gate for its lock.
	live := make(map[int]bool)
	for _, e := range names {
		number, isLock := strings.CutSuffix(e.Name(), ".lock")
		slot, err := strconv.Atoi(number)
		if !isLock || err != nil {
			continue
		}
		switch lock, err := s.fs.Lock(s.tmpPath(e.Name())); {
		case errors.Is(err, vfs.ErrLocked):
			live[slot] = true
		case err != nil:
			return err
		default:
			if err := lock.Close(); err != nil {
				return err
			}
		}
	}
	if s.exclusive && len(live) > 0 {
		return fmt.Errorf("%w by %d other processes that share it: stop them, or choose another directory", ErrInUse, len(live))
	}
	for _, e := range names {
		number, _, isTemp := strings.Cut(e.Name(), "-")
		slot, err := strconv.Atoi(number)
		if !isTemp || err != nil || live[slot] {
			continue
		}
		if err := s.fs.Remove(s.tmpPath(e.Name())); err != nil && !absent(err) {
			return err
		}
		s.log.Debug("removed the temporary file of a dead process", "file", s.tmpPath(e.Name()))
	}
	if s.exclusive {
		return s.setOwner(strconv.Itoa(os.Getpid()) + "\n")
	}
	for s.slot = 1; live[s.slot]; s.slot++ {
	}
	lock, err := s.fs.Lock(s.tmpPath(strconv.Itoa(s.slot) + ".lock"))
	if err != nil {
		return err
	}
	s.locks = append(s.locks, lock)
	return nil
}

// leave gives up the locks.
func (s *Store) leave() error {
	var errs []error
	if s.exclusive {
		errs = append(errs, s.setOwner(""))
	}
	for _, lock := range s.locks {
		errs = append(errs, lock.Close())
	}
	return errors.Join(errs...)
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
