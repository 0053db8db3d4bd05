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
