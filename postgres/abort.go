package postgres

import (
	"context"
	"errors"
	"time"

	"github.com/bough-db/bough/cow"
)

// Abort ends the branch's endpoint at once, since its device has failed for the
// reason: the server gets an immediate shutdown, and the branch is detached. The
// endpoint is Failed then, with the reason, until the next start begins anew. One
// that does not run, and is not held in any way, is left alone.
func (m *Manager) Abort(ctx context.Context, id cow.BranchID, reason error) error {
	m.mu.Lock()
	e := m.endpoints[id]
	m.mu.Unlock()
	if e == nil {
		return nil
	}
	return e.abort(ctx, reason)
}

// abort returns when the endpoint is stopped, whoever stopped it.
func (e *endpoint) abort(ctx context.Context, reason error) error {
	for {
		e.mu.Lock()
		op := e.op
		mine := op == nil
		switch {
		case mine && e.server == nil && e.volume == nil:
			if e.failure != nil { // it ended by itself, for the same reason
				e.failure = reason
			}
			e.mu.Unlock()
			return nil
		case mine:
			var opCtx context.Context
			opCtx, op = e.begin(ctx, Stopping, e.m.options.StopTimeout+time.Minute)
			go func() { e.finish(op, e.quit(opCtx, reason)) }()
		case op.kind == Starting:
			op.cancel(reason)
		}
		e.mu.Unlock()
		select {
		case <-op.done:
			if mine {
				return op.err
			}
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// quit is the work of an abort; it owns the endpoint.
func (e *endpoint) quit(ctx context.Context, reason error) error {
	e.mu.Lock()
	s := e.server
	e.mu.Unlock()
	var tail []string
	if s != nil {
		if err := s.quit(); err != nil {
			e.fail(errors.Join(reason, err), s.log.tail())
			return err
		}
		tail = s.log.tail()
	}
	e.mu.Lock()
	e.server = nil
	e.mu.Unlock()
	err := e.release(ctx)
	e.mu.Lock()
	held := e.volume != nil
	e.mu.Unlock()
	e.fail(reason, tail)
	if !held {
		return nil // the branch has failed, and says so when it is closed
	}
	return err
}

// quit shuts the server down immediately, and returns when all of it is gone.
func (s *server) quit() error {
	if err := s.proc.terminate(s.grace); err != nil {
		return err
	}
	<-s.exited
	return nil
}
