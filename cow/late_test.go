package cow

import (
	"context"
	"errors"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	ask "github.com/bough-db/bough/cow/point"
	"github.com/bough-db/bough/objstore"
	"github.com/bough-db/bough/objstore/faultstore"
	"github.com/bough-db/bough/objstore/memstore"
	"github.com/bough-db/bough/vfs/faultfs"
	"github.com/bough-db/bough/vfs/memfs"
	"github.com/bough-db/bough/wal"
)

// What 100 000 runs of the simulation with collectors have found.

// lateCheckpoint returns a store in which a branch has ten segments, and its checkpoint
// of the eighth, which is still on its way. A host has it open, and has not heard that
// some checkpoints were stored.
func lateCheckpoint(t *testing.T, unheard ...wal.SegmentNo) (mem *memstore.Store, id BranchID, late []byte) {
	t.Helper()
	mem = memstore.New(memstore.Options{})
	objects := faultstore.New(mem, faultstore.Options{})
	a := &world{t: t, objects: objects, opts: Options{Host: "a", Shared: true, SealAfter: time.Second, CheckpointSegments: 4, Retention: &noHistory}}
	a.mustStart()
	t.Cleanup(func() { _ = a.shut() }) // it may be taken over
	b := a.makeProject("p", deviceBytes)
	for _, n := range unheard {
		failOnce(objects, objstore.VerbPut, checkpointKey(b.ID(), n), faultstore.ErrorAfter)
		failOnce(objects, objstore.VerbReadAt, checkpointKey(b.ID(), n), faultstore.ErrorBefore)
	}
	for i := range uint64(10) {
		a.write(b, i*1500, i+1)
		a.write(b, 7, i+1)
		wait(2 * time.Second)
	}
	key := checkpointKey(b.ID(), 8)
	late, _, err := mem.Get(context.Background(), key)
	if err == nil {
		err = mem.Delete(context.Background(), key)
	}
	if err != nil {
		t.Fatal(err)
	}
	return mem, b.ID(), late
}

// checkTen compares what lateCheckpoint has written.
func (w *world) checkTen(b *Branch) {
	w.t.Helper()
	for i := range uint64(10) {
		w.expect(b, i*1500, i+1)
	}
	w.expect(b, 7, 10)
}

// A checkpoint that comes while a collection packs its segments, which has not seen it,
// may have been begun with before anybody heard of the pack: the pack is given up. It
// was not, and left out pages that the checkpoint, or a later one, refers to. I6. Seeds
// 14720, 16636 and 30068.
func TestI6LateCheckpoint(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		mem, id, late := lateCheckpoint(t)
		objects := faultstore.New(mem, faultstore.Options{})
		collector := otherHost(t, objects, "c")
		objects.Add(faultstore.Rule{Verb: objstore.VerbPut, KeyPrefix: branchPrefix + string(id) + "/pack/", Wait: func(ctx context.Context, _ faultstore.Op) error {
			_, err := mem.Put(ctx, checkpointKey(id, 8), late, objstore.Condition{IfAbsent: true})
			return err
		}})
		if rep := collector.collect(atOnce); rep.Packs == 0 {
			t.Fatalf("nothing was packed: %+v", rep)
		}
		if l, err := collector.store.loadLayout(context.Background(), id); err != nil || l.pack(8) != nil {
			t.Fatalf("a pack that does not know of the checkpoint is in use (%v)", err)
		}
		// Nor does anybody begin with one that came too late for a pack.
		collector.collect(atOnce)
		b := otherHost(t, mem, "b")
		taken := b.mustTakeOver(id)
		b.checkTen(taken)
		b.write(taken, 8, 1)
		b.closeBranch(taken)
		b.checkWhole()
	})
}

