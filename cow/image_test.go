package cow

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/bough-db/bough/objstore"
	"github.com/bough-db/bough/objstore/memstore"
	"github.com/bough-db/bough/wal"
)

// otherwise is a journal of which one bit is another one's.
type otherwise struct{ *wal.Journal }

func (o otherwise) ReadAt(p []byte, slot wal.Slot) error {
	err := o.Journal.ReadAt(p, slot)
	p[len(p)-1] ^= 1
	return err
}

// TestStoredByAnEarlierLife: the put of an earlier life of the process comes to the
// store when it is not expected any more. It says the same in other bytes: it names an
// older checkpoint. That is the segment, and nobody else's. What says something else is
// somebody else's. I1, I3.
func TestStoredByAnEarlierLife(t *testing.T) {
	for _, own := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			objects := memstore.New(memstore.Options{})
			w := &world{t: t, objects: objects, opts: Options{Host: "a", Shared: true, SealAfter: time.Hour}}
			w.mustStart()
			b := w.makeProject("p", deviceBytes)
			for i := range uint64(40) {
				w.write(b, i, i+1)
			}
			j := b.journal.journal
			h := j.Header()
			head := segmentHead{
				Log: b.ID(), Number: h.Segment, Epoch: h.Epoch, Nonce: j.Nonce(), Host: "a",
				Created: h.Created.UnixNano(), Checkpoint: 7,
			}
			enc, err := newSegmentEncoder()
			if err != nil {
				t.Fatal(err)
			}
			var src slotReader = j
			if !own {
				src = otherwise{j}
			}
			data, err := enc.encode(head, j.Batches(), src, j.End())
			if err != nil {
				t.Fatal(err)
			}
			if _, err := objects.Put(context.Background(), segmentKey(b.ID(), h.Segment), data, objstore.Condition{IfAbsent: true}); err != nil {
				t.Fatal(err)
			}
			_, err = b.Publish(t.Context())
			if own && err != nil || !own && !errors.Is(err, ErrFenced) {
				t.Errorf("publish, own %v: %v", own, err)
			}
			_ = w.shut() // one of them has failed
		})
	}
}
