package wal

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"

	"github.com/bough-db/bough/vfs"
)

// wake tells the worker to look again. p.mu is held.
func (p *Pool) wake() {
	p.resting = false
	p.work.Broadcast()
}

// run is the pool's worker: it takes files back and makes new ones. It ends when
// the pool is closed and everything released has been taken back.
func (p *Pool) run() {
	defer close(p.done)
	p.mu.Lock()
	defer p.mu.Unlock()
	for {
		switch {
		case len(p.retiring) > 0:
			j := p.retiring[0]
			p.retiring = append(p.retiring[:0], p.retiring[1:]...)
			p.mu.Unlock()
			p.takeBack(j)
			p.mu.Lock()
		case p.closed:
			return
		case p.wantsFile():
			id := p.nextID
			p.nextID++
			p.mu.Unlock()
			p.makeSpare(id)
			p.mu.Lock()
		default:
			p.resting = true
			p.work.Broadcast()
			p.work.Wait()
		}
	}
}

// wantsFile tells whether a new file should be made: the budget allows it, and a
// waiter or the stock of spares is short of one. p.mu is held.
func (p *Pool) wantsFile() bool {
	if p.makeFailed || p.used+len(p.spares) >= p.files {
		return false
	}
	want := p.opts.Spare
	for _, w := range p.waiters {
		if p.mayHave(w.log) {
			want++
		}
	}
	return len(p.spares) < want
}

func (p *Pool) makeSpare(id uint64) {
	pf, err := p.makeFile(id)
	p.mu.Lock()
	defer p.mu.Unlock()
	if err == nil {
		p.toldFull = false
		p.spares = append(p.spares, pf)
		p.grant()
		return
	}
	p.makeFailed = true
	if vfs.IsFull(err) {
		err = fmt.Errorf("%w: %w", ErrFull, err)
	}
	if !p.toldFull { // once, not at every try: the log may be on the same disk
		p.toldFull = true
		p.log.Warn("journal file cannot be made", "err", err, "waiting", len(p.waiters))
	}
	// Those for whom the budget has room wait for nothing but this file.
	rest := p.waiters[:0]
	for _, w := range p.waiters {
		if p.mayHave(w.log) {
			w.ch <- grant{err: err}
		} else {
			rest = append(rest, w)
		}
	}
	clear(p.waiters[len(rest):])
	p.waiters = rest
}

// makeFile writes a new file full of zeros: fallocate would leave unwritten
// extents, and turning those into written ones is a change of metadata that
// every sync of a first write would wait for. On an error nothing is left behind.
func (p *Pool) makeFile(id uint64) (*poolFile, error) {
	pf, err := p.openFile(id, os.O_RDWR|os.O_CREATE|os.O_EXCL)
	if err != nil {
		return nil, err
	}
	if err := p.fill(pf); err != nil {
		_ = pf.file.Close()
		if rerr := p.fs.Remove(pf.path); rerr != nil {
			err = errors.Join(err, rerr)
		}
		return nil, err
	}
	p.noteFallback(pf)
	return pf, nil
}

// newFileBytes are the zeros that files are made of, of all pools; nobody changes them.
var newFileBytes = sync.OnceValue(func() []byte { return alignedBytes(scanBlocks * BlockSize) })

func (p *Pool) fill(pf *poolFile) error {
	zeros := newFileBytes()
	for off := int64(0); off < p.opts.FileBytes; {
		n := min(int64(len(zeros)), p.opts.FileBytes-off)
		if _, err := pf.file.WriteAt(zeros[:n], off); err != nil {
			return err
		}
		off += n
	}
	pf.slots = Slot(p.opts.FileBytes / BlockSize)
	if err := pf.file.Sync(); err != nil {
		return err
	}
	// Sync the directory too, before any batch goes into the file: without it
	// a crash may lose the name, and with it every batch.
	return p.fs.SyncDir(p.dir)
}

// noteFallback says once that commits go through the page cache.
func (p *Pool) noteFallback(pf *poolFile) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !pf.file.Direct() && !p.toldFallback {
		p.toldFallback = true
		p.log.Warn("file system of the journal refuses direct I/O; commits are slower", "dir", p.dir)
	}
}

