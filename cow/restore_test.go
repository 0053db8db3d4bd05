package cow

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	ask "github.com/bough-db/bough/cow/point"
	"github.com/bough-db/bough/objstore/faultstore"
	"github.com/bough-db/bough/objstore/memstore"
)

// past makes project p with a main branch that has had block 1 at 1, 2 and 3, a barrier
// each, its child c of the second, which then wrote 22, and its snapshot s of the first.
// All are detached.
func past(t *testing.T, w *world) (main, child BranchID) {
	t.Helper()
	ctx := context.Background()
	b := w.makeProject("p", 1<<20)
	w.write(b, 1, 1)
	w.write(b, 1, 2)
	c := w.child("p", "c", b)
	w.write(c, 1, 22)
	w.write(b, 1, 3)
	w.closeBranch(c)
	w.closeBranch(b)
	if _, err := w.store.CreateSnapshot(ctx, b.ID(), "s", at(t, "seq:1")); err != nil {
		t.Fatal(err)
	}
	return b.ID(), c.ID()
}

// wantBlock opens a branch by name and looks at block 1.
func (w *world) wantBlock(name string, stamp uint64) {
	w.t.Helper()
	info, err := w.store.Branch(context.Background(), "p", name)
	if err != nil {
		w.t.Errorf("branch %s: %v", name, err)
		return
	}
	v, err := w.store.OpenAt(context.Background(), info.ID, ask.Point{})
	if err != nil {
		w.t.Errorf("branch %s: %v", name, err)
		return
	}
	defer v.Close()
	w.expectIn(v, 1, stamp)
}

// TestRestore takes branches back, again and again, and sees what stays.
func TestRestore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx := t.Context()
		w := newWorld(t, Options{})
		main, child := past(t, w)
		restore := func(id BranchID, o RestoreOptions) BranchInfo {
			t.Helper()
			info, err := w.store.RestoreBranch(ctx, id, o)
			if err != nil {
				t.Fatal(err)
			}
			if info.ID != id || info.Project != "p" || info.Restored.IsZero() {
				t.Errorf("restored branch: %+v", info)
			}
			return info
		}
		info := restore(main, RestoreOptions{
			At: at(t, "seq:2"), KeepAs: "before",
			Settings: func(json.RawMessage) (json.RawMessage, error) { return json.RawMessage(`{"a":1}`), nil },
		})
		if info.Name != MainBranch || info.RestoredSeq != 2 || info.Seq != 2 || info.ForkSeq != 0 || info.ParentID != "" {
			t.Errorf("main after the restoration: %+v", info)
		}
		w.wantBlock(MainBranch, 2)
		w.wantBlock("before", 3)
		w.wantBlock("c", 22)

		b := w.open(main)
		if b.ID() != main || b.Status().ID != main {
			t.Errorf("the branch has id %s and %s, want %s", b.ID(), b.Status().ID, main)
		}
		w.write(b, 1, 4) // barrier 3 once more, in another log
		w.expect(b, 1, 4)
		grandchild := w.child("p", "g", b)
		w.expect(grandchild, 1, 4)
		w.closeBranch(grandchild)
		w.closeBranch(b)
		w.wantBlock("before", 3)
		page, err := w.store.History(ctx, main, HistoryQuery{})
		if err != nil || !slices.Equal(seqs(page.Barriers), seqs([]Barrier{{Seq: 3}, {Seq: 2}, {Seq: 1}})) {
			t.Errorf("history after a restoration: %v, %v", seqs(page.Barriers), err)
		}

		// Once more, to the state before, then to its snapshot, then to its child's.
		old, err := w.store.Branch(ctx, "p", "before")
		if err != nil {
			t.Fatal(err)
		}
		restore(main, RestoreOptions{From: old.ID})
		w.wantBlock(MainBranch, 3)
		restore(main, RestoreOptions{At: at(t, "s"), KeepAs: "before2"})
		w.wantBlock(MainBranch, 1)
		w.wantBlock("before2", 3)
		restore(main, RestoreOptions{From: child})
		w.wantBlock(MainBranch, 22)
		restore(child, RestoreOptions{From: main, At: at(t, "seq:1")}) // its parent
		if info, err := w.store.BranchByID(ctx, child); err != nil || info.ForkSeq != 1 {
			t.Errorf("child after a reset to its parent: %+v, %v", info, err)
		}
		w.wantBlock("c", 1)
		w.restart()
		w.wantBlock(MainBranch, 22)
		w.wantBlock("c", 1)
		w.wantBlock("g", 4)
		w.wantBlock("before", 3)
		info, err = w.store.Branch(ctx, "p", MainBranch)
		if err != nil || string(info.Settings) == "" || info.ID != main {
			t.Errorf("main in the end: %+v, %v", info, err)
		}
		if m, _, err := w.store.readManifest(ctx, main); err != nil || m.Next != w.store.logOf(main) {
			t.Errorf("the first log names %s, the branch writes %s (%v)", m.Next, w.store.logOf(main), err)
		}

		// A branch that was restored can be written, renamed, deleted and brought back.
		b = w.open(main)
		w.write(b, 1, 5)
		if err := w.store.RenameBranch(ctx, "p", MainBranch, "prod"); err != nil {
			t.Fatal(err)
		}
		if err := w.store.DeleteBranch(ctx, "p", "prod"); !errors.Is(err, ErrInUse) {
			t.Errorf("delete while open: %v", err)
		}
		w.closeBranch(b)
		if err := w.store.DeleteBranch(ctx, "p", "prod"); err != nil {
			t.Fatal(err)
		}
		if _, err := w.store.Open(ctx, main); !errors.Is(err, ErrNotFound) {
			t.Errorf("open a deleted branch: %v", err)
		}
		if _, err := w.store.RestoreBranch(ctx, main, RestoreOptions{}); !errors.Is(err, ErrNotFound) {
			t.Errorf("restore a deleted branch: %v", err)
		}
		if _, err := w.store.UndeleteBranch(ctx, main, ""); err != nil {
			t.Fatal(err)
		}
		w.wantBlock("prod", 5)
		w.checkWhole()
	})
}

