package cow

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/bough-db/bough/cache"
	"github.com/bough-db/bough/objstore"
	"github.com/bough-db/bough/vfs"
)

// The model of a branch is a byte slice. Drivers do random operations on a store
// and on the model, and compare every read.

const modelSize = 24 << 20 // bytes of a model's device when it is made: a dozen leaves

// small makes every limit so low that a short test meets it.
var small = Options{
	SealAfter: 20 * time.Millisecond, CheckpointSegments: 3, DirtyPages: 50, Pages: 16, Indexes: 4,
}

// model is a store and its branches as they should be.
type model struct {
	*world
	rng  *rand.Rand
	live []*modelBranch
	made int
	idle func(time.Duration)
}

type modelBranch struct {
	name   string
	id     BranchID
	dev    *Branch
	now    []byte // as written
	synced []byte // as of the last barrier somebody asked for
}

// TestModel drives branches with random operations of all kinds, with restarts and
// closes that leave journals behind, and checks the whole store again and again.
// I3, I5.
//
// Seen to fail with: a journal released before its segment is stored; a checkpoint
// that tells nodes of the parent where the child saved them; a slot number off by
// one after the spill of a batch; a child that does not pick up what its parent left.
func TestModel(t *testing.T) {
	for _, through := range []bool{false, true} {
		t.Run(fmt.Sprintf("through=%v", through), func(t *testing.T) {
			forSeeds(t, 1200, func(t *testing.T, rng *rand.Rand, ops int) {
				synctest.Test(t, func(t *testing.T) {
					opts := small
					opts.WriteThrough = through
					m := &model{rng: rng, world: newWorld(t, opts), idle: wait}
					m.run(ops)
				})
			})
		})
	}
}

// TestModelOnDisk is TestModel on the kernel's file system, in real time, with a
// directory store and a cache on disk.
func TestModelOnDisk(t *testing.T) {
	forSeeds(t, 400, func(t *testing.T, rng *rand.Rand, ops int) {
		frames, err := cache.OpenFrames(vfs.OS(), t.TempDir(), cache.FramesOptions{Bytes: 16 << 20})
		if err != nil {
			t.Fatal(err)
		}
		defer frames.Close()
		opts := small
		opts.Frames, opts.Memory = frames, cache.NewMemory(1<<20)
		m := &model{
			rng: rng, idle: func(time.Duration) {},
			world: &world{t: t, opts: opts, disk: rooted{vfs.OS(), t.TempDir()}, onDisk: true},
		}
		m.mustStart()
		defer m.stop()
		m.run(ops)
	})
}

func (m *model) run(ops int) {
	ctx := context.Background()
	_, b, err := m.store.CreateProject(ctx, "p", ProjectOptions{Size: modelSize})
	if err != nil {
		m.t.Fatal(err)
	}
	m.live = []*modelBranch{{name: MainBranch, id: b.ID, now: make([]byte, modelSize), synced: make([]byte, modelSize)}}
	for i := range ops {
		mb := m.live[m.rng.IntN(len(m.live))]
		if err := m.step(ctx, mb); err != nil {
			m.t.Fatalf("operation %d on %s: %v", i, mb.name, err)
		}
	}
	m.idle(time.Second)
	if err := m.whole(); err != nil {
		m.t.Fatal(err)
	}
	m.flushAll(ctx)
	m.restart()
	for _, mb := range m.live {
		mb.dev = nil
		if err := m.compare(ctx, mb, 0, int64(len(mb.now))); err != nil {
			m.t.Fatalf("%s in the end: %v", mb.name, err)
		}
	}
	if err := m.whole(); err != nil {
		m.t.Fatal(err)
	}
}

func (m *model) open(ctx context.Context, mb *modelBranch) error {
	if mb.dev != nil {
		return nil
	}
	if m.rng.IntN(10) == 0 { // damage that must not matter
		junk := pattern(m.rng, m.rng.Int64N(100))
		if _, err := m.objects.Put(ctx, startKey(mb.id), junk, objstore.Condition{}); err != nil {
			return err
		}
	}
	var err error
	mb.dev, err = m.store.OpenWith(ctx, mb.id, OpenOptions{FetchStart: m.rng.IntN(2) == 0})
	if err == nil && m.rng.IntN(2) == 0 {
		mb.dev.RecordStart()
	}
	return err
}

// extent returns a random range of a device of the size.
func extent(rng *rand.Rand, size int64) (off, n int64) {
	switch rng.IntN(10) {
	case 0, 1: // any bytes
		off = rng.Int64N(size)
		n = rng.Int64N(min(size-off, 20000)) + 1
	case 2: // large
		off = rng.Int64N(size/BlockSize) * BlockSize
		n = (rng.Int64N(min((size-off)/BlockSize, 700)) + 1) * BlockSize
	default:
		off = rng.Int64N(size/BlockSize) * BlockSize
		n = (rng.Int64N(min((size-off)/BlockSize, 4)) + 1) * BlockSize
	}
	return off, n
}

