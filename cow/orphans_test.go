package cow

import (
	"context"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// TestOrphans: what nothing needs is named, with the reason, and nothing else.
func TestOrphans(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx := context.Background()
		w := newWorld(t, Options{SealAfter: time.Second, CheckpointSegments: 2, Retention: &noHistory})
		b := w.makeProject("p", deviceBytes)
		id := b.ID()
		for i := range uint64(20) {
			w.write(b, i%3, i+1)
			wait(2 * time.Second)
		}
		orphans := func() map[string]string {
			t.Helper()
			all := map[string]string{}
			err := w.store.Orphans(ctx, func(o Orphan) {
				if o.Bytes <= 0 {
					t.Errorf("orphan %s of %d bytes", o.Object, o.Bytes)
				}
				all[o.Object] = o.Detail
			})
			if err != nil {
				t.Fatal(err)
			}
			return all
		}
		if all := orphans(); len(all) > 0 {
			t.Errorf("orphans of a branch that only grows: %v", all)
		}
		// A collection has packed what is old, and lets it lie for a while.
		w.collect(CollectOptions{Full: true, Recent: -1})
		replaced := orphans()
		if len(replaced) == 0 {
			t.Fatal("no orphans, though there are packs")
		}
		for key, detail := range replaced {
			if detail != "a pack stands for it" || !strings.HasPrefix(key, segmentPrefix(id)) && !strings.HasPrefix(key, checkpointPrefix(id)) {
				t.Errorf("orphan %s: %s", key, detail)
			}
		}
		stray := map[string]string{
			packKey(id, 1, 2, 999):                   "it is not in use any more, or never was",
			segmentKey("br-calm-oak-00000001", 7):    "there is no such branch",
			checkpointKey("br-calm-oak-00000001", 7): "there is no such branch",
		}
		for key := range stray {
			putObject(t, w.objects, key, []byte("late"))
		}
		all := orphans()
		for key, detail := range stray {
			if all[key] != detail {
				t.Errorf("orphan %s: %q, want %q", key, all[key], detail)
			}
		}
		if len(all) != len(replaced)+len(stray) {
			t.Errorf("%d orphans, want %d and %d: %v", len(all), len(replaced), len(stray), all)
		}
		// Nothing that is not named is missed: without them all is whole.
		for key := range all {
			if err := w.objects.Delete(ctx, key); err != nil {
				t.Fatal(err)
			}
		}
		w.checkWhole()
		w.restart()
		for i, stamp := range []uint64{19, 20, 18} {
			w.expect(w.open(id), uint64(i), stamp)
		}
	})
}

// TestOrphanOfAFencedWriter: a segment beyond the end of the log is one, unless its
// writer may be the one that writes the log now.
func TestOrphanOfAFencedWriter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b, aStore, _, main := rivals(t, DurabilityLocal)
		g := holdPut(aStore, segmentKey(main.ID(), 1))
		for i := range uint64(3) {
			a.write(main, i, i+1)
			wait(time.Minute)
		}
		<-g.Arrived
		taken := b.mustTakeOver(main.ID())
		b.write(taken, 1, 9)
		b.closeBranch(taken)
		var all []Orphan
		if err := b.store.Orphans(context.Background(), func(o Orphan) { all = append(all, o) }); err != nil {
			t.Fatal(err)
		}
		if len(all) != 1 || all[0].Object != segmentKey(main.ID(), 3) {
			t.Errorf("orphans %+v, want segment 3", all)
		}
		g.Release()
	})
}
