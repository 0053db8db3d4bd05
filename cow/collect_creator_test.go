package cow

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"
	"testing/synctest"
	"time"

	ask "github.com/bough-db/bough/cow/point"
	"github.com/bough-db/bough/objstore"
	"github.com/bough-db/bough/objstore/faultstore"
)

// makers make something that needs an old barrier. Each is held up at each of its calls.
var makers = []struct {
	name string
	do   func(s *scene, w *world, b *chronicleBranch, at chronicleBarrier) error
}{
	{"branch", func(s *scene, w *world, b *chronicleBranch, at chronicleBarrier) error {
		return s.history.makeBranch(context.Background(), w.store, "new", b, at)
	}},
	{"snapshot", func(s *scene, w *world, b *chronicleBranch, at chronicleBarrier) error {
		return s.history.snapshot(context.Background(), w.store, b, "new", at)
	}},
	{"restore", func(s *scene, w *world, b *chronicleBranch, at chronicleBarrier) error {
		return s.history.restore(context.Background(), w.store, b, at)
	}},
	{"project", func(s *scene, w *world, b *chronicleBranch, _ chronicleBarrier) error {
		_, info, err := w.store.CreateProject(context.Background(), "q", ProjectOptions{From: b.id})
		if err == nil {
			s.history.branches = append(s.history.branches, &chronicleBranch{id: info.ID, name: "q", project: "q", now: b.now})
		}
		return err
	}},
	{"delete and undelete", func(s *scene, w *world, b *chronicleBranch, _ chronicleBarrier) error {
		ctx := context.Background()
		if err := w.store.DeleteBranch(ctx, "p", b.name); err != nil {
			return err
		}
		b.deleted = true
		_, err := w.store.UndeleteBranch(ctx, b.id, "")
		if err == nil {
			b.deleted = false
		}
		return err
	}},
}

// TestCollectWhileMaking holds up whoever makes a branch of an old barrier, names one,
// restores a branch to one or brings a branch back, at each of his calls, for a day and
// a half or two weeks in which others collect. What he then has is there, or he was
// told that it is not. I6.
func TestCollectWhileMaking(t *testing.T) {
	for i, m := range makers {
		t.Run(m.name, func(t *testing.T) {
			forSeeds(t, 24, func(t *testing.T, rng *rand.Rand, steps int) {
				synctest.Test(t, func(t *testing.T) {
					pause := func() time.Duration { return time.Duration(rng.IntN(600)) * time.Second }
					history, mem := chronicled(t, rng, steps, false, pause)
					made, refused := 0, 0
					for k := 1; ; k++ {
						s := &scene{
							t: t, rng: rng, history: history.copy(), mem: mem.Clone(), keeps: noHistory,
							opts: CollectOptions{Full: true, Recent: -1, Grace: -1, Undelete: 12 * time.Hour, Sweep: true},
						}
						held := []time.Duration{0, 36 * time.Hour, 14 * 24 * time.Hour}[rng.IntN(3)]
						reached, ok, err := s.hold(k, i, held)
						if err != nil {
							t.Fatalf("held up for %v at call %d: %v", held, k, err)
						}
						if !reached {
							break
						}
						if ok {
							made++
						} else {
							refused++
						}
					}
					t.Logf("made %d times, refused %d times", made, refused)
				})
			})
		})
	}
}

// hold lets a maker make something, and holds it up at call k while others collect.
func (s *scene) hold(k, maker int, long time.Duration) (reached, ok bool, err error) {
	ctx := context.Background()
	objects := faultstore.New(s.mem, faultstore.Options{})
	w := s.host("maker", objects)
	defer func() { _ = w.shut() }()
	other := s.host("other", s.mem)
	defer other.stop()
	all := s.history.living()
	b := all[s.rng.IntN(len(all))]
	if len(b.barriers) == 0 {
		b = all[0]
	}
	at := chronicleBarrier{contentsOf: b.now}
	if n := len(b.barriers); n > 0 {
		if at = b.barriers[n-1]; k%2 == 0 { // else the head, which stays
			at = b.barriers[s.rng.IntN(n)]
		}
	}
	var herr error
	collect := func() {
		for range 5 {
			rep, err := other.store.Collect(ctx, s.opts)
			if err == nil && len(rep.Problems) > 0 {
				err = errors.New(rep.Problems[0].Detail)
			}
			herr = errors.Join(herr, err)
			wait(long / 5)
		}
	}
	objects.Add(faultstore.Rule{Verb: faultstore.AnyVerb, Nth: k, Wait: func(context.Context, faultstore.Op) error {
		reached = true
		collect()
		return nil
	}})
	err = makers[maker].do(s, w, b, at)
	if herr != nil {
		return reached, false, herr
	}
	ok = err == nil
	if !ok && !errors.Is(err, ErrNotKept) && !errors.Is(err, ErrNoPoint) && !errors.Is(err, ErrNotFound) {
		return reached, ok, fmt.Errorf("%s: %w", makers[maker].name, err)
	}
	s.opts.Recent = time.Hour // what a restored branch began with is its head
	for range 3 {
		wait(26 * time.Hour)
		collect()
	}
	fresh := s.host("fresh", s.mem)
	defer fresh.stop()
	if _, err := s.history.verify(ctx, fresh.store, s.keeps, s.opts); err != nil {
		return reached, ok, err
	}
	if err := s.heads(fresh); err != nil {
		return reached, ok, err
	}
	return reached, ok, fresh.whole()
}

// TestSweepUnclaimed: a branch whose creation was cut short goes after a while; one that
// was only held up does not.
func TestSweepUnclaimed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx := context.Background()
		w := newWorld(t, Options{SealAfter: time.Second, Retention: &noHistory})
		b := w.makeProject("p", deviceBytes)
		w.write(b, 1, 1)
		w.closeBranch(b)
		m, _, err := w.store.newManifest(ctx, "p", "lost", b.ID(), ask.Point{}, 0)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.store.putManifest(ctx, m, objstore.Condition{IfAbsent: true}); err != nil {
			t.Fatal(err)
		}
		o := CollectOptions{Recent: -1, Grace: -1, Undelete: -1, Sweep: true}
		there := func(want bool) {
			t.Helper()
			for range 3 {
				w.collect(o)
			}
			if _, _, err := w.store.readManifest(ctx, m.ID); (err == nil) != want {
				t.Errorf("manifest that no name leads to: %v, want it there: %v", err, want)
			}
		}
		there(true) // somebody may be at it
		wait(25 * time.Hour)
		there(false)
		w.expect(w.open(b.ID()), 1, 1)
	})
}

// TestSweepNameless: what a writer that slept stores in a branch that was removed
// meanwhile goes again.
func TestSweepNameless(t *testing.T) {
	w := newWorld(t, Options{SealAfter: time.Hour})
	b := w.makeProject("p", deviceBytes)
	w.write(b, 1, 1)
	w.closeBranch(b)
	const gone = BranchID("br-calm-oak-00000001")
	putObject(t, w.objects, segmentKey(gone, 7), []byte("late"))
	w.collect(CollectOptions{})
	if _, _, err := w.objects.Get(t.Context(), segmentKey(gone, 7)); err != nil {
		t.Errorf("a collection that does not sweep: %v", err)
	}
	w.collect(CollectOptions{Sweep: true})
	if _, _, err := w.objects.Get(t.Context(), segmentKey(gone, 7)); !errors.Is(err, objstore.ErrNotExist) {
		t.Errorf("segment without a branch after a sweep: %v", err)
	}
	w.expect(w.open(b.ID()), 1, 1)
	w.checkWhole()
}
