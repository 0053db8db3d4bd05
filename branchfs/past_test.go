package branchfs_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/bough-db/bough/blockdev/memdev"
	"github.com/bough-db/bough/branchfs/branchfstest"
)

// TestPast looks a branch's moments up, by point and by snapshot: they are read-only, and
// not the branch.
func TestPast(t *testing.T) {
	s, src, dev := one(t)
	old := memdev.New(deviceSize, memdev.Options{})
	for d, fill := range map[*memdev.Device]byte{dev: 1, old: 2} {
		block := make([]byte, 4096)
		block[0] = fill
		if err := d.WriteAt(t.Context(), block, 0); err != nil {
			t.Fatal(err)
		}
	}
	src.AddMoment("p", "main", "seq:42", old)
	src.AddMoment("p", "main", "good", old)
	main := s.Dir() + "/p/main"
	for dir, want := range map[string][]string{
		main:                     {"at", "true", "disk", "false", "snapshots", "true", "status.json", "false"},
		main + "/at":             nil,
		main + "/at/seq:42":      {"disk", "false", "status.json", "false"},
		main + "/snapshots":      {"good", "true", "seq:42", "true"},
		main + "/snapshots/good": {"disk", "false", "status.json", "false"},
	} {
		if diff := cmp.Diff(want, list(t, dir)); diff != "" && len(want)+len(list(t, dir)) > 0 {
			t.Errorf("list %s (-want +got):\n%s", dir, diff)
		}
	}
	for path, want := range map[string][]string{
		"/disk":                       {"ok", "mode 100600 size 1073741824 blksize 4096", "1*x01 7*x00", "ok"},
		"/at/seq:42/disk":             {"ok", "mode 100400 size 1073741824 blksize 4096", "1*x02 7*x00", "ok"},
		"/at/seq:42/status.json":      {"ok", "mode 100444 size 26 blksize 4096", "1*x7b 1*x22 1*x69 1*x64 1*x22 1*x3a 1*x22 1*x62", "ok"},
		"/snapshots/good/disk":        {"ok", "mode 100400 size 1073741824 blksize 4096", "1*x02 7*x00", "ok"},
		"/at/seq:43/disk":             {"ENOENT", "EBADF", "EBADF", "EBADF"},
		"/at/.hidden/disk":            {"ENOENT", "EBADF", "EBADF", "EBADF"},
		"/at/disk":                    {"ENOENT", "EBADF", "EBADF", "EBADF"},
		"/snapshots/none/disk":        {"ENOENT", "EBADF", "EBADF", "EBADF"},
		"/at/seq:42/at/seq:42/disk":   {"ENOENT", "EBADF", "EBADF", "EBADF"},
		"/at/seq:42/snapshots/x/disk": {"ENOENT", "EBADF", "EBADF", "EBADF"},
	} {
		if diff := cmp.Diff(want, branchfstest.Script(t, main+path, "open rd", "fstat", "pread 0 8", "fsync")); diff != "" {
			t.Errorf("%s (-want +got):\n%s", path, diff)
		}
	}
	for _, path := range []string{"/at/seq:42/disk", "/snapshots/good/disk"} {
		if diff := cmp.Diff([]string{"EROFS"}, branchfstest.Script(t, main+path, "open rdwr")); diff != "" {
			t.Errorf("open %s to write (-want +got):\n%s", path, diff)
		}
	}
	if st := old.Stats(); st.Calls[memdev.Flush] != 0 {
		t.Errorf("a moment was flushed %d times", st.Calls[memdev.Flush])
	}
	ctx, cancel := soon()
	defer cancel()
	if err := src.WaitOpen(ctx, 0); err != nil {
		t.Error(err)
	}
}

// TestNoPastWithoutMoments has neither directory on a branch whose past is not known.
func TestNoPastWithoutMoments(t *testing.T) {
	s, _, _ := one(t)
	for _, dir := range []string{"at", "snapshots"} {
		if got := branchfstest.Script(t, s.Dir()+"/p/main/"+dir, "open rd"); got[0] != "ENOENT" {
			t.Errorf("open %s answered %s, want ENOENT", dir, got[0])
		}
	}
}
