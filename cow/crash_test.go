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

	"github.com/bough-db/bough/vfs/faultfs"
	"github.com/bough-db/bough/vfs/memfs"
)

// The crash tests run a script on a simulated machine and cut its power at each
// operation of its disk that changes something. What is left is booted, and must
// show every branch exactly as it was at one barrier, at or after the last one
// that was acknowledged.

const (
	crashBlocks  = 700 // of a device: two leaves
	crashSectors = crashBlocks * BlockSize / sectorBytes
	crashSeal    = 50 * time.Millisecond
)

// crashOp is one change of a branch's device, in sectors.
type crashOp struct {
	first, n int
	stamp    uint64 // 0 discards
}

// crashBranch is what is known of a branch. It is guarded by crashModel.mu.
type crashBranch struct {
	name    string
	base    []uint64  // stamps at its fork point
	ops     []crashOp // begun
	done    int       // of ops, returned
	durable int       // of ops, acknowledged as durable
	points  []int     // numbers of ops after which there may be a barrier, if strict
	open    int       // sectors written since somebody asked for one
	created bool      // acknowledged
	gone    bool      // deletion begun
	deleted bool      // and acknowledged
}

// state returns the stamps after n operations.
func (b *crashBranch) state(n int) []uint64 {
	s := append([]uint64(nil), b.base...)
	for _, o := range b.ops[:n] {
		o.apply(s)
	}
	return s
}

func (o crashOp) apply(s []uint64) {
	for i := o.first; i < o.first+o.n; i++ {
		s[i] = o.stamp
	}
}

// crashModel is the branches of project p as they should be.
type crashModel struct {
	mu       sync.Mutex
	branches []*crashBranch
	project  bool // acknowledged
	// strict: a barrier is only where somebody asked for one. Else it may be
	// between any two writes.
	strict  bool
	through bool
	stamps  uint64
	made    int // branches
}

// snapshot copies what is known now. What the script does next does not change
// the copy.
func (m *crashModel) snapshot() *crashModel {
	m.mu.Lock()
	defer m.mu.Unlock()
	c := &crashModel{project: m.project, strict: m.strict, through: m.through, stamps: m.stamps, made: m.made}
	for _, b := range m.branches {
		o := *b
		c.branches = append(c.branches, &o)
	}
	return c
}

// widen adds to a snapshot what has begun since, and may be on the disk too.
func (m *crashModel) widen(now *crashModel) {
	for i, b := range now.branches {
		if i == len(m.branches) {
			o := *b
			o.created, o.durable, o.deleted = false, 0, false
			m.branches = append(m.branches, &o)
			continue
		}
		m.branches[i].ops, m.branches[i].points = b.ops, b.points
		m.branches[i].gone = b.gone
	}
}

// script is a run of random operations on a world.
type script struct {
	*world
	*crashModel
	rng  *rand.Rand
	devs map[string]*Branch
}

func (s *script) run(ctx context.Context, ops int) error {
	if !s.project {
		if err := s.createProject(ctx); err != nil {
			return err
		}
	}
	for i := range ops {
		if err := s.step(ctx); err != nil {
			return fmt.Errorf("operation %d: %w", i, err)
		}
	}
	return nil
}

// closeAll closes the branches that are open: each gets a last barrier.
func (s *script) closeAll(ctx context.Context) error {
	for _, b := range s.branches {
		if d := s.devs[b.name]; d != nil {
			if err := s.close(ctx, b, d); err != nil {
				return err
			}
		}
	}
	return nil
}

func (s *script) createProject(ctx context.Context) error {
	b := &crashBranch{name: MainBranch, base: make([]uint64, crashSectors), points: []int{0}}
	s.mu.Lock()
	s.branches = append(s.branches, b)
	s.mu.Unlock()
	_, _, err := s.store.CreateProject(ctx, "p", ProjectOptions{Size: crashBlocks * BlockSize})
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.project, b.created = true, true
	return nil
}

// there returns the branches that are there.
func (s *script) there() (all []*crashBranch) {
	for _, b := range s.branches {
		if b.created && !b.gone {
			all = append(all, b)
		}
	}
	return all
}

