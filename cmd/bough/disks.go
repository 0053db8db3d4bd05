package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"sync"

	"github.com/bough-db/bough/branchfs"
	"github.com/bough-db/bough/cow"
)

// disks shows the store as a file system, and knows which branches are open
// through it.
type disks struct {
	store *cow.Store
	log   *slog.Logger

	mu        sync.Mutex
	open      map[cow.BranchID]openBranch
	attaching map[cow.BranchID]cow.BranchInfo // see attach
}

// openBranch is a branch that is open, and what was known of it then.
type openBranch struct {
	*cow.Branch
	info cow.BranchInfo
}

func newDisks(store *cow.Store, log *slog.Logger) *disks {
	return &disks{store: store, log: log, open: map[cow.BranchID]openBranch{}, attaching: map[cow.BranchID]cow.BranchInfo{}}
}

// attach has the way to a branch's file found without the store until done is called:
// whoever attaches it has just opened it, and every step of the way would cost a round
// trip.
func (d *disks) attach(info cow.BranchInfo) (done func()) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.attaching[info.ID] = info
	return func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		delete(d.attaching, info.ID)
	}
}

// find returns a branch that is being attached; of any name if that is empty.
func (d *disks) find(project, name string) (cow.BranchInfo, bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, info := range d.attaching {
		if info.Project == project && (name == "" || info.Name == name) {
			return info, true
		}
	}
	return cow.BranchInfo{}, false
}

// get returns the branch if it is open.
func (d *disks) get(id cow.BranchID) *cow.Branch {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.open[id].Branch
}

// barriers grows whenever a branch that is open has a new barrier.
func (d *disks) barriers() (n uint64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, o := range d.open {
		n += uint64(o.Status().Seq)
	}
	return n
}

// all returns what is known of the branches that are open.
func (d *disks) all() []cow.BranchInfo {
	d.mu.Lock()
	defer d.mu.Unlock()
	all := make([]cow.BranchInfo, 0, len(d.open))
	for _, o := range d.open {
		all = append(all, o.info)
	}
	return all
}

// notExist makes the store's error one of the file system's.
func notExist(err error) error {
	if errors.Is(err, cow.ErrNotFound) || errors.Is(err, cow.ErrInvalidName) {
		return fmt.Errorf("%w: %w", err, fs.ErrNotExist)
	}
	return err
}

// Projects implements branchfs.Source. Hidden projects are there too: templates
// are made through the file system.
func (d *disks) Projects(ctx context.Context) ([]string, error) {
	all, err := d.store.Projects(ctx)
	if err != nil {
		return nil, err
	}
	names := make([]string, len(all))
	for i, p := range all {
		names[i] = p.Name
	}
	return names, nil
}

// Project implements branchfs.ProjectFinder: a path walk looks one project up
// instead of listing all.
func (d *disks) Project(ctx context.Context, name string) error {
	if _, ok := d.find(name, ""); ok {
		return nil
	}
	_, err := d.store.Project(ctx, name)
	return notExist(err)
}

// Branches implements branchfs.Source.
func (d *disks) Branches(ctx context.Context, project string) ([]string, error) {
	all, err := d.store.Branches(ctx, project)
	if err != nil {
		return nil, notExist(err)
	}
	names := make([]string, len(all))
	for i, b := range all {
		names[i] = b.Name
	}
	return names, nil
}

// Branch implements branchfs.Source.
func (d *disks) Branch(ctx context.Context, project, branch string) (branchfs.Branch, error) {
	if info, ok := d.find(project, branch); ok {
		return &branchFile{disks: d, info: info}, nil
	}
	info, err := d.store.Branch(ctx, project, branch)
	if err != nil {
		return nil, notExist(err)
	}
	return &branchFile{disks: d, info: info}, nil
}

// branchFile is one branch in the file system.
type branchFile struct {
	disks *disks
	info  cow.BranchInfo
}

// Info implements branchfs.Branch.
func (f *branchFile) Info() branchfs.Info {
	return branchfs.Info{ID: string(f.info.ID), Size: f.info.Size, Modified: f.info.Created}
}

// Open implements branchfs.Branch.
func (f *branchFile) Open(ctx context.Context) (branchfs.Disk, error) {
	b, err := f.disks.store.Open(ctx, f.info.ID)
	if err != nil {
		return nil, notExist(err)
	}
	f.disks.mu.Lock()
	f.disks.open[f.info.ID] = openBranch{Branch: b, info: f.info}
	f.disks.mu.Unlock()
	return &openDisk{Branch: b, disks: f.disks}, nil
}

// fileStatus is what status.json holds.
type fileStatus struct {
	cow.BranchInfo
	Settings *struct{}         `json:"settings,omitempty"` // hides the passwords in there
	Open     *cow.BranchStatus `json:"open,omitempty"`
}

// Status implements branchfs.Branch.
func (f *branchFile) Status(ctx context.Context) ([]byte, error) {
	info, err := f.disks.store.BranchByID(ctx, f.info.ID)
	if err != nil {
		return nil, notExist(err)
	}
	s := fileStatus{BranchInfo: info}
	if b := f.disks.get(info.ID); b != nil {
		st := b.Status()
		s.Open = &st
	}
	p, err := json.MarshalIndent(s, "", "  ")
	return append(p, '\n'), err
}

// openDisk is an open branch that the file system closes.
type openDisk struct {
	*cow.Branch
	disks *disks
}

// Close implements branchfs.Disk.
func (o *openDisk) Close(ctx context.Context) error {
	// The branch may be opened again before this close has returned; then the
	// map has the new one.
	o.disks.mu.Lock()
	if o.disks.open[o.ID()].Branch == o.Branch {
		delete(o.disks.open, o.ID())
	}
	o.disks.mu.Unlock()
	return o.Branch.Close(ctx)
}
