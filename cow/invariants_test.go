package cow

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/bough-db/bough/objstore"
	"github.com/bough-db/bough/objstore/faultstore"
	"github.com/bough-db/bough/objstore/memstore"
	"github.com/bough-db/bough/objstore/meterstore"
	"github.com/bough-db/bough/vfs/faultfs"
	"github.com/bough-db/bough/vfs/memfs"
)

// The invariants that have no better place: I4, I6 and I8.

const deviceBytes = 64 << 20

// hosts returns two hosts with one store and a journal disk each; the first has
// a project whose main branch holds stamp 1 in block 1, stored.
func hosts(t *testing.T, first, second Options) (a, b *world, main *Branch) {
	t.Helper()
	a = newWorld(t, first)
	b = &world{t: t, objects: a.objects, opts: second}
	b.mustStart()
	t.Cleanup(b.stop)
	main = a.makeProject("p", deviceBytes)
	a.write(main, 1, 1)
	wait(time.Minute)
	return a, b, main
}

// mustFail checks that everything that acknowledges fails with the error.
func mustFail(t *testing.T, b *Branch, want error) {
	t.Helper()
	ctx := context.Background()
	p := make([]byte, BlockSize)
	for range 2 {
		for what, err := range map[string]error{
			"Err": b.Err(), "Flush": b.Flush(ctx), "WriteAt": b.WriteAt(ctx, p, 0),
			"Trim": b.Trim(ctx, 0, BlockSize), "WriteZeroes": b.WriteZeroes(ctx, 0, BlockSize),
		} {
			if !errors.Is(err, want) {
				t.Errorf("%s: %v, want %v", what, err, want)
			}
		}
	}
}

// I4: of two writers with the same name, the one that took over stays; the other's
// next segment and its manifest are refused, and it fails for good.
func TestI4SecondWriterFencesFirst(t *testing.T) {
	for _, mode := range []string{"flush", "through"} {
		t.Run(mode, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				opts := Options{WriteThrough: mode == "through"}
				a, b, old := hosts(t, opts, opts)
				taken := b.open(old.ID())
				b.expect(taken, 1, 1)

				// The first does not know yet: its journal takes this.
				a.write(old, 2, 2)
				// When its journal is sealed, it does.
				wait(time.Minute)
				mustFail(t, old, ErrFenced)
				if err := old.Close(context.Background()); !errors.Is(err, ErrFenced) {
					t.Errorf("Close of the fenced branch: %v, want ErrFenced", err)
				}

				b.write(taken, 3, 3)
				wait(time.Minute)
				if err := taken.Err(); err != nil {
					t.Fatalf("the writer that took over has failed: %v", err)
				}
				info, err := b.store.BranchByID(context.Background(), taken.ID())
				if err != nil || !info.Attached || info.Epoch != 2 {
					t.Errorf("after the first writer's Close the branch is %+v (%v), want attached in epoch 2", info, err)
				}
				b.closeBranch(taken)
				taken = b.open(taken.ID())
				b.expect(taken, 1, 1)
				b.expect(taken, 2, 0) // acknowledged by a journal, on a host that was taken over
				b.expect(taken, 3, 3)
				b.closeBranch(taken)
				b.checkWhole()

				// What the first host's journal holds is kept there, out of the way.
				a.restart()
				again := a.open(old.ID())
				a.expect(again, 2, 0)
				a.expect(again, 3, 3)
				a.closeBranch(again)
				synctest.Wait() // the pool moves it when nobody reads it any more
				if names := a.lostJournals(); len(names) != 1 || !strings.Contains(names[0], string(old.ID())) {
					t.Errorf("journals set aside on the host that lost: %q, want one of %s", names, old.ID())
				}
			})
		})
	}
}

// I4: a segment that the old writer stores while it is being taken over is part
// of the log, and the number after it is closed.
func TestI4OldWriterIsQuicker(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		mem := memstore.New(memstore.Options{})
		a := &world{t: t, objects: mem}
		a.mustStart()
		t.Cleanup(func() { _ = a.shut() }) // fenced
		slow := faultstore.New(mem, faultstore.Options{})
		b := &world{t: t, objects: slow}
		b.mustStart()
		t.Cleanup(b.stop)
		old := a.makeProject("p", deviceBytes)
		a.write(old, 1, 1)
		slow.Add(faultstore.Rule{
			Verb: objstore.VerbPut, KeyPrefix: segmentPrefix(old.ID()),
			Wait: func(context.Context, faultstore.Op) error { wait(time.Minute); return nil },
		})
		taken := b.open(old.ID())
		b.expect(taken, 1, 1)
		a.write(old, 2, 2)
		b.write(taken, 3, 3)
		wait(time.Minute)
		mustFail(t, old, ErrFenced)
		if err := taken.Err(); err != nil {
			t.Fatalf("the writer that took over has failed: %v", err)
		}
		b.closeBranch(taken)
		b.checkWhole()
	})
}

