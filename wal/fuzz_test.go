package wal

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

var corpus = flag.Bool("corpus", false, "rewrite the seed corpora in testdata/fuzz")

// seedCorpus writes an input of a fuzz target into its corpus.
func seedCorpus(t *testing.T, target, name string, inputs ...any) {
	t.Helper()
	dir := filepath.Join("testdata", "fuzz", target)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	text := "go test fuzz v1\n"
	for _, in := range inputs {
		switch v := in.(type) {
		case []byte:
			text += fmt.Sprintf("[]byte(%q)\n", v)
		default:
			text += fmt.Sprintf("%T(%v)\n", v, v)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// TestCorpora rewrites the corpora when asked to.
func TestCorpora(t *testing.T) {
	if !*corpus {
		t.Skip("only with -corpus")
	}
	images, ends := history(t)
	last := images[3]
	seedCorpus(t, "FuzzFileHeader", "live", last[:headerBytes], last[headerCopyAt:headerCopyAt+headerBytes])
	seedCorpus(t, "FuzzFileHeader", "torn", last[:headerBytes], images[0][headerCopyAt:headerCopyAt+headerBytes])
	seedCorpus(t, "FuzzFileHeader", "free", images[0][:headerBytes], images[0][headerCopyAt:headerCopyAt+headerBytes])
	seedCorpus(t, "FuzzFileHeader", "zero", make([]byte, headerBytes), []byte{})
	for i, at := range ends[:3] {
		block := last[at*BlockSize : (at+1)*BlockSize]
		seedCorpus(t, "FuzzRecordHeader", fmt.Sprint("batch", i+1), trimZeros(block[:recordSumAt]), uint32(at))
	}
	r := &Record{arena: make([]byte, 5*BlockSize)}
	r.AddRange(KindTrim, 5, 1<<40)
	r.AddBlock(9)
	r.AddRange(KindZero, 0, BlockMax)
	encodeRecord(r.arena, &recordHeader{slot: 3, seq: 9, blocks: 1, flags: flagCommit, time: -5}, r.entries)
	seedCorpus(t, "FuzzRecordHeader", "ranges", trimZeros(r.arena[:recordSumAt]), uint32(3))
	for name, script := range map[string][]byte{
		"torn":    {0x11, 0x21, 0x31, 0x05},
		"spilled": {0x10, 0x20, 0x31, 0x41, 0x07},
		"damaged": {0x11, 0x21, 0x11, 0x21, 0x80, 0x41},
		"empty":   {},
	} {
		seedCorpus(t, "FuzzReplay", name, script, uint16(3*BlockSize+9), byte(0x20))
		seedCorpus(t, "FuzzReplay", name+"-header", script, uint16(17), byte(0xff))
	}
}

func trimZeros(p []byte) []byte { return bytes.TrimRight(p, "\x00") }

// FuzzFileHeader: any two copies decode to a state, and a live or free one comes
// back the same when it is encoded again. The checksum is made right, or no
// fuzzer would get past it.
func FuzzFileHeader(f *testing.F) {
	f.Fuzz(func(t *testing.T, a, b []byte) {
		block := make([]byte, BlockSize)
		for i, p := range [][]byte{a, b} {
			dst := block[i*headerCopyAt:][:headerBytes]
			if copy(dst, p) >= headerBytes/2 {
				le32(dst[headerSumAt:], sum(dst[:headerSumAt]))
			}
		}
		h, state := decodeHeader(block)
		if state != fileLive {
			return
		}
		if h.Log == "" || len(h.Log) > LogMax {
			t.Fatalf("log id %q", h.Log)
		}
		again := make([]byte, BlockSize)
		encodeHeader(again, &h, headerLive)
		got, state := decodeHeader(again)
		if diff := cmp.Diff(h, got, cmp.AllowUnexported(fileHeader{})); diff != "" || state != fileLive {
			t.Fatalf("decoded again: state %d\n%s", state, diff)
		}
	})
}

// FuzzRecordHeader: what decodes has entries that stay inside the record and the
// device, and survives being encoded again.
func FuzzRecordHeader(f *testing.F) {
	f.Fuzz(func(t *testing.T, p []byte, slot uint32) {
		b := make([]byte, BlockSize)
		copy(b, p)
		copy(b, recordMagic)
		le32(b[12:], slot)
		le32(b[recordSumAt:], sum(b[:recordSumAt]))
		h := decodeRecord(b)
		if !isRecord(b, h.nonce, Slot(slot)) {
			t.Fatal("not a record")
		}
		// Replay looks at entries only when the record fits in the file.
		if uint64(slot)+uint64(h.blocks) >= fileBytesMax/BlockSize {
			return
		}
		entries, err := appendEntries(nil, b, &h)
		if err != nil {
			return
		}
		if len(entries) > EntriesMax {
			t.Fatalf("%d entries", len(entries))
		}
		data := uint64(0)
		for _, e := range entries {
			if e.Count == 0 || e.Block+e.Count > BlockMax {
				t.Fatalf("entry %+v", e)
			}
			if e.Kind == KindData {
				if uint64(e.Slot) != uint64(slot)+1+data {
					t.Fatalf("entry %+v: want slot %d", e, uint64(slot)+1+data)
				}
				data += e.Count
			}
		}
		if data != uint64(h.blocks) {
			t.Fatalf("%d blocks of %d", data, h.blocks)
		}
		again := make([]byte, BlockSize)
		encodeRecord(again, &h, entries)
		h2 := decodeRecord(again)
		h2.version = h.version
		if h2 != h {
			t.Fatalf("decoded again: %+v, want %+v", h2, h)
		}
		if got, err := appendEntries(nil, again, &h2); err != nil || !cmp.Equal(got, entries) {
			t.Fatalf("entries decoded again: %v, %v", got, err)
		}
	})
}

// FuzzReplay writes a journal by a script, damages one byte, and replays it: the
// result is a prefix of what was written, and an error if it is too short.
//
// Each byte of the script is a record: the high half how many blocks it has, bit 0
// whether it commits, bits 1 to 3 what else it holds.
func FuzzReplay(f *testing.F) {
	f.Fuzz(func(t *testing.T, script []byte, at uint16, flip byte) {
		const slots = 16
		j := &Journal{slots: slots, sums: make([]uint32, slots), header: fileHeader{slots: slots}}
		j.header.Log, j.header.FirstSeq, j.header.Created = "fuzz", 1, time.Unix(0, 1)
		image := make([]byte, slots*BlockSize)
		encodeHeader(image, &j.header, headerLive)
		seq, index, durable, end := Seq(1), uint32(0), 0, Slot(0)
		slot := Slot(firstRecordSlot)
		for _, c := range script {
			r := &Record{arena: image[slot*BlockSize:]}
			if slot+Slot(c>>4)+1 > slots {
				break
			}
			for n := range c >> 4 {
				buf, _, _ := r.AddBlock(uint64(n) * uint64(c&3))
				buf[0] = byte(seq)
			}
			if c&4 != 0 {
				r.AddRange(KindTrim, uint64(c), 3)
			}
			h := recordHeader{slot: slot, seq: seq, index: index, flags: uint16(c & 1), nonce: j.header.nonce}
			j.encode(r, h)
			slot += Slot(r.Size())
			index++
			if c&1 != 0 {
				seq, index, durable, end = seq+1, 0, durable+1, slot
			}
		}
		image[at] ^= flip
		got, err := load(image)
		if len(got.batches) > durable {
			t.Fatalf("%d batches, %d were written", len(got.batches), durable)
		}
		for i, b := range got.batches {
			if b.seq != Seq(i+1) {
				t.Fatalf("batch %d has seq %d", i, b.seq)
			}
		}
		switch place := Slot(at / BlockSize); {
		case flip == 0 || place == 0 || place >= end:
			if err != nil || len(got.batches) != durable {
				t.Fatalf("%d batches of %d, %v", len(got.batches), durable, err)
			}
		case err == nil && len(got.batches) < durable-1:
			t.Fatalf("%d batches of %d, and no error", len(got.batches), durable)
		}
	})
}
