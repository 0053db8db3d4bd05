package cow

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	ask "github.com/bough-db/bough/cow/point"
	"github.com/bough-db/bough/wal"
)

// The model of time is every state that a branch was ever in, by barrier. A driver does
// random things to a store and to the model, and opens, branches, resolves and lists
// the past.

const timeBlocks = 600 // of a device: two leaves

// pastBarrier is a barrier, and the stamps of all blocks there.
type pastBarrier struct {
	Barrier
	state []uint64
}

// pastBranch is a branch as it should be.
type pastBranch struct {
	name string
	id   BranchID
	dev  *Branch // nil if it is not open
	past []pastBarrier
	now  []uint64 // as written
	open map[uint64]bool
	mark Mark
	snap map[string]pastBarrier
}

func (p *pastBranch) last() *pastBarrier { return &p.past[len(p.past)-1] }

// timeModel is a store and its branches.
type timeModel struct {
	*world
	rng    *rand.Rand
	all    []*pastBranch
	made   int
	stamps uint64
	pasts  [][]pastBarrier // of branches, when they were restored or got a snapshot
}

// TestTimeModel is the model of time with everything that changes history. I2, I5, I6.
func TestTimeModel(t *testing.T) {
	forSeeds(t, 600, func(t *testing.T, rng *rand.Rand, ops int) {
		synctest.Test(t, func(t *testing.T) {
			opts := small
			opts.Marker = newPageMarker
			m := &timeModel{rng: rng, world: newWorld(t, opts)}
			m.run(ops)
		})
	})
}

func (m *timeModel) run(ops int) {
	ctx := context.Background()
	_, b, err := m.store.CreateProject(ctx, "p", ProjectOptions{Size: timeBlocks * BlockSize})
	if err != nil {
		m.t.Fatal(err)
	}
	m.all = []*pastBranch{{
		name: MainBranch, id: b.ID, now: make([]uint64, timeBlocks), open: map[uint64]bool{}, snap: map[string]pastBarrier{},
	}}
	for i := range ops {
		p := m.all[m.rng.IntN(len(m.all))]
		if err := m.step(ctx, p); err != nil {
			m.t.Fatalf("operation %d on %s: %v", i, p.name, err)
		}
	}
	for _, p := range m.all {
		if p.dev != nil {
			if err := m.flush(ctx, p); err != nil {
				m.t.Fatal(err)
			}
		}
	}
	m.restartAll()
	for _, p := range m.all {
		if err := errors.Join(m.list(ctx, p), m.look(ctx, p), m.reopen(ctx, p)); err != nil {
			m.t.Fatalf("%s in the end: %v", p.name, err)
		}
	}
	m.checkWhole()
}

func (m *timeModel) step(ctx context.Context, p *pastBranch) error {
	switch k := m.rng.IntN(100); {
	case k < 45:
		return m.write(ctx, p)
	case k < 60:
		return m.flush(ctx, p)
	case k < 66:
		wait(time.Duration(m.rng.IntN(60)) * time.Millisecond)
		return nil
	case k < 76:
		return m.look(ctx, p)
	case k < 80:
		return m.list(ctx, p)
	case k < 86:
		return m.ask(ctx, p)
	case k < 90 && len(m.all) < 8:
		return m.branch(ctx, p)
	case k < 92:
		return m.snapshot(ctx, p)
	case k < 94:
		return m.restore(ctx, p)
	case k < 96:
		return m.close(ctx, p)
	case k < 97 && len(m.all) > 1:
		return m.remove(ctx, p)
	case k < 98:
		return m.closeInAHurry(ctx, p)
	case k < 99:
		for _, p := range m.all {
			if err := m.flushOpen(ctx, p); err != nil {
				return err
			}
		}
		m.restartAll()
		return nil
	}
	return m.reopen(ctx, p)
}

func (m *timeModel) restartAll() {
	m.restart()
	for _, p := range m.all {
		p.dev = nil
	}
}

