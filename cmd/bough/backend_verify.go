package main

import (
	"context"

	"github.com/bough-db/bough/api"
)

// Verify implements api.Daemon.
func (b *backend) Verify(ctx context.Context, scope api.VerifyScope, emit func(api.VerifyEvent) error) (api.VerifyResult, error) {
	return api.VerifyResult{}, api.Errorf(api.CodeInternal, "not wired yet")
}
