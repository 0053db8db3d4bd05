package dirstore

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"path"
	"path/filepath"
	"sync"
	"sync/atomic"

	lru "github.com/hashicorp/golang-lru/v2"
	"golang.org/x/sys/unix"

	"github.com/bough-db/bough/objstore"
	"github.com/bough-db/bough/vfs"
)

// Errors of this store besides those of package objstore.
var (
	// ErrInUse: the directory has an exclusive store, or, for an exclusive
	// open, any store. The error's text names the process if it is known.
	ErrInUse = errors.New("store directory is in use")
	// ErrDamaged: a file is not what was put: its size or contents differ from
	// its label.
	ErrDamaged = errors.New("object is damaged")
	// ErrFailed: a directory failed to sync; every later call returns the same
	// error. Check the disk, then open the store again.
	ErrFailed = errors.New("store directory failed to sync")
)

// directoriesKnownMax bounds the set of directories whose entries are known to
// be durable. A directory that fell out costs one sync more.
const directoriesKnownMax = 4096

// Options are the settings of a Store.
type Options struct {
	// Exclusive makes Open fail with ErrInUse when another store is open on
	// the directory, and keeps others out until Close. Default: false.
	Exclusive bool
	// OpenFiles bounds the files that an exclusive store keeps open for ranged
	// reads. Default: 256.
	OpenFiles int
	// FS is the file system. Default: the kernel's. On others tags are
	// computed by reading, for they have no extended attributes.
	FS vfs.FS
	// Logger is told what Open cleaned up. Default: slog.Default().
	Logger *slog.Logger
}

// Store is an object store in a directory. All methods may be called
// concurrently. Close it after use.
type Store struct {
	dir  string
	fs   vfs.FS
	host host
	log  *slog.Logger

	exclusive bool
	locks     []io.Closer // held until Close
	slot      int         // prefix of temporary names
	tmpCount  atomic.Uint64

	// swap is held (one token) while a key is compared and replaced or removed.
	swap chan struct{}
	// dirs is held shared from making an object's directories until the object
	// is in them and synced, and exclusively while empty ones are removed.
	dirs    sync.RWMutex
	known   *lru.Cache[string, struct{}] // directories with durable entries; "" is the root
	emptied struct {
		sync.Mutex
		dirs map[string]struct{} // may be empty: to be looked at
	}
	handles *handles

	unsynced struct { // see syncDir
		sync.Mutex
		any  atomic.Bool
		dirs map[string]struct{}
	}

	// life is held shared by every call and exclusively by Close.
	life   sync.RWMutex
	closed bool
	failed atomic.Pointer[error]
}

var _ objstore.Store = (*Store)(nil)

// Open opens the store in directory dir, which is made if it is not there, and
// removes the temporary files of processes that died.
func Open(dir string, opts Options) (*Store, error) {
	if dir == "" {
		return nil, errors.New("open store directory: no directory given")
	}
	if opts.OpenFiles <= 0 {
		opts.OpenFiles = 256
	}
	if opts.Logger == nil {
		opts.Logger = slog.Default()
	}
	s := &Store{
		dir:       filepath.Clean(dir),
		fs:        opts.FS,
		log:       opts.Logger,
		exclusive: opts.Exclusive,
		swap:      make(chan struct{}, 1),
	}
	var err error
	if opts.FS == nil {
		s.fs, s.host = vfs.OS(), kernel{}
		if s.dir, err = filepath.Abs(dir); err != nil {
			return nil, fmt.Errorf("open store directory: %w", err)
		}
	} else {
		s.host = generic{s.fs}
	}
	if s.known, err = lru.New[string, struct{}](directoriesKnownMax); err != nil {
		return nil, fmt.Errorf("open store directory %s: %w", dir, err)
	}
	s.emptied.dirs = make(map[string]struct{})
	s.unsynced.dirs = make(map[string]struct{})
	// Without exclusivity another process can replace what a kept file shows.
	s.handles, err = newHandles(opts.OpenFiles, opts.Exclusive)
	if err != nil {
		return nil, fmt.Errorf("open store directory %s: %w", dir, err)
	}
	if err := s.enter(); err != nil {
		return nil, fmt.Errorf("open store directory %s: %w", dir, err)
	}
	return s, nil
}

