package memstore

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/bough-db/bough/objstore"
)

// Options are the settings of a Store.
type Options struct {
	// BytesMax bounds the sizes of all objects together. Default: 0, no bound.
	BytesMax int64
}

// Store is an object store in memory. All methods may be called concurrently.
// The zero value is not usable: see [New].
type Store struct {
	opts Options

	mu      sync.RWMutex
	keys    []string // sorted
	objects map[string]object
	bytes   int64 // of all bodies
}

type object struct {
	body []byte // never written to
	tag  string
}

var _ objstore.Store = (*Store)(nil)

// New returns an empty store.
func New(opts Options) *Store {
	return &Store{opts: opts, objects: make(map[string]object)}
}

// Clone returns an independent store with the same objects. It copies the
// catalogue, not the bodies.
func (s *Store) Clone() *Store {
	s.mu.RLock()
	defer s.mu.RUnlock()
	c := New(s.opts)
	c.keys = slices.Clone(s.keys)
	c.bytes = s.bytes
	for k, o := range s.objects {
		c.objects[k] = o
	}
	return c
}

// Len returns the number of objects and the sum of their sizes in bytes.
func (s *Store) Len() (objects int, bytes int64) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return len(s.keys), s.bytes
}

// check is what every call on one object begins with.
func check(ctx context.Context, key string) error {
	if err := objstore.CheckKey(key); err != nil {
		return err
	}
	return ctx.Err()
}

func (s *Store) lookup(ctx context.Context, key string) (object, error) {
	if err := check(ctx, key); err != nil {
		return object{}, err
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	o, ok := s.objects[key]
	if !ok {
		return object{}, objstore.ErrNotExist
	}
	return o, nil
}

// Get returns the whole object.
func (s *Store) Get(ctx context.Context, key string) ([]byte, objstore.Info, error) {
	o, err := s.lookup(ctx, key)
	if err != nil {
		return nil, objstore.Info{}, fmt.Errorf("get %s: %w", key, err)
	}
	return append([]byte{}, o.body...), o.info(key), nil
}

// ReadAt reads a part of an object. See objstore.Store.
func (s *Store) ReadAt(ctx context.Context, key string, p []byte, off int64) (int, objstore.Info, error) {
	o, err := s.lookup(ctx, key)
	if err != nil {
		return 0, objstore.Info{}, fmt.Errorf("read %s: %w", key, err)
	}
	start, n := objstore.Window(int64(len(o.body)), len(p), off)
	return copy(p, o.body[start:start+int64(n)]), o.info(key), nil
}

// Put stores a copy of data. See objstore.Store.
func (s *Store) Put(ctx context.Context, key string, data []byte, cond objstore.Condition) (string, error) {
	err := check(ctx, key)
	if err == nil {
		err = cond.Check()
	}
	if err != nil {
		return "", fmt.Errorf("put %s: %w", key, err)
	}
	o := object{body: slices.Clone(data), tag: objstore.ContentTag(data)}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.put(key, o, cond); err != nil {
		return "", fmt.Errorf("put %s: %w", key, err)
	}
	return o.tag, nil
}

func (s *Store) put(key string, o object, cond objstore.Condition) error {
	old, there := s.objects[key]
	switch {
	case cond.IfAbsent && there:
		return objstore.ErrExists
	case cond.IfMatch != "" && (!there || old.tag != cond.IfMatch):
		return objstore.ErrMismatch
	}
	bytes := s.bytes + int64(len(o.body)-len(old.body))
	if s.opts.BytesMax > 0 && bytes > s.opts.BytesMax {
		return objstore.ErrFull
	}
	if !there {
		if other, ok := s.inTheWay(key); ok {
			return fmt.Errorf("%w: it and %s need the same directory", objstore.ErrInvalidKey, other)
		}
		i, _ := slices.BinarySearch(s.keys, key)
		s.keys = slices.Insert(s.keys, i, key)
	}
	s.objects[key], s.bytes = o, bytes
	return nil
}

// inTheWay returns an object of which key is a directory, or that is a directory
// of key.
func (s *Store) inTheWay(key string) (string, bool) {
	for i, c := range key {
		if c != '/' {
			continue
		}
		if _, ok := s.objects[key[:i]]; ok {
			return key[:i], true
		}
	}
	dir := key + "/"
	i, _ := slices.BinarySearch(s.keys, dir)
	if i < len(s.keys) && strings.HasPrefix(s.keys[i], dir) {
		return s.keys[i], true
	}
	return "", false
}

// List returns a page of objects. See objstore.Store.
func (s *Store) List(ctx context.Context, prefix, after string, limit int) ([]objstore.Info, error) {
	err := objstore.CheckPrefix(prefix)
	if err == nil {
		err = ctx.Err()
	}
	if err != nil {
		return nil, fmt.Errorf("list %s: %w", prefix, err)
	}
	if limit <= 0 {
		limit = objstore.ListMax
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	var infos []objstore.Info
	i, _ := slices.BinarySearch(s.keys, max(prefix, after))
	for ; i < len(s.keys) && len(infos) < limit; i++ {
		key := s.keys[i]
		if !strings.HasPrefix(key, prefix) {
			if key > prefix {
				break // past the last key with the prefix
			}
			continue
		}
		if key != after {
			infos = append(infos, s.objects[key].info(key))
		}
	}
	return infos, nil
}

// Delete removes an object. See objstore.Store.
func (s *Store) Delete(ctx context.Context, key string) error {
	if err := check(ctx, key); err != nil {
		return fmt.Errorf("delete %s: %w", key, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	old, there := s.objects[key]
	if !there {
		return nil
	}
	i, _ := slices.BinarySearch(s.keys, key)
	s.keys = slices.Delete(s.keys, i, i+1)
	s.bytes -= int64(len(old.body))
	delete(s.objects, key)
	return nil
}

func (o object) info(key string) objstore.Info {
	return objstore.Info{Key: key, Size: int64(len(o.body)), Tag: o.tag}
}
