package cow

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	ask "github.com/bough-db/bough/cow/point"
	"github.com/bough-db/bough/objstore"
	"github.com/bough-db/bough/objstore/memstore"
	"github.com/bough-db/bough/objstore/meterstore"
	"github.com/bough-db/bough/wal"
)

// at reads a point.
func at(t testing.TB, text string) ask.Point {
	t.Helper()
	p, err := ask.Parse(text, nil)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// timeline makes a project p whose main branch has ten barriers, one a second from
// 2000-01-01T00:00:01Z on, with marks on two timelines; and its child dev, made after
// the fourth barrier, with two more.
func timeline(t *testing.T) (*world, BranchID, BranchID) {
	w := newWorld(t, Options{Marker: newPageMarker, SealAfter: 2 * time.Second, CheckpointSegments: 2})
	b := w.makeProject("p", 1<<20)
	id := b.ID()
	one, two := uint64(1<<32|1), uint64(2<<32|2)
	marks := []Mark{
		{}, {one, 0x10000}, {one, 0x12000}, {one, 0x14000}, {one, 0x16000}, {one, 0x20000}, // left there
		{two, 0x18000}, {two, 0x1a000}, {two, 0x1a000}, {two, 0x1c000},
	}
	var dev *Branch
	for i, m := range marks {
		wait(time.Second)
		if m == (Mark{}) {
			w.write(b, 9, uint64(i))
		} else {
			w.writeMark(b, uint64(i), m)
		}
		if i == 3 {
			dev = w.child("p", "dev", b)
		}
	}
	w.write(dev, 20, 1)
	wait(time.Second)
	w.write(dev, 20, 2)
	wait(time.Minute)
	w.closeBranch(b)
	return w, id, dev.ID()
}

// TestResolve has points with the barriers that they name, and what is wrong with
// others, word by word.
func TestResolve(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, main, dev := timeline(t)
		for _, c := range []struct {
			branch BranchID
			point  string
			seq    wal.Seq
			err    string
		}{
			{main, "head", 10, ""},
			{main, "seq:1", 1, ""},
			{main, "seq:10", 10, ""},
			{main, "seq:11", 0, `point "@seq:11" of p/main: it is in the future: the nearest is @seq:10 of 2000-01-01T00:00:10Z`},
			{main, "2000-01-01T00:00:05Z", 5, ""},
			{main, "2000-01-01T00:00:05.9Z", 5, ""},
			{main, "2000-01-01T01:00:05+01:00", 5, ""},
			{main, "2000-01-01T00:01:00Z", 10, ""},
			{main, "-1m", 10, ""},
			{main, "-68s", 3, ""},
			{main, "2000-01-01T00:00:00.999999999Z", 0, `point "@2000-01-01T00:00:00.999999999Z" of p/main: it is before the history: the nearest is @seq:1 of 2000-01-01T00:00:01Z`},
			{main, "-1h", 0, `point "@1999-12-31T23:01:11Z" of p/main: it is before the history: the nearest is @seq:1 of 2000-01-01T00:00:01Z`},
			{main, "2000-01-01T01:00:00Z", 0, `point "@2000-01-01T01:00:00Z" of p/main: it is in the future: the nearest is @seq:10 of 2000-01-01T00:00:10Z`},
			{main, "lsn:0/1C000", 10, ""},
			{main, "lsn:0/1DFFF", 10, ""},
			{main, "lsn:0/1A000", 9, ""},
			{main, "lsn:0/19FFF", 7, ""},
			{main, "lsn:0/17FFF", 5, ""},
			{main, "lsn:0/10001", 2, ""},
			{main, "lsn:0/FFFF", 0, `point "@lsn:0/FFFF" of p/main: it is before the history: the nearest is @seq:1 of 2000-01-01T00:00:01Z`},
			{main, "lsn:0/20000", 0, `point "@lsn:0/20000" of p/main: it is of timeline 1, which has it at @seq:6 and which the branch left after @seq:6; on timeline 2 its WAL is at 0/1C000: the nearest is @seq:10 of 2000-01-01T00:00:10Z`},
			{main, "lsn:0/1E000", 0, `point "@lsn:0/1E000" of p/main: it is of timeline 1, which has it at @seq:5 and which the branch left after @seq:6; on timeline 2 its WAL is at 0/1C000: the nearest is @seq:10 of 2000-01-01T00:00:10Z`},
			{main, "lsn:1/0", 0, `point "@lsn:1/0" of p/main: it is in the future: the WAL of the last barrier is at 0/1C000: the nearest is @seq:10 of 2000-01-01T00:00:10Z`},
			{main, "xid:77", 0, `point "@xid:77" of p/main: it is the point of a transaction, and no barrier`},
			{main, "2000-01-01T00:00:05Z!", 0, `point "@2000-01-01T00:00:05Z!" of p/main: it is the point of a transaction, and no barrier`},
			{main, "restore:x", 0, `point "@restore:x" of p/main: it is the point of a transaction, and no barrier`},
			{dev, "head", 6, ""},
			{dev, "seq:5", 5, ""},
			{dev, "seq:4", 4, ""},
			{dev, "seq:2", 2, ""},
			{dev, "seq:7", 0, `point "@seq:7" of p/dev: it is in the future: the nearest is @seq:6 of 2000-01-01T00:00:11Z`},
			{dev, "2000-01-01T00:00:09Z", 4, ""},
			{dev, "2000-01-01T00:00:03Z", 3, ""},
			{dev, "lsn:0/15000", 6, ""},
			{dev, "lsn:0/13FFF", 3, ""},
			{dev, "lsn:0/16000", 0, `point "@lsn:0/16000" of p/dev: it is in the future: the WAL of the last barrier is at 0/14000: the nearest is @seq:6 of 2000-01-01T00:00:11Z`},
		} {
			b, err := w.store.Resolve(t.Context(), c.branch, at(t, c.point))
			if c.err != "" {
				if err == nil || err.Error() != c.err {
					t.Errorf("%s:\n got %v\nwant %v", c.point, err, c.err)
				}
				if !errors.Is(err, ErrNoPoint) {
					t.Errorf("%s: the error is no ErrNoPoint", c.point)
				}
				if exact := at(t, c.point).Exact(); errors.Is(err, ErrNotBarrier) != exact {
					t.Errorf("%s: ErrNotBarrier is %v", c.point, !exact)
				}
				continue
			}
			if err != nil || b.Seq != c.seq {
				t.Errorf("%s is barrier %d (%v), want %d", c.point, b.Seq, err, c.seq)
			}
		}
	})
}

