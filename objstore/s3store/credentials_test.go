package s3store_test

import (
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/bough-db/bough/objstore"
	"github.com/bough-db/bough/objstore/s3store"
	"github.com/bough-db/bough/test/s3fault"
)

// guard is a transport in front of a server that knows one access key.
type guard struct {
	http.RoundTripper
	refuse http.RoundTripper

	mu   sync.Mutex
	key  string
	seen int // requests that were let through
}

func (g *guard) RoundTrip(r *http.Request) (*http.Response, error) {
	g.mu.Lock()
	ok := strings.Contains(r.Header.Get("Authorization"), "Credential="+g.key+"/")
	if ok {
		g.seen++
	}
	g.mu.Unlock()
	if ok {
		return g.RoundTripper.RoundTrip(r)
	}
	return g.refuse.RoundTrip(r)
}

func (g *guard) setKey(key string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.key = key
}

// inGuardedWorld runs f with a store whose credentials are in a file, which write
// replaces, in front of a server that knows the key "one".
func inGuardedWorld(t *testing.T, f func(t *testing.T, s *s3store.Store, g *guard, write func(key string))) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "credentials")
	synctest.Test(t, func(t *testing.T) {
		handler := fakeHandler(t)
		for _, name := range []string{"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"} {
			t.Setenv(name, "")
		}
		t.Setenv("AWS_SHARED_CREDENTIALS_FILE", file)
		t.Setenv("AWS_CONFIG_FILE", "/dev/null")
		t.Setenv("AWS_EC2_METADATA_DISABLED", "true")
		write := func(key string) {
			t.Helper()
			text := "[bough]\naws_access_key_id = " + key + "\naws_secret_access_key = hush-hush\n"
			if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		write("one")
		refuse := s3fault.New(nil, 0)
		refuse.SetRates(s3fault.Rate{Fault: s3fault.Expired, P: 1})
		g := &guard{RoundTripper: s3fault.Direct(handler), refuse: refuse, key: "one"}
		s := open(t, "s3://bough?endpoint=http://s3.test&profile=bough", s3store.Options{
			RetryFor: retryFor, Wrap: func(http.RoundTripper) http.RoundTripper { return g },
		})
		f(t, s, g, write)
	})
}

// TestKeysAreReplaced: credentials that are replaced in the shared file are found, at
// once or when they are there.
func TestKeysAreReplaced(t *testing.T) {
	inGuardedWorld(t, func(t *testing.T, s *s3store.Store, g *guard, write func(string)) {
		put := func(key string) error {
			_, err := s.Put(t.Context(), key, []byte("x"), objstore.Condition{IfAbsent: true})
			return err
		}
		if err := put("a"); err != nil {
			t.Fatal(err)
		}
		g.setKey("two")
		write("two")
		if err := put("b"); err != nil {
			t.Errorf("after the file was changed: %v", err)
		}
		// The server is quicker: whoever calls meanwhile waits.
		g.setKey("three")
		var wg sync.WaitGroup
		for _, key := range []string{"c", "d", "e"} {
			wg.Go(func() {
				if err := put(key); err != nil {
					t.Errorf("while the file was being changed: %v", err)
				}
			})
		}
		wait := time.NewTimer(retryFor / 2)
		<-wait.C
		write("three")
		wg.Wait()
	})
}

// TestKeysStayWrong: the error of credentials that are refused says so. It comes at
// once if they never were right.
func TestKeysStayWrong(t *testing.T) {
	inGuardedWorld(t, func(t *testing.T, s *s3store.Store, g *guard, write func(string)) {
		write("nobody")
		begun := time.Now()
		_, _, err := s.Get(t.Context(), "k")
		checkFinal(t, err, "400 ExpiredToken: The provided token has expired. (request FAULT): get new credentials")
		if took := time.Since(begun); took > time.Second {
			t.Errorf("it took %v to say so", took)
		}
		write("one")
		wait := time.NewTimer(5 * time.Second) // it does not look all the time
		<-wait.C
		if err := s.Delete(t.Context(), "k"); err != nil {
			t.Fatal(err)
		}
		g.setKey("two")
		_, err = s.Put(t.Context(), "k", nil, objstore.Condition{})
		checkFinal(t, err, "get new credentials")
		if strings.Contains(err.Error(), "hush") {
			t.Errorf("error has a secret: %v", err)
		}
	})
}

// TestNoKeys: the error says where credentials may be.
func TestNoKeys(t *testing.T) {
	inGuardedWorld(t, func(t *testing.T, s *s3store.Store, _ *guard, write func(string)) {
		write("")
		_, _, err := s.Get(t.Context(), "k")
		checkFinal(t, err, "no credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or write them into ~/.aws/credentials")
		_, err = s.Put(t.Context(), "k", nil, objstore.Condition{})
		checkFinal(t, err, "no credentials: ")
	})
}

// TestOpenErrors: what is missing shows when the store is opened.
func TestOpenErrors(t *testing.T) {
	t.Setenv("AWS_CONFIG_FILE", "/dev/null")
	t.Setenv("AWS_SHARED_CREDENTIALS_FILE", "/dev/null")
	t.Setenv("AWS_REGION", "")
	t.Setenv("AWS_DEFAULT_REGION", "")
	for _, test := range []struct{ url, want string }{
		{"s3://bucket/p", "no region for s3://bucket/p: add ?region=NAME to the URL, or set AWS_REGION"},
		{"s3://bucket/p?profile=nobody", "nobody"},
		{"s3://b", "3 to 63"},
	} {
		_, err := s3store.Open(t.Context(), test.url, s3store.Options{})
		checkFinal(t, err, test.want)
	}
}