// Dir returns the store directory.
func (s *Store) Dir() string { return s.dir }

// Close waits for calls under way, closes kept files and gives up the locks.
// Later calls return an error that wraps fs.ErrClosed.
func (s *Store) Close() error {
	s.life.Lock()
	defer s.life.Unlock()
	if s.closed {
		return fmt.Errorf("close store directory %s: %w", s.dir, fs.ErrClosed)
	}
	s.closed = true
	s.handles.purge()
	if err := s.leave(); err != nil {
		return fmt.Errorf("close store directory %s: %w", s.dir, err)
	}
	return nil
}

// begin is what every call starts with. Unless it returns an error the caller
// owes a life.RUnlock.
func (s *Store) begin(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	s.life.RLock()
	err := s.failure()
	if s.closed {
		err = fs.ErrClosed
	}
	if err == nil && s.unsynced.any.Load() {
		err = s.makeUp()
	}
	if err != nil {
		s.life.RUnlock()
	}
	return err
}

// failure returns the error that stopped this store, if any.
func (s *Store) failure() error {
	if p := s.failed.Load(); p != nil {
		return *p
	}
	return nil
}

// syncDir makes the entries of a directory (a key without its last segment)
// durable. A failed sync is final for the whole store. Having too few file
// descriptors to sync is not, but until it has been made up for nobody may be
// shown what the directory holds.
func (s *Store) syncDir(dir string) error {
	err := s.fs.SyncDir(s.path(dir))
	if err == nil || absent(err) {
		return err
	}
	if !exhausted(err) {
		return s.fail(err)
	}
	s.unsynced.Lock()
	defer s.unsynced.Unlock()
	s.unsynced.dirs[dir] = struct{}{}
	s.unsynced.any.Store(true)
	return err
}

// makeUp syncs the directories that syncDir could not.
func (s *Store) makeUp() error {
	s.unsynced.Lock()
	defer s.unsynced.Unlock()
	for dir := range s.unsynced.dirs {
		err := s.fs.SyncDir(s.path(dir))
		if err != nil && exhausted(err) {
			return err
		}
		if err != nil && !absent(err) {
			return s.fail(err)
		}
		delete(s.unsynced.dirs, dir)
	}
	s.unsynced.any.Store(false)
	return nil
}

// fail stops the store for good because of err, and returns what did first.
func (s *Store) fail(err error) error {
	err = fmt.Errorf("%w: %w", ErrFailed, err)
	s.failed.CompareAndSwap(nil, &err)
	return s.failure()
}

// exhausted reports whether err says that something could not even be tried.
func exhausted(err error) bool {
	return errors.Is(err, unix.EMFILE) || errors.Is(err, unix.ENFILE) || errors.Is(err, unix.ENOMEM)
}

// path returns the file name of a key or of a directory of keys.
func (s *Store) path(key string) string {
	if key == "" {
		return s.dir
	}
	return s.dir + "/" + key
}

// parent returns the directory of a key or of a directory: "" for the root.
func parent(key string) string {
	if dir := path.Dir(key); dir != "." {
		return dir
	}
	return ""
}

// absent reports whether err says that a file, or a directory that leads to it,
// is not there.
func absent(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTDIR)
}

// isDir reports whether a name is that of a directory.
func (s *Store) isDir(name string) bool {
	info, err := s.fs.Stat(name)
	return err == nil && info.IsDir()
}

// full adds objstore.ErrFull to an error that says that the disk is full.
func full(err error) error {
	if vfs.IsFull(err) {
		return fmt.Errorf("%w: %w", objstore.ErrFull, err)
	}
	return err
}
