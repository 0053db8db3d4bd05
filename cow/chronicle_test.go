package cow

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	ask "github.com/bough-db/bough/cow/point"
	"github.com/bough-db/bough/objstore/memstore"
	"github.com/bough-db/bough/wal"
)

// A chronicle is what a store has been told, barrier by barrier: the model that
// collections are held against. Of each barrier it knows the contents of a few
// blocks, which are spread over the device; nothing else is ever written.

const (
	chronicleBlocks = 48
	chronicleSize   = 4 << 30
)

// chronicleBlock spreads the blocks over several leaves and inner nodes.
func chronicleBlock(i int) uint64 {
	return uint64(i%4)*leafSize + uint64(i/4)*2 + uint64(i%2)<<19
}

type contentsOf [chronicleBlocks]uint64 // stamps; 0 is zeros

type chronicle struct {
	stamps   uint64
	branches []*chronicleBranch
}

type chronicleBranch struct {
	id       BranchID
	name     string
	project  string // empty: p
	now      contentsOf
	barriers []chronicleBarrier // of its own log
	deleted  bool
	// pasts are the barriers of logs that it has left, and snapshots those that it has
	// given a name.
	pasts     []chronicleBarrier
	snapshots map[string]chronicleBarrier
}

type chronicleBarrier struct {
	at moment
	contentsOf
}

// readable are the barriers that can be asked for: of the branch's own log.
func (b *chronicleBranch) all() []chronicleBarrier { return slices.Concat(b.pasts, b.barriers) }

// copy returns a chronicle that goes its own way.
func (c *chronicle) copy() *chronicle {
	o := &chronicle{stamps: c.stamps}
	for _, b := range c.branches {
		n := *b
		n.barriers, n.pasts, n.snapshots = slices.Clone(b.barriers), slices.Clone(b.pasts), maps.Clone(b.snapshots)
		o.branches = append(o.branches, &n)
	}
	return o
}

// living returns the branches that are not deleted.
func (c *chronicle) living() (all []*chronicleBranch) {
	for _, b := range c.branches {
		if !b.deleted {
			all = append(all, b)
		}
	}
	return all
}

// write changes a few blocks of the branch and makes a barrier.
func (c *chronicle) write(ctx context.Context, rng *rand.Rand, b *chronicleBranch, d *Branch) error {
	for range 1 + rng.IntN(6) {
		i := rng.IntN(chronicleBlocks)
		if rng.IntN(8) == 0 {
			n := uint64(1 + rng.IntN(4))
			if rng.IntN(10) == 0 {
				n = chronicleSize/BlockSize - chronicleBlock(i)
			}
			if err := d.Trim(ctx, int64(chronicleBlock(i))*BlockSize, int64(n)*BlockSize); err != nil {
				return err
			}
			for j := range b.now {
				if at := chronicleBlock(j); at >= chronicleBlock(i) && at < chronicleBlock(i)+n {
					b.now[j] = 0
				}
			}
			continue
		}
		c.stamps++
		if err := d.WriteAt(ctx, stamped(c.stamps, BlockSize), int64(chronicleBlock(i))*BlockSize); err != nil {
			return err
		}
		b.now[i] = c.stamps
	}
	if err := d.Flush(ctx); err != nil {
		return err
	}
	b.note(d)
	return nil
}

// note records the barrier that the branch is at.
func (b *chronicleBranch) note(d *Branch) {
	d.treeMu.RLock()
	at := d.head
	d.treeMu.RUnlock()
	if n := len(b.barriers); n > 0 && b.barriers[n-1].at.Seq == at.Seq {
		return
	}
	b.barriers = append(b.barriers, chronicleBarrier{at, b.now})
}

// open opens a branch; a fence is a barrier too.
func (c *chronicle) open(ctx context.Context, s *Store, b *chronicleBranch) (*Branch, error) {
	d, err := s.Open(ctx, b.id)
	if err == nil && d.head.Segment > 0 {
		b.note(d)
	}
	return d, err
}

// makeBranch makes a branch of a barrier of another's log.
func (c *chronicle) makeBranch(ctx context.Context, s *Store, name string, from *chronicleBranch, at chronicleBarrier) error {
	info, err := s.CreateBranch(ctx, "p", name, BranchOptions{From: from.id, At: ask.Point{Kind: ask.Seq, Number: uint64(at.at.Seq)}})
	if err == nil {
		c.branches = append(c.branches, &chronicleBranch{id: info.ID, name: name, now: at.contentsOf})
	}
	return err
}

