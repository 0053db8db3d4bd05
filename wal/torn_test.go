package wal

import (
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/bough-db/bough/vfs"
	"github.com/bough-db/bough/vfs/faultfs"
	"github.com/bough-db/bough/vfs/memfs"
)

const testPath = "/journal/j-00000001"

// testOptions are for pools of one small file each, so that it is known which
// file a journal gets.
func testOptions() PoolOptions {
	return PoolOptions{FileBytes: 64 << 10, MaxBytes: 64 << 10, Spare: 1, Logger: quiet()}
}

func image(t testing.TB, fsys vfs.FS) []byte {
	t.Helper()
	p, err := vfs.ReadFile(fsys, testPath)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// load recovers a journal from a file's contents.
func load(data []byte) (*Journal, error) {
	slots := Slot(len(data) / BlockSize)
	j := &Journal{path: testPath, slots: slots, sums: make([]uint32, slots), readOnly: true}
	return j, j.load(newScanner(bytesFile{r: bytes.NewReader(data)}, slots))
}

// bytesFile is a file for recovery alone.
type bytesFile struct {
	vfs.File
	r *bytes.Reader
}

func (f bytesFile) ReadAt(p []byte, off int64) (int, error) { return f.r.ReadAt(p, off) }

// history writes batches 1 to 3 into a recycled file full of stale records, the
// last of them spilled in part, and returns the file's contents after each, the
// state before the first included. ends are the slots where each batch ends.
func history(t testing.TB) (images [][]byte, ends []Slot) {
	t.Helper()
	mem := memfs.New(memfs.Options{})
	p := openPool(t, mem, "/journal", testOptions())
	old := create(t, p, "br-old", 1)
	for seq := Seq(1); old.Room() >= 2; seq++ {
		write(t, old, meta(seq, true), record(t, p, seq, 7))
	}
	old.Release()
	j := create(t, p, "br-new", 2)
	step := func() {
		images, ends = append(images, image(t, mem)), append(ends, j.End())
	}
	step()
	write(t, j, meta(1, true), record(t, p, 1, 7))
	step()
	write(t, j, meta(2, true), record(t, p, 2, 7))
	step()
	write(t, j, meta(3, false), record(t, p, 3, 8))
	write(t, j, meta(3, true), record(t, p, 3, 9))
	step()
	return images, ends
}

// stride is the step of the sweeps over every byte.
func stride(t *testing.T) int {
	if testing.Short() {
		return 61
	}
	return sweepStep
}

// TestTornTail cuts the last batch at every byte, either end first, over the
// stale records of an earlier life.
func TestTornTail(t *testing.T) {
	images, ends := history(t)
	before, after := images[2], images[3]
	from, to := int(ends[2])*BlockSize, int(ends[3])*BlockSize
	check := func(data []byte, what string, at int) {
		t.Helper()
		want := 2
		if bytes.Equal(data, after) {
			want = 3
		}
		if j, err := load(data); err != nil || len(j.batches) != want {
			t.Fatalf("%s %d: %d batches, %v; want %d", what, at-from, len(j.batches), err, want)
		}
	}
	for at := from; at <= to; at += stride(t) {
		check(append(bytes.Clone(after[:at]), before[at:]...), "new up to byte", at)
		check(append(bytes.Clone(before[:at]), after[at:]...), "new from byte", at)
	}
	rng := rand.New(rand.NewPCG(newSeed(t), 3))
	for n := range 2000 {
		data := bytes.Clone(before)
		for at := from; at < to; at += 512 {
			if rng.IntN(2) == 0 {
				copy(data[at:at+512], after[at:])
			}
		}
		check(data, "random sectors", from+n)
	}
}

// TestTornFirstWrite cuts the write that brings the header, at every sector
// subset of slot 0 and every byte. Nothing was acknowledged: it is one batch or
// none, and never an error.
func TestTornFirstWrite(t *testing.T) {
	images, ends := history(t)
	virgin := make([]byte, len(images[0]))
	for name, before := range map[string][]byte{"recycled": images[0], "virgin": virgin} {
		after := append(bytes.Clone(images[1][:2*BlockSize]), before[2*BlockSize:]...)
		copy(after[2*BlockSize:], images[1][2*BlockSize:int(ends[1])*BlockSize])
		for at := 0; at <= int(ends[1])*BlockSize; at += stride(t) {
			for _, data := range [][]byte{
				append(bytes.Clone(after[:at]), before[at:]...),
				append(bytes.Clone(before[:at]), after[at:]...),
			} {
				if j, err := load(data); err != nil || len(j.batches) > 1 {
					t.Fatalf("%s, cut at %d: %d batches, %v", name, at, len(j.batches), err)
				}
			}
		}
		for mask := range 1 << 8 {
			data := bytes.Clone(after)
			for i := range 8 {
				if mask>>i&1 != 0 {
					copy(data[i*512:(i+1)*512], before[i*512:])
				}
			}
			if j, err := load(data); err != nil || len(j.batches) > 1 {
				t.Fatalf("%s, old sectors %b: %d batches, %v", name, mask, len(j.batches), err)
			}
		}
	}
}

// TestCorruption flips a bit in every byte of a journal. Damage before the last
// batch is reported, with the batches before it; damage of one header copy is
// made good by the other; damage of the last batch is a torn tail.
func TestCorruption(t *testing.T) {
	images, ends := history(t)
	data := images[3]
	for at := 0; at < int(ends[3])*BlockSize; at += stride(t) {
		data[at] ^= 0x40
		j, err := load(data)
		data[at] ^= 0x40
		slot := Slot(at / BlockSize)
		want, corrupt := 3, false
		for i := 1; i <= 3; i++ {
			if slot >= ends[i-1] && slot < ends[i] {
				want, corrupt = i-1, i < 3
			}
		}
		if corrupt && (!errors.Is(err, ErrCorrupt) || !strings.Contains(err.Error(), testPath)) || !corrupt && err != nil {
			t.Fatalf("bit flipped in byte %d (slot %d): %v", at, slot, err)
		}
		if len(j.batches) != want {
			t.Fatalf("bit flipped in byte %d (slot %d): %d batches, want %d", at, slot, len(j.batches), want)
		}
	}
}

func TestDamagedHeader(t *testing.T) {
	images, ends := history(t)
	garbage := func(n int) []byte { return bytes.Repeat([]byte{0xa5}, n) }
	for _, c := range []struct {
		name    string
		change  func(data []byte) []byte
		batches int
		err     error
	}{
		{"first copy lost", func(d []byte) []byte { copy(d, garbage(512)); return d }, 3, nil},
		{"second copy lost", func(d []byte) []byte { copy(d[2048:], garbage(512)); return d }, 3, nil},
		{"first copy zero", func(d []byte) []byte { clear(d[:512]); return d }, 3, nil},
		{"both copies lost", func(d []byte) []byte { copy(d, garbage(4096)); return d }, 0, ErrCorrupt},
		{"slot 0 zero", func(d []byte) []byte { clear(d[:4096]); return d }, 0, ErrCorrupt},
		{"slot 0 of the life before", func(d []byte) []byte { copy(d, images[0][:4096]); return d }, 0, ErrCorrupt},
		{"file cut", func(d []byte) []byte { return d[:int(ends[2])*BlockSize] }, 2, ErrCorrupt},
		{"file cut after the end", func(d []byte) []byte { return d[:int(ends[3])*BlockSize] }, 3, ErrCorrupt},
		{"newer version", func(d []byte) []byte {
			for _, at := range []int{0, 2048} {
				d[at+8] = 9
				le32(d[at+headerSumAt:], sum(d[at:at+headerSumAt]))
			}
			return d
		}, 0, ErrVersion},
		{"newer record", func(d []byte) []byte {
			b := d[int(ends[1])*BlockSize:]
			b[10] |= 0x80
			le32(b[recordSumAt:], sum(b[:recordSumAt]))
			return d
		}, 1, ErrVersion},
		{"record out of place", func(d []byte) []byte {
			copy(d[int(ends[0])*BlockSize:], d[int(ends[1])*BlockSize:int(ends[2])*BlockSize])
			return d
		}, 0, ErrCorrupt},
		{"intact", func(d []byte) []byte { return d }, 3, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			j, err := load(c.change(bytes.Clone(images[3])))
			if !errors.Is(err, c.err) || len(j.batches) != c.batches {
				t.Fatalf("%d batches, %v; want %d, %v", len(j.batches), err, c.batches, c.err)
			}
		})
	}
}

