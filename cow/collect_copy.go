package cow

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"maps"
	"slices"

	"github.com/bough-db/bough/objstore"
)

// How a collection reads: few requests, and little for nothing.
const (
	copyGap   = 64 << 10
	copyBytes = 1 << 20
)

// byteRange is a part of an object that is to be read. use gets its bytes, which it
// may keep until it returns, and may be called again if it says ErrCorrupt.
type byteRange struct {
	off, n uint32
	use    func(p []byte) error
}

// readRanges reads parts of an object.
func (c *collector) readRanges(ctx context.Context, key string, ranges []byteRange) error {
	slices.SortFunc(ranges, func(a, b byteRange) int { return cmp.Compare(a.off, b.off) })
	for len(ranges) > 0 {
		n, first := 1, ranges[0]
		end := first.off + first.n
		for n < len(ranges) && ranges[n].off <= end+copyGap && ranges[n].off+ranges[n].n-first.off <= copyBytes {
			end = max(end, ranges[n].off+ranges[n].n)
			n++
		}
		if err := c.readGroup(ctx, key, first.off, end, ranges[:n]); err != nil {
			return fmt.Errorf("read %s: %w", key, err)
		}
		ranges = ranges[n:]
	}
	return nil
}

func (c *collector) readGroup(ctx context.Context, key string, off, end uint32, group []byteRange) error {
	read := func(off, end uint32) ([]byte, error) {
		if err := c.o.Pace(ctx, int(end-off)); err != nil {
			return nil, err
		}
		buf := make([]byte, end-off)
		got, _, err := c.s.objects.ReadAt(ctx, key, buf, int64(off))
		return buf[:got], err
	}
	buf, err := read(off, end)
	if err != nil {
		return err
	}
	for _, r := range group {
		from := min(int(r.off-off), len(buf))
		err := r.use(buf[from:min(from+int(r.n), len(buf))])
		if errors.Is(err, ErrCorrupt) { // once more: it may have happened on the way
			var again []byte
			if again, err = read(r.off, r.off+r.n); err == nil {
				err = r.use(again)
			}
		}
		if err != nil {
			return fmt.Errorf("bytes %d+%d: %w", r.off, r.n, err)
		}
	}
	return nil
}

// copyBlocks returns the contents of the pack's blocks, in the order of its frames.
// It verifies them. The result is valid until the next call.
func (b *building) copyBlocks(ctx context.Context) ([]byte, error) {
	size := len(b.order) * BlockSize
	b.raw = slices.Grow(b.raw[:0], size)[:size]
	type place struct{ pos, order int }
	for _, d := range b.desc {
		frames := map[int][]place{}
		for i, o := range b.order {
			if o.segment < d.from || o.segment > d.to {
				continue
			}
			frame, pos, ok := d.index.find(o.segment, o.slot)
			if !ok {
				return nil, fmt.Errorf("object %s has no slot %d of segment %d: %w", d.key(b.v.m.ID), o.slot, o.segment, ErrCorrupt)
			}
			frames[frame] = append(frames[frame], place{pos, i})
		}
		ranges := make([]byteRange, 0, len(frames))
		for n, places := range frames {
			info := d.index.frames[n]
			ranges = append(ranges, byteRange{info.off, info.size, func(p []byte) error {
				blocks, err := decodeFrame(b.s.zr, info, p, b.frame[:0])
				if err != nil {
					return err
				}
				for _, at := range places {
					copy(b.raw[at.order*BlockSize:(at.order+1)*BlockSize], blocks[at.pos*BlockSize:])
				}
				return nil
			}})
		}
		if err := b.readRanges(ctx, d.key(b.v.m.ID), ranges); err != nil {
			return nil, err
		}
	}
	return b.raw, nil
}

// key returns the name of the piece's object.
func (p piece) key(log BranchID) string {
	if p.pack != nil {
		return p.pack.id(log).key()
	}
	return segmentKey(log, p.from)
}

// copyPages returns the pack's pages, one after the other.
func (b *building) copyPages(ctx context.Context) ([]byte, error) {
	total := 0
	for _, g := range b.pack.pages {
		total += int(g.n)
	}
	out := make([]byte, total)
	byObject := map[string][]byteRange{}
	at := 0
	for _, g := range b.pack.pages {
		key, off := checkpointKey(b.v.m.ID, g.ckpt), g.off
		if r := b.v.at.pack(g.ckpt); r != nil {
			pages, err := b.s.packPages(ctx, r.id(b.v.m.ID))
			if err != nil {
				return nil, err
			}
			key = r.id(b.v.m.ID).key()
			in, ok := pages.find(g.ckpt, g.off)
			if !ok || in.n != g.n {
				return nil, fmt.Errorf("pack %s does not have the page of checkpoint %d at %d: %w", key, g.ckpt, g.off, ErrCorrupt)
			}
			off = in.at
		}
		to, seed := out[at:at+int(g.n)], pageSeed(b.v.m.ID, g.ckpt)
		byObject[key] = append(byObject[key], byteRange{off, g.n, func(p []byte) error {
			copy(to, p)
			return checkPage(p, len(to), seed)
		}})
		at += int(g.n)
	}
	for _, key := range slices.Sorted(maps.Keys(byObject)) {
		if err := b.readRanges(ctx, key, byObject[key]); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// checkPage tells whether p is a page of n bytes of the checkpoint with the seed.
func checkPage(p []byte, n int, seed uint32) error {
	if len(p) != n || n < pageHeader+4 || crc32.Update(seed, castagnoli, p[:n-4]) != binary.LittleEndian.Uint32(p[n-4:]) {
		return fmt.Errorf("page checksum: %w", ErrCorrupt)
	}
	return nil
}

// put stores the pack, and returns what the manifest is to say of it.
func (b *building) put(ctx context.Context) (packRef, error) {
	raw, err := b.copyBlocks(ctx)
	if err != nil {
		return packRef{}, err
	}
	pages, err := b.copyPages(ctx)
	if err != nil {
		return packRef{}, err
	}
	enc, err := b.s.encoders.take(ctx)
	if err != nil {
		return packRef{}, err
	}
	defer b.s.encoders.give(enc)
	data := enc.encodePack(b.pack, b.order, func(i int) []byte { return raw[i*BlockSize : (i+1)*BlockSize] }, pages)
	if err := b.o.Pace(ctx, len(data)); err != nil {
		return packRef{}, err
	}
	h := &b.pack.head
	if _, err := b.s.objects.Put(ctx, h.id().key(), data, objstore.Condition{IfAbsent: true}); err != nil {
		now, rerr := b.s.readPack(ctx, h.id(), false)
		if rerr != nil || now.head.Nonce != h.Nonce {
			return packRef{}, err
		}
	}
	n := len(b.pack.batches)
	ref := packRef{
		From: h.From, To: h.To, Gen: h.Gen, First: h.First, Last: h.Last, Next: h.Next,
		FirstTime: b.firstTime.UTC(), LastTime: b.pack.batches[n-1].Time.UTC(),
		Kept: b.kept, Blocks: len(b.order), Bytes: int64(len(data)), Since: b.s.now().UTC(), Written: int64(len(data)),
	}
	ref.Fences = len(b.pack.fences)
	for _, f := range b.pack.index.frames {
		ref.Data += int64(f.size)
	}
	if r := b.pack.roots; len(r) > 0 {
		ref.LastRoot = r[len(r)-1].Segment
	}
	for _, d := range b.desc {
		ref.Source += d.source
		ref.Written += d.written
	}
	return ref, nil
}
