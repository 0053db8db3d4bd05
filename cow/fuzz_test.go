package cow

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/bough-db/bough/wal"
	"github.com/klauspost/compress/zstd"
)

// The fuzz targets hand hostile bytes to every decoder of objects. None may panic,
// take much memory, or accept what it would not write; checksums are made right
// first, or nothing would get past them. The corpora in testdata/fuzz are written
// by TestCorpora -update and run as ordinary tests.

func reader(t testing.TB) *zstd.Decoder {
	zr, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(footerBytesMax),
		zstd.WithDecodeAllCapLimit(true))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(zr.Close)
	return zr
}

// isOurs fails unless err is one that damaged objects may give.
func isOurs(t *testing.T, err error) {
	t.Helper()
	if err != nil && !errors.Is(err, ErrCorrupt) && !errors.Is(err, ErrNewerFormat) {
		t.Fatalf("decoder says %v", err)
	}
}

func FuzzPage(f *testing.F) {
	f.Fuzz(func(t *testing.T, level uint8, body []byte) {
		level %= topLevel + 1
		page := binary.LittleEndian.AppendUint32(body, crc32.Update(7, castagnoli, body))
		n, err := decodePage(page, level, 0, 7)
		isOurs(t, err)
		if err != nil {
			return
		}
		if level == 0 {
			checkLeaf(t, n)
		}
		var kids []pageAddr
		if n.kids != nil {
			for i := range n.kids {
				kids = append(kids, n.kids[i].at)
			}
		}
		again, err := decodePage(encodePage(nil, n, 0, kids, 3), level, 0, 3)
		if err != nil {
			t.Fatalf("what was decoded does not encode: %v", err)
		}
		if level == 0 && fmt.Sprint(again.leafRuns()) != fmt.Sprint(n.leafRuns()) {
			t.Fatalf("%v became %v", n.leafRuns(), again.leafRuns())
		}
		if level > 0 && *again.kids != *n.kids {
			t.Fatal("children changed")
		}
	})
}

// checkLeaf fails unless every address of a leaf has a slot.
func checkLeaf(t *testing.T, n *node) {
	end := 0
	for _, r := range n.leafRuns() {
		if int(r.start) < end || r.n == 0 || int(r.start+r.n) > leafSize || r.at.slot() == 0 || uint64(r.at.slot())+uint64(r.n)-1 > slotMax {
			t.Fatalf("run %+v", r)
		}
		end = int(r.start + r.n)
	}
}

func FuzzFooter(f *testing.F) {
	f.Fuzz(func(t *testing.T, raw []byte, frames uint64) {
		ft, err := parseFooter(raw, segmentVersion, true, frames)
		isOurs(t, err)
		bare, berr := parseFooter(raw, segmentVersion, false, frames)
		if (err == nil) != (berr == nil) {
			t.Fatalf("with batches %v, without %v", err, berr)
		}
		if err != nil {
			return
		}
		if len(bare.batches) > 0 || len(bare.index.frames) != len(ft.index.frames) {
			t.Fatal("the index depends on whether batches are kept")
		}
		var end uint64
		for i, fr := range ft.index.frames {
			if uint64(fr.off) != end || fr.n == 0 || fr.n > frameBlocks {
				t.Fatalf("frame %d is %+v", i, fr)
			}
			end += uint64(fr.size)
		}
		for s := range ft.index.place {
			if fr, pos, ok := ft.index.find(0, wal.Slot(s)); ok && (fr >= len(ft.index.frames) || pos >= int(ft.index.frames[fr].n)) {
				t.Fatalf("slot %d is block %d of frame %d", s, pos, fr)
			}
		}
	})
}

func FuzzPack(f *testing.F) {
	f.Fuzz(func(t *testing.T, raw []byte, data uint64) {
		p, err := parsePackFooter(raw, true, data)
		isOurs(t, err)
		bare, berr := parsePackFooter(raw, false, data)
		if (err == nil) != (berr == nil) {
			t.Fatalf("with batches %v, without %v", err, berr)
		}
		if err != nil {
			return
		}
		if len(bare.batches) > 0 || len(bare.index.keys) != len(p.index.keys) {
			t.Fatal("the index depends on whether batches are kept")
		}
		var end uint64
		for i, fr := range p.index.frames {
			if uint64(fr.off) != end || fr.n == 0 || fr.n > frameBlocks {
				t.Fatalf("frame %d is %+v", i, fr)
			}
			end += uint64(fr.size)
		}
		for _, g := range p.pages {
			if uint64(g.at) != end {
				t.Fatalf("page %+v is not at %d", g, end)
			}
			end += uint64(g.n)
			if at, ok := p.pages.find(g.ckpt, g.off); !ok || at != g {
				t.Fatalf("page %+v is found as %+v, %v", g, at, ok)
			}
		}
		if end != data {
			t.Fatalf("frames and pages take %d of %d", end, data)
		}
		for _, k := range p.index.keys {
			seg, slot := p.head.From+wal.SegmentNo(k>>slotBits), wal.Slot(k&slotMax)
			if fr, pos, ok := p.index.find(seg, slot); !ok || fr >= len(p.index.frames) || pos >= int(p.index.frames[fr].n) {
				t.Fatalf("segment %d slot %d is block %d of frame %d, %v", seg, slot, pos, fr, ok)
			}
		}
	})
}

