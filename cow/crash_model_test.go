package cow

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"
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
	case k < 47:
		return s.change(ctx, b, d, s.rng.IntN(10))
	case k < 50: // a batch that spills
		for range 2 + s.rng.IntN(5) {
			if err := s.change(ctx, b, d, 9); err != nil {
				return err
			}
		}
		return nil
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

// change makes one random change of a kind from 0 to 9.
func (s *script) change(ctx context.Context, b *crashBranch, d *Branch, kind int) error {
	s.stamps++
	o := crashOp{stamp: s.stamps}
	const per = BlockSize / sectorBytes
	first := s.rng.IntN(crashBlocks)
	n := 1 + s.rng.IntN(min(crashBlocks-first, 5))
	if kind == 9 {
		n = 250
		first = s.rng.IntN(crashBlocks - n)
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
