package cow

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/bough-db/bough/objstore"
	"github.com/bough-db/bough/wal"
)

// packRefs returns n packs of ten segments each, from segment from on.
func packRefs(from wal.SegmentNo, n int, cleaned bool) (refs []packRef) {
	for i := range n {
		at := from + wal.SegmentNo(i*10)
		refs = append(refs, packRef{
			From: at, To: at + 9, Gen: 5, First: wal.Seq(at), Last: wal.Seq(at) + 9, Next: wal.Seq(at) + 12, Cleaned: cleaned,
		})
	}
	return refs
}

// TestPackLists puts packs in and takes some out again, at random, and reads them back:
// from a manifest that stays small, and from lists that are not rewritten for nothing.
func TestPackLists(t *testing.T) {
	forSeeds(t, 300, func(t *testing.T, rng *rand.Rand, ops int) {
		w := newWorld(t, Options{})
		ctx := t.Context()
		m := &manifest{ID: "br-calm-oak-00000001"}
		var want []packRef
		next, put := wal.SegmentNo(1), 0
		for op := range ops {
			switch k := rng.IntN(10); {
			case k < 7: // the log has grown
				n := 1 + rng.IntN(30)
				want = append(want, packRefs(next, n, false)...)
				next += wal.SegmentNo(n * 10)
			case k < 8 && len(want) > 10: // some are packed again
				i := rng.IntN(len(want) - 5)
				n := 1 + rng.IntN(5)
				r := want[i]
				r.To, r.Last, r.Next, r.Gen, r.Cleaned = want[i+n-1].To, want[i+n-1].Last, want[i+n-1].Next, uint64(10+op), false
				want = slices.Concat(want[:i], []packRef{r}, want[i+n:])
			default: // what they stand for is deleted
				want = slices.Clone(want)
				for i := range want {
					want[i].Cleaned = true
				}
			}
			before := slices.Clone(m.PackLists)
			if err := w.store.setPacks(ctx, m, want, uint64(100+op)); err != nil {
				t.Fatal(err)
			}
			for _, r := range m.PackLists {
				if !slices.Contains(before, r) {
					put++
				}
			}
			if err := m.checkPacks(); err != nil {
				t.Fatal(err)
			}
			got, err := w.store.layoutOf(ctx, m)
			if err != nil {
				t.Fatal(err)
			}
			if !slices.Equal(got.packs, want) {
				t.Fatalf("operation %d: %d packs, want %d", op, len(got.packs), len(want))
			}
			if last := m.packedUpTo(); last != next-1 && len(want) > 0 {
				t.Fatalf("packed up to %d, want %d", last, next-1)
			}
			uncleaned := 0
			for _, r := range want {
				if !r.Cleaned {
					uncleaned++
				}
			}
			if n := len(m.Packs); n > uncleaned+20*packsInline {
				t.Fatalf("operation %d: the manifest names %d packs itself, %d are not cleaned", op, n, uncleaned)
			}
		}
		t.Logf("%d packs in the end, %d in the manifest, %d lists of %d that were put", len(want), len(m.Packs), len(m.PackLists), put)
	})
}

// TestManyPacks: a log of hundreds of packs is read through lists, in this process and
// in others, and by those who know an older manifest.
func TestManyPacks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := atOnce
		o.PackBlocks = 2
		w := newWorld(t, Options{SealAfter: time.Second, CheckpointSegments: 8, Retention: &noHistory})
		old := &world{t: t, objects: w.objects, opts: Options{Host: "other", Retention: &noHistory}}
		old.mustStart()
		defer old.stop()
		b := w.makeProject("p", deviceBytes)
		stamps := map[uint64]uint64{}
		write := func(n, from int) {
			t.Helper()
			for i := range n {
				at := uint64(from + i)
				stamps[at], stamps[9000] = at+1, at+1
				w.writeUnflushed(b, 9000, at+1) // dead soon
				w.write(b, at, at+1)
				wait(2 * time.Second)
			}
		}
		expect := func(w *world) {
			t.Helper()
			for _, c := range []string{"p/main"} {
				info, err := w.store.Branch(t.Context(), "p", c[2:])
				if err != nil {
					t.Fatal(err)
				}
				d := w.open(info.ID)
				for block, stamp := range stamps {
					w.expect(d, block, stamp)
				}
				w.closeBranch(d)
			}
		}
		for round := range 6 {
			write(60, round*60)
			w.closeBranch(b)
			w.collect(o)
			if round == 2 {
				expect(old) // it remembers this layout
			}
			b = w.open(b.ID())
		}
		w.closeBranch(b)
		m, _, err := w.store.readManifest(t.Context(), b.ID())
		if err != nil {
			t.Fatal(err)
		}
		l, err := w.store.layoutOf(t.Context(), m)
		if err != nil {
			t.Fatal(err)
		}
		data := getObject(t, w.objects, manifestKey(b.ID()))
		t.Logf("%d packs, %d in the manifest of %d bytes, %d lists", len(l.packs), len(m.Packs), len(data), len(m.PackLists))
		if len(m.PackLists) == 0 || len(l.packs) < 100 {
			t.Errorf("%d packs, and %d lists", len(l.packs), len(m.PackLists))
		}
		expect(old)
		expect(w)
		w.checkWhole()
		// A list that is damaged or gone is named.
		key := m.PackLists[0].key(m.ID)
		list := getObject(t, w.objects, key)
		if err := w.objects.Delete(t.Context(), key); err != nil {
			t.Fatal(err)
		}
		w.restart()
		rep, err := w.store.Check(t.Context(), CheckOptions{})
		if err != nil || rep.Whole() {
			t.Errorf("check without a list: %+v, %v", rep, err)
		}
		if _, err := w.store.layoutOf(t.Context(), m); !errors.Is(err, objstore.ErrNotExist) {
			t.Errorf("layout without a list: %v", err)
		}
		putObject(t, w.objects, key, fmt.Appendf(nil, "%s ", list))
		if _, err := w.store.layoutOf(t.Context(), m); !errors.Is(err, ErrCorrupt) {
			t.Errorf("layout with a damaged list: %v", err)
		}
		putObject(t, w.objects, key, list)
		w.checkWhole()
	})
}
