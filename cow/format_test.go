package cow

import (
	"encoding/hex"
	"os"
	"strings"
	"testing"
	"time"
)

// TestFormatDoc compares the examples of docs/format-store.md with what the code
// writes: a change of format without one of the page fails here.
func TestFormatDoc(t *testing.T) {
	w := newWorld(t, Options{
		SealAfter: time.Hour, Random: &counting{},
		Now: func() time.Time { return time.Unix(1792580000, 123456789) },
	})
	b := w.makeProject("demo", 1<<30)
	w.writeUnflushed(b, 2, 1)
	w.writeUnflushed(b, 3, 1)
	w.write(b, 900, 2)
	if err := b.Trim(t.Context(), 100*BlockSize, 8*BlockSize); err != nil {
		t.Fatal(err)
	}
	w.closeBranch(b)
	child, err := w.store.CreateBranch(t.Context(), "demo", "dev", BranchOptions{From: b.ID()})
	if err != nil {
		t.Fatal(err)
	}
	page, err := os.ReadFile("../docs/format-store.md")
	if err != nil {
		t.Fatal(err)
	}
	in := func(what, text string) {
		t.Helper()
		text = "    " + strings.ReplaceAll(strings.TrimSuffix(text, "\n"), "\n", "\n    ") + "\n"
		if !strings.Contains(string(page), text) {
			t.Errorf("docs/format-store.md does not have this %s:\n%s", what, text)
		}
	}
	for _, key := range []string{formatKey, projectKey("demo"), nameKey("demo", MainBranch), manifestKey(b.ID()), manifestKey(child.ID)} {
		in(key, string(getObject(t, w.objects, key)))
	}
	seg := getObject(t, w.objects, segmentKey(b.ID(), 1))
	tr, err := decodeTrailer(segmentMagic, seg[len(seg)-segmentTrailer:], int64(len(seg)))
	if err != nil {
		t.Fatal(err)
	}
	raw, err := reader(t).DecodeAll(seg[tr.off:tr.off+tr.size], make([]byte, 0, tr.raw))
	if err != nil {
		t.Fatal(err)
	}
	in("footer", hex.Dump(raw))
	in("trailer", hex.Dump(seg[len(seg)-segmentTrailer:]))
	ckpt := getObject(t, w.objects, checkpointKey(b.ID(), 1))
	in("checkpoint", hex.Dump(ckpt[:0x70]))
	in("start set", hex.Dump(encodeStart(startKey(b.ID()), &startSet{groups: map[uint32]uint16{0: 0b11, 32: 0, 128: 0b100}})))
}
