package wal

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"sync"

	"github.com/bough-db/bough/vfs"
)

const (
	fileBytesDefault = 16 << 20
	fileBytesMin     = 16 << 10
	fileBytesMax     = 1 << 30
	maxBytesDefault  = 4 << 30
	spareDefault     = 2

	// turnsMax is the number of files given back after which the highest
	// demand before them is forgotten.
	turnsMax = 256

	filePrefix = "j-"
	// asidePrefix begins the names of files that were set aside.
	asidePrefix = "lost-"
	lockName    = "lock"
)

// PoolOptions are the settings of a [Pool]. The zero value is good.
type PoolOptions struct {
	// FileBytes is the size of a journal file, a multiple of BlockSize from
	// 16 KiB to 1 GiB. Default: 16 MiB.
	FileBytes int64
	// MaxBytes bounds the disk space of all journal files together. Each
	// writer wants two files or more. Default: 4 GiB.
	MaxBytes int64
	// Spare is the number of files kept ready for use. Default: 2.
	Spare int
	// Rand is where nonces come from. Default: crypto/rand.Reader.
	Rand io.Reader
	// Logger takes warnings and what recovery found. Default: slog.Default().
	Logger *slog.Logger
}

func (o *PoolOptions) check() error {
	if o.FileBytes == 0 {
		o.FileBytes = fileBytesDefault
	}
	if o.MaxBytes == 0 {
		o.MaxBytes = max(maxBytesDefault, o.FileBytes)
	}
	if o.Spare == 0 {
		o.Spare = spareDefault
	}
	if o.Rand == nil {
		o.Rand = rand.Reader
	}
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	var errs []error
	if o.FileBytes%BlockSize != 0 || o.FileBytes < fileBytesMin || o.FileBytes > fileBytesMax {
		errs = append(errs, fmt.Errorf("journal file size %d: not a multiple of %d from %d to %d",
			o.FileBytes, BlockSize, fileBytesMin, fileBytesMax))
	}
	if o.MaxBytes < o.FileBytes {
		errs = append(errs, fmt.Errorf("journal budget of %d bytes: smaller than one file of %d", o.MaxBytes, o.FileBytes))
	}
	if o.Spare < 0 {
		errs = append(errs, fmt.Errorf("number of spare journal files %d: negative", o.Spare))
	}
	return errors.Join(errs...)
}

// Pool is a directory of journal files: it makes them ahead of time, hands them
// out within a budget, and takes them back.
type Pool struct {
	fs    vfs.FS
	dir   string
	opts  PoolOptions
	log   *slog.Logger
	lock  io.Closer
	files int // the budget, in files

	small, large sync.Pool // of *Record

	done chan struct{} // closed when the worker is gone

	mu           sync.Mutex
	work         sync.Cond // on mu: there may be work, or the worker rests
	resting      bool      // the worker found nothing to do
	closed       bool
	nextID       uint64
	spares       []*poolFile
	makeFailed   bool                  // making a file failed; something must change before the next try
	toldFull     bool                  // that files cannot be made is in the log
	used         int                   // files that are not spare
	peak         int                   // of used, lately: as many files are kept on the disk, and the spare ones
	recent       int                   // of used, since peak was last set
	turns        int                   // files given back since then
	held         map[string]int        // of those, by log
	reserved     map[string]int        // reservations by log
	waiters      []*waiter             // first come, first served
	open         map[*Journal]struct{} // with an open file
	retiring     []*Journal            // for the worker
	leaving      int                   // abandoned, and not in quarantine yet
	quarantined  map[uint64]*poolFile  // left by an earlier life, until recovered
	toldFallback bool
}

// poolFile is a file that no journal uses. One in quarantine is not open.
type poolFile struct {
	id    uint64
	path  string
	log   string // in quarantine: whose, as far as known
	slots Slot
	file  vfs.File
}

