package proxy

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"sync"
	"time"
)

// bufferBytes is the size of the buffers for servers' greetings; that of
// Postgres fits into one.
const bufferBytes = 4 << 10

// Server is the front door: it takes in clients of all branches and connects
// each to the Postgres of its branch. Make one with New. Its methods are safe
// for concurrent use.
type Server struct {
	opts    Options
	log     *slog.Logger
	keys    cancelKeys
	wakes   wakes
	buffers sync.Pool
	slots   chan struct{} // one for each connection that has not said what it wants

	mu        sync.Mutex
	closed    bool
	serving   map[*serving]struct{}
	sessions  map[*Session]struct{}
	perBranch map[route]int
	refused   uint64
	accepted  uint64
}

// serving is one call of Serve.
type serving struct {
	stopConnecting context.CancelFunc
	kill           context.CancelFunc
	done           chan struct{}
}

// owner is what a call of Serve lends to its connections: the context of those
// without a backend, which ends when the server begins to shut down; its parent,
// which ends when the server no longer waits for sessions; and the group that
// every goroutine belongs to.
type owner struct {
	connecting, life context.Context
	tasks            *sync.WaitGroup
}

// Session is one client of a branch, for status displays.
type Session struct {
	// Project and Branch say where the client is, or wants to go.
	Project, Branch string
	// User is the role it gave; not yet authenticated.
	User string
	// Client is its network address.
	Client string
	// Began is when it was let in.
	Began time.Time
	// Connected says that it has a backend; before that it waits for one.
	Connected bool
}

// Stats are counts of the moment, and totals since the server was made.
type Stats struct {
	// Handshakes counts connections that have not said yet what they want.
	Handshakes int
	// Waiting counts clients that wait for a backend.
	Waiting int
	// Connected counts clients that have one.
	Connected int
	// CancelKeys counts the cancel keys that are known.
	CancelKeys int
	// Accepted is the total of connections accepted.
	Accepted uint64
	// Refused is the total of clients turned away because a maximum was reached.
	Refused uint64
}

// New returns a server with the given settings. It does nothing until Serve.
func New(opts Options) (*Server, error) {
	opts, err := opts.withDefaults()
	if err != nil {
		return nil, err
	}
	s := &Server{
		opts:      opts,
		log:       opts.Logger,
		slots:     make(chan struct{}, opts.MaxHandshakes),
		serving:   make(map[*serving]struct{}),
		sessions:  make(map[*Session]struct{}),
		perBranch: make(map[route]int),
	}
	s.wakes.waker, s.wakes.timeout = opts.Waker, opts.WakeTimeout
	s.buffers.New = func() any { b := make([]byte, bufferBytes); return &b }
	return s, nil
}

// Serve accepts clients on l until ctx is done or Shutdown is called, and
// returns when the last of them is gone. The end of ctx closes their
// connections; Shutdown lets them finish. Serve closes l. It returns nil after
// either, ErrClosed if the server was shut down before, or the error that ended
// the listener. It may be called for several listeners.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	defer l.Close()
	life, kill := context.WithCancel(ctx)
	defer kill()
	connecting, stopConnecting := context.WithCancel(life)
	defer stopConnecting()
	call := &serving{stopConnecting: stopConnecting, kill: kill, done: make(chan struct{})}
	defer close(call.done)
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return ErrClosed
	}
	s.serving[call] = struct{}{}
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.serving, call)
	}()

	defer context.AfterFunc(connecting, func() { l.Close() })()
	var tasks sync.WaitGroup
	err := s.accept(owner{connecting: connecting, life: life, tasks: &tasks}, l)
	if err != nil {
		kill()
	}
	tasks.Wait()
	return err
}

// accept takes in clients until owner.connecting is done or the listener fails.
func (s *Server) accept(owner owner, l net.Listener) error {
	for {
		select {
		case s.slots <- struct{}{}:
		case <-owner.connecting.Done():
			return nil
		}
		settled := sync.OnceFunc(func() { <-s.slots })
		conn, err := l.Accept()
		if err != nil {
			settled()
			if owner.connecting.Err() != nil {
				return nil
			}
			if !temporary(err) {
				return fmt.Errorf("accept client: %w", err)
			}
			s.log.Warn("client not accepted; trying again", "err", err)
			wait(owner.connecting, backoffMax)
			continue
		}
		s.mu.Lock()
		s.accepted++
		s.mu.Unlock()
		if tcp, ok := conn.(*net.TCPConn); ok {
			_ = tcp.SetKeepAliveConfig(s.keepAlive())
		}
		owner.tasks.Go(func() { s.handle(owner, conn, settled) })
	}
}

