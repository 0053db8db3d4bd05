package sim

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/bough-db/bough/cache"
	"github.com/bough-db/bough/cow"
	"github.com/bough-db/bough/objstore"
	"github.com/bough-db/bough/vfs/memfs"
	"github.com/bough-db/bough/wal"
)

const (
	journalDir = "/journal"
	cacheDir   = "/cache"
	// journalBytes is the smallest journal file that takes every batch.
	journalBytes = (1024 + 512 + 1) * blockBytes
)

var quiet = slog.New(slog.DiscardHandler)

// host is a machine: a disk, and at most one process at a time.
type host struct {
	w        *world
	name     string
	mem      *memfs.FS
	disk     int // counts the disks that it has had
	inc      *incarnation
	lives    int
	paused   bool
	pausedAt time.Time
}

// incarnation is one life of a host's process.
type incarnation struct {
	host *host
	n    int
	dead bool           // guarded by world.mu
	seen map[string]int // operations by what they look like; guarded by world.mu

	pool   *wal.Pool
	frames *cache.Frames
	store  *cow.Store

	up, stopping bool
	ctx          context.Context // ends with the process
	cancel       context.CancelFunc
	sessions     []*session
	faults       int // that it has met
	spoiled      int // reads that were falsified
	full         bool
	collecting   bool
}

func (inc *incarnation) String() string { return fmt.Sprintf("%s.%d", inc.host.name, inc.n) }

// seeded is a source of bytes for the processes.
func seeded(seed uint64, host string, life, what int) *rand.ChaCha8 {
	var key [32]byte
	binary.LittleEndian.PutUint64(key[:], seed)
	copy(key[8:16], host)
	binary.LittleEndian.PutUint64(key[16:], uint64(life))
	binary.LittleEndian.PutUint64(key[24:], uint64(what))
	return rand.NewChaCha8(key)
}

// boot starts a process on the host.
func (w *world) boot(h *host) {
	inc := &incarnation{host: h, n: h.lives, seen: map[string]int{}}
	h.lives++
	inc.ctx, inc.cancel = context.WithCancel(context.Background())
	h.inc = inc
	w.start(inc, "boot", func(context.Context) error { return inc.run() }, func(err error) {
		if err == nil {
			inc.up = true
			return
		}
		h.inc = nil
		inc.cancel()
		w.mustBe(inc, err, "boot")
	})
}

// run starts what a process consists of.
func (inc *incarnation) run() (err error) {
	w := inc.host.w
	disk := diskView{inc, inc.host.mem}
	inc.pool, err = wal.OpenPool(disk, journalDir, wal.PoolOptions{
		FileBytes: journalBytes, Spare: 1, MaxBytes: int64(w.conf.journals) * journalBytes, Logger: quiet,
		Rand: seeded(w.seed, inc.host.name, inc.n, 1),
	})
	if err != nil {
		return err
	}
	if w.conf.frames {
		inc.frames, err = cache.OpenFrames(disk, cacheDir, cache.FramesOptions{Bytes: cache.FramesBytesMin, Logger: quiet})
	}
	if err == nil {
		inc.store, err = cow.OpenStore(inc.ctx, inc.options(storeView{inc}))
	}
	if err != nil {
		return errors.Join(err, inc.frames.Close(), inc.pool.Close())
	}
	return nil
}

func (inc *incarnation) options(objects objstore.Store) cow.Options {
	c := &inc.host.w.conf
	return cow.Options{
		Objects: objects, Journals: inc.pool, Frames: inc.frames, Memory: cache.NewMemory(c.memory),
		Host: inc.host.name, Shared: c.shared, WriteThrough: c.through, SealAfter: c.seal,
		Retention:          &c.collecting.keeps,
		CheckpointSegments: c.checkpoint, Pages: 16, Indexes: 16, Uploads: c.uploads,
		Random: seeded(inc.host.w.seed, inc.host.name, inc.n, 2), Logger: quiet,
	}
}

