package sim

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/bough-db/bough/objstore"
)

// storeView is the object store as one process of a host has it: each call waits for
// the scheduler.
type storeView struct{ inc *incarnation }

var _ objstore.Store = storeView{}

// Get implements objstore.Store.
func (s storeView) Get(ctx context.Context, key string) ([]byte, objstore.Info, error) {
	w := s.inc.host.w
	var body []byte
	var info objstore.Info
	p := &parked{verb: "get", name: key}
	p.effect = func() (err error) {
		body, info, err = w.objects.Get(context.Background(), key)
		return err
	}
	p.spoil = func() string {
		body = bytes.Clone(body)
		what, n := w.spoil(body)
		body = body[:n]
		return what
	}
	if err := s.inc.park(ctx, p); err != nil {
		return nil, objstore.Info{}, fmt.Errorf("get %s: %w", key, err)
	}
	return body, info, nil
}

// ReadAt implements objstore.Store.
func (s storeView) ReadAt(ctx context.Context, key string, buf []byte, off int64) (int, objstore.Info, error) {
	w := s.inc.host.w
	// The effect comes while the caller waits, so that it can have its buffer.
	var n int
	var info objstore.Info
	p := &parked{verb: "read", name: key, off: off, size: len(buf)}
	p.effect = func() (err error) {
		n, info, err = w.objects.ReadAt(context.Background(), key, buf, off)
		return err
	}
	p.spoil = func() string {
		if w.rng.IntN(3) == 0 {
			if other := w.another(key); other != "" {
				m, _, err := w.objects.ReadAt(context.Background(), other, buf, off)
				n = m
				return fmt.Sprintf("that of %s (%s)", other, outcome(err))
			}
		}
		what, m := w.spoil(buf[:n])
		n = m
		return what
	}
	if err := s.inc.park(ctx, p); err != nil {
		return 0, objstore.Info{}, fmt.Errorf("read %s: %w", key, err)
	}
	return n, info, nil
}

// Put implements objstore.Store.
func (s storeView) Put(ctx context.Context, key string, data []byte, cond objstore.Condition) (string, error) {
	w := s.inc.host.w
	var tag string
	p := &parked{verb: "put", name: key, size: len(data)}
	if cond.IfMatch != "" {
		p.verb = "replace"
	}
	p.effect = func() (err error) {
		tag, err = w.put(key, data, cond)
		return err
	}
	p.late = func() func() error {
		body := bytes.Clone(data)
		return func() error {
			_, err := w.put(key, body, cond)
			return err
		}
	}
	if err := s.inc.park(ctx, p); err != nil {
		return "", fmt.Errorf("put %s: %w", key, err)
	}
	return tag, nil
}

// List implements objstore.Store.
func (s storeView) List(ctx context.Context, prefix, after string, limit int) ([]objstore.Info, error) {
	w := s.inc.host.w
	var infos []objstore.Info
	p := &parked{verb: "list", name: prefix}
	p.effect = func() (err error) {
		infos, err = w.objects.List(context.Background(), prefix, after, limit)
		return err
	}
	if err := s.inc.park(ctx, p); err != nil {
		return nil, fmt.Errorf("list %s: %w", prefix, err)
	}
	return infos, nil
}

// Delete implements objstore.Store.
func (s storeView) Delete(ctx context.Context, key string) error {
	w := s.inc.host.w
	p := &parked{verb: "delete", name: key}
	p.effect = func() error { return w.remove(key) }
	p.late = func() func() error { return p.effect }
	if err := s.inc.park(ctx, p); err != nil {
		return fmt.Errorf("delete %s: %w", key, err)
	}
	return nil
}

// spoil flips a bit of p or cuts it, and returns what it did and how much is left.
func (w *world) spoil(p []byte) (what string, n int) {
	if len(p) == 0 {
		return "nothing", 0
	}
	if w.rng.IntN(2) == 0 {
		n := w.rng.IntN(len(p))
		return fmt.Sprintf("cut to %d bytes", n), n
	}
	bit := w.rng.IntN(len(p) * 8)
	p[bit/8] ^= 1 << (bit % 8)
	return fmt.Sprintf("bit %d flipped", bit), len(p)
}