// pattern fills a buffer so that it compresses a little.
func pattern(rng *rand.Rand, n int64) []byte {
	p := make([]byte, n)
	fill := byte(rng.Uint32())
	for i := range p {
		p[i] = fill + byte(i/512)
	}
	return p
}

func (m *model) step(ctx context.Context, mb *modelBranch) error {
	if err := m.open(ctx, mb); err != nil {
		return err
	}
	switch k := m.rng.IntN(200); {
	case k < 120:
		return m.change(ctx, mb, k < 100)
	case k < 150:
		return m.flush(ctx, mb)
	case k < 175:
		off, n := extent(m.rng, int64(len(mb.now)))
		return m.compare(ctx, mb, off, n)
	case k < 182:
		m.idle(time.Duration(m.rng.IntN(60)) * time.Millisecond)
		if m.rng.IntN(2) == 0 {
			mb.dev.Used()
		}
		return nil
	case k < 185 && len(m.live) < 6:
		return m.branch(ctx, mb)
	case k < 187 && len(m.live) > 1:
		return m.remove(ctx, mb)
	case k < 189:
		return m.rename(ctx, mb)
	case k < 191:
		return m.resize(ctx, mb)
	case k < 193:
		return m.closeOne(ctx, mb)
	case k < 195:
		return m.closeInAHurry(ctx, mb)
	case k < 197:
		return m.whole()
	case k < 198:
		return m.compare(ctx, mb, 0, int64(len(mb.now)))
	}
	m.flushAll(ctx)
	m.restart()
	return m.whole()
}

func (m *model) change(ctx context.Context, mb *modelBranch, write bool) error {
	off, n := extent(m.rng, int64(len(mb.now)))
	if write {
		p := pattern(m.rng, n)
		copy(mb.now[off:], p)
		return mb.dev.WriteAt(ctx, p, off)
	}
	if m.rng.IntN(20) == 0 {
		off, n = 0, int64(len(mb.now))
	}
	clear(mb.now[off : off+n])
	if m.rng.IntN(2) == 0 {
		return mb.dev.Trim(ctx, off, n)
	}
	return mb.dev.WriteZeroes(ctx, off, n)
}

func (m *model) flush(ctx context.Context, mb *modelBranch) error {
	if err := mb.dev.Flush(ctx); err != nil {
		return err
	}
	mb.synced = bytes.Clone(mb.now)
	return nil
}

func (m *model) flushAll(ctx context.Context) {
	for _, o := range m.live {
		if o.dev != nil {
			if err := m.flush(ctx, o); err != nil {
				m.t.Fatal(err)
			}
			o.dev = nil
		}
	}
}

func (m *model) compare(ctx context.Context, mb *modelBranch, off, n int64) error {
	if err := m.open(ctx, mb); err != nil {
		return err
	}
	p := make([]byte, n)
	if err := mb.dev.ReadAt(ctx, p, off); err != nil {
		return err
	}
	return differs(p, mb.now[off:off+n], off)
}

// differs returns an error that names the first byte in which got, from offset
// off, is not as wanted.
func differs(got, want []byte, off int64) error {
	if bytes.Equal(got, want) {
		return nil
	}
	for i := range got {
		if got[i] != want[i] {
			at := off + int64(i)
			return fmt.Errorf("byte %d of block %d is %#x instead of %#x", at%BlockSize, at/BlockSize, got[i], want[i])
		}
	}
	return fmt.Errorf("%d bytes instead of %d", len(got), len(want))
}

func (m *model) branch(ctx context.Context, mb *modelBranch) error {
	if err := m.flush(ctx, mb); err != nil {
		return err
	}
	if !mb.dev.WriteThrough() {
		// What comes after the barrier is not in the branch.
		if err := m.change(ctx, mb, true); err != nil {
			return err
		}
	}
	m.made++
	c := &modelBranch{name: fmt.Sprintf("b%d", m.made), now: bytes.Clone(mb.synced), synced: bytes.Clone(mb.synced)}
	if m.rng.IntN(3) == 0 { // of a branch that nobody has open
		if err := m.closeOne(ctx, mb); err != nil {
			return err
		}
		c.now, c.synced = bytes.Clone(mb.now), bytes.Clone(mb.now)
	}
	info, err := m.store.CreateBranch(ctx, "p", c.name, BranchOptions{From: mb.id})
	if err != nil {
		return err
	}
	c.id = info.ID
	m.live = append(m.live, c)
	return nil
}

// remove deletes a branch, which may have children.
func (m *model) remove(ctx context.Context, mb *modelBranch) error {
	if err := m.store.DeleteBranch(ctx, "p", mb.name); !errors.Is(err, ErrInUse) {
		return fmt.Errorf("deletion of an open branch: %w", err)
	}
	if err := mb.dev.Close(ctx); err != nil {
		return err
	}
	for i, o := range m.live {
		if o == mb {
			m.live = append(m.live[:i], m.live[i+1:]...)
			break
		}
	}
	return m.store.DeleteBranch(ctx, "p", mb.name)
}

