package cow

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"runtime"
	"slices"
	"sync"
	"time"

	"github.com/bough-db/bough/cache"
	"github.com/bough-db/bough/objstore"
	"github.com/bough-db/bough/wal"
	lru "github.com/hashicorp/golang-lru/v2"
	"github.com/klauspost/compress/zstd"
)

// Options of a Store. Objects and Journals are needed; the zero value of every
// other field is a safe default.
type Options struct {
	// Objects is where everything ends up. The Store does not close it.
	Objects objstore.Store
	// Journals is where a write is first. The Store does not close it.
	Journals *wal.Pool
	// Frames is the cache on local disk. Default: none.
	Frames *cache.Frames
	// Memory is the cache of frames as they are read. Default: 64 MiB.
	Memory *cache.Memory
	// Host names this host, so that it knows a branch it has attached itself.
	// Default: "local".
	Host string
	// Shared says that other hosts use the store too. A new branch then waits until
	// what it begins with is in the store: its parent's journals are on this host.
	Shared bool
	// WriteThrough makes every write durable before it is acknowledged, on all
	// branches; see Branch.SetWriteThrough for one.
	WriteThrough bool
	// SealAfter is how long after its first barrier a journal is sent to the
	// store. Default: 2 s.
	SealAfter time.Duration
	// CheckpointSegments is how many segments a checkpoint is written after.
	// Default: 64.
	CheckpointSegments int
	// DirtyPages is how many changed tree pages a branch holds in memory before
	// it writes a checkpoint. Default: 8192, at most 40 MiB.
	DirtyPages int
	// Pages is how many unchanged tree pages are kept in memory, for all
	// branches together. Default: 4096, at most 32 MiB.
	Pages int
	// Indexes is how many segment indexes are kept in memory, and eight times as many
	// of those that take 2 KiB or less. Default: 1024, at most 40 MiB in all.
	Indexes int
	// Views is how many barriers can be open for reading at the same time; each takes
	// the tree pages that changed since the last checkpoint before it, at most
	// DirtyPages. Default: 64.
	Views int
	// Uploads is how many segments are packed and stored at the same time; each
	// takes up to 40 MiB of memory. Default: 2.
	Uploads int
	// FullWait is how long a write waits for space on a full journal disk, or
	// for a tree page from a store that does not answer, before it fails. A file
	// system above does not survive a flush that failed, but it does survive one
	// that takes long. Default: 0, until there is space or the branch is closed.
	FullWait time.Duration
	// Marker makes the Marker of a branch that is being opened, whose last barrier has
	// the mark. Default: none, and barriers have the zero Mark.
	Marker func(last Mark) Marker
	// Retention says which barriers stay of branches that say nothing else, and
	// whose projects do not. Default: DefaultRetention.
	Retention *Retention
	// Now is the clock of barriers. Default: time.Now.
	Now func() time.Time
	// Random gives ids and nonces. Default: crypto/rand.
	Random io.Reader
	// Logger takes what an operator should know. Default: slog.Default().
	Logger *slog.Logger
}

