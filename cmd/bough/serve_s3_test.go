package main

import (
	"errors"
	"fmt"
	"os"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/bough-db/bough/objstore"
	"github.com/bough-db/bough/objstore/s3store"
	"github.com/bough-db/bough/test/s3server"
)

// s3World is the S3 server of the scripts.
type s3World struct {
	*s3server.Server
	scripts atomic.Int64
}

// s3ForScripts starts the server, or returns nil where it is not built.
func s3ForScripts(t *testing.T) *s3World {
	t.Helper()
	srv, err := s3server.Start(t.Context(), s3server.Options{})
	if errors.Is(err, s3server.ErrNotBuilt) && os.Getenv("BOUGH_VERSITYGW") == "" {
		return nil
	}
	if err != nil {
		t.Fatal(err)
	}
	w := &s3World{Server: srv}
	t.Cleanup(func() {
		if err := srv.Close(); err != nil {
			t.Error(err)
		}
	})
	s3server.Setenv(t, srv)
	foreign, err := s3store.Open(t.Context(), srv.URL("foreign"), s3store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := foreign.Put(t.Context(), "a/file", nil, objstore.Condition{}); err != nil {
		t.Fatal(err)
	}
	if err := foreign.Close(); err != nil {
		t.Fatal(err)
	}
	return w
}

// setup gives a script a store of its own.
func (w *s3World) setup(env *testscript.Env) {
	env.Vars = append(env.Vars, w.Env()...)
	url := w.URL(fmt.Sprintf("script/%d", w.scripts.Add(1)))
	env.Setenv("S3URL", url)
	env.Setenv("S3NOBUCKET", "s3://nobucket/p?endpoint="+w.Endpoint())
	env.Setenv("S3FOREIGN", w.URL("foreign"))
}

// quiet is the command of scripts "quiet TIME": nobody asks the server for anything.
func (w *s3World) quiet(ts *testscript.TestScript, _ bool, args []string) {
	if w == nil || len(args) != 1 {
		ts.Fatalf("usage: quiet TIME, with the S3 server")
	}
	d, err := time.ParseDuration(args[0])
	ts.Check(err)
	before, err := w.Requests()
	ts.Check(err)
	<-time.After(d)
	after, err := w.Requests()
	ts.Check(err)
	if len(after) != len(before) {
		ts.Fatalf("%d requests meanwhile, the first one: %s", len(after)-len(before), after[len(before)])
	}
}
