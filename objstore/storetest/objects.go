package storetest

import (
	"bytes"
	"context"
	"errors"
	"strings"

	"github.com/bough-db/bough/objstore"
)

func getMissing(t *tester) {
	t.gone("no")
	t.gone("no/such/object")
	t.put("a/b", "x")
	t.gone("a")     // a directory, perhaps
	t.gone("a/b/c") // below an object
	t.gone("a/bb")
}

func putGet(t *tester) {
	tag := t.put("branches/br-1/manifest", "hello")
	info := t.get("branches/br-1/manifest", "hello")
	if info.Tag != tag {
		t.Errorf("Get: tag %q, Put returned %q", info.Tag, tag)
	}
	p, _, err := t.s.Get(t.ctx, "branches/br-1/manifest")
	if err != nil {
		t.Fatal(err)
	}
	p[0] = 'J' // what Get returns is the caller's
	t.get("branches/br-1/manifest", "hello")
}

func putReplaces(t *tester) {
	t.put("k", "a longer first body")
	t.put("k", "second")
	t.get("k", "second")
	t.put("k", "a much longer third body than any before")
	t.get("k", "a much longer third body than any before")
}

func putEmpty(t *tester) {
	t.put("empty", "")
	t.get("empty", "")
	n, info, err := t.s.ReadAt(t.ctx, "empty", make([]byte, 10), -5)
	if n != 0 || err != nil || info.Size != 0 || info.Tag == "" {
		t.Errorf("ReadAt of an empty object: got %d, %+v, %v", n, info, err)
	}
	infos := t.list("", "", 0, "empty")
	if infos[0].Size != 0 {
		t.Errorf("List: got %+v, want size 0", infos[0])
	}
	t.putErr("empty", "x", objstore.Condition{IfAbsent: true}, objstore.ErrExists)
	t.putIf("empty", "x", objstore.Condition{IfMatch: info.Tag})
	t.get("empty", "x")
	if _, err := t.s.Put(t.ctx, "nil", nil, objstore.Condition{}); err != nil {
		t.Errorf("Put of nil: %v", err)
	}
	t.get("nil", "")
}

func putLarge(t *tester) {
	const size = 16<<20 + 4097
	body := pattern(size, 1)
	tag, err := t.s.Put(t.ctx, "large", body, objstore.Condition{IfAbsent: true})
	if err != nil {
		t.Fatal(err)
	}
	got, info, err := t.s.Get(t.ctx, "large")
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, body) || info.Size != size || info.Tag != tag {
		t.Fatalf("Get: %d bytes, equal %v, %+v, want tag %q", len(got), bytes.Equal(got, body), info, tag)
	}
	if _, err := t.s.Put(t.ctx, "large", body, objstore.Condition{IfAbsent: true}); !errors.Is(err, objstore.ErrExists) {
		t.Fatalf("second Put: got error %v, want %v", err, objstore.ErrExists)
	}
	body[size/2] ^= 1
	tag2, err := t.s.Put(t.ctx, "large", body, objstore.Condition{IfMatch: tag})
	if err != nil {
		t.Fatal(err)
	}
	if tag2 == tag {
		t.Errorf("one flipped bit in %d bytes left the tag %q as it was", size, tag)
	}
}

func putRetainsNothing(t *tester) {
	body := []byte("before")
	if _, err := t.s.Put(t.ctx, "k", body, objstore.Condition{}); err != nil {
		t.Fatal(err)
	}
	copy(body, "after!")
	t.get("k", "before")
}

func keysValid(t *tester) {
	keys := []string{
		"a", "0", "-", "_", "a.b", "a..b", "a.", "a-", "-a", "_a/-b", "q/b/c/d/e/f/g",
		"x/a", "x/a.tmp", "x/a-1", "x/a0", "x/lock", "x/manifest", "names/p/main",
		"s/" + strings.Repeat("s", objstore.SegmentBytesMax),
		"k/" + strings.Repeat("a/", (objstore.KeyBytesMax-3)/2) + "k",
	}
	for _, k := range keys {
		t.put(k, "contents of "+k)
	}
	for _, k := range keys {
		t.get(k, "contents of "+k)
		t.delete(k)
		t.gone(k)
	}
}

func keysInvalid(t *tester) {
	for _, k := range []string{
		"", "/", "a/", "/a", "a//b", ".", "..", "a/.", "a/..", "a/../b", "./a", ".a", "a/.b",
		"A", "a b", "a\x00b", "a\nb", "a\\b", "ä", "a:b", "a*", "a%2e", "a+b", "~a", "a\x7f",
		strings.Repeat("a", objstore.SegmentBytesMax+1),
		strings.Repeat("a/", objstore.KeyBytesMax/2) + "a",
	} {
		want := objstore.ErrInvalidKey
		if _, err := t.s.Put(t.ctx, k, []byte("x"), objstore.Condition{}); !errors.Is(err, want) {
			t.Errorf("Put(%q): got error %v, want %v", k, err, want)
		}
		if _, _, err := t.s.Get(t.ctx, k); !errors.Is(err, want) {
			t.Errorf("Get(%q): got error %v, want %v", k, err, want)
		}
		if _, _, err := t.s.ReadAt(t.ctx, k, make([]byte, 1), 0); !errors.Is(err, want) {
			t.Errorf("ReadAt(%q): got error %v, want %v", k, err, want)
		}
		if err := t.s.Delete(t.ctx, k); !errors.Is(err, want) {
			t.Errorf("Delete(%q): got error %v, want %v", k, err, want)
		}
	}
	for _, prefix := range []string{"/", "../", "a/../", ".", "A", "a//"} {
		if _, err := t.s.List(t.ctx, prefix, "", 0); !errors.Is(err, objstore.ErrInvalidKey) {
			t.Errorf("List(%q): got error %v, want %v", prefix, err, objstore.ErrInvalidKey)
		}
	}
	t.list("", "", 0)
}

