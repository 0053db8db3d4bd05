package cow

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"hash/crc32"
	"slices"

	"github.com/bough-db/bough/wal"
	"github.com/klauspost/compress/zstd"
)

// A segment object:
//
//	frames   one after the other, from offset 0
//	footer   zstd, see encodeFooter
//	trailer  segmentTrailer bytes (little endian):
//	  offset size  field
//	       0    8  magic "BOUGHSEG"
//	       8    2  version, 2; version 1 is read too
//	      10    2  reserved, 0
//	      12    4  footer length, bytes
//	      16    8  footer offset, bytes from the object's start
//	      24    4  footer length before compression, bytes
//	      28    4  CRC32C of the compressed footer
//	      32    4  CRC32C of the trailer's first 32 bytes
//
// A frame is up to frameBlocks blocks of the segment, compressed together, or
// stored as they are when that is not smaller. Its checksum is in the footer, so
// that a frame of another segment, or of another place, never passes for it.
const (
	segmentMagic   = "BOUGHSEG"
	segmentVersion = 2
	segmentTrailer = 36

	frameBlocks = 16 // 64 KiB: larger frames do not compress better

	footerBytesMax = 8 << 20
	// segmentTail is what one read of a segment's end fetches at first. Only a
	// segment of thousands of scattered blocks has a longer footer.
	segmentTail = 48 << 10

	codecStored = 0
	codecZstd   = 1
)

// formatVersions has the version that is written of segments and packs.
var formatVersions = map[string]uint16{segmentMagic: segmentVersion, packMagic: packVersion}

// nonce tells apart two attempts to write the same object. Records have it as 32
// hex digits.
type nonce [16]byte

func (n nonce) MarshalText() ([]byte, error) { return hex.AppendEncode(nil, n[:]), nil }

func (n *nonce) UnmarshalText(p []byte) error {
	if len(p) != 2*len(n) {
		return fmt.Errorf("nonce %q: %w", p, ErrCorrupt)
	}
	_, err := hex.Decode(n[:], p)
	return err
}

// segmentHead says which segment it is.
type segmentHead struct {
	Log     BranchID
	Number  wal.SegmentNo
	Epoch   uint64
	Nonce   nonce
	Host    string // who wrote it
	Created int64  // unix nanoseconds
	// Checkpoint is the newest one of the log that was stored when the segment was
	// packed; 0 if none, or not known.
	Checkpoint wal.SegmentNo
}

// frameInfo says where a frame is in its segment and what it must be.
type frameInfo struct {
	off   uint32 // bytes from the object's start
	size  uint32 // bytes as stored
	sum   uint32 // CRC32C of the bytes as stored
	n     uint8  // blocks
	codec uint8
}

// blockIndex is what reading blocks of an object takes: where each slot is.
type blockIndex struct {
	object objectID
	frames []frameInfo
	// place has frame<<4 | position in the frame, plus 1. That of a segment has it
	// by slot, with 0 for a slot that holds no block; that of a pack has it for
	// each of keys.
	place []uint32
	// keys has the segment, minus the pack's first, and the slot of each block of a
	// pack, sorted: see packedKey. It is nil for a segment.
	keys []uint32
}

// bytes is what the index takes in memory.
func (x *blockIndex) bytes() int {
	return 16*cap(x.frames) + 4*cap(x.place) + 4*cap(x.keys) + 80
}

// blocks returns how many there are.
func (x *blockIndex) blocks() (n int) {
	for _, f := range x.frames {
		n += int(f.n)
	}
	return n
}

// find returns the frame that holds the slot of the segment, and the block's
// position in it.
func (x *blockIndex) find(seg wal.SegmentNo, s wal.Slot) (frame, pos int, ok bool) {
	if x.object.gen > 0 {
		i, ok := slices.BinarySearch(x.keys, packedKey(x.object.from, seg, s))
		if !ok || seg < x.object.from || seg > x.object.to {
			return 0, 0, false
		}
		p := x.place[i] - 1
		return int(p >> 4), int(p & (frameBlocks - 1)), true
	}
	if int(s) >= len(x.place) || x.place[s] == 0 {
		return 0, 0, false
	}
	p := x.place[s] - 1
	return int(p >> 4), int(p & (frameBlocks - 1)), true
}

