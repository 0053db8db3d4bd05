package dirstore

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"

	"github.com/bough-db/bough/objstore"
)

// Put stores data under key. See objstore.Store.
func (s *Store) Put(ctx context.Context, key string, data []byte, cond objstore.Condition) (string, error) {
	tag, err := s.put(ctx, key, data, cond)
	if err != nil {
		return "", fmt.Errorf("put %s: %w", key, err)
	}
	return tag, nil
}

func (s *Store) put(ctx context.Context, key string, data []byte, cond objstore.Condition) (string, error) {
	if err := objstore.CheckKey(key); err != nil {
		return "", err
	}
	if err := cond.Check(); err != nil {
		return "", err
	}
	if err := s.begin(ctx); err != nil {
		return "", err
	}
	defer s.life.RUnlock()
	// A refusal that is certain already need not write 16 MiB first.
	if cond != (objstore.Condition{}) {
		if err := s.refusal(key, cond); err != nil {
			if serr := s.settle(key); serr != nil {
				return "", serr // it would not be certain
			}
			return "", err
		}
	}
	tag := objstore.ContentTag(data)
	tmp, err := s.stage(data, tag)
	if err != nil {
		return "", full(err)
	}
	if err = ctx.Err(); err == nil {
		err = s.commit(ctx, tmp, key, cond)
	}
	if err != nil || cond.IfAbsent {
		// After a rename the name is gone; after a link it is one too many.
		// The next Open removes it should this fail.
		_ = s.fs.Remove(tmp)
	}
	if err != nil {
		return "", err
	}
	return tag, nil
}

// refusal returns objstore.ErrExists or ErrMismatch when the condition does not
// hold now. That it holds now means nothing: see place.
func (s *Store) refusal(key string, cond objstore.Condition) error {
	if cond.IfAbsent {
		info, err := s.fs.Stat(s.path(key))
		if err == nil && info.Mode().IsRegular() {
			return objstore.ErrExists
		}
		return nil
	}
	tag, err := s.tag(key)
	if absent(err) || err == nil && tag != cond.IfMatch {
		return objstore.ErrMismatch
	}
	return err
}

// stage writes a synced temporary file. On error it leaves none.
func (s *Store) stage(data []byte, tag string) (tmp string, err error) {
	tmp = s.tmpPath(strconv.Itoa(s.slot) + "-" + strconv.FormatUint(s.tmpCount.Add(1), 10))
	// O_EXCL: a name left by a killed process may be a link to a live object.
	f, err := s.fs.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return "", err
	}
	if len(data) > 0 {
		_, err = f.WriteAt(data, 0)
	}
	if err == nil {
		s.host.setLabel(tmp, tag)
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		_ = s.fs.Remove(tmp)
		return "", err
	}
	return tmp, nil
}

// commit gives a staged file its name, durably.
func (s *Store) commit(ctx context.Context, tmp, key string, cond objstore.Condition) error {
	s.dirs.RLock()
	defer s.dirs.RUnlock()
	dir := parent(key)
	err := s.makeDirs(dir)
	if err == nil {
		err = s.place(ctx, tmp, key, cond)
		if errors.Is(err, fs.ErrNotExist) && s.forgetDirs(dir) {
			// Somebody removed a directory that we knew: make it again.
			if err = s.makeDirs(dir); err == nil {
				err = s.place(ctx, tmp, key, cond)
			}
		}
	}
	switch {
	case errors.Is(err, objstore.ErrExists), errors.Is(err, objstore.ErrMismatch):
		// Whoever won may not have synced yet, and the caller will build on
		// what it is told now.
		if serr := s.syncDir(dir); serr != nil {
			return serr
		}
		return err
	case err != nil:
		return full(err)
	}
	return s.syncDir(dir)
}

