package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"time"

	"github.com/bough-db/bough/objstore"
	"github.com/bough-db/bough/objstore/dirstore"
	"github.com/bough-db/bough/objstore/s3store"
)

// objects is an object store that has to be closed.
type objects interface {
	objstore.Store
	Close() error
}

// objectOptions are the settings of openObjects.
type objectOptions struct {
	// exclusive: of a directory, nobody else may use it.
	exclusive bool
	// patience is how long a call goes on trying when a server does not answer.
	// Default: the store's own.
	patience time.Duration
	logger   *slog.Logger
}

// openObjects opens the object store at location: an s3:// URL, or a directory.
func openObjects(ctx context.Context, location string, opts objectOptions) (objects, error) {
	// Each is returned apart from its error: a nil *Store in the interface is not nil.
	if !isURL(location) {
		s, err := dirstore.Open(location, dirstore.Options{Exclusive: opts.exclusive, Logger: opts.logger})
		if err != nil {
			return nil, err
		}
		return s, nil
	}
	s, err := s3store.Open(ctx, location, s3store.Options{RetryFor: opts.patience, Logger: opts.logger})
	if err != nil {
		return nil, err
	}
	return s, nil
}

// isURL tells a URL from the name of a directory.
func isURL(location string) bool { return strings.Contains(location, "://") }

// checkLocation returns an error if location is a URL that cannot be that of a store.
func checkLocation(location string) error {
	if !isURL(location) {
		return nil
	}
	_, err := s3store.ParseURL(location)
	return err
}

// probePatience is how long a store that is tried out may be silent: there is somebody
// waiting to hear what is wrong with it.
const probePatience = 10 * time.Second

// probeDir is where probes put their objects, each below a name of its own.
const probeDir = "probe/"

func probePrefix() string { return probeDir + strings.ToLower(rand.Text()) }

// openS3 opens a store in a bucket for a daemon: it refuses one that does not keep the
// contract, or that holds something else than a store.
func openS3(ctx context.Context, url string, log *slog.Logger) (objects, error) {
	if err := probeS3(ctx, url, log); err != nil {
		return nil, err
	}
	return openObjects(ctx, url, objectOptions{logger: log})
}

func probeS3(ctx context.Context, url string, log *slog.Logger) (err error) {
	s, err := openObjects(ctx, url, objectOptions{patience: probePatience, logger: log})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	begun := time.Now()
	if err := checkForeign(ctx, s, url); err != nil {
		return err
	}
	err = objstore.Probe(ctx, s, probePrefix())
	if errors.Is(err, objstore.ErrUnfit) {
		return fmt.Errorf("%w: data would be lost on it: choose another server, and see `bough store check`", err)
	}
	if err != nil {
		return err
	}
	log.Info("object store keeps the contract", "took", time.Since(begun).Round(time.Millisecond))
	return nil
}

// checkForeign refuses a bucket or prefix that is somebody else's, before anything is
// put there.
func checkForeign(ctx context.Context, s objstore.Store, url string) error {
	_, _, err := s.Get(ctx, "format")
	if !errors.Is(err, objstore.ErrNotExist) {
		return err
	}
	found, err := s.List(ctx, "", "", 1)
	if err == nil && len(found) > 0 && strings.HasPrefix(found[0].Key, probeDir) {
		found, err = s.List(ctx, "", probeDir+"~", 1) // past what a probe may have left
	}
	if err != nil {
		return err
	}
	if len(found) > 0 {
		return fmt.Errorf("store %s holds %q, and is not a bough store: choose an empty or new prefix with --store", url, found[0].Key)
	}
	return nil
}

// checkDir refuses a directory that is not there, for those who only want to look.
func checkDir(dir string) error {
	info, err := os.Stat(dir)
	if err != nil {
		return fmt.Errorf("open store directory: %w", err)
	}
	if !info.IsDir() {
		return fmt.Errorf("open store directory: %s is no directory", dir)
	}
	return nil
}
