package cow

import (
	"bytes"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"slices"
	"testing"
	"time"

	"github.com/bough-db/bough/wal"
)

// slots is a journal in memory.
type slots [][]byte

func (s slots) ReadAt(p []byte, slot wal.Slot) error {
	for i := 0; i < len(p); i += BlockSize {
		copy(p[i:], s[int(slot)+i/BlockSize])
	}
	return nil
}

// sampleJournal is a journal of n blocks in batches of up to 7, with trims between.
func sampleJournal(n int) (segmentHead, []wal.Batch, slots) {
	h := segmentHead{Log: "br-calm-oak-00000001", Number: 7, Epoch: 3, Nonce: nonce{1, 2, 3}, Host: "here", Created: 1700000000e9}
	src := slots{make([]byte, BlockSize)}
	var batches []wal.Batch
	for i := 0; i < n; {
		b := wal.Batch{Seq: wal.Seq(100 + len(batches)), Time: time.Unix(1700000000+int64(i), 5), LSN: uint64(i) * 8192}
		src = append(src, make([]byte, BlockSize)) // the record's header
		c := min(7, n-i)
		b.Entries = append(b.Entries, wal.Entry{Kind: wal.KindData, Block: uint64(1000 - i), Count: uint64(c), Slot: wal.Slot(len(src))})
		for range c {
			p := stamped(uint64(i+1), BlockSize)
			if i%3 == 0 {
				p = bytes.Repeat([]byte{byte(i)}, BlockSize)
			}
			src = append(src, p)
			i++
		}
		b.Entries = append(b.Entries, wal.Entry{Kind: wal.KindTrim, Block: 5, Count: 1 << 20}, wal.Entry{Kind: wal.KindZero, Block: 1 << 28, Count: 9})
		batches = append(batches, b)
	}
	return h, batches, src
}

// segmentOf returns the segment object of a sample journal.
func segmentOf(t testing.TB, n int) []byte {
	e, err := newSegmentEncoder()
	if err != nil {
		t.Fatal(err)
	}
	h, batches, src := sampleJournal(n)
	out, err := e.encode(h, batches, src, wal.Slot(len(src)))
	if err != nil {
		t.Fatal(err)
	}
	return bytes.Clone(out)
}

// TestSegment: what is packed comes back, block by block and batch by batch.
func TestSegment(t *testing.T) {
	for _, n := range []int{0, 1, 15, 16, 17, 1000} {
		h, batches, src := sampleJournal(n)
		seg := segmentOf(t, n)
		tr, err := decodeTrailer(seg[len(seg)-segmentTrailer:], int64(len(seg)))
		if err != nil {
			t.Fatal(err)
		}
		f, err := decodeFooter(reader(t), tr, seg[tr.off:tr.off+tr.size], true)
		if err != nil {
			t.Fatal(err)
		}
		if f.head != h {
			t.Errorf("head %+v became %+v", h, f.head)
		}
		same := slices.EqualFunc(f.batches, batches, func(a, b wal.Batch) bool {
			return a.Seq == b.Seq && a.LSN == b.LSN && a.Time.Equal(b.Time) && slices.Equal(a.Entries, b.Entries)
		})
		if !same {
			t.Errorf("%d blocks: batches %v became %v", n, batches, f.batches)
		}
		blocks := 0
		for _, b := range batches {
			for i := range b.Entries[0].Count {
				slot := b.Entries[0].Slot + wal.Slot(i)
				fr, pos, ok := f.index.find(slot)
				if !ok {
					t.Fatalf("slot %d is not there", slot)
				}
				info := f.index.frames[fr]
				p, err := decodeFrame(reader(t), info, seg[info.off:info.off+info.size], nil)
				if err != nil {
					t.Fatal(err)
				}
				if !bytes.Equal(p[pos*BlockSize:(pos+1)*BlockSize], src[slot]) {
					t.Fatalf("slot %d has other contents", slot)
				}
				blocks++
			}
		}
		if blocks != n {
			t.Errorf("%d blocks instead of %d", blocks, n)
		}
		if _, _, ok := f.index.find(0); ok {
			t.Error("slot 0 holds a block")
		}
	}
}

// TestSegmentVersions: a later version is refused by name, not called damage.
func TestSegmentVersions(t *testing.T) {
	h, batches, src := sampleJournal(3)
	e, err := newSegmentEncoder()
	if err != nil {
		t.Fatal(err)
	}
	seg, err := e.encode(h, batches, src, wal.Slot(len(src)))
	if err != nil {
		t.Fatal(err)
	}
	tr := bytes.Clone(seg[len(seg)-segmentTrailer:])
	tr[8] = 2
	binary.LittleEndian.PutUint32(tr[32:], crc32.Checksum(tr[:32], castagnoli))
	if _, err := decodeTrailer(tr, int64(len(seg))); !errors.Is(err, ErrNewerFormat) {
		t.Errorf("trailer of version 2: %v", err)
	}
	if err := decodeRecord(nameKind, []byte("bough name 2 00000000\n{}\n"), &nameRecord{}); !errors.Is(err, ErrNewerFormat) {
		t.Errorf("record of version 2: %v", err)
	}
}
