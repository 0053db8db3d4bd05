package wal

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"

	"github.com/bough-db/bough/vfs"
	"github.com/bough-db/bough/vfs/faultfs"
	"github.com/bough-db/bough/vfs/memfs"
)

var seed = flag.Uint64("seed", 0, "seed of the random tests (default: from the clock)")

// newSeed returns the seed to use, and logs it.
func newSeed(t testing.TB) uint64 {
	s := *seed
	if s == 0 {
		s = uint64(time.Now().UnixNano())
	}
	t.Logf("-seed=%d", s)
	return s
}

// world is what exists outside of the machine: the store, and what the guests
// remember. It is the model: everything a log may hold after a crash follows
// from it.
type world struct {
	logs map[string]*logModel
}

// logModel is one branch as its guest and the store see it.
type logModel struct {
	acked  Seq // the last batch whose Write returned nil
	tried  Seq // the last batch that was begun
	stored map[SegmentNo][]Seq
}

func newWorld(logs ...string) *world {
	w := &world{logs: map[string]*logModel{}}
	for _, l := range logs {
		w.logs[l] = &logModel{stored: map[SegmentNo][]Seq{}}
	}
	return w
}

func (w *world) clone() *world {
	o := &world{logs: map[string]*logModel{}}
	for name, l := range w.logs {
		o.logs[name] = &logModel{l.acked, l.tried, maps.Clone(l.stored)}
	}
	return o
}

// tallies are the contents of batch seq: what every party recomputes instead of
// remembering.
func tallies(log string, seq Seq) (entries []Entry, records int) {
	rng := rand.New(rand.NewPCG(uint64(seq), uint64(log[len(log)-1])))
	for range rng.IntN(4) {
		n := uint64(1 + rng.IntN(3))
		entries = append(entries, Entry{Block: uint64(rng.IntN(40)) * 10, Count: n, Kind: Kind(1 + rng.IntN(3))})
	}
	return entries, 1 + rng.IntN(3)
}

// driver runs the life of a machine: a pool and one journal for each log.
type driver struct {
	t    *testing.T
	name string // says in failures what the machine went through
	w    *world
	fs   vfs.FS
	pool *Pool
	rng  *rand.Rand
	open map[string]*Journal
}

func smallOptions(rng *rand.Rand) PoolOptions {
	return PoolOptions{FileBytes: 64 << 10, MaxBytes: 6 * 64 << 10, Spare: 1, Logger: quiet(), Rand: chaos{rng}}
}

// chaos is a source of nonces that a seed reproduces.
type chaos struct{ rng *rand.Rand }

func (c chaos) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = byte(c.rng.Uint32())
	}
	return len(p), nil
}

var _ io.Reader = chaos{}

// run boots, recovers, checks, and writes the given number of batches. It
// returns the first error of the disk.
func (d *driver) run(batches int) error {
	pool, err := OpenPool(d.fs, "/journal", smallOptions(d.rng))
	if err != nil {
		return err
	}
	d.pool, d.open = pool, map[string]*Journal{}
	defer pool.Close()
	if err := d.recover(); err != nil {
		return err
	}
	names := slices.Sorted(maps.Keys(d.w.logs))
	for range batches {
		if err := d.batch(names[d.rng.IntN(len(names))]); err != nil {
			return err
		}
		pool.quiesce()
	}
	for _, log := range names {
		if j := d.open[log]; j != nil && d.rng.IntN(2) == 0 {
			d.store(log, j)
		}
	}
	return pool.Close()
}

// quiesce waits until the worker has nothing to do, so that the order of
// operations is always the same.
func (p *Pool) quiesce() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for !p.resting && !p.closed {
		p.work.Wait()
	}
}

// batch writes the next batch of a log.
func (d *driver) batch(log string) error {
	l := d.w.logs[log]
	entries, records := tallies(log, l.acked+1)
	recs, size := d.records(log, l.acked+1, entries, records)
	j := d.open[log]
	if j != nil && j.Room() < size+1 {
		d.store(log, j)
		d.pool.quiesce()
		j = nil
	}
	if j == nil {
		n := SegmentNo(len(l.stored) + 1)
		var err error
		if j, err = d.pool.Create(context.Background(), Header{Log: log, Segment: n, Epoch: 1}); err != nil {
			return err
		}
		d.open[log] = j
		d.pool.quiesce()
	}
	l.tried = l.acked + 1
	m := Meta{Seq: l.tried, Time: time.Unix(0, int64(l.tried)*1e9), LSN: uint64(l.tried), Line: ^uint64(l.tried)}
	spill := d.rng.IntN(len(recs) + 1)
	if spill == len(recs) {
		spill = 0
	}
	for _, part := range [][]*Record{recs[:spill], recs[spill:]} {
		if len(part) == 0 {
			continue
		}
		m.Commit = part[len(part)-1] == recs[len(recs)-1]
		if err := j.Write(part, m); err != nil {
			d.checkSticky(j, m, err)
			j.Abandon()
			delete(d.open, log)
			return err
		}
	}
	l.acked = l.tried
	for _, r := range recs {
		r.Free()
	}
	return nil
}