// A checkpoint that is there only when a pack of its number is announced does not count:
// neither for who opens the branch, nor for the writer who has just put it.
func TestI6CheckpointBehindAPack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		mem, id, late := lateCheckpoint(t)
		objects := faultstore.New(mem, faultstore.Options{})
		collector := otherHost(t, objects, "c")
		ctx := context.Background()
		put := func() {
			if _, err := mem.Put(ctx, checkpointKey(id, 8), late, objstore.Condition{IfAbsent: true}); err != nil {
				t.Error(err)
			}
		}
		puts := 0
		objects.Add(faultstore.Rule{Verb: objstore.VerbPut, KeyPrefix: manifestKey(id), Times: -1, Wait: func(context.Context, faultstore.Op) error {
			if puts++; puts == 3 { // the first claims the pack, the second makes it pending
				put()
				if ok, err := collector.store.counts(ctx, id, 8); ok || err != nil {
					t.Errorf("a checkpoint that a pending pack does not have counts (%v)", err)
				}
				if ok, err := collector.store.counts(ctx, id, 10); !ok || err != nil {
					t.Errorf("a checkpoint beyond the pack does not count (%v)", err)
				}
			}
			return nil
		}})
		if rep := collector.collect(atOnce); rep.Packs == 0 || puts < 3 {
			t.Fatalf("nothing was packed: %+v, %d manifests", rep, puts)
		}
		if ok, err := collector.store.counts(ctx, id, 8); ok || err != nil {
			t.Errorf("a checkpoint that the pack in use does not have counts (%v)", err)
		}
		b := otherHost(t, mem, "b")
		taken := b.mustTakeOver(id)
		b.checkTen(taken)
		b.closeBranch(taken)
		b.checkWhole()
	})
}

// A host that has lost a branch, and does not know, looked for what another host has
// written in its own journals of the same number. I5, I7. Seeds 54640, 58472 and 87809.
func TestI7ViewOnAFencedHost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b, aStore, _, main := rivals(t, DurabilityLocal)
		g := holdPut(aStore, segmentKey(main.ID(), 1))
		a.write(main, 9, 9)
		wait(time.Minute)
		for i := range uint64(5) { // in a second journal
			a.write(main, i, 100+i)
		}
		ctx := context.Background()
		own, err := a.store.OpenAt(ctx, main.ID(), ask.Point{Kind: ask.Seq, Number: 3})
		if err != nil {
			t.Fatal(err)
		}
		defer own.Close()
		<-g.Arrived
		taken := b.mustTakeOver(main.ID())
		for i := range uint64(5) {
			b.write(taken, i, 200+i)
		}
		at := ask.Point{Kind: ask.Seq, Number: uint64(taken.Status().Seq)}
		wait(time.Minute) // it is stored, in a segment that has a journal's number on a
		v, err := a.store.OpenAt(ctx, main.ID(), at)
		if err != nil {
			t.Fatal(err)
		}
		defer v.Close()
		read := func(v *View, block uint64) (uint64, error) {
			p := make([]byte, BlockSize)
			if err := v.ReadAt(ctx, p, int64(block)*BlockSize); err != nil {
				return 0, err
			}
			return stampOf(p)
		}
		for i := range uint64(5) {
			if got, err := read(v, i); err != nil || got != 200+i {
				t.Errorf("block %d of the new writer has stamp %d (%v), want %d", i, got, err, 200+i)
			}
		}
		// What it wrote itself it reads for as long as it has the journal, and never
		// anything else.
		if got, err := read(own, 1); err != nil || got != 101 {
			t.Errorf("block 1 of its own has stamp %d (%v), want 101", got, err)
		}
		g.Release()
		synctest.Wait()
		if err := main.Close(ctx); !errors.Is(err, ErrFenced) {
			t.Fatalf("close: %v, want %v", err, ErrFenced)
		}
		if got, err := read(own, 1); !errors.Is(err, ErrFenced) {
			t.Errorf("block 1 when its journals are set aside: stamp %d, %v; want %v", got, err, ErrFenced)
		}
		b.closeBranch(taken)
	})
}

// Of the journals of a fenced writer some had been set aside when its host died. The next
// life took the last one for the end of a log with a hole, and the branch never opened
// there again. Seed 54981.
func TestJournalBehindOneSetAside(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b, aStore, _, main := rivals(t, DurabilityLocal)
		aStore.Add(faultstore.Rule{Verb: objstore.VerbPut, KeyPrefix: branchPrefix + string(main.ID()) + "/seg/", Times: -1, Fault: faultstore.ErrorBefore})
		for i := range uint64(3) {
			a.write(main, i, i+1)
			wait(time.Minute)
		}
		gone, cancel := context.WithCancel(context.Background())
		cancel()
		_ = a.shutWithin(gone) // all stay behind
		taken := b.mustTakeOver(main.ID())
		b.write(taken, 1, 9)
		b.closeBranch(taken)
		// The first two are out of the way already.
		for _, n := range []string{"1", "2"} {
			if err := a.disk.Rename("/journal/j-0000000"+n, "/journal/lost-"+n); err != nil {
				t.Fatal(err)
			}
		}
		if err := a.disk.SyncDir("/journal"); err != nil {
			t.Fatal(err)
		}
		aStore.Heal()
		a.mustStart()
		again := a.open(main.ID())
		a.expect(again, 1, 9)
		a.closeBranch(again)
		synctest.Wait()
		if names := a.lostJournals(); len(names) != 3 {
			t.Errorf("journals set aside: %q, want three", names)
		}
		a.checkWhole()
	})
}