func (s *script) dev(ctx context.Context, b *crashBranch) (*Branch, error) {
	if d := s.devs[b.name]; d != nil {
		return d, nil
	}
	info, err := s.store.Branch(ctx, "p", b.name)
	if err != nil {
		return nil, err
	}
	d, err := s.store.Open(ctx, info.ID)
	s.devs[b.name] = d
	return d, err
}

func (s *script) step(ctx context.Context) error {
	all := s.there()
	b := all[s.rng.IntN(len(all))]
	d, err := s.dev(ctx, b)
	if err != nil {
		return err
	}
	switch k := s.rng.IntN(100); {
	case k < 50:
		return s.change(ctx, b, d)
	case k < 72:
		return s.flush(ctx, b, d)
	case k < 82:
		wait(crashSeal + time.Duration(s.rng.IntN(int(crashSeal))))
		return nil
	case k < 89 && len(all) < 6:
		return s.branch(ctx, b)
	case k < 91 && len(all) > 1:
		return s.remove(ctx, b, d)
	case k < 96:
		return s.close(ctx, b, d)
	}
	return s.flush(ctx, b, d)
}

// change makes one random change.
func (s *script) change(ctx context.Context, b *crashBranch, d *Branch) error {
	s.stamps++
	o := crashOp{stamp: s.stamps}
	const per = BlockSize / sectorBytes
	first := s.rng.IntN(crashBlocks)
	n := 1 + s.rng.IntN(min(crashBlocks-first, 5))
	kind := s.rng.IntN(10)
	if kind == 9 {
		n = 1 + s.rng.IntN(min(crashBlocks-first, 250))
	}
	o.first, o.n = first*per, n*per
	if kind < 3 { // parts of blocks
		o.first += s.rng.IntN(per)
		o.n = 1 + s.rng.IntN(min(crashSectors-o.first, 2*per))
	}
	discard := kind == 3 || kind == 4
	if discard {
		o.stamp = 0
	}
	s.mu.Lock()
	b.ops = append(b.ops, o)
	// A batch that has begun to spill is closed whenever that suits.
	if b.open += o.n; s.through || b.open >= spillBlocks*per {
		b.points = append(b.points, len(b.ops))
	}
	s.mu.Unlock()
	off, size := int64(o.first)*sectorBytes, int64(o.n)*sectorBytes
	var err error
	switch {
	case kind == 3:
		err = d.Trim(ctx, off, size)
	case kind == 4:
		err = d.WriteZeroes(ctx, off, size)
	default:
		err = d.WriteAt(ctx, stamped(o.stamp, int(size)), off)
	}
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	b.done = len(b.ops)
	if s.through {
		b.durable = b.done
	}
	return nil
}

// barrier notes that somebody asks for one; the result ends it.
func (s *script) barrier(b *crashBranch) func() {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := len(b.ops)
	b.open = 0
	b.points = append(b.points, n)
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		b.durable = n
	}
}

func (s *script) flush(ctx context.Context, b *crashBranch, d *Branch) error {
	done := s.barrier(b)
	err := d.Flush(ctx)
	if err == nil {
		done()
	}
	return err
}

func (s *script) close(ctx context.Context, b *crashBranch, d *Branch) error {
	done := s.barrier(b)
	err := d.Close(ctx)
	if err == nil {
		done()
	}
	delete(s.devs, b.name)
	return err
}

// branch makes a child of b, which begins as b's last barrier.
func (s *script) branch(ctx context.Context, b *crashBranch) error {
	if b.open >= spillBlocks*BlockSize/sectorBytes { // which barrier is the last only a flush tells
		if err := s.flush(ctx, b, s.devs[b.name]); err != nil {
			return err
		}
	}
	parent, err := s.store.Branch(ctx, "p", b.name)
	if err != nil {
		return err
	}
	s.mu.Lock()
	s.made++
	c := &crashBranch{name: fmt.Sprintf("b%d", s.made), base: b.state(b.durable), points: []int{0}}
	s.branches = append(s.branches, c)
	s.mu.Unlock()
	if _, err := s.store.CreateBranch(ctx, "p", c.name, BranchOptions{From: parent.ID}); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	c.created = true
	return nil
}

func (s *script) remove(ctx context.Context, b *crashBranch, d *Branch) error {
	if err := s.close(ctx, b, d); err != nil {
		return err
	}
	s.mu.Lock()
	b.gone = true
	s.mu.Unlock()
	if err := s.store.DeleteBranch(ctx, "p", b.name); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	b.deleted = true
	return nil
}

