package wal

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"time"
)

// The numbers of the format; the tables are in the package doc.
const (
	formatVersion = 1

	headerMagic     = "boughjnl"
	headerBytes     = 512  // one copy: one sector, so that it cannot tear
	headerCopyAt    = 2048 // offset of the second copy in slot 0
	headerFree      = 2
	headerLive      = 1
	headerSumAt     = headerBytes - 4
	headerLogAt     = 65
	headerSlotsAt   = 132
	nonceBytes      = 16
	firstRecordSlot = 1

	recordMagic      = "boughrec"
	recordFixedBytes = 96
	recordSumAt      = BlockSize - 4
	entryBytes       = 16
	flagCommit       = 1

	// LogMax is the length in bytes of the longest log id.
	LogMax = 64
)

// recordBlockSum is the CRC32C of any block that ends in the CRC32C of what
// comes before: the residue of the polynomial. It lets header blocks be checked
// by the same table as data blocks, at no cost when they are written.
const recordBlockSum = 0x48674bc7

type nonce [nonceBytes]byte

// crcTable selects the processor's CRC32C instruction.
var crcTable = crc32.MakeTable(crc32.Castagnoli)

func sum(p []byte) uint32 { return crc32.Checksum(p, crcTable) }

// fileHeader is one decoded copy of a file's header or free marker.
type fileHeader struct {
	Header
	nonce nonce
	slots Slot // in the file
}

// encodeHeader fills slot 0: two equal copies, each in a sector of its own.
func encodeHeader(block []byte, h *fileHeader, kind uint16) {
	clear(block)
	b := block[:headerBytes]
	le := binary.LittleEndian
	copy(b, headerMagic)
	le.PutUint16(b[8:], formatVersion)
	le.PutUint16(b[10:], kind)
	le.PutUint32(b[12:], BlockSize)
	copy(b[16:], h.nonce[:])
	le.PutUint64(b[32:], uint64(h.Segment))
	le.PutUint64(b[40:], h.Epoch)
	le.PutUint64(b[48:], uint64(h.FirstSeq))
	le.PutUint64(b[56:], uint64(h.Created.UnixNano()))
	b[64] = byte(len(h.Log))
	copy(b[headerLogAt:headerLogAt+LogMax], h.Log)
	le.PutUint32(b[headerSlotsAt:], uint32(h.slots))
	le.PutUint32(b[headerSumAt:], sum(b[:headerSumAt]))
	copy(block[headerCopyAt:], b)
}

// copyState is what one copy of the header was found to be.
type copyState int

const (
	copyZero  copyState = iota // all zeros
	copyLive                   // a journal
	copyFree                   // a marker: the journal with this nonce was released
	copyNewer                  // intact, of a version that this program does not know
	copyBad                    // anything else
)

// decodeHeaderCopy decodes one copy.
func decodeHeaderCopy(b []byte) (fileHeader, copyState) {
	var h fileHeader
	b = b[:headerBytes]
	le := binary.LittleEndian
	if allZero(b) {
		return h, copyZero
	}
	if string(b[:8]) != headerMagic || le.Uint32(b[headerSumAt:]) != sum(b[:headerSumAt]) {
		return h, copyBad
	}
	kind := le.Uint16(b[10:])
	if le.Uint16(b[8:]) != formatVersion || kind != headerLive && kind != headerFree ||
		le.Uint32(b[12:]) != BlockSize {
		return h, copyNewer
	}
	n := int(b[64])
	if n > LogMax || n == 0 && kind == headerLive {
		return h, copyBad
	}
	copy(h.nonce[:], b[16:])
	h.Segment = SegmentNo(le.Uint64(b[32:]))
	h.Epoch = le.Uint64(b[40:])
	h.FirstSeq = Seq(le.Uint64(b[48:]))
	h.Created = time.Unix(0, int64(le.Uint64(b[56:])))
	h.Log = string(b[headerLogAt : headerLogAt+n])
	h.slots = Slot(le.Uint32(b[headerSlotsAt:]))
	if kind == headerFree {
		return h, copyFree
	}
	return h, copyLive
}

// fileState is what slot 0 says about a file.
type fileState int

const (
	fileFree    fileState = iota // never used, or released; see the evidence rule in the package doc
	fileLive                     // a journal that was not released
	fileNewer                    // not ours to judge
	fileCorrupt                  // was a journal, header unreadable
)

// decodeHeader judges slot 0 by its two copies. A sector is atomic, so a copy
// that is neither old, new nor zero is damage, and a torn write leaves one copy
// old and one new.
func decodeHeader(block []byte) (fileHeader, fileState) {
	a, as := decodeHeaderCopy(block)
	b, bs := decodeHeaderCopy(block[headerCopyAt:])
	switch {
	case as == copyNewer || bs == copyNewer:
		return fileHeader{}, fileNewer
	case as == copyLive && bs == copyLive:
		if a.nonce != b.nonce {
			// A marker is always written between two lives.
			return a, fileCorrupt
		}
		return a, fileLive
	case as == copyLive:
		return a, stateBeside(a, b, bs)
	case bs == copyLive:
		return b, stateBeside(b, a, as)
	case as == copyFree:
		return a, fileFree
	case bs == copyFree:
		return b, fileFree
	case as == copyBad && bs == copyBad:
		return fileHeader{}, fileCorrupt
	}
	// Zeros, or zeros and a copy that tore inside its sector: in either case
	// no write to slot 0 ever returned.
	return fileHeader{}, fileFree
}

