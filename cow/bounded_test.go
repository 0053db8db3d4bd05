package cow

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/bough-db/bough/cache"
	"github.com/bough-db/bough/objstore"
	"github.com/bough-db/bough/objstore/faultstore"
	"github.com/bough-db/bough/objstore/memstore"
	"github.com/bough-db/bough/objstore/meterstore"
)

// I9 and I10: what there is of everything does not depend on how large a device,
// how long a history, or how many branches.

// inMemory counts the nodes that a tree holds in memory.
func inMemory(r *ref) int {
	if r.n == nil {
		return 0
	}
	n := 1
	if r.n.kids != nil {
		for i := range r.n.kids {
			n += inMemory(&r.n.kids[i])
		}
	}
	return n
}

// TestI9MemoryIsBounded writes a block in each of many leaves, at random, as a
// device of tens of GB would have them, and counts what memory holds of the tree.
//
// Seen to fail with: checkpoints that do not let go of what they saved.
func TestI9MemoryIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const leaves, dirty, pages, journal = 12000, 600, 100, 300
		w := &world{t: t, opts: Options{
			SealAfter: time.Second, DirtyPages: dirty, Pages: pages, Indexes: 4, Memory: cache.NewMemory(1 << 20),
		}}
		w.mustStart()
		defer w.stop()
		ctx := context.Background()
		b := w.makeProject("p", leaves*leafSize*BlockSize)
		rng := rand.New(rand.NewPCG(1, 1))
		most := 0
		for i, leaf := range rng.Perm(leaves) {
			w.writeUnflushed(b, uint64(leaf)*leafSize+rng.Uint64N(leafSize), uint64(i+1))
			if i%journal == 0 { // ends here, and is stored
				if err := b.Flush(ctx); err != nil {
					t.Fatal(err)
				}
				wait(2 * time.Second)
			}
			if i%50 == 0 {
				b.treeMu.RLock()
				most = max(most, inMemory(&b.tree.root))
				b.treeMu.RUnlock()
			}
		}
		inner := leaves/innerSize + 2
		if most < dirty/2 || most > dirty+2*journal+inner {
			t.Errorf("I9: the tree held up to %d nodes in memory, with a bound of %d changed pages", most, dirty)
		}
		if n := w.store.pages.lru.Len(); n > pages {
			t.Errorf("I9: %d pages cached, the bound is %d", n, pages)
		}
		w.closeBranch(b)
		b = w.open(b.ID())
		if n := inMemory(&b.tree.root); n > inner {
			t.Errorf("I9: a branch that was just opened holds %d nodes", n)
		}
		w.closeBranch(b)
	})
}

// TestI9BatchIsBounded: an open batch does not grow with what is written to it
// between flushes, whether it is data, long discards or short ones, and neither
// does the description of a segment.
//
// Seen to fail with: batchEntriesMax or holesMax not looked at.
func TestI9BatchIsBounded(t *testing.T) {
	w := newWorld(t, Options{SealAfter: time.Hour})
	ctx := context.Background()
	b := w.makeProject("p", 1<<40)
	rng := rand.New(rand.NewPCG(1, 1))
	watch := func(what string) {
		b.mu.Lock()
		defer b.mu.Unlock()
		memory := 0
		for _, r := range b.open.recs {
			memory += r.Cap()
		}
		if o := b.open; memory > 2*batchSlotsSpan || len(o.where) > 2*batchEntriesMax || len(o.holes) > holesMax || len(o.spilled) > 2*batchEntriesMax {
			t.Fatalf("I9: %s: %d blocks in memory, %d mapped, %d holes, %d entries spilled", what, memory, len(o.where), len(o.holes), len(o.spilled))
		}
	}
	for i := range 80000 {
		off := rng.Int64N(1<<27) * 2 * BlockSize
		if err := b.Trim(ctx, off, (1+rng.Int64N(40))*BlockSize); err != nil {
			t.Fatal(err)
		}
		if i%100 == 0 {
			watch("short discards")
		}
	}
	for i := range 1000 {
		if err := b.WriteZeroes(ctx, rng.Int64N(1<<27)*BlockSize, 1<<30); err != nil {
			t.Fatal(err)
		}
		if i%10 == 0 {
			watch("long discards")
		}
	}
	for i := range 40 {
		if err := b.WriteAt(ctx, stamped(uint64(i+1), 1<<20), int64(i)<<20); err != nil {
			t.Fatal(err)
		}
		watch("data")
	}
	w.closeBranch(b)
	for n := range b.Status().Stored {
		f, err := w.store.readFooter(ctx, b.ID(), 1, true)
		if err != nil {
			t.Fatal(err)
		}
		entries := 0
		for _, bt := range f.batches {
			entries += len(bt.Entries)
		}
		if entries > segmentEntriesMax+2*batchEntriesMax {
			t.Errorf("I9: segment %d has %d entries", n+1, entries)
		}
	}
	w.checkWhole()
}

