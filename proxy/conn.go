package proxy

import (
	"context"
	"errors"
	"io"
	"net"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// errClientGone is the cause of a wait that ends because its client left.
var errClientGone = errors.New("client closed the connection")

// lingerTimeout is how long one side of a connection may take to end after the
// other side has.
const lingerTimeout = 5 * time.Second

// past is a deadline that makes calls in progress return.
var past = time.Unix(1, 0)

// interruptOn makes reads and writes of conn fail once ctx is done. The
// returned function ends that and clears the deadlines.
func interruptOn(ctx context.Context, conn net.Conn) (release func()) {
	fired := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(fired)
		_ = conn.SetDeadline(past)
	})
	return func() {
		if !stop() {
			<-fired
		}
		_ = conn.SetDeadline(time.Time{})
	}
}

// watchPeer returns a context that ends, with cause errClientGone, when the
// peer of conn closes its side. It looks at the connection without reading
// from it; should the peer send something instead, the watch is over, since
// what comes behind it cannot be seen. The returned function ends the watch.
// A connection that has no descriptor is not watched.
func watchPeer(ctx context.Context, conn net.Conn) (watched context.Context, stop func()) {
	watched, cancel := context.WithCancelCause(ctx)
	sc, ok := conn.(syscall.Conn)
	if !ok {
		return watched, func() { cancel(nil) }
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return watched, func() { cancel(nil) }
	}
	over := make(chan struct{})
	go func() {
		defer close(over)
		if peerGone(raw) {
			cancel(errClientGone)
		}
	}()
	return watched, func() {
		_ = conn.SetReadDeadline(past)
		<-over
		_ = conn.SetReadDeadline(time.Time{})
		cancel(nil)
	}
}

// peerGone waits until the connection can be read and reports whether that is
// because the peer has closed it. It returns false when the read deadline passes.
func peerGone(raw syscall.RawConn) bool {
	gone := false
	var b [1]byte
	err := raw.Read(func(fd uintptr) bool {
		n, _, err := unix.Recvfrom(int(fd), b[:], unix.MSG_PEEK|unix.MSG_DONTWAIT)
		if err == unix.EAGAIN {
			return false
		}
		gone = err != nil || n == 0
		return true
	})
	return err == nil && gone
}

// closeWrite ends the writing side of conn, if it has sides.
func closeWrite(conn net.Conn) {
	if c, ok := conn.(interface{ CloseWrite() error }); ok {
		_ = c.CloseWrite()
	}
}

// answer sends e to a client and waits a little for it to leave: closing at
// once with bytes of the client unread would reset the connection, and the
// answer could be lost with it.
func answer(ctx context.Context, conn net.Conn, e *Error) {
	ctx, cancel := context.WithTimeout(ctx, lingerTimeout)
	defer cancel()
	defer interruptOn(ctx, conn)()
	if _, err := conn.Write(e.encode()); err != nil {
		return
	}
	closeWrite(conn)
	_, _ = io.Copy(io.Discard, io.LimitReader(conn, 1<<20))
}

// temporary reports whether an error of Accept may be over soon: a connection
// that was gone before it was accepted, or no descriptor or memory left.
func temporary(err error) bool {
	for _, e := range []error{
		syscall.ECONNABORTED, syscall.EMFILE, syscall.ENFILE, syscall.ENOBUFS, syscall.ENOMEM, syscall.EPROTO,
	} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}
