package s3store_test

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/google/go-cmp/cmp"

	"github.com/bough-db/bough/objstore"
	"github.com/bough-db/bough/objstore/s3store"
	"github.com/bough-db/bough/test/s3fault"
)

// TestListPages: a listing of more than a page, and the pages are counted.
func TestListPages(t *testing.T) {
	sequential(t)
	inWorld(t, func(w *world) {
		const n = 2500
		for i := range n {
			w.stored(fmt.Sprintf("seg/%04d", i), "x")
		}
		infos, err := w.s.List(w.Context(), "seg/", "seg/0099", 2200)
		if err != nil || len(infos) != 2200 || infos[0].Key != "seg/0100" || infos[2199].Key != "seg/2299" {
			t.Errorf("List of 2200: %d, %v", len(infos), err)
		}
		if infos, err = w.s.List(w.Context(), "seg/", "seg/2299", 2200); err != nil || len(infos) != 200 {
			t.Errorf("List of the rest: %d, %v", len(infos), err)
		}
		if got := w.s.Stats().Pages; got != 2 {
			t.Errorf("%d further pages, want 2", got)
		}
		if got := w.trip.Requests(s3fault.List); got != 4 {
			t.Errorf("%d requests, want 4", got)
		}
	})
}

// TestListForeign: objects of others under the prefix, and the folders that consoles
// make, are passed over; a page of nothing else is no end.
func TestListForeign(t *testing.T) {
	inWorld(t, func(w *world) {
		up := open(t, "s3://bough?endpoint=http://s3.test", s3store.Options{Wrap: w.trip.Wrap})
		if _, err := up.Put(w.Context(), "p-not-below", nil, objstore.Condition{}); err != nil {
			t.Fatal(err)
		}
		for _, raw := range []string{"/bough/p/", "/bough/p/README.md", "/bough/p/a%20b", "/bough/p/sub/", "/bough/p/.hidden"} {
			req, err := http.NewRequestWithContext(w.Context(), http.MethodPut, "http://s3.test"+raw, nil)
			if err != nil {
				t.Fatal(err)
			}
			resp, err := w.trip.RoundTrip(req)
			if err != nil || resp.StatusCode != http.StatusOK {
				t.Fatalf("put %s: %v, %v", raw, resp, err)
			}
		}
		for _, limit := range []int{0, 1} {
			infos, err := w.s.List(w.Context(), "", "", limit)
			if err != nil || len(infos) != 1 || infos[0].Key != "k" {
				t.Errorf("List, %d at most: got %v, %v, want k", limit, infos, err)
			}
		}
	})
}

// canned answers every request with the same body.
type canned string

func (c canned) RoundTrip(r *http.Request) (*http.Response, error) {
	return &http.Response{
		StatusCode: http.StatusOK, Header: http.Header{"Content-Type": {"application/xml"}},
		ContentLength: int64(len(c)), Body: io.NopCloser(strings.NewReader(string(c))), Request: r,
	}, nil
}

// TestListNonsense: a listing that cannot be is an error, and ends.
func TestListNonsense(t *testing.T) {
	sequential(t)
	contents := func(keys ...string) string {
		var b strings.Builder
		for _, k := range keys {
			fmt.Fprintf(&b, "<Contents><Key>p/%s</Key><Size>1</Size><ETag>&quot;e&quot;</ETag></Contents>", k)
		}
		return b.String()
	}
	for _, test := range []struct{ name, body, want string }{
		{"nothing", "", "without saying whether there were more"},
		{"unsorted", contents("b", "a"), `not sorted: "p/a" came after "p/b"`},
		{"repeated", contents("a", "a"), "not sorted"},
		{"elsewhere", contents("../q"), ""},
		{"another prefix", "<Contents><Key>q/a</Key><Size>1</Size><ETag>e</ETag></Contents>", `it listed "q/a"`},
		{"no tag", "<Contents><Key>p/a</Key><Size>1</Size></Contents>", "without size or ETag"},
		{"no size", "<Contents><Key>p/a</Key><ETag>e</ETag></Contents>", "without size or ETag"},
		{"endless", "<IsTruncated>true</IsTruncated>", "it listed nothing and said that there was more"},
		{"the same for ever", "<IsTruncated>true</IsTruncated>" + contents("a"), "not sorted"},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				fakeHandler(t) // for the credentials
				s := open(t, "s3://bough/p?endpoint=http://s3.test", s3store.Options{Wrap: func(http.RoundTripper) http.RoundTripper {
					body := test.body
					if body != "" && !strings.Contains(body, "IsTruncated") {
						body = "<IsTruncated>false</IsTruncated>" + body
					}
					return canned("<ListBucketResult>" + body + "</ListBucketResult>")
				}})
				infos, err := s.List(t.Context(), "", "", 0)
				if test.want == "" {
					if diff := cmp.Diff([]objstore.Info(nil), infos); err != nil || diff != "" {
						t.Errorf("List: %v, %s", err, diff)
					}
					return
				}
				checkFinal(t, err, test.want)
			})
		})
	}
}

// TestListTruncated: a listing that breaks off, at whatever byte, is not taken for a
// shorter one, though its length is right.
func TestListTruncated(t *testing.T) {
	sequential(t)
	const whole = `<?xml version="1.0" encoding="UTF-8"?>
<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><Name>bough</Name><Prefix>p/</Prefix><KeyCount>2</KeyCount>` +
		`<MaxKeys>1000</MaxKeys><IsTruncated>false</IsTruncated>` +
		`<Contents><Key>p/a</Key><ETag>&quot;e&quot;</ETag><Size>1</Size></Contents>` +
		`<Contents><Key>p/b</Key><ETag>&quot;f&quot;</ETag><Size>2</Size></Contents></ListBucketResult>`
	synctest.Test(t, func(t *testing.T) {
		fakeHandler(t) // for the credentials
		var body canned
		s := open(t, "s3://bough/p?endpoint=http://s3.test", s3store.Options{
			RetryFor: 1, Wrap: func(http.RoundTripper) http.RoundTripper { return &body },
		})
		for n := range len(whole) {
			body = canned(whole[:n])
			if infos, err := s.List(t.Context(), "", "", 0); err == nil {
				t.Errorf("cut at byte %d, after %q: %v", n, whole[max(n-20, 0):n], infos)
			}
		}
		body = whole
		if infos, err := s.List(t.Context(), "", "", 0); err != nil || len(infos) != 2 {
			t.Errorf("whole: %v, %v", infos, err)
		}
	})
}
