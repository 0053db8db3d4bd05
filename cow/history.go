package cow

import (
	"context"
	"fmt"
	"iter"
	"slices"
	"sort"
	"time"

	"github.com/bough-db/bough/wal"
)

// Barrier is one barrier of a branch's history.
type Barrier struct {
	Seq  wal.Seq   `json:"seq"`  // its number
	Time time.Time `json:"time"` // never before that of the barrier before
	Mark
	Bytes   int64         `json:"bytes"`   // written since the barrier before
	Log     BranchID      `json:"log"`     // that it lies in: the branch's own, or an ancestor's
	Segment wal.SegmentNo `json:"segment"` // of that log
}

func (b *Barrier) moment() moment {
	return moment{point: point{Log: b.Log, Segment: b.Segment, Seq: b.Seq}, Time: b.Time, Mark: b.Mark}
}

// barrier is the moment as a Barrier of which it is not known what was written.
func (m moment) barrier() Barrier {
	return Barrier{Seq: m.Seq, Time: m.Time, Mark: m.Mark, Log: m.Log, Segment: m.Segment}
}

// history is how a branch came to be: the barriers of its own log, and before those the
// barriers of its ancestors up to where it left them. It ends where the branch left
// another project: what a template was before is no part of it.
type history struct {
	s        *Store
	m        *manifest // of the branch
	chapters []chapter // read so far, the branch's own first
	known    []known   // stretches read lately
}

// known is a stretch that was read.
type known struct {
	log BranchID
	*stretch
}

// knownMax is how many stretches are remembered while one question is answered.
const knownMax = 16

// chapter is the part of one log that belongs to a branch's history.
type chapter struct {
	m *manifest // of the log
	// end is its last barrier; with segment 0 there is none.
	end moment
}

// stretch is what one segment, or one pack, has of a history.
type stretch struct {
	from, to wal.SegmentNo
	first    moment    // the first barrier that it knows, whether that is kept or not
	barriers []Barrier // those that are kept, up to the chapter's end
}

// history prepares to look at the history of a branch. What is written from then on is
// not part of it.
func (s *Store) history(ctx context.Context, m *manifest) (*history, error) {
	end, err := s.newestBarrier(ctx, m)
	if err != nil {
		return nil, err
	}
	return &history{s: s, m: m, chapters: []chapter{{m, end}}}, nil
}

// newestBarrier returns the last barrier of a branch, be it open here or not.
func (s *Store) newestBarrier(ctx context.Context, m *manifest) (moment, error) {
	s.mu.Lock()
	o := s.open[m.ID]
	s.mu.Unlock()
	if o == nil {
		return s.headOf(ctx, m)
	}
	select {
	case <-o.ready:
	case <-ctx.Done():
		return moment{}, ctx.Err()
	}
	b := o.branch
	if b == nil || b.epoch != m.Epoch { // another host has taken it
		return s.headOf(ctx, m)
	}
	b.treeMu.RLock()
	defer b.treeMu.RUnlock()
	return b.head, nil
}

// chapter returns the i-th part, or nil if the history begins before that.
func (h *history) chapter(ctx context.Context, i int) (*chapter, error) {
	for len(h.chapters) <= i {
		m := h.chapters[len(h.chapters)-1].m
		if m.Fork.Log == "" {
			return nil, nil
		}
		pm, _, err := h.s.readManifest(ctx, m.Fork.Log)
		if err == nil {
			_, err = h.s.pickUp(ctx, m.Fork.Log)
		}
		if err != nil {
			return nil, fmt.Errorf("history of %s before it left %s: %w", m.ID, m.Fork.Log, err)
		}
		if pm.Project != h.m.Project {
			return nil, nil
		}
		h.chapters = append(h.chapters, chapter{pm, m.Fork})
	}
	return &h.chapters[i], nil
}

// manifestOf returns the manifest of a log, if it has been read.
func (h *history) manifestOf(log BranchID) *manifest {
	for i := range h.chapters {
		if m := h.chapters[i].m; m.ID == log {
			return m
		}
	}
	return nil
}

// floor returns the barrier that the oldest part of the history, which has been read,
// began as, if that is of another project: it can be opened, but nothing before it.
func (h *history) floor() *Barrier {
	m := h.chapters[len(h.chapters)-1].m
	if m.Fork.Log == "" {
		return nil
	}
	b := m.Fork.barrier()
	b.Time = m.Created // of the template, it is older than the project
	return &b
}

