package blockdev_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/bough-db/bough/blockdev"
	"github.com/bough-db/bough/blockdev/memdev"
	"github.com/bough-db/bough/branchfs/branchfstest"
)

func TestFilesSurviveDetach(t *testing.T) {
	r := start(t)
	o := r.branch("main", fresh())
	o.Format = true
	a := r.attach(t, o)
	if got := sysfs(t, a.Number, "queue/logical_block_size") + sysfs(t, a.Number, "loop/dio"); got != "40961" {
		t.Errorf("sector size and direct I/O are %q, want 4096 and 1", got)
	}
	branchfstest.Run(t, "files", o.Dir, "write")
	r.detach(t, o.ID)
	if err := r.fs.WaitReleased(t.Context(), o.ID); err != nil {
		t.Fatal(err)
	}
	if n := r.src.Open(); n != 0 {
		t.Fatalf("%d devices are open after detach", n)
	}
	tool(t, "e2fsck", "-fn", o.File)
	o.Format = false
	r.attach(t, o)
	branchfstest.Run(t, "files", o.Dir, "check")
	r.detach(t, o.ID)
}

func TestFioVerify(t *testing.T) {
	r := start(t)
	o := r.branch("main", fresh())
	o.Format = true
	r.attach(t, o)
	defer r.detach(t, o.ID)
	tool(t, "fio", "--name=v", "--verify_state_save=0", "--directory="+o.Dir, "--rw=randrw", "--bsrange=512-128k", "--size=48m", "--ioengine=libaio",
		"--iodepth=32", "--direct=0", "--verify=crc32c", "--verify_fatal=1", "--fsync=50", "--end_fsync=1")
	tool(t, "fio", "--name=d", "--verify_state_save=0", "--directory="+o.Dir, "--rw=randwrite", "--bs=4k", "--size=32m", "--ioengine=libaio",
		"--iodepth=64", "--direct=1", "--verify=crc32c", "--verify_fatal=1")
}

// TestSyncReachesFlush shows that each fdatasync of an overwrite is one write and one
// flush on a device with a cache, and no flush at all on one without.
func TestSyncReachesFlush(t *testing.T) {
	for _, through := range []bool{false, true} {
		t.Run(fmt.Sprint("through=", through), func(t *testing.T) {
			r := start(t)
			dev := memdev.New(deviceSize, memdev.Options{WriteThrough: through})
			o := r.branch("main", dev)
			o.Format, o.WriteThrough = true, through
			a := r.attach(t, o)
			if a.WriteThrough != through {
				t.Fatalf("attached with write-through %v", a.WriteThrough)
			}
			defer r.detach(t, o.ID)
			branchfstest.Run(t, "files", o.Dir, "sync", "8") // allocates
			before := dev.Stats()
			const syncs = 50
			branchfstest.Run(t, "files", o.Dir, "sync", fmt.Sprint(syncs))
			after := dev.Stats()
			writes := after.Calls[memdev.Write] - before.Calls[memdev.Write]
			flushes := after.Calls[memdev.Flush] - before.Calls[memdev.Flush]
			// The journal's own commits, every 5 s, may come on top.
			if writes < syncs || writes > syncs+25 {
				t.Errorf("%d fdatasyncs made %d writes", syncs, writes)
			}
			if want := int64(syncs); !through && (flushes < want || flushes > want+25) {
				t.Errorf("%d fdatasyncs made %d flushes", syncs, flushes)
			}
			if through && flushes != 0 {
				t.Errorf("a write-through device was flushed %d times", flushes)
			}
		})
	}
}

// TestDurableAfterPowerCut cuts the power after files were synced, without unmounting.
func TestDurableAfterPowerCut(t *testing.T) {
	r := start(t)
	dev := memdev.New(deviceSize, memdev.Options{TrackDurable: true})
	o := r.branch("main", dev)
	o.Format = true
	r.attach(t, o)
	branchfstest.Run(t, "files", o.Dir, "write")
	after := r.branch("after", dev.PowerCut())
	r.attach(t, after)
	branchfstest.Run(t, "files", after.Dir, "check")
	r.detach(t, after.ID)
	tool(t, "e2fsck", "-fn", after.File)
	r.detach(t, o.ID)
}

