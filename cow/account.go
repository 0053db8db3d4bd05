package cow

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/bough-db/bough/objstore"
	"github.com/bough-db/bough/wal"
)

// BranchUsage is what a branch takes of the store, in bytes as stored. Unique, Lent,
// History and Overhead are all that the branch's own objects take together. How much of
// an object belongs where is reckoned by its blocks, as if all took the same.
type BranchUsage struct {
	Branch  BranchID `json:"branch"`
	Project string   `json:"project"`
	Name    string   `json:"name"`
	// Logical is what the branch's device holds: blocks that are not holes.
	Logical int64 `json:"logical_bytes"`
	// Unique is what nothing but the branch's head needs.
	Unique int64 `json:"unique_bytes"`
	// Shared is what the branch's head needs, and other branches too: in objects of its
	// own, or of those that it came from.
	Shared int64 `json:"shared_bytes"`
	// Lent is what other branches need of the branch's own objects.
	Lent int64 `json:"lent_bytes"`
	// History is what only the branch's past needs, its snapshots too, and what is
	// about to be collected.
	History int64 `json:"history_bytes"`
	// Overhead is what is no block: descriptions, trees, the manifest.
	Overhead int64 `json:"overhead_bytes"`
	// Deletion is what goes, at least, when the branch is deleted.
	Deletion int64 `json:"deletion_frees_bytes"`
}

// Own is what the branch's own objects take.
func (u *BranchUsage) Own() int64 { return u.Unique + u.Lent + u.History + u.Overhead }

// StoreUsage is what everything takes of a store. The branches' own bytes, Deleted and
// Records are Total.
type StoreUsage struct {
	Time     time.Time     `json:"time"` // when it was measured
	Total    int64         `json:"total_bytes"`
	Objects  int           `json:"objects"`
	Branches []BranchUsage `json:"branches"`
	// Deleted is what branches take that were deleted: because others need it, because
	// they can come back, or because it was not collected yet.
	Deleted int64 `json:"deleted_bytes"`
	// Records is what projects, names, hosts and the like take.
	Records int64 `json:"record_bytes"`
	// History is that of all branches.
	History int64 `json:"history_bytes"`
	// Problems are branches that could not be measured: theirs counts as History.
	Problems []CollectProblem `json:"problems,omitempty"`
}

// Usage measures what everything takes of the store. It lists all objects, and goes
// through the trees of all branches, but reads no data. What changes meanwhile may be
// counted as it was or as it is.
func (s *Store) Usage(ctx context.Context) (*StoreUsage, error) {
	s.collectMu.Lock()
	defer s.collectMu.Unlock()
	c, err := s.newCollector(CollectOptions{})
	if err != nil {
		return nil, err
	}
	u, err := c.usage(ctx)
	if err != nil {
		return nil, fmt.Errorf("measure the store: %w", err)
	}
	s.noteUsage(u)
	return u, nil
}

func (s *Store) noteUsage(u *StoreUsage) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lastUsage = u
}

// LastUsage returns what Usage, or a collection, measured last in this process; nil if
// neither has yet.
func (s *Store) LastUsage() *StoreUsage {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.lastUsage
}

// BranchUsage measures one branch.
func (s *Store) BranchUsage(ctx context.Context, id BranchID) (BranchUsage, error) {
	s.collectMu.Lock()
	defer s.collectMu.Unlock()
	fail := func(err error) (BranchUsage, error) {
		return BranchUsage{}, fmt.Errorf("measure branch %s: %w", id, err)
	}
	c, err := s.newCollector(CollectOptions{})
	if err == nil {
		err = c.cat.refresh(ctx, s)
	}
	if err != nil {
		return fail(err)
	}
	var all *BranchUsage
	for _, log := range c.cat.ids() {
		if c.cat.notes[log].branch != id {
			continue
		}
		l, err := c.measure(ctx, log)
		if err != nil {
			return fail(err)
		}
		if all == nil {
			all = &BranchUsage{Branch: id}
		}
		all.add(l)
	}
	if all == nil {
		return fail(ErrNotFound)
	}
	return *all, nil
}

