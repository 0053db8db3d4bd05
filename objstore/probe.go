package objstore

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"
)

// ErrUnfit is wrapped by the error of [Probe] when the store answers, but not as
// the contract demands: on such a store two writers would overwrite each other.
var ErrUnfit = errors.New("object store does not keep the contract")

const (
	// probeRacers is how many concurrent puts Probe lets race.
	probeRacers = 8
	// probeCleaning bounds the removal of what a probe has put.
	probeCleaning = 10 * time.Second
)

// Check is one demand of the contract, and whether a store was seen to meet it.
type Check struct {
	// Name says what the store has to do, in a few words.
	Name string
	// Err is nil if it did that, else wraps [ErrUnfit] and says what it did.
	Err error
	// Took is the time of all the calls for it.
	Took time.Duration
}

// Probe tries what the contract demands on a live store: both conditions, one
// at a time and in a race of eight, ranged and tail reads, and listing and
// reading straight after puts and deletes. It works on keys that begin with
// prefix and a slash, which must be this call's own (give it a nonce), and
// removes them. It returns every violation, joined, each wrapping [ErrUnfit]; or
// the first error that kept it from asking.
func Probe(ctx context.Context, s Store, prefix string) error {
	checks, err := ProbeChecks(ctx, s, prefix)
	if err != nil {
		return err
	}
	var found []error
	for _, c := range checks {
		found = append(found, c.Err)
	}
	if err := errors.Join(found...); err != nil {
		return fmt.Errorf("probe object store: %w", err)
	}
	return nil
}

// ProbeChecks does what [Probe] does, and returns every check that it made, always
// in the same order. Its error is the first one that kept it from going on, and never
// a violation.
func ProbeChecks(ctx context.Context, s Store, prefix string) ([]Check, error) {
	p := &probe{s: s, one: prefix + "/object/1", two: prefix + "/object/2", list: prefix + "/object/", race: prefix + "/race"}
	lanes := [][]step{
		{
			{"creates an object that is absent", p.create},
			{"refuses to create it twice", p.createTwice},
			{"replaces it by its tag", p.replace},
			{"refuses a stale tag", p.stale},
			{"refuses a tag where there is no object", p.matchNothing},
			{"reads a part of it", p.part},
			{"reads its end", p.end},
			{"lists what was put", p.listed},
			{"forgets what was deleted", p.forgotten},
		},
		{
			{"lets one of 8 concurrent creates win", p.raceCreate},
			{"lets one of 8 concurrent replaces win", p.raceReplace},
		},
	}
	done := make([][]Check, len(lanes))
	both, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var wg sync.WaitGroup
	for i, lane := range lanes {
		wg.Go(func() {
			var err error
			if done[i], err = runLane(both, lane); err != nil {
				cancel(err) // one error is enough to say what is wrong
			}
		})
	}
	wg.Wait()
	var checks []Check
	for _, d := range done {
		checks = append(checks, d...)
	}
	err := context.Cause(both)
	if len(checks) > 0 { // else nothing was put: a store that does not answer is not asked for more
		err = errors.Join(err, p.clean(ctx))
	}
	if err != nil {
		return checks, fmt.Errorf("probe object store: %w", err)
	}
	return checks, nil
}

// clean removes what was put. A cancelled context is no reason to leave it.
func (p *probe) clean(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), probeCleaning)
	defer cancel()
	return errors.Join(p.s.Delete(ctx, p.one), p.s.Delete(ctx, p.two), p.s.Delete(ctx, p.race))
}

// step is a check to be made. run returns a violation or another error.
type step struct {
	name string
	run  func(context.Context) error
}

// runLane makes the checks one after another.
func runLane(ctx context.Context, lane []step) ([]Check, error) {
	var checks []Check
	for _, st := range lane {
		begun := time.Now()
		err := st.run(ctx)
		if err != nil && !errors.Is(err, ErrUnfit) {
			return checks, err
		}
		checks = append(checks, Check{Name: st.name, Err: err, Took: time.Since(begun)})
	}
	return checks, nil
}

// probe is what the checks work with: two lanes, on keys of their own.
type probe struct {
	s              Store
	one, two, list string // keys of the first lane, and the prefix of both
	race           string // key of the second
	tag            string // of one, as the last put of it returned
}

// What one has after the checks of creating and replacing.
const (
	probeBody = "third, longer"
	probePart = "longer"
)

// unfit returns a violation unless ok.
func unfit(ok bool, format string, args ...any) error {
	if ok {
		return nil
	}
	return fmt.Errorf("%w: %s", ErrUnfit, fmt.Sprintf(format, args...))
}

// refused reports whether err is the refusal want. Another error than that says
// nothing about the store and is handed back.
func refused(err, want error) (bool, error) {
	if err == nil || errors.Is(err, want) {
		return err != nil, nil
	}
	return false, err
}

func (p *probe) create(ctx context.Context) error {
	_, _, err := p.s.Get(ctx, p.one)
	missing, err := refused(err, ErrNotExist)
	if err != nil {
		return err
	}
	p.tag, err = p.s.Put(ctx, p.one, []byte("first"), Condition{IfAbsent: missing})
	if errors.Is(err, ErrExists) {
		return unfit(false, "the first put with If-None-Match: * was refused")
	}
	if err != nil {
		return err
	}
	return unfit(missing, "%s was there before the first put", p.one)
}