// another returns another object of the same kind, if there is one.
func (w *world) another(key string) string {
	kind := kindOf(key)
	infos, err := w.objects.List(context.Background(), "", "", 0)
	if err != nil {
		return ""
	}
	infos = slices.DeleteFunc(infos, func(i objstore.Info) bool { return i.Key == key || kindOf(i.Key) != kind })
	if len(infos) == 0 {
		return ""
	}
	return infos[w.rng.IntN(len(infos))].Key
}

// kindOf returns what an object is: seg, ckpt, manifest …
func kindOf(key string) string {
	parts := strings.Split(key, "/")
	switch {
	case len(parts) >= 3 && parts[0] == "branches":
		return parts[2]
	default:
		return parts[0]
	}
}

// put is a put that has come to the store. It watches that no object changes that
// may not (I3).
func (w *world) put(key string, data []byte, cond objstore.Condition) (string, error) {
	ctx := context.Background()
	var old []byte
	there := false
	if !cond.IfAbsent { // else it fails, or nothing was there
		var err error
		old, _, err = w.objects.Get(ctx, key)
		there = err == nil
	}
	tag, err := w.objects.Put(ctx, key, data, cond)
	if err != nil || !there || bytes.Equal(old, data) {
		return tag, err
	}
	switch kind := kindOf(key); {
	case cond.IfMatch == "":
		w.fail("I3: %s was replaced without a condition", key)
	case kind == "seg":
		if err := w.mayReplace(key, old, data); err != nil {
			w.fail("I3: %s was replaced: %v", key, err)
		}
	case kind == "names" && bytes.Contains(data, []byte(`"free": true`)) && w.conf.collecting.weight > 0:
		// A collector gives up what a deletion that was cut short has left.
	case kind == "ckpt" || kind == "format" || kind == "names":
		w.fail("I3: %s was replaced", key)
	}
	return tag, nil
}

// mayReplace tells whether a segment may take the place of another: only that of an
// orphan, which is behind a segment of a later epoch and so not in its log. A collector
// makes orphans small and leaves them in their place.
func (w *world) mayReplace(key string, old, now []byte) error {
	was, err := parseSegment(old)
	if err != nil {
		return err
	}
	is, err := parseSegment(now)
	if err != nil {
		return err
	}
	hollow := w.conf.collecting.weight > 0 && is.epoch == was.epoch && is.host == was.host && len(now) < len(old)
	if is.epoch <= was.epoch && !hollow {
		return fmt.Errorf("epoch %d by epoch %d", was.epoch, is.epoch)
	}
	prefix := key[:strings.LastIndex(key, "/")+1]
	infos, err := w.objects.List(context.Background(), prefix, "", 0)
	if err != nil {
		return err
	}
	for _, i := range infos {
		if i.Key >= key {
			break
		}
		body, _, err := w.objects.Get(context.Background(), i.Key)
		if err != nil {
			return err
		}
		before, err := parseSegment(body)
		if err != nil {
			return err
		}
		if before.epoch > was.epoch {
			return nil
		}
	}
	return fmt.Errorf("a segment of epoch %d that is part of its log, by one of epoch %d", was.epoch, is.epoch)
}

// remove is a deletion that has come to the store. It watches that nothing goes that
// a branch may need (I6). A collector that removes more has to say so here.
func (w *world) remove(key string) error {
	switch kind := kindOf(key); kind {
	case "names", "deleted":
	case "manifest":
		// Of a branch that did not come to be: nobody has its name. Or of one that was
		// deleted, long ago.
		for _, b := range w.branches {
			long := b.deleted != no && w.conf.collecting.weight > 0
			if strings.Contains(key, string(b.id)) && b.id != "" && !long {
				w.fail("I6: %s was removed, the manifest of branch %s", key, b.name)
			}
		}
	default:
		if err := w.mayGo(kind); err != nil {
			w.fail("I6: %s was removed: %v", key, err)
		}
	}
	return w.objects.Delete(context.Background(), key)
}

// outcome describes an error in a word, for the trace.
func outcome(err error) string {
	switch {
	case err == nil:
		return "ok"
	case errors.Is(err, objstore.ErrNotExist):
		return "not there"
	case errors.Is(err, objstore.ErrExists):
		return "exists"
	case errors.Is(err, objstore.ErrMismatch):
		return "mismatch"
	}
	return err.Error()
}
