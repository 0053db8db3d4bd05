package walpage

import (
	"encoding/binary"
	"fmt"
	"math/bits"
)

// PageBytes is the size of a WAL page.
const PageBytes = 8192

// HeaderBytes is how much of a page's start header needs, the longer kind too.
const HeaderBytes = 40

// The flags of a page header.
const (
	flagContinues  = 1 << 0 // it begins with the rest of a record
	flagLong       = 1 << 1 // the header is the longer one
	flagsOverwrite = 1 << 3 // the record that began before was given up
	flagsAll       = 1<<4 - 1
)

const (
	segmentBytesMin = 1 << 20
	segmentBytesMax = 1 << 30
)

// Header is the header of a WAL page.
type Header struct {
	Magic    uint16 // tells the major version of Postgres
	Flags    uint16
	Timeline uint32
	Addr     uint64 // LSN of the page's first byte
	Rest     uint32 // bytes that are left of the record that began on an earlier page
	// The rest is in the first page of a WAL file only, and else zero.
	System       uint64 // identifier of the cluster
	SegmentBytes uint32 // of a WAL file
}

// known tells whether a magic is that of a version of Postgres that is known here:
// 13 to 18, in this order.
func known(magic uint16) bool {
	switch magic {
	case 0xd106, 0xd10d, 0xd110, 0xd113, 0xd116, 0xd118:
		return true
	}
	return false
}

// isLong tells whether the header is that of a WAL file's first page.
func (h *Header) isLong() bool { return h.Flags&flagLong != 0 }

// Parse reads the header at the start of p, which has at least HeaderBytes. It
// returns false if that is not one, or contradicts itself.
func Parse(p []byte) (Header, bool) {
	le := binary.LittleEndian
	h := Header{
		Magic: le.Uint16(p), Flags: le.Uint16(p[2:]), Timeline: le.Uint32(p[4:]), Addr: le.Uint64(p[8:]),
		Rest: le.Uint32(p[16:]),
	}
	switch {
	case !known(h.Magic) || h.Flags&^flagsAll != 0 || h.Timeline == 0 || h.Addr == 0 || h.Addr%PageBytes != 0,
		le.Uint32(p[20:]) != 0, // padding
		h.Flags&(flagContinues|flagsOverwrite) == 0 && h.Rest != 0:
		return Header{}, false
	case !h.isLong():
		return h, h.Addr%segmentBytesMin != 0 || h.Addr%segmentBytesMax != 0
	}
	h.System, h.SegmentBytes = le.Uint64(p[24:]), le.Uint32(p[32:])
	ok := h.System != 0 && le.Uint32(p[36:]) == PageBytes &&
		h.SegmentBytes >= segmentBytesMin && h.SegmentBytes <= segmentBytesMax && bits.OnesCount32(h.SegmentBytes) == 1 &&
		h.Addr%uint64(h.SegmentBytes) == 0
	return h, ok
}

// Append appends the header as it is on a page.
func (h *Header) Append(p []byte) []byte {
	le := binary.LittleEndian
	p = le.AppendUint16(p, h.Magic)
	p = le.AppendUint16(p, h.Flags)
	p = le.AppendUint32(p, h.Timeline)
	p = le.AppendUint64(p, h.Addr)
	p = le.AppendUint32(p, h.Rest)
	p = le.AppendUint32(p, 0)
	if h.isLong() {
		p = le.AppendUint64(p, h.System)
		p = le.AppendUint32(p, h.SegmentBytes)
		p = le.AppendUint32(p, PageBytes)
	}
	return p
}

// FormatLSN writes an LSN as Postgres does, such as 0/16B3748.
func FormatLSN(lsn uint64) string { return fmt.Sprintf("%X/%X", lsn>>32, uint32(lsn)) }

// Timeline returns the timeline of Postgres that a line is of.
func Timeline(line uint64) uint32 { return uint32(line) }
