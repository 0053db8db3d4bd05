// Package client is the typed client of a bough daemon: one method per route
// of package api, over the daemon's unix socket.
//
// # Errors
//
// What the daemon refuses is an *api.Error, as the daemon made it. A daemon
// that cannot be reached is [ErrNoDaemon], and a socket that the caller may
// not open is [ErrNotAllowed]; both name the socket and say what to do. Names
// are checked before anything is sent.
//
// # Concurrency
//
// A Client may be used concurrently. It holds idle connections until Close.
// A context that ends makes a method return; what the daemon had begun to
// change, it finishes.
//
// # Limits
//
// Answers of more than 64 MiB and lines of more than 1 MiB are an error.
package client