// TestReadOnlyReplaysTheJournal mounts what a power cut left for programs that may only
// read: they find all that was synced.
func TestReadOnlyReplaysTheJournal(t *testing.T) {
	r := start(t)
	dev := memdev.New(deviceSize, memdev.Options{TrackDurable: true})
	o := r.branch("main", dev)
	o.Format = true
	r.attach(t, o)
	branchfstest.Run(t, "files", o.Dir, "write")
	past := r.branch("past", dev.PowerCut())
	past.ReadOnly = true
	if a := r.attach(t, past); !a.ReadOnly {
		t.Error("the attachment does not say that it is read-only")
	}
	branchfstest.Run(t, "files", past.Dir, "check")
	if err := os.WriteFile(filepath.Join(past.Dir, "new"), nil, 0o600); !errors.Is(err, unix.EROFS) {
		t.Errorf("writing says %v, want %v", err, unix.EROFS)
	}
	past.ReadOnly = false
	if _, err := r.volumes.Attach(t.Context(), past); !errors.Is(err, blockdev.ErrAttached) {
		t.Errorf("attaching it to write says %v, want %v", err, blockdev.ErrAttached)
	}
	r.detach(t, past.ID)
	r.detach(t, o.ID)
}

func TestRangesArriveWhole(t *testing.T) {
	r := start(t)
	dev := fresh()
	o := r.branch("main", dev)
	o.Dir = "" // a bare device
	a := r.attach(t, o)
	defer r.detach(t, o.ID)
	var mu sync.Mutex
	var calls []string
	dev.SetHook(func(_ context.Context, c memdev.Call) error {
		if c.Kind != memdev.Read {
			mu.Lock()
			defer mu.Unlock()
			calls = append(calls, fmt.Sprintf("%v %d+%d", c.Kind, c.Off, c.Len))
		}
		return nil
	})
	answers := branchfstest.Script(t, a.Device, "open direct", "pwrite 1048576 8192 7", "discard 1048576 1073741824",
		"zeroout 2147483648 536870912", "pread 1048576 8192", "fsync")
	if diff := cmp.Diff([]string{"ok", "ok", "ok", "ok", "8192*x00", "ok"}, answers); diff != "" {
		t.Errorf("answers (-want +got):\n%s", diff)
	}
	mu.Lock()
	defer mu.Unlock()
	want := []string{"write 1048576+8192", "trim 1048576+1073741824", "zero 2147483648+536870912", "flush 0+0"}
	if diff := cmp.Diff(want, calls); diff != "" {
		t.Errorf("device calls (-want +got):\n%s", diff)
	}
}

func TestTrimDiscardsFreeSpace(t *testing.T) {
	r := start(t)
	dev := fresh()
	o := r.branch("main", dev)
	o.Format = true
	r.attach(t, o)
	defer r.detach(t, o.ID)
	branchfstest.Run(t, "files", o.Dir, "write")
	held := dev.Stats().Blocks
	for i := range 20 {
		if err := os.Remove(filepath.Join(o.Dir, fmt.Sprint("file", i))); err != nil {
			t.Fatal(err)
		}
	}
	branchfstest.Run(t, "files", o.Dir, "sync", "1") // commits the removals
	if err := r.volumes.Trim(t.Context(), o.ID); err != nil {
		t.Fatal(err)
	}
	if s := dev.Stats(); s.Blocks > held/2 {
		t.Fatalf("%d of %d blocks are still held after trim: %v", s.Blocks, held, s)
	}
}

