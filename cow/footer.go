package cow

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"time"

	"github.com/bough-db/bough/wal"
	"github.com/klauspost/compress/zstd"
)

// The footer before compression, all numbers uvarint unless said otherwise:
//
//	log id: length, bytes
//	host: length, bytes
//	segment number, epoch
//	nonce: 16 bytes
//	created: 8 bytes, little endian, unix nanoseconds
//	checkpoint: the newest one of the log that was stored by then, 0 if none;
//	  not in version 1
//	batch count, then for each batch
//	  seq minus the previous batch's (the first: as it is)
//	  time minus the previous batch's, zigzag (the first: minus created)
//	  LSN minus the previous batch's, zigzag
//	  line minus the previous batch's, zigzag; not in version 1
//	  entry count, then for each entry
//	    kind | (slot of a data entry)<<2; the slot is 0 for other kinds
//	    block minus the previous entry's end, zigzag
//	    blocks
//	frame count, then for each frame
//	  codec, blocks, stored bytes
//	  CRC32C: 4 bytes, little endian
//	  for each block: its slot minus the previous block's, zigzag
//
// Frames lie one after the other from the object's start.

// encodeFooter describes the segment; order lists the slots in frame order.
func encodeFooter(h segmentHead, batches []wal.Batch, frames []frameInfo, order []slotBlock) []byte {
	buf := make([]byte, 0, 256+len(order)*4+len(batches)*12)
	buf = appendString(buf, string(h.Log))
	buf = appendString(buf, h.Host)
	buf = binary.AppendUvarint(buf, uint64(h.Number))
	buf = binary.AppendUvarint(buf, h.Epoch)
	buf = append(buf, h.Nonce[:]...)
	buf = binary.LittleEndian.AppendUint64(buf, uint64(h.Created))
	buf = binary.AppendUvarint(buf, uint64(h.Checkpoint))
	buf = binary.AppendUvarint(buf, uint64(len(batches)))
	seq, last, lsn, line := wal.Seq(0), h.Created, uint64(0), uint64(0)
	for i := range batches {
		b := &batches[i]
		buf = binary.AppendUvarint(buf, uint64(b.Seq-seq))
		buf = binary.AppendVarint(buf, b.Time.UnixNano()-last)
		buf = binary.AppendVarint(buf, int64(b.LSN-lsn))
		buf = binary.AppendVarint(buf, int64(b.Line-line))
		seq, last, lsn, line = b.Seq, b.Time.UnixNano(), b.LSN, b.Line
		buf = binary.AppendUvarint(buf, uint64(len(b.Entries)))
		end := uint64(0)
		for _, en := range b.Entries {
			tag := uint64(en.Kind)
			if en.Kind == wal.KindData {
				tag |= uint64(en.Slot) << 2
			}
			buf = binary.AppendUvarint(buf, tag)
			buf = binary.AppendVarint(buf, int64(en.Block-end))
			buf = binary.AppendUvarint(buf, en.Count)
			end = en.Block + en.Count
		}
	}
	buf = binary.AppendUvarint(buf, uint64(len(frames)))
	prev, i := int64(0), 0
	for _, f := range frames {
		buf = append(buf, f.codec, f.n)
		buf = binary.AppendUvarint(buf, uint64(f.size))
		buf = binary.LittleEndian.AppendUint32(buf, f.sum)
		for range f.n {
			buf = binary.AppendVarint(buf, int64(order[i].slot)-prev)
			prev = int64(order[i].slot)
			i++
		}
	}
	return buf
}

func appendString(buf []byte, s string) []byte {
	buf = binary.AppendUvarint(buf, uint64(len(s)))
	return append(buf, s...)
}

// decodeFooter decompresses and checks a footer. With batches false it leaves
// the batches out: reading needs only the index.
func decodeFooter(zr *zstd.Decoder, t trailerInfo, packed []byte, batches bool) (*footer, error) {
	raw, err := unpackFooter(zr, t, packed)
	if err != nil {
		return nil, err
	}
	f, err := parseFooter(raw, t.version, batches, t.off)
	if err != nil {
		return nil, fmt.Errorf("segment footer: %w", err)
	}
	return f, nil
}

// unpackFooter verifies and decompresses the footer of a segment or a pack.
func unpackFooter(zr *zstd.Decoder, t trailerInfo, packed []byte) ([]byte, error) {
	if uint64(len(packed)) != t.size || crc32.Checksum(packed, castagnoli) != t.sum {
		return nil, fmt.Errorf("footer checksum: %w", ErrCorrupt)
	}
	raw, err := zr.DecodeAll(packed, make([]byte, 0, t.raw))
	if err != nil {
		return nil, fmt.Errorf("decompress footer: %w: %w", err, ErrCorrupt)
	}
	return raw, nil
}

