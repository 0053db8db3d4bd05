package cow

import (
	"bytes"
	"fmt"
	"slices"

	"github.com/bough-db/bough/wal"
	"github.com/klauspost/compress/zstd"
)

// segmentImage is a whole segment in memory, with its description.
type segmentImage struct {
	data []byte
	footer
}

// decodeSegment describes a segment that is in memory. It keeps data.
func (s *Store) decodeSegment(data []byte) (*segmentImage, error) {
	trailer := data[max(0, len(data)-segmentTrailer):]
	t, err := decodeTrailer(segmentMagic, trailer, int64(len(data)))
	if err != nil {
		return nil, err
	}
	f, err := decodeFooter(s.zr, t, data[t.off:t.off+t.size], true)
	if err != nil {
		return nil, err
	}
	return &segmentImage{data, *f}, nil
}

// same tells whether two segments of one journal have the same batches, down to the
// bytes of their blocks.
func (m *segmentImage) same(zr *zstd.Decoder, o *segmentImage) (bool, error) {
	equal := slices.EqualFunc(m.batches, o.batches, func(a, b wal.Batch) bool {
		return a.Seq == b.Seq && a.Time.Equal(b.Time) && a.LSN == b.LSN && a.Line == b.Line && slices.Equal(a.Entries, b.Entries)
	})
	if !equal || m.index.blocks() != o.index.blocks() {
		return false, nil
	}
	// The same batches have their blocks in the same order.
	var left, right frameReader
	left.zr, left.m = zr, m
	right.zr, right.m = zr, o
	for {
		a, err := left.some()
		if err != nil || len(a) == 0 {
			return err == nil, err
		}
		b, err := right.some()
		if err != nil {
			return false, err
		}
		n := min(len(a), len(b))
		if !bytes.Equal(a[:n], b[:n]) {
			return false, nil
		}
		left.rest, right.rest = a[n:], b[n:]
	}
}

// frameReader reads the blocks of a segment, frame by frame.
type frameReader struct {
	zr   *zstd.Decoder
	m    *segmentImage
	next int
	rest []byte // of the frame before
	buf  []byte
}

// some returns blocks that were not read yet: the rest, or the next frame. There are
// none at the end.
func (r *frameReader) some() ([]byte, error) {
	if len(r.rest) > 0 || r.next == len(r.m.index.frames) {
		return r.rest, nil
	}
	f := r.m.index.frames[r.next]
	var err error
	if r.buf, err = decodeFrame(r.zr, f, r.m.data[f.off:f.off+f.size], r.buf); err != nil {
		return nil, fmt.Errorf("frame %d: %w", r.next, err)
	}
	r.next++
	return r.buf, nil
}
