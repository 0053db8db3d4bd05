package postgres

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/bough-db/bough/blockdev"
	"github.com/bough-db/bough/cow"
	"github.com/bough-db/bough/cow/point"
)

var pgBin = flag.String("pg-bin", "", "directory of the Postgres to test with (default: the newest installed)")

// fakeStore is a catalogue in memory whose devices are directories. A branch
// is a copy, made while the parent's processes are stopped: what a crash of
// the parent would leave.
type fakeStore struct {
	root  string
	state string

	mu       sync.Mutex
	projects map[string]cow.ProjectInfo
	branches map[cow.BranchID]cow.BranchInfo
	mounts   map[cow.BranchID]string
	last     int
	failures map[string]error // by method
	grown    []string
}

func newFakeStore(root, state string) *fakeStore {
	return &fakeStore{root: root, state: state, projects: make(map[string]cow.ProjectInfo),
		branches: make(map[cow.BranchID]cow.BranchInfo), mounts: make(map[cow.BranchID]string), failures: make(map[string]error)}
}

func (f *fakeStore) device(id cow.BranchID) string { return filepath.Join(f.root, string(id)) }

// fail makes a method fail from now on, or not any more.
func (f *fakeStore) fail(method string, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.failures[method] = err
}

// add makes a branch; mu is held.
func (f *fakeStore) add(project, name string, o cow.BranchOptions, size int64) (cow.BranchInfo, error) {
	for _, b := range f.branches {
		if b.Project == project && b.Name == name {
			return cow.BranchInfo{}, fmt.Errorf("branch %s/%s: %w", project, name, cow.ErrExists)
		}
	}
	f.last++
	if size == 0 {
		size = 1 << 30
	}
	b := cow.BranchInfo{ID: cow.BranchID(fmt.Sprintf("br-fake-tree-%08d", f.last)), Project: project, Name: name,
		ParentID: o.From, Created: time.Now(), Settings: o.Settings, Size: size}
	if o.From != "" {
		from := f.device(o.From)
		if at, ok := f.mounts[o.From]; ok {
			from = at
			for _, p := range workingIn(filepath.Join(at, "pgdata")) {
				unix.Kill(p.Pid, unix.SIGSTOP)
				defer unix.Kill(p.Pid, unix.SIGCONT)
			}
		}
		if _, err := os.Stat(from); err == nil {
			if out, err := exec.Command("cp", "-a", "--sparse=always", from, f.device(b.ID)).CombinedOutput(); err != nil {
				return cow.BranchInfo{}, fmt.Errorf("copy: %w: %s", err, out)
			}
		}
	}
	f.branches[b.ID] = b
	return b, nil
}

func (f *fakeStore) CreateProject(_ context.Context, name string, o cow.ProjectOptions) (cow.ProjectInfo, cow.BranchInfo, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if _, ok := f.projects[name]; ok {
		return cow.ProjectInfo{}, cow.BranchInfo{}, fmt.Errorf("project %s: %w", name, cow.ErrExists)
	}
	p := cow.ProjectInfo{Name: name, Hidden: o.Hidden, Settings: o.Settings, Size: o.Size}
	b, err := f.add(name, cow.MainBranch, cow.BranchOptions{From: o.From, Settings: o.Branch}, o.Size)
	f.projects[name] = p
	return p, b, err
}

func (f *fakeStore) Project(_ context.Context, name string) (cow.ProjectInfo, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	p, ok := f.projects[name]
	if !ok {
		return p, fmt.Errorf("project %s: %w", name, cow.ErrNotFound)
	}
	return p, nil
}

func (f *fakeStore) UpdateProject(_ context.Context, name string, change func(*cow.ProjectInfo) error) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	p := f.projects[name]
	if err := errors.Join(f.failures["UpdateProject"], change(&p)); err != nil {
		return err
	}
	f.projects[name] = p
	return nil
}

func (f *fakeStore) CreateBranch(_ context.Context, project, name string, o cow.BranchOptions) (cow.BranchInfo, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.add(project, name, o, f.projects[project].Size)
}

func (f *fakeStore) Branch(_ context.Context, project, name string) (cow.BranchInfo, error) {
	all, _ := f.Branches(context.Background(), project)
	i := slices.IndexFunc(all, func(b cow.BranchInfo) bool { return b.Name == name })
	if i < 0 {
		return cow.BranchInfo{}, fmt.Errorf("branch %s/%s: %w", project, name, cow.ErrNotFound)
	}
	return all[i], nil
}