// footer is a segment's whole description: what replay and reading need.
type footer struct {
	head    segmentHead
	batches []wal.Batch
	index   blockIndex
}

// segmentEncoder packs sealed journals. It holds buffers of a segment's size:
// a Store has few of them and hands them round.
type segmentEncoder struct {
	zw    *zstd.Encoder
	in    []byte // the journal's slots, the first being slot 1
	out   []byte
	order []slotBlock
	raw   [frameBlocks * BlockSize]byte
}

type slotBlock struct {
	block uint64
	slot  wal.Slot
}

func newSegmentEncoder() (*segmentEncoder, error) {
	zw, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest),
		zstd.WithEncoderConcurrency(1), zstd.WithEncoderCRC(false), zstd.WithLowerEncoderMem(true))
	if err != nil {
		return nil, fmt.Errorf("make compressor: %w", err)
	}
	return &segmentEncoder{zw: zw}, nil
}

// slotReader reads whole slots; *wal.Journal does, and verifies them.
type slotReader interface {
	ReadAt(p []byte, slot wal.Slot) error
}

// encodeRead is how much of a journal is read at once, in bytes.
const encodeRead = 1 << 20

// encode returns the segment object of the batches, which lie in the slots
// before end of src. The result is valid until the next encode.
func (e *segmentEncoder) encode(h segmentHead, batches []wal.Batch, src slotReader, end wal.Slot) ([]byte, error) {
	e.order = e.order[:0]
	for i := range batches {
		for _, en := range batches[i].Entries {
			if en.Kind != wal.KindData {
				continue
			}
			for j := range en.Count {
				e.order = append(e.order, slotBlock{en.Block + j, en.Slot + wal.Slot(j)})
			}
		}
	}
	size := (int(end) - 1) * BlockSize
	e.in = slices.Grow(e.in[:0], size)[:size]
	for at := 0; at < size; at += encodeRead {
		part := e.in[at:min(at+encodeRead, size)]
		if err := src.ReadAt(part, wal.Slot(1+at/BlockSize)); err != nil {
			return nil, err
		}
	}
	// Block order: neighbours, and versions of one block, compress together
	// and are read together.
	slices.SortFunc(e.order, func(a, b slotBlock) int {
		if a.block != b.block {
			if a.block < b.block {
				return -1
			}
			return 1
		}
		return int(a.slot) - int(b.slot)
	})
	e.out = e.out[:0]
	frames := e.frames(len(e.order), func(i int) []byte {
		at := int(e.order[i].slot-1) * BlockSize
		return e.in[at : at+BlockSize]
	})
	body := encodeFooter(h, batches, frames, e.order)
	at := len(e.out)
	e.out = e.zw.EncodeAll(body, e.out)
	e.out = appendTrailer(e.out, segmentMagic, at, len(body))
	return e.out, nil
}

// frames appends n blocks to out, as frames, and describes them. block returns the
// content of each.
func (e *segmentEncoder) frames(n int, block func(i int) []byte) []frameInfo {
	frames := make([]frameInfo, 0, (n+frameBlocks-1)/frameBlocks)
	for i := 0; i < n; i += frameBlocks {
		group := min(n-i, frameBlocks)
		raw := e.raw[:group*BlockSize]
		for j := range group {
			copy(raw[j*BlockSize:(j+1)*BlockSize], block(i+j))
		}
		f := frameInfo{off: uint32(len(e.out)), n: uint8(group), codec: codecZstd}
		e.out = e.zw.EncodeAll(raw, e.out)
		if len(e.out)-int(f.off) >= len(raw)-len(raw)/8 {
			e.out = append(e.out[:f.off], raw...)
			f.codec = codecStored
		}
		f.size = uint32(len(e.out)) - f.off
		f.sum = crc32.Checksum(e.out[f.off:], castagnoli)
		frames = append(frames, f)
	}
	return frames
}

