package api

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"sync"
	"time"
)

// verify answers with one VerifyEvent a line. Errors before the first line get
// a status of their own; later ones are the last line.
func (s *Server) verify(w http.ResponseWriter, r *http.Request) {
	var scope VerifyScope
	if err := errors.Join(decodeBody(w, r, &scope), checkScope(scope)); err != nil {
		s.fail(w, r, err)
		return
	}
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	stop := context.AfterFunc(s.base, cancel)
	defer stop()

	out := &lines{w: w}
	result, err := s.backend.Verify(ctx, scope, func(ev VerifyEvent) error {
		if err := ctx.Err(); err != nil {
			return err
		}
		return out.emit(ev)
	})
	switch {
	case err == nil:
		_ = out.emit(VerifyEvent{Result: &result}) // a client that hung up is told nothing
	case out.started():
		s.log.Error("verify", "err", err)
		_ = out.emit(VerifyEvent{Error: asError(err)})
	default:
		s.fail(w, r, err)
	}
}

// checkScope checks the names of a scope.
func checkScope(scope VerifyScope) error {
	if scope.Project == "" && scope.Branch == "" {
		return nil
	}
	if err := CheckName("project", scope.Project); err != nil {
		return err
	}
	if scope.Branch == "" {
		return nil
	}
	return CheckName("branch", scope.Branch)
}

// lines writes JSON lines, each flushed, and may be used concurrently.
type lines struct {
	mu    sync.Mutex
	w     http.ResponseWriter
	begun bool
}

func (l *lines) started() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.begun
}

func (l *lines) emit(ev VerifyEvent) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	p, err := json.Marshal(ev)
	if err != nil {
		return err
	}
	setWriteDeadline(l.w, time.Now().Add(lineTimeout))
	if !l.begun {
		l.begun = true
		l.w.Header().Set("Content-Type", "application/jsonl")
		l.w.Header().Set("Cache-Control", "no-store")
		l.w.WriteHeader(http.StatusOK)
	}
	if _, err := l.w.Write(append(p, '\n')); err != nil {
		return err
	}
	return http.NewResponseController(l.w).Flush()
}