func (o *Options) setDefaults() error {
	def := func(p *int, v int) {
		if *p == 0 {
			*p = v
		}
	}
	def(&o.CheckpointSegments, 64)
	def(&o.DirtyPages, 8192)
	def(&o.Pages, 4096)
	def(&o.Indexes, 1024)
	def(&o.Views, 64)
	def(&o.Uploads, 2)
	if o.Retention == nil {
		r := DefaultRetention()
		o.Retention = &r
	}
	if o.Host == "" {
		o.Host = "local"
	}
	if o.SealAfter == 0 {
		o.SealAfter = 2 * time.Second
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Random == nil {
		o.Random = rand.Reader
	}
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	if o.Memory == nil {
		o.Memory = cache.NewMemory(64 << 20)
	}
	if o.Objects == nil || o.Journals == nil {
		return errors.New("open store: no object store or no journals given")
	}
	for _, n := range []int{o.CheckpointSegments, o.DirtyPages, o.Pages, o.Indexes, o.Views, o.Uploads} {
		if n < 0 {
			return errors.New("open store: a negative limit")
		}
	}
	return nil
}

// Store holds the projects and branches of one object store, for one process.
// Its methods may be called concurrently.
type Store struct {
	opts        Options
	objects     objstore.Store
	journals    *wal.Pool
	log         *slog.Logger
	random      io.Reader
	gens        generations
	pages       *pageCache
	indexes     *indexCache[objectID, *blockIndex]
	layouts     *lru.Cache[BranchID, *layout]
	packedPages *lru.Cache[objectID, packPages]
	packLists   *lru.Cache[string, []packRef]
	names       *lru.Cache[string, BranchID] // by key, which branch had the name
	zr          *zstd.Decoder
	encoders    *encoders
	buffers     sync.Pool     // of *[]byte for frames as stored
	ahead       chan struct{} // holds one for each read-ahead under way
	starts      chan struct{} // holds one for each request under way for a start

	frameFlights flights[cache.Key, []byte]
	indexFlights flights[objectID, *blockIndex]

	took struct{ read, write, flush, upload stopwatch }

	ctx    context.Context // ends with the Store
	cancel context.CancelFunc

	mu        sync.Mutex
	closed    bool
	open      map[BranchID]*opening
	forked    *lru.Cache[BranchID, tree] // trees of branches made here and not opened yet
	broken    map[BranchID]error         // branches whose journals could not be recovered
	left      map[BranchID]int           // branches that left journals on disk, and how many at most
	views     map[*View]struct{}         // that are open, or being opened
	lastUsage *StoreUsage
	moved     map[BranchID]BranchID // the logs of branches that were restored

	recoverMu patientLock // one recovery at a time
	collectMu patientLock // one collection at a time, which has the next two
	weights   *lru.Cache[objectID, weight]
	catalogue catalogue

	liveMu sync.RWMutex
	live   map[indexKey]*liveSegment
}

// opening is a branch that is open, being opened or being closed.
type opening struct {
	branch *Branch
	err    error
	ready  chan struct{} // closed when branch or err is set
	gone   chan struct{} // closed when the branch has been closed
}

// formatRecord says what the store is. A later version of the layout has a
// later version of this record.
type formatRecord struct {
	UUID    nonce     `json:"uuid"`
	Created time.Time `json:"created"`
}

const formatKind = "store"

// OpenStore opens the store, making it if there is none, and sends to it what
// journals of an earlier life hold. A journal that can not be recovered is kept
// and makes its branch refuse to open; everything else is not affected.
func OpenStore(ctx context.Context, opts Options) (*Store, error) {
	if err := opts.setDefaults(); err != nil {
		return nil, err
	}
	s := &Store{
		opts: opts, objects: opts.Objects, journals: opts.Journals, log: opts.Logger, random: opts.Random,
		open: map[BranchID]*opening{}, broken: map[BranchID]error{}, left: map[BranchID]int{},
		recoverMu: newPatientLock(), collectMu: newPatientLock(),
		views: map[*View]struct{}{},
		moved: map[BranchID]BranchID{},
		live:  map[indexKey]*liveSegment{}, ahead: make(chan struct{}, aheadFetches),
		starts: make(chan struct{}, startRequests),
	}
	s.buffers.New = func() any {
		buf := make([]byte, cache.SlotBytesMax)
		return &buf
	}
	s.ctx, s.cancel = context.WithCancel(context.WithoutCancel(ctx))
	var err error
	if s.pages, err = newPageCache(opts.Pages); err != nil {
		return nil, err
	}
	if s.indexes, err = newIndexCache[objectID, *blockIndex](opts.Indexes); err != nil {
		return nil, fmt.Errorf("make index cache: %w", err)
	}
	if s.names, err = lru.New[string, BranchID](namesMax); err != nil {
		return nil, fmt.Errorf("make name cache: %w", err)
	}
	if s.packedPages, err = lru.New[objectID, packPages](packedPagesMax); err != nil {
		return nil, fmt.Errorf("make cache of packed pages: %w", err)
	}
	if s.weights, err = lru.New[objectID, weight](weightsMax); err != nil {
		return nil, fmt.Errorf("make cache of weights: %w", err)
	}
	if s.packLists, err = lru.New[string, []packRef](packListsMax); err != nil {
		return nil, fmt.Errorf("make cache of lists of packs: %w", err)
	}
	if s.layouts, err = lru.New[BranchID, *layout](layoutsMax); err != nil {
		return nil, fmt.Errorf("make layout cache: %w", err)
	}
	if s.forked, err = lru.New[BranchID, tree](16); err != nil {
		return nil, fmt.Errorf("make tree cache: %w", err)
	}
	s.zr, err = zstd.NewReader(nil, zstd.WithDecoderConcurrency(runtime.GOMAXPROCS(0)),
		zstd.WithDecoderMaxMemory(footerBytesMax), zstd.WithDecodeAllCapLimit(true))
	if err != nil {
		return nil, fmt.Errorf("make decompressor: %w", err)
	}
	s.encoders = newEncoders(opts.Uploads)
	if err := s.checkFormat(ctx); err != nil {
		return nil, err
	}
	if err := s.recover(ctx); err != nil {
		return nil, err
	}
	return s, nil
}

// namesMax is how many names are remembered.
const namesMax = 1024

// checkFormat reads the format object, or makes it in an empty store.
func (s *Store) checkFormat(ctx context.Context) error {
	data, _, err := s.objects.Get(ctx, formatKey)
	if errors.Is(err, objstore.ErrNotExist) {
		// Do not plant our flag among somebody else's objects.
		others, lerr := s.objects.List(ctx, "", "", 1)
		if lerr != nil {
			return fmt.Errorf("open store: %w", lerr)
		}
		if len(others) > 0 {
			return fmt.Errorf("open store: it holds %q but no format object: it is not a bough store, or a damaged one", others[0].Key)
		}
		rec := formatRecord{Created: s.now().UTC()}
		if rec.UUID, err = newNonce(s.random); err != nil {
			return err
		}
		if data, err = encodeRecord(formatKind, &rec); err != nil {
			return err
		}
		_, err = s.objects.Put(ctx, formatKey, data, objstore.Condition{IfAbsent: true})
		if err != nil && !errors.Is(err, objstore.ErrExists) {
			return fmt.Errorf("make store: %w", err)
		}
		data, _, err = s.objects.Get(ctx, formatKey)
	}
	if err != nil {
		return fmt.Errorf("open store: %w", err)
	}
	var rec formatRecord
	if err := decodeRecord(formatKind, data, &rec); err != nil {
		return fmt.Errorf("open store: object %s: %w", formatKey, err)
	}
	return nil
}

func (s *Store) now() time.Time { return s.opts.Now() }

// wallTime is now without the reading of the monotonic clock: two of them compare as
// they will when they are read back.
func (s *Store) wallTime() time.Time { return s.now().UTC().Round(0) }

// Close closes every branch that is still open, and the Store. Journals that
// could not be stored before ctx ended stay on disk for the next life.
func (s *Store) Close(ctx context.Context) error {
	s.mu.Lock()
	s.closed = true
	var all []*opening
	for _, id := range slices.Sorted(maps.Keys(s.open)) { // in order, so that tests can repeat it
		all = append(all, s.open[id])
	}
	s.mu.Unlock()
	var wg sync.WaitGroup
	errs := make([]error, len(all))
	for i, o := range all {
		wg.Add(1)
		go func() {
			defer wg.Done()
			<-o.ready
			if o.branch != nil {
				errs[i] = s.shut(ctx, o)
			}
		}()
	}
	wg.Wait()
	s.cancel() // and the decompressor stays: reads may be under way
	return errors.Join(errs...)
}

// Live segments: those that are still journals of this process. They are a part of
// the log only as long as this process is its writer: the log of one that was
// fenced has other segments under the same numbers.

// writes tells whether this process is the writer of the branch's log, as of the
// manifest.
func (s *Store) writes(m *manifest) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	o := s.open[m.ID]
	return o != nil && o.branch != nil && o.branch.epoch == m.Epoch
}