// TestRestoreRefused: what keeps a branch from being restored changes nothing.
func TestRestoreRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx := t.Context()
		w := newWorld(t, Options{Host: "a", Shared: true})
		other := &world{t: t, objects: w.objects, opts: Options{Host: "b", Shared: true}}
		other.mustStart()
		defer other.stop()
		main, child := past(t, w)
		refused := func(what string, want error, o RestoreOptions) {
			t.Helper()
			if _, err := w.store.RestoreBranch(ctx, main, o); !errors.Is(err, want) {
				t.Errorf("%s: %v, want %v", what, err, want)
			}
		}
		refused("a point that there is not", ErrNoPoint, RestoreOptions{At: at(t, "seq:99"), KeepAs: "k"})
		refused("a name that there is", ErrExists, RestoreOptions{At: at(t, "seq:1"), KeepAs: "c"})
		refused("a bad name", ErrInvalidName, RestoreOptions{At: at(t, "seq:1"), KeepAs: "K"})
		refused("from nothing", ErrNotFound, RestoreOptions{From: "br-calm-oak-00000000"})
		b := w.open(main)
		refused("open here", ErrInUse, RestoreOptions{At: at(t, "seq:1"), KeepAs: "k"})
		w.closeBranch(b)
		b = other.open(main)
		refused("attached elsewhere", ErrInUse, RestoreOptions{At: at(t, "seq:1"), KeepAs: "k"})
		other.closeBranch(b)
		protect := func(on bool) error {
			return w.store.UpdateBranch(ctx, main, func(i *BranchInfo) error { i.Protected = on; return nil })
		}
		if err := protect(true); err != nil {
			t.Fatal(err)
		}
		refused("protected", ErrProtected, RestoreOptions{At: at(t, "seq:1"), KeepAs: "k"})
		if err := w.store.DeleteBranch(ctx, "p", MainBranch); !errors.Is(err, ErrProtected) {
			t.Errorf("delete a protected branch: %v", err)
		}
		if err := w.store.DeleteProject(ctx, "p"); !errors.Is(err, ErrProtected) {
			t.Errorf("delete the project of a protected branch: %v", err)
		}
		if err := w.store.SetExpiry(ctx, main, time.Now()); !errors.Is(err, ErrProtected) {
			t.Errorf("let a protected branch expire: %v", err)
		}
		if err := protect(false); err != nil {
			t.Fatal(err)
		}
		if _, err := w.store.Branch(ctx, "p", "k"); !errors.Is(err, ErrNotFound) {
			t.Errorf("a branch that keeps the state before: %v", err)
		}
		w.wantBlock(MainBranch, 3)
		if err := w.store.DeleteBranch(ctx, "p", "c"); err != nil {
			t.Fatal(err)
		}
		refused("from a deleted branch", ErrNotFound, RestoreOptions{From: child})

		// What a crash of the last writer left is part of the state before.
		b = w.open(main)
		w.write(b, 1, 7)
		ended, cancel := context.WithCancel(ctx)
		cancel()
		if err := b.Close(ended); err == nil {
			t.Fatal("closed without time to do so")
		}
		if _, err := w.store.RestoreBranch(ctx, main, RestoreOptions{At: at(t, "seq:1"), KeepAs: "k"}); err != nil {
			t.Fatal(err)
		}
		w.wantBlock(MainBranch, 1)
		w.wantBlock("k", 7)

		// The other host finds out, whatever it knew.
		b = other.open(main)
		other.expect(b, 1, 1)
		other.closeBranch(b)
	})
}

