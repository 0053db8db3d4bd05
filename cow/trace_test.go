package cow

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"math/rand/v2"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/bough-db/bough/objstore"
	"github.com/bough-db/bough/objstore/faultstore"
	"github.com/bough-db/bough/objstore/memstore"
	"github.com/bough-db/bough/vfs/faultfs"
	"github.com/bough-db/bough/vfs/memfs"
)

// The golden traces have every call of the object store and every change of a
// journal, in order. A sync or a condition that goes missing shows as a difference.
// Run with -update to write them anew. How journal files are made and named is not
// in them, but in those of package wal.

// tracer collects the lines of one trace.
type tracer struct {
	mu       sync.Mutex
	lines    []string
	names    map[string]string // branch ids by what they are called in the trace
	making   string            // the journal file that is being filled with zeros
	journals map[string]int    // files in use, numbered in the order of their use
	used     int
	stored   int // segments put
	// freed has the journals given back in this part: by another goroutine, so
	// their place among the other lines is not defined.
	freed []string
	muted bool
}

func (tr *tracer) mute(on bool) {
	synctest.Wait()
	tr.mu.Lock()
	defer tr.mu.Unlock()
	tr.muted = on
}

// disk adds what an operation of the journal disk does to a journal in use.
func (tr *tracer) disk(o faultfs.Op) {
	tr.mu.Lock()
	switch {
	case o.Kind == faultfs.Create:
		tr.making = o.Path
	case o.Path == tr.making:
		if o.Kind == faultfs.Sync {
			tr.making = ""
		}
	case o.Kind == faultfs.Write && o.Off == 0 && o.Len == BlockSize:
		tr.freed = append(tr.freed, fmt.Sprintf("  journal %d: marked free, durable; %d segments are stored", tr.journals[o.Path], tr.stored))
		delete(tr.journals, o.Path)
	case o.Kind == faultfs.Write || o.Kind == faultfs.Sync && tr.journals[o.Path] > 0:
		if tr.journals[o.Path] == 0 {
			tr.used++
			tr.journals[o.Path] = tr.used
		}
		line := fmt.Sprintf("  journal %d: %s", tr.journals[o.Path], strings.Replace(o.String(), " "+o.Path, "", 1))
		tr.mu.Unlock()
		tr.add(line)
		return
	}
	tr.mu.Unlock()
}

var idPattern = regexp.MustCompile(`br-[a-z]+-[a-z]+-[a-z0-9]{8}`)

func (tr *tracer) add(line string) {
	tr.mu.Lock()
	defer tr.mu.Unlock()
	if tr.muted {
		return
	}
	line = idPattern.ReplaceAllStringFunc(line, func(id string) string {
		if tr.names[id] == "" {
			tr.names[id] = fmt.Sprintf("<%c>", 'a'+len(tr.names))
		}
		return tr.names[id]
	})
	tr.lines = append(tr.lines, line)
}

// say starts a part of the trace, after everything before it has come to rest.
func (tr *tracer) say(what string) {
	synctest.Wait()
	tr.mu.Lock()
	tr.lines = append(tr.lines, tr.freed...)
	tr.freed = nil
	tr.mu.Unlock()
	tr.add("# " + what)
}

// tracedStore adds a line for each call, without sizes, which change with the
// compressor. Calls take some virtual time each, so that those made at the same
// time always end in the same order.
type tracedStore struct {
	*faultstore.Store
	tr *tracer
}

// The virtual time of a call: of those that begin together, reads end first.
const (
	tracedRead = 20 * time.Millisecond
	tracedPut  = 35 * time.Millisecond
)

func (s tracedStore) take(d time.Duration, key string) {
	wait(d + time.Duration(crc32.ChecksumIEEE([]byte(key))%1000)*time.Microsecond)
}

func (s tracedStore) Get(ctx context.Context, key string) ([]byte, objstore.Info, error) {
	s.take(tracedRead, key)
	p, i, err := s.Store.Get(ctx, key)
	s.tr.add("  store: get " + key + outcome(err))
	return p, i, err
}

func (s tracedStore) ReadAt(ctx context.Context, key string, p []byte, off int64) (int, objstore.Info, error) {
	s.take(tracedRead, key)
	n, i, err := s.Store.ReadAt(ctx, key, p, off)
	what := " part"
	if off < 0 {
		what = " tail"
	}
	s.tr.add("  store: read " + key + what + outcome(err))
	return n, i, err
}

