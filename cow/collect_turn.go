package cow

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/bough-db/bough/objstore"
)

// Of the hosts that share a store one at a time collects: whoever has the record
//
//	collector
//
// which says until when. That two do is harmless; it only is of no use.

const (
	turnKey  = "collector"
	turnKind = "collector"
	// turnMax is how long a turn lasts at most: whoever collects for longer, or has
	// died, may meet another one.
	turnMax = 2 * time.Hour
	// sweepEvery is how often a collection in turn sweeps.
	sweepEvery = 24 * time.Hour
)

// turnRecord says who collects.
type turnRecord struct {
	Nonce nonce     `json:"nonce"`
	Host  string    `json:"host"`
	Since time.Time `json:"since"`
	Until time.Time `json:"until"` // until then others leave it to that host
	Swept time.Time `json:"swept,omitzero"`
}

// CollectInTurn collects if no other host does, or has done less than every ago. It
// returns no report if it was another host's turn. Once a day it sweeps.
func (s *Store) CollectInTurn(ctx context.Context, o CollectOptions, every time.Duration) (*CollectReport, error) {
	rec, ok, err := s.takeTurn(ctx, every)
	if err != nil || !ok {
		return nil, err
	}
	now := s.now()
	o.Sweep = o.Sweep || now.Sub(rec.Swept) >= sweepEvery
	rep, err := s.Collect(ctx, o)
	if err != nil {
		return rep, err
	}
	if o.Sweep {
		rec.Swept = now.UTC()
	}
	// The next turn is due when this one would have been over.
	return rep, s.endTurn(ctx, rec, now.Add(every-every/8))
}

// takeTurn takes the turn, unless it is another host's.
func (s *Store) takeTurn(ctx context.Context, every time.Duration) (turnRecord, bool, error) {
	fail := func(err error) (turnRecord, bool, error) {
		return turnRecord{}, false, fmt.Errorf("take the turn to collect: %w", err)
	}
	var rec turnRecord
	tag, err := s.readRecord(ctx, turnKind, turnKey, &rec)
	if err != nil && !isNotExist(err) && !errors.Is(err, ErrCorrupt) {
		return fail(err)
	}
	now := s.now()
	if err == nil && rec.Host != s.opts.Host && now.Before(rec.Until) && rec.Until.Before(now.Add(max(turnMax, every)+time.Minute)) {
		return rec, false, nil
	}
	if errors.Is(err, ErrCorrupt) { // nobody's
		if _, info, err := s.objects.Get(ctx, turnKey); err == nil {
			tag = info.Tag
		}
		rec = turnRecord{}
	}
	rec.Host, rec.Since, rec.Until = s.opts.Host, now.UTC(), now.Add(turnMax).UTC()
	cond := objstore.Condition{IfMatch: tag, IfAbsent: tag == ""}
	err = s.putTurn(ctx, &rec, cond)
	if errors.Is(err, objstore.ErrMismatch) || errors.Is(err, objstore.ErrExists) {
		return rec, false, nil // somebody was quicker
	}
	if err != nil {
		return fail(err)
	}
	return rec, true, nil
}

func (s *Store) putTurn(ctx context.Context, rec *turnRecord, cond objstore.Condition) error {
	var err error
	if rec.Nonce, err = newNonce(s.random); err != nil {
		return err
	}
	data, err := encodeRecord(turnKind, rec)
	if err != nil {
		return err
	}
	_, err = s.objects.Put(ctx, turnKey, data, cond)
	return err
}

// endTurn lets others have the turn from a time on.
func (s *Store) endTurn(ctx context.Context, rec turnRecord, until time.Time) error {
	var now turnRecord
	tag, err := s.readRecord(ctx, turnKind, turnKey, &now)
	if err == nil && now.Nonce == rec.Nonce {
		rec.Until = until.UTC()
		err = s.putTurn(ctx, &rec, objstore.Condition{IfMatch: tag})
	}
	if err == nil || errors.Is(err, objstore.ErrMismatch) {
		return nil // or it took so long that another one has it
	}
	return fmt.Errorf("end the turn to collect: %w", err)
}
