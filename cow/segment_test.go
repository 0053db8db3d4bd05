package cow

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
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
	h := segmentHead{Log: "br-calm-oak-00000001", Number: 7, Epoch: 3, Nonce: nonce{1, 2, 3}, Host: "here", Created: 1700000000e9, Checkpoint: 6}
	src := slots{make([]byte, BlockSize)}
	var batches []wal.Batch
	for i := 0; i < n; {
		b := wal.Batch{Seq: wal.Seq(100 + len(batches)), Time: time.Unix(1700000000+int64(i), 5), LSN: uint64(i) * 8192, Line: uint64(1 + i/50)}
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
		tr, err := decodeTrailer(segmentMagic, seg[len(seg)-segmentTrailer:], int64(len(seg)))
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
			return a.Seq == b.Seq && a.LSN == b.LSN && a.Line == b.Line && a.Time.Equal(b.Time) && slices.Equal(a.Entries, b.Entries)
		})
		if !same {
			t.Errorf("%d blocks: batches %v became %v", n, batches, f.batches)
		}
		blocks := 0
		for _, b := range batches {
			for i := range b.Entries[0].Count {
				slot := b.Entries[0].Slot + wal.Slot(i)
				fr, pos, ok := f.index.find(7, slot)
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
		if _, _, ok := f.index.find(7, 0); ok {
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
	tr[8] = segmentVersion + 1
	binary.LittleEndian.PutUint32(tr[32:], crc32.Checksum(tr[:32], castagnoli))
	if _, err := decodeTrailer(segmentMagic, tr, int64(len(seg))); !errors.Is(err, ErrNewerFormat) {
		t.Errorf("trailer of a later version: %v", err)
	}
	if err := decodeRecord(nameKind, []byte("bough name 2 00000000\n{}\n"), &nameRecord{}); !errors.Is(err, ErrNewerFormat) {
		t.Errorf("record of version 2: %v", err)
	}
}

// TestFooterVersion1 reads the footer of a segment that an earlier version wrote,
// which has no marks: the example of its description.
func TestFooterVersion1(t *testing.T) {
	raw, err := hex.DecodeString("1562722d796f756e672d6173682d7475747568" + "35646a056c6f63616c0101d2d8e8f83ec12a2ee7" +
		"543378f83a62cc150dd43a0386e01802010000020904021180" + "0e0101000001" + "02c801080101" + "03ba08b4643fdb040202")
	if err != nil {
		t.Fatal(err)
	}
	f, err := parseFooter(raw, 1, true, 1082)
	if err != nil {
		t.Fatal(err)
	}
	if f.head.Log != "br-young-ash-tutuh5dj" || f.head.Checkpoint != 0 || len(f.batches) != 2 {
		t.Fatalf("it is of %s, names checkpoint %d, and has %d batches", f.head.Log, f.head.Checkpoint, len(f.batches))
	}
	want := []wal.Entry{{Block: 2, Count: 2, Slot: 2, Kind: wal.KindData}, {Block: 900, Count: 1, Slot: 4, Kind: wal.KindData}}
	if b := f.batches[0]; b.Seq != 1 || b.LSN != 0 || b.Line != 0 || !slices.Equal(b.Entries, want) {
		t.Errorf("first batch: %+v", b)
	}
	want = []wal.Entry{{Block: 100, Count: 8, Kind: wal.KindTrim}}
	if b := f.batches[1]; b.Seq != 2 || !slices.Equal(b.Entries, want) {
		t.Errorf("second batch: %+v", b)
	}
	if _, err := parseFooter(raw, segmentVersion, true, 1082); !errors.Is(err, ErrCorrupt) {
		t.Errorf("read as version %d: %v, want ErrCorrupt", segmentVersion, err)
	}
}
