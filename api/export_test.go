package api

import (
	"context"

	"golang.org/x/sys/unix"
)

// WithPeer makes ctx one of a connection from a process of the user.
func WithPeer(ctx context.Context, uid uint32) context.Context {
	return context.WithValue(ctx, peerKey{}, peer{cred: &unix.Ucred{Uid: uid}})
}