// parseFooter reads a decompressed footer of a segment of the version, whose frames
// take framesBytes.
func parseFooter(raw []byte, version uint16, batches bool, framesBytes uint64) (*footer, error) {
	d := &decoder{buf: raw}
	f := &footer{}
	f.head.Log = BranchID(d.bytes(d.uvarint()))
	f.head.Host = string(d.bytes(d.uvarint()))
	f.head.Number = wal.SegmentNo(d.uvarint())
	f.head.Epoch = d.uvarint()
	copy(f.head.Nonce[:], d.bytes(16))
	if c := d.bytes(8); c != nil {
		f.head.Created = int64(binary.LittleEndian.Uint64(c))
	}
	if version > 1 {
		f.head.Checkpoint = wal.SegmentNo(d.uvarint())
	}
	d.batches(f, version, batches)
	slot := int64(0)
	d.frames(&f.index, framesBytes, func() int {
		slot += d.varint()
		if slot <= 0 || slot > slotMax {
			d.fail()
			return -1
		}
		for int(slot) >= len(f.index.place) {
			f.index.place = append(f.index.place, 0)
		}
		return int(slot)
	})
	if d.err == nil && len(d.buf) > 0 {
		d.fail()
	}
	return f, d.err
}

func (d *decoder) batches(f *footer, version uint16, keep bool) {
	count := d.uvarint()
	if count > uint64(len(d.buf)) {
		d.fail()
		return
	}
	if keep {
		f.batches = make([]wal.Batch, 0, count)
	}
	var b wal.Batch
	at := f.head.Created
	for range count {
		step := d.uvarint()
		b.Seq += wal.Seq(step)
		at += d.varint()
		b.Time = time.Unix(0, at)
		b.LSN += uint64(d.varint())
		if version > 1 {
			b.Line += uint64(d.varint())
		}
		n := d.uvarint()
		if step == 0 || n > uint64(len(d.buf)) {
			d.fail()
			return
		}
		b.Entries = nil
		if keep {
			b.Entries = make([]wal.Entry, 0, n)
		}
		end := uint64(0)
		for range n {
			tag := d.uvarint()
			e := wal.Entry{Kind: wal.Kind(tag & 3), Slot: wal.Slot(tag >> 2)}
			e.Block = end + uint64(d.varint())
			e.Count = d.uvarint()
			end = e.Block + e.Count
			if d.err != nil || !validEntry(e, tag>>2) {
				d.fail()
				return
			}
			if keep {
				b.Entries = append(b.Entries, e)
			}
		}
		if keep {
			f.batches = append(f.batches, b)
		}
	}
}

func validEntry(e wal.Entry, slot uint64) bool {
	if e.Count == 0 || e.Count > MaxBlocks || e.Block > MaxBlocks || e.Block+e.Count > MaxBlocks {
		return false
	}
	switch e.Kind {
	case wal.KindData:
		return slot > 0 && slot <= slotMax && slot+e.Count-1 <= slotMax
	case wal.KindTrim, wal.KindZero:
		return slot == 0
	}
	return false
}

// frames reads the frames of an object, which take framesBytes, into its index.
// next reads which block comes next and returns its index in place, or -1.
func (d *decoder) frames(x *blockIndex, framesBytes uint64, next func() int) {
	count := d.uvarint()
	if count > slotMax {
		d.fail()
		return
	}
	x.frames = make([]frameInfo, 0, min(count, uint64(len(d.buf)/8)))
	var off uint64
	for i := range count {
		cn := d.bytes(2)
		size := d.uvarint()
		sum := d.bytes(4)
		if d.err != nil || cn[1] == 0 || cn[1] > frameBlocks || size == 0 || size > frameBlocks*BlockSize ||
			off+size > framesBytes || (cn[0] == codecStored && size != uint64(cn[1])*BlockSize) {
			d.fail()
			return
		}
		x.frames = append(x.frames, frameInfo{
			off: uint32(off), size: uint32(size), sum: binary.LittleEndian.Uint32(sum), n: cn[1], codec: cn[0],
		})
		off += size
		for pos := range cn[1] {
			at := next()
			if d.err != nil || at < 0 || x.place[at] != 0 {
				d.fail()
				return
			}
			x.place[at] = uint32(i<<4|uint64(pos)) + 1
		}
	}
	if off != framesBytes {
		d.fail()
	}
}