func le32(p []byte, v uint32) {
	for i := range 4 {
		p[i] = byte(v >> (8 * i))
	}
}

// TestStaleTail: a life with fewer batches does not inherit those of the life
// before, although every record is intact, of the same size, and continues the
// sequence.
func TestStaleTail(t *testing.T) {
	mem := memfs.New(memfs.Options{})
	p := openPool(t, mem, "/journal", testOptions())
	old := create(t, p, "br-a", 1)
	for seq := Seq(1); seq <= 6; seq++ {
		write(t, old, meta(seq, true), record(t, p, seq, uint64(seq)))
	}
	old.Release()
	j := create(t, p, "br-a", 1)
	for seq := Seq(1); seq <= 2; seq++ {
		write(t, j, meta(seq, true), record(t, p, seq, uint64(seq)+100))
	}
	got, err := load(image(t, mem))
	if err != nil || len(got.batches) != 2 || got.entries[1].Block != 102 {
		t.Fatalf("%d batches, %v, entries %v", len(got.batches), err, got.entries)
	}
}

// TestMarkerSeenIsNotDurable: the process dies while it marks a file as free;
// the next one sees the mark, reuses the file, and loses power during its first
// write. Found by TestCrashEverywhere.
func TestMarkerSeenIsNotDurable(t *testing.T) {
	rng := rand.New(rand.NewPCG(newSeed(t), 4))
	for range 300 {
		mem := memfs.New(memfs.Options{})
		ffs := faultfs.New(mem, "/journal")
		p := openPool(t, ffs, "/journal", testOptions())
		j := create(t, p, "br-a", 1)
		for seq := Seq(1); seq <= 3; seq++ {
			write(t, j, meta(seq, true), record(t, p, seq, uint64(seq)))
		}
		ffs.CrashAt(ffs.Mutations())
		j.Release()
		p.quiesce()

		mem = mem.CrashClone(rng, memfs.Kill)
		ffs = faultfs.New(mem, "/journal")
		p = openPool(t, ffs, "/journal", testOptions())
		if rs, err := p.Recover(context.Background()); err != nil || len(rs) > 0 {
			t.Fatalf("Recover = %d, %v", len(rs), err)
		}
		j = create(t, p, "br-b", 1)
		ffs.CrashAt(ffs.Mutations())
		if err := j.Write([]*Record{record(t, p, 1, 1)}, meta(1, true)); !errors.Is(err, faultfs.ErrCrashed) {
			t.Fatal(err)
		}
		p = openPool(t, mem.CrashClone(rng, memfs.Tear), "/journal", testOptions())
		rs, err := p.Recover(context.Background())
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range rs {
			if r.Err != nil || r.Header().Log != "br-b" {
				t.Fatalf("recovered %+v, %v", r.Header(), r.Err)
			}
		}
	}
}

