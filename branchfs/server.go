package branchfs

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"runtime/debug"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

const (
	// maxRequestBytes is the longest read or write that the kernel sends: its own
	// limit without root changing a sysctl.
	maxRequestBytes = 1 << 20

	// fsType and fsSource mark our mounts in /proc/self/mountinfo.
	fsType   = "bough"
	fsSource = "bough"
)

// Options say what to serve and where.
type Options struct {
	// Source is what is shown. Required.
	Source Source

	// Dir is the mount point. It is made if it is missing, and must be empty.
	// Required.
	Dir string

	// Logger takes what the callers of the file system cannot be told. Default:
	// slog.Default().
	Logger *slog.Logger

	// MaxBackground bounds the asynchronous requests (all reads and writes that
	// come through loop) in flight over all branches. Each write holds 1 MiB of
	// memory. Default: 128.
	MaxBackground int

	// Fatal is called, after the panic was logged, when a Source or Disk panics.
	// It must not return to normal work: a device may be half changed. Default:
	// os.Exit(2).
	Fatal func(reason any)

	// device is the path of the FUSE device. Default: /dev/fuse.
	device string
}

// Server is a mounted file system.
type Server struct {
	dir    string
	log    *slog.Logger
	fs     *fileSystem
	fuse   *fuse.Server
	served chan struct{} // closed when the connection has ended
	end    context.CancelFunc
}

// fileSystem answers the kernel's requests.
type fileSystem struct {
	fuse.RawFileSystem // answers ENOSYS to the rest

	source  Source
	log     *slog.Logger
	life    context.Context // of the server; requests that change are not bound to their caller
	nodes   *nodeTable
	handles *handleTable
	disks   *diskTable
}

// Mount mounts the file system at o.Dir and serves it until Close. A mount that a
// killed process left at o.Dir is taken away first. ctx bounds the mounting only.
//
// Errors wrap ErrNoFUSE, ErrNoRights, ErrNotEmpty or ErrMounted where one fits.
func Mount(ctx context.Context, o Options) (*Server, error) {
	if err := o.setDefaults(); err != nil {
		return nil, err
	}
	fd, err := mountDir(ctx, o.device, o.Dir, o.Logger)
	if err != nil {
		return nil, fmt.Errorf("mount %s: %w", o.Dir, err)
	}
	life, end := context.WithCancel(context.Background())
	f := &fileSystem{
		RawFileSystem: fuse.NewDefaultRawFileSystem(),
		source:        o.Source,
		log:           o.Logger,
		life:          life,
		nodes:         newNodeTable(),
		handles:       &handleTable{open: make(map[uint64]any)},
		disks:         &diskTable{log: o.Logger, byID: make(map[string]*disk)},
	}
	// go-fuse is handed the connection ready made, since it would leave the
	// descriptor open in child processes; see the package doc on killed daemons.
	// NewServer has answered the kernel's INIT when it returns, so there is nothing
	// to wait for, and WaitMount, which opens a file in the mount from this very
	// process, is not called.
	srv, err := fuse.NewServer(f, fmt.Sprintf("/dev/fd/%d", fd), &fuse.MountOptions{
		MaxWrite:             maxRequestBytes,
		MaxBackground:        o.MaxBackground,
		CongestionThreshold:  o.MaxBackground,
		ExtraCapabilities:    fuse.CAP_ASYNC_DIO,
		DisabledCapabilities: fuse.CAP_PASSTHROUGH | fuse.CAP_WRITEBACK_CACHE,
		DisableXAttrs:        true,
		DisableReadDirPlus:   true,
		DisableSplice:        true, // answers come from memory
		Logger:               slog.NewLogLogger(o.Logger.Handler(), slog.LevelDebug),
		PanicHandler: func(reason any) fuse.Status {
			o.Logger.Error("panic while serving a branch", "reason", reason, "stack", string(debug.Stack()))
			o.Fatal(reason)
			return fuse.EIO
		},
	})
	if err != nil {
		end()
		err = fmt.Errorf("start serving %s: %w", o.Dir, err)
		return nil, errors.Join(err, unmount(o.Dir, unix.MNT_DETACH|unix.MNT_FORCE))
	}
	s := &Server{dir: o.Dir, log: o.Logger, fs: f, fuse: srv, served: make(chan struct{}), end: end}
	go s.serve()
	return s, nil
}

func (o *Options) setDefaults() error {
	var errs []error
	if o.Source == nil {
		errs = append(errs, errors.New("branchfs: Source is not set"))
	}
	if o.Dir == "" {
		errs = append(errs, errors.New("branchfs: Dir is not set"))
	}
	if o.MaxBackground < 0 || o.MaxBackground > 1<<15 {
		errs = append(errs, fmt.Errorf("branchfs: MaxBackground %d is not in 0…32768", o.MaxBackground))
	}
	if len(errs) > 0 {
		return errors.Join(errs...)
	}
	dir, err := filepath.Abs(o.Dir)
	if err != nil {
		return fmt.Errorf("find mount point: %w", err)
	}
	o.Dir = dir
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	if o.MaxBackground == 0 {
		o.MaxBackground = 128
	}
	if o.Fatal == nil {
		o.Fatal = func(any) { os.Exit(2) }
	}
	if o.device == "" {
		o.device = "/dev/fuse"
	}
	return nil
}

// serve answers requests until the mount is gone, then closes what is open.
func (s *Server) serve() {
	s.fuse.Serve()
	// After a forced end the kernel sends no releases.
	for _, h := range s.fs.handles.all() {
		if d, ok := h.(*disk); ok {
			s.fs.disks.release(s.fs.life, d)
		}
	}
	close(s.served)
}

// Dir returns the mount point.
func (s *Server) Dir() string { return s.dir }

// DiskPath returns the path of a branch's device file.
func (s *Server) DiskPath(project, branch string) string {
	return filepath.Join(s.dir, project, branch, diskName)
}

// Done returns a channel that is closed when the mount is gone, by Close or
// otherwise, and all devices are closed.
func (s *Server) Done() <-chan struct{} { return s.served }

// WaitReleased returns when the device of the branch with this ID is not open
// through the file system any more, with the error of its Close; at once when it
// was not open. The kernel releases a file some time after the last user closed
// it: who detached a branch and needs it closed waits here.
func (s *Server) WaitReleased(ctx context.Context, id string) error {
	return s.fs.disks.wait(ctx, id)
}

// Close unmounts and waits until all devices are closed. While files in the mount
// are in use it returns an error that wraps unix.EBUSY, the file system goes on
// being served, and Close may be called again. After ctx ends, Close cancels the
// devices' calls that are still running, and returns an error.
func (s *Server) Close(ctx context.Context) error { return s.close(ctx, 0) }

// Abort unmounts at once: requests that wait are failed, and users of the files
// get errors from then on. Devices are closed as by Close.
func (s *Server) Abort(ctx context.Context) error {
	return s.close(ctx, unix.MNT_DETACH|unix.MNT_FORCE)
}

func (s *Server) close(ctx context.Context, flags int) error {
	select {
	case <-s.served:
	default:
		if err := unmount(s.dir, flags); err != nil && !errors.Is(err, unix.EINVAL) {
			return err
		}
	}
	select {
	case <-s.served:
	case <-ctx.Done():
		s.end()
		return fmt.Errorf("wait for the branches to close: %w", ctx.Err())
	}
	err := s.fs.disks.idle(ctx)
	s.end()
	return err
}

// String implements fuse.RawFileSystem.
func (f *fileSystem) String() string { return fsType }
