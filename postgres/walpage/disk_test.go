package walpage

import (
	"math/rand/v2"
	"testing"

	"github.com/bough-db/bough/cow"
)

const block = 4096

// device is a device with a file system that allocates the blocks of its files in
// extents of random length, as ext4 does for sparse files that are written bit by bit.
type device struct {
	t      testing.TB
	rng    *rand.Rand
	tr     *Tracker
	next   uint64 // block that was never allocated
	extent int    // pages of an extent at most
}

func newDevice(t testing.TB, seed uint64) *device {
	return &device{t: t, rng: rand.New(rand.NewPCG(seed, 7)), tr: New(cow.Mark{}), next: 1000, extent: 8}
}

// file is where the pages of a file lie.
type file struct {
	d     *device
	pages map[uint64]uint64
	left  int    // pages of the last extent
	end   uint64 // of the last extent
}

func (d *device) file() *file { return &file{d: d, pages: map[uint64]uint64{}} }

// at returns the block of a page of the file, which is allocated if it is not there.
func (f *file) at(page uint64) uint64 {
	if b, ok := f.pages[page]; ok {
		return b
	}
	if f.left == 0 {
		f.left = 1 + f.d.rng.IntN(f.d.extent)
		f.end = f.d.next + uint64(f.d.rng.IntN(5))
		f.d.next = f.end + 2*uint64(f.left)
	}
	b := f.end
	f.pages[page] = b
	f.left--
	f.end += 2
	return b
}

// write writes one page, or keeps it back for release.
func (f *file) write(page uint64, p []byte) {
	b := f.at(page)
	f.d.tr.Look(b, p[:block])
	f.d.tr.Look(b+1, p[block:])
}

// cluster is a Postgres that writes WAL.
type cluster struct {
	d        *device
	magic    uint16
	timeline uint32
	system   uint64
	segment  uint64 // bytes
	lsn      uint64 // of the next byte
	files    map[uint64]*file
	lastAddr uint64 // of the last page written
}

// newCluster is a cluster fresh from initdb, with files of 1 MiB.
func (d *device) newCluster(system uint64) *cluster {
	return &cluster{
		d: d, magic: 0xd110, timeline: 1, system: system, segment: 1 << 20, lsn: 1<<20 + HeaderBytes, files: map[uint64]*file{},
	}
}

// page returns the page at an address, with the bytes behind its header as they would
// look to whoever mistakes its second half for a page.
func (c *cluster) page(addr uint64) []byte {
	h := Header{Magic: c.magic, Timeline: c.timeline, Addr: addr}
	if addr%c.segment == 0 {
		h.Flags |= flagLong
		h.System, h.SegmentBytes = c.system, uint32(c.segment)
	}
	p := make([]byte, PageBytes)
	h.Append(p[:0])
	fake := Header{Magic: c.magic, Timeline: c.timeline, Addr: addr + PageBytes}
	fake.Append(p[block:block])
	return p
}

func (c *cluster) writePage(addr uint64) {
	n := addr / c.segment
	f := c.files[n]
	if f == nil {
		f = c.d.file()
		c.files[n] = f
	}
	f.write(addr%c.segment/PageBytes, c.page(addr))
	c.lastAddr = max(c.lastAddr, addr)
}

// pages returns the addresses of the pages that n more bytes of WAL lie in.
func (c *cluster) pages(n uint64) (addrs []uint64) {
	first := c.lsn / PageBytes * PageBytes
	c.lsn += n
	for a := first; a <= (c.lsn-1)/PageBytes*PageBytes; a += PageBytes {
		addrs = append(addrs, a)
	}
	return addrs
}

// commit writes n bytes of WAL and flushes.
func (c *cluster) commit(n uint64) cow.Mark {
	for _, a := range c.pages(n) {
		c.writePage(a)
	}
	return c.d.tr.Mark()
}

// commits commits until n more pages have been begun.
func (c *cluster) commits(n int) {
	for end := c.lsn + uint64(n)*PageBytes; c.lsn < end; {
		c.want(c.commit(1 + uint64(c.d.rng.IntN(3*PageBytes))))
	}
}

// want checks that a mark is that of the cluster's last page.
func (c *cluster) want(m cow.Mark) {
	c.d.t.Helper()
	if Timeline(m.Line) != c.timeline || m.LSN != c.lastAddr {
		c.d.t.Fatalf("mark is page %s of timeline %d (line %#x), want page %s of timeline %d",
			FormatLSN(m.LSN), Timeline(m.Line), m.Line, FormatLSN(c.lastAddr), c.timeline)
	}
}

// copyTo copies pages of the WAL into a file, as cp or an archive does.
func (c *cluster) copyTo(f *file, from, to uint64) {
	for a := from; a < to; a += PageBytes {
		f.write(a%c.segment/PageBytes, c.page(a))
	}
}