// readsLive tells whether blocks of the log can be in journals of this process, for who
// reads a branch of the lineage. Where other hosts use the store too only those of the
// last log can, and that only for who knows that it is this process' own: another host
// may have written the log after this process, which may not have heard of it yet.
func (s *Store) readsLive(lineage []BranchID, own bool, log uint16) bool {
	return !s.opts.Shared || own && int(log) == len(lineage)-1
}

func (s *Store) addLive(ls *liveSegment) {
	s.liveMu.Lock()
	defer s.liveMu.Unlock()
	s.live[indexKey{ls.log, ls.number}] = ls
}

func (s *Store) dropLive(ls *liveSegment) {
	s.liveMu.Lock()
	defer s.liveMu.Unlock()
	delete(s.live, indexKey{ls.log, ls.number})
}

func (s *Store) findLive(log BranchID, seg wal.SegmentNo) *liveSegment {
	s.liveMu.RLock()
	defer s.liveMu.RUnlock()
	return s.live[indexKey{log, seg}]
}

// encoders hands out a few segment encoders, first come first served. Each is made when
// it is needed: they are large, and a process that stores nothing needs none.
type encoders struct {
	free chan struct{} // holds one for each that may be taken

	mu   sync.Mutex
	made []*segmentEncoder // and free
}

func newEncoders(n int) *encoders {
	e := &encoders{free: make(chan struct{}, n)}
	for range n {
		e.free <- struct{}{}
	}
	return e
}

func (e *encoders) take(ctx context.Context) (*segmentEncoder, error) {
	select {
	case <-e.free:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	n := len(e.made)
	if n == 0 {
		enc, err := newSegmentEncoder()
		if err != nil {
			e.free <- struct{}{}
		}
		return enc, err
	}
	enc := e.made[n-1]
	e.made = e.made[:n-1]
	return enc, nil
}

func (e *encoders) give(enc *segmentEncoder) {
	e.mu.Lock()
	e.made = append(e.made, enc)
	e.mu.Unlock()
	e.free <- struct{}{}
}