func readAt(t *tester) {
	const body = "0123456789"
	tag := t.put("k", body)
	for _, test := range []struct {
		length int
		off    int64
		want   string
	}{
		{10, 0, "0123456789"},
		{4, 0, "0123"},
		{4, 3, "3456"},
		{4, 6, "6789"},
		{4, 8, "89"},
		{100, 0, body},
		{100, 9, "9"},
		{4, 10, ""},
		{4, 11, ""},
		{4, 1 << 62, ""},
		{4, -4, "6789"},
		{4, -1, "9"},
		{2, -4, "67"},
		{10, -10, body},
		{4, -11, "0123"},
		{100, -100, body},
		{4, -1 << 63, "0123"},
		{0, 0, ""},
		{0, 5, ""},
		{0, -5, ""},
	} {
		p := bytes.Repeat([]byte{'.'}, test.length)
		n, info, err := t.s.ReadAt(t.ctx, "k", p, test.off)
		if err != nil || string(p[:n]) != test.want {
			t.Errorf("ReadAt %d bytes at %d: got %q, %v, want %q", test.length, test.off, p[:n], err, test.want)
		}
		if want := (objstore.Info{Key: "k", Size: 10, Tag: tag}); info != want {
			t.Errorf("ReadAt %d bytes at %d: got %+v, want %+v", test.length, test.off, info, want)
		}
	}
}

func readAtLarge(t *tester) {
	const size, part = 4<<20 + 123, 64 << 10
	body := pattern(size, 2)
	if _, err := t.s.Put(t.ctx, "seg", body, objstore.Condition{}); err != nil {
		t.Fatal(err)
	}
	errs := t.race(func(i int, s objstore.Store) error {
		p := make([]byte, part)
		for off := int64(i) * part / 3; off < size; off += racers * part / 2 {
			n, _, err := s.ReadAt(t.ctx, "seg", p, off)
			if err != nil {
				return err
			}
			if !bytes.Equal(p[:n], body[off:min(off+part, size)]) {
				return errors.New("wrong bytes")
			}
		}
		return nil
	})
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}

func readAtFollowsChanges(t *tester) {
	p := make([]byte, 6)
	for round := range 20 {
		w, r := t.store(round), t.store(round+1)
		body := pattern(100+round, uint32(round))
		if _, err := w.Put(t.ctx, "d/k", body, objstore.Condition{}); err != nil {
			t.Fatal(err)
		}
		for range 3 {
			n, info, err := r.ReadAt(t.ctx, "d/k", p, -6)
			if err != nil || !bytes.Equal(p[:n], body[len(body)-6:]) || info.Size != int64(len(body)) {
				t.Fatalf("round %d: tail is %x, %+v, %v, want %x", round, p[:n], info, err, body[len(body)-6:])
			}
		}
		if round%3 != 2 {
			continue
		}
		if err := w.Delete(t.ctx, "d/k"); err != nil {
			t.Fatal(err)
		}
		if _, _, err := r.ReadAt(t.ctx, "d/k", p, 0); !errors.Is(err, objstore.ErrNotExist) {
			t.Fatalf("round %d: ReadAt after Delete: got error %v, want %v", round, err, objstore.ErrNotExist)
		}
	}
}

func deletes(t *tester) {
	t.delete("never/was")
	t.put("a/b", "x")
	t.put("a/c", "y")
	t.delete("a/b")
	t.gone("a/b")
	t.get("a/c", "y")
	t.delete("a/b")
	t.delete("a")     // a directory, perhaps: not an object
	t.delete("a/c/d") // below an object
	t.delete("a/c/d/e")
	t.get("a/c", "y")
	t.delete("a/c")
	t.list("", "", 0)
	t.put("a/b", "again")
	t.get("a/b", "again")
}

func cancelled(t *tester) {
	t.put("k", "x")
	ctx, cancel := context.WithCancel(t.ctx)
	cancel()
	if _, _, err := t.s.Get(ctx, "k"); !errors.Is(err, context.Canceled) {
		t.Errorf("Get: got error %v, want %v", err, context.Canceled)
	}
	if _, _, err := t.s.ReadAt(ctx, "k", make([]byte, 1), 0); !errors.Is(err, context.Canceled) {
		t.Errorf("ReadAt: got error %v, want %v", err, context.Canceled)
	}
	if _, err := t.s.Put(ctx, "k", []byte("y"), objstore.Condition{}); !errors.Is(err, context.Canceled) {
		t.Errorf("Put: got error %v, want %v", err, context.Canceled)
	}
	if _, err := t.s.List(ctx, "", "", 0); !errors.Is(err, context.Canceled) {
		t.Errorf("List: got error %v, want %v", err, context.Canceled)
	}
	if err := t.s.Delete(ctx, "k"); !errors.Is(err, context.Canceled) {
		t.Errorf("Delete: got error %v, want %v", err, context.Canceled)
	}
	t.get("k", "x")
}
