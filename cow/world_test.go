package cow

import (
	"context"
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"math/rand/v2"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/bough-db/bough/objstore"
	"github.com/bough-db/bough/objstore/dirstore"
	"github.com/bough-db/bough/objstore/memstore"
	"github.com/bough-db/bough/vfs"
	"github.com/bough-db/bough/vfs/memfs"
	"github.com/bough-db/bough/wal"
)

var (
	seedFlag   = flag.Uint64("seed", 0, "seed of the random tests; 0 draws one")
	opsFlag    = flag.Int("ops", 0, "operations of one run of a random test; 0 is the test's own number")
	updateFlag = flag.Bool("update", false, "rewrite the golden files in testdata")
	seedsFlag  = flag.Int("seeds", 1, "how many seeds the random tests run, one after the other")
)

// soakName is what the soak adds to a test's name.
var soakName = regexp.MustCompile(`^TestSoakModels/|#\d+`)

// forSeeds runs f once for each seed, with a source of random numbers and a
// number of operations (a quarter with -short), and says how to repeat it.
func forSeeds(t *testing.T, ops int, f func(t *testing.T, rng *rand.Rand, ops int)) {
	t.Helper()
	switch {
	case *opsFlag > 0:
		ops = *opsFlag
	case testing.Short(): // the race detector makes each ten times as long
		ops = (ops + 9) / 10
	}
	for i := range *seedsFlag {
		seed := *seedFlag + uint64(i)
		if *seedFlag == 0 {
			seed = rand.Uint64()
		}
		name := soakName.ReplaceAllString(t.Name(), "")
		t.Logf("repeat with: go test ./cow -run '^%s$' -seed %d -ops %d", name, seed, ops)
		f(t, rand.New(rand.NewPCG(seed, 1)), ops)
		if t.Failed() {
			return
		}
	}
}

var quiet = slog.New(slog.DiscardHandler)

// journalBytes is the smallest journal file that takes every batch.
const journalBytes = (batchSlotsSpan + 1) * BlockSize

// world is a store under test with everything that it stands on. Fields that are
// nil get a value from start.
type world struct {
	t       testing.TB
	disk    vfs.FS         // of the journals. Default: memfs.
	objects objstore.Store // Default: memstore.
	opts    Options
	pool    *wal.Pool
	budget  int64 // of journals. Default: 16 files.
	store   *Store
	dir     *dirstore.Store // objects, if it is one that start opened
	onDisk  bool            // let start open a dirstore on disk
}

// newWorld starts a store in memory and stops it at the end of the test.
func newWorld(t testing.TB, opts Options) *world {
	t.Helper()
	w := &world{t: t, opts: opts}
	w.mustStart()
	t.Cleanup(w.stop)
	return w
}

func (w *world) mustStart() {
	w.t.Helper()
	if err := w.start(); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) start() (err error) {
	if w.disk == nil {
		w.disk = memfs.New(memfs.Options{})
	}
	if w.onDisk {
		if w.dir, err = dirstore.Open("/store", dirstore.Options{Exclusive: true, FS: w.disk, Logger: quiet}); err != nil {
			return err
		}
		w.objects = w.dir
	}
	if w.objects == nil {
		w.objects = memstore.New(memstore.Options{})
	}
	if w.budget == 0 {
		w.budget = 16 * journalBytes
	}
	w.pool, err = wal.OpenPool(w.disk, "/journal", wal.PoolOptions{
		FileBytes: journalBytes, Spare: 1, MaxBytes: w.budget, Logger: quiet, Rand: w.opts.Random,
	})
	if err == nil {
		opts := w.opts
		opts.Objects, opts.Journals = w.objects, w.pool
		if opts.Logger == nil {
			opts.Logger = quiet
		}
		w.store, err = OpenStore(context.Background(), opts)
	}
	if err != nil {
		return errors.Join(err, w.shut())
	}
	return nil
}

// shut closes what start has opened.
func (w *world) shut() error {
	return w.shutWithin(context.Background())
}

func (w *world) shutWithin(ctx context.Context) error {
	var errs []error
	if w.store != nil {
		errs = append(errs, w.store.Close(ctx))
		w.store = nil
	}
	if w.pool != nil {
		errs = append(errs, w.pool.Close())
		w.pool = nil
	}
	if w.dir != nil {
		errs = append(errs, w.dir.Close())
		w.dir = nil
	}
	return errors.Join(errs...)
}

func (w *world) stop() {
	w.t.Helper()
	if err := w.shut(); err != nil {
		w.t.Error(err)
	}
}

// restart stops the store and starts it again.
func (w *world) restart() {
	w.t.Helper()
	w.stop()
	w.mustStart()
}

// checkWhole fails the test unless a deep check finds nothing.
func (w *world) checkWhole() {
	w.t.Helper()
	if err := w.whole(); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) whole() error {
	rep, err := w.store.Check(context.Background(), CheckOptions{Deep: true})
	if err != nil {
		return err
	}
	if !rep.Whole() {
		err := fmt.Errorf("check found damage, %d more not listed", rep.Omitted)
		for _, d := range rep.Damage {
			err = fmt.Errorf("%w\n%v", err, d)
		}
		return err
	}
	return nil
}

