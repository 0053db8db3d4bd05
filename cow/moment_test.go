package cow

import (
	"context"
	"encoding/binary"
	"math/rand/v2"
	"testing"
	"testing/synctest"
	"time"

	"github.com/bough-db/bough/wal"
)

// pageMarker is a Marker that believes each block whose first word is markMagic: the
// line and the LSN follow.
type pageMarker struct{ mark Mark }

const markMagic = 0x6d61726b6d61726b

func (p *pageMarker) Look(_ uint64, b []byte) bool {
	is := binary.LittleEndian.Uint64(b) == markMagic
	if is {
		p.mark = Mark{Line: binary.LittleEndian.Uint64(b[8:]), LSN: binary.LittleEndian.Uint64(b[16:])}
	}
	return is
}

func (p *pageMarker) Mark() Mark { return p.mark }

func newPageMarker(last Mark) Marker { return &pageMarker{mark: last} }

// markPage is a block that shows the mark to a pageMarker.
func markPage(m Mark) []byte {
	p := make([]byte, BlockSize)
	binary.LittleEndian.PutUint64(p, markMagic)
	binary.LittleEndian.PutUint64(p[8:], m.Line)
	binary.LittleEndian.PutUint64(p[16:], m.LSN)
	return p
}

// writeMark writes a block that shows the mark, and flushes.
func (w *world) writeMark(b *Branch, block uint64, m Mark) {
	w.t.Helper()
	err := b.WriteAt(context.Background(), markPage(m), int64(block)*BlockSize)
	if err == nil {
		err = b.Flush(context.Background())
	}
	if err != nil {
		w.t.Fatal(err)
	}
}

// barriers returns the barriers of a log as its segments and journals have them.
func (w *world) barriers(id BranchID) (all []moment) {
	w.t.Helper()
	for n := wal.SegmentNo(1); ; n++ {
		r, err := w.store.readSegment(context.Background(), id, n, true)
		if isNotExist(err) {
			return all
		}
		if err != nil {
			w.t.Fatal(err)
		}
		for i := range r.batches {
			all = append(all, momentOf(id, n, &r.batches[i]))
		}
	}
}

// wantMarks checks the marks of a branch's barriers, and that their times do not go
// back.
func (w *world) wantMarks(id BranchID, want ...Mark) {
	w.t.Helper()
	got := w.barriers(id)
	var last time.Time
	for i, b := range got {
		if i < len(want) && b.Mark != want[i] {
			w.t.Errorf("barrier %d has the mark %+v, want %+v", b.Seq, b.Mark, want[i])
		}
		if b.Time.Before(last) {
			w.t.Errorf("barrier %d is of %v, the one before of %v", b.Seq, b.Time, last)
		}
		last = b.Time
	}
	if len(got) != len(want) {
		w.t.Errorf("%d barriers, want %d", len(got), len(want))
	}
}

// TestMarks follows marks through journals, segments, checkpoints, restarts, crashes
// and forks: none is lost, and none is less than the one before.
func TestMarks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, Options{Marker: newPageMarker, SealAfter: time.Second})
		b := w.makeProject("p", 1<<30)
		a1, a2, a3, b1 := Mark{1, 100}, Mark{1, 200}, Mark{1, 300}, Mark{2, 150}
		w.writeMark(b, 1, a2)
		w.writeMark(b, 1, a1) // an older page, written again
		w.write(b, 2, 7)      // nothing of the log
		id := b.ID()
		w.wantMarks(id, a2, a2, a2)
		child := w.child("p", "open", b)
		if child.mark != a2 {
			t.Errorf("a child of an open branch begins with the mark %+v, want %+v", child.mark, a2)
		}
		w.write(child, 3, 8)
		w.wantMarks(child.ID(), a2)
		w.closeBranch(child)

		w.closeBranch(b)
		w.restart()
		b = w.open(id)
		if got := b.marker.Mark(); got != a2 {
			t.Errorf("after a restart the marker begins with %+v, want %+v", got, a2)
		}
		w.writeMark(b, 1, b1) // another line, though it is less far
		w.writeMark(b, 1, a3) // the old one is over
		w.wantMarks(id, a2, a2, a2, b1, b1)
		wait(time.Minute)
		w.wantMarks(id, a2, a2, a2, b1, b1)

		closed := w.child("p", "closed", w.open(child.ID()))
		if closed.mark != a2 {
			t.Errorf("a grandchild begins with the mark %+v, want %+v", closed.mark, a2)
		}
	})
}

