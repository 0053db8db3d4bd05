package api

import (
	"context"
	"fmt"
	"net"
	"os"
	"slices"

	"golang.org/x/sys/unix"
)

// peerKey is the context key of a connection's [unix.Ucred] or error.
type peerKey struct{}

// peer is what the kernel says about the process at the other end.
type peer struct {
	cred *unix.Ucred
	err  error
}

// connContext notes the credentials of a new connection for its requests.
func connContext(ctx context.Context, c net.Conn) context.Context {
	cred, err := peerCred(c)
	return context.WithValue(ctx, peerKey{}, peer{cred: cred, err: err})
}

// peerCred asks the kernel who connected (as of connect(2), so that a process
// that drops its rights later keeps them here, and one that gains some does not).
func peerCred(c net.Conn) (*unix.Ucred, error) {
	uc, ok := c.(*net.UnixConn)
	if !ok {
		return nil, fmt.Errorf("peer credentials of %T: not a unix socket", c)
	}
	raw, err := uc.SyscallConn()
	if err != nil {
		return nil, fmt.Errorf("peer credentials: %w", err)
	}
	var cred *unix.Ucred
	var credErr error
	if err := raw.Control(func(fd uintptr) {
		cred, credErr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	}); err != nil {
		return nil, fmt.Errorf("peer credentials: %w", err)
	}
	if credErr != nil {
		return nil, fmt.Errorf("peer credentials: %w", credErr)
	}
	return cred, nil
}

// defaultUIDs are root and the user that the process runs as.
func defaultUIDs() []uint32 { return []uint32{0, uint32(os.Geteuid())} }

// checkPeer returns an *Error unless the connection that ctx belongs to comes
// from one of the users.
func checkPeer(ctx context.Context, uids []uint32) error {
	p, ok := ctx.Value(peerKey{}).(peer)
	if !ok {
		return Errorf(CodeForbidden, "peer credentials are unknown").WithHint("connect to the daemon's unix socket")
	}
	if p.err != nil {
		return Errorf(CodeForbidden, "%v", p.err)
	}
	if !slices.Contains(uids, p.cred.Uid) {
		return Errorf(CodeForbidden, "user %d may not control this daemon", p.cred.Uid).
			WithHint("run the command as root or as the daemon's user")
	}
	return nil
}