// endedLives returns the lives that the markers in slot 0 say have ended. They
// may be two: a crash can leave one copy of the header a life behind, and the
// next crash one copy of the marker that ends the life after it.
func endedLives(block []byte) (lives [2]nonce) {
	for i, b := range [][]byte{block, block[headerCopyAt:]} {
		if h, state := decodeHeaderCopy(b); state == copyFree {
			lives[i] = h.nonce
		}
	}
	return lives
}

// stateBeside tells the state of a file with exactly one live copy, given the other.
func stateBeside(live, other fileHeader, state copyState) fileState {
	if state == copyFree && other.nonce == live.nonce {
		return fileFree // the crash came while the file was being released
	}
	return fileLive // the crash came at the first write, or one copy is damaged
}

func allZero(p []byte) bool {
	for len(p) >= 8 {
		if binary.NativeEndian.Uint64(p) != 0 {
			return false
		}
		p = p[8:]
	}
	for _, c := range p {
		if c != 0 {
			return false
		}
	}
	return true
}

// recordHeader is the fixed part of a decoded record header block.
type recordHeader struct {
	version, flags uint16
	slot           Slot
	seq            Seq
	index          uint32
	entries        uint32
	time           int64
	lsn, line      uint64
	blocks         uint32
	dataSum        uint32
	nonce          nonce
}

// size returns the number of slots of the record, its header included.
func (h *recordHeader) size() Slot { return Slot(h.blocks) + 1 }

// encodeRecord fills a record's header block.
func encodeRecord(b []byte, h *recordHeader, entries []Entry) {
	le := binary.LittleEndian
	b = b[:BlockSize]
	copy(b, recordMagic)
	le.PutUint16(b[8:], formatVersion)
	le.PutUint16(b[10:], h.flags)
	le.PutUint32(b[12:], uint32(h.slot))
	copy(b[16:], h.nonce[:])
	le.PutUint64(b[32:], uint64(h.seq))
	le.PutUint32(b[40:], h.index)
	le.PutUint32(b[44:], uint32(len(entries)))
	le.PutUint64(b[48:], uint64(h.time))
	le.PutUint64(b[56:], h.lsn)
	le.PutUint32(b[64:], h.blocks)
	le.PutUint32(b[68:], h.dataSum)
	le.PutUint64(b[72:], h.line)
	clear(b[80:recordFixedBytes])
	at := recordFixedBytes
	for i := range entries {
		e := &entries[i]
		le.PutUint64(b[at:], e.Block)
		le.PutUint64(b[at+8:], e.Count<<8|uint64(e.Kind))
		at += entryBytes
	}
	clear(b[at:recordSumAt])
	le.PutUint32(b[recordSumAt:], sum(b[:recordSumAt]))
}

// isRecord tells whether a block is an intact record header written at slot in
// the file's life that the nonce stands for.
func isRecord(b []byte, n nonce, slot Slot) bool {
	le := binary.LittleEndian
	return string(b[:8]) == recordMagic && Slot(le.Uint32(b[12:])) == slot &&
		bytes.Equal(b[16:16+nonceBytes], n[:]) && le.Uint32(b[recordSumAt:]) == sum(b[:recordSumAt])
}

// decodeRecord decodes the fixed part of a block that isRecord accepted.
func decodeRecord(b []byte) recordHeader {
	le := binary.LittleEndian
	h := recordHeader{
		version: le.Uint16(b[8:]),
		flags:   le.Uint16(b[10:]),
		slot:    Slot(le.Uint32(b[12:])),
		seq:     Seq(le.Uint64(b[32:])),
		index:   le.Uint32(b[40:]),
		entries: le.Uint32(b[44:]),
		time:    int64(le.Uint64(b[48:])),
		lsn:     le.Uint64(b[56:]),
		blocks:  le.Uint32(b[64:]),
		dataSum: le.Uint32(b[68:]),
		line:    le.Uint64(b[72:]),
	}
	copy(h.nonce[:], b[16:])
	return h
}

// appendEntries decodes the entries of a record into dst. Data entries take the
// slots after the header in order, and must account for every data block.
func appendEntries(dst []Entry, b []byte, h *recordHeader) ([]Entry, error) {
	if h.entries > EntriesMax {
		return dst, fmt.Errorf("%d entries in a record, at most %d fit", h.entries, EntriesMax)
	}
	le := binary.LittleEndian
	next := uint64(1)
	for i := range int(h.entries) {
		at := recordFixedBytes + i*entryBytes
		v := le.Uint64(b[at+8:])
		e := Entry{Block: le.Uint64(b[at:]), Count: v >> 8, Kind: Kind(v)}
		if !validRange(e.Block, e.Count) {
			return dst, fmt.Errorf("entry %d: blocks %d+%d are out of range", i, e.Block, e.Count)
		}
		switch e.Kind {
		case KindData:
			if e.Count > uint64(h.blocks)+1-next {
				return dst, fmt.Errorf("entry %d: more data than the %d blocks of the record", i, h.blocks)
			}
			e.Slot = h.slot + Slot(next)
			next += e.Count
		case KindTrim, KindZero:
		default:
			return dst, fmt.Errorf("entry %d: unknown kind %d", i, e.Kind)
		}
		dst = append(dst, e)
	}
	if next != uint64(h.blocks)+1 {
		return dst, fmt.Errorf("entries name %d data blocks of %d", next-1, h.blocks)
	}
	return dst, nil
}
