package walpage

import (
	"bytes"
	"cmp"
	"fmt"
	"slices"
	"testing"

	"github.com/bough-db/bough/cow"
)

const here, there = 0x6b0767c068314100, 0x6b0767c20e9a2218 // identifiers of clusters

// forSeeds runs a test on some devices whose files lie in different ways.
func forSeeds(t *testing.T, f func(t *testing.T, d *device)) {
	t.Helper()
	for seed := range uint64(20) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			d := newDevice(t, seed)
			d.extent = 1 + int(seed%5)*8
			f(t, d)
		})
	}
}

// TestCommits follows commits across pages, extents and files.
func TestCommits(t *testing.T) {
	forSeeds(t, func(t *testing.T, d *device) {
		c := d.newCluster(here)
		c.commits(600)
		if n := d.tr.number; n != 1 {
			t.Errorf("line %d, want 1", n)
		}
	})
}

// TestVersions knows the pages of every version, and no others.
func TestVersions(t *testing.T) {
	for _, magic := range []uint16{0xd106, 0xd10d, 0xd110, 0xd113, 0xd116, 0xd118} {
		c := newDevice(t, 1).newCluster(here)
		c.magic = magic
		c.commits(20)
	}
	for _, magic := range []uint16{0xd105, 0xd111, 0xd119, 0xd1ff, 0xd018, 0x10d1} {
		c := newDevice(t, 1).newCluster(here)
		c.magic = magic
		if m := c.commit(100); m != (cow.Mark{}) {
			t.Errorf("magic %#x gives the mark %+v", magic, m)
		}
	}
}

// TestReopen goes on where another life of the process ended, cleanly or with a crash
// of Postgres, which goes back to the last whole record.
func TestReopen(t *testing.T) {
	forSeeds(t, func(t *testing.T, d *device) {
		c := d.newCluster(here)
		c.commits(5)
		for range 20 {
			c.commits(d.rng.IntN(30))
			m := c.commit(1)
			d.tr = New(m)
			if got := d.tr.Mark(); got != m {
				t.Fatalf("a new life begins with %+v, want %+v", got, m)
			}
			if d.rng.IntN(2) == 0 {
				c.lsn -= min(uint64(d.rng.IntN(5*PageBytes)), c.lsn%c.segment-HeaderBytes)
				for c.lsn/PageBytes*PageBytes < c.lastAddr { // the mark does not fall
					got := c.commit(1 + uint64(d.rng.IntN(PageBytes)))
					if got.LSN > c.lastAddr || got.LSN+backMax < c.lastAddr {
						t.Fatalf("after a crash the mark is %s, want about %s", FormatLSN(got.LSN), FormatLSN(c.lastAddr))
					}
				}
			}
			c.want(c.commit(PageBytes))
		}
		if n := d.tr.number; n != 1 {
			t.Errorf("line %d, want 1", n)
		}
	})
}

// TestAnyOrder: the kernel sends the pages of a flush in any order, and a barrier may
// come in between. The mark is before the first page that is missing. (Postgres flushes
// each file before it writes to the next.)
func TestAnyOrder(t *testing.T) {
	forSeeds(t, func(t *testing.T, d *device) {
		c := d.newCluster(here)
		c.commits(3)
		for range 40 {
			addrs := c.pages(uint64(d.rng.IntN(40 * PageBytes)))
			done := c.lastAddr
			there := map[uint64]bool{}
			d.rng.Shuffle(len(addrs), func(i, j int) { addrs[i], addrs[j] = addrs[j], addrs[i] })
			slices.SortStableFunc(addrs, func(a, b uint64) int { return cmp.Compare(a/c.segment, b/c.segment) })
			for _, addr := range addrs {
				c.writePage(addr)
				there[addr] = true
				for there[done+PageBytes] {
					done += PageBytes
				}
				if d.rng.IntN(4) == 0 {
					if m := d.tr.Mark(); m.LSN != done {
						t.Fatalf("mark is %s, want %s", FormatLSN(m.LSN), FormatLSN(done))
					}
				}
			}
			c.want(d.tr.Mark())
		}
	})
}

// TestSwitchWAL: pg_switch_wal leaves the rest of a file empty; the first commit in the
// next one is found at once.
func TestSwitchWAL(t *testing.T) {
	forSeeds(t, func(t *testing.T, d *device) {
		c := d.newCluster(here)
		for range 20 {
			c.commits(d.rng.IntN(200))
			c.lsn = (c.lsn/c.segment+1)*c.segment + HeaderBytes
			c.want(c.commit(10))
		}
		if n := d.tr.number; n != 1 {
			t.Errorf("line %d, want 1", n)
		}
	})
}

