package dirstore

import (
	"context"
	"fmt"

	"github.com/bough-db/bough/objstore"
)

// Get returns the whole object.
func (s *Store) Get(ctx context.Context, key string) ([]byte, objstore.Info, error) {
	p, info, err := s.get(ctx, key)
	if err != nil {
		return nil, objstore.Info{}, fmt.Errorf("get %s: %w", key, err)
	}
	return p, info, nil
}

func (s *Store) get(ctx context.Context, key string) ([]byte, objstore.Info, error) {
	none := objstore.Info{}
	if err := objstore.CheckKey(key); err != nil {
		return nil, none, err
	}
	if err := s.begin(ctx); err != nil {
		return nil, none, err
	}
	defer s.life.RUnlock()
	f, err := s.host.open(s.path(key))
	if err != nil {
		return nil, none, missing(err)
	}
	defer f.close()
	size, err := f.size()
	if err != nil {
		return nil, none, err
	}
	p := make([]byte, size)
	if err := readFull(f, p, 0); err != nil {
		return nil, none, err
	}
	tag := objstore.ContentTag(p)
	switch label := f.label(); label {
	case tag:
	case "":
		f.setLabel(tag)
	default:
		return nil, none, fmt.Errorf("%w: its contents have tag %q, it was put with %q", ErrDamaged, tag, label)
	}
	return p, objstore.Info{Key: key, Size: size, Tag: tag}, nil
}

// ReadAt reads a part of an object. See objstore.Store.
func (s *Store) ReadAt(ctx context.Context, key string, p []byte, off int64) (int, objstore.Info, error) {
	n, info, err := s.readAt(ctx, key, p, off)
	if err != nil {
		return 0, objstore.Info{}, fmt.Errorf("read %s: %w", key, err)
	}
	return n, info, nil
}

func (s *Store) readAt(ctx context.Context, key string, p []byte, off int64) (int, objstore.Info, error) {
	none := objstore.Info{}
	if err := objstore.CheckKey(key); err != nil {
		return 0, none, err
	}
	if err := s.begin(ctx); err != nil {
		return 0, none, err
	}
	defer s.life.RUnlock()
	x, err := s.handle(key)
	if err != nil {
		return 0, none, missing(err)
	}
	defer s.handles.release(x)
	start, n := objstore.Window(x.size, len(p), off)
	if err := readFull(x.file, p[:n], start); err != nil {
		return 0, none, err
	}
	return n, objstore.Info{Key: key, Size: x.size, Tag: x.tag}, nil
}

// handle returns an open file of key, kept or new; the caller releases it.
func (s *Store) handle(key string) (*handle, error) {
	x, ticket := s.handles.acquire(key)
	if x != nil {
		return x, nil
	}
	f, err := s.host.open(s.path(key))
	if err != nil {
		return nil, err
	}
	x = &handle{file: f}
	if x.size, x.tag, err = describe(f); err != nil {
		_ = f.close()
		return nil, err
	}
	s.handles.add(key, x, ticket)
	return x, nil
}

// missing turns the error of an open into that of the contract. Only the one
// that says that the file is not there becomes objstore.ErrNotExist.
func missing(err error) error {
	if absent(err) {
		return objstore.ErrNotExist
	}
	return err
}