// stretch returns the part of a chapter that has segment n.
func (h *history) stretch(ctx context.Context, c *chapter, n wal.SegmentNo) (*stretch, error) {
	for _, k := range h.known {
		if k.log == c.m.ID && k.from <= n && n <= k.to {
			return k.stretch, nil
		}
	}
	at, err := h.s.currentLayout(ctx, c.m)
	if err != nil {
		return nil, err
	}
	for i := 0; ; i++ {
		p := at.piece(n)
		r, err := h.s.readPiece(ctx, c.m.ID, p, h.s.writes(c.m))
		if err == nil {
			st, err := c.stretch(at, p, &r)
			if err == nil {
				h.known = append(h.known[max(0, len(h.known)-knownMax+1):], known{c.m.ID, st})
			}
			return st, err
		}
		if !isNotExist(err) || i == relocations {
			return nil, err
		}
		// A collection has moved it.
		now, lerr := h.s.loadLayout(ctx, c.m.ID)
		if lerr != nil || now.same(at) {
			return nil, err
		}
		at = now
	}
}

// stretch makes one of what a piece of the log did.
func (c *chapter) stretch(at *layout, p piece, r *pieceBatches) (*stretch, error) {
	st := &stretch{from: p.from, to: p.to}
	add := func(b moment, kept bool, entries iter.Seq[wal.Entry]) {
		if st.first.Seq == 0 {
			st.first = b
		}
		if !kept || b.Seq > c.end.Seq || at.hidden(b.Seq) {
			return
		}
		full := b.barrier()
		for e := range entries {
			if e.Kind == wal.KindData {
				full.Bytes += int64(e.Count) * BlockSize
			}
		}
		st.barriers = append(st.barriers, full)
	}
	for i := range r.batches {
		bt := &r.batches[i]
		add(momentOf(c.m.ID, p.from, bt), true, slices.Values(bt.Entries))
	}
	if r.packed != nil {
		for i := range r.packed.batches {
			bt := &r.packed.batches[i]
			add(bt.moment(c.m.ID), bt.Kept, bt.plain())
		}
	}
	if st.first.Seq == 0 {
		return nil, fmt.Errorf("segment %s has no barrier: %w", segmentKey(c.m.ID, p.from), ErrCorrupt)
	}
	return st, nil
}

// plain goes through the entries without their segments.
func (b *packBatch) plain() iter.Seq[wal.Entry] {
	return func(yield func(wal.Entry) bool) {
		for i := range b.Entries {
			if !yield(b.Entries[i].Entry) {
				return
			}
		}
	}
}

// hidden tells whether a barrier can not be opened because a pack of those before it
// has left out what it needs.
func (l *layout) hidden(seq wal.Seq) bool {
	for i := range l.packs {
		if r := &l.packs[i]; seq > r.Last && seq < r.Next {
			return true
		}
	}
	return false
}

// cursor is a place in a history: before the barrier at of the stretch. Without a
// stretch it is at the end of its chapter for who goes back from there, and at its
// beginning for who goes forth. The zero cursor is after the last barrier.
type cursor struct {
	chapter int
	stretch *stretch
	at      int
}

// seek returns the place after the last barrier for which upTo is true; upTo has to be
// true of all barriers before one for which it is. Its cost is a few segments' footers,
// however long the history.
func (h *history) seek(ctx context.Context, upTo func(*Barrier) bool) (cursor, error) {
	var cur cursor
	for ; ; cur.chapter++ {
		c, err := h.chapter(ctx, cur.chapter)
		if c == nil || err != nil {
			return cur, err
		}
		if fork := c.m.Fork.barrier(); c.m.Fork.Log != "" && !c.m.Fork.Time.IsZero() && !upTo(&fork) {
			continue // all of it comes later
		}
		if cur.stretch, err = h.seekIn(ctx, c, upTo); err != nil {
			return cur, err
		}
		if cur.stretch != nil {
			all := cur.stretch.barriers
			cur.at = sort.Search(len(all), func(i int) bool { return !upTo(&all[i]) })
			return cur, nil
		}
	}
}

// seekIn returns the last stretch of a chapter whose first barrier has upTo, or nil.
func (h *history) seekIn(ctx context.Context, c *chapter, upTo func(*Barrier) bool) (*stretch, error) {
	var best *stretch
	for lo, hi := wal.SegmentNo(1), c.end.Segment; lo <= hi; {
		st, err := h.stretch(ctx, c, lo+(hi-lo)/2)
		if err != nil {
			return nil, err
		}
		if first := st.first.barrier(); upTo(&first) {
			best, lo = st, st.to+1
		} else {
			hi = st.from - 1
		}
	}
	return best, nil
}

