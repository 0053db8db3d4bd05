package cow

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/bough-db/bough/objstore"
)

// HostInfo describes a host that uses the store, so that the others can ask it
// about the branches that it has attached.
type HostInfo struct {
	ID      string    `json:"id"`
	Started time.Time `json:"started"`
	Version string    `json:"version,omitempty"` // of the program
	// Run is drawn anew by each process, so that two that use one ID are told
	// apart.
	Run string `json:"run,omitempty"`
	// API is the address, HOST:PORT, that other hosts reach it at; empty if none.
	API string `json:"api,omitempty"`
	// Network is set where API is a loopback address: it names the one network in
	// which that leads to this host.
	Network string `json:"network,omitempty"`
	// Token is what they show there. Whoever can read the store can read all the
	// data in it anyway.
	Token string `json:"token,omitempty"`
}

const (
	hostKind   = "host"
	hostPrefix = "hosts/"
)

func hostKey(id string) string { return hostPrefix + id }

// PutHost records a host, in place of what was recorded of it before.
func (s *Store) PutHost(ctx context.Context, h HostInfo) error {
	if err := CheckName(h.ID); err != nil {
		return fmt.Errorf("record host: %w", err)
	}
	data, err := encodeRecord(hostKind, &h)
	if err == nil {
		_, err = s.objects.Put(ctx, hostKey(h.ID), data, objstore.Condition{})
	}
	if err != nil {
		return fmt.Errorf("record host %s: %w", h.ID, err)
	}
	return nil
}

// Host returns what a host has recorded of itself, or ErrNotFound.
func (s *Store) Host(ctx context.Context, id string) (HostInfo, error) {
	return ReadHost(ctx, s.objects, id)
}

// ReadHost is Store.Host for who has not opened the store yet: a process that finds
// that another one uses its id must not touch anything.
func ReadHost(ctx context.Context, objects objstore.Store, id string) (HostInfo, error) {
	var h HostInfo
	if err := CheckName(id); err != nil {
		return h, err
	}
	_, err := readRecord(ctx, objects, hostKind, hostKey(id), &h)
	if isNotExist(err) {
		return h, fmt.Errorf("host %s: %w", id, ErrNotFound)
	}
	if err == nil && h.ID != id {
		err = fmt.Errorf("object %s is of host %q: %w", hostKey(id), h.ID, ErrCorrupt)
	}
	if err != nil {
		return h, fmt.Errorf("look up host %s: %w", id, err)
	}
	return h, nil
}

// Hosts returns all hosts that have recorded themselves, by id. One whose record
// can not be read has only its ID.
func (s *Store) Hosts(ctx context.Context) ([]HostInfo, error) {
	ids, err := s.listNames(ctx, hostPrefix)
	if err != nil {
		return nil, err
	}
	return gather(ctx, ids, func(ctx context.Context, id string) (HostInfo, error) {
		h, err := s.Host(ctx, id)
		if err != nil && !errors.Is(err, ErrNotFound) {
			return HostInfo{ID: id}, ctx.Err()
		}
		return h, err
	})
}

// DeleteHost removes a host's record. Branches that it has attached stay its own.
func (s *Store) DeleteHost(ctx context.Context, id string) error {
	if err := CheckName(id); err != nil {
		return err
	}
	if err := s.objects.Delete(ctx, hostKey(id)); err != nil {
		return fmt.Errorf("delete host %s: %w", id, err)
	}
	return nil
}

// HostID returns the id that this process uses the store under.
func (s *Store) HostID() string { return s.opts.Host }