// TestMarksOfOldRecords: checkpoints and manifests of an earlier version have neither
// times nor marks. What they lack is in the segments.
func TestMarksOfOldRecords(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx := context.Background()
		w := newWorld(t, Options{Marker: newPageMarker})
		b := w.makeProject("p", 1<<30)
		want := Mark{1, 100}
		w.writeMark(b, 1, want)
		when := b.lastTime
		w.closeBranch(b)
		info, err := w.store.CreateBranch(ctx, "p", "child", BranchOptions{From: b.ID()})
		if err != nil {
			t.Fatal(err)
		}
		for _, id := range []BranchID{b.ID(), info.ID} {
			_, err = w.store.updateManifest(ctx, id, func(m *manifest) error {
				m.Fork = moment{point: m.Fork.point}
				m.Head = moment{point: m.Head.point}
				return nil
			})
			if err != nil {
				t.Fatal(err)
			}
		}
		rec, err := w.store.readCheckpoint(ctx, b.ID(), 1)
		if err != nil {
			t.Fatal(err)
		}
		pages := getObject(t, w.objects, checkpointKey(b.ID(), 1))
		if err := w.objects.Delete(ctx, checkpointKey(b.ID(), 1)); err != nil {
			t.Fatal(err)
		}
		rec.Time, rec.Mark = time.Time{}, Mark{}
		end := int(rec.Root.Offset + rec.Root.Bytes)
		if _, err := w.store.putCheckpoint(ctx, pages[:end:end], rec); err != nil {
			t.Fatal(err)
		}
		for _, id := range []BranchID{b.ID(), info.ID} {
			o := w.open(id)
			if o.mark != want || !o.lastTime.Equal(when) {
				t.Errorf("opened with mark %+v of %v, want %+v of %v", o.mark, o.lastTime, want, when)
			}
		}
	})
}

// TestTimesDoNotGoBack lets the clock jump about, on two hosts that take a branch from
// each other, with closes, crashes and children.
func TestTimesDoNotGoBack(t *testing.T) {
	forSeeds(t, 150, func(t *testing.T, rng *rand.Rand, ops int) {
		synctest.Test(t, func(t *testing.T) {
			ctx := context.Background()
			clock := func() time.Time {
				return time.Now().Add(time.Duration(rng.IntN(7200)-3600) * time.Second)
			}
			a := &world{t: t, opts: Options{Host: "a", Shared: true, Now: clock, SealAfter: time.Second}}
			a.mustStart()
			defer a.stop()
			b := &world{t: t, objects: a.objects, opts: Options{Host: "b", Shared: true, Now: clock, SealAfter: time.Second}}
			b.mustStart()
			defer b.stop()
			first := a.makeProject("p", 1<<30)
			ids, names := []BranchID{first.ID()}, 0
			a.closeBranch(first)
			for range ops {
				host := a
				if rng.IntN(2) == 0 {
					host = b
				}
				br, err := host.store.OpenWith(ctx, ids[rng.IntN(len(ids))], OpenOptions{TakeOver: TakeOverLossy})
				if err != nil {
					t.Fatal(err)
				}
				for range 1 + rng.IntN(3) {
					host.write(br, rng.Uint64N(100), 1)
				}
				switch k := rng.IntN(10); {
				case k < 2: // leaves it attached, and journals that may be lost
					ended, cancel := context.WithCancel(ctx)
					cancel()
					if err := br.Close(ended); err == nil {
						t.Fatal("closed without time to do so")
					}
					continue
				case k < 4:
					wait(2 * time.Second)
				case k < 5 && len(ids) < 5:
					names++
					info, err := host.store.CreateBranch(ctx, "p", "c"+string(rune('0'+names)), BranchOptions{From: br.ID()})
					if err != nil {
						t.Fatal(err)
					}
					ids = append(ids, info.ID)
				}
				host.closeBranch(br)
			}
			for _, id := range ids {
				m, _, err := a.store.readManifest(ctx, id)
				if err != nil {
					t.Fatal(err)
				}
				last := m.begin().Time
				for _, at := range a.barriers(id) {
					if at.Time.Before(last) {
						t.Fatalf("barrier %d of %s is of %v, the one before of %v", at.Seq, id, at.Time, last)
					}
					last = at.Time
				}
			}
		})
	})
}
