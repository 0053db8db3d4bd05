package s3fault

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// server notes what it was asked, and answers with body.
type server struct {
	body string

	mu   sync.Mutex
	seen []string
}

func (s *server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	p, _ := io.ReadAll(r.Body)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.seen = append(s.seen, fmt.Sprintf("%s %s %d %s%s", r.Method, r.URL.Path, len(p), r.Header.Get("Range"), r.Header.Get("If-Match")))
	if bytes.ContainsFunc(p, func(r rune) bool { return r != 'x' }) {
		s.seen = append(s.seen, "damaged")
	}
	w.Header().Set("X-Amz-Checksum-Crc32c", "AAAAAA==")
	if r.Header.Get("Range") != "" {
		w.Header().Set("Content-Range", fmt.Sprintf("bytes 0-%d/100", len(s.body)-1))
		w.WriteHeader(http.StatusPartialContent)
	}
	if r.Method == http.MethodGet {
		fmt.Fprint(w, s.body, r.URL.Query().Get("n"))
	}
}

func (s *server) asked() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return strings.Join(s.seen, "; ")
}

// ask makes a request and returns the status and body of the answer, or an error.
func ask(ctx context.Context, t *testing.T, trip http.RoundTripper, method, target, body string) (*http.Response, string, error) {
	t.Helper()
	req, err := http.NewRequestWithContext(ctx, method, "http://s3.test"+target, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	if method == http.MethodGet && !strings.Contains(target, "list-type") {
		req.Header.Set("Range", "bytes=0-9")
	}
	if method == http.MethodPut {
		req.Header.Set("If-Match", "tag")
	}
	resp, err := trip.RoundTrip(req)
	if err != nil {
		return nil, "", err
	}
	got, err := io.ReadAll(resp.Body)
	return resp, string(got), err
}

const answered = "0123456789"

// TestFaults lets a PUT and a GET meet every fault: what the server has seen, and what the
// client has got.
func TestFaults(t *testing.T) {
	gone := context.DeadlineExceeded
	for _, test := range []struct {
		fault  Fault
		put    bool // a PUT; else a GET
		status int
		err    error
		seen   string
	}{
		{None, true, 200, nil, "PUT /b/k 100 tag"},
		{None, false, 206, nil, "GET /b/k 0 bytes=0-9"},
		{Internal, true, 500, nil, ""},
		{SlowDown, false, 503, nil, ""},
		{Conflict, true, 409, nil, ""},
		{Refused, true, 412, nil, ""},
		{Denied, false, 403, nil, ""},
		{Expired, true, 400, nil, ""},
		{Skewed, true, 403, nil, ""},
		{NoBucket, false, 404, nil, ""},
		{Elsewhere, false, 301, nil, ""},
		{NotS3, false, 404, nil, ""},
		{Hang, true, 0, gone, ""},
		{Unreached, true, 0, syscall.ECONNREFUSED, ""},
		{ResetRequest, true, 0, syscall.ECONNRESET, ""},
		{InternalAfter, true, 500, nil, "PUT /b/k 100 tag"},
		{Lost, true, 0, gone, "PUT /b/k 100 tag"},
		{ResetAfter, true, 0, syscall.ECONNRESET, "PUT /b/k 100 tag"},
		{Late, true, 0, gone, "PUT /b/k 100 tag"},
		{ResetResponse, false, 206, syscall.ECONNRESET, "GET /b/k 0 bytes=0-9"},
		{ShortBody, false, 206, io.ErrUnexpectedEOF, "GET /b/k 0 bytes=0-9"},
		{Truncated, false, 206, nil, "GET /b/k 0 bytes=0-9"},
		{FlipBit, false, 206, nil, "GET /b/k 0 bytes=0-9"},
		{FlipRequest, true, 200, nil, "PUT /b/k 100 tag; damaged"},
		{WrongChecksum, false, 206, nil, "GET /b/k 0 bytes=0-9"},
		{WrongRange, false, 206, nil, "GET /b/k 0 bytes=0-9"},
		{IgnoreRange, false, 200, nil, "GET /b/k 0 "},
		{IgnoreCondition, true, 200, nil, "PUT /b/k 100 "},
		{SlowBody, false, 206, nil, "GET /b/k 0 bytes=0-9"},
	} {
		t.Run(string(test.fault), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				srv := &server{body: answered}
				trip := ForTest(t, Direct(srv))
				trip.Add(Rule{Fault: test.fault})
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
				defer cancel()
				method, body := http.MethodGet, ""
				if test.put {
					method, body = http.MethodPut, strings.Repeat("x", 100)
				}
				resp, got, err := ask(ctx, t, trip, method, "/b/k", body)
				if !errors.Is(err, test.err) || resp != nil && resp.StatusCode != test.status || resp == nil && test.status != 0 {
					t.Errorf("got %v, error %v, want %d, %v", resp, err, test.status, test.err)
				}
				trip.Settle()
				if srv.asked() != test.seen {
					t.Errorf("the server has seen %q, want %q", srv.asked(), test.seen)
				}
				if spoils := map[Fault]bool{ResetResponse: true, ShortBody: true, Truncated: true, FlipBit: true}[test.fault]; test.status == 206 && (got == answered) == spoils {
					t.Errorf("the body is %q", got)
				}
				if test.fault != None && trip.Met(test.fault) != 1 {
					t.Errorf("met %d times", trip.Met(test.fault))
				}
				// The next one meets nothing.
				if resp, _, err := ask(t.Context(), t, trip, http.MethodPut, "/b/k", "x"); err != nil || resp.StatusCode != 200 {
					t.Errorf("the next one: %v, %v", resp, err)
				}
			})
		})
	}
}

