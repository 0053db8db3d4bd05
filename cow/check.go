package cow

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	lru "github.com/hashicorp/golang-lru/v2"
)

// CheckOptions say what to check, and how.
type CheckOptions struct {
	// Branch limits the check to one branch and what it needs of its
	// ancestors. Default: every branch that has not been deleted.
	Branch BranchID
	// Project limits the check to the branches of one project. Default: all.
	Project string
	// Deep reads and verifies every frame. Default: only that each is there.
	Deep bool
	// Progress is called before each branch. Default: nobody is told.
	Progress func(CheckProgress)
}

// CheckProgress says how far a check is.
type CheckProgress struct {
	Branch BranchInfo // about to be checked
	Done   int        // branches checked before it
	Total  int        // branches to check
}

// CheckReport is what a check found.
type CheckReport struct {
	Branches    int      `json:"branches"`    // checked
	Checkpoints int      `json:"checkpoints"` // whose records were read
	Pages       int      `json:"pages"`       // of trees, read and verified
	Segments    int      `json:"segments"`    // whose descriptions were read and verified
	Packs       int      `json:"packs"`       // the same
	Frames      int      `json:"frames"`      // read and verified: none unless the check is deep
	Blocks      int64    `json:"blocks"`      // mapped, each branch counted for itself, pages in common once
	Bytes       int64    `json:"bytes"`       // read from the store, about
	Damage      []Damage `json:"damage,omitempty"`
	// Omitted counts damage that is not listed, because there is so much.
	Omitted int `json:"omitted,omitempty"`
}

// Damage is one thing that is wrong.
type Damage struct {
	Object   string     `json:"object"` // the key of the object to blame
	Detail   string     `json:"detail"` // what is wrong with it, one line
	Affected []Affected `json:"affected,omitempty"`
}

// Affected is what a Damage takes away from one branch.
type Affected struct {
	Branch  BranchID     `json:"branch"`
	Project string       `json:"project"`
	Name    string       `json:"name"`
	Blocks  uint64       `json:"blocks"`           // that can not be read; 0: not known, or the branch as a whole
	Ranges  []BlockRange `json:"ranges,omitempty"` // the first of them
}

// BlockRange is count blocks from First.
type BlockRange struct {
	First uint64 `json:"first"` // block
	Count uint64 `json:"count"` // of blocks
}

// Whole tells whether nothing is wrong.
func (r *CheckReport) Whole() bool { return len(r.Damage) == 0 && r.Omitted == 0 }

// Bounds of a report and of what a check keeps in memory.
const (
	damageMax      = 1000
	rangesMax      = 16
	checkSegments  = 1 << 16 // segments whose slots are remembered: at most 64 MiB
	checkPacks     = 1 << 11 // the same of packs: at most 64 MiB
	checkRead      = 1 << 19 // objects known to have been read: at most 64 MiB
	checkManifests = 4096
	checkPages     = 1 << 20 // pages known to be whole: at most 128 MiB
)

// checker is one run of Check.
type checker struct {
	s    *Store
	opts CheckOptions
	rep  *CheckReport
	now  *manifest // the branch being checked
	// foreign says that another host has it: its log grows while it is checked.
	foreign bool

	found      map[[2]string]int // damage by object and detail: place in rep.Damage
	segments   *lru.Cache[objectID, *objectState]
	packs      *lru.Cache[objectID, *objectState]
	read       *lru.Cache[objectID, []error] // objects read before: what is wrong with their frames
	manifests  *lru.Cache[BranchID, *manifest]
	whole      *lru.Cache[pageKey, struct{}] // pages whose subtree is whole
	frameSpace sync.Pool                     // of *[2 * frameBlocks * BlockSize]byte: a frame as it is stored, and its blocks
}