func (f *fakeStore) Branches(_ context.Context, project string) (all []cow.BranchInfo, _ error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, b := range f.branches {
		if b.Project == project {
			all = append(all, b)
		}
	}
	return all, nil
}

func (f *fakeStore) UpdateBranch(_ context.Context, id cow.BranchID, change func(*cow.BranchInfo) error) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	b := f.branches[id]
	if err := change(&b); err != nil {
		return err
	}
	f.branches[id] = b
	return nil
}

func (f *fakeStore) RestoreBranch(_ context.Context, id cow.BranchID, o cow.RestoreOptions) (cow.BranchInfo, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	b := f.branches[id]
	settings, err := o.Settings(b.Settings)
	if err != nil {
		return cow.BranchInfo{}, err
	}
	b.Settings = settings
	f.branches[id] = b
	return b, nil
}

func (f *fakeStore) DeleteBranch(_ context.Context, project, name string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	for id, b := range f.branches {
		if b.Project == project && b.Name == name {
			delete(f.branches, id)
		}
	}
	return nil
}

func (f *fakeStore) Attach(_ context.Context, o blockdev.AttachOptions) (blockdev.Attachment, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	id := cow.BranchID(o.ID)
	if f.mounts[id] != "" {
		return blockdev.Attachment{}, errors.New("mounted twice")
	}
	if err := f.failures["Attach"]; err != nil {
		return blockdev.Attachment{}, err
	}
	if o.Format {
		if err := errors.Join(os.RemoveAll(f.device(id)), os.Mkdir(f.device(id), 0o755)); err != nil {
			return blockdev.Attachment{}, err
		}
	}
	f.mounts[id] = o.Dir
	os.Remove(o.Dir)
	return blockdev.Attachment{}, os.Rename(f.device(id), o.Dir)
}

func (f *fakeStore) Detach(_ context.Context, name string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	id := cow.BranchID(name)
	dir := f.mounts[id]
	if dir == "" {
		return blockdev.ErrNotAttached
	}
	if busy := workingIn(filepath.Join(dir, "pgdata")); len(busy) > 0 {
		return fmt.Errorf("%w: %v", blockdev.ErrBusy, busy)
	}
	delete(f.mounts, id)
	return os.Rename(dir, f.device(id))
}

func (f *fakeStore) Grow(_ context.Context, id string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.grown = append(f.grown, id)
	return nil
}

func (f *fakeStore) Trim(context.Context, string) error { return nil }

// memoryDir is t.TempDir in memory where there is one, since these tests are not
// about the disk, and open to the user that Postgres runs as.
func memoryDir(t *testing.T) string {
	t.Helper()
	parent := "/dev/shm"
	if _, err := os.Stat(parent); err != nil {
		parent = ""
	}
	dir, err := os.MkdirTemp(parent, "bough-test-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

func testLogger(t *testing.T) *slog.Logger {
	return slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelWarn}))
}

// bench is a Manager over a fakeStore, and what tests ask of it.
type bench struct {
	*Manager
	t     *testing.T
	ctx   context.Context
	store *fakeStore
}

func newBench(t *testing.T, change ...func(*Options)) *bench {
	t.Helper()
	if _, err := FindInstallations(t.Context(), *pgBin); errors.Is(err, ErrNotInstalled) {
		t.Skip(err)
	}
	root := memoryDir(t)
	state := filepath.Join(root, "state")
	store := newFakeStore(root, state)
	o := Options{StateDir: state, Store: store, Volumes: store,
		BinDir: *pgBin, Logger: testLogger(t)}
	for _, f := range change {
		f(&o)
	}
	m, err := New(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := m.Close(context.Background()); err != nil {
			t.Error(err)
		}
		if left := postmastersUnder(m.layout.dataRoot()); len(left) > 0 {
			t.Errorf("servers are left: %v", left)
		}
	})
	return &bench{Manager: m, t: t, ctx: t.Context(), store: store}
}

// errNoPast: a store that copies directories has no past.
var errNoPast = errors.New("this store has no past")

func (f *fakeStore) Resolve(context.Context, cow.BranchID, point.Point) (cow.Barrier, error) {
	return cow.Barrier{}, errNoPast
}

func (f *fakeStore) History(context.Context, cow.BranchID, cow.HistoryQuery) (cow.HistoryPage, error) {
	return cow.HistoryPage{}, errNoPast
}
