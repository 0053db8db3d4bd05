package wal

import (
	"bytes"
	"errors"
	"os"
	"sync"
	"testing"

	"github.com/bough-db/bough/vfs"
	"github.com/bough-db/bough/vfs/memfs"
)

func TestRecordLimits(t *testing.T) {
	p := openPool(t, memfs.New(memfs.Options{}), "j", testOptions())
	for _, large := range []bool{false, true} {
		r := p.NewRecord(large)
		for n := range uint64(r.Cap()) {
			buf, idx, ok := r.AddBlock(n)
			if !ok || idx != int(n) || len(buf) != BlockSize || !aligned(buf) {
				t.Fatalf("block %d: %d bytes, idx %d, %v", n, len(buf), idx, ok)
			}
		}
		if _, _, ok := r.AddBlock(5000); ok || r.Len() != 1 || r.Entry(0).Count != uint64(r.Cap()) {
			t.Fatalf("after filling: %d entries, ok %v", r.Len(), ok)
		}
		if r.Size() != r.Blocks()+1 {
			t.Fatalf("Size %d, Blocks %d", r.Size(), r.Blocks())
		}
		r.Free()
	}
	r := p.NewRecord(true)
	for n := range uint64(EntriesMax) {
		if !r.AddRange(KindTrim, n*2, 1) {
			t.Fatalf("entry %d refused", n)
		}
	}
	if _, _, ok := r.AddBlock(1); ok || r.AddRange(KindZero, 1, 1) {
		t.Fatal("entry accepted beyond EntriesMax")
	}
	r.Free()
	r = p.NewRecord(false)
	for _, c := range []struct {
		kind         Kind
		block, count uint64
	}{{KindData, 1, 1}, {KindTrim, 1, 0}, {KindZero, BlockMax, 1}, {KindZero, 1, BlockMax}, {9, 1, 1}} {
		if r.AddRange(c.kind, c.block, c.count) {
			t.Errorf("accepted %+v", c)
		}
	}
	if _, _, ok := r.AddBlock(BlockMax); ok {
		t.Error("accepted a block beyond BlockMax")
	}
	if !r.AddRange(KindTrim, 0, BlockMax) {
		t.Error("refused the whole device")
	}
	// A block written twice around a trim stays three entries, in order.
	r.AddBlock(7)
	r.AddRange(KindTrim, 7, 1)
	r.AddBlock(7)
	if r.Len() != 4 || r.Blocks() != 2 {
		t.Fatalf("%d entries, %d blocks", r.Len(), r.Blocks())
	}
	n := 0
	for range r.Entries() {
		if n++; n == 2 {
			break
		}
	}
	if KindData.String()+KindTrim.String()+KindZero.String()+Kind(9).String() != "datatrimzerokind(9)" {
		t.Error("names of kinds")
	}
}

func TestWriteRefusals(t *testing.T) {
	mem := memfs.New(memfs.Options{})
	p := openPool(t, mem, "/journal", testOptions())
	j := create(t, p, "a", 1)
	try := func(want error, m Meta, recs ...*Record) {
		t.Helper()
		before := image(t, mem)
		room := j.Room()
		if err := j.Write(recs, m); !errors.Is(err, want) {
			t.Fatalf("Write = %v, want %v", err, want)
		}
		if !bytes.Equal(before, image(t, mem)) || j.Room() != room || j.Err() != nil {
			t.Fatal("a refused write changed something")
		}
	}
	try(ErrSequence, meta(1, true))
	try(ErrSequence, meta(0, true), record(t, p, 1, 1))
	write(t, j, meta(5, true), record(t, p, 5, 1))
	try(ErrSequence, meta(5, true), record(t, p, 5, 1))
	try(ErrSequence, meta(7, true), record(t, p, 7, 1))
	r := record(t, p, 6, 1)
	if err := j.Write([]*Record{r}, meta(6, false)); err != nil {
		t.Fatal(err)
	}
	try(ErrSequence, meta(6, true), r)
	try(ErrSequence, meta(7, true), record(t, p, 7, 1))
	// Ten slots of sixteen are left. A spill must leave one for the commit.
	blocks := make([]uint64, 10)
	if j.Room() != 11 {
		t.Fatalf("Room = %d", j.Room())
	}
	try(ErrNoRoom, meta(6, false), record(t, p, 6, blocks...))
	try(ErrNoRoom, meta(6, true), record(t, p, 6, blocks...), p.NewRecord(false))
	write(t, j, meta(6, true), record(t, p, 6, blocks...))
	if j.Room() != 0 || j.End() != 16 {
		t.Fatalf("Room %d, End %d", j.Room(), j.End())
	}
	try(ErrNoRoom, meta(7, true), p.NewRecord(false))
	got, err := load(image(t, mem))
	if err != nil || len(got.batches) != 2 {
		t.Fatalf("%d batches, %v", len(got.batches), err)
	}
	j.Release()
	if err := j.Write([]*Record{p.NewRecord(false)}, meta(7, true)); !errors.Is(err, ErrClosed) {
		t.Fatalf("write after Release: %v", err)
	}
}

