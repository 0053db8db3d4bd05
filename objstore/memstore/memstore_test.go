package memstore_test

import (
	"errors"
	"testing"

	"github.com/bough-db/bough/objstore"
	"github.com/bough-db/bough/objstore/memstore"
	"github.com/bough-db/bough/objstore/storetest"
)

func TestConformance(t *testing.T) {
	storetest.Run(t, func(t *testing.T) objstore.Store { return memstore.New(memstore.Options{}) })
}

func TestFull(t *testing.T) {
	s := memstore.New(memstore.Options{BytesMax: 10})
	ctx := t.Context()
	put := func(key, body string) error {
		_, err := s.Put(ctx, key, []byte(body), objstore.Condition{})
		return err
	}
	if err := put("a", "12345678"); err != nil {
		t.Fatal(err)
	}
	if err := put("b", "123"); !errors.Is(err, objstore.ErrFull) {
		t.Fatalf("got error %v, want %v", err, objstore.ErrFull)
	}
	if err := put("a", "12345678901"); !errors.Is(err, objstore.ErrFull) {
		t.Fatalf("got error %v, want %v", err, objstore.ErrFull)
	}
	if n, bytes := s.Len(); n != 1 || bytes != 8 {
		t.Fatalf("%d objects with %d bytes, want 1 with 8", n, bytes)
	}
	if err := put("a", "1234567"); err != nil {
		t.Fatal(err)
	}
	if err := put("b", "123"); err != nil {
		t.Fatal(err)
	}
	if err := s.Delete(ctx, "a"); err != nil {
		t.Fatal(err)
	}
	if n, bytes := s.Len(); n != 1 || bytes != 3 {
		t.Fatalf("%d objects with %d bytes, want 1 with 3", n, bytes)
	}
}

func TestClone(t *testing.T) {
	s := memstore.New(memstore.Options{})
	ctx := t.Context()
	put := func(s *memstore.Store, key, body string) {
		t.Helper()
		if _, err := s.Put(ctx, key, []byte(body), objstore.Condition{}); err != nil {
			t.Fatal(err)
		}
	}
	put(s, "a", "1")
	put(s, "b", "2")
	c := s.Clone()
	put(s, "a", "changed")
	put(c, "c", "3")
	if err := s.Delete(ctx, "b"); err != nil {
		t.Fatal(err)
	}
	for key, want := range map[string]string{"a": "1", "b": "2", "c": "3"} {
		if p, _, err := c.Get(ctx, key); err != nil || string(p) != want {
			t.Errorf("clone: Get(%q): got %q, %v, want %q", key, p, err, want)
		}
	}
	if n, _ := s.Len(); n != 1 {
		t.Errorf("original has %d objects, want 1", n)
	}
}

func TestDirectoryPrefix(t *testing.T) {
	s := memstore.New(memstore.Options{})
	for _, step := range []struct {
		key  string
		want error
	}{
		{"a/b", nil},
		{"a", objstore.ErrInvalidKey},
		{"a/b/c", objstore.ErrInvalidKey},
		{"a/b/c/d", objstore.ErrInvalidKey},
		{"a-b", nil},
		{"a/b-c", nil},
	} {
		if _, err := s.Put(t.Context(), step.key, nil, objstore.Condition{}); !errors.Is(err, step.want) {
			t.Errorf("Put(%q): got error %v, want %v", step.key, err, step.want)
		}
	}
}
