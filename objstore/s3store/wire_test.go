package s3store_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/pem"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/bough-db/bough/objstore"
	"github.com/bough-db/bough/objstore/s3store"
	"github.com/bough-db/bough/test/s3fault"
)

// TestIdle: a store that nobody calls makes no requests, for a day (I8).
func TestIdle(t *testing.T) {
	inWorld(t, func(w *world) {
		for _, c := range calls {
			if _, err := c.call(w); err != nil {
				t.Fatal(err)
			}
		}
		before := w.trip.Requests(s3fault.Any)
		day := time.NewTimer(24 * time.Hour)
		<-day.C
		if n := w.trip.Requests(s3fault.Any) - before; n != 0 {
			t.Errorf("%d requests on a quiet day", n)
		}
	})
}

// TestOpenAsksNothing: opening a store makes no request.
func TestOpenAsksNothing(t *testing.T) {
	inWorld(t, func(w *world) {
		if n := w.trip.Requests(s3fault.Any); n != 0 {
			t.Errorf("%d requests before the first call", n)
		}
	})
}

// early is a transport that answers before it has read the body, and goes on reading
// when the caller is long gone.
type early struct {
	gone chan struct{}
	read chan int64
}

func (e early) RoundTrip(r *http.Request) (*http.Response, error) {
	go func() {
		<-e.gone
		n, _ := io.Copy(io.Discard, r.Body) // an error is what it is to meet
		e.read <- n
	}()
	return &http.Response{
		StatusCode: http.StatusPreconditionFailed, Header: http.Header{}, Request: r,
		Body: io.NopCloser(bytes.NewReader(nil)),
	}, nil
}

// TestPutRetainsNothing: a connection that still reads the body when the put has
// returned gets none of the caller's buffer.
func TestPutRetainsNothing(t *testing.T) {
	fakeHandler(t) // for the credentials
	e := early{make(chan struct{}), make(chan int64)}
	s := open(t, "s3://bough?endpoint=http://s3.test", s3store.Options{Wrap: func(http.RoundTripper) http.RoundTripper { return e }})
	body := bytes.Repeat([]byte("x"), 1<<20)
	if _, err := s.Put(t.Context(), "k", body, objstore.Condition{IfAbsent: true}); err == nil {
		t.Error("Put succeeded")
	}
	close(e.gone)
	clear(body) // the race detector watches
	if n := <-e.read; n != 0 {
		t.Errorf("%d bytes were read after the put", n)
	}
}

// TestSignedOverTLS: over TLS, too, the body of a put is under the signature, with its
// checksum and length in headers and nothing around it. The certificate is found
// where AWS_CA_BUNDLE says.
func TestSignedOverTLS(t *testing.T) {
	var mu sync.Mutex
	var got *http.Request
	var body []byte
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		got = r
		body, _ = io.ReadAll(r.Body)
		w.Header().Set("ETag", `"tag"`)
	}))
	srv.Config.ErrorLog = log.New(io.Discard, "", 0) // it will say that a client does not trust it
	srv.StartTLS()
	defer srv.Close()
	fakeHandler(t) // for the credentials
	bundle := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(bundle, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: srv.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	url := "s3://bough/p?endpoint=" + srv.URL
	unknown := open(t, url, s3store.Options{})
	_, err := unknown.Put(t.Context(), "k", []byte("hello"), objstore.Condition{})
	checkFinal(t, err, "is its certificate known here (AWS_CA_BUNDLE)?")

	t.Setenv("AWS_CA_BUNDLE", bundle)
	s := open(t, url, s3store.Options{})
	tag, err := s.Put(t.Context(), "k", []byte("hello"), objstore.Condition{IfMatch: "old"})
	if err != nil || tag != "tag" {
		t.Fatalf("Put: %q, %v", tag, err)
	}
	mu.Lock()
	defer mu.Unlock()
	sum := sha256.Sum256([]byte("hello"))
	for name, want := range map[string]string{
		"X-Amz-Content-Sha256":  hex.EncodeToString(sum[:]),
		"X-Amz-Checksum-Crc32c": "mnG7TA==",
		"Content-Encoding":      "",
		"If-Match":              `"old"`,
		"If-None-Match":         "",
	} {
		if have := got.Header.Get(name); have != want {
			t.Errorf("%s is %q, want %q", name, have, want)
		}
	}
	if got.ContentLength != 5 || string(body) != "hello" || got.URL.Path != "/bough/p/k" {
		t.Errorf("%d bytes at %s: %q", got.ContentLength, got.URL.Path, body)
	}
}
