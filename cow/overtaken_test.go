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

// A collection goes by the newest checkpoint of a log when it leaves pages of older ones
// out. A host that takes the log over may have begun with such an older one, because the
// last writer's put was long on its way: whether the collection looks while that host is
// at it, was at work already when it came, or comes later, those pages stay. I6. Seed
// 4079096.
func TestI6PackedWhileTakenOver(t *testing.T) {
	// Each has host b take the branch over with take, which returns when b has begun with
	// checkpoint 4 and is about to put its fence, and again with fence, which puts it.
	for name, collect := range map[string]func(w *world, objects *faultstore.Store, id BranchID, take, fence, late func()){
		"before its fence": func(w *world, _ *faultstore.Store, _ BranchID, take, fence, late func()) {
			take()
			late()
			w.collect(atOnce)
			fence()
		},
		"meanwhile": func(w *world, objects *faultstore.Store, id BranchID, take, fence, late func()) {
			objects.Add(faultstore.Rule{Verb: objstore.VerbPut, KeyPrefix: manifestKey(id), Wait: func(context.Context, faultstore.Op) error {
				take() // the packs are about to be claimed
				late()
				return nil
			}})
			small := atOnce
			small.PackBlocks = 4 // the late one is not in the pack that goes by it
			w.collect(small)
			fence()
		},
		"after it": func(w *world, _ *faultstore.Store, _ BranchID, take, fence, late func()) {
			take()
			late()
			fence()
			w.collect(atOnce)
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				mem, id, ckpt := lateCheckpoint(t, 4)
				ctx := context.Background()
				objects, bObjects := faultstore.New(mem, faultstore.Options{}), faultstore.New(mem, faultstore.Options{})
				collector, b := otherHost(t, objects, "c"), otherHost(t, bObjects, "b")
				collector.store.opts.Retention = &noHistory
				g := holdPut(bObjects, segmentPrefix(id))
				var taken *Branch
				done := make(chan struct{})
				collect(collector, objects, id, func() {
					go func() {
						defer close(done)
						var err error
						if taken, err = b.takeOver(id); err != nil {
							t.Error(err)
						}
					}()
					<-g.Arrived
				}, func() {
					g.Release()
					<-done
				}, func() {
					if _, err := mem.Put(ctx, checkpointKey(id, 8), ckpt, objstore.Condition{IfAbsent: true}); err != nil {
						t.Error(err)
					}
				})
				if taken == nil {
					return
				}
				if taken.savedCkpt != 4 {
					t.Fatalf("the host has begun with checkpoint %d, want 4", taken.savedCkpt)
				}
				wait(time.Hour)
				collector.collect(atOnce)
				b.checkTen(taken)
				b.write(taken, 11000, 1)
				b.closeBranch(taken)
				wait(time.Hour)
				collector.collect(atOnce)
				if l, err := collector.store.loadLayout(ctx, id); err != nil || l.pack(4) == nil {
					t.Errorf("the segments were not packed in the end (%v)", err)
				}
				b.checkWhole()
				d := otherHost(t, mem, "d")
				again := d.open(id)
				d.checkTen(again)
				d.closeBranch(again)
			})
		})
	}
}

// A branch that its host is taking over while it is told to delete it is in use. It was
// deleted, stayed open, and its data went when it could come back no more. I6. Seed
// 7053261.
func TestI6DeleteWhileItIsTakenOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b, _, bStore, main := rivals(t, DurabilityRemote)
		a.write(main, 1, 1)
		var taken *Branch
		bStore.Add(faultstore.Rule{Verb: objstore.VerbPut, KeyPrefix: "deleted/", Wait: func(context.Context, faultstore.Op) error {
			taken = b.mustTakeOver(main.ID())
			return nil
		}})
		if err := b.store.DeleteBranch(context.Background(), "p", "main"); !errors.Is(err, ErrInUse) {
			t.Errorf("delete a branch that was taken over meanwhile: %v, want ErrInUse", err)
		}
		b.closeBranch(taken)
		b.expect(b.open(main.ID()), 1, 1)
	})
}
