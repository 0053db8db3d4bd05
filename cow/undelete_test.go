package cow

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/bough-db/bough/objstore"
	"github.com/bough-db/bough/objstore/faultstore"
	"github.com/bough-db/bough/objstore/memstore"
)

// TestSnapshots makes, lists, uses and deletes snapshots, with what is wrong word by
// word.
func TestSnapshots(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, main, dev := timeline(t)
		ctx := t.Context()
		create := func(name, point string, want error) {
			t.Helper()
			if _, err := w.store.CreateSnapshot(ctx, main, name, at(t, point)); !errors.Is(err, want) {
				t.Errorf("snapshot %s of %s: %v, want %v", name, point, err, want)
			}
		}
		create("first", "seq:1", nil)
		create("first", "seq:2", ErrExists)
		create("now", "head", nil)
		create("second", "first", nil)
		create("head", "head", ErrInvalidName)
		create("Big", "head", ErrInvalidName)
		create("gone", "seq:99", ErrNoPoint)
		all, err := w.store.Snapshots(ctx, main)
		if err != nil || len(all) != 3 || all[0].Name != "first" || all[1].Seq != 10 || all[2].Seq != 1 || all[1].Created.IsZero() {
			t.Errorf("snapshots: %+v, %v", all, err)
		}
		for point, want := range map[string]string{
			"first": "", "now": "", "second": "",
			"third": `point "@third" of p/main: there is no such snapshot; there is @second`,
			"a":     `point "@a" of p/main: there is no such snapshot; there is @first`,
		} {
			if _, err := w.store.Resolve(ctx, main, at(t, point)); want == "" && err != nil || want != "" && (err == nil || err.Error() != want) {
				t.Errorf("@%s:\n got %v\nwant %s", point, err, want)
			}
		}
		if err := w.store.DeleteSnapshot(ctx, main, "second"); err != nil {
			t.Fatal(err)
		}
		if err := w.store.DeleteSnapshot(ctx, main, "second"); !errors.Is(err, ErrNotFound) {
			t.Errorf("delete it again: %v", err)
		}
		const deleted = `point "@second" of p/main: that snapshot, of barrier 1, was deleted at 2000-01-01T00:01:11Z: the nearest is @seq:1 of 2000-01-01T00:00:01Z`
		if _, err := w.store.Resolve(ctx, main, at(t, "second")); err == nil || err.Error() != deleted {
			t.Errorf("a deleted snapshot:\n got %v\nwant %s", err, deleted)
		}
		const none = `point "@first" of p/dev: there is no such snapshot, nor any other: the nearest is @seq:6 of 2000-01-01T00:00:11Z`
		if _, err := w.store.Resolve(ctx, dev, at(t, "first")); err == nil || err.Error() != none {
			t.Errorf("a child has none of its parent's:\n got %v\nwant %s", err, none)
		}
		for i := range droppedMax + 3 {
			create(fmt.Sprint("x", i), "head", nil)
			if err := w.store.DeleteSnapshot(ctx, main, fmt.Sprint("x", i)); err != nil {
				t.Fatal(err)
			}
		}
		if m, _, err := w.store.readBranch(ctx, main); err != nil || len(m.Dropped) != droppedMax {
			t.Errorf("%d deleted snapshots are remembered, want %d (%v)", len(m.Dropped), droppedMax, err)
		}
		_, err = w.store.updateBranch(ctx, main, func(m *manifest) error {
			for i := len(m.Snapshots); i < SnapshotsMax; i++ {
				m.Snapshots = append(m.Snapshots, snapshot{Name: fmt.Sprintf("y%04d", i)})
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		create("zz", "head", ErrTooMany)
	})
}

// TestUndelete brings branches back, with each request failing once.
func TestUndelete(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx := t.Context()
		w := newWorld(t, Options{})
		main, child := past(t, w)
		list := func(want ...string) []BranchInfo {
			t.Helper()
			all, err := w.store.DeletedBranches(ctx, "p")
			var names []string
			for _, b := range all {
				names = append(names, b.Name)
			}
			slices.Sort(names)
			if err != nil || !slices.Equal(names, want) {
				t.Errorf("deleted branches %v (%v), want %v", names, err, want)
			}
			return all
		}
		list()
		for _, name := range []string{"c", MainBranch} {
			if err := w.store.DeleteBranch(ctx, "p", name); err != nil {
				t.Fatal(err)
			}
		}
		for _, b := range list("c", MainBranch) {
			if b.Deleted.IsZero() {
				t.Errorf("deleted branch %+v", b)
			}
		}
		if _, err := w.store.CreateBranch(ctx, "p", "c", BranchOptions{}); err != nil {
			t.Fatal(err)
		}
		if _, err := w.store.UndeleteBranch(ctx, child, ""); !errors.Is(err, ErrExists) {
			t.Errorf("bring back a branch whose name is taken: %v", err)
		}
		if info, err := w.store.UndeleteBranch(ctx, child, "c2"); err != nil || info.Name != "c2" || !info.Deleted.IsZero() {
			t.Errorf("bring it back as another: %+v, %v", info, err)
		}
		w.wantBlock("c2", 22)
		if _, err := w.store.UndeleteBranch(ctx, child, "c3"); !errors.Is(err, ErrExists) {
			t.Errorf("bring back what is there: %v", err)
		}
		list(MainBranch)
		if _, err := w.store.UndeleteBranch(ctx, main, ""); err != nil {
			t.Fatal(err)
		}
		w.wantBlock(MainBranch, 3)
		list()
		_, err := w.store.updateBranch(ctx, main, func(m *manifest) error {
			m.Deleted, m.Gone = time.Now(), time.Now()
			return nil
		})
		if err == nil {
			_, err = w.store.UndeleteBranch(ctx, main, "")
		}
		if !errors.Is(err, ErrNotFound) || !strings.Contains(err.Error(), "too long ago") {
			t.Errorf("bring back what is gone: %v", err)
		}
	})
	for _, fault := range []faultstore.Fault{faultstore.ErrorBefore, faultstore.ErrorAfter} {
		for nth, done := 1, false; !done; nth++ {
			objects := faultstore.New(memstore.New(memstore.Options{}), faultstore.Options{})
			w := &world{t: t, objects: objects}
			w.mustStart()
			_, child := past(t, w)
			ctx := context.Background()
			if err := w.store.DeleteBranch(ctx, "p", "c"); err != nil {
				t.Fatal(err)
			}
			objects.Add(faultstore.Rule{Verb: faultstore.AnyVerb, Nth: nth, Fault: fault})
			_, err := w.store.UndeleteBranch(ctx, child, "")
			done = err == nil
			objects.Heal()
			w.restart()
			if _, err := w.store.UndeleteBranch(ctx, child, ""); err != nil && !errors.Is(err, ErrExists) {
				t.Errorf("again, after request %d had failed: %v", nth, err)
			}
			w.wantBlock("c", 22)
			w.checkWhole()
			w.stop()
		}
	}
}