func FuzzTrailer(f *testing.F) {
	zr := reader(f)
	f.Fuzz(func(t *testing.T, packed, trailer []byte, fix bool) {
		if fix && len(trailer) == segmentTrailer {
			binary.LittleEndian.PutUint32(trailer[28:], crc32.Checksum(packed, castagnoli))
			binary.LittleEndian.PutUint32(trailer[32:], crc32.Checksum(trailer[:32], castagnoli))
		}
		for _, magic := range []string{segmentMagic, packMagic} {
			tr, err := decodeTrailer(magic, trailer, int64(len(packed)+len(trailer)))
			isOurs(t, err)
			if err != nil {
				continue
			}
			if tr.off+tr.size != uint64(len(packed)) {
				t.Fatalf("footer at %d+%d of %d", tr.off, tr.size, len(packed))
			}
			_, err = decodeFooter(zr, tr, packed[tr.off:], true)
			isOurs(t, err)
			_, err = decodePackFooter(zr, tr, packed[tr.off:], true)
			isOurs(t, err)
		}
	})
}

func FuzzFrame(f *testing.F) {
	zr := reader(f)
	f.Fuzz(func(t *testing.T, stored []byte, blocks, codec uint8, wrong bool) {
		info := frameInfo{size: uint32(len(stored)), n: blocks%frameBlocks + 1, codec: codec, sum: crc32.Checksum(stored, castagnoli)}
		if wrong {
			info.sum++
		}
		out, err := decodeFrame(zr, info, stored, nil)
		isOurs(t, err)
		if err == nil && (wrong || len(out) != int(info.n)*BlockSize) {
			t.Fatalf("%d blocks gave %d bytes, wrong checksum: %v", info.n, len(out), wrong)
		}
	})
}

func FuzzCheckpoint(f *testing.F) {
	f.Fuzz(func(t *testing.T, tail []byte, before uint16, fix bool) {
		if n := len(tail); fix && n >= checkpointTrailer {
			binary.LittleEndian.PutUint32(tail[n-4:], crc32.Checksum(tail[n-checkpointTrailer:n-4], castagnoli))
		}
		rec, more, err := decodeCheckpoint(tail, int64(before)+int64(len(tail)))
		isOurs(t, err)
		if err == nil && (rec == nil) == (more == 0) {
			t.Fatalf("record %v, and %d bytes more wanted", rec, more)
		}
		if more > 0 && more <= len(tail) {
			t.Fatalf("%d bytes wanted, there were %d", more, len(tail))
		}
	})
}

func FuzzStart(f *testing.F) {
	f.Fuzz(func(t *testing.T, data []byte, fix bool) {
		if n := len(data); fix && n >= 4 {
			sum := crc32.Update(crc32.Checksum([]byte("k"), castagnoli), castagnoli, data[:n-4])
			binary.LittleEndian.PutUint32(data[n-4:], sum)
		}
		set, err := decodeStart("k", data)
		isOurs(t, err)
		if err != nil {
			return
		}
		again, err := decodeStart("k", encodeStart("k", set))
		if err != nil || again.used != set.used || !maps.Equal(again.groups, set.groups) {
			t.Fatalf("%v became %v: %v", set, again, err)
		}
	})
}

// records are the kinds of records, each with an empty one to decode into.
func records() map[string]func() any {
	return map[string]func() any{
		formatKind:     func() any { return &formatRecord{} },
		projectKind:    func() any { return &ProjectInfo{} },
		nameKind:       func() any { return &nameRecord{} },
		manifestKind:   func() any { return &manifest{} },
		checkpointKind: func() any { return &checkpointRecord{} },
	}
}

