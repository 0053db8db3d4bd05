package cow

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"time"

	"github.com/bough-db/bough/wal"
)

// The life of a pack, as its log's manifest tells it. Each step is one replacement of
// the manifest, so that of all who are at it one wins.
//
//	claimed   a collection may put an object of this name, which was never used before
//	pending   the object is there. Whoever makes a branch of a barrier that it has not
//	          kept finds that out when he reads the manifest, after he has put his own;
//	          whoever was before that is found by the collection, which lists all
//	          manifests now
//	in use    readers go to it. What it stands for stays for a time of grace
//	cleaned   what it stands for is deleted
//	replaced  another pack stands for it too. It stays for a time of grace
//
// An object that no manifest speaks of is of no use to anybody, and may be deleted at
// once. A collection that was paused for a week finds its claim gone.
const (
	// claimsMax is how many packs a collection claims at a time.
	claimsMax = 16
	// claimStale is the age at which a claim may be taken away from a collection
	// that seems to have died.
	claimStale = time.Hour
)

// made is a pack that this collection has put.
type made struct {
	ref  packRef
	from []uint64 // generations of the packs that it was made from
	// ckpts are the checkpoints that it was made from, and packed the numbers which
	// those packs stand for: a checkpoint of such a number counts for nothing.
	ckpts  []wal.SegmentNo
	packed []piece
	end    seenEnd // of the log, as its collection has seen it
}

// packLog packs what is worth it of one log. What it makes waits for decide.
func (c *collector) packLog(ctx context.Context, v *logView) error {
	runs, p, err := c.plan(ctx, v)
	if err != nil {
		return err
	}
	if c.o.DryRun {
		for i := range runs {
			c.foresee(&runs[i])
		}
		return nil
	}
	for len(runs) > 0 {
		part := runs[:min(claimsMax, len(runs))]
		runs = runs[len(part):]
		split, err := p.packRuns(ctx, part)
		if err != nil {
			return err
		}
		runs = append(runs, split...)
	}
	return nil
}

// foresee adds to the report what packing the run would do.
func (c *collector) foresee(r *packRun) {
	c.rep.Packs++
	c.rep.Replaced += len(r.pieces)
	for i := range r.pieces {
		in := &r.pieces[i]
		c.rep.Written += int64(float64(in.size) * (1 - in.dead()))
		c.rep.Freeable += int64(float64(in.size) * in.dead())
	}
}

// packRuns makes the packs of a few runs, and announces them. It returns parts of the
// runs that were too large.
func (p *planner) packRuns(ctx context.Context, runs []packRun) (split []packRun, err error) {
	id := p.v.m.ID
	gen, err := p.claim(ctx, runs)
	if err != nil {
		return nil, err
	}
	var done []made
	for i := range runs {
		r := &runs[i]
		m, err := p.makePack(ctx, r, gen)
		switch {
		case errors.Is(err, errRunTooLarge) && len(r.pieces) > 1:
			half := len(r.pieces) / 2
			for _, pieces := range [][]pieceInfo{r.pieces[:half], r.pieces[half:]} {
				next, err := p.nextKept(ctx, pieces[len(pieces)-1].to)
				if err != nil {
					return nil, err
				}
				split = append(split, packRun{pieces: pieces, next: next})
			}
			continue
		case err != nil && ctx.Err() != nil:
			return nil, err
		case err != nil:
			p.problem(id, p.explain(ctx, p.v, err))
			continue
		}
		done = append(done, m)
		p.rep.Packs++
		p.rep.Written += m.ref.Bytes
		p.rep.Replaced += len(r.pieces)
		for j := range r.pieces {
			p.rep.Freeable += r.pieces[j].size
		}
		p.rep.Freeable -= m.ref.Bytes
	}
	return split, p.announce(ctx, gen, done)
}

