package cow

import (
	"context"
	"errors"
	"fmt"

	"github.com/bough-db/bough/objstore"
	"github.com/bough-db/bough/wal"
)

// loadFenced loads a branch whose last writer did not detach and may be alive
// still, and ends that writer's log: it puts a segment of one barrier that
// changes nothing under the number which that writer uses next. Its put then
// meets a segment that is not its own, and it fails. m is the branch's manifest
// with the epoch of this writer, last the one before.
//
// Without it both go on from the same segment, and the one that stores first
// wins: that may be the old writer, behind the back of the new one.
func (s *Store) loadFenced(ctx context.Context, m, last *manifest) (*loaded, *TakenOver, error) {
	gaps := gapsAreLoss
	if last.Host != s.opts.Host {
		gaps = gapsHappen
	}
	for {
		l, err := s.load(ctx, m, logEnd, 0, gaps)
		if err == nil {
			err = m.checkEpoch(l)
		}
		if err != nil {
			return nil, nil, err
		}
		at := l.at
		at.Segment, at.Seq = at.Segment+1, at.Seq+1
		if now := s.wallTime(); now.After(at.Time) {
			at.Time = now
		}
		if err = s.putFence(ctx, m, at, l); err == nil {
			taken := s.takenOver(m, last, l)
			l.at = at
			return l, taken, nil
		}
		// An orphan in the fence's place may be replaced or made small meanwhile.
		if !errors.Is(err, ErrFenced) && !errors.Is(err, objstore.ErrMismatch) {
			return nil, nil, fmt.Errorf("end the log of the last writer: %w", err)
		}
		// Somebody was quicker. The old writer's segment counts, and the next
		// number is to be closed. A newer writer's fence is the end of this one.
		now, _, rerr := s.readManifest(ctx, m.ID)
		if rerr != nil {
			return nil, nil, rerr
		}
		if now.Epoch != m.Epoch {
			return nil, nil, fmt.Errorf("branch %s/%s was taken over, in epoch %d, while it was opened in epoch %d: %w",
				m.Project, m.Name, now.Epoch, m.Epoch, ErrFenced)
		}
	}
}

// checkEpoch returns ErrFenced if somebody has ended the log under a later epoch than
// that of m, which this writer has raised: it was slow to load the log, and what it
// would put after that end is no part of it.
func (m *manifest) checkEpoch(l *loaded) error {
	if l.epoch > m.Epoch {
		return fmt.Errorf("branch %s/%s was taken over, in epoch %d, while it was opened in epoch %d: %w",
			m.Project, m.Name, l.epoch, m.Epoch, ErrFenced)
	}
	return nil
}

// takenOver describes the end of another host's log, before the fence. It is nil
// if the last writer was this host.
func (s *Store) takenOver(m, last *manifest, l *loaded) *TakenOver {
	if last.Host == s.opts.Host {
		return nil
	}
	t := &TakenOver{Host: last.Host, Seq: l.at.Seq, Time: l.at.Time, Complete: last.durability() == DurabilityRemote}
	s.log.Warn("branch taken over from a host that did not detach it", "branch", m.ID, "name", m.Project+"/"+m.Name,
		"host", last.Host, "barrier", t.Seq, "time", t.Time.UTC(), "complete", t.Complete)
	return t
}

// putFence puts a segment with the one barrier at, which changes nothing, after what
// was loaded.
func (s *Store) putFence(ctx context.Context, m *manifest, at moment, l *loaded) error {
	head := segmentHead{
		Log: m.ID, Number: at.Segment, Epoch: m.Epoch, Host: s.opts.Host, Created: at.Time.UnixNano(), Checkpoint: l.ckpt,
	}
	var err error
	if head.Nonce, err = newNonce(s.random); err != nil {
		return err
	}
	enc, err := s.encoders.take(ctx)
	if err != nil {
		return err
	}
	defer s.encoders.give(enc)
	data, err := enc.encode(head, []wal.Batch{{Seq: at.Seq, Time: at.Time, LSN: at.LSN, Line: at.Line}}, nil, 1)
	if err != nil {
		return err
	}
	return s.putSegment(ctx, segmentKey(m.ID, at.Segment), head, data, l.epoch)
}