func FuzzRecord(f *testing.F) {
	f.Fuzz(func(t *testing.T, data []byte, fix bool) {
		for kind, empty := range records() {
			if _, body, ok := bytes.Cut(data, []byte{'\n'}); fix && ok {
				data = fmt.Appendf(nil, "bough %s %d %08x\n%s", kind, recordVersion, crc32.Checksum(body, castagnoli), body)
			}
			v := empty()
			err := decodeRecord(kind, data, v)
			isOurs(t, err)
			if err != nil {
				continue
			}
			if m, ok := v.(*manifest); ok {
				isOurs(t, m.check("br-calm-oak-00000001"))
			}
			again, err := encodeRecord(kind, v)
			if err != nil {
				t.Fatalf("what was decoded does not encode: %v", err)
			}
			if err := decodeRecord(kind, again, empty()); err != nil {
				t.Fatalf("nor decode again: %v\n%s", err, again)
			}
		}
	})
}

func FuzzCheckName(f *testing.F) {
	f.Fuzz(func(t *testing.T, name string) {
		err := CheckName(name)
		if err != nil {
			if !errors.Is(err, ErrInvalidName) || len(err.Error()) > 500 {
				t.Fatalf("%q: %v", name, err)
			}
			return
		}
		if name == "" || len(name) > NameMax || strings.ContainsAny(name, "/\x00 ") || strings.Contains(name, "..") ||
			strings.HasPrefix(name, ".") || strings.ToLower(name) != name || filepath.Clean(name) != name {
			t.Fatalf("%q passes", name)
		}
	})
}

func FuzzCheckBranchID(f *testing.F) {
	f.Fuzz(func(t *testing.T, id string) {
		err := checkBranchID(BranchID(id))
		isOurs(t, err)
		if err == nil && (len(id) > 60 || strings.ContainsAny(id, "/. \x00") || !strings.HasPrefix(id, "br-")) {
			t.Fatalf("%q passes", id)
		}
	})
}