func (p *planner) makePack(ctx context.Context, r *packRun, gen uint64) (made, error) {
	b, err := p.build(ctx, *r, gen)
	if err != nil {
		return made{}, err
	}
	ref, err := b.put(ctx)
	m := made{ref: ref, end: p.v.end()}
	for _, d := range b.desc {
		if d.piece.pack != nil {
			m.from = append(m.from, d.piece.pack.Gen)
			m.packed = append(m.packed, d.piece)
		}
	}
	for _, g := range p.v.ckpts {
		m.ckpts = append(m.ckpts, g.n)
	}
	return m, err
}

// claim writes into the manifest that packs of the runs are being made. Their
// generation is that of the manifest which says so: no name is ever used again.
func (p *planner) claim(ctx context.Context, runs []packRun) (gen uint64, err error) {
	_, err = p.s.updateManifest(ctx, p.v.m.ID, func(m *manifest) error {
		at, err := p.s.layoutOf(ctx, m)
		if err != nil {
			return err
		}
		if !at.same(p.v.at) || m.Doom != nil || m.Gone.IsZero() != p.v.m.Gone.IsZero() {
			return errOvertaken
		}
		gen = m.Generation + 1
		for i := range runs {
			r := &runs[i]
			from, to := r.pieces[0].from, r.pieces[len(r.pieces)-1].to
			for j := range m.Claims {
				if m.Claims[j].From <= to && m.Claims[j].To >= from {
					return errOvertaken // another one is at it
				}
			}
			m.Claims = append(m.Claims, packClaim{
				packRef: packRef{From: from, To: to, Gen: gen, Since: p.s.now().UTC()}, Host: p.s.opts.Host,
			})
		}
		return nil
	})
	return gen, err
}

// announce makes the packs that were put pending, and gives up the other claims of
// the generation.
func (p *planner) announce(ctx context.Context, gen uint64, done []made) error {
	var pending []made
	_, err := p.s.updateManifest(ctx, p.v.m.ID, func(m *manifest) error {
		pending = nil
		m.Claims = slices.DeleteFunc(m.Claims, func(c packClaim) bool {
			return c.Gen == gen && !slices.ContainsFunc(done, func(d made) bool { return d.ref.From == c.From })
		})
		for _, d := range done {
			for i := range m.Claims {
				if c := &m.Claims[i]; c.Gen == gen && c.From == d.ref.From && c.To == d.ref.To {
					c.packRef, c.Pending = d.ref, true
					pending = append(pending, d)
				}
			}
		}
		return nil
	})
	if err != nil || len(pending) == 0 {
		return err
	}
	id := p.v.m.ID
	p.undecide(id)
	p.made[id] = append(p.made[id], pending...)
	return nil
}

