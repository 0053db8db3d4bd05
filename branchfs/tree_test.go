package branchfs_test

import (
	"context"
	"io/fs"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/bough-db/bough/blockdev/memdev"
	"github.com/bough-db/bough/branchfs/branchfstest"
)

func list(t *testing.T, dir string) []string {
	t.Helper()
	return strings.Fields(branchfstest.Run(t, "list", dir))
}

func TestTree(t *testing.T) {
	s, src, _ := one(t)
	src.Add("p", "dev", memdev.New(1<<20, memdev.Options{}))
	src.Add("q", "main", memdev.New(1<<20, memdev.Options{}))
	for dir, want := range map[string][]string{
		s.Dir():             {"p", "true", "q", "true"},
		s.Dir() + "/p":      {"dev", "true", "main", "true"},
		s.Dir() + "/q/main": {"disk", "false", "status.json", "false"},
	} {
		if diff := cmp.Diff(want, list(t, dir)); diff != "" {
			t.Errorf("list %s (-want +got):\n%s", dir, diff)
		}
	}
	for path, want := range map[string][]string{
		"p/dev/disk":         {"ok", "mode 100600 size 1048576 blksize 4096"},
		"p/dev/status.json":  {"ok", "mode 100444 size 18 blksize 4096"},
		"p/dev":              {"ok", "mode 40555 size 0 blksize 4096"},
		"p/dev/nothing":      {"ENOENT", "EBADF"},
		"p/none/disk":        {"ENOENT", "EBADF"},
		"none/main/disk":     {"ENOENT", "EBADF"},
		"p/dev/disk/deeper":  {"ENOTDIR", "EBADF"},
		"../mnt/p/dev/disk/": {"ENOTDIR", "EBADF"},
	} {
		if diff := cmp.Diff(want, branchfstest.Script(t, s.Dir()+"/"+path, "open rd", "fstat")); diff != "" {
			t.Errorf("%s (-want +got):\n%s", path, diff)
		}
	}
}

func TestTreeFollowsTheSourceAtOnce(t *testing.T) {
	s, src, _ := one(t)
	dev := memdev.New(1<<20, memdev.Options{})
	path := s.DiskPath("p", "new")
	for _, step := range []struct {
		name string
		do   func()
		want string
	}{
		{"before", func() {}, "ENOENT"},
		{"created", func() { src.Add("p", "new", dev) }, "ok"},
		{"removed", func() { src.Remove("p", "new") }, "ENOENT"},
		{"created again", func() { src.Add("p", "new", dev) }, "ok"},
	} {
		step.do()
		if got := branchfstest.Script(t, path, "open rd"); got[0] != step.want {
			t.Fatalf("%s: open answered %s, want %s", step.name, got[0], step.want)
		}
	}
}

// finder is a source that must not be asked for all projects by a path walk.
type finder struct {
	*branchfstest.Source
	t *testing.T
}

func (f finder) Project(ctx context.Context, project string) error {
	if project != "p" {
		return fs.ErrNotExist
	}
	return nil
}

func (f finder) Projects(ctx context.Context) ([]string, error) {
	f.t.Error("a path walk listed all projects")
	return nil, nil
}

func TestPathWalkAsksForOneProject(t *testing.T) {
	src := branchfstest.NewSource()
	src.Add("p", "main", memdev.New(1<<20, memdev.Options{}))
	s := serve(t, finder{src, t})
	if got := branchfstest.Script(t, s.DiskPath("p", "main"), "open rd"); got[0] != "ok" {
		t.Errorf("open answered %s", got[0])
	}
	if got := branchfstest.Script(t, s.DiskPath("q", "main"), "open rd"); got[0] != "ENOENT" {
		t.Errorf("open in a missing project answered %s, want ENOENT", got[0])
	}
}

func TestStatusFile(t *testing.T) {
	s, _, _ := one(t)
	path := s.Dir() + "/p/main/status.json"
	got := branchfstest.Script(t, path, "open rd", "fsync", "pread 0 3", "pread 100 5", "open rdwr")
	if diff := cmp.Diff([]string{"ok", "ok", "1*x7b 1*x22 1*x69", "nothing", "EACCES"}, got); diff != "" {
		t.Fatalf("(-want +got):\n%s", diff)
	}
}

func TestGrownDeviceShowsItsSize(t *testing.T) {
	s, src, dev := one(t)
	stop := child(t, "hold", s.DiskPath("p", "main"))
	dev.Grow(2 * deviceSize)
	got := branchfstest.Script(t, s.DiskPath("p", "main"), "open rdwr", "fstat", "pwrite 1073741824 4096 3", "pread 1073741824 4096")
	if diff := cmp.Diff([]string{"ok", "mode 100600 size 2147483648 blksize 4096", "ok", "4096*x03"}, got); diff != "" {
		t.Fatalf("(-want +got):\n%s", diff)
	}
	stop()
	if err := s.WaitReleased(t.Context(), "br-p-main"); err != nil {
		t.Fatal(err)
	}
	if n := src.Open(); n != 0 {
		t.Fatalf("%d devices are open after WaitReleased", n)
	}
}

func TestOneDeviceForAllOpens(t *testing.T) {
	s, src, _ := one(t)
	path := s.DiskPath("p", "main")
	stop1, stop2 := child(t, "hold", path), child(t, "hold", path)
	if n := src.Open(); n != 1 {
		t.Fatalf("two open files have %d devices open, want 1", n)
	}
	stop1()
	branchfstest.Script(t, path, "open rd", "pread 0 4096") // comes and goes
	if n := src.Open(); n != 1 {
		t.Fatalf("with one file still open, %d devices are open, want 1", n)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 1)
	defer cancel()
	if err := s.WaitReleased(ctx, "br-p-main"); err == nil {
		t.Fatal("WaitReleased returned while the file is open")
	}
	ctx, cancel = soon()
	defer cancel()
	requireErrors(t, s.Close(ctx), unix.EBUSY, "still attached")
	stop2()
	if err := src.WaitOpen(ctx, 0); err != nil {
		t.Fatal(err)
	}
}