// Check proves branches whole: the manifest and those of the ancestors; every
// segment of the log, consecutive, with consecutive barriers; every checkpoint;
// every tree page that the head reaches; and that the segment of every mapped
// block has it. A deep check also reads every frame. For a branch that is open
// here it compares the tree in memory with what a recovery would load. It may
// run beside writers, of which it sees what was durable when it came to their
// branch.
//
// All damage is in the report. The error is for a check that could not be done:
// the branch is not there, or ctx ended. What could not be read counts as
// damage.
func (s *Store) Check(ctx context.Context, o CheckOptions) (*CheckReport, error) {
	c := &checker{s: s, opts: o, rep: &CheckReport{}, found: map[[2]string]int{}}
	c.frameSpace.New = func() any { return new([2 * frameBlocks * BlockSize]byte) }
	var err error
	if c.segments, err = lru.New[objectID, *objectState](checkSegments); err != nil {
		return nil, fmt.Errorf("check: %w", err)
	}
	if c.packs, err = lru.New[objectID, *objectState](checkPacks); err != nil {
		return nil, fmt.Errorf("check: %w", err)
	}
	if c.read, err = lru.New[objectID, []error](checkRead); err != nil {
		return nil, fmt.Errorf("check: %w", err)
	}
	if c.manifests, err = lru.New[BranchID, *manifest](checkManifests); err != nil {
		return nil, fmt.Errorf("check: %w", err)
	}
	if c.whole, err = lru.New[pageKey, struct{}](checkPages); err != nil {
		return nil, fmt.Errorf("check: %w", err)
	}
	ids := []BranchID{o.Branch}
	if o.Branch == "" {
		if ids, err = c.allBranches(ctx); err == nil {
			err = c.deletions(ctx)
		}
		if err != nil {
			return nil, fmt.Errorf("check: %w", err)
		}
	}
	for i, id := range ids {
		if err := c.branch(ctx, id, i, len(ids)); err != nil {
			return nil, fmt.Errorf("check branch %s: %w", id, err)
		}
	}
	return c.rep, nil
}

// allBranches returns the ids that names lead to.
func (c *checker) allBranches(ctx context.Context) (ids []BranchID, err error) {
	project, after, prefix := "", "", namePrefix
	if c.opts.Project != "" {
		if _, err := c.s.Project(ctx, c.opts.Project); errors.Is(err, ErrNotFound) || errors.Is(err, ErrInvalidName) {
			return nil, err
		}
		prefix += c.opts.Project + "/"
	}
	for {
		infos, err := c.s.objects.List(ctx, prefix, after, 1000)
		if err != nil {
			return nil, fmt.Errorf("list %s: %w", prefix, err)
		}
		for _, i := range infos {
			after = i.Key
			p, n, _ := strings.Cut(i.Key[len(namePrefix):], "/")
			if p != project {
				project = p
				c.project(ctx, p)
			}
			if id, ok := c.name(ctx, p, n); ok {
				ids = append(ids, id)
			}
		}
		if len(infos) < 1000 {
			break
		}
	}
	slices.Sort(ids)
	return slices.Compact(ids), ctx.Err()
}

// deletions checks the records that lead to deleted branches.
func (c *checker) deletions(ctx context.Context) error {
	prefix, after := deletedPrefix, ""
	if c.opts.Project != "" {
		prefix += c.opts.Project + "/"
	}
	for {
		infos, err := c.s.objects.List(ctx, prefix, after, 1000)
		if err != nil {
			return fmt.Errorf("list %s: %w", prefix, err)
		}
		for _, i := range infos {
			after = i.Key
			project, id, _ := strings.Cut(i.Key[len(deletedPrefix):], "/")
			if err := c.s.checkDeleted(ctx, project, BranchID(id)); err != nil && ctx.Err() == nil {
				c.damage(i.Key, err, nil)
			}
		}
		if len(infos) < 1000 {
			return ctx.Err()
		}
	}
}

// project checks the record of a project that a name is of.
func (c *checker) project(ctx context.Context, project string) {
	if _, err := c.s.Project(ctx, project); err != nil && ctx.Err() == nil {
		c.damage(projectKey(project), err, nil)
	}
}

// name checks a name and returns the id of its branch, unless it is not there.
func (c *checker) name(ctx context.Context, project, name string) (BranchID, bool) {
	id, err := c.s.resolve(ctx, project, name)
	if err == nil {
		if _, _, merr := c.s.readBranch(ctx, id); isGone(merr) {
			// A name is there before its manifest goes, and gone after: look again.
			if _, err = c.s.resolve(ctx, project, name); err == nil {
				c.damage(manifestKey(id), merr, &Affected{Branch: id, Project: project, Name: name})
				return id, false
			}
		}
	}
	if err != nil && !isGone(err) && ctx.Err() == nil {
		c.damage(nameKey(project, name), err, &Affected{Project: project, Name: name})
	}
	return id, err == nil
}

