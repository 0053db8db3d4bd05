package cow

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/bough-db/bough/objstore"
	"github.com/bough-db/bough/objstore/memstore"
	"github.com/bough-db/bough/vfs"
	"github.com/bough-db/bough/wal"
)

var (
	seedFlag = flag.Uint64("seed", 0, "seed of the model tests; 0 draws one")
	opsFlag  = flag.Int("ops", 3000, "operations of one run of a model test")
)

func testSeed(t *testing.T) uint64 {
	t.Helper()
	seed := *seedFlag
	if seed == 0 {
		seed = rand.Uint64()
	}
	t.Logf("replay with -run '^%s$' -seed %d -ops %d", t.Name(), seed, *opsFlag)
	return seed
}

// world is a store under test with everything that it stands on.
type world struct {
	t       *testing.T
	objects objstore.Store
	fs      vfs.FS
	dir     string
	opts    Options
	pool    *wal.Pool
	store   *Store
}

func newWorld(t *testing.T, opts Options) *world {
	t.Helper()
	w := &world{t: t, objects: memstore.New(memstore.Options{}), fs: vfs.OS(), dir: t.TempDir(), opts: opts}
	w.start()
	t.Cleanup(w.stop)
	return w
}

func (w *world) start() {
	w.t.Helper()
	quiet := slog.New(slog.DiscardHandler)
	pool, err := wal.OpenPool(w.fs, w.dir, wal.PoolOptions{Spare: 1, MaxBytes: 1 << 30, Logger: quiet})
	if err != nil {
		w.t.Fatal(err)
	}
	w.pool = pool
	opts := w.opts
	opts.Objects, opts.Journals, opts.Logger = w.objects, pool, quiet
	if w.store, err = OpenStore(context.Background(), opts); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) stop() {
	if w.store == nil {
		return
	}
	if err := w.store.Close(context.Background()); err != nil {
		w.t.Error(err)
	}
	if err := w.pool.Close(); err != nil {
		w.t.Error(err)
	}
	w.store = nil
}

// TestModel drives branches with random operations and compares every read with
// a plain byte slice. I3, I5.
func TestModel(t *testing.T) {
	for _, through := range []bool{false, true} {
		t.Run(fmt.Sprintf("through=%v", through), func(t *testing.T) {
			seed := testSeed(t)
			m := &model{
				rng: rand.New(rand.NewPCG(seed, 1)),
				world: newWorld(t, Options{
					WriteThrough: through, SealAfter: 20 * time.Millisecond, CheckpointSegments: 3, DirtyPages: 50,
					Pages: 16, Indexes: 4,
				}),
			}
			m.run(*opsFlag)
		})
	}
}

const modelSize = 24 << 20 // bytes of a model's device: a dozen leaves

// model is branches as they should be.
type model struct {
	*world
	rng  *rand.Rand
	live []*modelBranch
	made int
}

type modelBranch struct {
	name   string
	id     BranchID
	dev    *Branch
	now    []byte // as written
	synced []byte // as of the last barrier somebody asked for
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
	for _, mb := range m.live {
		if err := m.compare(ctx, mb, 0, modelSize); err != nil {
			m.t.Fatal(err)
		}
	}
}

func (m *model) open(ctx context.Context, mb *modelBranch) error {
	if mb.dev != nil {
		return nil
	}
	var err error
	mb.dev, err = m.store.Open(ctx, mb.id)
	return err
}

func (m *model) extent() (off, n int64) {
	switch m.rng.IntN(10) {
	case 0: // any bytes
		off = m.rng.Int64N(modelSize)
		n = m.rng.Int64N(min(modelSize-off, 20000)) + 1
	case 1: // large
		off = m.rng.Int64N(modelSize/BlockSize) * BlockSize
		n = (m.rng.Int64N(min((modelSize-off)/BlockSize, 700)) + 1) * BlockSize
	default:
		off = m.rng.Int64N(modelSize/BlockSize) * BlockSize
		n = (m.rng.Int64N(min((modelSize-off)/BlockSize, 4)) + 1) * BlockSize
	}
	return off, n
}

func (m *model) step(ctx context.Context, mb *modelBranch) error {
	if err := m.open(ctx, mb); err != nil {
		return err
	}
	off, n := m.extent()
	switch k := m.rng.IntN(100); {
	case k < 50:
		p := make([]byte, n)
		fill := byte(m.rng.Uint32())
		for i := range p {
			p[i] = fill + byte(i/512)
		}
		copy(mb.now[off:], p)
		if err := mb.dev.WriteAt(ctx, p, off); err != nil {
			return err
		}
	case k < 60:
		if m.rng.IntN(20) == 0 {
			off, n = 0, modelSize
		}
		clear(mb.now[off : off+n])
		f := mb.dev.Trim
		if k < 55 {
			f = mb.dev.WriteZeroes
		}
		if err := f(ctx, off, n); err != nil {
			return err
		}
	case k < 75:
		if err := mb.dev.Flush(ctx); err != nil {
			return err
		}
		copy(mb.synced, mb.now)
	case k < 94:
		return m.compare(ctx, mb, off, n)
	case k < 96 && len(m.live) < 6:
		return m.branch(ctx, mb)
	case k < 97 && len(m.live) > 1:
		return m.remove(ctx, mb)
	case k < 99:
		err := mb.dev.Close(ctx)
		mb.dev = nil
		copy(mb.synced, mb.now)
		return err
	default:
		for _, o := range m.live {
			o.dev = nil
			copy(o.synced, o.now)
		}
		m.stop()
		m.start()
	}
	return nil
}

func (m *model) compare(ctx context.Context, mb *modelBranch, off, n int64) error {
	if err := m.open(ctx, mb); err != nil {
		return err
	}
	p := make([]byte, n)
	if err := mb.dev.ReadAt(ctx, p, off); err != nil {
		return err
	}
	if !bytes.Equal(p, mb.now[off:off+n]) {
		for i := range p {
			if p[i] != mb.now[off+int64(i)] {
				return fmt.Errorf("byte %d of block %d is %#x instead of %#x",
					(off+int64(i))%BlockSize, (off+int64(i))/BlockSize, p[i], mb.now[off+int64(i)])
			}
		}
	}
	return nil
}

func (m *model) branch(ctx context.Context, mb *modelBranch) error {
	if err := mb.dev.Flush(ctx); err != nil {
		return err
	}
	copy(mb.synced, mb.now)
	m.made++
	c := &modelBranch{name: fmt.Sprintf("b%d", m.made)}
	info, err := m.store.CreateBranch(ctx, "p", c.name, BranchOptions{From: mb.id})
	if err != nil {
		return err
	}
	c.id = info.ID
	c.now, c.synced = bytes.Clone(mb.synced), bytes.Clone(mb.synced)
	m.live = append(m.live, c)
	return nil
}

func (m *model) remove(ctx context.Context, mb *modelBranch) error {
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