// TestResolveNothing: a branch that has no barrier has no point, and one of a template
// has the one that it began as, but nothing of the template's own past.
func TestResolveNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx := t.Context()
		w := newWorld(t, Options{})
		_, empty, err := w.store.CreateProject(ctx, "empty", ProjectOptions{})
		if err != nil {
			t.Fatal(err)
		}
		const nothing = `point "@head" of empty/main: nothing was written yet`
		if _, err := w.store.Resolve(ctx, empty.ID, ask.Point{}); err == nil || err.Error() != nothing {
			t.Errorf("head of nothing: %v, want %v", err, nothing)
		}
		if p, err := w.store.History(ctx, empty.ID, HistoryQuery{}); err != nil || len(p.Barriers) > 0 || p.More {
			t.Errorf("history of nothing: %+v, %v", p, err)
		}

		template := w.makeProject("template", 1<<20)
		w.write(template, 1, 11)
		w.write(template, 1, 12)
		wait(time.Hour)
		_, b, err := w.store.CreateProject(ctx, "p", ProjectOptions{From: template.ID()})
		if err != nil {
			t.Fatal(err)
		}
		for _, order := range []bool{false, true} {
			p, err := w.store.History(ctx, b.ID, HistoryQuery{OldestFirst: order})
			if err != nil || len(p.Barriers) != 1 || p.Barriers[0].Seq != 2 || !p.Barriers[0].Time.Equal(b.Created) {
				t.Errorf("history of a new branch of a template: %+v, %v", p, err)
			}
		}
		wait(time.Hour)
		dev := w.open(b.ID)
		w.write(dev, 1, 13)
		for point, want := range map[string]uint64{"head": 13, "seq:2": 12, "-30m": 12} {
			v, err := w.store.OpenAt(ctx, b.ID, at(t, point))
			if err != nil {
				t.Fatal(err)
			}
			w.expectIn(v, 1, want)
			v.Close()
		}
		const before = `point "@seq:1" of p/main: it is before the history: the nearest is @seq:2 of 2000-01-01T01:00:00Z`
		if _, err := w.store.Resolve(ctx, b.ID, at(t, "seq:1")); err == nil || err.Error() != before {
			t.Errorf("the template's past: %v, want %v", err, before)
		}
		if _, err := w.store.Resolve(ctx, b.ID, at(t, "-90m")); !errors.Is(err, ErrNoPoint) {
			t.Errorf("the time before the project: %v, want ErrNoPoint", err)
		}
		if _, err := w.store.Resolve(ctx, b.ID, at(t, "lsn:0/10000")); !errors.Is(err, ErrNoPoint) {
			t.Errorf("an LSN where there is no WAL: %v, want ErrNoPoint", err)
		}
		child, err := w.store.CreateBranch(ctx, "p", "child", BranchOptions{From: b.ID, At: at(t, "seq:2")})
		if err != nil {
			t.Fatal(err)
		}
		w.expect(w.open(child.ID), 1, 12)
	})
}

// expectIn is expect for a View.
func (w *world) expectIn(v *View, block uint64, stamp uint64) {
	w.t.Helper()
	p := make([]byte, BlockSize)
	if err := v.ReadAt(context.Background(), p, int64(block)*BlockSize); err != nil {
		w.t.Fatalf("read block %d: %v", block, err)
	}
	if got, err := stampOf(p); err != nil || got != stamp {
		w.t.Fatalf("block %d has stamp %#x (%v), want %#x", block, got, err, stamp)
	}
}

