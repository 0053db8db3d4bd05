package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"

	"github.com/bough-db/bough/api"
	"github.com/bough-db/bough/cow"
	"github.com/bough-db/bough/objstore"
	"github.com/bough-db/bough/vfs"
	"github.com/bough-db/bough/wal"
)

// readOnly is a store that nothing is written to.
type readOnly struct{ objstore.Store }

// errReadOnly: something was about to be written to a store that is only looked at.
var errReadOnly = errors.New("the store is only read")

// Put refuses.
func (readOnly) Put(_ context.Context, key string, _ []byte, _ objstore.Condition) (string, error) {
	return "", fmt.Errorf("put %s: %w", key, errReadOnly)
}

// Delete refuses.
func (readOnly) Delete(_ context.Context, key string) error {
	return fmt.Errorf("delete %s: %w", key, errReadOnly)
}

// checkStore checks a store without a daemon: what is in it, and not what hosts still
// have as journals.
func (o *verify) checkStore(ctx context.Context, scope api.VerifyScope, emit func(api.VerifyEvent)) (result api.VerifyResult, err error) {
	if err := checkLocation(o.store); err != nil {
		return result, usageError{err}
	}
	if !isURL(o.store) {
		if err := checkDir(o.store); err != nil {
			return result, err
		}
	}
	quiet := slog.New(slog.DiscardHandler)
	objects, err := openObjects(ctx, o.store, objectOptions{patience: probePatience, logger: quiet})
	if err != nil {
		return result, err
	}
	defer func() { err = errors.Join(err, objects.Close()) }()
	if _, _, err := objects.Get(ctx, "format"); errors.Is(err, objstore.ErrNotExist) {
		return result, fmt.Errorf("%s is not a bough store: nothing was made there yet", o.store)
	} else if err != nil {
		return result, err
	}
	dir, err := os.MkdirTemp("", "bough-verify-")
	if err != nil {
		return result, fmt.Errorf("make a directory for this check: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	journals, err := wal.OpenPool(vfs.OS(), dir, wal.PoolOptions{MaxBytes: 64 << 20, Logger: quiet})
	if err != nil {
		return result, err
	}
	defer func() { err = errors.Join(err, journals.Close()) }()
	store, err := cow.OpenStore(ctx, cow.Options{Objects: readOnly{objects}, Journals: journals, Host: "verify", Shared: true, Logger: quiet})
	if err != nil {
		return result, err
	}
	defer func() { err = errors.Join(err, store.Close(ctx)) }()
	b := &backend{store: catalogue{store, storePatience}}
	return b.Verify(ctx, scope, func(ev api.VerifyEvent) error {
		emit(ev)
		return nil
	})
}