func (m *model) rename(ctx context.Context, mb *modelBranch) error {
	m.made++
	name := fmt.Sprintf("r%d", m.made)
	if err := m.store.RenameBranch(ctx, "p", mb.name, name); err != nil {
		return err
	}
	if _, err := m.store.Branch(ctx, "p", mb.name); !errors.Is(err, ErrNotFound) {
		return fmt.Errorf("the old name %s: %w", mb.name, err)
	}
	mb.name = name
	if info, err := m.store.Branch(ctx, "p", name); err != nil || info.ID != mb.id {
		return fmt.Errorf("the new name %s leads to %s: %w", name, info.ID, err)
	}
	return nil
}

// resize makes the device larger.
func (m *model) resize(ctx context.Context, mb *modelBranch) error {
	more := (m.rng.Int64N(600) + 1) * BlockSize
	if len(mb.now) > 2*modelSize {
		return nil
	}
	err := m.store.UpdateBranch(ctx, mb.id, func(i *BranchInfo) error {
		i.Size += more
		return nil
	})
	if err != nil {
		return err
	}
	mb.now = append(mb.now, make([]byte, more)...)
	mb.synced = append(mb.synced, make([]byte, more)...)
	if got := mb.dev.Size(); got != int64(len(mb.now)) {
		return fmt.Errorf("device has %d bytes instead of %d", got, len(mb.now))
	}
	return nil
}

func (m *model) closeOne(ctx context.Context, mb *modelBranch) error {
	err := mb.dev.Close(ctx)
	mb.dev = nil
	mb.synced = bytes.Clone(mb.now)
	return err
}

// closeInAHurry closes a branch without the time to bring it into the store: its
// journals stay on disk until somebody needs the branch or a child of it.
func (m *model) closeInAHurry(ctx context.Context, mb *modelBranch) error {
	if err := m.flush(ctx, mb); err != nil {
		return err
	}
	gone, cancel := context.WithCancel(ctx)
	cancel()
	err := mb.dev.Close(gone)
	mb.dev = nil
	if err != nil && !strings.Contains(err.Error(), "context canceled") {
		return fmt.Errorf("close without time: %w", err)
	}
	return nil
}

// TestModelConcurrent drives branches at the same time, each by a goroutine of its
// own that also makes and deletes children. I5.
func TestModelConcurrent(t *testing.T) {
	forSeeds(t, 150, func(t *testing.T, rng *rand.Rand, ops int) {
		ctx := context.Background()
		w := newWorld(t, small)
		w.budget = 18 * journalBytes
		w.restart()
		root := w.makeProject("p", modelSize)
		w.write(root, 5, 5)
		var wg sync.WaitGroup
		for i := range 4 {
			d := w.child("p", fmt.Sprintf("g%d", i), root)
			m := &model{world: w, rng: rand.New(rand.NewPCG(rng.Uint64(), 4)), made: 1000 * (i + 1), idle: func(time.Duration) {}}
			first := make([]byte, modelSize)
			copy(first[5*BlockSize:], stamped(5, BlockSize))
			m.live = []*modelBranch{{name: fmt.Sprintf("g%d", i), id: d.ID(), dev: d, now: first, synced: bytes.Clone(first)}}
			wg.Add(1)
			go func() {
				defer wg.Done()
				if err := m.alone(ctx, ops); err != nil {
					t.Error(err)
				}
			}()
		}
		wg.Wait()
		w.checkWhole()
	})
}

// alone is run without what would disturb others.
func (m *model) alone(ctx context.Context, ops int) error {
	for i := range ops {
		mb := m.live[m.rng.IntN(len(m.live))]
		if err := m.open(ctx, mb); err != nil {
			return err
		}
		off, n := extent(m.rng, modelSize)
		var err error
		switch k := m.rng.IntN(100); {
		case k < 60:
			err = m.change(ctx, mb, k < 50)
		case k < 75:
			err = m.flush(ctx, mb)
		case k < 92:
			err = m.compare(ctx, mb, off, n)
		case k < 94 && len(m.live) < 3:
			err = m.branch(ctx, mb)
		case k < 95 && len(m.live) > 1:
			err = m.remove(ctx, mb)
		case k < 97:
			err = m.rename(ctx, mb)
		case k < 98:
			err = m.closeInAHurry(ctx, mb)
		}
		if err != nil {
			return fmt.Errorf("operation %d on %s: %w", i, mb.name, err)
		}
	}
	for _, mb := range m.live {
		if err := m.compare(ctx, mb, 0, modelSize); err != nil {
			return fmt.Errorf("%s in the end: %w", mb.name, err)
		}
	}
	return nil
}
