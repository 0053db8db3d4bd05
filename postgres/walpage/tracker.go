package walpage

import "github.com/bough-db/bough/cow"

const (
	// ringPages is how many pages around the end of the WAL have a known place.
	ringPages = 2048
	// aheadMax is how far ahead of a page that is missing pages are waited for, in
	// bytes: the kernel sends 1 MiB at a time, several at once.
	aheadMax = ringPages / 2 * PageBytes
	// backMax is how far back a crash of Postgres can throw its WAL, in bytes: to
	// where the last whole record ends.
	backMax = 64 * PageBytes
	// rivalsMax is how many other runs of pages are watched.
	rivalsMax = 4
	// proofs is how often the last page of a run has to be written again, each time in
	// a later batch, until the run is taken for the WAL. Postgres does that with every
	// commit, and nobody who copies files does it.
	proofs = 2
)

// place is where a page of the WAL lies on the device. The zero value is nowhere.
type place struct {
	page  uint32 // address / PageBytes, the low bits
	block uint32 // plus 1
}

// identity tells one history of one cluster's WAL from others. What is 0 is not
// known yet.
type identity struct {
	magic    uint16
	timeline uint32
	system   uint64
	segment  uint32 // bytes of a file
}

// has tells whether a page can be of it.
func (i *identity) has(h *Header) bool {
	return h.Timeline == i.timeline && i.mayContinue(h)
}

// mayContinue tells whether a page can be of it or of a later timeline.
func (i *identity) mayContinue(h *Header) bool {
	if h.Timeline < i.timeline || i.magic != 0 && h.Magic != i.magic {
		return false
	}
	if h.isLong() {
		return (i.system == 0 || h.System == i.system) && (i.segment == 0 || h.SegmentBytes == i.segment)
	}
	return i.segment == 0 || h.Addr%uint64(i.segment) != 0
}

// learn takes what the page says.
func (i *identity) learn(h *Header) {
	i.magic, i.timeline = h.Magic, h.Timeline
	if h.isLong() {
		i.system, i.segment = h.System, h.SegmentBytes
	}
}

// rival is a run of pages that is not the WAL, or not known to be.
type rival struct {
	identity
	addr   uint64 // of its last page
	block  uint64 // where that is
	began  uint64 // batch of its first page
	batch  uint64 // that the last page was last written in
	proofs int
}

// Tracker finds the pages of Postgres' WAL in what is written to one device, and
// follows them. It is a cow.Marker.
type Tracker struct {
	number uint64 // of the line: the timelines and clusters there have been
	identity
	at    uint64  // address of the last page; 0 while none is known
	ring  []place // by address; nil while no page has been seen
	batch uint64
	alive uint64 // batch in which the WAL was last written
	half  uint64 // block of the second half of the last page seen

	// ahead is the furthest page after one that is missing.
	ahead struct{ addr, block, batch uint64 }

	rivals [rivalsMax]rival
	turn   int    // which one is given up next
	tail   *rival // that the last page seen belongs to; nil if it is one of the WAL
	latest uint64 // address of that page, if it is one of the WAL
}

// New returns a Tracker for a device whose last barrier has the mark.
func New(last cow.Mark) *Tracker {
	return &Tracker{
		number: last.Line >> 32, identity: identity{timeline: Timeline(last.Line)}, at: last.LSN, batch: 1,
	}
}

// Look implements cow.Marker. The first half of a page tells that it is one of the WAL.
func (t *Tracker) Look(block uint64, p []byte) bool {
	if p[1] != 0xd1 || !known(uint16(p[0])|0xd100) {
		return false
	}
	if block == t.half {
		return false // whatever it looks like: block 0 is no page of a file
	}
	h, ok := Parse(p)
	if !ok {
		return false
	}
	t.half = block + 1
	switch {
	case t.at == 0 && h.isLong():
		t.switchTo(identity{}, &h, block)
	case t.at == 0 || !t.follow(&h, block):
		t.watch(&h, block)
	}
	return t.tail == nil
}

// Mark implements cow.Marker.
func (t *Tracker) Mark() cow.Mark {
	t.batch++
	if t.at == 0 {
		return cow.Mark{}
	}
	return cow.Mark{Line: t.number<<32 | uint64(t.timeline), LSN: t.at}
}

// where returns the block of a page of the WAL, if that is known.
func (t *Tracker) where(addr uint64) (block uint64, ok bool) {
	if t.ring == nil {
		return 0, false
	}
	p := t.ring[addr/PageBytes%ringPages]
	return uint64(p.block) - 1, p.block != 0 && p.page == uint32(addr/PageBytes)
}

func (t *Tracker) put(addr, block uint64) {
	if t.ring == nil {
		t.ring = make([]place, ringPages)
	}
	t.ring[addr/PageBytes%ringPages] = place{page: uint32(addr / PageBytes), block: uint32(block + 1)}
}

