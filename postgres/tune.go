package postgres

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
)

const (
	// tuneTick is how long a pause is tried: some twenty flushes.
	tuneTick = 800 * time.Millisecond
	// tuneRest is how long the best one is left alone.
	tuneRest = time.Minute
	// tuneFewest is how many transactions it takes to tell a rate.
	tuneFewest = 25
)

// tuning is how far the search for an endpoint's pause is.
type tuning struct {
	server *server
	group  int // of clients, that the search is for
	pacer  *pacer
	conn   *pgx.Conn
	count  int64     // transactions that had written at
	at     time.Time // when; zero: not known
	rest   time.Time // until when it is left alone
}

// wakeTuner tells Tune that there may be something to do.
func (m *Manager) wakeTuner() {
	select {
	case m.retuned <- struct{}{}:
	default:
	}
}

// Tune adapts running endpoints at durability remote to what they do, until ctx ends:
// one that has just started gets a file of WAL that suits it, and for one with several
// clients it looks for the best pause before a flush. While there is none it does nothing.
func (m *Manager) Tune(ctx context.Context) {
	all := map[*endpoint]*tuning{}
	tick := time.NewTicker(tuneTick)
	tick.Stop()
	defer func() {
		tick.Stop()
		for _, t := range all {
			t.close()
		}
	}()
	for {
		select {
		case <-tick.C:
		case <-m.retuned:
			if len(all) > 0 {
				continue // there is a tick soon
			}
			tick.Reset(tuneTick)
		case <-ctx.Done():
			return
		}
		endpoints := m.all()
		for e, t := range all {
			if !slices.Contains(endpoints, e) { // its branch was deleted
				t.close()
				delete(all, e)
			}
		}
		for _, e := range endpoints {
			t, err := m.tune(ctx, e, all[e])
			if err != nil && ctx.Err() == nil {
				m.options.Logger.Debug("the pause before a flush is not adapted", "id", e.id, "err", err)
			}
			if t == nil {
				delete(all, e)
			} else {
				all[e] = t
			}
		}
		if len(all) == 0 {
			tick.Stop()
		}
	}
}

// tune does one step of the search for the pause of an endpoint. It returns nil if there
// is nothing to look for.
func (m *Manager) tune(ctx context.Context, e *endpoint, t *tuning) (*tuning, error) {
	e.mu.Lock()
	s := e.running()
	var c serverConfig
	if s != nil {
		c = s.config
	}
	e.mu.Unlock()
	if s != nil && !s.hasExited() && c.remote && !s.zeroed.Load() {
		m.prepareWAL(ctx, e.id, s)
	}
	_, chosen := c.overrides["commit_delay"]
	if s == nil || s.hasExited() || !c.remote || c.clients < 2 || chosen {
		t.close()
		return nil, nil
	}
	if t == nil || t.server != s || t.group != c.group {
		t.close()
		t = &tuning{server: s, group: c.group, pacer: &pacer{first: firstPause(c.group, c.cores), pause: c.pause}}
	}
	if time.Now().Before(t.rest) {
		return t, nil
	}
	rate, err := t.measure(ctx)
	if err != nil || rate == 0 {
		if err != nil {
			t.leave()
		}
		return t, err
	}
	t.pacer.next(rate)
	e.mu.Lock()
	if e.running() == s {
		_, err = m.reload(e.id, s, func(c *serverConfig) { c.pause = t.pacer.pause })
	}
	e.mu.Unlock()
	if t.pacer.found {
		t.leave()
	}
	return t, err
}

// measure returns how many transactions a second have written since it was called last;
// 0 if it is not known yet.
func (t *tuning) measure(ctx context.Context) (float64, error) {
	ctx, cancel := context.WithTimeout(ctx, reloadWait)
	defer cancel()
	if t.conn == nil {
		conn, err := connectAdmin(ctx, t.server.config.sockets, t.server.config.port, superuser)
		if err != nil {
			return 0, err
		}
		t.conn = conn
	}
	var count int64
	if err := t.conn.QueryRow(ctx, "SELECT txid_snapshot_xmax(txid_current_snapshot())").Scan(&count); err != nil {
		return 0, fmt.Errorf("count transactions: %w", err)
	}
	now := time.Now()
	before, since := t.count, now.Sub(t.at)
	if !t.at.IsZero() && count-before < tuneFewest {
		if since > 4*tuneTick {
			t.leave() // there is nothing to tell by
		}
		return 0, nil
	}
	first := t.at.IsZero()
	t.count, t.at = count, now
	if first {
		return 0, nil
	}
	return float64(count-before) / since.Seconds(), nil
}

// leave leaves the endpoint alone for a while.
func (t *tuning) leave() {
	t.close()
	t.at, t.rest = time.Time{}, time.Now().Add(tuneRest)
}

// close ends the session with the server, if there is one.
func (t *tuning) close() {
	if t == nil || t.conn == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), reloadPoll)
	defer cancel()
	t.conn.Close(ctx) // an error says that the server is gone, or slow: so is the session
	t.conn = nil
}
