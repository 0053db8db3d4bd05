package objstore

import (
	"context"
	"errors"
	"fmt"
	"sync"
)

// ErrUnfit is wrapped by the error of [Probe] when the store answers, but not as
// the contract demands: on such a store two writers would overwrite each other.
var ErrUnfit = errors.New("object store does not keep the contract")

// probeRacers is how many concurrent puts Probe lets race.
const probeRacers = 8

// Probe tries what the contract demands on a live store: both conditions, one
// at a time and in a race of eight, ranged and tail reads, and listing and
// reading straight after puts and deletes. It works on keys that begin with
// prefix and a slash, which must be this call's own (give it a nonce), and
// removes them. It returns every violation, joined, each wrapping [ErrUnfit]; or
// the first error that kept it from asking.
func Probe(ctx context.Context, s Store, prefix string) error {
	p := &probe{s: s, key: prefix + "/object", race: prefix + "/race"}
	err := p.run(ctx, prefix)
	// Whatever was left behind has a key of its own and harms nobody, but a
	// cancelled context is no reason to leave it.
	clean := context.WithoutCancel(ctx)
	err = errors.Join(err, s.Delete(clean, p.key), s.Delete(clean, p.race))
	if err != nil {
		return fmt.Errorf("probe object store: %w", err)
	}
	return nil
}

type probe struct {
	s         Store
	key, race string
	found     []error // violations
}

// want notes a violation unless ok.
func (p *probe) want(ok bool, format string, args ...any) {
	if !ok {
		p.found = append(p.found, fmt.Errorf("%w: %s", ErrUnfit, fmt.Sprintf(format, args...)))
	}
}

// run returns the violations, or the error that stopped it.
func (p *probe) run(ctx context.Context, prefix string) error {
	for _, step := range []func(context.Context) error{p.absent, p.match, p.ranges, p.races} {
		if err := step(ctx); err != nil {
			return err
		}
	}
	if err := p.listed(ctx, prefix); err != nil {
		return err
	}
	return errors.Join(p.found...)
}

// refused reports whether err is the refusal want. Another error than that says
// nothing about the store and is handed back.
func refused(err, want error) (bool, error) {
	if err == nil || errors.Is(err, want) {
		return err != nil, nil
	}
	return false, err
}

func (p *probe) absent(ctx context.Context) error {
	_, _, err := p.s.Get(ctx, p.key)
	missing, err := refused(err, ErrNotExist)
	if err != nil {
		return err
	}
	p.want(missing, "%s was there before the first put", p.key)
	if _, err := p.s.Put(ctx, p.key, []byte("first"), Condition{IfAbsent: true}); err != nil {
		return err
	}
	_, err = p.s.Put(ctx, p.key, []byte("second"), Condition{IfAbsent: true})
	ok, err := refused(err, ErrExists)
	if err != nil {
		return err
	}
	p.want(ok, "a second put with If-None-Match: * succeeded")
	return nil
}

func (p *probe) match(ctx context.Context) error {
	_, first, err := p.s.Get(ctx, p.key)
	if err != nil {
		return err
	}
	if _, err := p.s.Put(ctx, p.key, []byte("third, longer"), Condition{IfMatch: first.Tag}); err != nil {
		return err
	}
	_, err = p.s.Put(ctx, p.key, []byte("fourth"), Condition{IfMatch: first.Tag})
	ok, err := refused(err, ErrMismatch)
	if err != nil {
		return err
	}
	p.want(ok, "a put with a stale If-Match succeeded")
	_, err = p.s.Put(ctx, p.race, []byte("fifth"), Condition{IfMatch: first.Tag})
	ok, err = refused(err, ErrMismatch)
	if err != nil {
		return err
	}
	p.want(ok, "a put with If-Match created an object")
	return p.s.Delete(ctx, p.race)
}

func (p *probe) ranges(ctx context.Context) error {
	body, info, err := p.s.Get(ctx, p.key)
	if err != nil {
		return err
	}
	p.want(string(body) == "third, longer", "get after put returned %q", body)
	part := make([]byte, 6)
	for _, off := range []int64{-6, 7} {
		n, got, err := p.s.ReadAt(ctx, p.key, part, off)
		if err != nil {
			return err
		}
		p.want(n == 6 && string(part) == "longer", "6 bytes at %d are %q", off, part[:n])
		p.want(got.Size == 13, "a ranged read says that 13 bytes are %d", got.Size)
		p.want(got.Tag == info.Tag, "a ranged read has tag %q, a whole one %q", got.Tag, info.Tag)
	}
	return nil
}

func (p *probe) races(ctx context.Context) error {
	winners := func(cond Condition, lost error) (int, error) {
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
	n, err := winners(Condition{IfAbsent: true}, ErrExists)
	if err != nil {
		return err
	}
	p.want(n == 1, "%d of %d concurrent puts with If-None-Match: * succeeded", n, probeRacers)
	tag, err := p.s.Put(ctx, p.race, []byte("the prize"), Condition{})
	if err != nil {
		return err
	}
	n, err = winners(Condition{IfMatch: tag}, ErrMismatch)
	if err != nil {
		return err
	}
	p.want(n == 1, "%d of %d concurrent puts with If-Match succeeded", n, probeRacers)
	return nil
}

func (p *probe) listed(ctx context.Context, prefix string) error {
	infos, err := p.s.List(ctx, prefix+"/", "", 0)
	if err != nil {
		return err
	}
	p.want(len(infos) == 2 && infos[0].Key == p.key && infos[1].Key == p.race,
		"list after put returned %v", infos)
	if err := p.s.Delete(ctx, p.key); err != nil {
		return err
	}
	_, _, err = p.s.Get(ctx, p.key)
	ok, err := refused(err, ErrNotExist)
	if err != nil {
		return err
	}
	p.want(ok, "get after delete found the object")
	infos, err = p.s.List(ctx, prefix+"/", "", 0)
	if err != nil {
		return err
	}
	p.want(len(infos) == 1, "list after delete returned %v", infos)
	return nil
}