// I4: however many take a branch over at the same time, one writer remains, and
// what it acknowledged is there.
func TestI4ManyTakeOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		mem := memstore.New(memstore.Options{})
		all := make([]*world, 6)
		for i := range all {
			all[i] = &world{t: t, objects: mem}
			all[i].mustStart()
			t.Cleanup(func() { _ = all[i].shut() }) // fenced
		}
		_, info, err := all[0].store.CreateProject(context.Background(), "p", ProjectOptions{Size: deviceBytes})
		if err != nil {
			t.Fatal(err)
		}
		branches := make([]*Branch, len(all))
		var wg sync.WaitGroup
		for i, w := range all {
			wg.Go(func() {
				b, err := w.store.Open(context.Background(), info.ID)
				if err != nil && !errors.Is(err, ErrFenced) {
					t.Errorf("open %d: %v", i, err)
				}
				if err != nil {
					return
				}
				branches[i] = b
				for n := range 5 {
					if err := b.WriteAt(context.Background(), stamped(uint64(i+1), BlockSize), int64(n)*BlockSize); err != nil {
						return
					}
					if err := b.Flush(context.Background()); err != nil {
						return
					}
					wait(time.Duration(1+i) * time.Second)
				}
			})
		}
		wg.Wait()
		wait(time.Minute)
		winner := -1
		for i, b := range branches {
			switch {
			case b == nil:
			case b.Err() != nil:
				mustFail(t, b, ErrFenced)
			case winner >= 0:
				t.Fatalf("writers %d and %d both remain", winner, i)
			default:
				winner = i
			}
		}
		if winner < 0 {
			t.Fatal("no writer remains")
		}
		w := all[winner]
		w.closeBranch(branches[winner])
		b := w.open(info.ID)
		for n := range uint64(5) {
			w.expect(b, n, uint64(winner+1))
		}
		w.closeBranch(b)
		w.checkWhole()
	})
}

// I4: a host with another name is refused while the branch is attached, and not
// after that.
func TestI4OtherHostIsRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b, old := hosts(t, Options{Host: "a"}, Options{Host: "b"})
		_, err := b.store.Open(context.Background(), old.ID())
		if !errors.Is(err, ErrInUse) || !strings.Contains(err.Error(), "host a") {
			t.Errorf("Open of a branch that another host has: %v, want ErrInUse and its name", err)
		}
		if err := b.store.DeleteBranch(context.Background(), "p", "main"); !errors.Is(err, ErrInUse) {
			t.Errorf("DeleteBranch of a branch that another host has: %v, want ErrInUse", err)
		}
		a.write(old, 2, 2)
		wait(time.Minute)
		if err := old.Err(); err != nil {
			t.Fatalf("the first writer has failed: %v", err)
		}
		a.closeBranch(old)
		taken := b.open(old.ID())
		b.expect(taken, 1, 1)
		b.expect(taken, 2, 2)
		b.closeBranch(taken)
		b.checkWhole()
	})
}

// family makes a world with p/main, its child p/a, its grandchild p/b, and q/main,
// a child in another project. Each holds what its parent does in block 1 to n and
// its own stamp in block n+1; all are closed. It returns them with their stamps.
func family(t *testing.T, objects objstore.Store) (w *world, stamps map[string]uint64) {
	t.Helper()
	w = &world{t: t, objects: objects, opts: Options{CheckpointSegments: 2}}
	w.mustStart()
	t.Cleanup(w.stop)
	main := w.makeProject("p", deviceBytes)
	w.write(main, 1, 1)
	a := w.child("p", "a", main)
	w.write(a, 2, 2)
	b := w.child("p", "b", a)
	w.write(b, 3, 3)
	_, q, err := w.store.CreateProject(context.Background(), "q", ProjectOptions{From: b.ID()})
	if err != nil {
		t.Fatal(err)
	}
	qb := w.open(q.ID)
	w.write(qb, 4, 4)
	w.write(main, 1, 9) // after its children were made
	for _, br := range []*Branch{main, a, b, qb} {
		w.closeBranch(br)
	}
	return w, map[string]uint64{"p/main": 1, "p/a": 2, "p/b": 3, "q/main": 4}
}

