package cow

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	ask "github.com/bough-db/bough/cow/point"
	"github.com/bough-db/bough/objstore"
	"golang.org/x/sync/errgroup"
)

// CreateBranch makes a branch of the project that begins as a barrier of o.From, the
// last one unless o.At names another: two small objects, whatever the size of the data, and no wait for the
// parent's writers.
func (s *Store) CreateBranch(ctx context.Context, project, name string, o BranchOptions) (BranchInfo, error) {
	if err := CheckName(name); err != nil {
		return BranchInfo{}, err
	}
	fail := func(err error) (BranchInfo, error) {
		return BranchInfo{}, fmt.Errorf("create branch %s/%s: %w", project, name, err)
	}
	began := s.now()
	p, err := s.Project(ctx, project)
	if err != nil {
		return BranchInfo{}, err
	}
	if o.Durability != "" {
		if err := o.Durability.Check(); err != nil {
			return fail(err)
		}
	}
	if err := s.checkFree(ctx, project, name); err != nil {
		return fail(err)
	}
	size := int64(0)
	if o.From == "" {
		size = p.Size
	}
	m, tr, err := s.newManifest(ctx, project, name, o.From, o.At, size)
	if err != nil {
		return fail(err)
	}
	m.Settings = o.Settings
	if o.Durability != "" {
		m.Durability = o.Durability
	}
	if o.Throwaway {
		m.Throwaway = s.opts.Host
		if err := s.putExpiring(ctx, m.ID); err != nil {
			return fail(err)
		}
	}
	if _, err := s.putManifest(ctx, m, objstore.Condition{IfAbsent: true}); err != nil {
		return fail(err)
	}
	if err := s.confirm(ctx, m.Fork); err != nil {
		s.dropManifest(ctx, m.ID)
		return fail(err)
	}
	if err := s.claimName(ctx, project, name, m.ID); err != nil {
		if errors.Is(err, ErrExists) {
			s.dropManifest(ctx, m.ID)
		}
		// Otherwise the name may have been claimed, or may yet be: then there is a
		// branch, and else a manifest that nothing refers to.
		return fail(err)
	}
	if err := s.confirmClaim(ctx, m, began); err != nil {
		return fail(err)
	}
	s.remember(m.ID, tr)
	return m.info(), nil
}

// confirmClaim ends the creation of a branch that began at a time: one that took so long
// that a collection may have thought it dead has to look whether that has happened.
func (s *Store) confirmClaim(ctx context.Context, m *manifest, began time.Time) error {
	if s.now().Sub(began) < unclaimedMin {
		return nil
	}
	now, _, err := s.readManifest(ctx, m.ID)
	if err == nil && now.Deleted.IsZero() || err != nil && !errors.Is(err, ErrNotFound) {
		return err
	}
	if err := s.objects.Delete(ctx, nameKey(m.Project, m.Name)); err != nil {
		return err
	}
	return fmt.Errorf("its creation took longer than %v: %w", unclaimedMin, ErrNotFound)
}

// unclaimedMin is the least age of a branch without a name for its creation to count
// as cut short.
const unclaimedMin = time.Hour

