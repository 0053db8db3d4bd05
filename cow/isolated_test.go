package cow

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/bough-db/bough/objstore"
	"github.com/bough-db/bough/objstore/memstore"
	"github.com/bough-db/bough/vfs/memfs"
)

// I3, I5 and I7: what is written stays what it is, whose it is, and is verified.

// onceStore lets every segment and checkpoint be put once, if absent, and nothing
// of a branch be deleted.
type onceStore struct {
	objstore.Store
	t   testing.TB
	mu  sync.Mutex
	put map[string]bool
}

func (o *onceStore) Put(ctx context.Context, key string, data []byte, cond objstore.Condition) (string, error) {
	tag, err := o.Store.Put(ctx, key, data, cond)
	o.mu.Lock()
	defer o.mu.Unlock()
	written := strings.Contains(key, "/seg/") || strings.Contains(key, "/ckpt/")
	switch {
	case !cond.IfAbsent && (written || cond.IfMatch == ""):
		o.t.Errorf("I3: put of %s under %+v", key, cond)
	case err == nil && written && o.put[key]:
		o.t.Errorf("I3: %s was put twice", key)
	case err == nil:
		o.put[key] = true
	}
	return tag, err
}

func (o *onceStore) Delete(ctx context.Context, key string) error {
	if strings.Contains(key, "/seg/") || strings.Contains(key, "/ckpt/") {
		o.t.Errorf("I3: deletion of %s", key)
	}
	return o.Store.Delete(ctx, key)
}

// TestI3Immutable: during random work with restarts and hurried closes no segment
// or checkpoint is written twice or deleted, and what an address named once it
// names for ever.
//
// Seen to fail with: segments put unconditionally; addresses that drift within a
// long run when they are folded into the tree.
func TestI3Immutable(t *testing.T) {
	forSeeds(t, 400, func(t *testing.T, rng *rand.Rand, ops int) {
		synctest.Test(t, func(t *testing.T) {
			objects := &onceStore{Store: memstore.New(memstore.Options{}), t: t, put: map[string]bool{}}
			w := &world{t: t, objects: objects, opts: small}
			w.mustStart()
			defer w.stop()
			b := w.makeProject("p", modelSize)
			named := map[addr]uint64{} // address to stamp
			stamp := uint64(0)
			for i := range ops {
				block := rng.Uint64N(2000)
				for range rng.IntN(40) {
					stamp++
					w.writeUnflushed(b, (block+stamp%50)%2000, stamp)
				}
				if rng.IntN(40) == 0 { // spills
					if err := b.WriteAt(context.Background(), stamped(stamp+1, 3<<20), 8<<20); err != nil {
						t.Fatal(err)
					}
					stamp++
				}
				if err := b.Flush(context.Background()); err != nil {
					t.Fatal(err)
				}
				remember(t, b, named, block%1900)
				switch rng.IntN(20) {
				case 0:
					b = reopened(w, b)
				case 1:
					wait(50 * time.Millisecond)
				case 2:
					w.restart()
					b = w.open(b.ID())
				}
				if i%50 == 0 {
					checkAddresses(t, b, named)
				}
			}
			checkAddresses(t, b, named)
		})
	})
}

// remember notes what a hundred blocks' addresses name.
func remember(t *testing.T, b *Branch, named map[addr]uint64, first uint64) {
	var out [100]addr
	if err := b.lookup(context.Background(), first, out[:]); err != nil {
		t.Fatal(err)
	}
	p := make([]byte, len(out)*BlockSize)
	if err := b.ReadAt(context.Background(), p, int64(first)*BlockSize); err != nil {
		t.Fatal(err)
	}
	for i, a := range out {
		stamp, err := stampOf(p[i*BlockSize : (i+1)*BlockSize])
		if err != nil {
			t.Fatal(err)
		}
		if was, ok := named[a]; ok && a != 0 && was != stamp {
			t.Fatalf("I3: %v named stamp %d and now %d", a, was, stamp)
		}
		named[a] = stamp
	}
}

func checkAddresses(t *testing.T, b *Branch, named map[addr]uint64) {
	p := make([]byte, BlockSize)
	for a, want := range named {
		if a == 0 {
			continue
		}
		if err := b.store.readAddrs(context.Background(), b.lineage, true, []addr{a}, p); err != nil {
			t.Fatalf("I3: %v: %v", a, err)
		}
		if got, err := stampOf(p); err != nil || got != want {
			t.Fatalf("I3: %v named stamp %d and now %d, %v", a, want, got, err)
		}
	}
}

