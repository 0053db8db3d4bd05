package cow

import (
	"encoding/binary"
	"fmt"
	"slices"
	"time"

	"github.com/bough-db/bough/wal"
	"github.com/klauspost/compress/zstd"
)

// A pack object stands for a run of consecutive segments of one log, and for the
// log's checkpoints of the same numbers. Blocks and pages keep their addresses; what
// nothing can reach any more is left out.
//
//	frames   one after the other, from offset 0, as in a segment
//	pages    one after the other, as in the checkpoints that they were in
//	footer   zstd, see encodePackFooter
//	trailer  as that of a segment, with the magic "BOUGHPAK"
//
// For each barrier of the run that is kept the pack has one batch: what changed
// since the kept barrier before it, the last change of each block only. Its last
// batch is that of the run's last barrier, kept or not. So a replay finds at each
// kept barrier what it would have found in the segments: see package doc, "Packs".
const (
	packMagic   = "BOUGHPAK"
	packVersion = 1

	// packRunMax is how many segments one pack can stand for: the keys of its index
	// have that many.
	packRunMax = 1 << 18
	// packBlocksMax is how many blocks a pack has at most: as many as a segment can
	// have, so that every segment can become one.
	packBlocksMax = slotMax
	// packEntriesMax bounds the entries of a pack, which its footer has to hold.
	packEntriesMax = 1 << 17
	// packPagesMax bounds the pages of a pack, and packPageBytesMax their bytes.
	packPagesMax     = 1 << 14
	packPageBytesMax = 32 << 20
)

// objectID names an object that holds blocks of a log: segment from, or the pack of
// generation gen for the segments from to to.
type objectID struct {
	log      BranchID
	from, to wal.SegmentNo
	gen      uint64 // 0: a segment
}

func segmentID(log BranchID, n wal.SegmentNo) objectID { return objectID{log: log, from: n, to: n} }

func (o objectID) key() string {
	if o.gen == 0 {
		return segmentKey(o.log, o.from)
	}
	return packKey(o.log, o.from, o.to, o.gen)
}

// cacheSegment is what stands for the object's segment in the keys of the frame
// cache. Those of two packs are the same only by an accident, which the frames'
// checksums notice.
func (o objectID) cacheSegment() uint64 {
	if o.gen == 0 {
		return uint64(o.from)
	}
	return 1<<63 | o.gen<<segmentBits | uint64(o.from)
}

// packHead says which pack it is and what it stands for.
type packHead struct {
	Log      BranchID
	From, To wal.SegmentNo // of segments
	Gen      uint64        // generation of the manifest that claimed it
	Nonce    nonce
	Host     string  // who made it
	Created  int64   // unix nanoseconds
	First    wal.Seq // barriers of the segments
	Last     wal.Seq
	// Next is the first barrier after Last that can still be opened: blocks that
	// are overwritten before it are left out. It is Last+1 if Last is kept.
	Next   wal.Seq
	Source uint64 // bytes of the segments, checkpoints and packs that it replaces
}

func (h *packHead) id() objectID { return objectID{h.Log, h.From, h.To, h.Gen} }

// epochRun says that segments from From on are of the epoch.
type epochRun struct {
	From  wal.SegmentNo
	Epoch uint64
}

// packBatch is what changed between two kept barriers.
type packBatch struct {
	Seq     wal.Seq
	Time    time.Time
	Mark    Mark
	Segment wal.SegmentNo // that the barrier lies in
	Kept    bool
	Entries []packEntry
}

// moment is the batch's barrier.
func (b *packBatch) moment(log BranchID) moment {
	return moment{point: point{Log: log, Segment: b.Segment, Seq: b.Seq}, Time: b.Time.UTC(), Mark: b.Mark}
}

// packEntry is an entry of a batch, whose slots are those of Segment.
type packEntry struct {
	wal.Entry
	Segment wal.SegmentNo
}

// packRoot is what a checkpoint of the run said of itself.
type packRoot struct {
	Segment wal.SegmentNo
	Seq     wal.Seq
	Time    time.Time // of that barrier
	Mark    Mark
	Epoch   uint64
	Root    pageAddr
}

// packPage is a page of a checkpoint of the run: n bytes, which are at byte at of
// the pack.
type packPage struct {
	ckpt       wal.SegmentNo
	off, n, at uint32
}

// packPages is a pack's pages, by checkpoint and offset.
type packPages []packPage