// follow takes a page as one of the WAL, or returns false.
func (t *Tracker) follow(h *Header, block uint64) bool {
	if !t.has(h) {
		before, ok := t.where(t.at)
		if ok && h.Addr == t.at+PageBytes && block == before+2 && t.mayContinue(h) {
			// A later timeline goes on in the same file.
			t.switchTo(t.identity, h, block)
			return true
		}
		return false
	}
	here, seen := t.where(h.Addr)
	switch {
	case seen && here == block:
		t.again(h.Addr, block)
	case h.Addr <= t.at && t.ring == nil && h.Addr+backMax >= t.at:
		// The first page since the device was opened: the last one, or where a crash
		// of Postgres has thrown it back to.
		t.at = h.Addr
		t.put(h.Addr, block)
	case h.Addr <= t.at:
		return false // the past is not written again elsewhere
	case t.isCopy(h.Addr, block):
		return false
	case t.beginsNext(h):
		t.switchTo(t.identity, h, block)
		return true
	case h.Addr > t.at+aheadMax:
		return false
	case seen && t.adjoins(h.Addr, here):
		return false // that one is in its place: this is a copy
	default:
		t.put(h.Addr, block)
		t.advance(h.Addr, block)
	}
	t.alive, t.tail, t.latest = t.batch, nil, h.Addr
	t.learn(h)
	return true
}

// beginsNext tells whether a page is the first of the next file, with pages missing
// before it: those that pg_switch_wal has left empty. Postgres makes a file durable
// before it writes to the next one, so that nothing else can be on its way.
func (t *Tracker) beginsNext(h *Header) bool {
	return h.isLong() && t.segment > 0 && h.Addr > t.at+PageBytes && h.Addr == (t.at/uint64(t.segment)+1)*uint64(t.segment)
}

// again notes that a page was written again where it was. The last page that has
// been written is: whatever is missing before it was missed.
func (t *Tracker) again(addr, block uint64) {
	a := &t.ahead
	if addr > t.at && addr == a.addr && block == a.block && a.batch < t.batch {
		t.at = addr
	}
}

// advance moves the end of the WAL over the pages that follow it, and notes one that
// lies after a gap.
func (t *Tracker) advance(addr, block uint64) {
	for {
		if _, ok := t.where(t.at + PageBytes); !ok {
			break
		}
		t.at += PageBytes
	}
	if addr > t.at && addr >= t.ahead.addr {
		t.ahead.addr, t.ahead.block, t.ahead.batch = addr, block, t.batch
	}
}

// adjoins tells whether a page at the block lies right after the page before it.
func (t *Tracker) adjoins(addr, block uint64) bool {
	before, ok := t.where(addr - PageBytes)
	return ok && block == before+2
}

// isCopy tells whether a page goes on with a run that is not the WAL: it lies right
// after its last page, or was written right after it.
func (t *Tracker) isCopy(addr, block uint64) bool {
	if t.tail == nil && t.latest+PageBytes == addr {
		return false // it was written right after the WAL's page
	}
	for i := range t.rivals {
		r := &t.rivals[i]
		if r.timeline != 0 && r.addr+PageBytes == addr && (r.block+2 == block || r == t.tail) {
			return true
		}
	}
	return false
}

// watch adds a page to the run that it goes on with, or begins one. A run whose last
// page is written again and again, while nothing is heard of the WAL, is the WAL.
func (t *Tracker) watch(h *Header, block uint64) {
	for i := range t.rivals {
		r := &t.rivals[i]
		switch t.tail = r; {
		case r.timeline == 0 || !r.mayContinue(h):
		case r.addr == h.Addr && r.block == block:
			r.learn(h)
			if t.proven(r) {
				t.switchTo(r.identity, h, block)
			}
			return
		case r.addr+PageBytes == h.Addr:
			r.learn(h)
			r.addr, r.block, r.batch = h.Addr, block, t.batch
			return
		}
	}
	r := &t.rivals[t.turn]
	t.tail = r
	t.turn = (t.turn + 1) % rivalsMax
	*r = rival{addr: h.Addr, block: block, began: t.batch, batch: t.batch}
	r.learn(h)
}

// proven counts that a run's last page is being written again, and tells whether that
// is enough. What it was counted before the WAL was last heard of is void.
func (t *Tracker) proven(r *rival) bool {
	if t.alive > r.began {
		r.began, r.proofs = t.batch, 0
	}
	if r.batch < t.batch {
		r.batch = t.batch
		r.proofs++
	}
	return r.proofs >= proofs
}

// switchTo makes a page of the identity, and what comes after it, the WAL. It is a
// new line unless it is the same one, found again further on.
func (t *Tracker) switchTo(id identity, h *Header, block uint64) {
	if t.at > 0 && t.has(h) && h.Addr+backMax >= t.at {
		id = t.identity
	} else {
		t.number++
	}
	id.learn(h)
	t.identity, t.at, t.alive = id, h.Addr, t.batch
	clear(t.ring)
	t.put(h.Addr, block)
	t.ahead.addr, t.tail, t.latest = 0, nil, h.Addr
	t.rivals = [rivalsMax]rival{}
}
