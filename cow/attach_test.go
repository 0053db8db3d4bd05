package cow

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/bough-db/bough/objstore/memstore"
	"github.com/bough-db/bough/vfs/memfs"
)

// TestTakeOverNamesTheWriter takes a branch over only from the writer that was meant,
// and lets the loser find out without a write.
func TestTakeOverNamesTheWriter(t *testing.T) {
	objects := memstore.New(memstore.Options{})
	var hosts []*world
	for _, name := range []string{"a", "b"} {
		w := &world{t: t, objects: objects, opts: Options{Host: name, Shared: true}}
		w.mustStart()
		t.Cleanup(w.stop)
		hosts = append(hosts, w)
	}
	a, b, ctx := hosts[0], hosts[1], context.Background()
	_, br, err := a.store.CreateProject(ctx, "p", ProjectOptions{Size: deviceBytes, Durability: DurabilityRemote})
	if err != nil || br.Durability != DurabilityRemote {
		t.Fatalf("project of durability %q: %v", br.Durability, err)
	}
	if _, _, err := a.store.CreateProject(ctx, "q", ProjectOptions{Durability: "twice"}); err == nil {
		t.Error("a project of a durability that there is not")
	}
	first := a.open(br.ID)
	a.write(first, 1, 7)
	var held *AttachedError
	if _, err := b.store.Open(ctx, br.ID); !errors.As(err, &held) || held.Host != "a" || held.Epoch != 1 {
		t.Fatalf("open elsewhere: %v", err)
	}
	a.closeBranch(first)
	second := a.open(br.ID) // it changes hands meanwhile
	gone := OpenOptions{TakeOver: TakeOverStored, Epoch: held.Epoch}
	if _, err := b.store.OpenWith(ctx, br.ID, gone); !errors.As(err, &held) || held.Epoch != 2 {
		t.Fatalf("take over from a writer that is gone: %v", err)
	}
	taken, err := b.store.OpenWith(ctx, br.ID, OpenOptions{TakeOver: TakeOverStored, Epoch: held.Epoch})
	if err != nil {
		t.Fatal(err)
	}
	b.expect(taken, 1, 7)
	select {
	case <-second.Failed():
		t.Error("failed before it looked")
	default:
	}
	if err := second.Recheck(ctx); !errors.Is(err, ErrFenced) {
		t.Errorf("recheck of the loser: %v", err)
	}
	<-second.Failed()
	if err := second.Err(); !errors.Is(err, ErrFenced) {
		t.Errorf("the loser's failure: %v", err)
	}
	if err := taken.Recheck(ctx); err != nil {
		t.Errorf("recheck of the writer: %v", err)
	}
	if err := second.Close(ctx); !errors.Is(err, ErrFenced) {
		t.Errorf("close of the loser: %v", err)
	}
	if seq, when, err := a.store.Stored(ctx, br.ID); err != nil || seq == 0 || when.IsZero() {
		t.Errorf("Stored = %d, %v, %v", seq, when, err)
	}
	// Nothing of a project goes while a host has one of its branches.
	if err := a.store.DeleteProject(ctx, "p"); !errors.As(err, &held) || held.Host != "b" {
		t.Errorf("delete of a project in use elsewhere: %v", err)
	}
	if _, err := a.store.Branch(ctx, "p", MainBranch); err != nil {
		t.Errorf("after that: %v", err)
	}
	b.closeBranch(taken)
	<-taken.Failed()
	if err := a.store.DeleteProject(ctx, "p"); err != nil {
		t.Error(err)
	}
}

// TestSetWriteThrough turns the promise that a write is durable on and off (I1).
func TestSetWriteThrough(t *testing.T) {
	w := newWorld(t, Options{})
	b := w.makeProject("p", deviceBytes)
	barriers := func(what string, write func(), want uint64) {
		t.Helper()
		before := b.Status().Batches
		write()
		if got := b.Status().Batches - before; got != want {
			t.Errorf("%s: %d barriers, want %d", what, got, want)
		}
	}
	set := func(on bool) func() {
		return func() {
			if err := b.SetWriteThrough(on); err != nil || b.WriteThrough() != on {
				t.Errorf("SetWriteThrough(%v): %v", on, err)
			}
		}
	}
	write := func() { w.writeUnflushed(b, 1, 7) }
	barriers("a write", write, 0)
	barriers("turned on", set(true), 1) // what was written before is durable
	barriers("a write, through", write, 1)
	barriers("turned on again", set(true), 0)
	barriers("turned off", set(false), 0)
	barriers("a write, not through", write, 0)
	if mode := b.Status().Mode; mode != "flush" {
		t.Errorf("mode %q", mode)
	}
	w.closeBranch(b)
	if err := b.SetWriteThrough(true); err == nil {
		t.Error("a closed branch promises something")
	}
}

// TestCopiedJournals lets two processes with one host id have the same journals: what
// the copy stores never passes for what the other one has acknowledged (I1, I3).
func TestCopiedJournals(t *testing.T) {
	for _, restarted := range []bool{false, true} {
		disk := memfs.New(memfs.Options{})
		objects := memstore.New(memstore.Options{})
		opts := Options{Host: "a", Shared: true, SealAfter: time.Hour}
		w := &world{t: t, disk: disk, objects: objects, opts: opts}
		w.mustStart()
		b := w.makeProject("p", deviceBytes)
		w.write(b, 1, 7)
		copied := &world{t: t, disk: disk.CrashClone(nil, memfs.Kill), objects: objects, opts: opts}
		w.write(b, 1, 8)
		copied.mustStart() // it stores what the journal had when it was copied
		copied.stop()
		if restarted {
			again := &world{t: t, disk: disk.CrashClone(nil, memfs.Kill), objects: objects, opts: opts}
			again.mustStart()
			if _, err := again.store.Open(t.Context(), b.ID()); !errors.Is(err, ErrCorrupt) || !strings.Contains(err.Error(), "copied") {
				t.Errorf("open after a crash: %v", err)
			}
			again.stop()
		}
		if _, err := b.Publish(t.Context()); !errors.Is(err, ErrFenced) || !strings.Contains(err.Error(), "copied") {
			t.Errorf("publish: %v", err)
		}
		_ = w.shut() // the branch has failed
	}
}