func (p *probe) createTwice(ctx context.Context) error {
	_, err := p.s.Put(ctx, p.one, []byte("second"), Condition{IfAbsent: true})
	ok, err := refused(err, ErrExists)
	if err != nil || ok {
		return err
	}
	// Its tag is another one now, which the next check is not to fail for.
	_, info, err := p.s.Get(ctx, p.one)
	if err != nil {
		return err
	}
	p.tag = info.Tag
	return unfit(false, "a second put with If-None-Match: * succeeded")
}

func (p *probe) replace(ctx context.Context) error {
	old := p.tag
	tag, err := p.s.Put(ctx, p.one, []byte(probeBody), Condition{IfMatch: old})
	if errors.Is(err, ErrMismatch) {
		return unfit(false, "a put with the tag %q that another one returned was refused", old)
	}
	if err != nil {
		return err
	}
	body, info, err := p.s.Get(ctx, p.one)
	if err != nil {
		return err
	}
	p.tag = old // for the next check: it is stale now
	return errors.Join(
		unfit(string(body) == probeBody, "get after put returned %.40q", body),
		unfit(info.Tag == tag, "get returned the tag %q, put %q", info.Tag, tag),
		unfit(tag != old, "other contents have the same tag %q", tag),
	)
}

func (p *probe) stale(ctx context.Context) error {
	_, err := p.s.Put(ctx, p.one, []byte("a put too late"), Condition{IfMatch: p.tag})
	ok, err := refused(err, ErrMismatch)
	if err != nil || ok {
		return err
	}
	if _, err := p.s.Put(ctx, p.one, []byte(probeBody), Condition{}); err != nil {
		return err
	}
	return unfit(false, "a put with a stale If-Match succeeded")
}

func (p *probe) matchNothing(ctx context.Context) error {
	_, err := p.s.Put(ctx, p.two, []byte("fifth"), Condition{IfMatch: p.tag})
	ok, err := refused(err, ErrMismatch)
	if err != nil {
		return err
	}
	return unfit(ok, "a put with If-Match created an object")
}

func (p *probe) part(ctx context.Context) error {
	return p.readPart(ctx, int64(len(probeBody)-len(probePart)))
}

func (p *probe) end(ctx context.Context) error { return p.readPart(ctx, -int64(len(probePart))) }

// readPart reads the end of the object, as counted by off.
func (p *probe) readPart(ctx context.Context, off int64) error {
	part := make([]byte, len(probePart))
	n, info, err := p.s.ReadAt(ctx, p.one, part, off)
	if err != nil {
		return err
	}
	_, whole, err := p.s.Get(ctx, p.one)
	if err != nil {
		return err
	}
	return errors.Join(
		unfit(string(part[:n]) == probePart, "%d bytes at %d of %q are %q", len(part), off, probeBody, part[:n]),
		unfit(info.Size == int64(len(probeBody)), "a ranged read says that %d bytes are %d", len(probeBody), info.Size),
		unfit(info.Tag == whole.Tag, "a ranged read has tag %q, a whole one %q", info.Tag, whole.Tag),
	)
}

func (p *probe) listed(ctx context.Context) error {
	if _, err := p.s.Put(ctx, p.two, []byte("sixth"), Condition{}); err != nil {
		return err
	}
	all, err := p.s.List(ctx, p.list, "", 0)
	if err != nil {
		return err
	}
	rest, err := p.s.List(ctx, p.list, p.one, 0)
	if err != nil {
		return err
	}
	return errors.Join(
		unfit(len(all) == 2 && all[0].Key == p.one && all[1].Key == p.two, "list after put returned %v", all),
		unfit(len(rest) == 1 && rest[0].Key == p.two, "list after %s returned %v", p.one, rest),
	)
}

func (p *probe) forgotten(ctx context.Context) error {
	if err := p.s.Delete(ctx, p.one); err != nil {
		return err
	}
	_, _, err := p.s.Get(ctx, p.one)
	ok, err := refused(err, ErrNotExist)
	if err != nil {
		return err
	}
	left, err := p.s.List(ctx, p.list, "", 0)
	if err != nil {
		return err
	}
	return errors.Join(
		unfit(ok, "get after delete found the object"),
		unfit(len(left) == 1 && left[0].Key == p.two, "list after delete returned %v", left),
	)
}

func (p *probe) raceCreate(ctx context.Context) error {
	n, err := p.winners(ctx, Condition{IfAbsent: true}, ErrExists)
	if err != nil {
		return err
	}
	return unfit(n == 1, "%d of %d concurrent puts with If-None-Match: * succeeded", n, probeRacers)
}

func (p *probe) raceReplace(ctx context.Context) error {
	tag, err := p.s.Put(ctx, p.race, []byte("the prize"), Condition{})
	if err != nil {
		return err
	}
	n, err := p.winners(ctx, Condition{IfMatch: tag}, ErrMismatch)
	if err != nil {
		return err
	}
	return unfit(n == 1, "%d of %d concurrent puts with If-Match succeeded", n, probeRacers)
}

// winners lets concurrent puts race and returns how many were not refused.
func (p *probe) winners(ctx context.Context, cond Condition, lost error) (int, error) {
	var wg sync.WaitGroup
	errs := make([]error, probeRacers)
	for i := range errs {
		wg.Go(func() {
			_, errs[i] = p.s.Put(ctx, p.race, fmt.Appendf(nil, "racer %d", i), cond)
		})
	}
	wg.Wait()
	won := 0
	for _, err := range errs {
		ok, err := refused(err, lost)
		if err != nil {
			return 0, err
		}
		if !ok {
			won++
		}
	}
	return won, nil
}