func (s tracedStore) Put(ctx context.Context, key string, data []byte, cond objstore.Condition) (string, error) {
	s.take(tracedPut, key)
	tag, err := s.Store.Put(ctx, key, data, cond)
	what := ""
	if cond.IfAbsent {
		what = " if-absent"
	}
	if cond.IfMatch != "" {
		what += " if-match"
	}
	if strings.Contains(key, "/seg/") {
		s.tr.mu.Lock()
		s.tr.stored++
		s.tr.mu.Unlock()
	}
	s.tr.add("  store: put " + key + what + outcome(err))
	return tag, err
}

func (s tracedStore) List(ctx context.Context, prefix, after string, limit int) ([]objstore.Info, error) {
	s.take(tracedRead, prefix)
	infos, err := s.Store.List(ctx, prefix, after, limit)
	if after != "" {
		after = " after " + after
	}
	s.tr.add(fmt.Sprintf("  store: list %q%s: %d%s", prefix, after, len(infos), outcome(err)))
	return infos, err
}

func (s tracedStore) Delete(ctx context.Context, key string) error {
	s.take(tracedPut, key)
	err := s.Store.Delete(ctx, key)
	s.tr.add("  store: delete " + key + outcome(err))
	return err
}

func outcome(err error) string {
	switch {
	case err == nil:
		return ""
	case errors.Is(err, objstore.ErrNotExist):
		return ": not there"
	case errors.Is(err, objstore.ErrExists):
		return ": exists"
	}
	return ": error"
}

// counting is a source of numbers that are not random at all.
type counting struct {
	mu sync.Mutex
	n  uint64
}

func (c *counting) Read(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for i := 0; i < len(p); i += 8 {
		c.n++
		var b [8]byte
		binary.LittleEndian.PutUint64(b[:], c.n*0x9e3779b97f4a7c15)
		copy(p[i:], b[:])
	}
	return len(p), nil
}

var _ io.Reader = (*counting)(nil)

// traced runs f on a new store in a bubble and compares the trace with testdata.
func traced(t *testing.T, opts Options, f func(t *testing.T, w *world, mem *memfs.FS, say func(string))) {
	synctest.Test(t, func(t *testing.T) {
		tr := &tracer{names: map[string]string{}, journals: map[string]int{}}
		opts.Random = &counting{}
		mem := memfs.New(memfs.Options{})
		w := &world{
			t: t, disk: tracedDisk(tr, mem), opts: opts,
			objects: tracedStore{faultstore.New(memstore.New(memstore.Options{}), faultstore.Options{}), tr},
		}
		tr.say("open a store that is not there")
		w.mustStart()
		f(t, w, mem, tr.say)
		tr.say("stop")
		w.stop()
		golden(t, filepath.Join("testdata", strings.ToLower(strings.TrimPrefix(t.Name(), "TestTrace"))+".trace"),
			strings.Join(tr.lines, "\n")+"\n")
	})
}

// tracedDisk is a disk whose changes go to the trace.
func tracedDisk(tr *tracer, mem *memfs.FS) *faultfs.FS {
	disk := faultfs.New(mem, "/")
	disk.SetHook(func(o faultfs.Op) error {
		if strings.HasPrefix(o.Path, "journal/") {
			tr.disk(o)
		}
		return nil
	})
	return disk
}

// sealTime is when a journal is sealed in the traces.
const sealTime = time.Second

// TestTraceLife is a branch from its creation to its deletion.
func TestTraceLife(t *testing.T) {
	traced(t, Options{SealAfter: sealTime, CheckpointSegments: 2}, func(t *testing.T, w *world, _ *memfs.FS, say func(string)) {
		ctx := context.Background()
		say("create a project")
		_, info, err := w.store.CreateProject(ctx, "p", ProjectOptions{Size: 1 << 30})
		if err != nil {
			t.Fatal(err)
		}
		say("open its branch")
		b := w.open(info.ID)
		say("write, nothing is durable")
		w.writeUnflushed(b, 1, 1)
		say("flush: one durable write")
		if err := b.Flush(ctx); err != nil {
			t.Fatal(err)
		}
		say("flush again: nothing")
		if err := b.Flush(ctx); err != nil {
			t.Fatal(err)
		}
		say("write and flush: one durable write")
		w.write(b, 2, 2)
		say("trim a gigabyte and flush: one durable write")
		if err := b.Trim(ctx, 0, 1<<30); err != nil {
			t.Fatal(err)
		}
		if err := b.Flush(ctx); err != nil {
			t.Fatal(err)
		}
		say("read from the journal: nothing")
		w.expect(b, 1, 0)
		say("time passes: the journal is sealed and stored, then its file is free")
		wait(2 * sealTime)
		say("write 3 MiB: it spills, unsynced")
		if err := b.WriteAt(ctx, stamped(9, 3<<20), 0); err != nil {
			t.Fatal(err)
		}
		say("flush: the rest, and a sync of all")
		if err := b.Flush(ctx); err != nil {
			t.Fatal(err)
		}
		say("time passes: the segment is stored, and a checkpoint is due")
		wait(2 * sealTime)
		say("read from the store")
		w.expect(b, 5, 9)
		say("read from memory: nothing")
		w.expect(b, 6, 9)
		say("another segment")
		w.write(b, 3, 3)
		wait(2 * sealTime)
		say("time passes: nothing")
		wait(time.Hour)
		say("a fourth segment, and close: checkpoint, then the manifest")
		w.write(b, 4, 4)
		w.closeBranch(b)
		say("open again")
		b = w.open(info.ID)
		say("read: the tree page, the segment's footer, the frame")
		w.expect(b, 4, 4)
		say("close without a change")
		w.closeBranch(b)
		say("delete")
		if err := w.store.DeleteBranch(ctx, "p", MainBranch); err != nil {
			t.Fatal(err)
		}
	})
}