// reopen opens the branch if it is not, and compares what it has with the model.
func (m *timeModel) reopen(ctx context.Context, p *pastBranch) error {
	if p.dev != nil {
		return nil
	}
	var err error
	if p.dev, err = m.store.Open(ctx, p.id); err != nil {
		return err
	}
	if n := len(p.past); n == 0 && p.dev.head.Seq == 1 || n > 0 && p.dev.head.Seq == p.last().Seq+1 {
		m.note(p) // a fence
	}
	return m.compare(ctx, p.dev, p.now)
}

// note adds the barrier that the branch has just made.
func (m *timeModel) note(p *pastBranch) {
	b := p.dev.head.barrier()
	b.Bytes = int64(len(p.open)) * BlockSize
	p.past = append(p.past, pastBarrier{b, slices.Clone(p.now)})
	clear(p.open)
}

type blockReader interface {
	ReadAt(ctx context.Context, p []byte, off int64) error
}

// compare reads all of a device.
func (m *timeModel) compare(ctx context.Context, r blockReader, want []uint64) error {
	p := make([]byte, timeBlocks*BlockSize)
	if err := r.ReadAt(ctx, p, 0); err != nil {
		return err
	}
	for i := range want {
		block := p[i*BlockSize : (i+1)*BlockSize]
		if mark := markPage(markOf(block)); string(mark) == string(block) {
			block = stamped(markOf(block).LSN, BlockSize)
		}
		if got, err := stampOf(block); err != nil || got != want[i] {
			return fmt.Errorf("block %d has stamp %#x (%v), want %#x", i, got, err, want[i])
		}
	}
	return nil
}

// markOf returns the mark that a block shows, if it shows one.
func markOf(block []byte) Mark {
	pm := &pageMarker{}
	pm.Look(0, block)
	return pm.mark
}

func (m *timeModel) write(ctx context.Context, p *pastBranch) error {
	if err := m.reopen(ctx, p); err != nil {
		return err
	}
	m.stamps++
	first := m.rng.IntN(timeBlocks)
	n := 1 + m.rng.IntN(min(4, timeBlocks-first))
	data, stamp := stamped(m.stamps, n*BlockSize), m.stamps
	switch m.rng.IntN(8) {
	case 0: // a page of the database's log
		n = 1
		p.mark.Line = max(p.mark.Line, 1<<32|1)
		p.mark.LSN += uint64(1+m.rng.IntN(3)) * MarkBytes
		if m.rng.IntN(8) == 0 { // another timeline, which begins earlier
			p.mark.Line += 1<<32 + 1
			p.mark.LSN -= min(p.mark.LSN/2, uint64(m.rng.IntN(20))*MarkBytes)
		}
		data, stamp = markPage(p.mark), p.mark.LSN
	case 1:
		if err := p.dev.Trim(ctx, int64(first)*BlockSize, int64(n)*BlockSize); err != nil {
			return err
		}
		for i := range n {
			p.now[first+i] = 0
		}
		return m.flush(ctx, p)
	}
	if err := p.dev.WriteAt(ctx, data, int64(first)*BlockSize); err != nil {
		return err
	}
	for i := range n {
		p.now[first+i] = stamp
		p.open[uint64(first+i)] = true
	}
	if m.rng.IntN(2) == 0 {
		return m.flush(ctx, p)
	}
	return nil
}

func (m *timeModel) flush(ctx context.Context, p *pastBranch) error {
	if err := m.reopen(ctx, p); err != nil {
		return err
	}
	return m.flushOpen(ctx, p)
}

func (m *timeModel) flushOpen(ctx context.Context, p *pastBranch) error {
	if p.dev == nil {
		return nil
	}
	before := p.dev.head.Seq
	if err := p.dev.Flush(ctx); err != nil {
		return err
	}
	switch p.dev.head.Seq {
	case before:
	case before + 1:
		m.note(p)
	default:
		return fmt.Errorf("one flush made barriers %d to %d", before+1, p.dev.head.Seq)
	}
	return nil
}

func (m *timeModel) close(ctx context.Context, p *pastBranch) error {
	if err := m.flushOpen(ctx, p); err != nil || p.dev == nil {
		return err
	}
	dev := p.dev
	p.dev = nil
	return dev.Close(ctx)
}