// restore takes a branch back to a barrier of its own log.
func (c *chronicle) restore(ctx context.Context, s *Store, b *chronicleBranch, at chronicleBarrier) error {
	_, err := s.RestoreBranch(ctx, b.id, RestoreOptions{At: ask.Point{Kind: ask.Seq, Number: uint64(at.at.Seq)}})
	if err == nil {
		b.pasts, b.barriers, b.now = append(b.pasts, b.barriers...), nil, at.contentsOf
	}
	return err
}

// snapshot names a barrier of a branch's own log.
func (c *chronicle) snapshot(ctx context.Context, s *Store, b *chronicleBranch, name string, at chronicleBarrier) error {
	_, err := s.CreateSnapshot(ctx, b.id, name, ask.Point{Kind: ask.Seq, Number: uint64(at.at.Seq)})
	if err == nil {
		if b.snapshots == nil {
			b.snapshots = map[string]chronicleBarrier{}
		}
		b.snapshots[name] = at
	}
	return err
}

// readTree reads the chronicle's blocks by a tree.
func readTree(ctx context.Context, s *Store, lineage []BranchID, t *tree) (got contentsOf, err error) {
	pages := pinned{cache: s.pages, lineage: lineage}
	var addrs [chronicleBlocks]addr
	for i := range addrs {
		for {
			_, want := t.lookup(chronicleBlock(i), addrs[i:i+1], &pages)
			if want.isZero() {
				break
			}
			if err := s.loadPage(ctx, want, &pages); err != nil {
				return got, err
			}
		}
	}
	p := make([]byte, chronicleBlocks*BlockSize)
	if err := s.readAddrs(ctx, lineage, true, addrs[:], p); err != nil {
		return got, err
	}
	for i := range got {
		if got[i], err = stampOf(p[i*BlockSize : (i+1)*BlockSize]); err != nil {
			return got, err
		}
	}
	return got, nil
}

// readBarrier reads the chronicle's blocks as they were at a barrier.
func readBarrier(ctx context.Context, s *Store, at moment) (got contentsOf, err error) {
	m, _, err := s.readManifest(ctx, at.Log)
	if err != nil {
		return got, err
	}
	l, err := s.load(ctx, m, at.Segment, at.Seq, gapsHappen)
	if err != nil {
		return got, err
	}
	return readTree(ctx, s, m.Lineage, &l.tree)
}

// verify reads every barrier there ever was. Those that have to be there are as they
// were; so are all others that can be read at all. It returns how many are there.
func (c *chronicle) verify(ctx context.Context, s *Store, r Retention, o CollectOptions) (kept int, err error) {
	o.setDefaults()
	pins := map[BranchID]map[wal.Seq]string{}
	pin := func(p point, why string) {
		if pins[p.Log] == nil {
			pins[p.Log] = map[wal.Seq]string{}
		}
		pins[p.Log][p.Seq] = why
	}
	logs := map[BranchID]bool{}
	for _, b := range c.branches {
		m, _, err := s.readBranch(ctx, b.id)
		if b.deleted && (errors.Is(err, ErrNotFound) || err == nil && m.Doom != nil && m.Doom.Final) {
			continue
		}
		if err != nil {
			return kept, fmt.Errorf("%s: %w", b.name, err)
		}
		pin(m.Fork.point, b.name+" begins there")
		if !b.deleted {
			for name, k := range b.snapshots {
				pin(k.at.point, "it is snapshot "+name)
			}
		}
	}
	for _, b := range c.branches {
		for _, k := range b.all() {
			if _, ok := logs[k.at.Log]; !ok {
				m, _, err := s.readManifest(ctx, k.at.Log)
				logs[k.at.Log] = err == nil && (m.Doom == nil || !m.Doom.Final)
			}
		}
	}
	for _, b := range c.branches {
		n, err := c.verifyBranch(ctx, s, b, pins, logs, r, o)
		if kept += n; err != nil {
			return kept, fmt.Errorf("%s (%s): %w", b.name, b.id, err)
		}
	}
	return kept, nil
}

