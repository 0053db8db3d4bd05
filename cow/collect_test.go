package cow

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/bough-db/bough/objstore/memstore"
)

// noHistory keeps heads and what is pinned.
var noHistory = Retention{}

// atOnce collects everything that nothing needs at the moment.
var atOnce = CollectOptions{Full: true, Recent: -1, Grace: -1, Undelete: -1}

// collect runs one collection, and fails the test if it meets a problem.
func (w *world) collect(o CollectOptions) *CollectReport {
	w.t.Helper()
	rep, err := w.store.Collect(context.Background(), o)
	if err != nil {
		w.t.Fatal(err)
	}
	for _, p := range rep.Problems {
		w.t.Errorf("collect: %s: %s", p.Branch, p.Detail)
	}
	return rep
}

// TestCollectOverwritten: of a log that overwrites the same blocks again and again only
// what its head has is left, everything reads as before, here and in a new life, and
// the log goes on.
func TestCollectOverwritten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, Options{SealAfter: time.Second, CheckpointSegments: 4, Retention: &noHistory})
		b := w.makeProject("p", deviceBytes)
		const rounds, blocks = 40, 50
		for r := range uint64(rounds) {
			for i := range uint64(blocks) {
				w.writeUnflushed(b, i*31, 1+r*blocks+i)
			}
			w.write(b, 5000+r, 1+r)
			wait(2 * time.Second)
		}
		verify := func() {
			t.Helper()
			for i := range uint64(blocks) {
				w.expect(b, i*31, 1+(rounds-1)*blocks+i)
			}
			for r := range uint64(rounds) {
				w.expect(b, 5000+r, 1+r)
			}
			w.checkWhole()
		}
		verify()
		mem := w.objects.(*memstore.Store)
		objects, before := mem.Len()
		rep := w.collect(atOnce)
		left, after := mem.Len()
		t.Logf("%d objects with %d bytes, then %d with %d: %+v", objects, before, left, after, rep)
		if rep.Packs == 0 || after > before/4 || before-after < rep.Freed-rep.Written-1000 {
			t.Errorf("%d bytes became %d: %+v", before, after, rep)
		}
		if rep.Replaced < rounds-5 || rep.Freeable > rep.Freed || rep.Freeable < rep.Freed/2 {
			t.Errorf("the report does not say what the packs replace, of which all was deleted: %+v", rep)
		}
		verify()
		w.restart()
		b = w.open(b.ID())
		verify()
		w.write(b, 7, 77)
		wait(2 * time.Second)
		w.expect(b, 7, 77)
		w.closeBranch(b)
		w.collect(atOnce)
		w.checkWhole()
		if rep := w.collect(atOnce); rep.Packs > 0 || rep.Deleted > 0 {
			t.Errorf("a third collection found something: %+v", rep)
		}
		b = w.open(b.ID())
		w.expect(b, 7, 77)
		verify()
	})
}