func (m *timeModel) closeInAHurry(ctx context.Context, p *pastBranch) error {
	if err := m.flushOpen(ctx, p); err != nil || p.dev == nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	cancel()
	_ = p.dev.Close(ctx) // it fails, and leaves its journals
	p.dev = nil
	return nil
}

// pick returns a random point, and the barrier that it should lead to; nil if to none.
func (m *timeModel) pick(p *pastBranch) (ask.Point, *pastBarrier) {
	if len(p.past) == 0 {
		return ask.Point{}, nil
	}
	if len(p.snap) > 0 && m.rng.IntN(5) == 0 {
		for _, name := range slices.Sorted(maps.Keys(p.snap)) {
			if b := p.snap[name]; m.rng.IntN(2) == 0 {
				b.Bytes = 0
				return ask.Point{Kind: ask.Snapshot, Name: name}, &b
			}
		}
		return ask.Point{Kind: ask.Snapshot, Name: "none"}, nil
	}
	b := &p.past[m.rng.IntN(len(p.past))]
	switch m.rng.IntN(5) {
	case 0:
		return ask.Point{}, p.last()
	case 1:
		return ask.Point{Kind: ask.Seq, Number: uint64(b.Seq)}, b
	case 2, 3:
		at := b.Time.Add(time.Duration(m.rng.IntN(3)-1) * 5 * time.Millisecond)
		if at.After(time.Now()) && at.After(p.last().Time) {
			return ask.Point{Kind: ask.Time, At: at}, nil
		}
		return ask.Point{Kind: ask.Time, At: at}, lastWhere(p.past, func(b *pastBarrier) bool { return !b.Time.After(at) })
	}
	lsn := uint64(max(0, int64(b.LSN)+int64(m.rng.IntN(4)-2)*MarkBytes/2))
	return ask.Point{Kind: ask.LSN, Number: lsn}, lsnWhere(p.past, lsn)
}

func lastWhere(all []pastBarrier, f func(*pastBarrier) bool) *pastBarrier {
	for i := len(all) - 1; i >= 0; i-- {
		if f(&all[i]) {
			return &all[i]
		}
	}
	return nil
}

// lsnWhere follows the timelines back, from the one that the branch is on.
func lsnWhere(all []pastBarrier, lsn uint64) *pastBarrier {
	i := len(all) - 1
	if all[i].Mark == (Mark{}) || lsn >= all[i].LSN+MarkBytes {
		return nil
	}
	for ; i >= 0 && all[i].Mark != (Mark{}); i-- {
		if all[i].LSN <= lsn {
			return &all[i]
		}
	}
	return nil
}

// look opens the past.
func (m *timeModel) look(ctx context.Context, p *pastBranch) error {
	at, want := m.pick(p)
	v, err := m.store.OpenAt(ctx, p.id, at)
	if want == nil {
		if !errors.Is(err, ErrNoPoint) {
			return fmt.Errorf("open at %v: %v, want ErrNoPoint", at, err)
		}
		return nil
	}
	if err != nil {
		return err
	}
	defer v.Close()
	if got := v.Barrier(); !sameBarrier(got, want.Barrier) {
		return fmt.Errorf("%v opens as %+v, want %+v", at, got, want.Barrier)
	}
	if err := m.compare(ctx, v, want.state); err != nil {
		return fmt.Errorf("open at %v: %w", at, err)
	}
	return nil
}

func sameBarrier(a, b Barrier) bool {
	equal := a.Time.Equal(b.Time)
	a.Time = b.Time
	return equal && a == b
}

// ask resolves many points.
func (m *timeModel) ask(ctx context.Context, p *pastBranch) error {
	for range 10 {
		at, want := m.pick(p)
		got, err := m.store.Resolve(ctx, p.id, at)
		switch {
		case want == nil && errors.Is(err, ErrNoPoint):
		case err != nil:
			return err
		case want == nil || !sameBarrier(got, want.Barrier):
			return fmt.Errorf("%v is %+v, want %+v", at, got, want)
		}
	}
	return nil
}