// TestViews: there are no more than allowed, and closing gives each back, reads of it
// that are under way included.
func TestViews(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx := t.Context()
		w := newWorld(t, Options{Views: 2})
		b := w.makeProject("p", 1<<20)
		w.write(b, 1, 1)
		w.write(b, 1, 2)
		first, err := w.store.OpenAt(ctx, b.ID(), at(t, "seq:1"))
		if err != nil {
			t.Fatal(err)
		}
		second, err := w.store.OpenAt(ctx, b.ID(), at(t, "head"))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.store.OpenAt(ctx, b.ID(), at(t, "head")); !errors.Is(err, ErrTooMany) {
			t.Errorf("a third: %v, want ErrTooMany", err)
		}
		w.write(b, 1, 3)
		w.closeBranch(b)
		if err := w.store.DeleteBranch(ctx, "p", MainBranch); err != nil {
			t.Fatal(err)
		}
		w.expectIn(first, 1, 1)
		w.expectIn(second, 1, 2)
		if err := first.ReadAt(ctx, make([]byte, 10), 1<<20-5); !errors.Is(err, ErrOutOfRange) {
			t.Errorf("read beyond the end: %v", err)
		}
		first.Close()
		first.Close()
		if err := first.ReadAt(ctx, make([]byte, 10), 0); !errors.Is(err, ErrClosed) {
			t.Errorf("read after Close: %v", err)
		}
		if _, err := w.store.OpenAt(ctx, b.ID(), at(t, "head")); !errors.Is(err, ErrNotFound) {
			t.Errorf("open a deleted branch: %v", err)
		}
		second.Close()
		if n := len(w.store.views); n != 0 {
			t.Errorf("%d views are left", n)
		}
	})
}

// putHistory stores a log of n segments with per barriers each, a second apart and
// without data, as that of the branch, which is detached.
func putHistory(t testing.TB, w *world, id BranchID, n, per int) {
	t.Helper()
	ctx := context.Background()
	enc, err := newSegmentEncoder()
	if err != nil {
		t.Fatal(err)
	}
	start := w.store.wallTime()
	last := moment{point: point{Log: id}}
	for i := range n {
		batches := make([]wal.Batch, per)
		for j := range batches {
			last.Seq++
			last.Time = start.Add(time.Duration(last.Seq) * time.Second)
			last.Mark = Mark{1<<32 | 1, uint64(last.Seq) * MarkBytes}
			batches[j] = wal.Batch{Seq: last.Seq, Time: last.Time, LSN: last.LSN, Line: last.Line}
		}
		last.Segment = wal.SegmentNo(i + 1)
		head := segmentHead{Log: id, Number: last.Segment, Epoch: 1, Host: "local", Created: start.UnixNano()}
		data, err := enc.encode(head, batches, nil, 1)
		if err != nil {
			t.Fatal(err)
		}
		if err := w.store.putSegment(ctx, segmentKey(id, last.Segment), head, data, 1); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := w.store.updateManifest(ctx, id, func(m *manifest) error {
		m.Epoch, m.Clean, m.Host, m.Head = 1, true, "local", last
		return nil
	}); err != nil {
		t.Fatal(err)
	}
}

// TestResolveCost: to resolve a point, and to branch there, takes reads whose number
// grows with the logarithm of the history, two puts, and no listing. I10.
func TestResolveCost(t *testing.T) {
	for segments, reads := range map[int]int64{1: 3, 16: 7, 1000: 13} {
		t.Run(fmt.Sprint(segments), func(t *testing.T) {
			ctx := t.Context()
			meter := meterstore.New(memstore.New(memstore.Options{}), nil)
			w := &world{t: t, objects: meter}
			w.mustStart()
			defer w.stop()
			_, b, err := w.store.CreateProject(ctx, "p", ProjectOptions{})
			if err != nil {
				t.Fatal(err)
			}
			putHistory(t, w, b.ID, segments, 10)
			n := uint64(segments) * 10
			for i, p := range []ask.Point{
				{Kind: ask.Seq, Number: 1}, {Kind: ask.Seq, Number: n/3 + 1}, {Kind: ask.LSN, Number: (n/2 + 1) * MarkBytes},
				{Kind: ask.Seq, Number: n - 1},
			} {
				before := meter.Snapshot()
				info, err := w.store.CreateBranch(ctx, "p", fmt.Sprint("b", i), BranchOptions{From: b.ID, At: p})
				if err != nil {
					t.Fatal(err)
				}
				used := meter.Snapshot().Sub(before)
				if got := used[objstore.VerbReadAt].Requests; got > reads {
					t.Errorf("%v: %d reads of segments, want %d at most", p, got, reads)
				}
				if puts, lists := used[objstore.VerbPut].Requests, used[objstore.VerbList].Requests; puts != 2 || lists != 0 {
					t.Errorf("%v: %d puts and %d lists, want 2 and none", p, puts, lists)
				}
				if p.Kind == ask.Seq && info.ForkSeq != p.Number {
					t.Errorf("%v: the branch is of barrier %d", p, info.ForkSeq)
				}
			}
		})
	}
}