// checkFamily reads every branch that is left, and checks the store.
func checkFamily(w *world, stamps map[string]uint64) {
	w.t.Helper()
	for name, depth := range stamps {
		project, branch, _ := strings.Cut(name, "/")
		info, err := w.store.Branch(context.Background(), project, branch)
		if err != nil {
			w.t.Fatalf("%s: %v", name, err)
		}
		b := w.open(info.ID)
		for n := uint64(1); n <= 4; n++ {
			want := n
			switch {
			case n > depth:
				want = 0
			case n == 1 && depth == 1:
				want = 9
			}
			w.expect(b, n, want)
		}
		w.closeBranch(b)
	}
	w.checkWhole()
}

// I6: a branch's data outlives its ancestors, in whatever order they go, and
// through restarts.
func TestI6DeletedParents(t *testing.T) {
	for _, order := range []string{"p/main p/a p/b", "p/b p/a p/main", "p/a p/main p/b", "p", "q p/main p/a", "p/a q p/main"} {
		t.Run(order, func(t *testing.T) {
			w, left := family(t, nil)
			for name := range strings.FieldsSeq(order) {
				project, branch, one := strings.Cut(name, "/")
				var err error
				if one {
					err = w.store.DeleteBranch(context.Background(), project, branch)
					delete(left, name)
				} else {
					err = w.store.DeleteProject(context.Background(), project)
					for n := range left {
						if strings.HasPrefix(n, project+"/") {
							delete(left, n)
						}
					}
				}
				if err != nil {
					t.Fatal(err)
				}
				checkFamily(w, left)
				w.restart()
				checkFamily(w, left)
			}
			// A name that is free again leads to the new branch alone.
			if _, ok := left["p/a"]; !ok && order != "p" {
				b, err := w.store.CreateBranch(context.Background(), "p", "a", BranchOptions{})
				if err != nil {
					t.Fatal(err)
				}
				w.expect(w.open(b.ID), 1, 0)
			}
		})
	}
}

// I6: a deletion that fails at any request takes nothing away but what was to be
// deleted, removes no object that a head can reach, and ends when it is repeated.
func TestI6DeletionCutShort(t *testing.T) {
	deletions := map[string]func(context.Context, *Store) error{
		"branch":  func(ctx context.Context, s *Store) error { return s.DeleteBranch(ctx, "p", "a") },
		"project": func(ctx context.Context, s *Store) error { return s.DeleteProject(ctx, "p") },
	}
	for what, del := range deletions {
		for _, fault := range []faultstore.Fault{faultstore.ErrorBefore, faultstore.ErrorAfter} {
			t.Run(fmt.Sprintf("%s %v", what, fault), func(t *testing.T) {
				for nth, done := 1, false; !done; nth++ {
					objects := faultstore.New(memstore.New(memstore.Options{}), faultstore.Options{})
					w, left := family(t, objects)
					for name := range left {
						if name == "p/a" || what == "project" && strings.HasPrefix(name, "p/") {
							delete(left, name)
						}
					}
					objects.ResetTrace()
					objects.Add(faultstore.Rule{Verb: faultstore.AnyVerb, Nth: nth, Fault: fault})
					done = del(context.Background(), w.store) == nil
					objects.Heal()
					checkFamily(w, left)
					if err := del(context.Background(), w.store); err != nil && !errors.Is(err, ErrNotFound) {
						t.Fatalf("again, after request %d had failed: %v", nth, err)
					}
					w.restart()
					checkFamily(w, left)
					for _, line := range objects.Trace() {
						if strings.HasPrefix(line, "delete "+branchPrefix) {
							t.Fatalf("request %d failed: %s", nth, line)
						}
					}
				}
			})
		}
	}
}