// TestI10CreateBranchIsConstant counts the calls that CreateBranch makes: the same
// for an empty parent and a large and fragmented one, for a short history and a
// long one, with one branch and with hundreds.
//
// Seen to fail with: a fork point that is looked for by loading the log.
func TestI10CreateBranchIsConstant(t *testing.T) {
	objects := meterstore.New(memstore.New(memstore.Options{}), nil)
	w := &world{t: t, objects: objects, opts: Options{SealAfter: time.Hour, CheckpointSegments: 4}}
	w.mustStart()
	defer w.stop()
	ctx := context.Background()
	parent := w.makeProject("p", 8<<30)
	made := 0
	cost := func(of BranchID) string {
		before := objects.Snapshot()
		made++
		if _, err := w.store.CreateBranch(ctx, "p", fmt.Sprintf("b%d", made), BranchOptions{From: of}); err != nil {
			t.Fatal(err)
		}
		s := ""
		for v, c := range objects.Snapshot().Sub(before) {
			s += fmt.Sprintf("%v %d ", objstore.Verb(v), c.Requests)
		}
		return s
	}
	w.write(parent, 1, 1)
	open := cost(parent.ID())
	w.closeBranch(parent)
	closed := cost(parent.ID())
	parent = w.open(parent.ID())
	same := func(what string) {
		t.Helper()
		// What was written may be on its way to the store, and would be counted.
		parent = reopened(w, parent)
		w.write(parent, 1, 1)
		if got := cost(parent.ID()); got != open {
			t.Errorf("I10: %s, open parent: %s instead of %s", what, got, open)
		}
		parent = reopened(w, parent)
		w.closeBranch(parent)
		if got := cost(parent.ID()); got != closed {
			t.Errorf("I10: %s, closed parent: %s instead of %s", what, got, closed)
		}
		parent = w.open(parent.ID())
	}
	t.Logf("open parent: %s; closed: %s", open, closed)
	for _, c := range []string{open, closed} {
		if !strings.Contains(c, "read 0 put 2 list 0") {
			t.Errorf("I10: CreateBranch looks at the log: %s", c)
		}
	}
	for i := range uint64(5000) {
		w.writeUnflushed(parent, i*397%(2<<20), i+1)
	}
	if err := parent.Flush(ctx); err != nil {
		t.Fatal(err)
	}
	same("fragmented data")
	for i := range uint64(60) {
		w.write(parent, i, i+1)
		parent = reopened(w, parent)
	}
	same("long history")
	for range 300 {
		cost(parent.ID())
	}
	same("300 branches")
	w.closeBranch(parent)
}

// TestFloodStarvesNobody has fifty branches open on a journal budget of hardly
// more than one file each, a store that is as slow as it likes, and one branch
// that writes without end. All others flush with no help of the store. I9.
func TestFloodStarvesNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const others = 50
		objects := faultstore.New(memstore.New(memstore.Options{}), faultstore.Options{})
		w := &world{t: t, objects: objects, budget: (others + 4) * journalBytes, opts: Options{SealAfter: time.Hour}}
		w.mustStart()
		defer w.stop()
		ctx := context.Background()
		flooder := w.makeProject("p", 64<<20)
		var devs []*Branch
		for i := range others {
			devs = append(devs, w.child("p", fmt.Sprintf("b%d", i), flooder))
		}
		stuck := make(chan struct{})
		objects.Add(faultstore.Rule{
			Verb: objstore.VerbPut, Times: -1, KeyPrefix: segmentPrefix(flooder.ID()),
			Wait: func(context.Context, faultstore.Op) error { <-stuck; return nil },
		})
		var written atomic.Int64
		flooded := make(chan error)
		go func() {
			for i := range uint64(40) {
				if err := flooder.WriteAt(ctx, stamped(i+1, 1<<20), int64(i%32)<<20); err != nil {
					flooded <- err
					return
				}
				written.Add(1)
			}
			flooded <- flooder.Flush(ctx)
		}()
		synctest.Wait() // the flooder has used up what it may, and waits
		if n := written.Load(); n < 5 || n == 40 {
			t.Errorf("the flooder wrote %d MiB before it had to wait", n)
		}
		for round := range uint64(3) {
			for i, d := range devs {
				w.write(d, round, uint64(i)+round+1)
			}
		}
		if written.Load() == 40 {
			t.Error("the flooder did not wait")
		}
		close(stuck)
		if err := <-flooded; err != nil {
			t.Error(err)
		}
		for i, d := range devs {
			w.expect(d, 2, uint64(i)+3)
			w.closeBranch(d)
		}
		w.closeBranch(flooder)
	})
}
