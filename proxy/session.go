package proxy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"syscall"
	"time"
)

const (
	// connectAttemptsMax bounds how often one client's connection is tried anew.
	connectAttemptsMax = 30

	backoffMin = 10 * time.Millisecond
	backoffMax = 500 * time.Millisecond
	// heldBytesMax bounds what is held back of a server's first bytes.
	heldBytesMax = 16 << 10
)

// backend is a connection to a Postgres that has begun to answer.
type backend struct {
	conn   net.Conn
	addr   string
	scan   *greetingScan
	held   []byte // what it has said so far; the client has seen none of it
	forget func() // takes its cancel key out of the table, nil before there is one
}

// handle serves one client from its first byte to the end of its connection.
// Until it has a backend it is bound by owner.connecting, then by owner.life.
// settled is called once the client no longer counts as a newcomer.
func (s *Server) handle(owner owner, client net.Conn, settled func()) {
	defer settled()
	defer client.Close()
	req, err := s.handshake(owner.connecting, client)
	if err == nil && req.cancel != nil {
		s.forwardCancel(owner.life, req.cancel)
		return
	}
	if err == nil {
		err = s.serve(owner, client, req.startup, settled)
	}
	var refusal *Error
	if errors.As(err, &refusal) {
		answer(owner.life, client, refusal)
	}
	if err != nil {
		s.log.Debug("connection ended", "client", client.RemoteAddr(), "err", err)
	}
}

// handshake reads the client's first packets, within the time limit.
func (s *Server) handshake(ctx context.Context, client net.Conn) (request, error) {
	limited, cancel := context.WithTimeout(ctx, s.opts.HandshakeTimeout)
	defer cancel()
	defer interruptOn(limited, client)()
	req, err := readRequest(client)
	if err != nil && ctx.Err() != nil {
		err = errShuttingDown()
	}
	return req, err
}

// serve finds the client its backend and relays between them.
func (s *Server) serve(owner owner, client net.Conn, st *startup, settled func()) error {
	user, err := st.user()
	if err != nil {
		return err
	}
	r, err := takeRoute(st)
	if err != nil {
		return err
	}
	if s.reserved(user) {
		return refuse(codeAuthorization,
			fmt.Sprintf("Connect as another role, or work as administrator on the server's own machine: bough psql %s.", r),
			"role %q is reserved for administration and cannot connect here", user)
	}
	sess := &Session{Project: r.project, Branch: r.branch, User: user, Client: client.RemoteAddr().String(), Began: time.Now()}
	leave, err := s.admit(sess)
	if err != nil {
		return err
	}
	defer leave()
	settled()

	b, err := s.connect(owner, client, r, st.encode())
	if err != nil {
		return err
	}
	s.connected(sess)
	return s.relay(owner.life, client, b)
}

// connect wakes the branch and returns a backend that answered the startup
// packet. While the client waits, an endpoint that is stopping, starting or
// recovering is tried again: nothing of what it said reaches the client, so
// the client sees one connection that took a little longer.
func (s *Server) connect(owner owner, client net.Conn, r route, packet []byte) (*backend, error) {
	watched, stop := watchPeer(owner.connecting, client)
	defer stop()
	ctx, cancel := context.WithTimeout(watched, s.opts.WakeTimeout)
	defer cancel()

	var b *backend
	backoff := backoffMin
	for attempt := 1; ; attempt++ {
		addr, err := s.wakes.wait(ctx, owner, r)
		if err == nil {
			b, err = s.greet(ctx, addr, packet)
		}
		if err == nil && b.scan.refused != codeCannotConnect {
			return b, nil
		}
		if err != nil && !tryAgain(err) || attempt == connectAttemptsMax || !wait(ctx, backoff) {
			if err == nil {
				return b, nil // the server's own words, for the client
			}
			return nil, s.connectRefusal(ctx, owner, r, err)
		}
		if b != nil {
			b.conn.Close()
			b = nil
		}
		backoff = min(2*backoff, backoffMax)
	}
}

// wait waits for d and reports whether ctx still goes on.
func wait(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// tryAgain reports whether err is what an endpoint that has just stopped, or is
// stopping, looks like from outside, or a shared Wake whose owner has gone.
func tryAgain(err error) bool {
	for _, e := range []error{
		syscall.ECONNREFUSED, syscall.ECONNRESET, syscall.EPIPE, syscall.ENOENT, syscall.EAGAIN, io.EOF, context.Canceled,
	} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// connectRefusal turns the error that ended a connect into the client's answer.
func (s *Server) connectRefusal(ctx context.Context, owner owner, r route, err error) error {
	var refusal *Error
	switch {
	case errors.As(err, &refusal):
		return err
	case errors.Is(context.Cause(ctx), errClientGone):
		return errClientGone
	case owner.connecting.Err() != nil:
		return errShuttingDown()
	case errors.Is(err, ErrNotFound):
		return refuse(codeUnknownBranch,
			fmt.Sprintf("bough branch list shows what there is, bough branch create %s makes it.", r),
			"branch %q does not exist", r)
	}
	s.log.Warn("branch not reached", "branch", r, "err", err)
	if errors.Is(err, context.DeadlineExceeded) {
		return refuse(codeCannotConnect, "It may still be starting: connect again in a moment.",
			"branch %q was not ready within %s", r, s.opts.WakeTimeout)
	}
	return refuse(codeCannotConnect, "The log of bough serve says why.", "branch %q could not be started", r)
}

// errShuttingDown is the answer to a client that is waiting when the door closes.
func errShuttingDown() *Error {
	return refuse(codeCannotConnect, "Connect again once bough serve runs again.", "bough is shutting down")
}

// dial connects to a backend: a path is a unix socket, anything else HOST:PORT.
func (s *Server) dial(ctx context.Context, addr string) (net.Conn, error) {
	network := "tcp"
	if strings.HasPrefix(addr, "/") {
		network = "unix"
	}
	d := net.Dialer{Timeout: s.opts.DialTimeout, KeepAliveConfig: s.keepAlive()}
	return d.DialContext(ctx, network, addr)
}

// greet dials addr, sends the startup packet, and reads until the server has
// either begun to serve the client or refused it.
func (s *Server) greet(ctx context.Context, addr string, packet []byte) (*backend, error) {
	conn, err := s.dial(ctx, addr)
	if err != nil {
		return nil, err
	}
	b := &backend{conn: conn, addr: addr, scan: new(greetingScan)}
	if err := s.readVerdict(ctx, b, packet); err != nil {
		conn.Close()
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return nil, fmt.Errorf("greet %s: %w", addr, err)
	}
	return b, nil
}

// readVerdict is the conversation of greet.
func (s *Server) readVerdict(ctx context.Context, b *backend, packet []byte) error {
	defer interruptOn(ctx, b.conn)()
	if _, err := b.conn.Write(packet); err != nil {
		return err
	}
	buf := s.buffer()
	defer s.release(buf)
	for !b.scan.verdict && len(b.held) < heldBytesMax {
		n, err := b.conn.Read(*buf)
		if n == 0 && err != nil {
			return err
		}
		b.held = append(b.held, (*buf)[:n]...)
		if err := b.scan.feed((*buf)[:n]); err != nil {
			return err
		}
	}
	return nil
}