// list reads the whole history, page by page, and parts of it.
func (m *timeModel) list(ctx context.Context, p *pastBranch) error {
	q := HistoryQuery{OldestFirst: m.rng.IntN(2) == 0, Limit: 1 + m.rng.IntN(30)}
	if n := len(p.past); n > 0 && m.rng.IntN(2) == 0 {
		a, b := p.past[m.rng.IntN(n)], p.past[m.rng.IntN(n)]
		q.After, q.Before = min(a.Seq, b.Seq), max(a.Seq, b.Seq)
		if m.rng.IntN(2) == 0 {
			q.After, q.Since = 0, a.Time
		}
	}
	var want []Barrier
	for i := range p.past {
		b := p.past[i].Barrier
		if b.Seq > q.After && (q.Before == 0 || b.Seq < q.Before) && !b.Time.Before(q.Since) {
			want = append(want, b)
		}
	}
	if !q.OldestFirst {
		slices.Reverse(want)
	}
	asked := q
	var got []Barrier
	for {
		page, err := m.store.History(ctx, p.id, q)
		if err != nil {
			return err
		}
		if len(page.Barriers) > q.Limit {
			return fmt.Errorf("a page of %d barriers, want %d at most", len(page.Barriers), q.Limit)
		}
		got = append(got, page.Barriers...)
		if !page.More {
			break
		}
		if last := page.Barriers[len(page.Barriers)-1].Seq; q.OldestFirst {
			q.After = last
		} else {
			q.Before = last
		}
	}
	if !slices.EqualFunc(got, want, sameBarrier) {
		return fmt.Errorf("history %+v:\n got %v\nwant %v", asked, seqs(got), seqs(want))
	}
	return nil
}

func seqs(all []Barrier) (s []wal.Seq) {
	for _, b := range all {
		s = append(s, b.Seq)
	}
	return s
}

// branch makes a branch of the past.
func (m *timeModel) branch(ctx context.Context, p *pastBranch) error {
	at, want := m.pick(p)
	if at.Kind == ask.Head { // which also is a branch of nothing
		return m.branchHead(ctx, p)
	}
	m.made++
	c := &pastBranch{name: fmt.Sprintf("b%d", m.made), open: map[uint64]bool{}}
	info, err := m.store.CreateBranch(ctx, "p", c.name, BranchOptions{From: p.id, At: at})
	if want == nil {
		if !errors.Is(err, ErrNoPoint) {
			return fmt.Errorf("branch at %v: %v, want ErrNoPoint", at, err)
		}
		return nil
	}
	if err != nil {
		return err
	}
	i := slices.IndexFunc(p.past, func(b pastBarrier) bool { return b.Seq == want.Seq && b.Log == want.Log })
	past := p.past[:i+1]
	if i < 0 { // a snapshot of what the branch left when it was restored
		past = m.pastOf(*want)
	}
	m.adopt(c, info.ID, past)
	if wal.Seq(info.ForkSeq) != want.Seq {
		return fmt.Errorf("branch at %v is of barrier %d, want %d", at, info.ForkSeq, want.Seq)
	}
	return nil
}

func (m *timeModel) branchHead(ctx context.Context, p *pastBranch) error {
	m.made++
	c := &pastBranch{name: fmt.Sprintf("b%d", m.made), open: map[uint64]bool{}}
	info, err := m.store.CreateBranch(ctx, "p", c.name, BranchOptions{From: p.id})
	if err != nil {
		return err
	}
	m.adopt(c, info.ID, p.past)
	return nil
}

// adopt gives a new branch its past.
func (m *timeModel) adopt(c *pastBranch, id BranchID, past []pastBarrier) {
	c.id, c.past, c.now, c.snap = id, slices.Clone(past), make([]uint64, timeBlocks), map[string]pastBarrier{}
	if len(past) > 0 {
		c.now, c.mark = slices.Clone(c.last().state), c.last().Mark
	}
	m.all = append(m.all, c)
}
