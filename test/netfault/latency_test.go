package netfault

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"
)

// TestLatency sends many requests at once: each waits as long as its kind does, none
// waits for another, and all are counted.
func TestLatency(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		p, _ := io.ReadAll(r.Body)
		fmt.Fprintf(w, "%s %s %d", r.Method, r.Host, len(p))
	}))
	defer server.Close()
	const get, put = 20 * time.Millisecond, 35 * time.Millisecond
	l, err := NewLatency(server.Listener.Addr().String(), get, put)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	}()
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 100}}
	defer client.CloseIdleConnections()
	ask := func(method, path string, body []byte, least time.Duration) {
		req, err := http.NewRequestWithContext(context.Background(), method, "http://"+l.Address()+path, bytes.NewReader(body))
		if err != nil {
			t.Error(err)
			return
		}
		began := time.Now()
		resp, err := client.Do(req)
		if err != nil {
			t.Error(err)
			return
		}
		defer resp.Body.Close()
		got, err := io.ReadAll(resp.Body)
		if want := fmt.Sprintf("%s %s %d", method, l.Address(), len(body)); err != nil || string(got) != want {
			t.Errorf("answer %q, %v, want %q", got, err, want)
		}
		if took := time.Since(began); took < least {
			t.Errorf("%s took %v, less than %v", method, took, least)
		}
	}
	const each = 40
	var all sync.WaitGroup
	for range each {
		all.Go(func() { ask(http.MethodGet, "/x", nil, get) })
		all.Go(func() { ask(http.MethodPut, "/x", make([]byte, 1000), put) })
		all.Go(func() { ask(http.MethodGet, "/?list-type=2", nil, get) })
	}
	all.Wait()
	c := l.Counts()
	if c.Gets != each || c.Puts != 2*each || c.SentBytes != each*1000 || c.ReceivedBytes == 0 {
		t.Errorf("counted %+v", c)
	}
	l.Set(0, 0)
	ask(http.MethodGet, "/x", nil, 0)
}

// TestLatencyPassesAll: answers in chunks, to HEAD, before the body, and without one.
func TestLatencyPassesAll(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/chunks":
			for range 3 {
				fmt.Fprint(w, "chunk ")
				w.(http.Flusher).Flush()
			}
		case "/head":
			w.Header().Set("Content-Length", "1000")
		case "/refuse": // without a look at the body
			w.WriteHeader(http.StatusPreconditionFailed)
		case "/gone":
			w.WriteHeader(http.StatusNoContent)
		case "/take":
			n, _ := io.Copy(io.Discard, r.Body)
			fmt.Fprint(w, n)
		}
	}))
	defer server.Close()
	l, err := NewLatency(server.Listener.Addr().String(), 0, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	}()
	client := &http.Client{Transport: &http.Transport{ExpectContinueTimeout: time.Hour}}
	defer client.CloseIdleConnections()
	for range 3 { // over the same connections
		for _, test := range []struct {
			method, path string
			body         int
			expect       bool
			status       int
			want         string
		}{
			{"GET", "/chunks", 0, false, 200, "chunk chunk chunk "},
			{"HEAD", "/head", 0, false, 200, ""},
			{"PUT", "/refuse", 4 << 20, true, 412, ""},
			{"PUT", "/take", 4 << 20, true, 200, "4194304"},
			{"PUT", "/take", 4<<20 + 1, false, 200, "4194305"},
			{"PUT", "/take", 0, false, 200, "0"},
			{"DELETE", "/gone", 0, false, 204, ""},
			{"GET", "/empty", 0, false, 200, ""},
		} {
			req, err := http.NewRequestWithContext(t.Context(), test.method, "http://"+l.Address()+test.path, bytes.NewReader(make([]byte, test.body)))
			if err != nil {
				t.Fatal(err)
			}
			if test.expect {
				req.Header.Set("Expect", "100-continue")
			}
			resp, err := client.Do(req)
			if err != nil {
				t.Fatalf("%s %s: %v", test.method, test.path, err)
			}
			got, err := io.ReadAll(resp.Body)
			if err != nil || string(got) != test.want || resp.StatusCode != test.status {
				t.Errorf("%s %s: %d %q, %v, want %d %q", test.method, test.path, resp.StatusCode, got, err, test.status, test.want)
			}
			if err := resp.Body.Close(); err != nil {
				t.Error(err)
			}
		}
	}
}
