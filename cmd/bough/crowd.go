package main

import (
	"context"
	"log/slog"
	"sync"

	"github.com/bough-db/bough/proxy"
)

// crowd counts the clients of each branch, and tells tune when a count has changed. It
// is the front door's proxy.Observer.
type crowd struct {
	tune func(ctx context.Context, project, branch string) error
	log  *slog.Logger

	mu      sync.Mutex
	clients map[[2]string]int
	changed map[[2]string]bool
	wake    chan struct{} // of capacity 1: changed is not empty
}

var _ proxy.Observer = (*crowd)(nil)

func newCrowd(log *slog.Logger) *crowd {
	return &crowd{log: log, clients: map[[2]string]int{}, changed: map[[2]string]bool{}, wake: make(chan struct{}, 1)}
}

// SessionBegins implements proxy.Observer.
func (c *crowd) SessionBegins(project, branch string) { c.add(project, branch, 1) }

// SessionEnds implements proxy.Observer.
func (c *crowd) SessionEnds(project, branch string) { c.add(project, branch, -1) }

func (c *crowd) add(project, branch string, n int) {
	key := [2]string{project, branch}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.clients[key] += n; c.clients[key] <= 0 {
		delete(c.clients, key)
	}
	c.changed[key] = true
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// of returns how many clients a branch has.
func (c *crowd) of(project, branch string) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.clients[[2]string{project, branch}]
}

// run tells of changes until ctx ends. Changes that come meanwhile are told once.
func (c *crowd) run(ctx context.Context) {
	for {
		select {
		case <-c.wake:
		case <-ctx.Done():
			return
		}
		c.mu.Lock()
		changed := c.changed
		c.changed = map[[2]string]bool{}
		c.mu.Unlock()
		for key := range changed {
			if err := c.tune(ctx, key[0], key[1]); err != nil && ctx.Err() == nil {
				c.log.Warn("settings not adapted to the number of clients", "branch", key[0]+"/"+key[1], "err", err)
			}
		}
	}
}