// verify compares a machine that has been booted with what is known, and takes
// what it finds as the truth from then on.
func (m *crashModel) verify(ctx context.Context, w *world) error {
	if !m.project {
		// The project may be there, half there or not: making it must end well.
		_, _, err := w.store.CreateProject(ctx, "p", ProjectOptions{Size: crashBlocks * BlockSize})
		if err != nil && !errors.Is(err, ErrExists) {
			return err
		}
		for _, b := range m.branches {
			b.created = true
		}
		m.project = true
	}
	var left []*crashBranch
	for _, b := range m.branches {
		there, err := m.verifyBranch(ctx, w, b)
		if err != nil {
			return fmt.Errorf("branch %s: %w", b.name, err)
		}
		if there {
			left = append(left, b)
		}
	}
	m.branches = left
	return nil
}

func (m *crashModel) verifyBranch(ctx context.Context, w *world, b *crashBranch) (bool, error) {
	info, err := w.store.Branch(ctx, "p", b.name)
	if errors.Is(err, ErrNotFound) {
		if b.created && !b.gone {
			return false, fmt.Errorf("lost: %w", err)
		}
		return false, nil
	}
	if err != nil {
		return false, err
	}
	if b.deleted {
		return false, errors.New("back from deletion")
	}
	d, err := w.store.Open(ctx, info.ID)
	if err != nil {
		return false, err
	}
	p := make([]byte, crashBlocks*BlockSize)
	if err := d.ReadAt(ctx, p, 0); err != nil {
		return false, err
	}
	got := make([]uint64, crashSectors)
	for i := range got {
		if got[i], err = stampOf(p[i*sectorBytes : (i+1)*sectorBytes]); err != nil {
			return false, fmt.Errorf("sector %d: %w", i, err)
		}
	}
	if err := m.match(b, got); err != nil {
		return false, err
	}
	*b = crashBranch{name: b.name, base: got, points: []int{0}, created: true}
	return true, d.Close(ctx)
}

// match finds the barrier whose state is the one found.
func (m *crashModel) match(b *crashBranch, got []uint64) error {
	state := b.state(b.durable)
	near, differs := 0, -1
	for n := b.durable; ; n++ {
		ok := !m.strict
		for _, p := range b.points {
			ok = ok || p == n
		}
		if ok || n == b.durable {
			diff, at := 0, -1
			for i := range got {
				if got[i] != state[i] {
					if diff++; at < 0 {
						at = i
					}
				}
			}
			if diff == 0 {
				return nil
			}
			if differs < 0 || diff < differs {
				differs, near = diff, at
			}
		}
		if n == len(b.ops) {
			break
		}
		b.ops[n].apply(state)
	}
	return fmt.Errorf("not as at any barrier after %d of %d operations; the closest differs in %d sectors, the first is %d: %#x (block %d)",
		b.durable, len(b.ops), differs, near, got[near], near*sectorBytes/BlockSize)
}

// crashWorld is a machine with one disk for journals and store.
func crashWorld(t testing.TB, mem *memfs.FS, through bool) (*world, *faultfs.FS) {
	disk := faultfs.New(mem, "/")
	return &world{
		t: t, disk: disk, onDisk: true, budget: 8 * journalBytes,
		opts: Options{
			WriteThrough: through, SealAfter: crashSeal, CheckpointSegments: 2, Pages: 16, Indexes: 16,
		},
	}, disk
}

// recovers boots what is left of a machine and verifies it; and with depth, it
// does so for what a crash during that would leave, at random points.
func recovers(t testing.TB, left *memfs.FS, m *crashModel, rng *rand.Rand, depth int) error {
	w, disk := crashWorld(t, left, m.through)
	if depth > 0 {
		var mu sync.Mutex
		var nested error
		next := rng.IntN(8)
		disk.SetHook(func(o faultfs.Op) error {
			mu.Lock()
			defer mu.Unlock()
			if o.M < next || nested != nil {
				return nil
			}
			next = o.M + 1 + rng.IntN(40)
			mode := memfs.Modes()[rng.IntN(4)]
			if err := recovers(t, left.CrashClone(rng, mode), m.snapshot(), rng, depth-1); err != nil {
				nested = fmt.Errorf("crash (%v) during recovery, before its operation %d (%v): %w", mode, o.M, o, err)
			}
			return nil
		})
		defer disk.SetHook(nil)
		err := bootAndVerify(w, m.snapshot(), rng)
		mu.Lock()
		defer mu.Unlock()
		return errors.Join(err, nested)
	}
	return bootAndVerify(w, m, rng)
}

