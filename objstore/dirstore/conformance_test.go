package dirstore_test

import (
	"log/slog"
	"testing"

	"github.com/bough-db/bough/objstore"
	"github.com/bough-db/bough/objstore/dirstore"
	"github.com/bough-db/bough/objstore/storetest"
)

// open opens a store that is closed at the end of the test.
func open(t *testing.T, dir string, opts dirstore.Options) *dirstore.Store {
	t.Helper()
	if opts.Logger == nil {
		opts.Logger = slog.New(slog.DiscardHandler)
	}
	s, err := dirstore.Open(dir, opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

func TestConformance(t *testing.T) {
	for _, test := range []struct {
		name string
		opts dirstore.Options
	}{
		{"Shared", dirstore.Options{}},
		{"Exclusive", dirstore.Options{Exclusive: true}},
		{"ExclusiveOneFile", dirstore.Options{Exclusive: true, OpenFiles: 1}},
	} {
		t.Run(test.name, func(t *testing.T) {
			if test.opts.OpenFiles > 0 && testing.Short() {
				t.Skip("the same as Exclusive, with more opening")
			}
			storetest.Run(t, func(t *testing.T) objstore.Store { return open(t, t.TempDir(), test.opts) })
		})
	}
}

func TestConformanceSeveralStores(t *testing.T) {
	storetest.RunShared(t, func(t *testing.T) func() objstore.Store {
		dir := t.TempDir()
		return func() objstore.Store { return open(t, dir, dirstore.Options{}) }
	})
}
