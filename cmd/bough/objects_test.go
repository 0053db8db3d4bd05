package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"syscall"
	"testing"

	"github.com/johannesboyne/gofakes3"
	"github.com/johannesboyne/gofakes3/backend/s3mem"

	"github.com/bough-db/bough/objstore"
	"github.com/bough-db/bough/objstore/s3store"
)

// carelessServer is an S3 server in memory that ignores the headers that are named.
func carelessServer(t *testing.T, ignored ...string) (url string) {
	t.Helper()
	t.Setenv("AWS_ACCESS_KEY_ID", "fake")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "fake")
	backend := s3mem.New()
	if err := backend.CreateBucket("bough"); err != nil {
		t.Fatal(err)
	}
	handler := gofakes3.New(backend).Server()
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPut {
			for _, name := range ignored {
				r.Header.Del(name)
			}
		}
		handler.ServeHTTP(w, r)
	}))
	srv.Config.ErrorLog = log.New(io.Discard, "", 0)
	srv.Start()
	t.Cleanup(srv.Close)
	return "s3://bough/p?endpoint=" + srv.URL
}

// TestUnfitStores: a server that ignores a condition is refused by serve, and store check
// says which.
func TestUnfitStores(t *testing.T) {
	for _, test := range []struct {
		ignored []string
		failed  []string
	}{
		{nil, nil},
		{[]string{"If-None-Match"}, []string{"refuses to create it twice", "lets one of 8 concurrent creates win"}},
		{[]string{"If-Match"}, []string{"refuses a stale tag", "refuses a tag where there is no object", "lets one of 8 concurrent replaces win"}},
	} {
		t.Run(strings.Join(test.ignored, ","), func(t *testing.T) {
			url := carelessServer(t, test.ignored...)
			s, err := openS3(t.Context(), url, slog.New(slog.DiscardHandler))
			if len(test.failed) == 0 {
				if err != nil {
					t.Fatal(err)
				}
				if err := s.Close(); err != nil {
					t.Error(err)
				}
			} else if !errors.Is(err, objstore.ErrUnfit) || s != nil {
				t.Errorf("openS3: got %v, error %v, want %v", s, err, objstore.ErrUnfit)
			}

			var out, errOut bytes.Buffer
			a := newTestApp("store", "check", "--json", url)
			a.out, a.err = &out, &errOut
			if code, want := run(a), min(len(test.failed), 1); code != want {
				t.Errorf("store check: exit code %d, want %d: %s", code, want, errOut.String())
			}
			var answer checkedStore
			if err := json.Unmarshal(out.Bytes(), &answer); err != nil {
				t.Fatalf("%v: %s", err, out.String())
			}
			var failed []string
			damage := ""
			for _, c := range answer.Checks {
				if c.Result == resultFailed {
					failed = append(failed, c.Check)
				}
				if strings.Contains(c.Check, "damaged") {
					damage = c.Result
				}
			}
			if strings.Join(failed, "; ") != strings.Join(test.failed, "; ") || answer.Fit != (len(failed) == 0) {
				t.Errorf("fit %v, failed: %q, want %q", answer.Fit, failed, test.failed)
			}
			if damage != resultMissing { // gofakes3 takes what is damaged
				t.Errorf("damaged body: %q", damage)
			}
		})
	}
}

// TestProbeLeavesNothing: what was tried out is as empty as before, and counts as such.
func TestProbeLeavesNothing(t *testing.T) {
	url := carelessServer(t)
	for range 2 {
		s, err := openS3(t.Context(), url, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		if infos, err := s.List(t.Context(), "", "", 0); err != nil || len(infos) != 0 {
			t.Errorf("after the probe: %v, %v", infos, err)
		}
		// What a probe leaves that is killed is in nobody's way.
		if _, err := s.Put(t.Context(), probePrefix()+"/object/1", nil, objstore.Condition{}); err != nil {
			t.Fatal(err)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		s, err = openS3(t.Context(), url, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatalf("after a probe that was killed: %v", err)
		}
		infos, err := s.List(t.Context(), probeDir, "", 0)
		if err != nil || len(infos) != 1 {
			t.Fatalf("List: %v, %v", infos, err)
		}
		if err := errors.Join(s.Delete(t.Context(), infos[0].Key), s.Close()); err != nil {
			t.Fatal(err)
		}
	}
}

// TestOpenObjects: a location is a directory or a URL, and nothing comes with an error.
func TestOpenObjects(t *testing.T) {
	t.Setenv("AWS_REGION", "us-east-1")
	for _, test := range []struct {
		location string
		want     error
	}{
		{t.TempDir(), nil},
		{"s3://bucket/p", nil},
		{"s3://bucket/p?x=y", s3store.ErrURL},
		{"gs://bucket/p", s3store.ErrURL},
		{"/dev/null/x", syscall.ENOTDIR},
	} {
		s, err := openObjects(context.Background(), test.location, objectOptions{logger: slog.New(slog.DiscardHandler)})
		if test.want == nil {
			if err != nil {
				t.Errorf("%s: %v", test.location, err)
				continue
			}
			if err := s.Close(); err != nil {
				t.Errorf("%s: %v", test.location, err)
			}
			continue
		}
		if s != nil || !errors.Is(err, test.want) {
			t.Errorf("%s: got %v, error %v, want %v", test.location, s, err, test.want)
		}
	}
}
