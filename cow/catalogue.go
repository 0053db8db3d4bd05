package cow

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/bough-db/bough/objstore"
	"github.com/bough-db/bough/wal"
	"golang.org/x/sync/errgroup"
)

// catalogue is what a collection knows of all branches: what each needs of the logs
// of others. It is kept from one collection to the next, so that only manifests that
// have changed are read again.
type catalogue struct {
	round uint64 // of listings
	notes map[BranchID]*branchNote
	pins  map[BranchID][]point // of each log, by seq, each once
	// reasons says what each pin is for.
	reasons map[point]reason
}

// reason is what a pin is for; the greater one counts.
type reason int

const (
	forItsName reason = iota // a snapshot, or somebody who reads it
	forItself                // the branch whose log it is in goes on there in another
	forOthers                // another branch begins there
)

// branchNote is what there is to know of one manifest.
type branchNote struct {
	tag       string
	branch    BranchID // that it is, or was, the log of
	next      BranchID // the log that this one was left for
	fork      point
	deleted   time.Time
	gone      bool
	created   time.Time
	written   bool // somebody has had it open
	retention *Retention
	pins      []point
	seen      uint64 // the listing that last met it

	// Until then, and as long as the manifest and what others need of the log are
	// the same, there is nothing to collect. The zero time is not known.
	until   time.Time
	settled []point
}

// pinned returns the barriers that the branch needs, in its own log and in others.
func (m *manifest) pinned() (all []point) {
	if m.Fork.Log != "" {
		all = append(all, m.Fork.point)
	}
	if !m.Gone.IsZero() {
		return all // it has had its snapshots
	}
	for i := range m.Snapshots {
		if p := m.Snapshots[i].point; p.Log != "" && p.Segment > 0 {
			all = append(all, p)
		}
	}
	return all
}

// standing is what a log is to its branch.
type standing struct {
	// owner is the log that the branch writes; nil if it has been removed.
	owner *branchNote
	// current says that it is this one.
	current bool
	// upTo is the last barrier that belongs to the branch's history, of a log that it
	// has left; 0 is none.
	upTo wal.Seq
	// stray says that no restoration ever led to it.
	stray bool
	// signpost says that the manifest is needed for the branch to be found.
	signpost bool
}

// standing returns that of a log in the catalogue. A branch that was restored has left
// one log for another: see readBranch.
func (c *catalogue) standing(id BranchID) (st standing) {
	if c.notes[id] == nil {
		return standing{stray: true}
	}
	log := c.notes[id].branch
	for range nextsMax {
		n := c.notes[log]
		if n == nil || n.next == "" {
			st.owner = n
			break
		}
		st.signpost = st.signpost || log == id
		log = n.next
	}
	if c.notes[id].next == "" {
		st.owner, st.current, st.stray = c.notes[id], true, log != id
		return st
	}
	if st.owner == nil {
		return st
	}
	for p := st.owner.fork; p.Log != ""; {
		if p.Log == id {
			st.upTo = p.Seq
			break
		}
		n := c.notes[p.Log]
		if n == nil {
			break
		}
		p = n.fork
	}
	return st
}

// refresh lists all manifests. What was put before it began is in it when it is done.
func (c *catalogue) refresh(ctx context.Context, s *Store) error {
	if c.notes == nil {
		c.notes = map[BranchID]*branchNote{}
	}
	c.round++
	var stale []objstore.Info
	after := ""
	for {
		infos, err := s.objects.List(ctx, branchPrefix, after, objstore.ListMax)
		if err != nil {
			return fmt.Errorf("list %s: %w", branchPrefix, err)
		}
		for _, i := range infos {
			id, rest, _ := strings.Cut(i.Key[len(branchPrefix):], "/")
			if rest != "manifest" || checkBranchID(BranchID(id)) != nil {
				continue
			}
			if n := c.notes[BranchID(id)]; n != nil && n.tag == i.Tag {
				n.seen = c.round
				continue
			}
			stale = append(stale, i)
		}
		if len(stale) >= objstore.ListMax || len(infos) < objstore.ListMax {
			if err := c.read(ctx, s, stale); err != nil {
				return err
			}
			stale = stale[:0]
		}
		if len(infos) < objstore.ListMax {
			break
		}
		after = pastManifest(infos[len(infos)-1].Key)
	}
	for id, n := range c.notes {
		if n.seen != c.round {
			delete(c.notes, id)
		}
	}
	c.index(s.viewed())
	return nil
}

// pastManifest returns where a listing of manifests goes on after a key: it need not
// go through all that the key's branch has.
func pastManifest(key string) string {
	id, rest, _ := strings.Cut(key[len(branchPrefix):], "/")
	if rest < "manifest" {
		dir, _, ok := strings.Cut(rest, "/")
		if !ok {
			return key
		}
		return branchPrefix + id + "/" + dir + "0" // the character after the slash
	}
	return branchPrefix + id + "0"
}

// read reads manifests that are new, or have changed.
func (c *catalogue) read(ctx context.Context, s *Store, infos []objstore.Info) error {
	notes := make([]*branchNote, len(infos))
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(gatherMax)
	for i, info := range infos {
		g.Go(func() error {
			m, tag, err := s.readManifest(gctx, manifestID(info.Key))
			if errors.Is(err, ErrNotFound) {
				return nil // deleted since it was listed
			}
			if err != nil {
				return err
			}
			notes[i] = &branchNote{
				tag: tag, branch: m.branch(), next: m.Next, fork: m.Fork.point, deleted: m.Deleted, gone: !m.Gone.IsZero(),
				created: m.begun(), written: m.Epoch > 0, retention: m.Retention, pins: m.pinned(), seen: c.round,
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	for i, n := range notes {
		if n != nil {
			c.notes[manifestID(infos[i].Key)] = n
		}
	}
	return nil
}

func manifestID(key string) BranchID {
	id, _, _ := strings.Cut(key[len(branchPrefix):], "/")
	return BranchID(id)
}

// index orders the pins, and those of this process, by the logs that they lie in.
func (c *catalogue) index(views []point) {
	c.pins, c.reasons = make(map[BranchID][]point), make(map[point]reason)
	for _, p := range views {
		c.pins[p.Log] = append(c.pins[p.Log], p)
	}
	for _, n := range c.notes {
		for _, p := range n.pins {
			c.pins[p.Log] = append(c.pins[p.Log], p)
			why := forItsName
			switch log := c.notes[p.Log]; {
			case log == nil || log.branch != n.branch:
				why = forOthers
			case p == n.fork:
				why = forItself
			}
			c.reasons[p] = max(c.reasons[p], why)
		}
	}
	for log, pins := range c.pins {
		slices.SortFunc(pins, func(a, b point) int { return int(int64(a.Seq) - int64(b.Seq)) })
		c.pins[log] = slices.CompactFunc(pins, func(a, b point) bool { return a.Seq == b.Seq })
	}
}

// ids returns all branches, in order.
func (c *catalogue) ids() []BranchID {
	all := make([]BranchID, 0, len(c.notes))
	for id := range c.notes {
		all = append(all, id)
	}
	slices.Sort(all)
	return all
}

// isPinned tells whether something needs a barrier of the log.
func isPinned(pins []point, seq wal.Seq) bool {
	_, ok := slices.BinarySearchFunc(pins, seq, func(p point, s wal.Seq) int { return int(int64(p.Seq) - int64(s)) })
	return ok
}