// OpenPool opens the directory, creating it if needed, and locks it against
// other processes: vfs.ErrLocked. It looks at each file's header only. Files
// that hold a journal are set aside until [Pool.Recover] hands them out.
func OpenPool(fsys vfs.FS, dir string, o PoolOptions) (*Pool, error) {
	if err := o.check(); err != nil {
		return nil, fmt.Errorf("open journal pool: %w", err)
	}
	p := &Pool{
		fs: fsys, dir: dir, opts: o, log: o.Logger,
		files:       int(o.MaxBytes / o.FileBytes),
		done:        make(chan struct{}),
		held:        map[string]int{},
		reserved:    map[string]int{},
		open:        map[*Journal]struct{}{},
		quarantined: map[uint64]*poolFile{},
		nextID:      1,
	}
	p.work.L = &p.mu
	if err := vfs.MkdirAllSync(fsys, dir, 0o700); err != nil {
		return nil, fmt.Errorf("open journal pool: %w", err)
	}
	lock, err := fsys.Lock(filepath.Join(dir, lockName))
	if err != nil {
		return nil, fmt.Errorf("open journal pool: %w", err)
	}
	p.lock = lock
	if err := p.scan(); err != nil {
		p.closeSpares()
		_ = lock.Close()
		return nil, fmt.Errorf("open journal pool: %w", err)
	}
	go p.run()
	return p, nil
}

// scan sorts the files of the directory into spares and quarantine.
func (p *Pool) scan() error {
	// The process before this one may have died between making a file and
	// syncing the directory. Its name is there, but not durable yet.
	if err := p.fs.SyncDir(p.dir); err != nil {
		return err
	}
	list, err := p.fs.ReadDir(p.dir)
	if err != nil {
		return err
	}
	s := newScanner(nil, 0)
	for _, d := range list {
		id, ok := parseName(d.Name())
		if !ok || d.IsDir() {
			continue
		}
		p.nextID = max(p.nextID, id+1)
		if err := p.scanFile(s, id); err != nil {
			return err
		}
	}
	return nil
}

// scanFile sorts one file. What cannot be read is set aside too: Recover reports it.
func (p *Pool) scanFile(s *scanner, id uint64) error {
	pf, err := p.openFile(id, os.O_RDWR)
	if err != nil {
		return err
	}
	s.reset(pf.file, pf.slots)
	h, state := fileHeader{}, fileFree
	if pf.slots > 0 {
		h, state, err = inspect(s)
		pf.log = h.Log
		if err != nil {
			state = fileCorrupt
			p.log.Warn("journal file cannot be read", "path", pf.path, "err", err)
		}
	}
	if state != fileFree {
		p.used++
		p.peak, p.recent = p.used, p.used
		p.held[pf.log]++
		p.quarantined[id] = pf
		return pf.file.Close()
	}
	// A file of another size was being made when its process ended, or is
	// left from other settings.
	if int64(pf.slots)*BlockSize == p.opts.FileBytes && p.used+len(p.spares) < p.files {
		err := makeSure(s, h)
		if err == nil {
			p.spares = append(p.spares, pf)
			return nil
		}
		p.log.Warn("spare journal file cannot be used; removing it", "path", pf.path, "err", err)
	}
	if err := pf.file.Close(); err != nil {
		return err
	}
	return p.fs.Remove(pf.path)
}

// makeSure makes the state of a free file, as it was seen, one to build on. The
// process before this one may have died, or the power failed, while it marked the
// file as free or wrote to it first: then what was seen is not durable, or only
// half there. Otherwise the next life's first write, if it is lost in part, could
// leave a mixture of three lives.
func makeSure(s *scanner, h fileHeader) error {
	if err := s.file.Sync(); err != nil {
		return err
	}
	b, err := s.block(0)
	if err != nil || bytes.Equal(b[:headerBytes], b[headerCopyAt:headerCopyAt+headerBytes]) {
		return err
	}
	return markFree(s.file, &h, true)
}

