package dirstore

import (
	"context"
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"github.com/bough-db/bough/objstore"
)

// List returns a page of objects. See objstore.Store.
func (s *Store) List(ctx context.Context, prefix, after string, limit int) ([]objstore.Info, error) {
	if limit <= 0 {
		limit = objstore.ListMax
	}
	l := &lister{s: s, prefix: prefix, after: after, limit: limit}
	err := objstore.CheckPrefix(prefix)
	if err == nil {
		err = s.begin(ctx)
	}
	if err == nil {
		err = l.walk(ctx, parent(prefix+"x"))
		s.life.RUnlock()
	}
	if err != nil {
		return nil, fmt.Errorf("list %s: %w", prefix, err)
	}
	return l.found, nil
}

// lister walks the directories in key order.
type lister struct {
	s             *Store
	prefix, after string
	limit         int
	found         []objstore.Info
}

func (l *lister) walk(ctx context.Context, dir string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	entries, err := l.s.fs.ReadDir(l.s.path(dir))
	if err != nil {
		if absent(err) {
			return nil
		}
		return err
	}
	if len(entries) == 0 {
		l.s.noteEmptied(dir)
	}
	for _, key := range l.keys(dir, entries) {
		if len(l.found) == l.limit {
			return nil
		}
		if sub, ok := strings.CutSuffix(key, "/"); ok {
			err = l.walk(ctx, sub)
		} else {
			err = l.add(key)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// keys returns the entries of a directory that matter, as keys in key order;
// those of directories end with a slash, by which they sort.
func (l *lister) keys(dir string, entries []fs.DirEntry) []string {
	if dir != "" {
		dir += "/"
	}
	keys := make([]string, 0, len(entries))
	for _, e := range entries {
		key := dir + e.Name()
		switch {
		case e.IsDir():
			key += "/"
			inside := strings.HasPrefix(key, l.prefix) || strings.HasPrefix(l.prefix, key)
			if !inside || key < l.after && !strings.HasPrefix(l.after, key) {
				continue
			}
		case !e.Type().IsRegular() || !strings.HasPrefix(key, l.prefix) || key <= l.after:
			continue
		}
		if objstore.CheckPrefix(key) == nil {
			keys = append(keys, key)
		}
	}
	slices.Sort(keys)
	return keys
}

// add describes an object. One that is gone by now is left out.
func (l *lister) add(key string) error {
	tag, err := l.s.tag(key)
	if absent(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("%s: %w", key, err)
	}
	size, ok := tagSize(tag)
	if !ok {
		return fmt.Errorf("%s: %w: its tag is %q", key, ErrDamaged, tag)
	}
	l.found = append(l.found, objstore.Info{Key: key, Size: size, Tag: tag})
	return nil
}
