package sim

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/klauspost/compress/zstd"
)

// segment is what the simulation reads of a segment object, by its own reading of
// the format (docs/format-store.md).
type segment struct {
	log    string
	host   string
	number uint64
	epoch  uint64
}

const segmentTrailer = 36

func parseSegment(body []byte) (s segment, err error) {
	if len(body) < segmentTrailer {
		return s, fmt.Errorf("segment of %d bytes", len(body))
	}
	t := body[len(body)-segmentTrailer:]
	if string(t[:8]) != "BOUGHSEG" {
		return s, fmt.Errorf("segment with magic %q", t[:8])
	}
	n, off := uint64(binary.LittleEndian.Uint32(t[12:])), binary.LittleEndian.Uint64(t[16:])
	if off+n != uint64(len(body)-segmentTrailer) {
		return s, fmt.Errorf("segment of %d bytes with its footer at %d+%d", len(body), off, n)
	}
	zr, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1))
	if err != nil {
		return s, err
	}
	defer zr.Close()
	raw, err := zr.DecodeAll(body[off:off+n], nil)
	if err != nil {
		return s, err
	}
	text := func() string {
		n := number(&raw)
		if n > uint64(len(raw)) {
			raw = nil
			return ""
		}
		p := raw[:n]
		raw = raw[n:]
		return string(p)
	}
	s.log, s.host = text(), text()
	s.number, s.epoch = number(&raw), number(&raw)
	if len(raw) == 0 {
		return s, errors.New("segment with a short footer")
	}
	return s, nil
}

// number takes a uvarint; after the end there are only zeros.
func number(p *[]byte) uint64 {
	v, n := binary.Uvarint(*p)
	if n <= 0 {
		*p = nil
		return 0
	}
	*p = (*p)[n:]
	return v
}