// TestTraceBranch is branching, of an open parent and of a closed one.
func TestTraceBranch(t *testing.T) {
	traced(t, Options{SealAfter: sealTime}, func(t *testing.T, w *world, _ *memfs.FS, say func(string)) {
		ctx := context.Background()
		b := w.makeProject("p", 1<<30)
		w.write(b, 1, 1)
		say("branch of an open parent")
		info, err := w.store.CreateBranch(ctx, "p", "c", BranchOptions{From: b.ID()})
		if err != nil {
			t.Fatal(err)
		}
		say("open it: its tree is in memory")
		c := w.open(info.ID)
		say("read: from the parent's journal")
		w.expect(c, 1, 1)
		say("write and flush on the child")
		w.write(c, 1, 2)
		w.expect(b, 1, 1)
		say("close the parent")
		w.closeBranch(b)
		say("close the child")
		w.closeBranch(c)
		say("branch of a closed parent")
		if info, err = w.store.CreateBranch(ctx, "p", "d", BranchOptions{From: c.ID()}); err != nil {
			t.Fatal(err)
		}
		say("open it: from the parent's checkpoint")
		d := w.open(info.ID)
		say("read: the parent's page and frame")
		w.expect(d, 1, 2)
		w.closeBranch(d)
		say("branch of a branch that has no log: it hangs on that one's fork point")
		if _, err = w.store.CreateBranch(ctx, "p", "e", BranchOptions{From: d.ID()}); err != nil {
			t.Fatal(err)
		}
		say("rename")
		if err := w.store.RenameBranch(ctx, "p", "e", "f"); err != nil {
			t.Fatal(err)
		}
		say("delete a parent with children")
		if err := w.store.DeleteBranch(ctx, "p", "c"); err != nil {
			t.Fatal(err)
		}
	})
}

// TestTracePast is what is done with the past: a branch of it, a snapshot, a look, a
// restoration, a deletion and its end.
func TestTracePast(t *testing.T) {
	traced(t, Options{SealAfter: sealTime}, func(t *testing.T, w *world, _ *memfs.FS, say func(string)) {
		ctx := context.Background()
		b := w.makeProject("p", 1<<30)
		id := b.ID()
		for stamp := range uint64(4) {
			w.write(b, 1, stamp+1)
			wait(2 * sealTime)
		}
		say("branch at a barrier: the footers that lead to it, manifest, a look at the log, name")
		info, err := w.store.CreateBranch(ctx, "p", "c", BranchOptions{From: id, At: at(t, "seq:2")})
		if err != nil {
			t.Fatal(err)
		}
		say("open it: the footers up to the barrier")
		c := w.open(info.ID)
		w.expect(c, 1, 2)
		w.closeBranch(c)
		say("snapshot of the last barrier but one")
		if _, err := w.store.CreateSnapshot(ctx, id, "s", at(t, "seq:3")); err != nil {
			t.Fatal(err)
		}
		say("look at the snapshot")
		v, err := w.store.OpenAt(ctx, id, at(t, "s"))
		if err != nil {
			t.Fatal(err)
		}
		w.expectIn(v, 1, 3)
		v.Close()
		say("the history")
		if page, err := w.store.History(ctx, id, HistoryQuery{Limit: 2}); err != nil || len(page.Barriers) != 2 {
			t.Errorf("%+v, %v", page, err)
		}
		w.closeBranch(b)
		say("restore to the snapshot, and keep the state before: its branch, the next log, then the one replacement")
		if _, err := w.store.RestoreBranch(ctx, id, RestoreOptions{At: at(t, "s"), KeepAs: "k"}); err != nil {
			t.Fatal(err)
		}
		say("open it: it is another log")
		b = w.open(id)
		w.expect(b, 1, 3)
		w.write(b, 1, 9)
		w.closeBranch(b)
		say("restore again: the first log names the newest")
		if _, err := w.store.RestoreBranch(ctx, id, RestoreOptions{At: at(t, "seq:1")}); err != nil {
			t.Fatal(err)
		}
		say("delete")
		if err := w.store.DeleteBranch(ctx, "p", "k"); err != nil {
			t.Fatal(err)
		}
		all, err := w.store.DeletedBranches(ctx, "p")
		if err != nil || len(all) != 1 {
			t.Fatalf("%v, %v", all, err)
		}
		say("bring it back")
		if _, err := w.store.UndeleteBranch(ctx, all[0].ID, ""); err != nil {
			t.Fatal(err)
		}
	})
}