// Whoever deleted a branch died before its name was gone, and nobody came back for a
// day: the name led to a branch that had been collected. I6. Seed 2261 and eight others.
func TestI6NameOfACollectedBranch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b, aStore, _, main := rivals(t, DurabilityLocal)
		a.write(main, 1, 1)
		ctx := context.Background()
		info, err := a.store.CreateBranch(ctx, "p", "c", BranchOptions{From: main.ID()})
		if err != nil {
			t.Fatal(err)
		}
		failOnce(aStore, objstore.VerbDelete, nameKey("p", "c"), faultstore.ErrorBefore)
		if err := a.store.DeleteBranch(ctx, "p", "c"); !errors.Is(err, faultstore.ErrInjected) {
			t.Fatalf("delete: %v, want the fault", err)
		}
		wait(48 * time.Hour)
		for range 3 {
			b.collect(CollectOptions{})
			wait(time.Hour)
		}
		if _, err := b.store.BranchByID(ctx, info.ID); !errors.Is(err, ErrNotFound) {
			t.Fatalf("the branch is not collected: %v", err)
		}
		b.checkWhole()
		if _, err := b.store.Branch(ctx, "p", "c"); !errors.Is(err, ErrNotFound) {
			t.Errorf("the name: %v, want %v", err, ErrNotFound)
		}
		// It is free, for one.
		for i, want := range []error{nil, ErrExists} {
			if _, err := b.store.CreateBranch(ctx, "p", "c", BranchOptions{From: main.ID()}); !errors.Is(err, want) {
				t.Errorf("create %d: %v, want %v", i, err, want)
			}
		}
		a.closeBranch(main)
		a.checkWhole()
	})
}

// A journal that its branch left behind, and that could not be read when a child was
// opened, was not tried again when the child needed it, and passed for lost. Seed 81684.
func TestJournalThatAChildNeeds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		disk := faultfs.New(memfs.New(memfs.Options{}), "/")
		objects := faultstore.New(memstore.New(memstore.Options{}), faultstore.Options{})
		w := &world{t: t, disk: disk, objects: objects, opts: Options{SealAfter: time.Hour}}
		w.mustStart()
		t.Cleanup(w.stop)
		main := w.makeProject("p", deviceBytes)
		objects.Add(faultstore.Rule{Verb: objstore.VerbPut, KeyPrefix: segmentKey(main.ID(), 1), Times: -1, Fault: faultstore.ErrorBefore})
		w.write(main, 1, 1)
		info, err := w.store.CreateBranch(context.Background(), "p", "c", BranchOptions{From: main.ID()})
		if err != nil {
			t.Fatal(err)
		}
		gone, cancel := context.WithCancel(context.Background())
		cancel()
		if err := main.Close(gone); err == nil {
			t.Fatal("closed in no time")
		}
		objects.Heal()
		failed := 0
		disk.SetHook(func(o faultfs.Op) error {
			if o.Kind != faultfs.Sync || o.Path != "journal/j-00000001" || failed > 0 {
				return nil
			}
			failed++
			return faultfs.ErrInjected
		})
		c := w.open(info.ID)
		if failed == 0 {
			t.Fatal("no journal was left")
		}
		w.expect(c, 1, 1)
		w.closeBranch(c)
		w.checkWhole()
	})
}