// TestRestoreCutShort fails each request of a restoration once, before or after it has
// happened, and with all that follow, as a crash does. The branch is then as it was or
// restored, with the state before under its name at most once, and the same call again
// ends well.
func TestRestoreCutShort(t *testing.T) {
	for _, fault := range []faultstore.Fault{faultstore.ErrorBefore, faultstore.ErrorAfter} {
		for _, crash := range []bool{false, true} {
			for _, times := range []int{1, 2} {
				t.Run(fmt.Sprintf("%v crash=%v restoration=%d", fault, crash, times), func(t *testing.T) {
					for nth, done := 1, false; !done; nth++ {
						done = restoreCutAt(t, fault, crash, times, nth)
						if t.Failed() {
							t.Fatalf("request %d failed", nth)
						}
					}
				})
			}
		}
	}
}

func restoreCutAt(t *testing.T, fault faultstore.Fault, crash bool, times, nth int) (done bool) {
	ctx := context.Background()
	objects := faultstore.New(memstore.New(memstore.Options{}), faultstore.Options{})
	w := &world{t: t, objects: objects}
	w.mustStart()
	defer w.stop()
	main, _ := past(t, w)
	if times == 2 { // its first log names the second, and so on
		if _, err := w.store.RestoreBranch(ctx, main, RestoreOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	o := RestoreOptions{At: at(t, "seq:2"), KeepAs: "k"}
	rule := faultstore.Rule{Verb: faultstore.AnyVerb, Nth: nth, Fault: fault}
	objects.Add(rule)
	if crash {
		rule.Fault, rule.Times = faultstore.ErrorBefore, -1
		objects.Add(rule)
	}
	_, err := w.store.RestoreBranch(ctx, main, o)
	objects.Heal()
	w.restart()
	v, oerr := w.store.OpenAt(ctx, main, ask.Point{})
	if oerr != nil {
		t.Fatal(oerr)
	}
	p := make([]byte, BlockSize)
	if err := v.ReadAt(ctx, p, BlockSize); err != nil {
		t.Fatal(err)
	}
	v.Close()
	got, serr := stampOf(p)
	if serr != nil || got != 2 && (got != 3 || err == nil) {
		t.Fatalf("after %v the branch has %d (%v)", err, got, serr)
	}
	if got == 2 {
		w.wantBlock("k", 3)
	} else if _, err := w.store.RestoreBranch(ctx, main, o); err != nil {
		t.Fatalf("again: %v", err)
	}
	w.wantBlock(MainBranch, 2)
	w.wantBlock("k", 3)
	w.wantBlock("c", 22)
	b := w.open(main)
	w.write(b, 1, 9)
	w.closeBranch(b)
	w.wantBlock(MainBranch, 9)
	w.checkWhole()
	return err == nil
}

// TestRestoreAgainstWriters restores a branch on one host while another opens it,
// writes and closes: whatever was acknowledged is in the branch, or in the branch that
// keeps the state before. I1, I4.
func TestRestoreAgainstWriters(t *testing.T) {
	for round := range 30 {
		ctx := context.Background()
		a := &world{t: t, opts: Options{Host: "a", Shared: true}}
		a.mustStart()
		b := &world{t: t, objects: a.objects, opts: Options{Host: "b", Shared: true}}
		b.mustStart()
		main, _ := past(t, a)
		var wg sync.WaitGroup
		var wrote uint64
		restorations := 0
		wg.Go(func() {
			for i := range 8 {
				o := RestoreOptions{At: at(t, "seq:1"), KeepAs: fmt.Sprint("k", i)}
				_, err := a.store.RestoreBranch(ctx, main, o)
				switch {
				case err == nil:
					restorations++
				case !errors.Is(err, ErrInUse) && !errors.Is(err, ErrExists):
					t.Errorf("restore: %v", err)
				}
			}
		})
		wg.Go(func() {
			for i := range uint64(8) {
				br, err := b.store.Open(ctx, main)
				if err != nil {
					if !errors.Is(err, ErrInUse) {
						t.Errorf("open: %v", err)
					}
					continue
				}
				b.write(br, 2+i, 100+i)
				wrote |= 1 << i
				b.closeBranch(br)
			}
		})
		wg.Wait()
		found := uint64(0)
		all, err := a.store.Branches(ctx, "p")
		if err != nil {
			t.Fatal(err)
		}
		for _, info := range all {
			v, err := a.store.OpenAt(ctx, info.ID, ask.Point{})
			if err != nil {
				t.Fatal(err)
			}
			p := make([]byte, 8*BlockSize)
			if err := v.ReadAt(ctx, p, 2*BlockSize); err != nil {
				t.Fatal(err)
			}
			v.Close()
			for i := range uint64(8) {
				if s, err := stampOf(p[i*BlockSize : (i+1)*BlockSize]); err == nil && s == 100+i {
					found |= 1 << i
				}
			}
		}
		if found&wrote != wrote {
			t.Errorf("round %d: %#b was acknowledged, %#b is there after %d restorations", round, wrote, found, restorations)
		}
		a.checkWhole()
		b.stop()
		a.stop()
	}
}

// TestManifestFields has every field of a manifest, and whether it belongs to the log,
// which a restored branch leaves, or to the branch, which goes on.
func TestManifestFields(t *testing.T) {
	kinds := map[string]string{
		"Generation": "log", "Nonce": "log", "ID": "log", "Branch": "log", "Next": "log",
		"Fork": "log", "Lineage": "log", "Epoch": "log", "Host": "log", "Clean": "log", "Head": "log",
		"Packs": "log", "Claims": "log", "Replaced": "log", "Restored": "log",
		"PackLists": "log", "Doom": "log", "Retention": "branch",
		"Project": "branch", "Name": "branch", "Created": "branch", "Deleted": "branch", "Gone": "branch", "Size": "branch",
		"Parent": "branch", "Durability": "branch", "Settings": "branch", "Protected": "branch", "Expires": "branch",
		"Throwaway": "branch", "Snapshots": "branch", "Dropped": "branch",
	}
	full := manifest{}
	v := reflect.ValueOf(&full).Elem()
	for i := range v.NumField() {
		name := v.Type().Field(i).Name
		if kinds[name] == "" {
			t.Errorf("field %s of a manifest: say here, and in nextLog, whether it belongs to the log or to the branch", name)
		}
		fill(v.Field(i))
	}
	w := newWorld(t, Options{})
	next, err := w.store.nextLog(&full, &full, moment{point: point{Log: "x", Segment: 1, Seq: 1}}, []BranchID{"x"})
	if err != nil {
		t.Fatal(err)
	}
	n := reflect.ValueOf(next).Elem()
	for i := range v.NumField() {
		name := v.Type().Field(i).Name
		if same := reflect.DeepEqual(v.Field(i).Interface(), n.Field(i).Interface()); same != (kinds[name] == "branch") && name != "Branch" {
			t.Errorf("field %s of the next log's manifest: the same is %v", name, same)
		}
	}
}

// fill gives a value that is not zero.
func fill(v reflect.Value) {
	switch v.Kind() {
	case reflect.String:
		v.SetString("br-calm-oak-00000000")
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Int64, reflect.Int:
		v.SetInt(4096)
	case reflect.Uint64, reflect.Uint32, reflect.Uint8:
		v.SetUint(7)
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 1, 1))
		fill(v.Index(0))
	case reflect.Array:
		fill(v.Index(0))
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
	case reflect.Struct:
		if t, ok := v.Addr().Interface().(*time.Time); ok {
			*t = time.Unix(1, 0)
			return
		}
		for i := range v.NumField() {
			if v.Field(i).CanSet() {
				fill(v.Field(i))
			}
		}
	}
}
