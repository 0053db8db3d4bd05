package wal

import (
	"context"
	"fmt"
	"io"
	"sync"
)

// waiter is one Create that waits for a file.
type waiter struct {
	log string
	ch  chan grant // of capacity 1
}

type grant struct {
	file *poolFile
	err  error
}

// Reserve sets one file of the budget aside for a log, until release is called:
// however much other logs write, a log that holds no file gets one at once (or
// as soon as one is written, if no spare is ready). Reservations of the same log
// add up to one file. ErrBudget when every file of the budget is reserved.
func (p *Pool) Reserve(log string) (release func(), err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.reserved[log] == 0 && len(p.reserved) >= p.files {
		return nil, fmt.Errorf("reserve a journal file for %s: all %d are reserved: %w", log, p.files, ErrBudget)
	}
	p.reserved[log]++
	return sync.OnceFunc(func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		if p.reserved[log]--; p.reserved[log] <= 0 {
			delete(p.reserved, log)
		}
		p.grant()
		p.wake()
	}), nil
}

// Create returns an empty journal for h, of which only Log, Segment and Epoch
// count. While the budget is used up it waits, first come, first served, until a
// file is released or ctx ends. ErrFull when no file can be made because the
// disk is full: nothing is lost, and a later call may succeed.
func (p *Pool) Create(ctx context.Context, h Header) (*Journal, error) {
	if len(h.Log) == 0 || len(h.Log) > LogMax {
		return nil, fmt.Errorf("create journal: log id of %d bytes, want 1 to %d", len(h.Log), LogMax)
	}
	j := &Journal{pool: p, log: h.Log, header: fileHeader{Header: Header{Log: h.Log, Segment: h.Segment, Epoch: h.Epoch}}}
	if _, err := io.ReadFull(p.opts.Rand, j.header.nonce[:]); err != nil {
		return nil, fmt.Errorf("create journal: choose nonce: %w", err)
	}
	pf, err := p.acquire(ctx, h.Log)
	if err != nil {
		return nil, fmt.Errorf("create journal for segment %d of %s: %w", h.Segment, h.Log, err)
	}
	j.id, j.path, j.slots, j.file = pf.id, pf.path, pf.slots, pf.file
	j.header.slots = j.slots
	j.sums = make([]uint32, j.slots)
	j.head = alignedBytes(BlockSize)
	j.entries = make([]Entry, 0, EntriesMax)
	j.end = firstRecordSlot
	j.next.Store(firstRecordSlot)
	j.refs.Store(1)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.open[j] = struct{}{}
	if p.closed {
		_ = j.file.Close()
	}
	return j, nil
}

func (p *Pool) acquire(ctx context.Context, log string) (*poolFile, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	w := &waiter{log: log, ch: make(chan grant, 1)}
	p.mu.Lock()
	if p.closed {
		p.mu.Unlock()
		return nil, ErrClosed
	}
	p.waiters = append(p.waiters, w)
	p.makeFailed = false
	p.grant()
	p.wake()
	p.mu.Unlock()
	select {
	case g := <-w.ch:
		return g.file, g.err
	case <-ctx.Done():
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for i, o := range p.waiters {
		if o == w {
			p.waiters = append(p.waiters[:i], p.waiters[i+1:]...)
			return nil, ctx.Err()
		}
	}
	// The answer came at the same time.
	if g := <-w.ch; g.file != nil {
		p.giveBack(g.file, log)
	}
	return nil, ctx.Err()
}

// grant hands spare files to waiters, in their order. p.mu is held.
func (p *Pool) grant() {
	rest := p.waiters[:0]
	for _, w := range p.waiters {
		if len(p.spares) == 0 || !p.mayHave(w.log) {
			rest = append(rest, w)
			continue
		}
		pf := p.spares[0]
		p.spares = append(p.spares[:0], p.spares[1:]...)
		p.used++
		p.peak, p.recent = max(p.peak, p.used), max(p.recent, p.used)
		p.held[w.log]++
		w.ch <- grant{file: pf}
	}
	clear(p.waiters[len(rest):])
	p.waiters = rest
}

// mayHave tells whether the budget allows log another file. A log with a
// reservation and no file takes the one that was kept for it; every other
// request must leave a file for each log that could still come for its own.
func (p *Pool) mayHave(log string) bool {
	free := p.files - p.used
	if p.reserved[log] > 0 && p.held[log] == 0 {
		return free > 0
	}
	owed := 0
	for l := range p.reserved {
		if p.held[l] == 0 {
			owed++
		}
	}
	return free > owed
}

// Stats is a snapshot of a pool's files.
type Stats struct {
	Files       int // the budget
	Used        int // held by journals, or waiting to be recovered
	Spare       int // ready for use
	Quarantined int // of Used: waiting for Recover
	Waiting     int // calls of Create that wait
}

// Stats returns the current counts.
func (p *Pool) Stats() Stats {
	p.mu.Lock()
	defer p.mu.Unlock()
	return Stats{
		Files: p.files, Used: p.used, Spare: len(p.spares),
		Quarantined: len(p.quarantined), Waiting: len(p.waiters),
	}
}