// logUsage is what one log takes.
type logUsage struct {
	m      *manifest
	lives  bool
	total  int64 // all objects
	data   int64 // blocks, of objects that the log needs
	head   int64 // of data, what the head needs
	lent   int64 // of data, what other branches need
	both   int64 // of data, what the head and others need
	above  int64 // what the head needs of other logs
	blocks int64 // that the head maps
	// past has, of each piece, when it ends and what only the history needs of it.
	past []pastBytes
}

// pastBytes is what can be won by dropping the history up to a time.
type pastBytes struct {
	last  time.Time
	bytes int64
}

// add counts a log of the branch.
func (u *BranchUsage) add(l *logUsage) {
	u.Project, u.Name = l.m.Project, l.m.Name
	if l.lives {
		u.Logical = l.blocks * BlockSize
	}
	u.Unique += l.head - l.both
	u.Shared += l.both + l.above
	u.Lent += l.lent
	u.History += l.data - l.head - l.lent + l.both
	u.Overhead += l.total - l.data
	u.Deletion += l.total - l.lent
	if l.lent > 0 { // some of what is no block goes on being needed
		u.Deletion -= min(l.total-l.data, l.lent/16)
	}
}

func (c *collector) usage(ctx context.Context) (*StoreUsage, error) {
	if err := c.cat.refresh(ctx, c.s); err != nil {
		return nil, err
	}
	u := &StoreUsage{Time: c.s.now().UTC()}
	sizes, err := c.sizes(ctx, u)
	if err != nil {
		return nil, err
	}
	branches := map[BranchID]*BranchUsage{}
	for logs := range slices.Chunk(c.cat.ids(), measureChunk) {
		all, err := gather(ctx, logs, func(ctx context.Context, log BranchID) (measured, error) {
			l, err := c.measure(ctx, log)
			return measured{l, err}, ctx.Err()
		})
		if err != nil {
			return nil, err
		}
		for i, log := range logs {
			c.account(u, branches, sizes, log, all[i])
		}
	}
	for _, b := range branches {
		u.Branches = append(u.Branches, *b)
		u.History += b.History
	}
	slices.SortFunc(u.Branches, func(a, b BranchUsage) int {
		return strings.Compare(a.Project+"/"+a.Name, b.Project+"/"+b.Name)
	})
	u.Records = u.Total - u.Deleted
	for i := range u.Branches {
		u.Records -= u.Branches[i].Own()
	}
	return u, nil
}

// sizes lists all objects, and returns what each log takes.
func (c *collector) sizes(ctx context.Context, u *StoreUsage) (map[BranchID]int64, error) {
	sizes := map[BranchID]int64{}
	return sizes, c.each(ctx, "", func(i objstore.Info) error {
		u.Total += i.Size
		u.Objects++
		if strings.HasPrefix(i.Key, branchPrefix) {
			sizes[manifestID(i.Key)] += i.Size
		}
		return nil
	})
}

// measureChunk is how many logs are measured before they are added up.
const measureChunk = 256

// account adds a log to its branch, and to all.
func (c *collector) account(u *StoreUsage, branches map[BranchID]*BranchUsage, sizes map[BranchID]int64, log BranchID, m measured) {
	l := m.l
	if m.err != nil {
		u.Problems = append(u.Problems, CollectProblem{Branch: log, Detail: m.err.Error()})
		l = &logUsage{m: &manifest{ID: log}, data: sizes[log]}
	}
	// What the list says counts, so that the sum is right.
	l.total = max(sizes[log], l.data)
	l.data = min(l.data, sizes[log])
	owner := c.cat.standing(log).owner
	if owner == nil || !owner.deleted.IsZero() {
		u.Deleted += sizes[log]
		return
	}
	branch := c.cat.notes[log].branch
	if branches[branch] == nil {
		branches[branch] = &BranchUsage{Branch: branch}
	}
	branches[branch].add(l)
	c.past = append(c.past, l.past...)
	delete(sizes, log)
}