// TestLateComesLater: the server sees a late request after the client has given up, and
// after its wait.
func TestLateComesLater(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := new(server)
		trip := ForTest(t, Direct(srv))
		trip.Add(Rule{Op: Put, Fault: Late, Wait: Pause(time.Hour)})
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		begun := time.Now()
		if _, _, err := ask(ctx, t, trip, http.MethodPut, "/b/k", "x"); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got error %v", err)
		}
		if srv.asked() != "" {
			t.Errorf("the server has seen %q already", srv.asked())
		}
		trip.Settle()
		if took := time.Since(begun); took != time.Hour+time.Minute || srv.asked() == "" {
			t.Errorf("it came after %v: %q", took, srv.asked())
		}
	})
}

// TestRules: which requests a rule chooses.
func TestRules(t *testing.T) {
	trip := ForTest(t, Direct(&server{body: answered}))
	trip.Add(Rule{Op: Get, Key: "manifest", Nth: 2, Times: 2, Fault: SlowDown})
	trip.Add(Rule{Op: List, Times: -1, Fault: Internal})
	trip.Add(Rule{Op: Delete, Fault: Denied})
	trip.Add(Rule{Op: Head, Fault: NoBucket})
	for i, test := range []struct {
		method, target string
		status         int
	}{
		{"GET", "/b/manifest", 206},
		{"GET", "/b/other", 206},
		{"PUT", "/b/manifest", 200},
		{"GET", "/b/x/manifest", 503},
		{"GET", "/b/manifest", 503},
		{"GET", "/b/manifest", 206},
		{"GET", "/b?list-type=2", 500},
		{"GET", "/b?list-type=2", 500},
		{"DELETE", "/b/k", 403},
		{"DELETE", "/b/k", 200},
		{"HEAD", "/b/k", 404},
		{"HEAD", "/b/k", 200},
	} {
		resp, _, err := ask(t.Context(), t, trip, test.method, test.target, "")
		if err != nil || resp.StatusCode != test.status {
			t.Errorf("%d, %s %s: %v, %v, want %d", i, test.method, test.target, resp, err, test.status)
		}
	}
	if trip.Requests(Any) != 12 || trip.Requests(Get) != 5 || trip.Requests(List) != 2 {
		t.Errorf("counted %d, %d, %d", trip.Requests(Any), trip.Requests(Get), trip.Requests(List))
	}
	trip.Heal()
	if resp, _, err := ask(t.Context(), t, trip, "GET", "/b?list-type=2", ""); err != nil || resp.StatusCode != 200 {
		t.Errorf("after Heal: %v, %v", resp, err)
	}
}

// TestStale: the listing of a moment ago, of the same question.
func TestStale(t *testing.T) {
	srv := &server{body: "old "}
	trip := ForTest(t, Direct(srv))
	want := func(target, want string) {
		t.Helper()
		if _, got, err := ask(t.Context(), t, trip, "GET", target, ""); err != nil || got != want {
			t.Errorf("%s: %q, %v, want %q", target, got, err, want)
		}
	}
	want("/b?list-type=2&n=1", "old 1")
	srv.body = "new "
	trip.Add(Rule{Op: List, Times: 2, Fault: StaleList})
	want("/b?list-type=2&n=1", "old 1")
	want("/b?list-type=2&n=2", "new 2") // never asked before
	want("/b?list-type=2&n=1", "new 1")
}

// TestSeed: the same seed gives the same faults, and another one others.
func TestSeed(t *testing.T) {
	run := func(seed uint64) string {
		trip := New(Direct(&server{body: answered}), seed)
		trip.SetRates(Rate{Op: Get, Fault: Internal, P: 0.3}, Rate{Op: Get, Fault: FlipBit, P: 0.3}, Rate{Op: Put, Fault: Internal, P: 1})
		var all []string
		for range 50 {
			resp, got, err := ask(t.Context(), t, trip, "GET", "/b/k", "")
			if err != nil {
				t.Fatal(err)
			}
			if resp.StatusCode == 500 {
				got = "500"
			}
			all = append(all, got)
		}
		if n := trip.Met(Internal); n < 3 || n > 35 {
			t.Errorf("seed %d: 500 at a rate of 0.3 came %d times of 50", seed, n)
		}
		return strings.Join(all, "\n")
	}
	one := run(1)
	if run(1) != one {
		t.Error("the same seed gave other faults")
	}
	if run(2) == one {
		t.Error("another seed gave the same faults")
	}
}