// decide puts the packs to use that this collection has made of a log, unless somebody
// needs what they left out, or has come to take the log over meanwhile.
func (c *collector) decide(ctx context.Context, id BranchID) error {
	all := c.made[id]
	if len(all) == 0 {
		return nil
	}
	needed := map[uint64]map[uint64]bool{} // by generation and first segment: what must not be left out is
	pins := c.cat.pins[id]
	lacks := func(d made, pins []point) (bool, error) {
		var p *pack
		for _, pin := range pins {
			if !d.ref.hides(pin.Seq) {
				continue
			}
			if p == nil {
				var err error
				p, err = c.s.readPack(ctx, d.ref.id(id), true)
				if isNotExist(err) {
					return true, nil // the claim was taken away, and the pack deleted
				}
				if err != nil {
					return false, err
				}
			}
			if !p.keeps(pin.Seq) {
				return true, nil
			}
		}
		return false, nil
	}
	note := func(d made) {
		if needed[d.ref.Gen] == nil {
			needed[d.ref.Gen] = map[uint64]bool{}
		}
		needed[d.ref.Gen][uint64(d.ref.From)] = true
	}
	late, err := c.lateCheckpoints(ctx, id, all)
	if err != nil {
		return err
	}
	for i, d := range all {
		lost, err := lacks(d, pins)
		if err != nil {
			return err
		}
		if lost || late[i] {
			note(d)
		}
	}
	var used, dropped []made
	m, err := c.s.updateManifest(ctx, id, func(m *manifest) error {
		used, dropped = nil, nil
		at, err := c.s.layoutOf(ctx, m)
		if err != nil {
			return err
		}
		own := slices.DeleteFunc(m.pinned(), func(p point) bool { return p.Log != id })
		for _, d := range all {
			i := slices.IndexFunc(m.Claims, func(c packClaim) bool { return c.Gen == d.ref.Gen && c.From == d.ref.From && c.Pending })
			if i < 0 {
				dropped = append(dropped, d)
				continue
			}
			m.Claims = slices.Delete(m.Claims, i, i+1)
			lost, err := lacks(d, own)
			if err != nil {
				return err
			}
			if lost || needed[d.ref.Gen][uint64(d.ref.From)] || !d.end.settled(m) || !at.use(m, d, c.s.now()) {
				dropped = append(dropped, d)
				continue
			}
			used = append(used, d)
		}
		if len(used) == 0 {
			return nil
		}
		return c.s.setPacks(ctx, m, at.packs, used[0].ref.Gen)
	})
	if err != nil {
		return err
	}
	if at, err := c.s.layoutOf(ctx, m); err == nil {
		c.s.layouts.Add(id, at)
	}
	for _, d := range dropped {
		// Nothing speaks of it any more.
		if err := c.s.objects.Delete(ctx, d.ref.id(id).key()); err != nil {
			return err
		}
		c.s.log.Info("pack given up: what it leaves out has come to be needed", "branch", id, "from", d.ref.From, "to", d.ref.To)
	}
	if len(used) > 0 && c.o.Grace == 0 {
		v, err := c.view(ctx, id)
		if err != nil {
			return err
		}
		return c.explain(ctx, v, c.clean(ctx, v))
	}
	return nil
}

// lateCheckpoints tells which packs have a checkpoint among their numbers that came
// after its collection had looked: somebody may have begun with it before the pack was
// announced. See Store.counts.
func (c *collector) lateCheckpoints(ctx context.Context, id BranchID, all []made) ([]bool, error) {
	late := make([]bool, len(all))
	err := c.s.listNumbers(ctx, checkpointPrefix(id), "", func(n wal.SegmentNo) bool {
		for i := range all {
			d := &all[i]
			if d.ref.From <= n && n <= d.ref.To && !slices.Contains(d.ckpts, n) &&
				!slices.ContainsFunc(d.packed, func(p piece) bool { return p.from <= n && n <= p.to }) {
				late[i] = true
			}
		}
		return true
	})
	return late, err
}

// use puts a pack in the place of those that it was made from. It returns false if
// those are not there any more.
func (l *layout) use(m *manifest, d made, now time.Time) bool {
	first, _ := slices.BinarySearchFunc(l.packs, d.ref.From, func(r packRef, n wal.SegmentNo) int { return cmp.Compare(r.From, n) })
	last := first
	for last < len(l.packs) && l.packs[last].From <= d.ref.To {
		last++
	}
	if last-first != len(d.from) || first > 0 && l.packs[first-1].To >= d.ref.From || last > first && l.packs[last-1].To > d.ref.To {
		return false
	}
	for i, gen := range d.from {
		if l.packs[first+i].Gen != gen {
			return false
		}
	}
	for _, r := range l.packs[first:last] {
		r.Since = now.UTC()
		m.Replaced = append(m.Replaced, r)
	}
	ref := d.ref
	ref.Since = now.UTC()
	l.packs = slices.Concat(l.packs[:first], []packRef{ref}, l.packs[last:])
	return true
}

// problem notes that something could not be collected.
func (c *collector) problem(id BranchID, err error) {
	if errors.Is(err, errOvertaken) {
		return
	}
	c.rep.Problems = append(c.rep.Problems, CollectProblem{Branch: id, Detail: err.Error()})
	c.s.log.Warn("branch not collected", "branch", id, "err", err)
}
