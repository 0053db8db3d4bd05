package s3store

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/bough-db/bough/objstore"
)

// How long to wait before a request is repeated: the first time, and at most. Each
// time it is twice as long, and up to half of it is left out at random, so that
// callers who failed together do not come back together.
const (
	retryFirst = 50 * time.Millisecond
	retryMax   = 5 * time.Second
	// conflictFirst is for puts that met another one under way.
	conflictFirst = 10 * time.Millisecond
)

// bytesPerSecond is the slowest transfer that a call waits for.
const bytesPerSecond = 128 << 10

// warnAfter is how long a call is repeated before the log hears of it above debug.
const warnAfter = 2 * time.Second

// call names what is being done, in errors and to the judge of errors.
type call struct {
	verb objstore.Verb
	key  string
}

// String returns the call as errors begin.
func (c call) String() string {
	if c.key == "" {
		return c.verb.String()
	}
	return c.verb.String() + " " + c.key
}

// retry calls try until it succeeds, fails for good, or has failed for RetryFor.
// It returns errors fit for the caller of the store.
func (s *Store) retry(ctx context.Context, c call, try func(context.Context) error) error {
	begun := time.Now()
	wait, warned := retryFirst, false
	for n := 1; ; n++ {
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("%v: %w", c, err)
		}
		err := try(ctx)
		if err == nil {
			s.accepted.Store(true)
			if warned {
				s.log.Info("object store answers again", "verb", c.verb, "key", c.key, "after", time.Since(begun).Round(time.Millisecond))
			}
			return nil
		}
		if ctx.Err() != nil {
			return fmt.Errorf("%v: %w", c, joinOnce(ctx.Err(), err))
		}
		pause := time.Duration(0)
		switch s.judge(c, n, err) {
		case final:
			return s.explain(c, err)
		case conflict:
			pause = jitter(min(conflictFirst<<min(n-1, 10), retryMax))
		case transient:
			pause = jitter(wait)
			wait = min(2*wait, retryMax)
		case renewed:
		}
		spent := time.Since(begun)
		if spent+pause > s.opts.RetryFor {
			return fmt.Errorf("%w (tried %d times in %v)", s.explain(c, err), n, spent.Round(time.Millisecond))
		}
		s.retries.Add(1)
		if spent > warnAfter && !warned {
			warned = true
			s.log.Warn("object store does not answer well: will try again", "verb", c.verb, "key", c.key, "err", s.explain(c, err))
		} else {
			s.log.Debug("request is repeated", "verb", c.verb, "key", c.key, "err", err)
		}
		if !sleep(ctx, pause) {
			return fmt.Errorf("%v: %w", c, joinOnce(ctx.Err(), err))
		}
	}
}

// joinOnce returns both errors as one, or just why if err says the same.
func joinOnce(why, err error) error {
	if errors.Is(err, why) {
		return why
	}
	return fmt.Errorf("%w (%s)", why, oneLine(err))
}

func jitter(d time.Duration) time.Duration { return d - rand.N(d/2+1) }

// sleep waits for d, and reports false if the context ended first.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// errSlow: a request took longer than it may.
var errSlow = errors.New("no answer in time")

// limit bounds the time of one request.
type limit struct {
	ctx    context.Context
	cancel context.CancelCauseFunc
	timer  *time.Timer
	length time.Duration
	begun  time.Time
}

// limit returns a context that ends when one request with a body of so many bytes
// has taken too long. The caller ends the limit, whatever happens.
func (s *Store) limit(ctx context.Context, bytes int64) (context.Context, *limit) {
	l := &limit{begun: time.Now(), length: s.opts.CallTime + transferTime(bytes)}
	l.ctx, l.cancel = context.WithCancelCause(ctx)
	l.timer = time.AfterFunc(l.length, func() { l.cancel(errSlow) })
	return l.ctx, l
}

func transferTime(bytes int64) time.Duration {
	return time.Duration(bytes) * (time.Second / bytesPerSecond)
}

// extend gives a request time for so many bytes more, once their number is known.
func (l *limit) extend(bytes int64) {
	l.length += transferTime(bytes)
	l.timer.Reset(l.length - time.Since(l.begun))
}

// cause returns err, or that the time was over if that is why.
func (l *limit) cause(err error) error {
	if err != nil && context.Cause(l.ctx) == errSlow {
		return fmt.Errorf("%w: %v", errSlow, l.length)
	}
	return err
}

// end lets go of the context and of the timer.
func (l *limit) end() {
	l.timer.Stop()
	l.cancel(nil)
}
