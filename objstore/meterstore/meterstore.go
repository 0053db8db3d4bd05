package meterstore

import (
	"context"
	"errors"
	"sync/atomic"
	"time"

	"github.com/bough-db/bough/objstore"
)

// Counts is what was counted for one verb.
type Counts struct {
	// Requests that have ended, whatever the outcome.
	Requests int64 `json:"requests"`
	// Refusals ended with an answer that is an error: not there, there
	// already, changed by someone else.
	Refusals int64 `json:"refusals"`
	// Failures ended with any other error.
	Failures int64 `json:"failures"`
	// InFlight requests have begun and not ended.
	InFlight int64 `json:"in_flight"`
	// Bytes of object contents: received by Get and ReadAt, sent by Put. A
	// Put that was refused or failed counts too, since its body was sent.
	Bytes int64 `json:"bytes"`
	// Time is the sum of the durations of the requests that have ended.
	Time time.Duration `json:"time_ns"`
}

// Add returns the sum of both.
func (c Counts) Add(d Counts) Counts {
	return Counts{
		Requests: c.Requests + d.Requests,
		Refusals: c.Refusals + d.Refusals,
		Failures: c.Failures + d.Failures,
		InFlight: c.InFlight + d.InFlight,
		Bytes:    c.Bytes + d.Bytes,
		Time:     c.Time + d.Time,
	}
}

// Sub returns what was counted after d was: c minus d. InFlight is that of c.
func (c Counts) Sub(d Counts) Counts {
	return Counts{
		Requests: c.Requests - d.Requests,
		Refusals: c.Refusals - d.Refusals,
		Failures: c.Failures - d.Failures,
		InFlight: c.InFlight,
		Bytes:    c.Bytes - d.Bytes,
		Time:     c.Time - d.Time,
	}
}

// Snapshot holds the counts of every verb, indexed by objstore.Verb.
type Snapshot [objstore.Verbs]Counts

// Total returns the sum over all verbs.
func (s Snapshot) Total() Counts {
	var total Counts
	for _, c := range s {
		total = total.Add(c)
	}
	return total
}

// Sub returns what was counted after old was taken.
func (s Snapshot) Sub(old Snapshot) Snapshot {
	for v := range s {
		s[v] = s[v].Sub(old[v])
	}
	return s
}

// Store passes every call on to another store and counts it.
type Store struct {
	inner  objstore.Store
	now    func() time.Time
	meters [objstore.Verbs]meter
}

type meter struct {
	requests, refusals, failures, inFlight, bytes, nanos atomic.Int64
	// Verbs are counted by different goroutines: keep them off each other's
	// cache lines.
	_ [16]byte
}

var _ objstore.Store = (*Store)(nil)

// New returns a store that counts the calls it passes on to inner. Time is read
// from now; nil means time.Now.
func New(inner objstore.Store, now func() time.Time) *Store {
	if now == nil {
		now = time.Now
	}
	return &Store{inner: inner, now: now}
}

// Snapshot returns the counts since New.
func (s *Store) Snapshot() Snapshot {
	var snap Snapshot
	for v := range snap {
		m := &s.meters[v]
		snap[v] = Counts{
			Requests: m.requests.Load(),
			Refusals: m.refusals.Load(),
			Failures: m.failures.Load(),
			InFlight: m.inFlight.Load(),
			Bytes:    m.bytes.Load(),
			Time:     time.Duration(m.nanos.Load()),
		}
	}
	return snap
}

func (s *Store) begin(v objstore.Verb) time.Time {
	s.meters[v].inFlight.Add(1)
	return s.now()
}

func (s *Store) end(v objstore.Verb, begun time.Time, bytes int, err error) {
	m := &s.meters[v]
	m.nanos.Add(int64(s.now().Sub(begun)))
	m.bytes.Add(int64(bytes))
	switch {
	case err == nil:
	case errors.Is(err, objstore.ErrNotExist), errors.Is(err, objstore.ErrExists), errors.Is(err, objstore.ErrMismatch):
		m.refusals.Add(1)
	default:
		m.failures.Add(1)
	}
	m.requests.Add(1)
	m.inFlight.Add(-1)
}

// Get passes the call on and counts it.
func (s *Store) Get(ctx context.Context, key string) ([]byte, objstore.Info, error) {
	t := s.begin(objstore.VerbGet)
	p, info, err := s.inner.Get(ctx, key)
	s.end(objstore.VerbGet, t, len(p), err)
	return p, info, err
}

// ReadAt passes the call on and counts it.
func (s *Store) ReadAt(ctx context.Context, key string, p []byte, off int64) (int, objstore.Info, error) {
	t := s.begin(objstore.VerbReadAt)
	n, info, err := s.inner.ReadAt(ctx, key, p, off)
	s.end(objstore.VerbReadAt, t, n, err)
	return n, info, err
}

// Put passes the call on and counts it.
func (s *Store) Put(ctx context.Context, key string, data []byte, cond objstore.Condition) (string, error) {
	t := s.begin(objstore.VerbPut)
	tag, err := s.inner.Put(ctx, key, data, cond)
	s.end(objstore.VerbPut, t, len(data), err)
	return tag, err
}

// List passes the call on and counts it.
func (s *Store) List(ctx context.Context, prefix, after string, limit int) ([]objstore.Info, error) {
	t := s.begin(objstore.VerbList)
	infos, err := s.inner.List(ctx, prefix, after, limit)
	s.end(objstore.VerbList, t, 0, err)
	return infos, err
}

// Delete passes the call on and counts it.
func (s *Store) Delete(ctx context.Context, key string) error {
	t := s.begin(objstore.VerbDelete)
	err := s.inner.Delete(ctx, key)
	s.end(objstore.VerbDelete, t, 0, err)
	return err
}