// checkSticky: after a failed write every other one fails with the same error.
func (d *driver) checkSticky(j *Journal, m Meta, err error) {
	d.t.Helper()
	if !errors.Is(err, ErrFailed) {
		d.t.Fatalf("failed write returned %v, want ErrFailed", err)
	}
	for _, seq := range []Seq{m.Seq, m.Seq + 1} {
		m.Seq, m.Commit = seq, true
		r := d.pool.NewRecord(false)
		if again := j.Write([]*Record{r}, m); again != err || j.Err() != err {
			d.t.Fatalf("write after a failed one returned %v, want %v", again, err)
		}
		r.Free()
	}
}

// records builds the records of a batch.
func (d *driver) records(log string, seq Seq, entries []Entry, n int) (recs []*Record, size int) {
	for range n {
		recs = append(recs, d.pool.NewRecord(false))
	}
	for i, e := range entries {
		r := recs[i*n/len(entries)]
		if e.Kind != KindData {
			r.AddRange(e.Kind, e.Block, e.Count)
			continue
		}
		for b := e.Block; b < e.Block+e.Count; b++ {
			buf, _, _ := r.AddBlock(b)
			copy(buf, contents(log, b, seq))
		}
	}
	for _, r := range recs {
		size += r.Size()
	}
	return recs, size
}

func contents(log string, b uint64, seq Seq) []byte {
	return block(b+uint64(log[len(log)-1])<<32, seq)
}

// store puts the journal's segment into the store and gives the file back.
func (d *driver) store(log string, j *Journal) {
	l := d.w.logs[log]
	var seqs []Seq
	for _, b := range j.Batches() {
		seqs = append(seqs, b.Seq)
	}
	if len(seqs) > 0 {
		l.stored[j.Header().Segment] = seqs
	}
	delete(d.open, log)
	j.Release()
}

// recover checks what the last life left against the model, and stores it.
func (d *driver) recover() error {
	rs, err := d.pool.Recover(context.Background())
	if err != nil {
		return err
	}
	slices.SortFunc(rs, func(a, b *Recovered) int { return cmp.Compare(a.Header().Segment, b.Header().Segment) })
	for _, r := range rs {
		if r.Err != nil {
			if errors.Is(r.Err, faultfs.ErrCrashed) || errors.Is(r.Err, faultfs.ErrInjected) {
				return r.Err
			}
			d.t.Fatalf("%s: recovery: %v", d.name, r.Err)
		}
	}
	for log, l := range d.w.logs {
		if err := d.recoverLog(log, l, rs); err != nil {
			return err
		}
	}
	return nil
}

func (d *driver) recoverLog(log string, l *logModel, rs []*Recovered) error {
	for _, r := range rs {
		h := r.Header()
		if h.Log != log {
			continue
		}
		var seqs []Seq
		for _, b := range r.Batches() {
			seqs = append(seqs, b.Seq)
			if err := d.checkBatch(log, r.Journal, b); err != nil {
				return err
			}
		}
		if old := l.stored[h.Segment]; old != nil && !slices.Equal(old, seqs) {
			d.t.Fatalf("%s segment %d: stored %v, recovered again as %v", log, h.Segment, old, seqs)
		}
		l.stored[h.Segment] = seqs
		r.Release()
	}
	last := Seq(0)
	for n := SegmentNo(1); n <= SegmentNo(len(l.stored)); n++ {
		for _, s := range l.stored[n] {
			if last++; s != last {
				d.t.Fatalf("%s: batch %d follows %d (segment %d of %v)", log, s, last-1, n, l.stored)
			}
		}
	}
	if last < l.acked || last > l.tried {
		d.t.Fatalf("%s: %s: recovered up to batch %d; %d was acknowledged, %d begun", d.name, log, last, l.acked, l.tried)
	}
	l.acked, l.tried = last, last
	return nil
}

// checkBatch compares a recovered batch with what was written.
func (d *driver) checkBatch(log string, j *Journal, b Batch) error {
	d.t.Helper()
	want, _ := tallies(log, b.Seq)
	var got []Entry
	for _, e := range b.Entries {
		for i := uint64(0); e.Kind == KindData && i < e.Count; i++ {
			p := make([]byte, BlockSize)
			if err := j.ReadAt(p, e.Slot+Slot(i)); err != nil {
				return err
			}
			if !bytes.Equal(p, contents(log, e.Block+i, b.Seq)) {
				d.t.Fatalf("%s batch %d: block %d has the wrong contents", log, b.Seq, e.Block+i)
			}
		}
		e.Slot = 0
		got = append(got, e)
	}
	if diff := gocmp.Diff(merge(want), merge(got)); diff != "" {
		d.t.Fatalf("%s batch %d (-want +got):\n%s", log, b.Seq, diff)
	}
	if b.LSN != uint64(b.Seq) || b.Line != ^uint64(b.Seq) || b.Time.UnixNano() != int64(b.Seq)*1e9 {
		d.t.Fatalf("%s batch %d: LSN %d, line %#x, time %v", log, b.Seq, b.LSN, b.Line, b.Time)
	}
	return nil
}

