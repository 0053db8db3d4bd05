package hosts

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"encoding/json"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/bough-db/bough/api"
)

// Limits of the server.
const (
	requestBytesMax = 4 << 10
	headerBytesMax  = 16 << 10
	requestsMax     = 64
	workTimeout     = 10 * time.Second
	ioTimeout       = 5 * time.Second
)

// Branches is what a [Server] answers from. An error that is an *api.Error is told
// to the one who asks; api.CodeNotFound means that this host does not have the
// branch. Every method may be called concurrently and honours its context.
type Branches interface {
	// Use says what this host does with the branch.
	Use(ctx context.Context, id string) (Use, error)
	// Publish brings the last barrier of the branch into the store.
	Publish(ctx context.Context, id string) (Published, error)
	// Release detaches a branch that is not in use; one that is, is api.CodeInUse.
	Release(ctx context.Context, id string) error
	// Recheck looks in the store whether the branch still is this host's.
	Recheck(ctx context.Context, id string) error
}

// NewToken returns a token: 256 random bits.
func NewToken() string { return randomHex(32) }

// NewRun returns the name of a process's life: 128 random bits.
func NewRun() string { return randomHex(16) }

func randomHex(n int) string {
	p := make([]byte, n)
	_, _ = rand.Read(p) // never fails, see there
	return hex.EncodeToString(p)
}

// Options configure a [Server].
type Options struct {
	// Identity is this process's. Required.
	Identity Identity
	// Token is what requests have to carry. Required.
	Token string
	// Logger takes a line per question that changes something. Default: none.
	Logger *slog.Logger
}

// Server answers other hosts. Create it with [NewServer].
type Server struct {
	branches Branches
	identity Identity
	token    [sha256.Size]byte
	log      *slog.Logger
	http     *http.Server
	slots    chan struct{}

	// base ends with Close.
	base   context.Context
	cancel context.CancelFunc
	work   sync.WaitGroup
}

// NewServer returns a server that answers from the branches.
func NewServer(branches Branches, o Options) (*Server, error) {
	if o.Identity.Host == "" || o.Identity.Run == "" || o.Token == "" {
		return nil, errors.New("answer other hosts: no identity or no token given")
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	s := &Server{
		branches: branches, identity: o.Identity, token: sha256.Sum256([]byte(o.Token)), log: o.Logger,
		slots: make(chan struct{}, requestsMax),
	}
	s.base, s.cancel = context.WithCancel(context.Background())
	s.http = &http.Server{
		Handler:           s,
		ReadHeaderTimeout: ioTimeout,
		ReadTimeout:       ioTimeout + workTimeout, // counts the work as well
		WriteTimeout:      ioTimeout + workTimeout,
		IdleTimeout:       ioTimeout,
		MaxHeaderBytes:    headerBytesMax,
		ErrorLog:          slog.NewLogLogger(o.Logger.Handler(), slog.LevelDebug),
	}
	s.http.SetKeepAlivesEnabled(false)
	return s, nil
}

// Serve answers on l until Close; then it returns nil.
func (s *Server) Serve(l net.Listener) error {
	if err := s.http.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// Close ends the questions under way and returns when none is left.
func (s *Server) Close() error {
	s.cancel()
	err := s.http.Close()
	s.work.Wait()
	return err
}

// ServeHTTP implements [http.Handler].
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.work.Add(1)
	defer s.work.Done()
	token, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	if given := sha256.Sum256([]byte(token)); !ok || subtle.ConstantTimeCompare(given[:], s.token[:]) != 1 {
		w.Header().Set("WWW-Authenticate", "Bearer")
		s.refuse(w, api.Errorf(api.CodeForbidden, "the token is not that of this host"))
		return
	}
	select {
	case s.slots <- struct{}{}:
		defer func() { <-s.slots }()
	default:
		s.refuse(w, api.Errorf(api.CodeUnavailable, "%d questions are being answered", cap(s.slots)))
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), workTimeout)
	defer cancel()
	defer context.AfterFunc(s.base, cancel)()
	answer, err := s.route(ctx, http.MaxBytesReader(w, r.Body, requestBytesMax), r)
	if err != nil {
		s.refuse(w, err)
		return
	}
	answer.Identity = s.identity
	writeJSON(w, http.StatusOK, answer)
}

const pathPrefix = "/bough/hosts/v1/branches/"

// route does what the path says.
func (s *Server) route(ctx context.Context, body interface{ Read([]byte) (int, error) }, r *http.Request) (answer Answer, err error) {
	rest, ok := strings.CutPrefix(r.URL.Path, pathPrefix)
	id, verb, _ := strings.Cut(rest, "/")
	want := http.MethodPost
	if verb == "" {
		want = http.MethodGet
	}
	// No question has a body; one that comes with one is not ours.
	if n, _ := body.Read(make([]byte, 1)); n > 0 {
		return answer, api.Errorf(api.CodeInvalidRequest, "a body is not expected here")
	}
	switch {
	case !ok || api.CheckName("branch", id) != nil:
		return answer, noRoute(r)
	case r.Method != want:
		return answer, api.Errorf(api.CodeMethodNotAllowed, "method %.20q is not allowed here", r.Method)
	}
	switch verb {
	case "":
		use, err := s.branches.Use(ctx, id)
		return Answer{Use: &use}, err
	case "publish":
		at, err := s.branches.Publish(ctx, id)
		s.log.Debug("published for another host", "branch", id, "seq", at.Seq, "err", err)
		return Answer{Published: &at}, err
	case "release":
		err = s.branches.Release(ctx, id)
	case "recheck":
		err = s.branches.Recheck(ctx, id)
	default:
		return answer, noRoute(r)
	}
	s.log.Info("asked by another host", "branch", id, "to", verb, "err", err)
	return answer, err
}

func noRoute(r *http.Request) error {
	// invalid_request, since not_found means that the branch is not here.
	return api.Errorf(api.CodeInvalidRequest, "no route %.60q", r.URL.Path)
}

// errorAnswer is an error that says who made it.
type errorAnswer struct {
	Identity
	api.ErrorBody
}

func (s *Server) refuse(w http.ResponseWriter, err error) {
	e, ok := errors.AsType[*api.Error](err)
	if !ok {
		e = api.Errorf(api.CodeInternal, "%v", err)
	}
	a := errorAnswer{ErrorBody: api.ErrorBody{Error: e}}
	if e.Code != api.CodeForbidden { // who does not know the token learns nothing
		a.Identity = s.identity
	}
	writeJSON(w, e.Code.Status(), a)
}

func writeJSON(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v) // who hung up is told nothing
}
