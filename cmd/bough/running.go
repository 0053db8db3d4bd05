package main

import (
	"sync"

	"github.com/bough-db/bough/api"
	"github.com/bough-db/bough/cow"
)

// running knows branches that run here by name, and how clients connect to them, so
// that a connection to one asks nothing of the store. It may be wrong about a branch
// that does not run any more: who uses it looks. A branch that runs here is renamed
// and deleted here.
type running struct {
	mu      sync.Mutex
	known   map[string]runningBranch // by project/branch
	renames int
}

// runningBranch is what running knows of a branch.
type runningBranch struct {
	id   cow.BranchID
	conn api.Connection // without Admin; no URL if nobody has asked for it yet
}

// mark returns what note wants, before the branch is looked up.
func (r *running) mark() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.renames
}

// note says which branch has the name, and how to connect to it if that is known, as
// it was found after mark.
func (r *running) note(ref string, b runningBranch, mark int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.renames != mark {
		return // it may have another name by now
	}
	if r.known == nil {
		r.known = map[string]runningBranch{}
	}
	if b.conn.URL == "" && r.known[ref].id == b.id {
		b.conn = r.known[ref].conn
	}
	r.known[ref] = b
}

// find returns the branch that had the name when it was started.
func (r *running) find(ref string) (runningBranch, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	b, ok := r.known[ref]
	return b, ok
}

// forget is called before a name goes, and again when it has gone.
func (r *running) forget(ref string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.known, ref)
	r.renames++
}