func bootAndVerify(w *world, m *crashModel, rng *rand.Rand) error {
	if err := w.start(); err != nil {
		return fmt.Errorf("start: %w", err)
	}
	check := rng.IntN(3) == 0
	err := m.verify(context.Background(), w)
	if err == nil && check {
		err = w.whole()
	}
	return errors.Join(err, w.shut())
}

// TestCrashAtEveryOperation cuts the power before every operation of the disk
// that changes something, and during some of the recoveries. I1, I2, I5.
//
// Seen to fail with: the journal written without RWF_DSYNC (I1); the batch
// acknowledged before the journal has it (I1); records of an uncommitted batch
// replayed (I2).
func TestCrashAtEveryOperation(t *testing.T) {
	for _, through := range []bool{false, true} {
		t.Run(fmt.Sprintf("through=%v", through), func(t *testing.T) {
			forSeeds(t, 70, func(t *testing.T, rng *rand.Rand, ops int) {
				synctest.Test(t, func(t *testing.T) {
					crashEverywhere(t, rng, ops, through)
				})
			})
		})
	}
}

func crashEverywhere(t *testing.T, rng *rand.Rand, ops int, through bool) {
	mem := memfs.New(memfs.Options{})
	w, disk := crashWorld(t, mem, through)
	model := &crashModel{strict: true, through: through}
	crashes := rand.New(rand.NewPCG(rng.Uint64(), 2))
	var mu sync.Mutex
	points, failed := 0, false
	disk.SetHook(func(o faultfs.Op) error {
		if o.M < 0 || o.Kind == faultfs.Write && !o.Durable && o.Len >= 1<<20 {
			return nil // a journal file being made of zeros
		}
		mu.Lock()
		defer mu.Unlock()
		if failed {
			return nil
		}
		points++
		known := model.snapshot()
		mode := memfs.Modes()[crashes.IntN(4)]
		left := mem.CrashClone(crashes, mode)
		known.widen(model.snapshot())
		depth := 0
		if points%12 == 0 {
			depth = 2
		}
		if err := recovers(t, left, known, crashes, depth); err != nil {
			failed = true
			t.Errorf("crash (%v) before operation %d, %v: %v", mode, o.M, o, err)
		}
		return nil
	})
	if err := w.start(); err != nil {
		t.Fatal(err)
	}
	s := &script{world: w, crashModel: model, rng: rng, devs: map[string]*Branch{}}
	if err := s.run(context.Background(), ops); err != nil {
		t.Error(err)
	}
	if err := s.closeAll(context.Background()); err != nil {
		t.Error(err)
	}
	if err := w.shut(); err != nil {
		t.Error(err)
	}
	t.Logf("%d crash points", points)
}

// TestCrashAgainAndAgain runs random operations, cuts the power, boots what is
// left, and goes on there, many times over. I1, I2, I5.
func TestCrashAgainAndAgain(t *testing.T) {
	for _, through := range []bool{false, true} {
		t.Run(fmt.Sprintf("through=%v", through), func(t *testing.T) {
			forSeeds(t, 25, func(t *testing.T, rng *rand.Rand, lives int) {
				synctest.Test(t, func(t *testing.T) {
					model := &crashModel{strict: true, through: through}
					mem := memfs.New(memfs.Options{})
					for life := range lives {
						if mem = oneLife(t, mem, model, rng); t.Failed() {
							t.Fatalf("in life %d", life)
						}
					}
				})
			})
		})
	}
}