// merge joins neighbouring data entries, as records do when they are built.
func merge(in []Entry) (out []Entry) {
	for _, e := range in {
		if n := len(out); n > 0 && e.Kind == KindData && out[n-1].Kind == KindData && out[n-1].Block+out[n-1].Count == e.Block {
			out[n-1].Count += e.Count
		} else {
			out = append(out, e)
		}
	}
	return out
}

const scriptBatches = 30

// TestCrashEverywhere stops the machine at every mutation of a script, boots what
// each kind of crash may leave, and checks it against the model; then stops the
// recovery too, at a random place, up to three times over.
func TestCrashEverywhere(t *testing.T) {
	s := newSeed(t)
	for k := 0; ; k++ {
		w := newWorld("a", "b")
		mem := memfs.New(memfs.Options{})
		ffs := faultfs.New(mem, "/journal")
		ffs.CrashAt(k)
		d := &driver{t: t, w: w, fs: ffs, rng: rand.New(rand.NewPCG(s, 1))}
		err := d.run(scriptBatches)
		if !ffs.Crashed() {
			if err != nil {
				t.Fatal(err)
			}
			t.Logf("%d crash points", k)
			return
		}
		for _, mode := range memfs.Modes() {
			nested(t, fmt.Sprintf("crash at %d", k), w.clone(), mem, mode, rand.New(rand.NewPCG(s, uint64(k))), 3)
		}
		if t.Failed() {
			return
		}
	}
}

// nested boots a clone of mem, crashes it again while it recovers or soon after,
// and so on; the last boot goes undisturbed.
func nested(t *testing.T, name string, w *world, mem *memfs.FS, mode memfs.Mode, rng *rand.Rand, depth int) {
	t.Helper()
	mem = mem.CrashClone(rng, mode)
	ffs := faultfs.New(mem, "/journal")
	if depth > 0 {
		ffs.CrashAt(rng.IntN(25))
	}
	name += fmt.Sprintf(", %v", mode)
	d := &driver{t: t, name: name, w: w, fs: ffs, rng: rng}
	err := d.run(2)
	switch {
	case ffs.Crashed():
		modes := memfs.Modes()
		nested(t, name, w, mem, modes[rng.IntN(len(modes))], rng, depth-1)
	case err != nil:
		t.Fatalf("%s: %v", name, err)
	case depth > 0:
		nested(t, name, w, mem, memfs.LoseAll, rng, 0)
	}
}

// TestFaultEverywhere fails the n-th operation of every kind, for all n. Whatever
// fails, nothing acknowledged is lost, and the next life works.
func TestFaultEverywhere(t *testing.T) {
	s := newSeed(t)
	kinds := []faultfs.Kind{
		faultfs.Write, faultfs.Sync, faultfs.SyncDir, faultfs.Create, faultfs.Remove,
		faultfs.Open, faultfs.Read, faultfs.ReadDir, faultfs.Mkdir, faultfs.Lock, faultfs.Close, faultfs.Stat,
	}
	for _, kind := range kinds {
		for _, cause := range []error{faultfs.ErrInjected, faultfs.Torn(faultfs.ErrInjected)} {
			for n := 0; ; n++ {
				if !faultAt(t, kind, n, cause, s) {
					break
				}
			}
		}
	}
}

// faultAt runs the script with one fault and tells whether it came to that.
func faultAt(t *testing.T, kind faultfs.Kind, n int, cause error, s uint64) bool {
	t.Helper()
	w := newWorld("a", "b")
	mem := memfs.New(memfs.Options{})
	ffs := faultfs.New(mem, "/journal")
	hook := faultfs.FailNth(kind, n, cause)
	var hit atomic.Bool
	ffs.SetHook(func(o faultfs.Op) error {
		err := hook(o)
		if err != nil {
			hit.Store(true)
		}
		return err
	})
	rng := rand.New(rand.NewPCG(s, 2))
	// Two lives, so that recovery meets faults too.
	for range 2 {
		d := &driver{t: t, w: w, fs: ffs, rng: rng}
		if err := d.run(12); err != nil && !errors.Is(err, faultfs.ErrInjected) {
			t.Fatalf("%s %d: %v", kind, n, err)
		}
	}
	if !hit.Load() {
		return false
	}
	for _, mode := range []memfs.Mode{memfs.LoseAll, memfs.Tear} {
		nested(t, fmt.Sprintf("%s %d fails", kind, n), w.clone(), mem, mode, rng, 0)
	}
	return true
}
