package cow

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"
	"testing/synctest"
	"time"

	"github.com/bough-db/bough/objstore"
	"github.com/bough-db/bough/objstore/faultstore"
	"github.com/bough-db/bough/objstore/memstore"
)

// scene is a store with a history, and what happens at one moment of a collection of
// it.
type scene struct {
	t       *testing.T
	rng     *rand.Rand
	history *chronicle
	mem     *memstore.Store
	keeps   Retention
	opts    CollectOptions
}

// host starts a host on the scene's store, seen through objects.
func (s *scene) host(name string, objects objstore.Store) *world {
	w := &world{t: s.t, objects: objects, opts: Options{
		SealAfter: time.Second, CheckpointSegments: 3, Host: name, Shared: true, Retention: &s.keeps, Pages: 64, Indexes: 16,
	}}
	w.mustStart()
	return w
}

// happenings are what other hosts do while a collection is held up at one of its
// calls, or what becomes of it.
var happenings = []struct {
	name string
	do   func(s *scene, other *world) error
}{
	{"crash", func(*scene, *world) error { return nil }},
	{"another collection", func(s *scene, other *world) error {
		_, err := other.store.Collect(context.Background(), s.opts)
		return err
	}},
	{"a week goes by, and others collect", func(s *scene, other *world) error {
		for range 4 {
			wait(2 * 24 * time.Hour)
			if _, err := other.store.Collect(context.Background(), s.opts); err != nil {
				return err
			}
		}
		return nil
	}},
	{"branches are made of everything", func(s *scene, other *world) error {
		return s.branchAll(other)
	}},
	{"a branch is deleted", func(s *scene, other *world) error {
		all := s.history.living()
		b := all[s.rng.IntN(len(all))]
		if len(all) == 1 || b.name == MainBranch {
			return nil
		}
		if err := other.store.DeleteBranch(context.Background(), "p", b.name); err != nil {
			return err
		}
		b.deleted = true
		return nil
	}},
	{"branches are restored and named", func(s *scene, other *world) error {
		ctx := context.Background()
		for _, b := range s.history.living() {
			d, err := other.store.OpenWith(ctx, b.id, OpenOptions{TakeOver: TakeOverLossy})
			if err != nil {
				return err
			}
			b.note(d)
			if err := d.Close(ctx); err != nil {
				return err
			}
			if len(b.barriers) == 0 {
				continue
			}
			any := b.barriers[s.rng.IntN(len(b.barriers))]
			if s.rng.IntN(2) == 0 {
				err = s.history.restore(ctx, other.store, b, any)
			} else {
				err = s.history.snapshot(ctx, other.store, b, "late", any)
			}
			if err != nil && !errors.Is(err, ErrNotKept) && !errors.Is(err, ErrNoPoint) {
				return err
			}
		}
		return nil
	}},
	{"others read", func(s *scene, other *world) error {
		_, err := s.history.verify(context.Background(), other.store, s.keeps, s.opts)
		return err
	}},
	{"others write", func(s *scene, other *world) error {
		ctx := context.Background()
		for _, b := range s.history.living() {
			if s.rng.IntN(2) == 0 {
				continue
			}
			d, err := other.store.OpenWith(ctx, b.id, OpenOptions{TakeOver: TakeOverLossy})
			if err != nil {
				return err
			}
			b.note(d)
			for range 1 + s.rng.IntN(4) {
				if err := s.history.write(ctx, s.rng, b, d); err != nil {
					return err
				}
				wait(2 * time.Second)
			}
			if err := d.Close(ctx); err != nil {
				return err
			}
		}
		return nil
	}},
}