// TestI5Isolated: a parent and its children overwrite the same blocks in turn, in
// every state that a branch can be in. Nobody sees what others write.
//
// Seen to fail with: a fork that keeps the generation of its parent.
func TestI5Isolated(t *testing.T) {
	w := newWorld(t, Options{SealAfter: time.Hour, CheckpointSegments: 2, DirtyPages: 4})
	ctx := context.Background()
	const blocks, kin = 40, 6
	parent := w.makeProject("p", 16<<20)
	at := func(i uint64) uint64 { return i * 97 % 4096 } // over all leaves
	for i := range uint64(blocks) {
		w.write(parent, at(i), 1000+i)
	}
	all := []*Branch{parent}
	want := []map[uint64]uint64{{}}
	for i := range uint64(blocks) {
		want[0][at(i)] = 1000 + i
	}
	for k := range kin {
		from := k / 2
		c := w.child("p", fmt.Sprintf("c%d", k), all[from])
		all = append(all, c)
		m := map[uint64]uint64{}
		for b, s := range want[from] {
			m[b] = s
		}
		want = append(want, m)
		for n, d := range all { // everybody writes, in turn
			for i := range uint64(5) {
				block, stamp := at((uint64(k)*7+i*3)%blocks), uint64(10000*(n+1)+k*100)+i
				w.writeUnflushed(d, block, stamp)
				want[n][block] = stamp
			}
			if err := d.Trim(ctx, int64(at(uint64(n)))*BlockSize, BlockSize); err != nil {
				t.Fatal(err)
			}
			want[n][at(uint64(n))] = 0
			if err := d.Flush(ctx); err != nil {
				t.Fatal(err)
			}
			if (n+k)%3 == 0 {
				all[n] = reopened(w, d)
			}
		}
		for n, d := range all {
			for b, s := range want[n] {
				w.expect(d, b, s)
			}
		}
	}
	w.checkWhole()
	w.restart()
	for n := range all {
		d := w.open(all[n].ID())
		for b, s := range want[n] {
			w.expect(d, b, s)
		}
		w.closeBranch(d)
	}
}

// TestI7JournalIsVerified changes a journal file under a branch that is open: the
// read of that block fails, and names the file. Nothing goes to the store.
//
// Seen to fail with: journal blocks read without comparing their checksum.
func TestI7JournalIsVerified(t *testing.T) {
	mem := memfs.New(memfs.Options{})
	w := &world{t: t, disk: mem, opts: Options{SealAfter: time.Hour}}
	w.mustStart()
	ctx := context.Background()
	b := w.makeProject("p", 16<<20)
	w.write(b, 1, 1)
	w.write(b, 2, 2)
	f, err := mem.OpenFile(b.journal.journal.Path(), 2, 0) // O_RDWR
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt([]byte{1}, 2*BlockSize+100); err != nil { // slot 0 header, 1 record, 2 data
		t.Fatal(err)
	}
	err = b.ReadAt(ctx, make([]byte, BlockSize), BlockSize)
	if !errors.Is(err, ErrCorrupt) || !strings.Contains(err.Error(), b.journal.journal.Path()) {
		t.Errorf("I7: read of a changed journal: %v", err)
	}
	w.expect(b, 2, 2)
	if err := w.shut(); !errors.Is(err, ErrCorrupt) {
		t.Errorf("I7: close of a branch whose journal is damaged: %v", err)
	}
	// The next life keeps the journal, refuses the branch, and serves others.
	w.mustStart()
	defer w.stop()
	_, err = w.store.Open(ctx, b.ID())
	if !errors.Is(err, ErrCorrupt) || !strings.Contains(err.Error(), "journal/") {
		t.Errorf("I7: open of a branch whose journal is damaged: %v", err)
	}
	other := w.makeProject("q", 16<<20)
	w.write(other, 1, 5)
	if _, err := f.WriteAt([]byte{stamped(1, BlockSize)[100]}, 2*BlockSize+100); err != nil {
		t.Fatal(err)
	}
	b = w.open(b.ID()) // the damage has gone, and so has the refusal
	w.expect(b, 1, 1)
}
