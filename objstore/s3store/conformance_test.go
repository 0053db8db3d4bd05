package s3store_test

import (
	"fmt"
	"sync/atomic"
	"testing"

	"github.com/bough-db/bough/objstore"
	"github.com/bough-db/bough/objstore/s3store"
	"github.com/bough-db/bough/objstore/storetest"
	"github.com/bough-db/bough/test/s3server"
)

// open opens the store at url and closes it at the end of the test.
func open(t testing.TB, url string, opts s3store.Options) *s3store.Store {
	t.Helper()
	s, err := s3store.Open(t.Context(), url, opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func TestConformanceVersity(t *testing.T) {
	srv := s3server.ForTest(t)
	var n atomic.Int64
	prefix := func() string { return srv.URL(fmt.Sprintf("p/%d", n.Add(1))) }
	conformance(t, prefix)
}

// conformance runs the suite on stores at the URLs that place returns.
func conformance(t *testing.T, place func() string) {
	t.Run("Shared", func(t *testing.T) {
		storetest.RunShared(t, func(t *testing.T) func() objstore.Store {
			url := place()
			return func() objstore.Store { return open(t, url, s3store.Options{}) }
		})
	})
	if testing.Short() {
		return // the race detector sees no more in the rest
	}
	t.Run("Own", func(t *testing.T) {
		storetest.Run(t, func(t *testing.T) objstore.Store { return open(t, place(), s3store.Options{}) })
	})
}

func TestConformanceFake(t *testing.T) {
	endpoint := fakeServer(t)
	var n atomic.Int64
	prefix := func() string { return fmt.Sprintf("s3://bough/p/%d?endpoint=%s", n.Add(1), endpoint) }
	conformance(t, prefix)
}