// branchAll makes a branch of each barrier that there ever was, as far as it is kept.
func (s *scene) branchAll(other *world) error {
	ctx := context.Background()
	for _, b := range s.history.living() {
		for _, k := range b.barriers {
			err := s.history.makeBranch(ctx, other.store, fmt.Sprintf("x-%s-%d", b.name, k.at.Seq), b, k)
			if err != nil && !errors.Is(err, ErrNotKept) && !errors.Is(err, ErrNoPoint) {
				return err
			}
			if err == nil { // it has to hold what it began as, and to be of use
				c := s.history.branches[len(s.history.branches)-1]
				if s.rng.IntN(4) > 0 {
					continue
				}
				d, err := s.history.open(ctx, other.store, c)
				if err != nil {
					return err
				}
				if err := s.history.write(ctx, s.rng, c, d); err != nil {
					return err
				}
				if err := d.Close(ctx); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// heads compares what every living branch holds with what it has to.
func (s *scene) heads(w *world) error {
	ctx := context.Background()
	for _, b := range s.history.living() {
		d, err := w.store.OpenWith(ctx, b.id, OpenOptions{TakeOver: TakeOverLossy})
		if err != nil {
			return fmt.Errorf("%s: %w", b.name, err)
		}
		b.note(d)
		t, _ := d.fork(d.log)
		got, err := readTree(ctx, w.store, d.lineage, &t)
		if err == nil && got != b.now {
			err = errors.New("its head is not what was written last")
		}
		if err := errors.Join(err, d.Close(ctx)); err != nil {
			return fmt.Errorf("%s: %w", b.name, err)
		}
	}
	return nil
}

// play collects the scene, lets something happen at call k, and checks everything. It
// returns false if the collection makes fewer calls.
func (s *scene) play(k int, happening int) (reached bool, err error) {
	ctx := context.Background()
	objects := faultstore.New(s.mem, faultstore.Options{})
	w := s.host("collector", objects)
	defer func() { _ = w.shut() }()
	other := s.host("other", s.mem)
	defer other.stop()
	var herr error
	h := happenings[happening]
	crash := h.name == "crash"
	objects.Add(faultstore.Rule{Verb: faultstore.AnyVerb, Nth: k, Wait: func(_ context.Context, op faultstore.Op) error {
		reached = true
		if herr = h.do(s, other); herr != nil {
			herr = fmt.Errorf("%s: %w", h.name, herr)
		}
		if crash {
			return errors.New("crashed")
		}
		return nil
	}})
	if crash {
		objects.Add(faultstore.Rule{Verb: faultstore.AnyVerb, Nth: 1, Times: -1, Match: func(faultstore.Op) bool { return reached }, Fault: faultstore.ErrorBefore})
	}
	rep, err := w.store.Collect(ctx, s.opts)
	if herr != nil {
		return reached, herr
	}
	if !crash {
		if err == nil && len(rep.Problems) > 0 {
			err = errors.New(rep.Problems[0].Detail)
		}
		if err != nil {
			return reached, fmt.Errorf("collect: %w", err)
		}
	}
	objects.Heal()
	w.stop()
	if _, err := s.history.verify(ctx, other.store, s.keeps, s.opts); err != nil {
		return reached, fmt.Errorf("after the collection: %w", err)
	}
	if err := s.heads(other); err != nil {
		return reached, fmt.Errorf("after the collection: %w", err)
	}
	wait(2 * time.Hour)
	for range 2 {
		rep, err := other.store.Collect(ctx, s.opts)
		if err == nil && len(rep.Problems) > 0 {
			err = errors.New(rep.Problems[0].Detail)
		}
		if err != nil {
			return reached, fmt.Errorf("collect once more: %w", err)
		}
		wait(s.opts.Grace + time.Minute)
	}
	fresh := s.host("fresh", s.mem)
	defer fresh.stop()
	if _, err := s.history.verify(ctx, fresh.store, s.keeps, s.opts); err != nil {
		return reached, fmt.Errorf("after one more: %w", err)
	}
	return reached, fresh.whole()
}

// TestCollectEverywhere holds a collection up at each of its calls, and lets something
// happen there: a crash, other collections, a week, branches made of every barrier,
// deletions, readers, writers. All that has to be there is there afterwards, exactly.
// I3, I6.
func TestCollectEverywhere(t *testing.T) {
	for i, h := range happenings {
		t.Run(h.name, func(t *testing.T) {
			forSeeds(t, 24, func(t *testing.T, rng *rand.Rand, steps int) {
				synctest.Test(t, func(t *testing.T) {
					keeps := []Retention{noHistory, {Tiers: []Tier{{Age: time.Hour}, {Age: 6 * time.Hour, Every: 10 * time.Minute}}}}[rng.IntN(2)]
					pause := func() time.Duration { return time.Duration(rng.IntN(600)) * time.Second }
					left := rng.IntN(2) == 0
					history, mem := chronicled(t, rng, steps, left, pause)
					wait(time.Duration(rng.IntN(12)) * time.Hour)
					calls := 0
					for k := 1; ; k += 1 + rng.IntN(1+k/20) {
						grace := time.Duration(rng.IntN(2)*2-1) * time.Minute
						s := &scene{
							t: t, rng: rng, history: history.copy(), mem: mem.Clone(), keeps: keeps,
							opts: CollectOptions{Full: true, Recent: 5 * time.Minute, Grace: grace, Undelete: -1},
						}
						reached, err := s.play(k, i)
						if err != nil {
							t.Fatalf("at call %d: %v", k, err)
						}
						if !reached {
							break
						}
						calls++
					}
					t.Logf("%d calls, left %v, history %v", calls, left, keeps)
				})
			})
		})
	}
}