// lostJournals returns the names of the journal files that were set aside.
func (w *world) lostJournals() (names []string) {
	w.t.Helper()
	list, err := w.disk.ReadDir("/journal")
	if err != nil {
		w.t.Fatal(err)
	}
	for _, d := range list {
		if strings.HasPrefix(d.Name(), "lost-") {
			names = append(names, d.Name())
		}
	}
	return names
}

// makeProject makes a project with a device of the size and opens its main branch.
func (w *world) makeProject(name string, size int64) *Branch {
	w.t.Helper()
	_, b, err := w.store.CreateProject(context.Background(), name, ProjectOptions{Size: size})
	if err != nil {
		w.t.Fatal(err)
	}
	return w.open(b.ID)
}

func (w *world) open(id BranchID) *Branch {
	w.t.Helper()
	b, err := w.store.Open(context.Background(), id)
	if err != nil {
		w.t.Fatal(err)
	}
	return b
}

// child makes a branch of parent and opens it.
func (w *world) child(project, name string, parent *Branch) *Branch {
	w.t.Helper()
	info, err := w.store.CreateBranch(context.Background(), project, name, BranchOptions{From: parent.ID()})
	if err != nil {
		w.t.Fatal(err)
	}
	return w.open(info.ID)
}

func (w *world) closeBranch(b *Branch) {
	w.t.Helper()
	if err := b.Close(context.Background()); err != nil {
		w.t.Fatal(err)
	}
}

// write writes and flushes one stamped block.
func (w *world) write(b *Branch, block uint64, stamp uint64) {
	w.t.Helper()
	w.writeUnflushed(b, block, stamp)
	if err := b.Flush(context.Background()); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) writeUnflushed(b *Branch, block uint64, stamp uint64) {
	w.t.Helper()
	if err := b.WriteAt(context.Background(), stamped(stamp, BlockSize), int64(block)*BlockSize); err != nil {
		w.t.Fatal(err)
	}
}

// expect reads a block and compares it with the stamp; 0 stands for zeros.
func (w *world) expect(b *Branch, block uint64, stamp uint64) {
	w.t.Helper()
	p := make([]byte, BlockSize)
	if err := b.ReadAt(context.Background(), p, int64(block)*BlockSize); err != nil {
		w.t.Fatalf("read block %d: %v", block, err)
	}
	if got, err := stampOf(p); err != nil || got != stamp {
		w.t.Fatalf("block %d has stamp %#x (%v), want %#x", block, got, err, stamp)
	}
}

const sectorBytes = 512

// scramble makes the words of a sector differ, so that a shifted one shows.
func scramble(stamp uint64, i int) uint64 {
	return stamp ^ uint64(i%sectorBytes)*0x9e3779b97f4a7c15
}

// stamped returns n bytes, a multiple of 8, all made from the stamp. 0 gives zeros.
func stamped(stamp uint64, n int) []byte {
	p := make([]byte, n)
	if stamp != 0 {
		for i := 0; i < n; i += 8 {
			binary.LittleEndian.PutUint64(p[i:], scramble(stamp, i))
		}
	}
	return p
}

// stampOf returns the stamp of bytes made by stamped. A mixture is an error.
func stampOf(p []byte) (uint64, error) {
	stamp := binary.LittleEndian.Uint64(p)
	for i := 0; i < len(p); i += 8 {
		want := scramble(stamp, i)
		if stamp == 0 {
			want = 0
		}
		if v := binary.LittleEndian.Uint64(p[i:]); v != want {
			return 0, fmt.Errorf("a mixture: word %d is %#x, word 0 is %#x", i/8, v, stamp)
		}
	}
	return stamp, nil
}

// wait lets time pass: for a bubble of package synctest.
func wait(d time.Duration) { <-time.After(d) }

// rooted is a file system whose names begin at a directory of another.
type rooted struct {
	vfs.FS
	dir string
}

func (r rooted) OpenFile(name string, flag int, perm fs.FileMode) (vfs.File, error) {
	return r.FS.OpenFile(r.dir+name, flag, perm)
}
func (r rooted) Rename(a, b string) error                     { return r.FS.Rename(r.dir+a, r.dir+b) }
func (r rooted) Link(a, b string) error                       { return r.FS.Link(r.dir+a, r.dir+b) }
func (r rooted) Remove(name string) error                     { return r.FS.Remove(r.dir + name) }
func (r rooted) MkdirAll(name string, perm fs.FileMode) error { return r.FS.MkdirAll(r.dir+name, perm) }
func (r rooted) ReadDir(name string) ([]fs.DirEntry, error)   { return r.FS.ReadDir(r.dir + name) }
func (r rooted) Stat(name string) (fs.FileInfo, error)        { return r.FS.Stat(r.dir + name) }
func (r rooted) SyncDir(name string) error                    { return r.FS.SyncDir(r.dir + name) }
func (r rooted) Lock(name string) (io.Closer, error)          { return r.FS.Lock(r.dir + name) }