// appendTrailer closes a segment or a pack, by its magic, whose compressed footer
// begins at offset at.
func appendTrailer(out []byte, magic string, at, raw int) []byte {
	start := len(out)
	sum := crc32.Checksum(out[at:], castagnoli)
	out = append(out, magic...)
	out = binary.LittleEndian.AppendUint16(out, formatVersions[magic])
	out = append(out, 0, 0)
	out = binary.LittleEndian.AppendUint32(out, uint32(start-at))
	out = binary.LittleEndian.AppendUint64(out, uint64(at))
	out = binary.LittleEndian.AppendUint32(out, uint32(raw))
	out = binary.LittleEndian.AppendUint32(out, sum)
	return binary.LittleEndian.AppendUint32(out, crc32.Checksum(out[start:], castagnoli))
}

// trailerInfo is the trailer of a segment or a pack, decoded.
type trailerInfo struct {
	off, size, raw uint64
	sum            uint32
	version        uint16
}

// decodeTrailer reads the last bytes of an object of the given total size, a
// segment or a pack by its magic.
func decodeTrailer(magic string, t []byte, total int64) (trailerInfo, error) {
	if len(t) != segmentTrailer || total < segmentTrailer {
		return trailerInfo{}, fmt.Errorf("object of %d bytes: %w", total, ErrCorrupt)
	}
	if string(t[:8]) != magic {
		return trailerInfo{}, fmt.Errorf("magic %q instead of %q: %w", t[:8], magic, ErrCorrupt)
	}
	if crc32.Checksum(t[:32], castagnoli) != binary.LittleEndian.Uint32(t[32:]) {
		return trailerInfo{}, fmt.Errorf("trailer checksum: %w", ErrCorrupt)
	}
	v := binary.LittleEndian.Uint16(t[8:])
	if v == 0 || v > formatVersions[magic] {
		return trailerInfo{}, fmt.Errorf("version %d: %w", v, ErrNewerFormat)
	}
	i := trailerInfo{
		version: v,
		size:    uint64(binary.LittleEndian.Uint32(t[12:])), off: binary.LittleEndian.Uint64(t[16:]),
		raw: uint64(binary.LittleEndian.Uint32(t[24:])), sum: binary.LittleEndian.Uint32(t[28:]),
	}
	if i.off > uint64(total) || i.off+i.size != uint64(total)-segmentTrailer || i.raw > footerBytesMax {
		return trailerInfo{}, fmt.Errorf("object of %d bytes with a footer at %d+%d: %w", total, i.off, i.size, ErrCorrupt)
	}
	return i, nil
}

// decodeFrame returns the blocks of a frame, given its bytes as stored, in dst
// or a larger buffer. It verifies them.
func decodeFrame(zr *zstd.Decoder, f frameInfo, stored, dst []byte) ([]byte, error) {
	if len(stored) != int(f.size) || crc32.Checksum(stored, castagnoli) != f.sum {
		return nil, fmt.Errorf("frame checksum: %w", ErrCorrupt)
	}
	want := int(f.n) * BlockSize
	if cap(dst) < want {
		dst = make([]byte, 0, want) // what it has room for bounds what is decompressed
	}
	var err error
	switch f.codec {
	case codecStored:
		dst = append(dst[:0], stored...)
	case codecZstd:
		dst, err = zr.DecodeAll(stored, dst[:0])
	default:
		return nil, fmt.Errorf("frame codec %d: %w", f.codec, ErrNewerFormat)
	}
	if err != nil {
		return nil, fmt.Errorf("decompress frame: %w: %w", err, ErrCorrupt)
	}
	if len(dst) != want {
		return nil, fmt.Errorf("frame of %d bytes instead of %d: %w", len(dst), want, ErrCorrupt)
	}
	return dst, nil
}