// branch checks one branch.
func (c *checker) branch(ctx context.Context, id BranchID, done, total int) error {
	m, _, err := c.s.readBranch(ctx, id)
	switch {
	case isGone(err) && c.opts.Branch == id:
		return err
	case isGone(err) || err == nil && !m.Deleted.IsZero() && c.opts.Branch != id:
		return ctx.Err() // deleted since the names were listed
	case err != nil:
		c.damage(manifestKey(id), err, nil)
		return ctx.Err()
	}
	c.now, c.foreign = m, c.s.attachedElsewhere(m)
	c.manifests.Add(m.ID, m)
	if c.opts.Progress != nil {
		c.opts.Progress(CheckProgress{Branch: m.info(), Done: done, Total: total})
	}
	c.rep.Branches++
	c.ancestors(ctx)
	if err := c.s.pickUpAll(ctx, m); err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		c.damage(manifestKey(id), err, c.here())
	}
	live, at := c.live()
	end := c.log(ctx, at)
	c.head(ctx, live, at, end)
	return ctx.Err()
}

// live returns the tree and the last barrier of the branch if it is open here, and
// nobody has taken it.
func (c *checker) live() (*tree, point) {
	c.s.mu.Lock()
	var b *Branch
	if o := c.s.open[c.now.ID]; o != nil {
		b = o.branch
	}
	c.s.mu.Unlock()
	if b == nil || b.epoch != c.now.Epoch {
		return nil, point{Segment: logEnd}
	}
	t, at := b.fork(c.now.own())
	return &t, at.point
}

// ancestors checks that the lineage is that of the manifests it names.
func (c *checker) ancestors(ctx context.Context) {
	m := c.now
	last := len(m.Lineage) - 1
	var parent BranchID
	if last > 0 {
		parent = m.Lineage[last-1]
	}
	if m.Fork.Log != parent {
		c.damage(manifestKey(m.ID), fmt.Errorf("it forks from %q, its lineage says %q: %w", m.Fork.Log, parent, ErrCorrupt), c.here())
	}
	for i, id := range m.Lineage[:last] {
		a, err := c.manifest(ctx, id)
		if err != nil {
			c.damage(manifestKey(id), err, c.here())
			continue
		}
		if !slices.Equal(a.Lineage, m.Lineage[:i+1]) {
			c.damage(manifestKey(id), fmt.Errorf("its lineage is not a part of that of %s: %w", m.ID, ErrCorrupt), c.here())
		}
	}
}

// manifest returns that of a branch, reading it the first time.
func (c *checker) manifest(ctx context.Context, id BranchID) (*manifest, error) {
	if m, ok := c.manifests.Get(id); ok {
		return m, nil
	}
	m, _, err := c.s.readManifest(ctx, id)
	if err == nil {
		c.manifests.Add(id, m)
	}
	return m, err
}

// here is the whole branch being checked, as what a damage affects.
func (c *checker) here() *Affected {
	if c.now == nil {
		return nil
	}
	return &Affected{Branch: c.now.branch(), Project: c.now.Project, Name: c.now.Name}
}

// blocks is a range of the branch being checked, as what a damage affects.
func (c *checker) blocks(first, count uint64) *Affected {
	a := c.here()
	a.Blocks, a.Ranges = count, []BlockRange{{first, count}}
	return a
}

// damage adds to the report. The same damage of an object is listed once, with
// all that it affects.
func (c *checker) damage(object string, err error, a *Affected) {
	key := [2]string{object, err.Error()}
	i, ok := c.found[key]
	if !ok {
		if len(c.rep.Damage) >= damageMax {
			c.rep.Omitted++
			return
		}
		i = len(c.rep.Damage)
		c.found[key] = i
		c.rep.Damage = append(c.rep.Damage, Damage{Object: object, Detail: err.Error()})
	}
	if a != nil {
		c.rep.Damage[i].add(*a)
	}
}

func (d *Damage) add(a Affected) {
	i := slices.IndexFunc(d.Affected, func(o Affected) bool { return o.Branch == a.Branch })
	if i < 0 {
		d.Affected = append(d.Affected, a)
		return
	}
	o := &d.Affected[i]
	o.Blocks += a.Blocks
	for _, r := range a.Ranges {
		if n := len(o.Ranges); n > 0 && o.Ranges[n-1].First+o.Ranges[n-1].Count == r.First {
			o.Ranges[n-1].Count += r.Count
		} else if n < rangesMax {
			o.Ranges = append(o.Ranges, r)
		}
	}
}

// String describes the damage in one line.
func (d Damage) String() string {
	s := d.Object + ": " + d.Detail
	for _, a := range d.Affected {
		s += fmt.Sprintf("; affects %s/%s", a.Project, a.Name)
		if a.Blocks > 0 {
			s += fmt.Sprintf(" in %d blocks", a.Blocks)
		}
		for _, r := range a.Ranges {
			s += fmt.Sprintf(", %d+%d", r.First, r.Count)
		}
	}
	return s
}