func TestReadAt(t *testing.T) {
	for name, fsys := range map[string]vfs.FS{
		"direct": memfs.New(memfs.Options{}), "buffered": memfs.New(memfs.Options{RefuseDirect: true}),
	} {
		t.Run(name, func(t *testing.T) {
			o := testOptions()
			o.FileBytes, o.MaxBytes = 1<<20, 1<<20
			p := openPool(t, fsys, "/journal", o)
			j := create(t, p, "a", 1)
			blocks := make([]uint64, 100)
			for i := range blocks {
				blocks[i] = uint64(i)
			}
			r := record(t, p, 1, blocks...)
			write(t, j, meta(1, true), r)
			odd := make([]byte, 100*BlockSize+1)[1:]
			for _, n := range []int{0, 1, 15, 16, 17, 100} {
				clear(odd)
				if err := j.ReadAt(odd[:n*BlockSize], 2); err != nil {
					t.Fatal(err)
				}
				for i := range n {
					if !bytes.Equal(odd[i*BlockSize:(i+1)*BlockSize], block(uint64(i), 1)) {
						t.Fatalf("block %d of %d differs", i, n)
					}
				}
			}
			for _, c := range []struct {
				n    int
				slot Slot
			}{{BlockSize, 102}, {2 * BlockSize, 101}, {100, 2}, {BlockSize, 1 << 31}} {
				if err := j.ReadAt(make([]byte, c.n), c.slot); err == nil {
					t.Errorf("read of %d bytes at slot %d succeeded", c.n, c.slot)
				}
			}
			f, err := fsys.OpenFile(testPath, os.O_RDWR, 0)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := f.WriteAt([]byte{1}, 50*BlockSize+17); err != nil {
				t.Fatal(err)
			}
			if err := j.ReadAt(odd[:100*BlockSize], 2); !errors.Is(err, ErrCorrupt) {
				t.Fatalf("read of a damaged block: %v", err)
			}
			if err := j.ReadAt(odd[:48*BlockSize], 2); err != nil {
				t.Fatalf("read before the damaged block: %v", err)
			}
		})
	}
}

// TestRefKeepsTheFile: a reader that holds a reference reads its own journal,
// whatever becomes of the file; one that comes too late is told.
func TestRefKeepsTheFile(t *testing.T) {
	p := openPool(t, memfs.New(memfs.Options{}), "j", testOptions())
	j := create(t, p, "a", 1)
	write(t, j, meta(1, true), record(t, p, 1, 1))
	if !j.Ref() {
		t.Fatal("Ref of a live journal")
	}
	j.Release()
	p.quiesce()
	got := make([]byte, BlockSize)
	if err := j.ReadAt(got, 2); err != nil || !bytes.Equal(got, block(1, 1)) {
		t.Fatalf("read with a reference: %v", err)
	}
	if s := p.Stats(); s.Used != 1 {
		t.Fatalf("file was given back under a reader: %+v", s)
	}
	j.Unref()
	p.quiesce()
	if j.Ref() {
		t.Fatal("Ref of a recycled journal")
	}
	next := create(t, p, "b", 1)
	write(t, next, meta(1, true), record(t, p, 9, 9))
	if err := j.ReadAt(got, 2); !errors.Is(err, ErrCorrupt) {
		t.Fatalf("read of another life's data: %v", err)
	}
}

// TestReadersBesideWriter is for the race detector.
func TestReadersBesideWriter(t *testing.T) {
	o := testOptions()
	o.FileBytes, o.MaxBytes = 256<<10, 1<<20
	p := openPool(t, memfs.New(memfs.Options{}), "j", o)
	type place struct {
		j    *Journal
		slot Slot
		seq  Seq
	}
	var mu sync.Mutex
	var last place
	done := make(chan struct{})
	var wg sync.WaitGroup
	for range 3 {
		wg.Go(func() {
			buf := make([]byte, BlockSize)
			for {
				select {
				case <-done:
					return
				default:
				}
				mu.Lock()
				at := last
				held := at.j != nil && at.j.Ref()
				mu.Unlock()
				if !held {
					continue
				}
				if err := at.j.ReadAt(buf, at.slot); err != nil || !bytes.Equal(buf, block(1, at.seq)) {
					t.Errorf("read of batch %d: %v", at.seq, err)
				}
				_, _, _ = at.j.Batches(), at.j.End(), at.j.Header()
				at.j.Unref()
			}
		})
	}
	var j *Journal
	for seq := Seq(1); seq <= 300; seq++ {
		old := j
		if j == nil || j.Room() < 2 {
			j = create(t, p, "a", SegmentNo(seq))
		}
		r := record(t, p, seq, 1)
		if err := j.Write([]*Record{r}, meta(seq, true)); err != nil {
			t.Fatal(err)
		}
		mu.Lock()
		last = place{j, r.Slot(0), seq}
		mu.Unlock()
		r.Free()
		if old != nil && old != j {
			old.Release()
		}
	}
	close(done)
	wg.Wait()
}

// TestWriteAllocatesNothing: the acknowledging path makes no garbage.
func TestWriteAllocatesNothing(t *testing.T) {
	p := openPool(t, vfs.OS(), t.TempDir(), PoolOptions{})
	j := create(t, p, "a", 1)
	recs := make([]*Record, 1)
	seq := Seq(0)
	if n := testing.AllocsPerRun(500, func() {
		seq++
		recs[0] = p.NewRecord(false)
		recs[0].AddBlock(1)
		recs[0].AddBlock(2)
		if err := j.Write(recs, meta(seq, true)); err != nil {
			t.Fatal(err)
		}
		recs[0].Free()
	}); n > 0 {
		t.Fatalf("%v allocations per commit", n)
	}
}
