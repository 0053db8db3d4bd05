package cache

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path"
	"slices"
	"sync"

	"github.com/bough-db/bough/vfs"
)

// Names in the cache directory.
const (
	framesFile = "frames"
	lockFile   = "lock"
)

// OpenFrames opens the cache in dir, and makes it if there is none or it cannot be
// used. It fails if the options are invalid, if the directory cannot be made, or
// if it is in use (vfs.ErrLocked); a disk that is full or broken gives a cache that
// holds nothing, after one line in the log.
func OpenFrames(fsys vfs.FS, dir string, opts FramesOptions) (*Frames, error) {
	if err := opts.setDefaults(); err != nil {
		return nil, err
	}
	if err := fsys.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make cache directory: %w", err)
	}
	lock, err := fsys.Lock(path.Join(dir, lockFile))
	if err != nil {
		return nil, fmt.Errorf("lock cache %s: %w", dir, err)
	}
	f := newFrames(opts)
	if err := f.openFile(fsys, path.Join(dir, framesFile), opts.Bytes); err != nil {
		f.log.Warn("cache: running without a cache on disk", "dir", dir, "err", err)
		f.off.Store(true)
		f.rd, f.wr = nil, nil
		return f, lock.Close()
	}
	f.lock = lock
	f.signal() // a cache that was full has regions to free
	go f.keep()
	return f, nil
}

func newFrames(opts FramesOptions) *Frames {
	regionBytes := regionBytesFor(opts.Bytes)
	regions := int((opts.Bytes - headerBytes) / int64(regionBytes))
	f := &Frames{
		log:         opts.Logger,
		regionBytes: regionBytes,
		buffersMax:  max(3, int(min(opts.BufferBytes, opts.Bytes/4)/int64(regionBytes))),
		freeMin:     2,
		// One remembered hash for every 16 KiB: about as many as the cache has frames.
		ghosts:  newGhosts(int(opts.Bytes / (16 << 10))),
		regions: make([]region, regions),
		wake:    make(chan struct{}, 1),
		done:    make(chan struct{}),
	}
	if regions >= 64 {
		f.freeMin = 4
	}
	f.idle = sync.NewCond(&f.mu)
	return f
}

// openFile opens the file twice. Regions are written past the page cache: it
// would keep frames that nobody has asked for, and write them back in one burst,
// in front of somebody's journal. They are read through it.
func (f *Frames) openFile(fsys vfs.FS, name string, bytes int64) (err error) {
	f.rd, err = fsys.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	f.wr, err = fsys.OpenFile(name, os.O_RDWR|vfs.Direct, 0o600)
	if err != nil {
		return errors.Join(err, f.rd.Close())
	}
	warm, err := f.prepare(bytes)
	if err != nil {
		// Whatever was allocated is of more use to others.
		return errors.Join(err, f.rd.Close(), f.wr.Close(), fsys.Remove(name))
	}
	if warm {
		f.load()
		return nil
	}
	for no := range f.regions {
		f.free = append(f.free, uint32(no))
	}
	slices.Reverse(f.free) // so that the file is filled from the front
	return nil
}

// prepare gives the file its size and header, and tells whether it had contents
// worth loading.
func (f *Frames) prepare(bytes int64) (warm bool, err error) {
	size, err := f.rd.Size()
	if err != nil {
		return false, err
	}
	page := make([]byte, headerBytes)
	if size >= headerBytes {
		if _, err := f.rd.ReadAt(page, 0); err == nil {
			if h, ok := decodeHeader(page); ok && int(h.regionBytes) == f.regionBytes {
				f.salt, warm = h.salt, true
			}
		}
	}
	// A file of another geometry starts from nothing. One that only grew or shrank
	// keeps the regions it still has.
	want := f.regionStart(uint32(len(f.regions)))
	keep := min(size, want)
	if !warm {
		keep = 0
	}
	if size != keep {
		if err := f.rd.Truncate(keep); err != nil {
			return false, err
		}
	}
	if err := f.rd.Allocate(0, want); err != nil {
		return false, fmt.Errorf("allocate %d bytes for the cache (free some disk space, or give it less): %w", bytes, err)
	}
	if warm {
		return true, nil
	}
	var salt [8]byte
	if _, err := rand.Read(salt[:]); err != nil {
		return false, err
	}
	f.salt = binary.LittleEndian.Uint64(salt[:])
	page = encodeHeader(fileHeader{regionBytes: uint32(f.regionBytes), salt: f.salt})
	if _, err := f.rd.WriteAt(page, 0); err != nil {
		return false, err
	}
	return false, nil
}

// loaders is how many tables are read at the same time when a cache is opened:
// enough to keep a disk busy that answers in 100 µs.
const loaders = 8

// load rebuilds the index from the tables of all regions.
func (f *Frames) load() {
	tables := make([][]tableEntry, len(f.regions))
	var wg sync.WaitGroup
	for w := range loaders {
		wg.Go(func() {
			page := make([]byte, pageBytes)
			for no := w; no < len(tables); no += loaders {
				tables[no] = f.readTable(uint32(no), page)
			}
		})
	}
	wg.Wait()

	// Oldest first: of two slots with the same key the younger one wins, and the
	// queues get their order back.
	order := make([]uint32, 0, len(tables))
	for no, table := range tables {
		if len(table) == 0 {
			f.free = append(f.free, uint32(no))
			continue
		}
		order = append(order, uint32(no))
	}
	slices.Reverse(f.free)
	slices.SortFunc(order, func(a, b uint32) int {
		if tables[a][0].use < tables[b][0].use {
			return -1
		}
		return 1
	})
	for _, no := range order {
		f.adopt(no, tables[no])
	}
	f.stats.loaded.Store(uint64(f.entries()))
}

// adopt puts a region that was found on disk into its queue and its slots into
// the index.
func (f *Frames) adopt(no uint32, table []tableEntry) {
	r := &f.regions[no]
	r.use.Store(table[0].use)
	r.hashes = make([]uint64, len(table))
	for i, e := range table {
		r.hashes[i] = e.hash
		f.index.put(e.hash, newLocation(no, int(e.offset), int(e.length)))
	}
	q := small
	if table[0].main {
		q = main
	}
	f.queue[q] = append(f.queue[q], no)
	f.use = max(f.use, table[0].use)
}

// readTable returns the entries of the last use of a region. Entries that are
// damaged are left out, and those that an earlier use left behind.
func (f *Frames) readTable(no uint32, page []byte) []tableEntry {
	var table []tableEntry
	start := f.regionStart(no)
	for off := 0; off < tableBytes(f.regionBytes); off += pageBytes {
		if _, err := f.rd.ReadAt(page, start+int64(off)); err != nil {
			f.stats.damaged.Add(1)
			break
		}
		found := len(table)
		for p := page; len(p) > 0; p = p[tableEntryBytes:] {
			e, ok := decodeTableEntry(p[:tableEntryBytes], f.regionBytes, f.salt)
			if !ok {
				continue
			}
			// A page of an earlier use survives only where a write was torn.
			if len(table) > 0 && e.use > table[0].use {
				table = table[:0]
				found = -1
			}
			if len(table) == 0 || e.use == table[0].use {
				table = append(table, e)
			}
		}
		if len(table) == found {
			break // slots are listed from the front: the rest is empty
		}
	}
	return table
}

func (f *Frames) entries() int {
	n, _ := f.index.size()
	return n
}
