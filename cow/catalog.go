package cow

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	ask "github.com/bough-db/bough/cow/point"
	"github.com/bough-db/bough/objstore"
)

// MainBranch is the name of a project's first branch.
const MainBranch = "main"

// DefaultSize is the size of a device nobody asked a size for: 256 GiB, thin.
const DefaultSize = 256 << 30

// ProjectInfo describes a project.
type ProjectInfo struct {
	Name     string          `json:"name"`
	Created  time.Time       `json:"created"`
	Hidden   bool            `json:"hidden,omitempty"` // not listed to users: a template
	Size     int64           `json:"size"`             // of new devices, bytes
	Main     BranchID        `json:"main"`             // its first branch
	Settings json.RawMessage `json:"settings,omitempty"`
	// Retention says which barriers of its branches stay. Default: what the Store's
	// options say.
	Retention *Retention `json:"history,omitempty"`

	// Err is set in lists only, for a project whose record could not be read:
	// then only Name is known.
	Err error `json:"-"`
}

// ProjectOptions say how to make a project.
type ProjectOptions struct {
	Size     int64           // of its devices in bytes. Default: that of From, or DefaultSize.
	Hidden   bool            // do not list it to users
	Settings json.RawMessage // kept with the project, not read here
	Branch   json.RawMessage // Settings of its first branch
	From     BranchID        // the branch its first branch begins as. Default: empty.
	// Durability of its first branch. Default: local.
	Durability Durability
}

// BranchInfo describes a branch.
type BranchInfo struct {
	ID       BranchID  `json:"id"`
	Project  string    `json:"project"`
	Name     string    `json:"name"`
	ParentID BranchID  `json:"parent_id,omitempty"`
	ForkSeq  uint64    `json:"fork_seq"`
	Seq      uint64    `json:"seq"` // the last barrier, as of the last detach
	Created  time.Time `json:"created"`
	Size     int64     `json:"size"`     // of the device, bytes
	Attached bool      `json:"attached"` // a host has it open
	Host     string    `json:"host,omitempty"`
	Epoch    uint64    `json:"epoch"`
	// Durability is what flushes of the branch wait for.
	Durability Durability      `json:"durability,omitempty"`
	Settings   json.RawMessage `json:"settings,omitempty"`

	Protected bool      `json:"protected,omitempty"` // from deletion and restoration
	Expires   time.Time `json:"expires,omitzero"`    // when it is deleted by itself
	Throwaway string    `json:"throwaway,omitempty"` // the host that made it for one use
	Deleted   time.Time `json:"deleted,omitzero"`    // when it was
	// Retention says which of its barriers stay. Default: what its project says.
	Retention *Retention `json:"history,omitempty"`
	// Restored is when it was restored last, to barrier RestoredSeq.
	Restored    time.Time `json:"restored,omitzero"`
	RestoredSeq uint64    `json:"restored_seq,omitempty"`

	// Err is set in lists only, for a branch whose records could not be read:
	// then only Project, Name and perhaps ID are known.
	Err error `json:"-"`
}

// BranchOptions say how to make a branch.
type BranchOptions struct {
	// Durability of the new branch. Default: that of the parent.
	Durability Durability
	From       BranchID        // the parent
	At         ask.Point       // of From, to begin as. Default: its last barrier.
	Settings   json.RawMessage // kept with the branch, not read here
	// Throwaway says that the branch is for one use of this host, which deletes it
	// then, or after a restart: see Expiring. It can not be brought back.
	Throwaway bool
}

const (
	projectKind = "project"
	nameKind    = "name"
)

// nameRecord gives a name to a branch.
type nameRecord struct {
	Project string   `json:"project"`
	Name    string   `json:"name"`
	ID      BranchID `json:"id"`
	Nonce   nonce    `json:"nonce"`
	// Free says that nobody has the name: its branch was removed, and the name with it.
	Free bool `json:"free,omitempty"`
}

func (m *manifest) info() BranchInfo {
	info := BranchInfo{
		ID: m.branch(), Project: m.Project, Name: m.Name, ParentID: m.Parent, ForkSeq: uint64(m.forkSeq()),
		Seq:     uint64(max(m.Fork.Seq, m.Head.Seq)),
		Created: m.Created, Size: m.Size, Attached: m.Epoch > 0 && !m.Clean, Host: m.Host,
		Epoch: m.Epoch, Durability: m.durability(), Settings: m.Settings,
		Protected: m.Protected, Expires: m.Expires, Throwaway: m.Throwaway, Deleted: m.Deleted, Retention: m.Retention,
	}
	if m.Restored != nil {
		info.Restored, info.RestoredSeq = m.Restored.Time, uint64(m.Restored.Seq)
	}
	return info
}

// CheckSize returns nil for a size that a device may have: a positive multiple
// of BlockSize up to 2 TiB.
func CheckSize(size int64) error {
	if size <= 0 || size%BlockSize != 0 || size/BlockSize > MaxBlocks {
		return fmt.Errorf("%w: %d bytes: a multiple of %d up to %d is needed",
			ErrInvalidSize, size, BlockSize, int64(MaxBlocks)*BlockSize)
	}
	return nil
}