// TestMissedPage: should a page never be seen, the mark catches up with the next
// commits.
func TestMissedPage(t *testing.T) {
	forSeeds(t, func(t *testing.T, d *device) {
		c := d.newCluster(here)
		c.commits(10)
		c.lsn += 2*PageBytes - c.lsn%PageBytes + 100 // as if a page had been written
		c.commit(10)
		c.want(c.commit(10))
		c.commits(10)
		// So many that they do not wait for it.
		c.lsn += 2*aheadMax - c.lsn%PageBytes + 100
		c.commit(10)
		c.commit(10)
		c.want(c.commit(10))
		c.commits(10)
		if n := d.tr.number; n != 1 {
			t.Errorf("line %d, want 1", n)
		}
	})
}

// TestCopies: copies of WAL files do not count, be they of this cluster, of its
// relatives on other branches, or of a stranger.
func TestCopies(t *testing.T) {
	forSeeds(t, func(t *testing.T, d *device) {
		c := d.newCluster(here)
		c.commits(d.rng.IntN(300) + 50)
		start := c.lsn / c.segment * c.segment
		// An archive of what is done, and of the file that is being written.
		c.copyTo(d.file(), c.segment, 2*c.segment)
		c.copyTo(d.file(), start, c.lastAddr+PageBytes)
		c.commits(5)
		c.copyTo(d.file(), start, c.lastAddr+PageBytes)
		c.want(d.tr.Mark())
		// A relative that has gone further: the file that is being written, and others.
		relative := d.newCluster(here)
		relative.copyTo(d.file(), start, start+c.segment)
		c.want(d.tr.Mark())
		c.commits(5)
		relative.copyTo(d.file(), start+20*c.segment, start+21*c.segment)
		d.tr.Mark()
		c.commits(5)
		// A stranger, at the same place and elsewhere.
		stranger := d.newCluster(there)
		for n := range uint64(3) {
			stranger.copyTo(d.file(), start+n*c.segment, start+(n+1)*c.segment)
			d.tr.Mark()
		}
		c.commits(300)
		stranger.magic, stranger.timeline = 0xd118, 7
		stranger.copyTo(d.file(), start+3*c.segment, start+4*c.segment)
		d.tr.Mark()
		c.commits(300)
		if n := d.tr.number; n != 1 {
			t.Errorf("line %d, want 1", n)
		}
	})
}

// TestTables: tables that have WAL pages as their contents, which VACUUM FULL or a
// checkpoint writes, at the start of a block or anywhere else.
func TestTables(t *testing.T) {
	forSeeds(t, func(t *testing.T, d *device) {
		c := d.newCluster(here)
		c.commits(50)
		for range 20 {
			table := d.file()
			for i := range uint64(40) {
				image := c.page(c.lastAddr - PageBytes*uint64(d.rng.IntN(40)))[:block]
				if d.rng.IntN(3) > 0 {
					image = c.page(c.lastAddr + 2*aheadMax + PageBytes*uint64(d.rng.IntN(40)))[:block]
				}
				p := make([]byte, PageBytes)
				switch d.rng.IntN(3) {
				case 0: // in the middle of a heap page
					copy(p[block:], image)
				case 1: // as a large object or a file
					copy(p, image)
				default:
					copy(p[24+d.rng.IntN(block):], image)
				}
				table.write(i, p)
			}
			c.commits(d.rng.IntN(4))
		}
		if n := d.tr.number; n != 1 {
			t.Errorf("line %d, want 1", n)
		}
	})
}

// TestRecycledFiles: with wal_recycle a file that is not needed any more gets the name
// of one to come, with its old pages in it.
func TestRecycledFiles(t *testing.T) {
	forSeeds(t, func(t *testing.T, d *device) {
		c := d.newCluster(here)
		for range 12 {
			c.commits(100)
			n := c.lsn / c.segment
			if old := c.files[n-2]; old != nil {
				c.files[n+1] = old
				delete(c.files, n-2)
			}
		}
	})
}

