package s3store_test

import (
	"bytes"
	"net/url"
	"testing"
	"time"

	"github.com/bough-db/bough/objstore"
	"github.com/bough-db/bough/objstore/s3store"
	"github.com/bough-db/bough/test/netfault"
)

// TestPartition takes the line to the server away under reads, in each way that a line
// goes, and gives it back: the reads wait and succeed.
func TestPartition(t *testing.T) {
	endpoint, err := url.Parse(fakeServer(t))
	if err != nil {
		t.Fatal(err)
	}
	link, err := netfault.NewLink(endpoint.Host, netfault.Line{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := link.Close(); err != nil {
			t.Error(err)
		}
	}()
	s := open(t, "s3://bough/p?endpoint=http://"+link.Address(), s3store.Options{CallTime: 50 * time.Millisecond, HedgesMax: -1})
	body := bytes.Repeat([]byte("0123456789"), 2_000)
	if _, err := retried(t, func() (string, error) { return s.Put(t.Context(), "k", body, objstore.Condition{}) }); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		name string
		line netfault.Line
	}{
		{"blackhole", netfault.Line{Blackhole: true}},
		{"refused", netfault.Line{Refuse: true}},
		{"cut", netfault.Line{CutAfter: 10_000}},
		{"slow", netfault.Line{Down: time.Hour}},
	} {
		t.Run(test.name, func(t *testing.T) {
			before := s.Stats().Retries
			link.Set(test.line)
			if test.line.Refuse {
				link.Reset() // the connections that there are
			}
			done := make(chan error, 1)
			go func() {
				p := make([]byte, len(body))
				n, _, err := s.ReadAt(t.Context(), "k", p, 0)
				if err == nil && !bytes.Equal(p[:n], body) {
					t.Errorf("read %d wrong bytes", n)
				}
				done <- err
			}()
			tick := time.NewTicker(time.Millisecond)
			defer tick.Stop()
			for s.Stats().Retries < before+2 {
				select {
				case err := <-done:
					t.Fatalf("the read ended while the line was gone: %v", err)
				case <-tick.C:
				}
			}
			link.Set(netfault.Line{})
			link.Reset() // what is lost on the way stays lost
			if err := <-done; err != nil {
				t.Errorf("after the line was back: %v", err)
			}
		})
	}
}

// retried repeats a put until it succeeds: the machine may be too busy for the limits of
// this test.
func retried(t *testing.T, put func() (string, error)) (string, error) {
	t.Helper()
	for {
		tag, err := put()
		if err == nil || t.Context().Err() != nil {
			return tag, err
		}
	}
}