// CreateProject makes a project and its first branch, main.
func (s *Store) CreateProject(ctx context.Context, name string, o ProjectOptions) (ProjectInfo, BranchInfo, error) {
	fail := func(err error) (ProjectInfo, BranchInfo, error) {
		return ProjectInfo{}, BranchInfo{}, fmt.Errorf("create project %q: %w", name, err)
	}
	if err := CheckName(name); err != nil {
		return ProjectInfo{}, BranchInfo{}, err
	}
	if o.Size != 0 {
		if err := CheckSize(o.Size); err != nil {
			return fail(err)
		}
	}
	if o.Durability != "" {
		if err := o.Durability.Check(); err != nil {
			return fail(err)
		}
	}
	if p, err := s.Project(ctx, name); err == nil {
		// A crash may have come between the record and the name of its branch.
		if _, err := s.resolve(ctx, name, MainBranch); errors.Is(err, ErrNotFound) {
			err = s.claimName(ctx, name, MainBranch, p.Main)
			if err != nil {
				return fail(err)
			}
		}
		return fail(ErrExists)
	} else if !errors.Is(err, ErrNotFound) {
		return fail(err)
	}
	m, tr, err := s.newManifest(ctx, name, MainBranch, o.From, ask.Point{}, o.Size)
	if err != nil {
		return fail(err)
	}
	m.Settings, m.Durability = o.Branch, o.Durability
	p := ProjectInfo{
		Name: name, Created: m.Created, Hidden: o.Hidden, Size: m.Size, Main: m.ID, Settings: o.Settings,
	}
	data, err := encodeRecord(projectKind, &p)
	if err != nil {
		return fail(err)
	}
	if _, err := s.putManifest(ctx, m, objstore.Condition{IfAbsent: true}); err != nil {
		return fail(err)
	}
	if err := s.confirm(ctx, m.Fork); err != nil {
		s.dropManifest(ctx, m.ID)
		return fail(err)
	}
	if _, err := s.objects.Put(ctx, projectKey(name), data, objstore.Condition{IfAbsent: true}); err != nil {
		now, rerr := s.Project(ctx, name)
		switch {
		case rerr != nil:
			return fail(err) // it may have been made, or may yet be
		case now.Main != p.Main:
			s.dropManifest(ctx, m.ID)
			return fail(ErrExists)
		}
	}
	if err := s.claimName(ctx, name, MainBranch, m.ID); err != nil {
		return fail(err)
	}
	if err := s.confirmClaim(ctx, m, m.Created); err != nil {
		return fail(errors.Join(err, s.objects.Delete(ctx, projectKey(name))))
	}
	s.remember(m.ID, tr)
	return p, m.info(), nil
}

// Project returns the project with the name.
func (s *Store) Project(ctx context.Context, name string) (ProjectInfo, error) {
	p, _, err := s.readProject(ctx, name)
	return p, err
}

func (s *Store) readProject(ctx context.Context, name string) (p ProjectInfo, tag string, err error) {
	if err := CheckName(name); err != nil {
		return p, "", err
	}
	tag, err = s.readRecord(ctx, projectKind, projectKey(name), &p)
	if isNotExist(err) {
		return p, "", fmt.Errorf("project %q: %w", name, ErrNotFound)
	}
	if err == nil && p.Name != name {
		err = fmt.Errorf("object %s is of project %q: %w", projectKey(name), p.Name, ErrCorrupt)
	}
	if err != nil {
		return p, "", fmt.Errorf("read project %q: %w", name, err)
	}
	return p, tag, nil
}

// Projects returns all projects, hidden ones too, by name.
func (s *Store) Projects(ctx context.Context) ([]ProjectInfo, error) {
	names, err := s.listNames(ctx, projectPrefix)
	if err != nil {
		return nil, err
	}
	return gather(ctx, names, func(ctx context.Context, n string) (ProjectInfo, error) {
		p, err := s.Project(ctx, n)
		if err != nil && !errors.Is(err, ErrNotFound) {
			return ProjectInfo{Name: n, Err: err}, ctx.Err()
		}
		return p, err
	})
}

// UpdateProject changes the project's Settings, its Retention, or its Size for new
// branches.
func (s *Store) UpdateProject(ctx context.Context, name string, change func(*ProjectInfo) error) error {
	for {
		p, tag, err := s.readProject(ctx, name)
		if err != nil {
			return err
		}
		if err := change(&p); err != nil {
			return err
		}
		data, err := encodeRecord(projectKind, &p)
		if err != nil {
			return err
		}
		_, err = s.objects.Put(ctx, projectKey(name), data, objstore.Condition{IfMatch: tag})
		if err == nil {
			return nil
		}
		if !errors.Is(err, objstore.ErrMismatch) {
			return fmt.Errorf("update project %q: %w", name, err)
		}
	}
}

// DeleteProject deletes the project and all its branches. It changes nothing if
// one of them is in use.
func (s *Store) DeleteProject(ctx context.Context, name string) error {
	if _, err := s.Project(ctx, name); err != nil {
		return err
	}
	all, err := s.Branches(ctx, name)
	if err != nil {
		return err
	}
	for _, b := range all {
		if b.Err != nil {
			return fmt.Errorf("delete project %q: branch %q: %w", name, b.Name, b.Err)
		}
		if s.isOpen(b.ID) {
			return fmt.Errorf("delete project %q: branch %q: %w", name, b.Name, ErrInUse)
		}
		if b.Protected {
			return fmt.Errorf("delete project %q: branch %q: %w", name, b.Name, ErrProtected)
		}
		if b.Attached && b.Host != s.opts.Host {
			return fmt.Errorf("delete project %q: %w", name, &AttachedError{
				ID: b.ID, Project: name, Name: b.Name, Host: b.Host, Epoch: b.Epoch, Durability: b.Durability,
			})
		}
	}
	for _, b := range all {
		if err := s.deleteBranch(ctx, name, b.Name, b.ID); err != nil {
			return fmt.Errorf("delete project %q: %w", name, err)
		}
	}
	if err := s.objects.Delete(ctx, projectKey(name)); err != nil {
		return fmt.Errorf("delete project %q: %w", name, err)
	}
	return nil
}