func (p *Pool) openFile(id uint64, flag int) (*poolFile, error) {
	pf := &poolFile{id: id, path: filepath.Join(p.dir, fileName(id))}
	f, err := p.fs.OpenFile(pf.path, flag|vfs.Direct, 0o600)
	if err != nil {
		return nil, err
	}
	size, err := f.Size()
	if err != nil {
		_ = f.Close()
		return nil, err
	}
	pf.file = f
	pf.slots = Slot(min(size, fileBytesMax) / BlockSize)
	return pf, nil
}

func fileName(id uint64) string { return fmt.Sprintf("%s%08d", filePrefix, id) }

func parseName(name string) (uint64, bool) {
	var id uint64
	if _, err := fmt.Sscanf(name, filePrefix+"%d", &id); err != nil || fileName(id) != name {
		return 0, false
	}
	return id, true
}

// NewRecord returns an empty record with one reference: for SmallBlocks data
// blocks, or for LargeBlocks.
func (p *Pool) NewRecord(large bool) *Record {
	free, blocks := &p.small, SmallBlocks
	if large {
		free, blocks = &p.large, LargeBlocks
	}
	r, _ := free.Get().(*Record)
	if r == nil {
		r = &Record{pool: p, large: large, arena: alignedBytes((1 + blocks) * BlockSize)}
	}
	r.refs.Store(1)
	return r
}

func (p *Pool) freeRecord(r *Record) {
	r.blocks, r.slot, r.entries = 0, 0, r.entries[:0]
	if r.large {
		p.large.Put(r)
	} else {
		p.small.Put(r)
	}
}

// Recover waits until no reader holds a journal that was abandoned before the
// call. Then it hands out, once each, the files that an earlier life of the pool, or
// Abandon, left behind with at least one committed batch or with damage; the
// caller becomes their owner. It deletes nothing: Release each when its segment
// is in the store. Files are in no particular order; the caller orders them by
// header, and checks that the sequence numbers of one log's files connect.
//
// What is handed out is durable: each file is synced before it is read, so that
// a batch which was complete but never acknowledged cannot vanish later from
// under the batches that build on it.
//
// An error of one file is in its Recovered. The error of Recover itself is that
// of ctx or of a closed pool; the files recovered by then are returned with it.
func (p *Pool) Recover(ctx context.Context) ([]*Recovered, error) {
	var out []*Recovered
	s := newScanner(nil, 0)
	p.settle(ctx)
	for {
		if err := ctx.Err(); err != nil {
			return out, fmt.Errorf("recover journals: %w", err)
		}
		pf, err := p.takeQuarantined()
		if err != nil || pf == nil {
			return out, err
		}
		if r := p.recoverFile(s, pf); r != nil {
			out = append(out, r)
		}
	}
}

// takeQuarantined returns the oldest file in quarantine, or nil.
func (p *Pool) takeQuarantined() (*poolFile, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return nil, fmt.Errorf("recover journals: %w", ErrClosed)
	}
	var first *poolFile
	for _, pf := range p.quarantined {
		if first == nil || pf.id < first.id {
			first = pf
		}
	}
	if first != nil {
		delete(p.quarantined, first.id)
	}
	return first, nil
}

// Recovered is a file that an earlier life left behind. It reads like any
// journal; Write returns ErrClosed.
type Recovered struct {
	*Journal
	// Err is nil, or wraps ErrCorrupt, ErrVersion or an error of the disk. The
	// batches before the damage are there all the same. Do not Release such a
	// file before its data has been dealt with.
	Err error
}

// SetAside gives the journal up without deleting it: once its last reader is gone
// the file gets another name in the same directory, which is returned, and is no
// longer the pool's: neither counted nor recovered. The caller must not use the
// journal again.
func (r *Recovered) SetAside() (path string) {
	path = filepath.Join(r.pool.dir, r.asideName())
	r.finish(fateAside)
	return path
}

// asideName names the file of a journal that is set aside, by whose it is.
func (j *Journal) asideName() string {
	h, n := j.Header(), j.Nonce()
	return fmt.Sprintf("%s%s-%d-epoch-%d-%x", asidePrefix, h.Log, h.Segment, h.Epoch, n[:4])
}