// pack is a pack's whole description.
type pack struct {
	head    packHead
	epochs  []epochRun
	fences  []wal.SegmentNo // of the run: their objects stay
	batches []packBatch
	roots   []packRoot
	pages   packPages
	index   blockIndex
}

// epoch returns that of a segment of the run.
func (p *pack) epoch(seg wal.SegmentNo) uint64 {
	var e uint64
	for _, r := range p.epochs {
		if r.From <= seg {
			e = r.Epoch
		}
	}
	return e
}

// keeps tells whether the barrier can still be opened.
func (p *pack) keeps(seq wal.Seq) bool {
	i, ok := slices.BinarySearchFunc(p.batches, seq, func(b packBatch, s wal.Seq) int { return int(int64(b.Seq) - int64(s)) })
	return ok && p.batches[i].Kept
}

// find returns the page that was at the offset of a checkpoint.
func (g packPages) find(ckpt wal.SegmentNo, off uint32) (packPage, bool) {
	i, ok := slices.BinarySearchFunc(g, packPage{ckpt: ckpt, off: off}, comparePages)
	if !ok {
		return packPage{}, false
	}
	return g[i], true
}

func comparePages(a, b packPage) int {
	switch {
	case a.ckpt < b.ckpt || a.ckpt == b.ckpt && a.off < b.off:
		return -1
	case a.ckpt == b.ckpt && a.off == b.off:
		return 0
	}
	return 1
}

// packedKey orders the blocks of a pack.
func packedKey(from, seg wal.SegmentNo, s wal.Slot) uint32 {
	return uint32(seg-from)<<slotBits | uint32(s)
}

// packedBlock is a block of a pack: its content is that of the slot.
type packedBlock struct {
	block   uint64
	segment wal.SegmentNo
	slot    wal.Slot
}

// The footer of a pack before compression, all numbers uvarint unless said
// otherwise:
//
//	log id: length, bytes
//	host: length, bytes
//	first segment, segments after it, generation
//	nonce: 16 bytes
//	created: 8 bytes, little endian, unix nanoseconds
//	first barrier, last barrier minus the first, next barrier minus the last
//	bytes replaced
//	epoch count, then for each
//	  segment minus the one before (the first: minus the first of the pack)
//	  epoch minus the one before
//	fence count, then for each its segment minus the one before (the first: as above)
//	batch count, then for each batch
//	  seq minus the previous batch's (the first: minus the first barrier, plus 1)
//	  time minus the previous batch's, zigzag (the first: minus created)
//	  LSN, then line, each minus the previous batch's, zigzag
//	  (segment minus the previous batch's; the first: as above) << 1 | kept
//	  entry count, then for each entry
//	    kind | (slot of a data entry)<<2; the slot is 0 for other kinds
//	    of a data entry: segment minus that of the data entry before, zigzag (the
//	      first of the pack: minus the first segment)
//	    block minus the previous entry's end, zigzag (the first of a batch: as it is)
//	    blocks
//	root count, then for each
//	  segment minus the one before (the first: as above)
//	  seq minus the one before (the first: as it is)
//	  time minus created, zigzag; LSN, line, epoch
//	  page: log<<48 | checkpoint+1, offset, length; all 0 for an empty tree
//	page count, then for each
//	  checkpoint minus the one before (the first: as above)
//	  offset in it, minus the end of the page before if that is of the same one
//	  length
//	frame count, then for each frame
//	  codec, blocks, stored bytes
//	  CRC32C: 4 bytes, little endian
//	  for each block: segment, then slot, each minus the previous block's, zigzag
//	    (the first: minus the pack's first segment, and as it is)

