package cow

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/bough-db/bough/objstore"
	"github.com/bough-db/bough/objstore/faultstore"
	"github.com/bough-db/bough/objstore/memstore"
)

// TestTimings counts what branches do, by how long it took.
func TestTimings(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		objects := faultstore.New(memstore.New(memstore.Options{}), faultstore.Options{})
		w := &world{t: t, objects: objects, opts: Options{SealAfter: time.Second}}
		w.mustStart()
		defer w.stop()
		b := w.makeProject("p", deviceBytes)
		objects.Add(faultstore.Rule{Verb: objstore.VerbPut, KeyPrefix: segmentKey(b.ID(), 1), Wait: func(context.Context, faultstore.Op) error {
			<-time.After(3 * time.Second)
			return nil
		}})
		for i := range uint64(3) {
			w.write(b, i, i+1)
		}
		w.expect(b, 1, 2)
		wait(time.Minute)
		got := w.store.Timings()
		if got.Write.Count != 3 || got.Flush.Count != 3 || got.Read.Count != 1 || got.Upload.Count != 1 {
			t.Errorf("counted %d writes, %d flushes, %d reads, %d uploads", got.Write.Count, got.Flush.Count, got.Read.Count, got.Upload.Count)
		}
		if got.Upload.Sum != 3*time.Second || got.Flush.Sum != 0 || got.Flush.Classes[0] != 3 {
			t.Errorf("uploads took %v, flushes %v, %d of them hardly any time", got.Upload.Sum, got.Flush.Sum, got.Flush.Classes[0])
		}
		for i, n := range got.Upload.Classes {
			if in := TimingBounds[i] >= 3*time.Second && TimingBounds[i-1] < 3*time.Second; (n == 1) != in {
				t.Errorf("%d uploads of up to %v", n, TimingBounds[i])
			}
		}
		w.closeBranch(b)
	})
}