// Shutdown stops accepting, turns away the clients that are still waiting for a
// backend, and waits for the others to end. When ctx is done first, it closes
// their connections and returns the error of ctx. Either way nothing of the
// server runs when it returns.
func (s *Server) Shutdown(ctx context.Context) error {
	s.mu.Lock()
	s.closed = true
	var calls []*serving
	for call := range s.serving {
		calls = append(calls, call)
	}
	s.mu.Unlock()
	for _, call := range calls {
		call.stopConnecting()
	}
	var err error
	for _, call := range calls {
		select {
		case <-call.done:
			continue
		case <-ctx.Done():
		}
		err = context.Cause(ctx)
		call.kill()
		<-call.done
	}
	return err
}

// Sessions returns the clients of the moment, the oldest first.
func (s *Server) Sessions() []Session {
	s.mu.Lock()
	defer s.mu.Unlock()
	list := make([]Session, 0, len(s.sessions))
	for sess := range s.sessions {
		list = append(list, *sess)
	}
	slices.SortFunc(list, func(a, b Session) int {
		return cmp.Or(a.Began.Compare(b.Began), cmp.Compare(a.Client, b.Client))
	})
	return list
}

// Stats returns the counts of the moment.
func (s *Server) Stats() Stats {
	s.mu.Lock()
	defer s.mu.Unlock()
	st := Stats{
		Handshakes: max(len(s.slots)-len(s.serving), 0), // each Serve holds a slot for the next
		CancelKeys: s.keys.len(),
		Accepted:   s.accepted,
		Refused:    s.refused,
	}
	for sess := range s.sessions {
		if sess.Connected {
			st.Connected++
		} else {
			st.Waiting++
		}
	}
	return st
}

// admit gives a session its place, or the answer that there is none. The
// returned function gives the place back.
func (s *Server) admit(sess *Session) (leave func(), err error) {
	r := route{project: sess.Project, branch: sess.Branch}
	s.mu.Lock()
	all, ofBranch := len(s.sessions), s.perBranch[r]
	if all >= s.opts.MaxSessions || ofBranch >= s.opts.MaxBranchSessions {
		s.refused++
		s.mu.Unlock()
		if all >= s.opts.MaxSessions {
			return nil, refuse(codeTooMany, "Close idle connections, or connect again in a moment.",
				"too many connections: all %d places are taken", s.opts.MaxSessions)
		}
		return nil, refuse(codeTooMany, "Close idle connections, or connect again in a moment.",
			"too many connections to branch %q: all %d places are taken", r, s.opts.MaxBranchSessions)
	}
	s.sessions[sess] = struct{}{}
	s.perBranch[r]++
	s.mu.Unlock()
	s.opts.Observer.SessionBegins(r.project, r.branch)
	return func() {
		s.opts.Observer.SessionEnds(r.project, r.branch)
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.sessions, sess)
		if s.perBranch[r]--; s.perBranch[r] == 0 {
			delete(s.perBranch, r)
		}
	}, nil
}

// connected notes that a session has its backend.
func (s *Server) connected(sess *Session) {
	s.mu.Lock()
	defer s.mu.Unlock()
	sess.Connected = true
}

// reserved reports whether user may not log in here.
func (s *Server) reserved(user string) bool { return slices.Contains(s.opts.ReservedRoles, user) }

// keepAlive is the TCP keep-alive of clients and backends.
func (s *Server) keepAlive() net.KeepAliveConfig {
	const probes = 6
	return net.KeepAliveConfig{
		Enable: true, Idle: s.opts.KeepAlive, Interval: max(s.opts.KeepAlive/probes, time.Second), Count: probes,
	}
}

// buffer takes a buffer from the pool.
func (s *Server) buffer() *[]byte { return s.buffers.Get().(*[]byte) }

// release gives a buffer back.
func (s *Server) release(b *[]byte) { s.buffers.Put(b) }
