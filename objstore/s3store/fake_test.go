package s3store_test

import (
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/johannesboyne/gofakes3"
	"github.com/johannesboyne/gofakes3/backend/s3mem"
)

// fakeHandler returns an S3 server in memory, with a bucket "bough", and makes
// credentials that it takes. (It takes any.)
func fakeHandler(t testing.TB) http.Handler {
	t.Helper()
	t.Setenv("AWS_ACCESS_KEY_ID", "fake")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "fake")
	backend := s3mem.New()
	if err := backend.CreateBucket("bough"); err != nil {
		t.Fatal(err)
	}
	return gofakes3.New(backend).Server()
}

// fakeServer serves fakeHandler over HTTP and returns its base URL.
func fakeServer(t testing.TB) string {
	t.Helper()
	srv := httptest.NewUnstartedServer(fakeHandler(t))
	srv.Config.ErrorLog = log.New(io.Discard, "", 0) // it answers some requests twice, and the server says so
	srv.Start()
	t.Cleanup(srv.Close)
	return srv.URL
}