// TestTraceRecovery is a power cut, and what the next life does.
func TestTraceRecovery(t *testing.T) {
	traced(t, Options{SealAfter: time.Hour}, func(t *testing.T, w *world, mem *memfs.FS, say func(string)) {
		b := w.makeProject("p", 1<<30)
		w.write(b, 1, 1)
		say("power cut")
		objects := w.objects.(tracedStore)
		objects.tr.mute(true)
		objects.Add(faultstore.Rule{Verb: faultstore.AnyVerb, Times: -1, Fault: faultstore.ErrorBefore})
		gone, cancel := context.WithCancel(context.Background())
		cancel()
		disk := w.disk.(*faultfs.FS)
		disk.Crash()
		if err := w.shutWithin(gone); err == nil {
			t.Error("a machine that is off shut down without an error")
		}
		objects.Heal()
		objects.tr.mute(false)
		w.disk = tracedDisk(objects.tr, mem.CrashClone(rand.New(rand.NewPCG(1, 1)), memfs.LoseAll))
		say("the next life: the journal becomes the segment that it was going to be")
		w.mustStart()
		say("open: the writer before did not detach")
		b = w.open(b.ID())
		say("read")
		w.expect(b, 1, 1)
		w.closeBranch(b)
	})
}

// TestTraceCollect is a collection, from the claim to the last deletion, and the end of
// a deleted branch.
func TestTraceCollect(t *testing.T) {
	traced(t, Options{SealAfter: sealTime, CheckpointSegments: 2, Retention: &noHistory}, func(t *testing.T, w *world, _ *memfs.FS, say func(string)) {
		ctx := context.Background()
		b := w.makeProject("p", 1<<30)
		for i := range uint64(4) {
			w.writeUnflushed(b, 7, i+1)
			w.write(b, i*600, i+1)
			wait(2 * sealTime)
		}
		c := w.child("p", "c", b)
		w.write(b, 7, 9)
		w.write(c, 8, 8)
		w.closeBranch(b)
		w.closeBranch(c)
		o := CollectOptions{Recent: -1, Grace: time.Minute, Full: true}
		collect := func() {
			if rep, err := w.store.Collect(ctx, o); err != nil || len(rep.Problems) > 0 {
				t.Fatal(rep, err)
			}
		}
		say("collect: all manifests; the log is listed, read and packed; all manifests again; then the pack is in use")
		collect()
		say("read: the segment is there still")
		b = w.open(b.ID())
		w.expect(b, 7, 9)
		w.closeBranch(b)
		say("collect a while later: the pack is read back, then what it stands for is deleted")
		wait(2 * time.Minute)
		collect()
		say("read: the segment has gone, the manifest says where to")
		b = w.open(b.ID())
		w.expect(b, 600, 2)
		w.closeBranch(b)
		say("delete the parent, and collect a week later: its child needs it")
		if err := w.store.DeleteBranch(ctx, "p", MainBranch); err != nil {
			t.Fatal(err)
		}
		wait(7 * 24 * time.Hour)
		collect()
		say("delete the child, and collect a week later: it goes, and what is left of the parent is packed")
		if err := w.store.DeleteBranch(ctx, "p", "c"); err != nil {
			t.Fatal(err)
		}
		wait(7 * 24 * time.Hour)
		collect()
		say("collect: the parent goes")
		collect()
	})
}