// Of two checkpoints of a log the later one has what the earlier one has, as far as that
// has not changed since; a collection relies on it. So nobody begins with one that came
// when the next writer had begun without it. I6. Seeds 302607 and 329656.
func TestI6StrayCheckpoint(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		mem, id, late := lateCheckpoint(t)
		ctx := context.Background()
		fence := func(w *world) wal.SegmentNo {
			t.Helper()
			b := w.mustTakeOver(id)
			w.checkTen(b)
			w.write(b, 11000, 1)
			wait(time.Minute)
			return b.begunAt.Segment
		}
		b := &world{t: t, objects: mem, opts: Options{Host: "b", Shared: true, SealAfter: time.Second}}
		b.mustStart()
		t.Cleanup(func() { _ = b.shut() }) // fenced
		names := func(n wal.SegmentNo) wal.SegmentNo {
			t.Helper()
			f, err := b.store.readFooter(ctx, id, n, false)
			if err != nil {
				t.Fatal(err)
			}
			return f.head.Checkpoint
		}
		first := fence(b)
		if n := names(first); n != 4 {
			t.Fatalf("the fence names checkpoint %d, want 4", n)
		}
		if _, err := mem.Put(ctx, checkpointKey(id, 8), late, objstore.Condition{IfAbsent: true}); err != nil {
			t.Fatal(err)
		}
		if n := names(fence(otherHost(t, mem, "c"))); n != 4 {
			t.Errorf("the next writer has begun with checkpoint %d, want 4", n)
		}
		// So does the fence tell when what is around it has been packed.
		p := &pack{head: packHead{Log: id, From: 9, To: first + 1}, epochs: []epochRun{{9, 1}, {first, 2}}, fences: []wal.SegmentNo{first}}
		for ckpt, want := range map[wal.SegmentNo]error{4: nil, 8: errStray} {
			if err := b.store.vet(ctx, &manifest{ID: id}, &loaded{ckpt: ckpt, wrote: 1}, p); !errors.Is(err, want) {
				t.Errorf("checkpoint %d before a pack with the fence: %v, want %v", ckpt, err, want)
			}
		}
	})
}

// A host that dies after it has opened a branch that was detached leaves a journal which
// another life stores. The segment names the checkpoint that the host began with, not
// the one before that: else what the branch was detached with is taken for a stray one,
// and what a collection has left out since is looked for in vain. I6. Seed 1088026.
func TestI6RecoveredAfterDetach(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, Options{SealAfter: time.Second, CheckpointSegments: 100})
		b := w.makeProject("p", deviceBytes)
		id := b.ID()
		for i := range uint64(4) {
			w.write(b, i*1500, i+1)
			wait(2 * time.Second)
		}
		w.closeBranch(b)
		detached := b.Status().Stored
		b = w.open(id)
		w.write(b, 7, 9)
		gone, cancel := context.WithCancel(context.Background())
		cancel()
		_ = w.shutWithin(gone) // the journal stays behind
		w.mustStart()
		w.expect(w.open(id), 7, 9)
		f, err := w.store.readFooter(context.Background(), id, wal.SegmentNo(detached+1), false)
		if err != nil || f.head.Checkpoint != wal.SegmentNo(detached) {
			t.Errorf("the recovered segment names checkpoint %d (%v), its branch was detached with %d", f.head.Checkpoint, err, detached)
		}
	})
}

// Each checkpoint refers to no page of an earlier one that the one between them does not
// refer to, also where a branch has pages in common with the one that it was made of,
// and writes faster than its checkpoints are stored: a pack of the first keeps what the
// next one needs. I6. Seeds 1038631 and 1095966.
func TestI6CheckpointsInLine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx := context.Background()
		mem := memstore.New(memstore.Options{})
		objects := faultstore.New(mem, faultstore.Options{})
		w := &world{t: t, objects: objects, opts: Options{Host: "a", SealAfter: time.Second, CheckpointSegments: 1}}
		w.mustStart()
		parent := w.makeProject("p", deviceBytes)
		for i := range uint64(3) { // which no checkpoint has yet
			w.write(parent, i*1500, i+1)
		}
		b := w.child("p", "b", parent)
		objects.Add(faultstore.Rule{Verb: objstore.VerbPut, KeyPrefix: checkpointKey(b.ID(), 1), Wait: func(context.Context, faultstore.Op) error {
			wait(10 * time.Second)
			return nil
		}})
		for i := range uint64(5) {
			w.write(b, i, i+1)
			wait(3 * time.Second)
		}
		wait(time.Minute)
		m, _, err := w.store.readManifest(ctx, b.ID())
		if err != nil {
			t.Fatal(err)
		}
		c, err := w.store.newCollector(CollectOptions{})
		if err != nil {
			t.Fatal(err)
		}
		p := &planner{collector: c, v: &logView{m: m}}
		refers := map[wal.SegmentNo]map[pageAddr]bool{}
		for n := wal.SegmentNo(1); n <= 5; n++ {
			rec, err := w.store.readCheckpoint(ctx, b.ID(), n)
			if err != nil {
				t.Fatal(err)
			}
			refers[n] = map[pageAddr]bool{}
			root := ref{at: pageAddr{ckpt: rec.Root.Checkpoint, off: rec.Root.Offset, n: rec.Root.Bytes}}
			if err := p.walk(ctx, root, walking{page: func(at pageAddr) error { refers[n][at] = true; return nil }}); err != nil {
				t.Fatal(err)
			}
			for at := range refers[n] {
				if before := refers[n-1]; before != nil && at.checkpoint() < n && !before[at] {
					t.Errorf("checkpoint %d refers to the page of checkpoint %d at %d, checkpoint %d does not", n, at.checkpoint(), at.off, n-1)
				}
			}
		}
		w.stop()
	})
}

