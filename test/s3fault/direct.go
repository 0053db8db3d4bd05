package s3fault

import (
	"net/http"
	"net/http/httptest"
	"strconv"
)

// direct is a transport without a network.
type direct struct{ handler http.Handler }

// Direct returns a transport that lets the handler answer in memory, in the goroutine of
// the caller.
func Direct(handler http.Handler) http.RoundTripper { return direct{handler} }

// RoundTrip lets the handler answer.
func (d direct) RoundTrip(r *http.Request) (*http.Response, error) {
	if err := r.Context().Err(); err != nil {
		return nil, closing(r, err)
	}
	body, err := drain(r)
	if err != nil {
		return nil, err
	}
	in := withBody(r, body)
	in.RequestURI = r.URL.RequestURI()
	// On the wire a length is a header, and some handlers look for it there.
	in.Header.Set("Content-Length", strconv.Itoa(len(body)))
	if in.Host == "" {
		in.Host = r.URL.Host
	}
	w := httptest.NewRecorder()
	d.handler.ServeHTTP(w, in)
	resp := w.Result()
	resp.Request = r
	return resp, nil
}
