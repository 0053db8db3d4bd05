package api

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"runtime/debug"
	"slices"
	"time"
)

// Limits of the server; see the package documentation.
const (
	bodyBytesMax   = 64 << 10
	headerBytesMax = 16 << 10
	requestsMax    = 256
	readTimeout    = 30 * time.Second
	changeTimeout  = 5 * time.Minute
	bodyTimeout    = 30 * time.Second
	lineTimeout    = 30 * time.Second
)

// Options configure a [Server]. The zero value is usable.
type Options struct {
	// Logger takes a line per change and per internal error. Default: none.
	Logger *slog.Logger
	// UIDs are the users who may connect. Default: root and the process's own.
	UIDs []uint32
	// ReadTimeout bounds requests that change nothing. Default: 30 s.
	ReadTimeout time.Duration
	// ChangeTimeout bounds requests that change something. Default: 5 min.
	ChangeTimeout time.Duration
	// RequestsMax bounds the requests served at once. Default: 256.
	RequestsMax int
}

// Server serves the interface over a listener. Create it with [NewServer];
// its methods may be called concurrently.
type Server struct {
	backend Backend
	opts    Options
	log     *slog.Logger
	mux     *http.ServeMux
	http    *http.Server
	slots   chan struct{}

	// base is the context that changes run under: cancelled by Close only.
	base   context.Context
	cancel context.CancelFunc
	// held ends when the server stops accepting requests: then what is held for as
	// long as a client likes is let go.
	held context.Context
	drop context.CancelFunc
}

// NewServer returns a server of the backend.
func NewServer(backend Backend, opts Options) *Server {
	if opts.Logger == nil {
		opts.Logger = slog.New(slog.DiscardHandler)
	}
	if opts.UIDs == nil {
		opts.UIDs = defaultUIDs()
	}
	if opts.ReadTimeout == 0 {
		opts.ReadTimeout = readTimeout
	}
	if opts.ChangeTimeout == 0 {
		opts.ChangeTimeout = changeTimeout
	}
	if opts.RequestsMax == 0 {
		opts.RequestsMax = requestsMax
	}
	s := &Server{backend: backend, opts: opts, log: opts.Logger, slots: make(chan struct{}, opts.RequestsMax)}
	s.base, s.cancel = context.WithCancel(context.Background())
	s.held, s.drop = context.WithCancel(s.base)
	s.mux = s.routes()
	s.http = &http.Server{
		Handler:           s,
		ConnContext:       connContext,
		ReadHeaderTimeout: 10 * time.Second,
		// Neither ReadTimeout nor WriteTimeout: both count the work as well, and
		// a read deadline that passes cancels a handler that is still busy.
		// Deadlines are set around each body that is read and written.
		IdleTimeout:    2 * time.Minute,
		MaxHeaderBytes: headerBytesMax,
		ErrorLog:       slog.NewLogLogger(opts.Logger.Handler(), slog.LevelDebug),
	}
	return s
}

// Serve answers requests on l, which must be a unix socket, until Shutdown or
// Close; then it returns nil.
func (s *Server) Serve(l net.Listener) error {
	if err := s.http.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// Shutdown stops accepting requests and waits for those under way; when ctx
// ends first it cancels them and returns the context's error.
func (s *Server) Shutdown(ctx context.Context) error {
	s.drop()
	err := s.http.Shutdown(ctx)
	s.cancel()
	return err
}

// Close cancels the requests under way and closes their connections.
func (s *Server) Close() error {
	s.cancel()
	return s.http.Close()
}

// ServeHTTP implements [http.Handler]: it checks who asks, limits how many ask
// at once, and turns what a handler panics with into an error.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	defer func() {
		if v := recover(); v != nil {
			if v == http.ErrAbortHandler {
				panic(v) // unreachable: outside handlers that mean it, and net/http wants it back
			}
			s.log.Error("request panicked", "method", r.Method, "path", r.URL.Path, "panic", v, "stack", string(debug.Stack()))
			writeError(w, Errorf(CodeInternal, "the daemon made an error: %v", v).WithHint("see the daemon's log"))
		}
	}()
	if err := checkPeer(r.Context(), s.opts.UIDs); err != nil {
		writeError(w, err)
		return
	}
	select {
	case s.slots <- struct{}{}:
		defer func() { <-s.slots }()
	default:
		w.Header().Set("Retry-After", "1")
		writeError(w, Errorf(CodeUnavailable, "%d requests are under way", cap(s.slots)).WithHint("try again in a moment"))
		return
	}
	if r.Body != http.NoBody {
		setReadDeadline(w, time.Now().Add(bodyTimeout))
	}
	if !plainPath(r.URL.Path) {
		// ServeMux would redirect to the cleaned path, which names another object.
		writeError(w, Errorf(CodeInvalidRequest, "path %s is not plain", quoteShort(r.URL.Path)).
			WithHint("escape names in paths; they contain neither '/' nor '..'"))
		return
	}
	if _, pattern := s.mux.Handler(r); pattern == "" {
		s.noRoute(w, r)
		return
	}
	s.mux.ServeHTTP(w, r)
}

// setReadDeadline bounds the reading of a body; the zero time is no bound.
// A ResponseWriter without deadlines is a test's recorder.
func setReadDeadline(w http.ResponseWriter, t time.Time) {
	_ = http.NewResponseController(w).SetReadDeadline(t)
}

// setWriteDeadline bounds the writing of an answer.
func setWriteDeadline(w http.ResponseWriter, t time.Time) {
	_ = http.NewResponseController(w).SetWriteDeadline(t)
}

// plainPath reports whether ServeMux takes the path as it is.
func plainPath(p string) bool {
	if p == "" || p[0] != '/' {
		return false
	}
	var last byte
	for i := range len(p) {
		if p[i] == '/' && last == '/' {
			return false
		}
		last = p[i]
	}
	return !slices.ContainsFunc(splitPath(p), func(s string) bool { return s == "." || s == ".." })
}

// noRoute answers a request that no route takes, in our shape instead of
// ServeMux's text.
func (s *Server) noRoute(w http.ResponseWriter, r *http.Request) {
	var allowed []string
	for _, m := range []string{http.MethodGet, http.MethodPost, http.MethodPatch, http.MethodDelete} {
		other := *r
		other.Method = m
		if _, pattern := s.mux.Handler(&other); pattern != "" {
			allowed = append(allowed, m)
		}
	}
	if len(allowed) == 0 {
		writeError(w, Errorf(CodeNotFound, "no route %s", quoteShort(r.URL.Path)).
			WithHint("this daemon serves /bough/v1; is it older than the client?"))
		return
	}
	for _, m := range allowed {
		w.Header().Add("Allow", m)
	}
	writeError(w, Errorf(CodeMethodNotAllowed, "method %s is not allowed here", r.Method).WithHint("use %s", allowed[0]))
}
