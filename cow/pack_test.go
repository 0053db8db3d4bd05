package cow

import (
	"bytes"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/bough-db/bough/wal"
)

// samplePack is a pack of n blocks of the segments 7 to 300, and its blocks in frame
// order.
func samplePack(n int) (*pack, []packedBlock) {
	p := &pack{
		head: packHead{
			Log: "br-calm-oak-00000001", From: 7, To: 300, Gen: 12, Nonce: nonce{1, 2, 3}, Host: "here",
			Created: 1700000000e9, First: 100, Last: 900, Next: 905, Source: 1 << 20,
		},
		epochs: []epochRun{{7, 3}, {100, 5}},
		fences: []wal.SegmentNo{100},
		roots:  []packRoot{{Segment: 64, Seq: 200, Time: time.Unix(1700000009, 8).UTC(), Mark: Mark{3, 5}, Epoch: 3, Root: makePageAddr(2, 64, 100, 50)}, {Segment: 300, Seq: 900, Time: time.Unix(1600000000, 0).UTC(), Epoch: 5}},
	}
	p.pages = []packPage{{ckpt: 64, off: 100, n: 50}, {ckpt: 64, off: 150, n: 30}, {ckpt: 128, off: 0, n: 40}}
	var order []packedBlock
	for i := range n {
		b := packedBlock{block: uint64(1000 + i/3*5 + i%3), segment: wal.SegmentNo(7 + i%290), slot: wal.Slot(1 + i/290)}
		order = append(order, b)
		if i%40 == 0 {
			p.batches = append(p.batches, packBatch{
				Seq: wal.Seq(100 + i/40), Time: time.Unix(1700000000+int64(i), 5), Mark: Mark{LSN: uint64(i) * 8192, Line: uint64(1 + i/50)}, Segment: 300, Kept: i%80 == 0,
				Entries: []packEntry{{Entry: wal.Entry{Kind: wal.KindTrim, Block: 1 << 20, Count: 77}}},
			})
		}
		last := &p.batches[len(p.batches)-1]
		last.Entries = append(last.Entries, packEntry{wal.Entry{Kind: wal.KindData, Block: b.block, Count: 1, Slot: b.slot}, b.segment})
	}
	p.batches = append(p.batches, packBatch{Seq: 900, Time: time.Unix(1700000900, 0), Segment: 300})
	return p, order
}

// packOf returns the object of a sample pack, whose blocks are stamped with their
// place in order, and the pages with zeros.
func packOf(t testing.TB, n int) []byte {
	e, err := newSegmentEncoder()
	if err != nil {
		t.Fatal(err)
	}
	p, order := samplePack(n)
	pages := make([][]byte, len(p.pages))
	for i := range pages {
		pages[i] = make([]byte, p.pages[i].n)
	}
	return bytes.Clone(e.encodePack(p, order, func(i int) []byte { return stamped(uint64(i+1), BlockSize) }, bytes.Join(pages, nil)))
}

// TestPack: what is packed comes back, block by block and batch by batch.
func TestPack(t *testing.T) {
	for _, n := range []int{1, 16, 17, 1000} {
		want, order := samplePack(n)
		obj := packOf(t, n)
		tr, err := decodeTrailer(packMagic, obj[len(obj)-segmentTrailer:], int64(len(obj)))
		if err != nil {
			t.Fatal(err)
		}
		got, err := decodePackFooter(reader(t), tr, obj[tr.off:tr.off+tr.size], true)
		if err != nil {
			t.Fatal(err)
		}
		if got.head != want.head || !slices.Equal(got.epochs, want.epochs) || !slices.Equal(got.fences, want.fences) || !slices.Equal(got.roots, want.roots) {
			t.Errorf("%+v became %+v", want, got)
		}
		if fmt.Sprint(got.batches) != fmt.Sprint(want.batches) {
			t.Errorf("%d blocks: batches\n%v became\n%v", n, want.batches, got.batches)
		}
		for i, b := range order {
			fr, pos, ok := got.index.find(b.segment, b.slot)
			if !ok {
				t.Fatalf("segment %d slot %d is not there", b.segment, b.slot)
			}
			info := got.index.frames[fr]
			blocks, err := decodeFrame(reader(t), info, obj[info.off:info.off+info.size], nil)
			if err != nil {
				t.Fatal(err)
			}
			if s, err := stampOf(blocks[pos*BlockSize : (pos+1)*BlockSize]); err != nil || s != uint64(i+1) {
				t.Fatalf("segment %d slot %d has stamp %d (%v), want %d", b.segment, b.slot, s, err, i+1)
			}
		}
		for _, seg := range []wal.SegmentNo{1, 6, 301, 7 + 1<<19} {
			if _, _, ok := got.index.find(seg, 1); ok {
				t.Errorf("segment %d is there", seg)
			}
		}
		for _, pg := range want.pages {
			found, ok := got.pages.find(pg.ckpt, pg.off)
			if !ok || found.n != pg.n || !bytes.Equal(obj[found.at:found.at+found.n], make([]byte, pg.n)) {
				t.Errorf("page %+v became %+v, %v", pg, found, ok)
			}
		}
		bare, err := decodePackFooter(reader(t), tr, obj[tr.off:tr.off+tr.size], false)
		if err != nil || len(bare.batches) > 0 || !reflect.DeepEqual(bare.index, got.index) {
			t.Errorf("without batches: %+v, %v", bare, err)
		}
	}
}

// TestPackKeeps: which barriers and epochs a pack knows.
func TestPackKeeps(t *testing.T) {
	p, _ := samplePack(200)
	for seq, want := range map[wal.Seq]bool{99: false, 100: true, 101: false, 102: true, 103: false, 900: false, 901: false} {
		if got := p.keeps(seq); got != want {
			t.Errorf("barrier %d: kept %v, want %v", seq, got, want)
		}
	}
	for seg, want := range map[wal.SegmentNo]uint64{7: 3, 99: 3, 100: 5, 300: 5} {
		if got := p.epoch(seg); got != want {
			t.Errorf("segment %d: epoch %d, want %d", seg, got, want)
		}
	}
}

// TestNotKept: a barrier that a pack has not kept is refused by name, one that it has
// kept is not, and neither are those that it says nothing of.
func TestNotKept(t *testing.T) {
	w := newWorld(t, Options{})
	p, _ := samplePack(200)
	h := p.head
	putObject(t, w.objects, h.id().key(), packOf(t, 200))
	l := &layout{log: h.Log, packs: []packRef{{From: h.From, To: h.To, Gen: h.Gen, First: h.First, Last: h.Last, Next: h.Next}}}
	for seq, want := range map[wal.Seq]error{99: nil, 100: nil, 101: ErrNotKept, 102: nil, 900: ErrNotKept, 904: ErrNotKept, 905: nil} {
		if err := w.store.checkKept(t.Context(), l, seq); !errors.Is(err, want) || want == nil && err != nil {
			t.Errorf("barrier %d: %v, want %v", seq, err, want)
		}
	}
}
