// Package hosts is how hosts that share a store ask each other about the branches
// that they have attached: HTTP with JSON bodies, over TCP.
//
// # What it is
//
// A [Server] answers for one host, out of a [Branches]. A [Client] asks a host that
// it is told of by a [Peer]; the daemon finds those in the store, where each host
// records itself.
//
// # Routes
//
//	GET  /bough/hosts/v1/branches/{id}            is it in use there?
//	POST /bough/hosts/v1/branches/{id}/publish    bring its last barrier into the store
//	POST /bough/hosts/v1/branches/{id}/release    detach it, if nobody uses it there
//	POST /bough/hosts/v1/branches/{id}/recheck    look in the store whose it is
//
// {id} is the branch's id. Every answer says which host gives it and in which of its
// lives, so that one is never taken for another's: addresses are used again. An
// error has the shape of package api, and not_found means that the host does not
// have the branch.
//
// # Access
//
// Every request carries a token, which the host draws anew at each start and
// records in the store and nowhere else: whoever can read the store can read all
// the data in it anyway. It is compared in constant time. It allows no more than
// the routes: nothing is read and nothing is lost by them. There is no TLS, so that
// whoever can listen between the hosts can use the token, or answer in place of
// a host that is asked and so keep a branch from being taken over; the network
// between the hosts has to be as private as for a store without TLS.
//
// # Time limits
//
// A client waits 2 s to hear whether a host has a branch, and 12 s for what takes work
// in the store. A server works for at most 10 s on a question.
//
// # Limits
//
// Request bodies 4 KiB, answers 64 KiB, headers 16 KiB, 64 requests at once; connections
// are closed after each answer.
//
// # Concurrency
//
// A Server and a Client may be used concurrently.
package hosts