// TestExpiring: branches that expire, and throwaways, are found without a look at the
// others, also by another process; and what is deleted is forgotten.
func TestExpiring(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx := t.Context()
		w := newWorld(t, Options{Host: "a"})
		main, child := past(t, w)
		list := func(want ...BranchID) []BranchInfo {
			t.Helper()
			all, err := w.store.Expiring(ctx)
			var ids []BranchID
			for _, b := range all {
				ids = append(ids, b.ID)
			}
			slices.Sort(ids)
			slices.Sort(want)
			if err != nil || !slices.Equal(ids, want) {
				t.Errorf("expiring: %v (%v), want %v", ids, err, want)
			}
			return all
		}
		list()
		when := time.Now().Add(time.Hour)
		if err := w.store.SetExpiry(ctx, child, when); err != nil {
			t.Fatal(err)
		}
		if all := list(child); !all[0].Expires.Equal(when) {
			t.Errorf("it expires at %v, want %v", all[0].Expires, when)
		}
		err := w.store.UpdateBranch(ctx, child, func(i *BranchInfo) error { i.Protected = true; return nil })
		if !errors.Is(err, ErrExpires) {
			t.Errorf("protect a branch that expires: %v", err)
		}
		tmp, err := w.store.CreateBranch(ctx, "p", "tmp", BranchOptions{From: main, At: at(t, "seq:1"), Throwaway: true})
		if err != nil || tmp.Throwaway != "a" {
			t.Fatalf("throwaway: %+v, %v", tmp, err)
		}
		w.restart()
		list(child, tmp.ID)
		if err := w.store.DeleteBranch(ctx, "p", "tmp"); err != nil {
			t.Fatal(err)
		}
		list(child)
		if _, err := w.store.UndeleteBranch(ctx, tmp.ID, ""); !errors.Is(err, ErrNotFound) {
			t.Errorf("bring back a throwaway: %v", err)
		}
		if err := w.store.SetExpiry(ctx, child, time.Time{}); err != nil {
			t.Fatal(err)
		}
		list()
		if err := w.store.SetExpiry(ctx, child, when); err != nil {
			t.Fatal(err)
		}
		if err := w.store.DeleteBranch(ctx, "p", "c"); err != nil {
			t.Fatal(err)
		}
		list()
		if infos, err := w.objects.List(ctx, expiringPrefix, "", 0); err != nil || len(infos) != 0 {
			t.Errorf("records of branches that are deleted: %v, %v", infos, err)
		}
		if _, err := w.store.UndeleteBranch(ctx, child, ""); err != nil {
			t.Fatal(err)
		}
		list()

		// The record of a branch that was never made is kept for a while.
		if err := w.store.putExpiring(ctx, "br-calm-oak-00000000"); err != nil {
			t.Fatal(err)
		}
		for range 2 {
			list()
			infos, err := w.objects.List(ctx, expiringPrefix, "", 0)
			if err != nil || len(infos) != 1 {
				t.Errorf("records of branches that are being made: %v, %v", infos, err)
			}
		}
		wait(2 * expiringStale)
		list()
		if _, err := w.objects.List(ctx, expiringPrefix, "", 0); err != nil && !errors.Is(err, objstore.ErrNotExist) {
			t.Fatal(err)
		}
	})
}