func TestGrowWhileMounted(t *testing.T) {
	if has, err := capable(unix.CAP_SYS_RESOURCE); err != nil || !has {
		t.Skipf("needs CAP_SYS_RESOURCE, without which ext4 does not grow while mounted: %v", err)
	}
	r := start(t)
	dev := fresh()
	o := r.branch("main", dev)
	o.Format = true
	a := r.attach(t, o)
	branchfstest.Run(t, "files", o.Dir, "write")
	dev.Grow(4 * deviceSize)
	if err := r.volumes.Grow(t.Context(), o.ID); err != nil {
		t.Fatal(err)
	}
	var st unix.Statfs_t
	if err := unix.Statfs(o.Dir, &st); err != nil {
		t.Fatal(err)
	}
	if got := int64(st.Blocks) * st.Bsize; got < 4*deviceSize*9/10 {
		t.Errorf("the grown file system has %d bytes, %s sectors of the device; want nearly %d", got, sysfs(t, a.Number, "size"), 4*deviceSize)
	}
	branchfstest.Run(t, "files", o.Dir, "check")
	r.detach(t, o.ID)
	tool(t, "e2fsck", "-fn", o.File)
}

// TestInFlightThroughLoop shows that calls on one device run together when they come
// through the loop driver: each waits until want have begun.
func TestInFlightThroughLoop(t *testing.T) {
	const want = 32
	for kind, letter := range map[memdev.Kind]string{memdev.Read: "r", memdev.Write: "w"} {
		t.Run(kind.String(), func(t *testing.T) {
			r := start(t)
			dev := fresh()
			o := r.branch("main", dev)
			o.Dir = ""
			a := r.attach(t, o)
			defer r.detach(t, o.ID)
			var begun atomic.Int32
			all := make(chan struct{})
			patience := time.AfterFunc(15*time.Second, func() { close(all) })
			dev.SetHook(func(_ context.Context, c memdev.Call) error {
				if c.Kind != kind {
					return nil
				}
				if begun.Add(1) == want && patience.Stop() {
					close(all)
				}
				<-all
				return nil
			})
			branchfstest.Parallel(t, a.Device, letter, want)
			dev.SetHook(nil)
			if peak := dev.Stats().InFlight[kind]; peak < want {
				t.Fatalf("%d calls were in flight, want %d", peak, want)
			}
		})
	}
}

// TestErrorsThroughLoop fixes what becomes of errors on the way through loop.
func TestErrorsThroughLoop(t *testing.T) {
	r := start(t)
	dev := fresh()
	o := r.branch("main", dev)
	o.Dir = ""
	a := r.attach(t, o)
	defer r.detach(t, o.ID)
	for _, tc := range []struct {
		err  error
		want string // of reads and writes
	}{{errors.New("broken"), "EIO"}, {unix.ENOSPC, "ENOSPC or EIO"}} {
		dev.SetHook(func(_ context.Context, c memdev.Call) error { return tc.err })
		got := branchfstest.Script(t, a.Device, "open direct", "pread 0 4096", "pwrite 0 4096 1", "fsync")
		if !strings.Contains(tc.want, got[1]) || !strings.Contains(tc.want, got[2]) || got[3] != "EIO" {
			t.Errorf("a device that answers %v: got %q, want %s, and EIO for the flush", tc.err, got, tc.want)
		}
	}
	dev.SetHook(nil)
}

// TestAttachRecord reads what programs may rely on.
func TestAttachRecord(t *testing.T) {
	r := start(t)
	o := r.branch("main", fresh())
	o.Format = true
	a := r.attach(t, o)
	path := filepath.Join(r.state, "run", o.ID, "attach.json")
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var got blockdev.Attachment
	if err := json.Unmarshal(text, &got); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(a, got); diff != "" {
		t.Errorf("record (-returned +read):\n%s", diff)
	}
	if a.Device != fmt.Sprintf("/dev/loop%d", a.Number) || !strings.HasPrefix(a.File, r.state) {
		t.Errorf("odd attachment %+v", a)
	}
	r.detach(t, o.ID)
	if left, _ := filepath.Glob(filepath.Join(r.state, "run", "*", "*")); len(left) > 0 {
		t.Errorf("files left after detach: %q", left)
	}
}

// capable reports whether this process has a capability.
func capable(c int) (bool, error) {
	hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var sets [2]unix.CapUserData
	err := unix.Capget(&hdr, &sets[0])
	return sets[c/32].Effective&(1<<(c%32)) != 0, err
}