// TestHalfMarker: a free file whose header copies differ is set right before it
// is used. Otherwise the first write of the next life, lost in part as well, could
// leave copies of two live headers. Found by TestCrashEverywhere.
func TestHalfMarker(t *testing.T) {
	images, _ := history(t)
	live, free := images[3], bytes.Clone(images[3])
	h, _ := decodeHeader(live[:BlockSize])
	encodeHeader(free[:BlockSize], &h, headerFree)
	for name, copies := range map[string][2][]byte{
		"free, live":        {free, live},
		"live, free":        {live, free},
		"free, another":     {free, images[0]},
		"another, free":     {images[0], free},
		"free, zero":        {free, make([]byte, headerBytes)},
		"free, out of tune": {free, live[BlockSize:]},
	} {
		data := bytes.Clone(live)
		copy(data, copies[0][:headerBytes])
		second := copies[1]
		if len(second) > headerCopyAt {
			second = second[headerCopyAt:]
		}
		copy(data[headerCopyAt:], second[:headerBytes])

		mem := memfs.New(memfs.Options{})
		if err := vfs.MkdirAllSync(mem, "/journal", 0o700); err != nil {
			t.Fatal(err)
		}
		if err := vfs.WriteFileSync(mem, testPath, data, 0o600); err != nil {
			t.Fatal(err)
		}
		p := openPool(t, mem, "/journal", testOptions())
		if s := p.Stats(); s.Spare != 1 || s.Used != 0 {
			t.Fatalf("%s: %+v", name, s)
		}
		got := image(t, mem)
		if !bytes.Equal(got[:headerBytes], got[headerCopyAt:headerCopyAt+headerBytes]) || !allZero(got[BlockSize:2*BlockSize]) {
			t.Fatalf("%s: the copies still differ, or the first record is still there", name)
		}
		if _, state := decodeHeader(got); state != fileFree {
			t.Fatalf("%s: state %d", name, state)
		}
	}
}