func (c *chronicle) verifyBranch(ctx context.Context, s *Store, b *chronicleBranch, pins map[BranchID]map[wal.Seq]string, logs map[BranchID]bool, r Retention, o CollectOptions) (kept int, err error) {
	now := s.now()
	covered := map[int64]bool{} // intervals of tiers that have a barrier
	for i, k := range b.all() {
		own := i >= len(b.pasts) // it is in the log that the branch writes
		age := now.Sub(k.at.Time)
		must := pins[k.at.Log][k.at.Seq]
		switch {
		case must != "" || b.deleted || !own:
		case i == len(b.pasts)+len(b.barriers)-1:
			must = "it is the head"
		case age <= o.Recent:
			must = "it is recent"
		case len(r.Tiers) > 0 && r.Tiers[0].Every == 0 && age <= r.Tiers[0].Age:
			must = "every barrier of its age stays"
		}
		where := fmt.Sprintf("barrier %d of segment %d of %s, %v old", k.at.Seq, k.at.Segment, k.at.Log, age)
		if !logs[k.at.Log] {
			if must != "" {
				return kept, fmt.Errorf("%s is gone, but %s", where, must)
			}
			continue
		}
		got, err := readBarrier(ctx, s, k.at)
		if errors.Is(err, ErrNotKept) {
			if must != "" {
				return kept, fmt.Errorf("%s is not kept, but %s", where, must)
			}
			continue
		}
		if err != nil {
			return kept, fmt.Errorf("%s: %w", where, err)
		}
		kept++
		for j := range got {
			if got[j] != k.contentsOf[j] {
				return kept, fmt.Errorf("%s: block %d has stamp %d instead of %d (%q)", where, chronicleBlock(j), got[j], k.contentsOf[j], must)
			}
		}
		for _, t := range r.Tiers {
			if t.Every > 0 && age <= t.Age && own {
				covered[interval(k.at.Time, t.Every)] = true
				break
			}
		}
	}
	if b.deleted {
		return kept, nil
	}
	for _, k := range b.barriers {
		age := now.Sub(k.at.Time)
		for _, t := range r.Tiers {
			if age <= t.Age {
				// Tiers are entered by intervals as a whole.
				if t.Every > 0 && age < t.Age-t.Every && !covered[interval(k.at.Time, t.Every)] {
					return kept, fmt.Errorf("nothing is left of the %v of barrier %d, %v old", t.Every, k.at.Seq, age)
				}
				break
			}
		}
	}
	return kept, nil
}

// chronicled makes a store with a history: a main branch and children of it, of old
// barriers and of each other, some deleted, all closed but for main, whose host is
// gone if left says so.
func chronicled(t testing.TB, rng *rand.Rand, steps int, left bool, pause func() time.Duration) (*chronicle, *memstore.Store) {
	ctx := context.Background()
	w := &world{t: t, opts: Options{SealAfter: time.Second, CheckpointSegments: 3, Host: "first"}}
	w.mustStart()
	c := &chronicle{}
	_, info, err := w.store.CreateProject(ctx, "p", ProjectOptions{Size: chronicleSize})
	if err != nil {
		t.Fatal(err)
	}
	c.branches = []*chronicleBranch{{id: info.ID, name: MainBranch}}
	devs := map[BranchID]*Branch{}
	for step := range steps {
		all := c.living()
		b := all[rng.IntN(len(all))]
		if rng.IntN(2) == 0 {
			b = all[0]
		}
		d := devs[b.id]
		if d == nil {
			if d, err = c.open(ctx, w.store, b); err != nil {
				t.Fatal(err)
			}
			devs[b.id] = d
		}
		switch k := rng.IntN(20); {
		case k < 13:
			err = c.write(ctx, rng, b, d)
		case k < 15 && len(b.barriers) > 0 && len(c.branches) < 7:
			wait(3 * time.Second) // let the store have it
			err = c.makeBranch(ctx, w.store, fmt.Sprintf("b%d", step), b, b.barriers[rng.IntN(len(b.barriers))])
		case k < 16 && b.name != MainBranch:
			delete(devs, b.id)
			if err = d.Close(ctx); err == nil {
				err = w.store.DeleteBranch(ctx, "p", b.name)
				b.deleted = true
			}
		case k < 18 && len(b.barriers) > 0:
			wait(3 * time.Second)
			err = c.snapshot(ctx, w.store, b, fmt.Sprintf("s%d", step), b.barriers[rng.IntN(len(b.barriers))])
		case k < 19 && len(b.barriers) > 0 && rng.IntN(2) == 0:
			delete(devs, b.id)
			if err = d.Close(ctx); err == nil {
				err = c.restore(ctx, w.store, b, b.barriers[rng.IntN(len(b.barriers))])
			}
		default:
			delete(devs, b.id)
			err = d.Close(ctx)
		}
		if err != nil {
			t.Fatalf("step %d: %v", step, err)
		}
		wait(pause())
	}
	for _, b := range c.branches {
		if d := devs[b.id]; d != nil && (b.name != MainBranch || !left) {
			if err := d.Close(ctx); err != nil {
				t.Fatal(err)
			}
		}
	}
	wait(5 * time.Second)
	mem := w.objects.(*memstore.Store).Clone()
	w.stop()
	return c, mem
}