// TestTimelines switches timelines as recovery and promotion do: the file in which the
// old timeline ends is copied up to there, and a new one goes on in the copy, at an
// address that may be lower than where the old one had come. The page of the switch
// still has the old timeline in its header.
func TestTimelines(t *testing.T) {
	forSeeds(t, func(t *testing.T, d *device) {
		c := d.newCluster(here)
		c.commits(200)
		for round := range 5 {
			old := *c
			to := c.lsn - min(uint64(d.rng.IntN(60*PageBytes)), c.lsn%c.segment-HeaderBytes)
			start := to / c.segment * c.segment
			f := d.file()
			c.files = map[uint64]*file{start / c.segment: f}
			c.copyTo(f, start, to/PageBytes*PageBytes+PageBytes)
			d.tr.Mark()
			c.timeline, c.lsn = c.timeline+1, to/PageBytes*PageBytes+PageBytes
			c.lastAddr = 0
			before := uint64(round + 1)
			for i := range 3 {
				m := c.commit(100)
				if i < 2 && m.Line>>32 == before {
					continue // it may take so long
				}
				c.want(m)
			}
			c.commits(200)
			if n := d.tr.number; n != before+1 {
				t.Errorf("line %d, want %d", n, before+1)
			}
			// A late look at the old timeline changes nothing.
			old.copyTo(d.file(), start, start+c.segment)
			c.commits(5)
		}
	})
}

// TestTimelineInPlace: a timeline that goes on right behind the last page is followed
// at once.
func TestTimelineInPlace(t *testing.T) {
	d := newDevice(t, 1)
	d.extent = 1000
	c := d.newCluster(here)
	c.commits(10)
	c.timeline, c.lsn = 2, c.lastAddr+PageBytes
	c.want(c.commit(10))
	if d.tr.number != 2 {
		t.Errorf("line %d, want 2", d.tr.number)
	}
}

// TestNewCluster: another cluster takes the first one's place: made anew, or put back
// from a copy, with pages before and after the old one's.
func TestNewCluster(t *testing.T) {
	forSeeds(t, func(t *testing.T, d *device) {
		c := d.newCluster(here)
		c.commits(100)
		for round := range 4 {
			n := d.newCluster(uint64(there + round))
			if round%2 == 0 {
				n.lsn += uint64(d.rng.IntN(500)) << 20
			}
			if round == 1 { // the same cluster, as it was once
				n.system = d.tr.system
			}
			for range 3 {
				n.commit(10)
			}
			n.commits(100)
			if got := d.tr.number; got != uint64(round+2) {
				t.Errorf("line %d, want %d", got, round+2)
			}
		}
	})
}

// TestResetWAL: pg_resetwal goes on in a later file of the same timeline.
func TestResetWAL(t *testing.T) {
	forSeeds(t, func(t *testing.T, d *device) {
		c := d.newCluster(here)
		c.commits(100)
		for _, files := range []uint64{1, 2, 100} {
			c.lsn = (c.lsn/c.segment+files)*c.segment + HeaderBytes
			for range 3 {
				c.commit(10)
			}
			c.commits(50)
		}
		if n := d.tr.number; n != 1 {
			t.Errorf("line %d, want 1", n)
		}
	})
}

// TestWithoutFirstPage: a device that is first seen in the middle of a file.
func TestWithoutFirstPage(t *testing.T) {
	forSeeds(t, func(t *testing.T, d *device) {
		c := d.newCluster(here)
		c.lsn += 10 * PageBytes
		for range 3 {
			c.commit(10)
		}
		c.commits(200)
	})
}

// FuzzLook: no block makes a Tracker fail, and only whole headers move it.
func FuzzLook(f *testing.F) {
	c := newDevice(f, 1).newCluster(here)
	f.Add(uint64(5), c.page(1 << 20)[:HeaderBytes])
	f.Add(uint64(5), c.page(1<<20 + PageBytes)[:HeaderBytes])
	f.Add(uint64(0), []byte{0x10, 0xd1})
	f.Fuzz(func(t *testing.T, at uint64, head []byte) {
		p := make([]byte, block)
		copy(p, head)
		at %= 1 << 29
		tr := New(cow.Mark{Line: 1<<32 | 1, LSN: 1 << 20})
		h, ok := Parse(p)
		for range 4 {
			before := tr.Mark()
			tr.Look(at, p)
			tr.Look(at+2, p)
			if m := tr.Mark(); m != before && (!ok || m.LSN != h.Addr || Timeline(m.Line) != h.Timeline) {
				t.Fatalf("mark %+v became %+v, by header %+v, %v", before, m, h, ok)
			}
		}
		if !ok {
			return
		}
		if got := h.Append(nil); !bytes.Equal(got, p[:len(got)]) {
			t.Errorf("header %+v is written as %x, was %x", h, got, p[:len(got)])
		}
	})
}

func BenchmarkLook(b *testing.B) {
	d := newDevice(b, 1)
	c := d.newCluster(here)
	c.commits(10)
	p, wal := make([]byte, block), c.page(c.lastAddr)
	var m cow.Marker = d.tr
	b.Run("data", func(b *testing.B) {
		for b.Loop() {
			m.Look(77, p)
		}
	})
	b.Run("wal", func(b *testing.B) {
		for b.Loop() {
			m.Look(77, wal)
		}
	})
}