// place links or renames a staged file to its key, if the condition holds.
func (s *Store) place(ctx context.Context, tmp, key string, cond objstore.Condition) error {
	name := s.path(key)
	if cond.IfAbsent {
		err := s.fs.Link(tmp, name)
		if errors.Is(err, fs.ErrExist) && !s.isDir(name) {
			return objstore.ErrExists
		}
		return s.blocked(key, err)
	}
	unlock, err := s.lockSwap(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	if cond.IfMatch != "" {
		if err := s.refusal(key, cond); err != nil {
			return err
		}
	}
	err = s.fs.Rename(tmp, name)
	s.handles.forget(key)
	return s.blocked(key, err)
}

// tag returns the tag of the object as it is now.
func (s *Store) tag(key string) (string, error) {
	name := s.path(key)
	if tag := s.host.label(name); tag != "" {
		return tag, nil
	}
	f, err := s.host.open(name)
	if err != nil {
		return "", err
	}
	defer f.close()
	_, tag, err := describe(f)
	return tag, err
}

// blocked recognizes the failure of a put because the key is a directory.
func (s *Store) blocked(key string, err error) error {
	if err != nil && s.isDir(s.path(key)) {
		return fmt.Errorf("%w: it is a directory of other keys: %w", objstore.ErrInvalidKey, err)
	}
	return err
}

// settle makes durable what a refusal rests on.
func (s *Store) settle(key string) error {
	s.dirs.RLock()
	defer s.dirs.RUnlock()
	dir := parent(key)
	if !s.isDir(s.path(dir)) {
		return nil // there is nothing, and nothing to sync
	}
	if err := s.makeDirs(dir); err != nil {
		return err
	}
	return s.syncDir(dir)
}

// Delete removes an object. See objstore.Store.
func (s *Store) Delete(ctx context.Context, key string) error {
	if err := s.remove(ctx, key); err != nil {
		return fmt.Errorf("delete %s: %w", key, err)
	}
	return nil
}

func (s *Store) remove(ctx context.Context, key string) error {
	if err := objstore.CheckKey(key); err != nil {
		return err
	}
	if err := s.begin(ctx); err != nil {
		return err
	}
	defer s.life.RUnlock()
	if err := s.unlink(ctx, key); err != nil {
		return err
	}
	s.noteEmptied(parent(key))
	s.prune()
	return nil
}

func (s *Store) unlink(ctx context.Context, key string) error {
	s.dirs.RLock()
	defer s.dirs.RUnlock()
	unlock, err := s.lockSwap(ctx)
	if err != nil {
		return err
	}
	if !s.isDir(s.path(key)) { // Remove would take that away too
		err = s.fs.Remove(s.path(key))
		s.handles.forget(key)
	}
	unlock()
	if err != nil && !absent(err) {
		return err
	}
	// Even if it was not there: whoever removed it may not have synced.
	if err := s.syncDir(parent(key)); err != nil && !absent(err) {
		return err
	}
	return nil
}

// makeDirs makes a directory and those above it, with durable entries. The entry
// of each is synced once by each store, whoever made it: a process that died may
// have left it unsynced. Called with dirs held.
func (s *Store) makeDirs(dir string) error {
	if dir == "" {
		return nil
	}
	if _, ok := s.known.Get(dir); ok {
		return nil
	}
	if err := s.makeDirs(parent(dir)); err != nil {
		return err
	}
	if err := s.fs.MkdirAll(s.path(dir), 0o700); err != nil {
		s.noteEmptied(parent(dir))
		if absent(err) || errors.Is(err, fs.ErrExist) {
			return fmt.Errorf("%w: an object is in the way: %w", objstore.ErrInvalidKey, err)
		}
		return err
	}
	if err := s.syncDir(parent(dir)); err != nil {
		return err
	}
	s.known.Add(dir, struct{}{})
	return nil
}

// forgetDirs takes a directory and those above it out of the known ones. It
// reports whether there were any.
func (s *Store) forgetDirs(dir string) bool {
	found := false
	for ; dir != ""; dir = parent(dir) {
		found = s.known.Remove(dir) || found
	}
	return found
}

// noteEmptied remembers a directory that may have become empty.
func (s *Store) noteEmptied(dir string) {
	if !s.exclusive || dir == "" {
		return
	}
	s.emptied.Lock()
	defer s.emptied.Unlock()
	s.emptied.dirs[dir] = struct{}{}
}

// prune removes empty directories, if no put is under way: the next delete tries
// again. Only an exclusive store does it. Another store could know the directory
// as durable, put into a third's unsynced remake of it, and sync only its own
// entry.
func (s *Store) prune() {
	if !s.exclusive || !s.dirs.TryLock() {
		return
	}
	defer s.dirs.Unlock()
	s.emptied.Lock()
	defer s.emptied.Unlock()
	for dir := range s.emptied.dirs {
		delete(s.emptied.dirs, dir)
		for ; dir != "" && s.isDir(s.path(dir)); dir = parent(dir) {
			// Not empty, usually. The removal need not be durable: an empty
			// directory that comes back harms nobody.
			if s.fs.Remove(s.path(dir)) != nil {
				break
			}
			s.known.Remove(dir)
		}
	}
}