// measured is what a log takes, or why that is not known.
type measured struct {
	l   *logUsage
	err error
}

// measure reckons what a log takes, and for whom.
func (c *collector) measure(ctx context.Context, log BranchID) (*logUsage, error) {
	v, err := c.view(ctx, log)
	if err != nil {
		return nil, err
	}
	l := &logUsage{m: v.m, lives: v.lives, total: v.bytes() + v.manifestBytes}
	p := &planner{collector: c, v: v, times: map[int][2]time.Time{}}
	v.head = v.m.begin()
	if v.m.Epoch > 0 {
		if err := c.findHead(ctx, v); err != nil {
			return nil, err
		}
		v.follow(true)
		if err := p.weigh(ctx, l); err != nil {
			return nil, err
		}
	}
	need := make([]int64, len(p.info)) // blocks, by piece
	var before edge
	for _, pin := range v.pins {
		if pin.Segment == 0 || pin.Segment > v.head.Segment {
			continue // it has to be stored yet
		}
		n, err := p.count(ctx, moment{point: pin}, before, need)
		if err != nil {
			return nil, err
		}
		switch c.cat.reasons[pin] {
		case forOthers:
			l.lent += n
		case forItself:
			l.head += n
		}
		if before, err = p.edgeAt(ctx, pin); err != nil {
			return nil, err
		}
	}
	if v.lives {
		if err := p.countHead(ctx, l, before, need); err != nil {
			return nil, err
		}
	}
	k, err := c.keeper(ctx, v)
	if err != nil {
		return nil, err
	}
	for i := range p.info {
		in := &p.info[i]
		_, last, err := p.timesOf(ctx, i)
		if err != nil {
			return nil, err
		}
		past := in.size - in.bytesOf(need[i])
		if past > 0 && c.now.Sub(last) <= k.span() { // else it is only waiting to be collected
			l.past = append(l.past, pastBytes{last, past})
		}
	}
	return l, nil
}

// weigh finds out how many blocks each piece has, and how many bytes those take.
func (p *planner) weigh(ctx context.Context, l *logUsage) error {
	for _, pc := range p.v.pieces {
		in := pieceInfo{piece: pc}
		if pc.pack != nil {
			in.total, in.size = pc.pack.Blocks, pc.pack.Data
		} else {
			w, ok := p.s.weights.Get(segmentID(p.v.m.ID, pc.from))
			if !ok {
				d, err := p.describe(ctx, p.v, pc)
				if err != nil {
					return err
				}
				b := d.pack.batches
				w = weightOf(d.index, b[0].Time, b[len(b)-1].Time)
				p.s.weights.Add(segmentID(p.v.m.ID, pc.from), w)
			}
			in.total, in.size = w.blocks, w.bytes
			p.times[len(p.info)] = [2]time.Time{w.first, w.last}
		}
		l.data += in.size
		p.info = append(p.info, in)
	}
	return nil
}

// weight is what the blocks of a segment take, and when it was written.
type weight struct {
	blocks      int
	bytes       int64
	first, last time.Time
}

func weightOf(x *blockIndex, first, last time.Time) weight {
	w := weight{blocks: x.blocks(), first: first, last: last}
	for _, f := range x.frames {
		w.bytes += int64(f.size)
	}
	return w
}

// weightsMax is how many segments' weights are kept in memory.
const weightsMax = 1 << 16

// bytesOf is what some of the piece's blocks take.
func (i *pieceInfo) bytesOf(blocks int64) int64 {
	if i.total == 0 {
		return 0
	}
	return i.size * min(blocks, int64(i.total)) / int64(i.total)
}