// encodePackFooter describes the pack; order lists the blocks in frame order.
func encodePackFooter(p *pack, order []packedBlock) []byte {
	h := &p.head
	buf := make([]byte, 0, 1024+len(order)*8)
	buf = appendString(buf, string(h.Log))
	buf = appendString(buf, h.Host)
	buf = binary.AppendUvarint(buf, uint64(h.From))
	buf = binary.AppendUvarint(buf, uint64(h.To-h.From))
	buf = binary.AppendUvarint(buf, h.Gen)
	buf = append(buf, h.Nonce[:]...)
	buf = binary.LittleEndian.AppendUint64(buf, uint64(h.Created))
	buf = binary.AppendUvarint(buf, uint64(h.First))
	buf = binary.AppendUvarint(buf, uint64(h.Last-h.First))
	buf = binary.AppendUvarint(buf, uint64(h.Next-h.Last))
	buf = binary.AppendUvarint(buf, h.Source)
	buf = binary.AppendUvarint(buf, uint64(len(p.epochs)))
	seg, epoch := h.From, uint64(0)
	for _, e := range p.epochs {
		buf = binary.AppendUvarint(buf, uint64(e.From-seg))
		buf = binary.AppendUvarint(buf, e.Epoch-epoch)
		seg, epoch = e.From, e.Epoch
	}
	buf = binary.AppendUvarint(buf, uint64(len(p.fences)))
	seg = h.From
	for _, f := range p.fences {
		buf = binary.AppendUvarint(buf, uint64(f-seg))
		seg = f
	}
	buf = appendPackBatches(buf, p)
	buf = binary.AppendUvarint(buf, uint64(len(p.roots)))
	seg = h.From
	seq := wal.Seq(0)
	for _, r := range p.roots {
		buf = binary.AppendUvarint(buf, uint64(r.Segment-seg))
		buf = binary.AppendUvarint(buf, uint64(r.Seq-seq))
		buf = binary.AppendVarint(buf, r.Time.UnixNano()-h.Created)
		buf = binary.AppendUvarint(buf, r.Mark.LSN)
		buf = binary.AppendUvarint(buf, r.Mark.Line)
		buf = binary.AppendUvarint(buf, r.Epoch)
		buf = binary.AppendUvarint(buf, r.Root.ckpt)
		buf = binary.AppendUvarint(buf, uint64(r.Root.off))
		buf = binary.AppendUvarint(buf, uint64(r.Root.n))
		seg, seq = r.Segment, r.Seq
	}
	buf = binary.AppendUvarint(buf, uint64(len(p.pages)))
	seg = h.From
	end := uint32(0)
	for _, g := range p.pages {
		if g.ckpt != seg {
			end = 0
		}
		buf = binary.AppendUvarint(buf, uint64(g.ckpt-seg))
		buf = binary.AppendUvarint(buf, uint64(g.off-end))
		buf = binary.AppendUvarint(buf, uint64(g.n))
		seg, end = g.ckpt, g.off+g.n
	}
	buf = binary.AppendUvarint(buf, uint64(len(p.index.frames)))
	last, slot, i := int64(h.From), int64(0), 0
	for _, f := range p.index.frames {
		buf = append(buf, f.codec, f.n)
		buf = binary.AppendUvarint(buf, uint64(f.size))
		buf = binary.LittleEndian.AppendUint32(buf, f.sum)
		for range f.n {
			buf = binary.AppendVarint(buf, int64(order[i].segment)-last)
			buf = binary.AppendVarint(buf, int64(order[i].slot)-slot)
			last, slot = int64(order[i].segment), int64(order[i].slot)
			i++
		}
	}
	return buf
}

func appendPackBatches(buf []byte, p *pack) []byte {
	buf = binary.AppendUvarint(buf, uint64(len(p.batches)))
	seq, at, mark := p.head.First-1, p.head.Created, Mark{}
	seg, data := p.head.From, int64(p.head.From)
	for i := range p.batches {
		b := &p.batches[i]
		buf = binary.AppendUvarint(buf, uint64(b.Seq-seq))
		buf = binary.AppendVarint(buf, b.Time.UnixNano()-at)
		buf = binary.AppendVarint(buf, int64(b.Mark.LSN-mark.LSN))
		buf = binary.AppendVarint(buf, int64(b.Mark.Line-mark.Line))
		kept := uint64(0)
		if b.Kept {
			kept = 1
		}
		buf = binary.AppendUvarint(buf, uint64(b.Segment-seg)<<1|kept)
		seq, at, mark, seg = b.Seq, b.Time.UnixNano(), b.Mark, b.Segment
		buf = binary.AppendUvarint(buf, uint64(len(b.Entries)))
		end := uint64(0)
		for _, e := range b.Entries {
			tag := uint64(e.Kind)
			if e.Kind == wal.KindData {
				tag |= uint64(e.Slot) << 2
			}
			buf = binary.AppendUvarint(buf, tag)
			if e.Kind == wal.KindData {
				buf = binary.AppendVarint(buf, int64(e.Segment)-data)
				data = int64(e.Segment)
			}
			buf = binary.AppendVarint(buf, int64(e.Block-end))
			buf = binary.AppendUvarint(buf, e.Count)
			end = e.Block + e.Count
		}
	}
	return buf
}

