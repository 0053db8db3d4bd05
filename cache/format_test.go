package cache

import (
	"bytes"
	"math"
	"math/bits"
	"math/rand/v2"
	"testing"
)

// TestI7SlotChecksum is invariant I7 at its smallest: no bit of a slot can change
// without the slot being refused.
func TestI7SlotChecksum(t *testing.T) {
	key := Key{Log: "br-green-oak-1a2b3c4d", Segment: 7, Frame: 3}
	frame := frameOf(key)[:300]
	slot := make([]byte, slotBytes(len(frame), key.Log))
	encodeSlot(slot, key, frame)
	got, err := openSlot(slot, key)
	if err != nil || !bytes.Equal(got, frame) {
		t.Fatalf("open: %v", err)
	}
	for i := range slot {
		for bit := range 8 {
			slot[i] ^= 1 << bit
			if _, err := openSlot(slot, key); err != errDamaged {
				t.Errorf("bit %d of byte %d: %v, want errDamaged", bit, i, err)
			}
			slot[i] ^= 1 << bit
		}
	}
	for _, other := range []Key{
		{Log: "br-green-oak-1a2b3c4e", Segment: 7, Frame: 3},
		{Log: "br-green-oak-1a2b3c4", Segment: 7, Frame: 3},
		{Log: key.Log, Segment: 8, Frame: 3},
		{Log: key.Log, Segment: 7, Frame: 4},
	} {
		if _, err := openSlot(slot, other); err != errOtherKey {
			t.Errorf("open as %v: %v, want errOtherKey", other, err)
		}
	}
}

func TestTableEntryChecksum(t *testing.T) {
	want := tableEntry{hash: 1 << 63, use: 5, offset: 8192, length: 640, main: true}
	p := make([]byte, tableEntryBytes)
	encodeTableEntry(p, want, 99)
	if got, ok := decodeTableEntry(p, regionBytesMin, 99); !ok || got != want {
		t.Fatalf("decode: %+v, %v", got, ok)
	}
	if _, ok := decodeTableEntry(p, regionBytesMin, 98); ok {
		t.Error("an entry of another file was accepted")
	}
	for i := range 8 * len(p) {
		p[i/8] ^= 1 << (i % 8)
		if _, ok := decodeTableEntry(p, regionBytesMin, 99); ok {
			t.Errorf("bit %d: accepted", i)
		}
		p[i/8] ^= 1 << (i % 8)
	}
	for name, e := range map[string]tableEntry{
		"in the table":      {use: 1, offset: 0, length: 64},
		"beyond the region": {use: 1, offset: regionBytesMin - 64, length: 128},
		"not aligned":       {use: 1, offset: 8193, length: 64},
		"odd length":        {use: 1, offset: 8192, length: 65},
		"empty":             {use: 1, offset: 8192},
		"too long":          {use: 1, offset: 8192, length: SlotBytesMax + slotUnit},
		"no use":            {offset: 8192, length: 64},
		"overflow":          {use: 1, offset: math.MaxUint32 &^ 63, length: 64},
	} {
		encodeTableEntry(p, e, 99)
		if _, ok := decodeTableEntry(p, regionBytesMin, 99); ok {
			t.Errorf("%s: accepted", name)
		}
	}
}

func TestHeaderVersion(t *testing.T) {
	want := fileHeader{regionBytes: 1 << 20, salt: 42}
	page := encodeHeader(want)
	if got, ok := decodeHeader(page); !ok || got != want {
		t.Fatalf("decode: %+v, %v", got, ok)
	}
	for _, n := range []uint32{0, 1 << 18, 1<<20 + 1, 1 << 30} {
		if _, ok := decodeHeader(encodeHeader(fileHeader{regionBytes: n})); ok {
			t.Errorf("region size %d: accepted", n)
		}
	}
	page[8] = formatVersion + 1
	if _, ok := decodeHeader(page); ok {
		t.Error("a newer version was accepted")
	}
}

// TestKeyHash: the hash is part of the format, and spreads keys that differ little.
func TestKeyHash(t *testing.T) {
	for _, test := range []struct {
		key  Key
		salt uint64
		want uint64
	}{
		{Key{}, 0, 0x9b67fb022aace968},
		{Key{Log: "br-green-oak-1a2b3c4d", Segment: 7, Frame: 3}, 42, 0xa5c391a3e4500977},
	} {
		if got := test.key.hash(test.salt); got != test.want {
			t.Errorf("hash of %v with salt %d: %#x, want %#x", test.key, test.salt, got, test.want)
		}
	}
	salt := newRand(t).Uint64()
	seen := make(map[uint64]bool)
	var ones [64]int
	var shards [indexShards]int
	const n = 200_000
	for i := range n {
		key := Key{Log: []string{"br-a", "br-b", "", "br-green-oak-1a2b3c4d"}[i%4], Segment: uint64(i / 64), Frame: uint32(i / 4 % 16)}
		h := key.hash(salt)
		seen[h] = true
		shards[h%indexShards]++
		for b := range ones {
			ones[b] += int(h >> b & 1)
		}
	}
	if len(seen) != n {
		t.Errorf("%d of %d keys share a hash", n-len(seen), n)
	}
	for b, c := range ones {
		if math.Abs(float64(c)/n-0.5) > 0.01 {
			t.Errorf("bit %d is set in %d of %d hashes", b, c, n)
		}
	}
	for s, c := range shards {
		if math.Abs(float64(c)*indexShards/n-1) > 0.15 {
			t.Errorf("shard %d has %d of %d", s, c, n)
		}
	}
}

