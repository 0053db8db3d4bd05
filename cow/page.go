package cow

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"

	"github.com/bough-db/bough/wal"
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// A page is one tree node as a checkpoint holds it:
//
//	offset size  field            (little endian)
//	     0    4  magic "BPG1"
//	     4    1  level: 0 leaf, 1 and 2 inner
//	     5    3  reserved, 0
//	     8    8  first block the node maps
//	    16    4  entry count
//	    20    …  entries
//	   n-4    4  CRC32C of the checkpoint's key and everything before it
//
// The key is in the checksum, though not in the page, so that a page of another
// checkpoint never passes for this one.
//
// A leaf's entry is a run: uvarint blocks skipped since the previous run's end,
// uvarint blocks in the run, zigzag varint of its address minus the address
// that would have continued the previous run. An inner entry is a child:
// uvarint children skipped, uvarint log<<48 | checkpoint+1, uvarint offset,
// uvarint length.
const (
	pageMagic     = 0x31475042 // "BPG1"
	pageHeader    = 20
	pageBytesMax  = pageHeader + innerSize*(2+10+5+5) + 4
	pageEntryLeaf = 3 // the fewest bytes an entry of a leaf takes
)

// encodePage appends the page of a node to buf. kids gives the page addresses
// of an inner node's children; first is the first block that the node maps, and
// seed the pageSeed of the checkpoint.
func encodePage(buf []byte, n *node, first uint64, kids []pageAddr, seed uint32) []byte {
	start := len(buf)
	buf = binary.LittleEndian.AppendUint32(buf, pageMagic)
	buf = append(buf, n.level, 0, 0, 0)
	buf = binary.LittleEndian.AppendUint64(buf, first)
	buf = binary.LittleEndian.AppendUint32(buf, 0)
	count := 0
	if n.level == 0 {
		end, next := 0, addr(0)
		for _, r := range n.leafRuns() {
			buf = binary.AppendUvarint(buf, uint64(int(r.start)-end))
			buf = binary.AppendUvarint(buf, uint64(r.n))
			buf = binary.AppendVarint(buf, int64(r.at-next))
			end, next = int(r.start+r.n), r.at+addr(r.n)
			count++
		}
	} else {
		end := 0
		for i, k := range kids {
			if k.isZero() {
				continue
			}
			buf = binary.AppendUvarint(buf, uint64(i-end))
			buf = binary.AppendUvarint(buf, k.ckpt)
			buf = binary.AppendUvarint(buf, uint64(k.off))
			buf = binary.AppendUvarint(buf, uint64(k.n))
			end = i + 1
			count++
		}
	}
	binary.LittleEndian.PutUint32(buf[start+16:], uint32(count))
	return binary.LittleEndian.AppendUint32(buf, crc32.Update(seed, castagnoli, buf[start:]))
}

// pageSeed is what the checksums of a checkpoint's pages begin with.
func pageSeed(log BranchID, n wal.SegmentNo) uint32 {
	return crc32.Checksum([]byte(checkpointKey(log, n)), castagnoli)
}

// decodePage reads a page and checks that it is the one asked for: that of the
// node of the level whose first block is first, in the checkpoint of the seed.
func decodePage(buf []byte, level uint8, first uint64, seed uint32) (*node, error) {
	if len(buf) < pageHeader+4 || len(buf) > pageBytesMax {
		return nil, fmt.Errorf("page of %d bytes: %w", len(buf), ErrCorrupt)
	}
	body, sum := buf[:len(buf)-4], binary.LittleEndian.Uint32(buf[len(buf)-4:])
	if crc32.Update(seed, castagnoli, body) != sum {
		return nil, fmt.Errorf("page checksum: %w", ErrCorrupt)
	}
	if m := binary.LittleEndian.Uint32(body); m != pageMagic {
		return nil, fmt.Errorf("page magic %#x: %w", m, ErrCorrupt)
	}
	if body[4] != level || binary.LittleEndian.Uint64(body[8:]) != first {
		return nil, fmt.Errorf("page of level %d block %d where level %d block %d belongs: %w",
			body[4], binary.LittleEndian.Uint64(body[8:]), level, first, ErrCorrupt)
	}
	count := int(binary.LittleEndian.Uint32(body[16:]))
	d := &decoder{buf: body[pageHeader:]}
	if count > len(d.buf)/pageEntryLeaf {
		return nil, fmt.Errorf("page with %d entries in %d bytes: %w", count, len(d.buf), ErrCorrupt)
	}
	n := newNode(0, 0, level)
	if level == 0 {
		d.leaf(n, count)
	} else {
		d.inner(n, count)
	}
	if d.err != nil || len(d.buf) > 0 {
		return nil, fmt.Errorf("page entries: %w", ErrCorrupt)
	}
	return n, nil
}

func (d *decoder) leaf(n *node, count int) {
	end, next := uint64(0), addr(0)
	runs := make([]run, 0, min(count, leafSize))
	for range count {
		skip, c := d.uvarint(), d.uvarint()
		at := next + addr(d.varint())
		if d.err != nil || c == 0 || skip > leafSize || c > leafSize || end+skip+c > leafSize ||
			at.slot() == 0 || uint64(at.slot())+c-1 > slotMax {
			d.fail()
			return
		}
		runs = append(runs, run{at: at, start: uint16(end + skip), n: uint16(c)})
		end += skip + c
		next = at + addr(c)
	}
	if len(runs) <= runsMax {
		n.runs = runs
		return
	}
	n.slots = new([leafSize]addr)
	for _, r := range runs {
		for i := range r.n {
			n.slots[r.start+i] = r.at + addr(i)
		}
	}
}

func (d *decoder) inner(n *node, count int) {
	next := uint64(0)
	for range count {
		skip, ckpt, off, size := d.uvarint(), d.uvarint(), d.uvarint(), d.uvarint()
		i := next + skip
		if d.err != nil || skip > innerSize || i >= innerSize || ckpt&(1<<48-1) == 0 ||
			off > 1<<32-1 || size < pageHeader+4 || size > pageBytesMax {
			d.fail()
			return
		}
		n.kids[i].at = pageAddr{ckpt: ckpt, off: uint32(off), n: uint32(size)}
		next = i + 1
	}
}

// decoder reads varints from hostile bytes. After the first error every call
// returns 0 and err stays set.
type decoder struct {
	buf []byte
	err error
}

func (d *decoder) fail() {
	if d.err == nil {
		d.err = ErrCorrupt
	}
	d.buf = nil
}

func (d *decoder) uvarint() uint64 {
	v, n := binary.Uvarint(d.buf)
	if n <= 0 {
		d.fail()
		return 0
	}
	d.buf = d.buf[n:]
	return v
}

func (d *decoder) varint() int64 {
	v, n := binary.Varint(d.buf)
	if n <= 0 {
		d.fail()
		return 0
	}
	d.buf = d.buf[n:]
	return v
}

// bytes takes the next n bytes; they share memory with the input.
func (d *decoder) bytes(n uint64) []byte {
	if n > uint64(len(d.buf)) {
		d.fail()
		return nil
	}
	b := d.buf[:n]
	d.buf = d.buf[n:]
	return b
}