// checkFree returns nil if no branch has the name. It ends a deletion of the
// name's branch that a crash cut short.
func (s *Store) checkFree(ctx context.Context, project, name string) error {
	id, err := s.resolve(ctx, project, name)
	if errors.Is(err, ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	m, _, err := s.readBranch(ctx, id)
	if err != nil && !errors.Is(err, ErrNotFound) {
		return err
	}
	if err == nil && m.Deleted.IsZero() {
		return ErrExists
	}
	return s.objects.Delete(ctx, nameKey(project, name))
}

// newManifest prepares a branch that begins as the barrier of from that the point
// names, or empty. The tree at that barrier comes with it if it is in memory.
func (s *Store) newManifest(ctx context.Context, project, name string, from BranchID, p ask.Point, size int64) (*manifest, *tree, error) {
	id, err := newBranchID(s.random)
	if err != nil {
		return nil, nil, err
	}
	m := &manifest{ID: id, Project: project, Name: name, Created: s.now().UTC(), Size: size}
	if from == "" {
		if m.Size == 0 {
			m.Size = DefaultSize
		}
		m.Lineage = []BranchID{id}
		return m, nil, nil
	}
	pm, _, err := s.readBranch(ctx, from)
	if err != nil {
		return nil, nil, err
	}
	if !pm.Deleted.IsZero() {
		return nil, nil, fmt.Errorf("parent branch %s: %w", from, ErrNotFound)
	}
	if m.Size == 0 {
		m.Size = pm.Size
	}
	if m.Size < pm.Size {
		return nil, nil, fmt.Errorf("%w: %d bytes, the parent has %d", ErrInvalidSize, m.Size, pm.Size)
	}
	if len(pm.Lineage) >= lineageMax {
		return nil, nil, fmt.Errorf("branch of %s: %w: %d", from, ErrTooDeep, len(pm.Lineage))
	}
	at, lineage, tr, err := s.beginning(ctx, pm, p)
	if err != nil {
		return nil, nil, err
	}
	m.Parent, m.Durability = from, pm.Durability
	m.Fork, m.Lineage = at, append(slices.Clone(lineage), id)
	if tr != nil {
		tr.log = m.own()
	}
	return m, tr, nil
}

// forkPoint returns the branch's last barrier and, if the branch is open here,
// the tree at that barrier. It does not wait for the branch's writers.
func (s *Store) forkPoint(ctx context.Context, m *manifest) (moment, *tree, error) {
	s.mu.Lock()
	o := s.open[m.ID]
	s.mu.Unlock()
	if o != nil {
		select {
		case <-o.ready:
		case <-ctx.Done():
			return moment{}, nil, ctx.Err()
		}
		if o.branch != nil {
			tr, at := o.branch.fork(m.own())
			if s.opts.Shared {
				// Other hosts have to find what the child begins with.
				if err := o.branch.publish(ctx, at.Segment); err != nil {
					return moment{}, nil, fmt.Errorf("store the last barrier of the parent: %w", err)
				}
			}
			return at, &tr, nil
		}
	}
	at, err := s.headOf(ctx, m)
	return at, nil, err
}

// remember keeps the tree of a branch made here until it is opened.
func (s *Store) remember(id BranchID, tr *tree) {
	if tr != nil {
		s.forked.Add(id, *tr)
	}
}

// isOpen tells whether this process has the branch open.
func (s *Store) isOpen(id BranchID) bool {
	log := s.logOf(id)
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.open[log] != nil
}

// claimName gives the name to the branch, if nobody has it.
func (s *Store) claimName(ctx context.Context, project, name string, id BranchID) error {
	rec := nameRecord{Project: project, Name: name, ID: id}
	var err error
	if rec.Nonce, err = newNonce(s.random); err != nil {
		return err
	}
	data, err := encodeRecord(nameKind, &rec)
	if err != nil {
		return err
	}
	_, err = s.objects.Put(ctx, nameKey(project, name), data, objstore.Condition{IfAbsent: true})
	if err == nil {
		return nil
	}
	now, tag, rerr := s.readName(ctx, project, name)
	if rerr == nil && now.Free {
		if _, err = s.objects.Put(ctx, nameKey(project, name), data, objstore.Condition{IfMatch: tag}); err == nil {
			return nil
		}
		if errors.Is(err, objstore.ErrMismatch) {
			err = objstore.ErrExists // somebody was quicker
		}
		now, _, rerr = s.readName(ctx, project, name)
	}
	if rerr == nil && !now.Free && now.ID == id {
		return nil
	}
	if errors.Is(err, objstore.ErrExists) {
		return fmt.Errorf("name %s/%s: %w", project, name, ErrExists)
	}
	return fmt.Errorf("claim name %s/%s: %w", project, name, err)
}

// dropManifest removes the manifest of a branch that did not come to be. A
// failure leaves an orphan that nothing refers to.
func (s *Store) dropManifest(ctx context.Context, id BranchID) {
	if err := s.objects.Delete(context.WithoutCancel(ctx), manifestKey(id)); err != nil {
		s.log.Warn("manifest of a branch that was not created stays behind", "branch", id, "err", err)
	}
}

// freeName gives a name up that leads to a branch which is removed: whoever deleted it
// has died half-way. It is replaced and not deleted, since somebody may be about to
// claim it.
func (s *Store) freeName(ctx context.Context, m *manifest) error {
	rec, tag, err := s.readName(ctx, m.Project, m.Name)
	if errors.Is(err, ErrNotFound) || err == nil && (rec.Free || rec.ID != m.branch()) {
		return nil
	}
	if err != nil {
		return err
	}
	rec.Free = true
	if rec.Nonce, err = newNonce(s.random); err != nil {
		return err
	}
	data, err := encodeRecord(nameKind, &rec)
	if err != nil {
		return err
	}
	_, err = s.objects.Put(ctx, nameKey(m.Project, m.Name), data, objstore.Condition{IfMatch: tag})
	if err == nil || errors.Is(err, objstore.ErrMismatch) || isNotExist(err) {
		return nil
	}
	return fmt.Errorf("give up name %s/%s: %w", m.Project, m.Name, err)
}

// readName reads the record of a name, and its tag.
func (s *Store) readName(ctx context.Context, project, name string) (rec nameRecord, tag string, err error) {
	for _, n := range []string{project, name} {
		if err := CheckName(n); err != nil {
			return rec, "", err
		}
	}
	tag, err = s.readRecord(ctx, nameKind, nameKey(project, name), &rec)
	if isNotExist(err) {
		return rec, "", fmt.Errorf("branch %s/%s: %w", project, name, ErrNotFound)
	}
	if err == nil && (rec.Project != project || rec.Name != name) {
		err = fmt.Errorf("object %s is of %s/%s: %w", nameKey(project, name), rec.Project, rec.Name, ErrCorrupt)
	}
	if err == nil {
		err = checkBranchID(rec.ID)
	}
	if err != nil {
		return rec, "", fmt.Errorf("look up branch %s/%s: %w", project, name, err)
	}
	return rec, tag, nil
}

// resolve returns the id of the branch with the name.
func (s *Store) resolve(ctx context.Context, project, name string) (BranchID, error) {
	rec, _, err := s.readName(ctx, project, name)
	if err == nil && rec.Free {
		err = fmt.Errorf("branch %s/%s: %w", project, name, ErrNotFound)
	}
	return rec.ID, err
}

// Branch returns the branch with the name.
func (s *Store) Branch(ctx context.Context, project, name string) (BranchInfo, error) {
	// What had the name the last time nearly always has it still. Then its manifest
	// says so, and the name itself needs no look.
	key := nameKey(project, name)
	if id, ok := s.names.Get(key); ok {
		info, err := s.named(ctx, id, project, name)
		if !errors.Is(err, ErrNotFound) {
			return info, err
		}
		s.names.Remove(key)
	}
	id, err := s.resolve(ctx, project, name)
	if err != nil {
		return BranchInfo{}, err
	}
	info, err := s.named(ctx, id, project, name)
	if err == nil {
		s.names.Add(key, id)
	}
	return info, err
}

// named returns the branch if it has the name. The manifest has the last word: it is
// what a rename or a deletion changes, whose crash may leave a name behind.
func (s *Store) named(ctx context.Context, id BranchID, project, name string) (BranchInfo, error) {
	m, _, err := s.readBranch(ctx, id)
	if err != nil {
		return BranchInfo{}, err
	}
	if m.Project != project || m.Name != name || !m.Deleted.IsZero() {
		return BranchInfo{}, fmt.Errorf("branch %s/%s: %w", project, name, ErrNotFound)
	}
	return m.info(), nil
}

// BranchByID returns the branch with the id, which may have been deleted: its
// children go on using it.
func (s *Store) BranchByID(ctx context.Context, id BranchID) (BranchInfo, error) {
	m, _, err := s.readBranch(ctx, id)
	if err != nil {
		return BranchInfo{}, err
	}
	return m.info(), nil
}

// Branches returns the project's branches, by name. One whose records can not be
// read has Err set, and does not hide the others; neither does a project record
// that can not be read.
func (s *Store) Branches(ctx context.Context, project string) ([]BranchInfo, error) {
	if _, err := s.Project(ctx, project); errors.Is(err, ErrNotFound) || errors.Is(err, ErrInvalidName) {
		return nil, err
	}
	names, err := s.listNames(ctx, namePrefix+project+"/")
	if err != nil {
		return nil, err
	}
	return gather(ctx, names, func(ctx context.Context, n string) (BranchInfo, error) {
		b, err := s.Branch(ctx, project, n)
		if err != nil && !errors.Is(err, ErrNotFound) {
			b = BranchInfo{Project: project, Name: n, Err: err}
			b.ID, _ = s.resolve(ctx, project, n) // unknown, if it is the name that is damaged
			return b, ctx.Err()
		}
		return b, err
	})
}

// UpdateBranch changes the branch's Settings, its Retention, whether it is Protected, or
// makes its device larger, or keeps it, though it was a Throwaway. A branch that expires
// can not be protected.
func (s *Store) UpdateBranch(ctx context.Context, id BranchID, change func(*BranchInfo) error) error {
	m, err := s.updateBranch(ctx, id, func(m *manifest) error {
		info := m.info()
		if err := change(&info); err != nil {
			return err
		}
		if err := CheckSize(info.Size); err != nil {
			return err
		}
		if info.Size < m.Size {
			return fmt.Errorf("%w: %d bytes, the device has %d and can not shrink", ErrInvalidSize, info.Size, m.Size)
		}
		if info.Protected && !m.Expires.IsZero() {
			return fmt.Errorf("protect branch %s/%s: it would be deleted at %s: %w", m.Project, m.Name, timeText(m.Expires), ErrExpires)
		}
		m.Settings, m.Size, m.Protected, m.Retention = info.Settings, info.Size, info.Protected, info.Retention
		if info.Throwaway == "" {
			m.Throwaway = ""
		}
		return nil
	})
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if o := s.open[m.ID]; o != nil && o.branch != nil {
		o.branch.setSize(m.Size)
	}
	return nil
}

// RenameBranch gives the branch another name in its project. If it fails half
// way the branch has one of the two names; the same call again ends it.
func (s *Store) RenameBranch(ctx context.Context, project, name, newName string) error {
	if err := CheckName(newName); err != nil {
		return err
	}
	id, err := s.resolve(ctx, project, name)
	if err != nil {
		return err
	}
	if err := s.claimName(ctx, project, newName, id); err != nil {
		return fmt.Errorf("rename branch %s/%s: %w", project, name, err)
	}
	if name == newName {
		return nil
	}
	_, err = s.updateBranch(ctx, id, func(m *manifest) error {
		m.Name = newName
		return nil
	})
	if err == nil {
		err = s.objects.Delete(ctx, nameKey(project, name))
	}
	if err != nil {
		return fmt.Errorf("rename branch %s/%s: %w", project, name, err)
	}
	return nil
}

// DeleteBranch deletes a branch that is not in use. Its children are not
// affected: what they share with it stays.
func (s *Store) DeleteBranch(ctx context.Context, project, name string) error {
	id, err := s.resolve(ctx, project, name)
	if err == nil {
		err = s.deleteBranch(ctx, project, name, id)
	}
	return err
}

func (s *Store) deleteBranch(ctx context.Context, project, name string, id BranchID) error {
	if s.isOpen(id) {
		return fmt.Errorf("delete branch %s/%s: %w", project, name, ErrInUse)
	}
	m, _, err := s.readBranch(ctx, id)
	if err == nil && m.Deleted.IsZero() && m.Throwaway == "" && !m.Protected && m.Name == name {
		err = s.putDeleted(ctx, m)
	}
	if err == nil {
		m, err = s.markDeleted(ctx, project, name, id)
	}
	if err == nil {
		err = s.objects.Delete(ctx, nameKey(project, name))
	}
	if err != nil {
		return fmt.Errorf("delete branch %s/%s: %w", project, name, err)
	}
	s.forked.Remove(m.ID)
	return nil
}

// markDeleted says in the manifest that the branch is deleted.
func (s *Store) markDeleted(ctx context.Context, project, name string, id BranchID) (*manifest, error) {
	return s.updateBranch(ctx, id, func(m *manifest) error {
		if m.Project != project || m.Name != name {
			return ErrNotFound // a name that a rename left behind
		}
		if m.Protected {
			return ErrProtected
		}
		if s.attachedElsewhere(m) {
			return &AttachedError{
				ID: id, Project: project, Name: name, Host: m.Host, Epoch: m.Epoch, Durability: m.durability(),
			}
		}
		if s.isOpen(m.ID) { // it may have been taken over since
			return ErrInUse
		}
		if m.Deleted.IsZero() {
			m.Deleted = s.now().UTC()
		}
		if m.Throwaway != "" && m.Gone.IsZero() {
			m.Gone = m.Deleted
		}
		return nil
	})
}

// listNames returns what follows the prefix in the keys below it.
func (s *Store) listNames(ctx context.Context, prefix string) ([]string, error) {
	var names []string
	after := ""
	for {
		infos, err := s.objects.List(ctx, prefix, after, 1000)
		if err != nil {
			return nil, fmt.Errorf("list %s: %w", prefix, err)
		}
		for _, i := range infos {
			after = i.Key
			if n := strings.TrimPrefix(i.Key, prefix); CheckName(n) == nil {
				names = append(names, n)
			}
		}
		if len(infos) < 1000 {
			return names, nil
		}
	}
}

// gatherMax is how many records, or logs, are read at the same time: a store may be far
// away.
const gatherMax = 16

// gather reads one record for each name, leaving out those that have gone
// meanwhile.
func gather[N, T any](ctx context.Context, names []N, read func(context.Context, N) (T, error)) ([]T, error) {
	all := make([]T, len(names))
	gone := make([]bool, len(names))
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(gatherMax)
	for i, n := range names {
		g.Go(func() (err error) {
			all[i], err = read(gctx, n)
			if errors.Is(err, ErrNotFound) {
				gone[i], err = true, nil
			}
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	out := all[:0]
	for i := range all {
		if !gone[i] {
			out = append(out, all[i])
		}
	}
	return out, nil
}