// fuzzSeeds returns what the corpora begin with: objects as a store has them, and
// what a person would try first.
func fuzzSeeds(t *testing.T) map[string][][]any {
	seeds := map[string][][]any{}
	add := func(target string, args ...any) { seeds[target] = append(seeds[target], args) }
	leaf := newNode(1, 0, 0)
	leaf.leafSet(3, 5, makeAddr(1, 2, 3))
	leaf.leafSet(8, 5, makeAddr(0, 9, 3))
	array := newNode(1, 0, 0)
	for i := range 200 {
		array.leafSet(i*2, 1, makeAddr(0, 1, wal.Slot(4000-i*3)))
	}
	kids := make([]pageAddr, innerSize)
	kids[0], kids[1023] = makePageAddr(0, 1, 0, 100), makePageAddr(3, 64, 70000, 4000)
	for _, p := range [][]byte{
		encodePage(nil, leaf, 0, nil, 7), encodePage(nil, array, 0, nil, 7), encodePage(nil, newNode(1, 0, 0), 0, nil, 7),
	} {
		add("FuzzPage", uint8(0), p[:len(p)-4])
	}
	inner := encodePage(nil, newNode(1, 0, 1), 0, kids, 7)
	add("FuzzPage", uint8(1), inner[:len(inner)-4])
	inner = encodePage(nil, newNode(1, 0, 2), 0, kids, 7)
	add("FuzzPage", uint8(2), inner[:len(inner)-4])

	seg := segmentOf(t, 40)
	tr, err := decodeTrailer(segmentMagic, seg[len(seg)-segmentTrailer:], int64(len(seg)))
	if err != nil {
		t.Fatal(err)
	}
	packed := seg[tr.off : len(seg)-segmentTrailer]
	raw, err := reader(t).DecodeAll(packed, make([]byte, 0, tr.raw))
	if err != nil {
		t.Fatal(err)
	}
	add("FuzzFooter", raw, tr.off)
	add("FuzzFooter", raw[:len(raw)/2], tr.off)
	add("FuzzFooter", []byte{}, uint64(0))
	trailer := bytes.Clone(seg[len(seg)-segmentTrailer:])
	binary.LittleEndian.PutUint64(trailer[16:], 0)
	add("FuzzTrailer", packed, trailer, true)
	add("FuzzTrailer", packed, seg[len(seg)-segmentTrailer:], false)
	f, err := parseFooter(raw, tr.version, false, tr.off)
	if err != nil {
		t.Fatal(err)
	}
	fr := f.index.frames[0]
	add("FuzzFrame", bytes.Clone(seg[fr.off:fr.off+fr.size]), fr.n-1, fr.codec, false)
	add("FuzzFrame", make([]byte, BlockSize), uint8(0), uint8(codecStored), false)
	add("FuzzFrame", []byte("not a frame"), uint8(3), uint8(codecZstd), false)

	obj := packOf(t, 40)
	if tr, err = decodeTrailer(packMagic, obj[len(obj)-segmentTrailer:], int64(len(obj))); err != nil {
		t.Fatal(err)
	}
	if raw, err = reader(t).DecodeAll(obj[tr.off:len(obj)-segmentTrailer], make([]byte, 0, tr.raw)); err != nil {
		t.Fatal(err)
	}
	add("FuzzPack", raw, tr.off)
	add("FuzzPack", raw[:len(raw)/2], tr.off)
	add("FuzzPack", raw, tr.off-7)
	add("FuzzTrailer", bytes.Clone(obj[tr.off:len(obj)-segmentTrailer]), bytes.Clone(obj[len(obj)-segmentTrailer:]), false)

	id := BranchID("br-calm-oak-00000001")
	for _, r := range []struct {
		kind string
		v    any
	}{
		{formatKind, &formatRecord{Created: time.Unix(1, 0).UTC()}},
		{projectKind, &ProjectInfo{Name: "p", Size: DefaultSize, Main: id}},
		{nameKind, &nameRecord{Project: "p", Name: "main", ID: id}},
		{manifestKind, &manifest{ID: id, Project: "p", Name: "main", Size: DefaultSize, Lineage: []BranchID{id}, Settings: []byte(`{"a":1}`)}},
	} {
		data, err := encodeRecord(r.kind, r.v)
		if err != nil {
			t.Fatal(err)
		}
		add("FuzzRecord", data, true)
		add("FuzzRecord", data, false)
	}
	rec := &checkpointRecord{Log: id, Segment: 1, Seq: 2, Lineage: []BranchID{id}, Root: pageRecord{2, 0, 100}}
	body, err := encodeRecord(checkpointKind, rec)
	if err != nil {
		t.Fatal(err)
	}
	tail := append(make([]byte, 0, 1000), body...)
	tail = append(tail, checkpointMagic...)
	tail = binary.LittleEndian.AppendUint32(tail, checkpointVersion)
	tail = binary.LittleEndian.AppendUint32(tail, uint32(len(body)))
	tail = binary.LittleEndian.AppendUint64(tail, 100)
	tail = append(tail, 0, 0, 0, 0)
	add("FuzzCheckpoint", tail, uint16(100), true)
	add("FuzzCheckpoint", tail[len(tail)-checkpointTrailer:], uint16(100+len(body)), true)
	start := encodeStart("k", &startSet{groups: map[uint32]uint16{0: 1, 5: 0, 300: 0xffff, startGroupsEnd - 1: 9}, used: true})
	add("FuzzStart", start, false)
	add("FuzzStart", start[:len(start)-3], true)
	add("FuzzStart", encodeStart("k", &startSet{}), true)
	for _, n := range []string{"main", "", "../x", "a/b", "A", strings.Repeat("a", 300), "a..b", "a.", "0_9-z"} {
		add("FuzzCheckName", n)
	}
	for _, n := range []string{string(id), "", "br-a-b", "br-a-b-c/d", "br-..-b-c"} {
		add("FuzzCheckBranchID", n)
	}
	return seeds
}

// TestCorpora compares the beginnings of the committed corpora with what the code
// writes today: a change of format shows.
func TestCorpora(t *testing.T) {
	for target, list := range fuzzSeeds(t) {
		for i, args := range list {
			text := "go test fuzz v1\n"
			for _, a := range args {
				switch a := a.(type) {
				case []byte:
					text += fmt.Sprintf("[]byte(%q)\n", a)
				case string:
					text += fmt.Sprintf("string(%q)\n", a)
				case uint8:
					text += fmt.Sprintf("byte('\\x%02x')\n", a)
				default:
					text += fmt.Sprintf("%T(%v)\n", a, a)
				}
			}
			golden(t, filepath.Join("testdata", "fuzz", target, fmt.Sprintf("seed-%02d", i)), text)
		}
	}
}

// golden compares text with the contents of a file, or writes it there.
func golden(t *testing.T, path, text string) {
	t.Helper()
	if *updateFlag {
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatalf("%v (write it with -update)", err)
	}
	if string(want) != text {
		t.Errorf("%s differs (rewrite it with -update if that is meant); got\n%s", path, text)
	}
}