// edge is where a barrier ends in its log: all that was written up to it lies in
// segments before, or in slots up to slot of segment.
type edge struct {
	segment wal.SegmentNo
	slot    wal.Slot
}

func (e edge) has(at addr) bool {
	return at.segment() < e.segment || at.segment() == e.segment && at.slot() <= e.slot
}

// edgeAt returns the edge of a barrier that stays.
func (p *planner) edgeAt(ctx context.Context, at point) (edge, error) {
	e := edge{segment: at.Segment}
	d, err := p.describe(ctx, p.v, p.v.at.piece(at.Segment))
	if err != nil {
		return e, err
	}
	for i := range d.pack.batches {
		if b := &d.pack.batches[i]; b.Seq <= at.Seq {
			for _, en := range b.Entries {
				if en.Kind == wal.KindData && en.Segment == at.Segment {
					e.slot = max(e.slot, en.Slot+wal.Slot(en.Count)-1)
				}
			}
		}
	}
	return e, nil
}

// count adds to need, by piece, how many of the log's blocks the tree of a barrier has
// beyond the edge, and returns what they take.
func (p *planner) count(ctx context.Context, at moment, beyond edge, need []int64) (bytes int64, err error) {
	t, err := p.treeAt(ctx, at)
	if err != nil {
		return 0, err
	}
	found := make([]int64, len(p.info))
	w := walking{blocks: func(_ uint64, at addr, n int) {
		i, ok := p.index(at.segment())
		if !ok {
			return
		}
		for j := range n {
			if !beyond.has(at + addr(j)) {
				found[i]++
			}
		}
	}}
	if beyond.segment > 0 {
		w.after = beyond.segment - 1
	}
	if err := p.walk(ctx, t.root, w); err != nil {
		return 0, err
	}
	for i, n := range found {
		need[i] += n
		bytes += p.info[i].bytesOf(n)
	}
	return bytes, nil
}

// countHead counts what the head needs, of this log and of those above it. What was
// written up to the edge others need too, if the head does.
func (p *planner) countHead(ctx context.Context, l *logUsage, lent edge, need []int64) error {
	t, err := p.treeAt(ctx, p.v.head)
	if err != nil {
		return err
	}
	own, fresh := make([]int64, len(p.info)), make([]int64, len(p.info))
	others := map[objectID]int64{}
	err = p.walk(ctx, t.root, walking{all: true, blocks: func(_ uint64, at addr, n int) {
		l.blocks += int64(n)
		if at.log() != p.v.m.own() {
			log := p.v.m.Lineage[at.log()]
			others[p.s.knownLayout(log).holder(log, at.segment())] += int64(n)
			return
		}
		i, ok := p.index(at.segment())
		if !ok {
			return
		}
		own[i] += int64(n)
		for j := range n {
			if !lent.has(at + addr(j)) {
				fresh[i]++
			}
		}
	}})
	if err != nil {
		return err
	}
	for i := range p.info {
		in := &p.info[i]
		need[i] += fresh[i]
		l.head += in.bytesOf(own[i])
		l.both += in.bytesOf(own[i]) - in.bytesOf(fresh[i])
	}
	for at, n := range others {
		b, err := p.bytesIn(ctx, at, n)
		if err != nil {
			return err
		}
		l.above += b
	}
	return nil
}

// bytesIn returns what some blocks of an object of another log take.
func (p *planner) bytesIn(ctx context.Context, at objectID, blocks int64) (int64, error) {
	w, ok := p.s.weights.Get(at)
	if !ok {
		ix, err := p.s.objectIndex(ctx, at)
		if err != nil {
			ix, err = p.s.readIndex(ctx, at.log, at.from) // it has moved
		}
		if err != nil {
			return 0, err
		}
		w = weightOf(ix, time.Time{}, time.Time{})
	}
	in := pieceInfo{total: w.blocks, size: w.bytes}
	return in.bytesOf(blocks), nil
}