// decodePackFooter decompresses and checks the footer of a pack. With batches false
// it leaves the batches out: reading needs only the index.
func decodePackFooter(zr *zstd.Decoder, t trailerInfo, packed []byte, batches bool) (*pack, error) {
	raw, err := unpackFooter(zr, t, packed)
	if err != nil {
		return nil, err
	}
	p, err := parsePackFooter(raw, batches, t.off)
	if err != nil {
		return nil, fmt.Errorf("pack footer: %w", err)
	}
	return p, nil
}

// parsePackFooter reads the decompressed footer of a pack whose frames and pages
// take dataBytes.
func parsePackFooter(raw []byte, batches bool, dataBytes uint64) (*pack, error) {
	d := &decoder{buf: raw}
	p := &pack{}
	h := &p.head
	h.Log = BranchID(d.bytes(d.uvarint()))
	h.Host = string(d.bytes(d.uvarint()))
	h.From = wal.SegmentNo(d.uvarint())
	run := d.uvarint()
	h.To = h.From + wal.SegmentNo(run)
	h.Gen = d.uvarint()
	copy(h.Nonce[:], d.bytes(16))
	if c := d.bytes(8); c != nil {
		h.Created = int64(binary.LittleEndian.Uint64(c))
	}
	h.First = wal.Seq(d.uvarint())
	h.Last = h.First + wal.Seq(d.uvarint())
	h.Next = h.Last + wal.Seq(d.uvarint())
	h.Source = d.uvarint()
	if h.From == 0 || h.From > segmentMax || run >= packRunMax || h.Gen == 0 || h.First == 0 || h.Last < h.First || h.Next <= h.Last {
		d.fail()
	}
	p.index.object = h.id()
	d.packRuns(p)
	d.packBatches(p, batches)
	d.packRoots(p)
	pageBytes := d.packPages(p)
	if d.err != nil || pageBytes > dataBytes {
		d.fail()
		return nil, d.err
	}
	d.packFrames(p, dataBytes-pageBytes)
	if d.err == nil && len(d.buf) > 0 {
		d.fail()
	}
	if d.err != nil {
		return nil, d.err
	}
	at := uint32(dataBytes - pageBytes)
	for i := range p.pages {
		p.pages[i].at = at
		at += p.pages[i].n
	}
	return p, nil
}

// count reads how many of something follow, each of which takes at least a byte.
func (d *decoder) count() uint64 {
	n := d.uvarint()
	if n > uint64(len(d.buf)) {
		d.fail()
		return 0
	}
	return n
}

// packSegment reads a segment of the pack, as the difference to one before.
func (d *decoder) packSegment(p *pack, seg wal.SegmentNo, step uint64) wal.SegmentNo {
	if step > uint64(p.head.To-seg) {
		d.fail()
		return seg
	}
	return seg + wal.SegmentNo(step)
}

// packRuns reads the epochs and fences.
func (d *decoder) packRuns(p *pack) {
	seg, epoch := p.head.From, uint64(0)
	for i := range d.count() {
		step := d.uvarint()
		seg = d.packSegment(p, seg, step)
		up := d.uvarint()
		epoch += up
		if (step == 0) != (i == 0) || up == 0 && i > 0 {
			d.fail()
		}
		if d.err != nil {
			return
		}
		p.epochs = append(p.epochs, epochRun{seg, epoch})
	}
	if len(p.epochs) == 0 {
		d.fail()
	}
	seg = p.head.From
	for i := range d.count() {
		step := d.uvarint()
		seg = d.packSegment(p, seg, step)
		if step == 0 && i > 0 {
			d.fail()
		}
		if d.err != nil {
			return
		}
		p.fences = append(p.fences, seg)
	}
}

func (d *decoder) packBatches(p *pack, keep bool) {
	n := d.count()
	b := packBatch{Seq: p.head.First - 1, Segment: p.head.From}
	at, data := p.head.Created, int64(p.head.From)
	entries := uint64(0)
	for range n {
		step := d.uvarint()
		b.Seq += wal.Seq(step)
		at += d.varint()
		b.Time = time.Unix(0, at)
		b.Mark.LSN += uint64(d.varint())
		b.Mark.Line += uint64(d.varint())
		where := d.uvarint()
		b.Segment = d.packSegment(p, b.Segment, where>>1)
		b.Kept = where&1 != 0
		count := d.count()
		if entries += count; step == 0 || b.Seq > p.head.Last || entries > packEntriesMax {
			d.fail()
			return
		}
		b.Entries = nil
		end := uint64(0)
		for range count {
			tag := d.uvarint()
			e := packEntry{Entry: wal.Entry{Kind: wal.Kind(tag & 3), Slot: wal.Slot(tag >> 2)}}
			if e.Kind == wal.KindData {
				data += d.varint()
				e.Segment = wal.SegmentNo(data)
			}
			e.Block = end + uint64(d.varint())
			e.Count = d.uvarint()
			end = e.Block + e.Count
			if d.err != nil || !validEntry(e.Entry, tag>>2) ||
				e.Kind == wal.KindData && (e.Segment < p.head.From || e.Segment > b.Segment) {
				d.fail()
				return
			}
			if keep {
				b.Entries = append(b.Entries, e)
			}
		}
		if keep {
			p.batches = append(p.batches, b)
		}
	}
	if d.err == nil && (b.Seq != p.head.Last || b.Kept && p.head.Next != p.head.Last+1) {
		d.fail()
	}
}