// retire is called when the last reference to a journal is gone.
func (p *Pool) retire(j *Journal) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if _, ok := p.open[j]; !ok {
		return // the pool was closed
	}
	if p.closed {
		// The worker may be gone; Close closes the file.
		return
	}
	p.retiring = append(p.retiring, j)
	p.makeFailed = false
	p.wake()
}

// takeBack ends a journal's life on the file.
func (p *Pool) takeBack(j *Journal) {
	pf := &poolFile{id: j.id, path: j.path, log: j.log, slots: j.slots, file: j.file}
	free := j.fate.Load() == fateRelease || j.untouched()
	var err error
	switch {
	case free:
		err = j.invalidate()
	case j.fate.Load() == fateAside:
		err = p.moveAside(pf, j)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.open, j)
	if j.fate.Load() == fateAbandon {
		p.leaving--
		defer p.work.Broadcast()
	}
	if j.fate.Load() == fateAside {
		if err != nil {
			// It stays, and stays counted. The next life recovers it again.
			p.log.Error("journal file cannot be set aside", "path", j.path, "err", err)
			return
		}
		p.used--
		p.unhold(j.log)
		p.grant()
		return
	}
	if free && err == nil {
		p.giveBack(pf, j.log)
		return
	}
	if err != nil {
		p.log.Error("journal file cannot be marked as free; removing it", "path", j.path, "err", err)
	}
	_ = pf.file.Close() // whatever it says, the file is read afresh or removed
	pf.file = nil
	if err == nil {
		p.quarantined[pf.id] = pf
		return
	}
	if err := p.fs.Remove(pf.path); err != nil {
		// It stays, and stays counted. A later start recovers it once more,
		// which is harmless.
		p.log.Error("journal file cannot be removed", "path", j.path, "err", err)
		return
	}
	p.used--
	p.unhold(j.log)
	p.grant()
}

// moveAside gives the file of a journal a name that the pool does not look at.
func (p *Pool) moveAside(pf *poolFile, j *Journal) error {
	_ = pf.file.Close() // it was only read
	if err := p.fs.Rename(pf.path, filepath.Join(p.dir, j.asideName())); err != nil {
		return err
	}
	return p.fs.SyncDir(p.dir)
}

// leave counts a journal that is abandoned and not taken back yet.
func (p *Pool) leave() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.leaving++
}

// settle waits until every journal that was abandoned is in quarantine.
func (p *Pool) settle(ctx context.Context) {
	stop := context.AfterFunc(ctx, func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.work.Broadcast()
	})
	defer stop()
	p.mu.Lock()
	defer p.mu.Unlock()
	for p.leaving > 0 && !p.closed && ctx.Err() == nil {
		p.work.Wait()
	}
}

// giveBack takes a free file out of a log's account and into the stock, or off
// the disk when there are plenty. p.mu is held.
func (p *Pool) giveBack(pf *poolFile, log string) {
	p.used--
	p.unhold(log)
	if p.turns++; p.turns >= turnsMax {
		p.peak, p.recent, p.turns = p.recent, p.used, 0
	}
	onDisk := p.used + len(p.spares) + 1
	if onDisk <= min(p.opts.Spare+p.peak, p.files) && int64(pf.slots)*BlockSize == p.opts.FileBytes {
		p.spares = append(p.spares, pf)
	} else {
		_ = pf.file.Close()
		if err := p.fs.Remove(pf.path); err != nil {
			p.log.Warn("spare journal file cannot be removed", "path", pf.path, "err", err)
		}
	}
	p.grant()
	p.wake()
}

// untouched tells whether nothing was ever written to the journal.
func (j *Journal) untouched() bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.head != nil && j.err == nil
}

// invalidate marks the file as free, durably.
func (j *Journal) invalidate() error {
	if j.untouched() {
		return nil
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	return markFree(j.file, &j.header, len(j.batches) == 0)
}

// markFree marks a file as free. With clearFirst the first record is wiped before:
// where the life that ends never got as far as a commit, it may be a record of an
// earlier life, and beside a marker that does not name that life it would look
// like a journal that lost its header.
func markFree(file vfs.File, h *fileHeader, clearFirst bool) error {
	block := alignedBytes(BlockSize)
	if clearFirst {
		if err := file.WritevAt([][]byte{block}, firstRecordSlot*BlockSize, true); err != nil {
			return err
		}
	}
	encodeHeader(block, h, headerFree)
	return file.WritevAt([][]byte{block}, 0, true)
}
