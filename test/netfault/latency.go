package netfault

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"sync/atomic"
	"time"
)

// Latency is an HTTP proxy in front of one server. Its methods may be called
// concurrently.
type Latency struct {
	listener  net.Listener
	server    *http.Server
	transport *http.Transport
	proxy     *httputil.ReverseProxy
	served    chan error

	get, put                   atomic.Int64 // nanoseconds
	gets, puts, sent, received atomic.Int64
}

// Counts is what has passed a proxy.
type Counts struct {
	Puts          int64 // requests that change something or list: PUT, POST, DELETE, GET of a listing
	Gets          int64 // all others
	SentBytes     int64 // of the bodies of requests
	ReceivedBytes int64 // of the bodies of answers
}

// NewLatency starts a proxy in front of the server at addr, HOST:PORT. A request for an
// object (GET, HEAD), a listing or a deletion waits for get before it goes on, a PUT
// for put. The caller closes it.
func NewLatency(addr string, get, put time.Duration) (*Latency, error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("start latency proxy: %w", err)
	}
	l := &Latency{
		listener: ln, served: make(chan error, 1),
		transport: &http.Transport{MaxIdleConnsPerHost: 256, DisableCompression: true},
	}
	l.Set(get, put)
	target := &url.URL{Scheme: "http", Host: addr}
	l.proxy = &httputil.ReverseProxy{
		Transport: l.transport,
		// The Host header is part of what a request's signature covers: it stays.
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(target)
			r.Out.Host = r.In.Host
		},
		ErrorHandler: func(w http.ResponseWriter, _ *http.Request, _ error) { w.WriteHeader(http.StatusBadGateway) },
	}
	l.server = &http.Server{Handler: l, ReadHeaderTimeout: time.Minute}
	go func() { l.served <- l.server.Serve(ln) }()
	return l, nil
}

// Address returns where the proxy listens, HOST:PORT.
func (l *Latency) Address() string { return l.listener.Addr().String() }

// Set changes how long later requests wait.
func (l *Latency) Set(get, put time.Duration) {
	l.get.Store(int64(get))
	l.put.Store(int64(put))
}

// Counts returns what has passed so far.
func (l *Latency) Counts() Counts {
	return Counts{Puts: l.puts.Load(), Gets: l.gets.Load(), SentBytes: l.sent.Load(), ReceivedBytes: l.received.Load()}
}

// Close ends the proxy, with what is under way.
func (l *Latency) Close() error {
	err := l.server.Close()
	if serr := <-l.served; !errors.Is(serr, http.ErrServerClosed) {
		err = errors.Join(err, serr)
	}
	l.transport.CloseIdleConnections()
	return err
}

// ServeHTTP passes one request on.
func (l *Latency) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	wait := l.get.Load()
	listing := r.URL.Query().Has("list-type")
	if r.Method == http.MethodPut {
		wait = l.put.Load()
	}
	if listing || r.Method != http.MethodGet && r.Method != http.MethodHead {
		l.puts.Add(1)
	} else {
		l.gets.Add(1)
	}
	if !pause(r.Context(), time.Duration(wait)) {
		return
	}
	if r.Body != nil {
		r.Body = counted{r.Body, &l.sent}
	}
	l.proxy.ServeHTTP(countedWriter{w, &l.received}, r)
}

// pause waits, and reports whether ctx still goes on.
func pause(ctx context.Context, d time.Duration) bool {
	if d <= 0 {
		return ctx.Err() == nil
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// counted counts what is read of a body.
type counted struct {
	io.ReadCloser
	n *atomic.Int64
}

func (c counted) Read(p []byte) (int, error) {
	n, err := c.ReadCloser.Read(p)
	c.n.Add(int64(n))
	return n, err
}

// countedWriter counts what is written of an answer.
type countedWriter struct {
	http.ResponseWriter
	n *atomic.Int64
}

func (c countedWriter) Write(p []byte) (int, error) {
	n, err := c.ResponseWriter.Write(p)
	c.n.Add(int64(n))
	return n, err
}

// Unwrap lets http.ResponseController find what the writer can do.
func (c countedWriter) Unwrap() http.ResponseWriter { return c.ResponseWriter }