func (d *decoder) packRoots(p *pack) {
	seg, seq := p.head.From, wal.Seq(0)
	for i := range d.count() {
		step := d.uvarint()
		seg = d.packSegment(p, seg, step)
		seq += wal.Seq(d.uvarint())
		r := packRoot{Segment: seg, Seq: seq, Time: time.Unix(0, p.head.Created+d.varint()).UTC()}
		r.Mark.LSN, r.Mark.Line, r.Epoch = d.uvarint(), d.uvarint(), d.uvarint()
		ckpt, off, n := d.uvarint(), d.uvarint(), d.uvarint()
		if step == 0 && i > 0 || seq < p.head.First || seq > p.head.Last || off > 1<<32-1 || n > pageBytesMax ||
			(ckpt == 0) != (n == 0) || ckpt&(1<<48-1) == 0 && ckpt != 0 {
			d.fail()
		}
		if d.err != nil {
			return
		}
		r.Root = pageAddr{ckpt: ckpt, off: uint32(off), n: uint32(n)}
		p.roots = append(p.roots, r)
	}
}

// packPages returns how many bytes the pages take.
func (d *decoder) packPages(p *pack) (bytes uint64) {
	seg, end := p.head.From, uint64(0)
	count := d.count()
	if count > packPagesMax {
		d.fail()
		return 0
	}
	for range count {
		step := d.uvarint()
		if step > 0 {
			end = 0
		}
		seg = d.packSegment(p, seg, step)
		off := end + d.uvarint()
		n := d.uvarint()
		if off < end || off > 1<<32-1 || n < pageHeader+4 || n > pageBytesMax || off+n > 1<<32-1 {
			d.fail()
		}
		if bytes += n; d.err != nil || bytes > packPageBytesMax {
			d.fail()
			return 0
		}
		end = off + n
		p.pages = append(p.pages, packPage{ckpt: seg, off: uint32(off), n: uint32(n)})
	}
	return bytes
}

// packFrames reads the frames, and sorts their blocks by segment and slot.
func (d *decoder) packFrames(p *pack, framesBytes uint64) {
	x := &p.index
	seg, slot := int64(p.head.From), int64(0)
	d.frames(x, framesBytes, func() int {
		seg += d.varint()
		slot += d.varint()
		if seg < int64(p.head.From) || seg > int64(p.head.To) || slot <= 0 || slot > slotMax || len(x.keys) >= packBlocksMax {
			d.fail()
			return -1
		}
		x.keys = append(x.keys, packedKey(p.head.From, wal.SegmentNo(seg), wal.Slot(slot)))
		x.place = append(x.place, 0)
		return len(x.place) - 1
	})
	if d.err != nil {
		return
	}
	order := make([]int, len(x.keys))
	for i := range order {
		order[i] = i
	}
	slices.SortFunc(order, func(a, b int) int { return int(int64(x.keys[a]) - int64(x.keys[b])) })
	keys, place := make([]uint32, len(order)), make([]uint32, len(order))
	for i, from := range order {
		keys[i], place[i] = x.keys[from], x.place[from]
		if i > 0 && keys[i] == keys[i-1] {
			d.fail()
			return
		}
	}
	x.keys, x.place = keys, place
}

// encodePack returns the object of the pack, whose blocks are those of order, in the
// order of its frames. The result is valid until the next encode.
func (e *segmentEncoder) encodePack(p *pack, order []packedBlock, block func(i int) []byte, pages []byte) []byte {
	e.out = e.out[:0]
	p.index.frames = e.frames(len(order), block)
	e.out = append(e.out, pages...)
	body := encodePackFooter(p, order)
	at := len(e.out)
	e.out = e.zw.EncodeAll(body, e.out)
	e.out = appendTrailer(e.out, packMagic, at, len(body))
	return e.out
}