// back moves the cursor to the barrier before it and returns that, or nil at the
// beginning of the history.
func (h *history) back(ctx context.Context, cur *cursor) (*Barrier, error) {
	for {
		if cur.stretch != nil && cur.at > 0 {
			cur.at--
			return &cur.stretch.barriers[cur.at], nil
		}
		c, err := h.chapter(ctx, cur.chapter)
		if c == nil || err != nil {
			return nil, err
		}
		next := c.end.Segment
		if cur.stretch != nil {
			next = cur.stretch.from - 1
		}
		if next == 0 {
			cur.chapter++
			cur.stretch = nil
			continue
		}
		if cur.stretch, err = h.stretch(ctx, c, next); err != nil {
			return nil, err
		}
		cur.at = len(cur.stretch.barriers)
	}
}

// forth returns the barrier at the cursor and moves behind it, or returns nil at the
// end of the history.
func (h *history) forth(ctx context.Context, cur *cursor) (*Barrier, error) {
	for {
		if cur.stretch != nil && cur.at < len(cur.stretch.barriers) {
			cur.at++
			return &cur.stretch.barriers[cur.at-1], nil
		}
		c, err := h.chapter(ctx, cur.chapter)
		if err != nil {
			return nil, err
		}
		var next wal.SegmentNo = 1
		if cur.stretch != nil {
			next = cur.stretch.to + 1
		}
		if c == nil || next > c.end.Segment {
			if cur.chapter == 0 {
				return nil, nil
			}
			cur.chapter--
			cur.stretch = nil
			continue
		}
		if cur.stretch, err = h.stretch(ctx, c, next); err != nil {
			return nil, err
		}
		cur.at = 0
	}
}

// HistoryQuery says which barriers of a branch's history to return.
type HistoryQuery struct {
	// Before leaves out the barrier of that number and later ones. Default: none.
	Before wal.Seq
	// After leaves out the barrier of that number and earlier ones. Default: none.
	After wal.Seq
	// Since leaves out barriers before that time. Default: none.
	Since time.Time
	// OldestFirst turns the order round: from After, or Since, or the beginning on.
	// Default: the newest first.
	OldestFirst bool
	// Limit is how many to return at most. Default: 100; at most HistoryMax.
	Limit int
}

// HistoryMax is how many barriers one call of History returns at most.
const HistoryMax = 10000

// HistoryPage is a part of a branch's history.
type HistoryPage struct {
	Barriers []Barrier `json:"barriers"`
	// More tells that the query has more barriers than that: the next ones follow when
	// Before, or After if the oldest come first, is the last one's Seq.
	More bool `json:"more"`
}

// History returns barriers of the branch that can be opened: of its own log and, from
// before it was made, of its ancestors. It reads no data.
func (s *Store) History(ctx context.Context, id BranchID, q HistoryQuery) (HistoryPage, error) {
	var page HistoryPage
	if q.Limit <= 0 {
		q.Limit = 100
	}
	q.Limit = min(q.Limit, HistoryMax)
	m, _, err := s.readBranch(ctx, id)
	if err != nil {
		return page, err
	}
	h, err := s.history(ctx, m)
	if err == nil {
		page, err = h.page(ctx, q)
	}
	if err != nil {
		return page, fmt.Errorf("history of branch %s: %w", id, err)
	}
	return page, nil
}

func (h *history) page(ctx context.Context, q HistoryQuery) (page HistoryPage, err error) {
	tooNew := func(b *Barrier) bool { return q.Before > 0 && b.Seq >= q.Before }
	tooOld := func(b *Barrier) bool { return b.Seq <= q.After || b.Time.Before(q.Since) }
	step, begin, end := h.back, func(b *Barrier) bool { return !tooNew(b) }, tooOld
	if q.OldestFirst {
		step, begin, end = h.forth, tooOld, tooNew
	}
	var cur cursor
	if q.OldestFirst || q.Before > 0 {
		if cur, err = h.seek(ctx, begin); err != nil {
			return page, err
		}
	}
	if q.OldestFirst && cur.stretch == nil {
		if floor := h.floor(); floor != nil && !tooOld(floor) && !tooNew(floor) {
			page.Barriers = append(page.Barriers, *floor)
		}
	}
	for {
		b, err := step(ctx, &cur)
		if err != nil {
			return page, err
		}
		if b == nil && !q.OldestFirst {
			b = h.floor()
		}
		if b == nil || end(b) {
			return page, nil
		}
		if len(page.Barriers) == q.Limit {
			page.More = true
			return page, nil
		}
		page.Barriers = append(page.Barriers, *b)
		if len(h.chapters) > 0 && b.Log == h.chapters[len(h.chapters)-1].m.Fork.Log {
			return page, nil // the floor
		}
	}
}