// oneLife boots a machine, verifies it, works, and cuts its power at a random
// operation. It returns the disk that is left.
func oneLife(t *testing.T, mem *memfs.FS, model *crashModel, rng *rand.Rand) *memfs.FS {
	ctx := context.Background()
	w, disk := crashWorld(t, mem, model.through)
	dead, cancel := context.WithCancel(ctx)
	cancel()
	defer func() { _ = w.shutWithin(dead) }() // the machine is off: it can only fail
	err := w.start()
	if err == nil && len(model.branches) > 0 {
		err = model.verify(ctx, w)
	}
	if err == nil {
		err = w.whole()
	}
	if err != nil {
		t.Error(err)
		return mem
	}
	if rng.IntN(2) == 0 {
		disk.CrashAt(disk.Mutations() + rng.IntN(150))
	}
	s := &script{world: w, crashModel: model, rng: rng, devs: map[string]*Branch{}}
	// Whoever waits for a disk that is gone waits until ctx ends.
	alive, die := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		for !disk.Crashed() {
			wait(time.Second)
		}
		die()
		close(done)
	}()
	err = s.run(alive, rng.IntN(40))
	if err != nil && !disk.Crashed() {
		t.Error(err)
	}
	disk.Crash()
	<-done
	return mem.CrashClone(rng, memfs.Modes()[rng.IntN(4)])
}

// TestFailedSyncIsFinal fails the n-th durable write of the journal, for all n,
// in the way of a kernel: what was to be written counts as clean afterwards. The
// flush fails, every later one fails too though the disk is well again, and the
// next life has all that was acknowledged. I1, I2.
//
// Seen to fail with: the branch forgetting its failure; the journal trying the
// write again.
func TestFailedSyncIsFinal(t *testing.T) {
	for _, through := range []bool{false, true} {
		t.Run(fmt.Sprintf("through=%v", through), func(t *testing.T) {
			forSeeds(t, 25, func(t *testing.T, rng *rand.Rand, ops int) {
				seed := rng.Uint64()
				for n := 0; ; n++ {
					more := false
					synctest.Test(t, func(t *testing.T) {
						more = failSync(t, rand.New(rand.NewPCG(seed, 3)), ops, n, through)
					})
					if !more || t.Failed() {
						t.Logf("%d syncs", n)
						return
					}
				}
			})
		})
	}
}

// failSync fails sync n of a run and tells whether there was one.
func failSync(t *testing.T, rng *rand.Rand, ops, n int, through bool) bool {
	ctx := context.Background()
	mem := memfs.New(memfs.Options{})
	w, disk := crashWorld(t, mem, through)
	if err := w.start(); err != nil {
		t.Fatal(err)
	}
	model := &crashModel{strict: true, through: through}
	s := &script{world: w, crashModel: model, rng: rng, devs: map[string]*Branch{}}
	if err := s.createProject(ctx); err != nil {
		t.Fatal(err)
	}
	syncs := 0
	var mu sync.Mutex
	disk.SetHook(func(o faultfs.Op) error {
		if o.Kind != faultfs.Sync && !(o.Kind == faultfs.Write && o.Durable) || !strings.HasPrefix(o.Path, "journal/") {
			return nil
		}
		mu.Lock()
		defer mu.Unlock()
		if syncs++; syncs-1 == n {
			return faultfs.Torn(faultfs.ErrInjected)
		}
		return nil
	})
	b := model.branches[0]
	var failure error
	for range ops {
		if failure = s.step(ctx); failure != nil {
			break
		}
	}
	if failure != nil && !errors.Is(failure, faultfs.ErrInjected) {
		t.Errorf("sync %d failed, and a write or flush with: %v", n, failure)
	}
	for _, b = range model.branches {
		d := s.devs[b.name]
		if d == nil || d.Err() == nil {
			continue
		}
		// The disk is well again. Nothing may be acknowledged all the same.
		first := d.Err()
		for range 2 {
			if err := d.Flush(ctx); !errors.Is(err, first) {
				t.Errorf("flush after a failed one: %v", err)
			}
			if err := d.WriteAt(ctx, stamped(7, BlockSize), 0); !errors.Is(err, first) {
				t.Errorf("write after a failed flush: %v", err)
			}
		}
	}
	for _, b := range model.branches {
		s.barrier(b) // closing flushes what has not failed
	}
	err := w.shut()
	mu.Lock()
	failed := syncs > n
	mu.Unlock()
	if err != nil && !failed {
		t.Error(err)
	}
	disk.SetHook(nil)
	left := mem.CrashClone(rng, memfs.LoseAll)
	if err := recovers(t, left, model, rng, 0); err != nil {
		t.Errorf("after sync %d failed: %v", n, err)
	}
	return failed
}
