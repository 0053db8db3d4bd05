// Package branchfstest is a source of branches for tests: any devices, under any
// names, as a file system of package branchfs shows them.
//
// # Words
//
// A branch is added with [Source.Add] and has the id "br-" + project + "-" + name
// until it is removed. Opening it gives the device that was added; closing it only
// counts. A moment is added to a branch with [Source.AddMoment]; branches without moments
// are no branchfs.Past.
//
// # Concurrency
//
// All methods may be called concurrently.
//
// # Limits
//
// Renaming, and projects without branches, are not offered.
package branchfstest

import (
	"context"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/bough-db/bough/blockdev"
	"github.com/bough-db/bough/branchfs"
)

// Source is a branchfs.Source made of devices.
type Source struct {
	mu       sync.Mutex
	branches map[name]*branch
	openErr  error
	changed  chan struct{} // closed and replaced at every open and close
}

type name struct{ project, branch string }

// NewSource returns a Source without branches.
func NewSource() *Source {
	return &Source{branches: make(map[name]*branch), changed: make(chan struct{})}
}

// Add adds a branch that is served by dev, and returns its id.
func (s *Source) Add(project, branchName string, dev blockdev.Device) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	b := &branch{source: s, id: "br-" + project + "-" + branchName, dev: dev}
	s.branches[name{project, branchName}] = b
	return b.id
}

// AddMoment adds a moment to a branch, as the point and the snapshot of that name. It has
// the id "br-" + project + "-" + name + "@" + moment.
func (s *Source) AddMoment(project, branchName, moment string, dev blockdev.Device) {
	s.mu.Lock()
	defer s.mu.Unlock()
	b := s.branches[name{project, branchName}]
	if b.past == nil {
		b.past = map[string]*branch{}
	}
	b.past[moment] = &branch{source: s, id: b.id + "@" + moment, dev: dev, readOnly: true}
}

// Remove takes a branch away; open devices stay open.
func (s *Source) Remove(project, branchName string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.branches, name{project, branchName})
}

// FailOpens makes every later open fail with err; nil lets them succeed again.
func (s *Source) FailOpens(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.openErr = err
}

// Open returns how many devices are open.
func (s *Source) Open() int {
	n, _ := s.open()
	return n
}

// WaitOpen returns when exactly n devices are open.
func (s *Source) WaitOpen(ctx context.Context, n int) error {
	for {
		open, changed := s.open()
		if open == n {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return fmt.Errorf("%d devices are open, want %d: %w", open, n, ctx.Err())
		}
	}
}

func (s *Source) open() (n int, changed <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, b := range s.branches {
		n += b.open
		for _, m := range b.past {
			n += m.open
		}
	}
	return n, s.changed
}

// Projects implements branchfs.Source.
func (s *Source) Projects(ctx context.Context) ([]string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var l []string
	for n := range s.branches {
		if !slices.Contains(l, n.project) {
			l = append(l, n.project)
		}
	}
	return l, nil
}

// Branches implements branchfs.Source.
func (s *Source) Branches(ctx context.Context, project string) ([]string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var l []string
	for n := range s.branches {
		if n.project == project {
			l = append(l, n.branch)
		}
	}
	return l, nil
}

// Branch implements branchfs.Source.
func (s *Source) Branch(ctx context.Context, project, branchName string) (branchfs.Branch, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	b, ok := s.branches[name{project, branchName}]
	if !ok {
		return nil, fmt.Errorf("branch %s/%s: %w", project, branchName, fs.ErrNotExist)
	}
	if b.past != nil {
		return past{b}, nil
	}
	return b, nil
}

// branch implements branchfs.Branch.
type branch struct {
	source   *Source
	id       string
	dev      blockdev.Device
	readOnly bool
	open     int                // guarded by source.mu
	past     map[string]*branch // guarded by source.mu
}

func (b *branch) Info() branchfs.Info {
	return branchfs.Info{ID: b.id, Size: b.dev.Size(), Modified: time.Unix(1700000000, 0), ReadOnly: b.readOnly}
}

// past is a branch that implements branchfs.Past.
type past struct{ *branch }

func (p past) At(ctx context.Context, point string) (branchfs.Branch, error) {
	p.source.mu.Lock()
	defer p.source.mu.Unlock()
	m, ok := p.past[point]
	if !ok {
		return nil, fmt.Errorf("point %s: %w", point, fs.ErrNotExist)
	}
	return m, nil
}

func (p past) Snapshots(ctx context.Context) ([]string, error) {
	p.source.mu.Lock()
	defer p.source.mu.Unlock()
	return slices.Collect(maps.Keys(p.past)), nil
}

func (p past) Snapshot(ctx context.Context, name string) (branchfs.Branch, error) {
	return p.At(ctx, name)
}

func (b *branch) Open(ctx context.Context) (branchfs.Disk, error) {
	if err := b.count(1); err != nil {
		return nil, err
	}
	d := disk{Device: b.dev, branch: b}
	trimmer, trims := b.dev.(blockdev.Trimmer)
	zeroer, zeroes := b.dev.(blockdev.Zeroer)
	if trims && zeroes {
		return struct {
			disk
			blockdev.Trimmer
			blockdev.Zeroer
		}{d, trimmer, zeroer}, nil
	}
	return d, nil
}

func (b *branch) Status(ctx context.Context) ([]byte, error) {
	return fmt.Appendf(nil, "{\"id\":%q}\n", b.id), nil
}

func (b *branch) count(n int) error {
	b.source.mu.Lock()
	defer b.source.mu.Unlock()
	if n > 0 && b.source.openErr != nil {
		return b.source.openErr
	}
	b.open += n
	close(b.source.changed)
	b.source.changed = make(chan struct{})
	return nil
}

type disk struct {
	blockdev.Device
	branch *branch
}

func (d disk) Close(ctx context.Context) error { return d.branch.count(-1) }