// recoverFile replays a file. It returns nil for one that holds nothing.
func (p *Pool) recoverFile(s *scanner, pf *poolFile) *Recovered {
	j := &Journal{pool: p, id: pf.id, path: pf.path, log: pf.log, readOnly: true}
	j.refs.Store(1)
	r := &Recovered{Journal: j}
	opened, err := p.openFile(pf.id, os.O_RDWR)
	if err != nil {
		j.file = noFile{err: err}
		r.Err = fmt.Errorf("recover journal %s: %w", pf.path, err)
		p.adopt(j, pf.log)
		return r
	}
	j.file, j.slots = opened.file, opened.slots
	j.sums = make([]uint32, j.slots)
	r.Err = j.recover(s)
	p.adopt(j, pf.log)
	if r.Err == nil && len(j.batches) == 0 {
		// Nobody was ever told that anything in here is safe.
		j.Release()
		return nil
	}
	p.log.Info("journal recovered", "path", j.path, "log", j.log, "segment", j.header.Segment,
		"batches", len(j.batches), "slots", j.end, "err", r.Err)
	return r
}

func (j *Journal) recover(s *scanner) error {
	// Sync before reading: see Pool.Recover.
	if err := j.file.Sync(); err != nil {
		return fmt.Errorf("recover journal %s: %w: %w", j.path, ErrFailed, err)
	}
	s.reset(j.file, j.slots)
	return j.load(s)
}

// load fills the journal from its file.
func (j *Journal) load(s *scanner) error {
	h, state, err := inspect(s)
	if err != nil {
		return fmt.Errorf("recover journal %s: %w", j.path, err)
	}
	j.header, j.log = h, h.Log
	switch state {
	case fileNewer:
		return fmt.Errorf("recover journal %s: %w", j.path, ErrVersion)
	case fileCorrupt:
		return fmt.Errorf("recover journal %s: file header is damaged: %w", j.path, ErrCorrupt)
	case fileFree:
		return nil
	}
	if b, err := s.block(0); err == nil {
		j.sums[0] = sum(b)
	}
	return j.replay(s)
}

// adopt enters a recovered journal, counted under log so far, into the books.
func (p *Pool) adopt(j *Journal, log string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.unhold(log)
	p.held[j.log]++
	p.open[j] = struct{}{}
	if p.closed {
		_ = j.file.Close()
	}
}

func (p *Pool) unhold(log string) {
	if p.held[log]--; p.held[log] <= 0 {
		delete(p.held, log)
	}
}

// Close gives back what was released, closes every file and unlocks the
// directory. Journals still open are left on the disk, as by Abandon.
func (p *Pool) Close() error {
	p.mu.Lock()
	if p.closed {
		p.mu.Unlock()
		return nil
	}
	p.closed = true
	for _, w := range p.waiters {
		w.ch <- grant{err: ErrClosed}
	}
	p.waiters = nil
	p.wake()
	p.mu.Unlock()
	<-p.done

	p.mu.Lock()
	defer p.mu.Unlock()
	var errs []error
	for j := range p.open {
		j.fate.CompareAndSwap(fateOpen, fateClosed)
		errs = append(errs, j.file.Close())
	}
	clear(p.open)
	p.closeSpares()
	errs = append(errs, p.lock.Close())
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("close journal pool: %w", err)
	}
	return nil
}

func (p *Pool) closeSpares() {
	for _, pf := range p.spares {
		_ = pf.file.Close() // nothing was written that anybody relies on
	}
	p.spares = nil
}

// noFile stands for a file that could not be opened. A recovered journal needs
// no other methods than these.
type noFile struct {
	vfs.File
	err error
}

func (f noFile) Direct() bool                         { return false }
func (f noFile) ReadAt([]byte, int64) (int, error)    { return 0, f.err }
func (f noFile) WritevAt([][]byte, int64, bool) error { return f.err }
func (f noFile) Close() error                         { return nil }