// I6: children that are made while their parent is deleted are whole or not there.
func TestI6CreatorsAndDeleter(t *testing.T) {
	for round := range 10 {
		w, _ := family(t, nil)
		ctx := context.Background()
		parent, err := w.store.Branch(ctx, "p", "b")
		if err != nil {
			t.Fatal(err)
		}
		var wg sync.WaitGroup
		made := make([]BranchInfo, 4)
		for i := range made {
			wg.Go(func() {
				info, err := w.store.CreateBranch(ctx, "p", fmt.Sprintf("c%d", i), BranchOptions{From: parent.ID})
				switch {
				case err == nil:
					made[i] = info
				case !errors.Is(err, ErrNotFound):
					t.Errorf("round %d: create: %v", round, err)
				}
			})
		}
		for _, name := range []string{"b", "a", "main"} {
			wg.Go(func() {
				if err := w.store.DeleteBranch(ctx, "p", name); err != nil {
					t.Errorf("round %d: delete: %v", round, err)
				}
			})
		}
		wg.Wait()
		for _, info := range made {
			if info.ID == "" {
				continue
			}
			b := w.open(info.ID)
			for n := uint64(1); n <= 3; n++ {
				w.expect(b, n, n)
			}
			w.closeBranch(b)
		}
		w.checkWhole()
	}
}

// I8: a branch that nobody writes to makes no request and writes no journal,
// attached or not; and one that is closed leaves nothing in memory.
func TestI8IdleIsFree(t *testing.T) {
	for _, mode := range []string{"flush", "through"} {
		t.Run(mode, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				meter := meterstore.New(memstore.New(memstore.Options{}), nil)
				disk := faultfs.New(memfs.New(memfs.Options{}), "/")
				var ops atomic.Int64
				disk.SetHook(func(faultfs.Op) error { ops.Add(1); return nil })
				w := &world{t: t, objects: meter, disk: disk, opts: Options{WriteThrough: mode == "through"}}
				w.mustStart()
				t.Cleanup(w.stop)
				idle := func(what string) {
					t.Helper()
					wait(time.Minute)
					synctest.Wait()
					before, seen := meter.Snapshot().Total(), ops.Load()
					disk.Trace()
					wait(24 * time.Hour)
					synctest.Wait()
					if after := meter.Snapshot().Total(); after != before {
						t.Errorf("%s: from %+v to %+v store requests in a day", what, before, after)
					}
					if now := ops.Load(); now != seen {
						t.Errorf("%s: %d journal operations in a day:\n%s", what, now-seen, disk.Trace())
					}
				}
				main := w.makeProject("p", deviceBytes)
				idle("attached, never written")
				w.write(main, 1, 1)
				child := w.child("p", "c", main)
				w.write(child, 2, 2)
				idle("attached, written")
				w.expect(child, 1, 1)
				w.writeUnflushed(child, 3, 3)
				idle("attached, with a write that nobody flushed")
				w.closeBranch(child)
				idle("one of two suspended")
				w.closeBranch(main)
				idle("suspended")
				s := w.store
				s.mu.Lock()
				defer s.mu.Unlock()
				if len(s.open)+len(s.live)+len(s.left)+len(s.broken)+s.forked.Len() > 0 {
					t.Errorf("of suspended branches memory has: %d open, %d live segments, %d left, %d broken, %d trees",
						len(s.open), len(s.live), len(s.left), len(s.broken), s.forked.Len())
				}
			})
		})
	}
}

// TestWrongStore starts a host with another store than its journals belong to: it
// keeps them, and the right store gets them at the next start. I1, I6.
func TestWrongStore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		right := faultstore.New(memstore.New(memstore.Options{}), faultstore.Options{})
		disk := memfs.New(memfs.Options{})
		w := &world{t: t, objects: right, disk: disk}
		w.mustStart()
		b := w.makeProject("p", deviceBytes)
		w.write(b, 1, 1)
		right.Add(faultstore.Rule{
			Verb: objstore.VerbPut, KeyPrefix: segmentPrefix(b.ID()), Times: -1, Fault: faultstore.ErrorBefore,
		})
		hurry, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if err := w.shutWithin(hurry); !errors.Is(err, context.DeadlineExceeded) {
			t.Fatalf("stop with a store that takes no segments: %v", err)
		}
		right.Heal()

		wrong := &world{t: t, disk: disk}
		wrong.mustStart()
		other := wrong.makeProject("p", deviceBytes)
		wrong.write(other, 1, 2)
		wrong.closeBranch(other)
		wrong.stop()

		w.mustStart()
		t.Cleanup(w.stop)
		b = w.open(b.ID())
		w.expect(b, 1, 1)
		w.closeBranch(b)
		w.checkWhole()
	})
}