func TestLocation(t *testing.T) {
	l := newLocation(1<<regionBits-1, regionBytesMax-SlotBytesMax, SlotBytesMax)
	if l.region() != 1<<regionBits-1 || l.offset() != regionBytesMax-SlotBytesMax || l.length() != SlotBytesMax || l.freq() != 0 {
		t.Errorf("location: %d %d %d %d", l.region(), l.offset(), l.length(), l.freq())
	}
	if l.withFreq(9).freq() != freqMax || l.withFreq(2).place() != l {
		t.Error("the frequency spills")
	}
	if FramesBytesMax/regionBytesMax > 1<<regionBits || bits.Len(regionBytesMax/slotUnit-1) > offsetBits || SlotBytesMax/slotUnit >= 1<<lengthBits {
		t.Error("the limits do not fit a location")
	}
}

// TestIndexModel compares the index with a map.
func TestIndexModel(t *testing.T) {
	rnd := newRand(t)
	var x index
	model := make(map[uint64]location)
	hash := func() uint64 { return rnd.Uint64N(3000) * 0x9e3779b97f4a7c15 &^ (rnd.Uint64N(2) * 0xff00000000000000) }
	for step := range 200_000 {
		h := hash()
		loc := newLocation(rnd.Uint32N(4), rnd.IntN(9)*64, 64)
		want, present := model[h]
		switch rnd.IntN(6) {
		case 0, 1:
			x.put(h, loc)
			model[h] = loc
		case 2:
			got, ok := x.touch(h)
			if present {
				want = want.withFreq(want.freq() + 1)
				model[h] = want
			}
			if ok != present || got != want {
				t.Fatalf("step %d: touch %x: %x %v, want %x %v", step, h, got, ok, want, present)
			}
		case 3:
			if got, ok := x.peek(h); ok != present || got != want {
				t.Fatalf("step %d: peek %x: %x %v, want %x %v", step, h, got, ok, want, present)
			}
		case 4:
			if ok := x.removeIn(h, loc.region()); ok != (present && want.region() == loc.region()) {
				t.Fatalf("step %d: removeIn %x: %v", step, h, ok)
			} else if ok {
				delete(model, h)
			}
		case 5:
			to := newLocation(9, 0, 128)
			if ok := x.move(h, want, to); ok != present {
				t.Fatalf("step %d: move %x: %v", step, h, ok)
			} else if ok {
				model[h] = to
			}
		}
	}
	n, size := x.size()
	if n != len(model) {
		t.Errorf("%d entries, want %d", n, len(model))
	}
	for h, want := range model {
		if got, ok := x.peek(h); !ok || got != want {
			t.Errorf("peek %x: %x %v, want %x", h, got, ok, want)
		}
	}
	t.Logf("%.1f bytes an entry", float64(size)/float64(n))
}

// TestI9IndexBounded is invariant I9 for the index: it grows by quarters, and is
// never less than 60 percent full once it has grown.
func TestI9IndexBounded(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	var x index
	const n = 500_000
	for range n {
		x.put(rnd.Uint64(), newLocation(1, 0, 64))
	}
	if entries, size := x.size(); float64(size)/float64(entries) > indexEntryBytes/0.6 {
		t.Errorf("%d entries take %d bytes", entries, size)
	}
}

func TestGhosts(t *testing.T) {
	rnd := newRand(t)
	g := newGhosts(1 << 12)
	hashes := make([]uint64, 1<<12)
	for i := range hashes {
		hashes[i] = rnd.Uint64()
		g.add(hashes[i])
	}
	recent, strangers := 0, 0
	for _, h := range hashes[len(hashes)*3/4:] {
		if g.has(h) {
			recent++
		}
	}
	for range 10_000 {
		if g.has(rnd.Uint64()) {
			strangers++
		}
	}
	if recent < len(hashes)/4*95/100 || strangers > 2 {
		t.Errorf("remembers %d of the youngest %d, and %d of 10000 strangers", recent, len(hashes)/4, strangers)
	}
}
