package cow

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	ask "github.com/bough-db/bough/cow/point"
	"github.com/bough-db/bough/objstore"
	"github.com/bough-db/bough/objstore/faultstore"
	"github.com/bough-db/bough/objstore/memstore"
)

// What the simulation with collectors has found of those who read while somebody else
// changes, loses or takes what they read.

// A sweep that has read a branch's manifest, and looks the name up when a rename has just
// taken that away, leaves the branch alone. Seed 1048519.
func TestSweepOfARenamedBranch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx := context.Background()
		mem := memstore.New(memstore.Options{})
		w := &world{t: t, objects: mem, opts: Options{Host: "a", Shared: true}}
		w.mustStart()
		defer w.stop()
		main := w.makeProject("p", deviceBytes)
		w.write(main, 1, 1)
		b := w.child("p", "b", main)
		id := b.ID()
		w.closeBranch(b)
		m, tag, err := w.store.readManifest(ctx, id)
		if err == nil { // as if nobody had ever opened it
			m.Epoch, m.Clean = 0, false
			_, err = w.store.putManifest(ctx, m, objstore.Condition{IfMatch: tag})
		}
		if err != nil {
			t.Fatal(err)
		}
		wait(48 * time.Hour)
		objects := faultstore.New(mem, faultstore.Options{})
		objects.Add(faultstore.Rule{Verb: objstore.VerbGet, KeyPrefix: nameKey("p", "b"), Wait: func(ctx context.Context, _ faultstore.Op) error {
			return w.store.RenameBranch(ctx, "p", "b", "c")
		}})
		otherHost(t, objects, "c").collect(CollectOptions{Sweep: true})
		if _, err := w.store.Branch(ctx, "p", "c"); err != nil {
			t.Errorf("branch that was renamed during a sweep: %v", err)
		}
		w.expect(w.open(id), 1, 1)
	})
}

// failingParent returns a store with a branch main and a block written to it, and what
// makes it fail before it is stored, and leave its journal behind.
func failingParent(t *testing.T) (w *world, objects *faultstore.Store, main *Branch, fail func() error) {
	t.Helper()
	objects = faultstore.New(memstore.New(memstore.Options{}), faultstore.Options{})
	w = &world{t: t, objects: objects, opts: Options{Host: "a"}}
	w.mustStart()
	t.Cleanup(w.stop)
	main = w.makeProject("p", deviceBytes)
	w.write(main, 1, 1)
	return w, objects, main, func() error {
		objects.Add(faultstore.Rule{Verb: objstore.VerbPut, KeyPrefix: segmentPrefix(main.ID()), Times: -1, Fault: faultstore.ErrorBefore})
		defer objects.Heal()
		gone, cancel := context.WithCancel(context.Background())
		cancel()
		return main.Close(gone)
	}
}

// What a branch has of the one it was made of may be in a journal that was left behind
// when that one failed: whoever looks back stores it first. I2. Seed 1032547.
func TestI2LookBackPastAFailedParent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, _, main, fail := failingParent(t)
		first := main.Status().Seq
		w.write(main, 1, 2)
		b := w.child("p", "b", main)
		if fail() == nil {
			t.Fatal("the parent was stored")
		}
		v, err := w.store.OpenAt(context.Background(), b.ID(), ask.Point{Kind: ask.Seq, Number: uint64(first)})
		if err != nil {
			t.Fatal(err)
		}
		defer v.Close()
		w.expectIn(v, 1, 1)
	})
}

// The same if the parent fails, and leaves its journals behind, while the branch is being
// opened. I2. Seed 2046375.
func TestI2OpenWhileTheParentFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, objects, main, fail := failingParent(t)
		b := w.child("p", "b", main)
		id := b.ID()
		w.closeBranch(b)
		failed := false
		objects.Add(faultstore.Rule{Verb: objstore.VerbList, KeyPrefix: checkpointPrefix(main.ID()), Wait: func(context.Context, faultstore.Op) error {
			failed = fail() != nil
			return nil
		}})
		w.expect(w.open(id), 1, 1)
		if !failed {
			t.Error("the parent did not fail meanwhile")
		}
	})
}

// A host that has lost its branch without knowing reads what a collection of the new
// writer has moved or dropped: it says that it was fenced, not that something is
// corrupt. I4. Seed 1086414.
func TestI4ReadWhatTheNextWriterCollected(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b, _, _, main := rivals(t, DurabilityRemote)
		for i := range uint64(8) {
			a.write(main, 10, i+1)
			a.write(main, 11+i, i+1)
		}
		b.store.opts.Retention = &noHistory
		taken := b.mustTakeOver(main.ID())
		for i := range uint64(20) {
			b.write(taken, i, 100+i)
			wait(time.Minute)
		}
		b.closeBranch(taken)
		for range 3 {
			b.collect(atOnce)
			wait(time.Hour)
		}
		buf := make([]byte, BlockSize)
		for i := range uint64(20) {
			if err := main.ReadAt(context.Background(), buf, int64(i)*BlockSize); err != nil && !errors.Is(err, ErrFenced) {
				t.Errorf("block %d on the host that was fenced: %v, want ErrFenced", i, err)
			}
		}
		if err := main.Err(); !errors.Is(err, ErrFenced) {
			t.Errorf("the branch on the host that was fenced: %v, want ErrFenced", err)
		}
	})
}