// stop ends the process in order. It detaches all that it has open.
func (w *world) stop(h *host) {
	inc := h.inc
	inc.stopping = true
	begin := w.tick()
	var open []*session
	all := slices.Clone(inc.sessions)
	for _, s := range all {
		if s.h != nil && !s.closing {
			open = append(open, s)
		}
		s.closing = true
	}
	closing := make([]*window, len(open))
	for i, s := range open {
		closing[i] = s.window(begin)
	}
	w.start(inc, "stop", func(ctx context.Context) error { return inc.close(ctx) }, func(err error) {
		h.inc = nil
		inc.cancel()
		for i, s := range open {
			if err == nil {
				closing[i].end = w.clock
				s.detached(begin)
			}
		}
		var fenced error
		if slices.ContainsFunc(all, (*session).mayBeFenced) {
			fenced = cow.ErrFenced
		}
		if err != nil {
			var gone error
			if slices.ContainsFunc(all, func(s *session) bool { return s.b.deleted != no }) {
				gone = cow.ErrNotFound
			}
			w.mustBe(inc, err, "stop", fenced, gone)
		}
	})
}

func (inc *incarnation) close(ctx context.Context) error {
	err := inc.store.Close(ctx)
	return errors.Join(err, inc.frames.Close(), inc.pool.Close())
}

// crash stops the machine in the middle of everything. What its disk keeps is up to
// the mode; what it had asked of the store may have come there, or come later.
func (w *world) crash(h *host, mode memfs.Mode) {
	inc := h.inc
	w.say("crash   %v (%v)", inc, mode)
	w.mu.Lock()
	inc.dead = true
	var mine []*parked
	w.parked = slices.DeleteFunc(w.parked, func(p *parked) bool {
		if p.inc == inc {
			mine = append(mine, p)
		}
		return p.inc == inc
	})
	w.mu.Unlock()
	slices.SortFunc(mine, order)
	for _, p := range mine {
		if p.done {
			continue
		}
		switch {
		case p.disk && p.verb == "write" || p.verb == "commit":
			if n := w.rng.IntN(3); n > 0 {
				p.torn(n == 2)
			}
		case !p.disk && w.rng.IntN(2) == 0:
			w.mu.Lock()
			w.leave(p)
			w.mu.Unlock()
		}
	}
	h.mem = h.mem.CrashClone(w.rng, mode)
	for _, p := range mine {
		p.err = errCrashed
		close(p.ch)
	}
	h.inc = nil
	h.paused = false
	w.bury(inc)
}

// bury lets the goroutines of a process that has died come to their end.
func (w *world) bury(inc *incarnation) {
	inc.cancel()
	for _, t := range w.tasks {
		if t.inc == inc {
			t.cancel()
			t.finish = nil
			if t.lost != nil {
				t.lost()
			}
		}
	}
	if inc.up && !inc.stopping {
		w.start(inc, "unwind", func(context.Context) error {
			_ = inc.close(inc.ctx) // the machine is off: it can only fail
			return nil
		}, nil)
	}
}

// wipe gives a host that is off an empty disk.
func (w *world) wipe(h *host) {
	w.say("wipe    %s", h.name)
	h.mem = memfs.New(memfs.Options{})
	h.disk++
	// The id of a host is on its disk.
	h.name = fmt.Sprintf("%.2s-%d", h.name, h.disk)
}

// setFull makes a disk full, or gives it room again.
func (w *world) setFull(h *host, full bool) {
	w.say("disk    %s full: %v", h.name, full)
	if full {
		h.mem.SetCapacity(max(1, h.mem.Used()))
		if h.inc != nil {
			h.inc.full = true
		}
		return
	}
	h.mem.SetCapacity(0)
}

// mustBe checks that an error has a reason: a fault that was played to the process,
// or one of those that are right.
func (w *world) mustBe(inc *incarnation, err error, what string, right ...error) {
	switch {
	case errors.Is(err, errInjected) && inc.faults > 0:
	case errors.Is(err, context.Canceled):
	case (errors.Is(err, cow.ErrCorrupt) || errors.Is(err, cow.ErrNewerFormat) || errors.Is(err, wal.ErrCorrupt)) && inc.spoiled > 0:
	case errors.Is(err, unix.ENOSPC) && inc.full:
	case errors.Is(err, cow.ErrClosed) && inc.stopping:
	default:
		for _, r := range right {
			if r != nil && errors.Is(err, r) {
				return
			}
		}
		w.fail("%v: %s: %v", inc, what, err)
	}
}