// latePut is a store on which the replacement of one object is given up, and comes when
// its tag was read for the next try.
type latePut struct {
	objstore.Store
	key   string
	held  []byte
	cond  objstore.Condition
	reads int
}

func (s *latePut) Put(ctx context.Context, key string, data []byte, cond objstore.Condition) (string, error) {
	if key == s.key && cond.IfMatch != "" && s.held == nil {
		s.held, s.cond = slices.Clone(data), cond
		return "", faultstore.ErrInjected
	}
	return s.Store.Put(ctx, key, data, cond)
}

func (s *latePut) ReadAt(ctx context.Context, key string, p []byte, off int64) (int, objstore.Info, error) {
	if key == s.key && s.held != nil {
		if s.reads++; s.reads == 3 { // the footer, the tag, the footer
			if _, err := s.Store.Put(ctx, key, s.held, s.cond); err != nil {
				return 0, objstore.Info{}, err
			}
		}
	}
	return s.Store.ReadAt(ctx, key, p, off)
}

// A writer that replaced what a fenced one had put, was not answered, and then found its
// own segment in that place, took itself for fenced. Seed 246639.
func TestOwnReplacementComesLate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		mem := memstore.New(memstore.Options{})
		aStore := faultstore.New(mem, faultstore.Options{})
		a := &world{t: t, objects: aStore, opts: Options{Host: "a", Shared: true}}
		a.mustStart()
		t.Cleanup(func() { _ = a.shut() }) // fenced
		main := a.makeProject("p", deviceBytes)
		if err := a.store.SetDurability(context.Background(), main.ID(), DurabilityRemote); err != nil {
			t.Fatal(err)
		}
		g := holdPut(aStore, segmentKey(main.ID(), 1))
		for i := range uint64(2) { // the second is stored, and is an orphan then
			a.writeUnflushed(main, i, i+1)
			go func() { _ = main.Flush(context.Background()) }()
			synctest.Wait()
		}
		<-g.Arrived
		late := &latePut{Store: mem, key: segmentKey(main.ID(), 2)}
		b := otherHost(t, late, "b")
		taken := b.mustTakeOver(main.ID())
		b.write(taken, 1, 9)
		wait(time.Minute)
		if late.reads < 3 {
			t.Fatalf("nothing was in the way: %d reads", late.reads)
		}
		b.write(taken, 2, 10)
		b.closeBranch(taken)
		b.checkWhole()
		g.Release()
	})
}

// A journal whose segment was an orphan that a collection had made small passed for one
// of a copied state directory, and its branch did not open. Seed 307807.
func TestJournalOfAHollowOrphan(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b, aStore, _, main := rivals(t, DurabilityRemote)
		g := holdPut(aStore, segmentKey(main.ID(), 1))
		for i := range uint64(2) {
			for j := range uint64(100) {
				a.writeUnflushed(main, 200*i+j, 1000*i+j+1)
			}
			go func() { _ = main.Flush(context.Background()) }()
			synctest.Wait()
		}
		<-g.Arrived
		taken := b.mustTakeOver(main.ID())
		b.collect(CollectOptions{Full: true})
		gone, cancel := context.WithCancel(context.Background())
		cancel()
		_ = a.shutWithin(gone) // before it knows
		aStore.Heal()
		// What it has of the first segment is out of the way already.
		if err := errors.Join(a.disk.Rename("/journal/j-00000001", "/journal/lost-1"), a.disk.SyncDir("/journal")); err != nil {
			t.Fatal(err)
		}
		a.mustStart()
		b.closeBranch(taken)
		again := a.open(main.ID())
		a.expect(again, 0, 0)
		a.closeBranch(again)
		a.checkWhole()
	})
}
