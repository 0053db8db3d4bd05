package blockdev

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"
)

// Errors of Volumes.
var (
	// ErrBusy means that programs still use what was to be taken away.
	ErrBusy = errors.New("device is busy")
	// ErrAttached means that the branch is attached, but in another way.
	ErrAttached = errors.New("branch is attached already")
	// ErrNotAttached means that the branch is not attached.
	ErrNotAttached = errors.New("branch is not attached")
	// ErrInUse means that another live process owns what was to be cleaned up.
	ErrInUse = errors.New("state directory is in use")
)

// Options shape a Volumes.
type Options struct {
	// State is the directory for the attachment records, below run/. It also names
	// this set of volumes in the kernel: two processes must not share it at a time.
	// Required.
	State string

	// Mnt is the mount point of the FUSE file system with the branches' files.
	// Default: State/mnt.
	Mnt string

	// Logger takes what no caller can be told. Default: slog.Default().
	Logger *slog.Logger

	// Timeout bounds each call, besides its context. It should exceed the time that
	// the store may take to deliver what a mount reads. Default: 2 min.
	Timeout time.Duration
}

// Volumes attaches branches' files to the kernel as block devices and mounts them.
// All methods may be called concurrently; calls on the same branch take turns.
type Volumes struct {
	opts Options

	mu   sync.Mutex
	byID map[string]*volume
}

// volume is a branch that is attached, or that calls are working on.
type volume struct {
	turn     chan struct{} // holds one token; who has it may touch attached
	attached *Attachment
	users    int // calls that have or wait for the turn; guarded by Volumes.mu
}

// NewVolumes returns a Volumes with nothing attached. It starts nothing.
func NewVolumes(o Options) (*Volumes, error) {
	if o.State == "" {
		return nil, errors.New("blockdev: State is not set")
	}
	if o.Mnt == "" {
		o.Mnt = filepath.Join(o.State, "mnt")
	}
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	if o.Timeout <= 0 {
		o.Timeout = 2 * time.Minute
	}
	for _, dir := range []*string{&o.State, &o.Mnt} {
		abs, err := filepath.Abs(*dir)
		if err != nil {
			return nil, fmt.Errorf("find %s: %w", *dir, err)
		}
		*dir = abs
	}
	return &Volumes{opts: o, byID: make(map[string]*volume)}, nil
}

// AttachOptions say what to attach, and how.
type AttachOptions struct {
	// ID is the branch's id. Required.
	ID string

	// File is the branch's device file, an absolute path in the FUSE file system.
	// Required.
	File string

	// Dir is the absolute path where the device's ext4 file system is to be mounted;
	// it is made if it is missing. Default: none, and only a block device results.
	Dir string

	// WriteThrough says that the device promises durability without flushes: what
	// its WriteThrougher reports. Default: false, which is always safe.
	WriteThrough bool

	// Format makes a new ext4 file system on the device first, which must read as
	// zeros all over: DANGER, it destroys what is there. Default: false.
	Format bool

	// ReadOnly mounts the file system so that programs cannot write to it; its journal
	// is replayed into the device all the same. Default: false. Without Dir it changes
	// nothing.
	ReadOnly bool
}

// Attach binds a branch's file to a block device and, with Dir set, mounts it.
// While the branch is attached the same way it returns what there is; attached
// another way, it returns an error that wraps ErrAttached.
//
// When it fails, nothing stays behind. Errors carry what the kernel or the tool
// said, on one line.
func (v *Volumes) Attach(ctx context.Context, o AttachOptions) (Attachment, error) {
	if err := o.validate(); err != nil {
		return Attachment{}, fmt.Errorf("attach branch %q: %w", o.ID, err)
	}
	vol, done, err := v.take(ctx, o.ID)
	if err != nil {
		return Attachment{}, fmt.Errorf("attach branch %s: %w", o.ID, err)
	}
	a, err := v.attach(ctx, vol, o)
	v.yield(err, done, func() { v.purgeLate(o.ID) })
	if err != nil {
		return Attachment{}, fmt.Errorf("attach branch %s: %w", o.ID, err)
	}
	return a, nil
}

// attach is Attach for who has the turn.
func (v *Volumes) attach(ctx context.Context, vol *volume, o AttachOptions) (Attachment, error) {
	if a := vol.attached; a != nil {
		if a.File != o.File || a.Dir != o.Dir || a.ReadOnly != o.ReadOnly || o.Format {
			return Attachment{}, fmt.Errorf("%w: %s as %s at %q", ErrAttached, a.File, a.Device, a.Dir)
		}
		return *a, nil
	}
	resp, err := v.run(ctx, request{
		Op:         "attach",
		Attachment: Attachment{ID: o.ID, File: o.File, Dir: o.Dir, WriteThrough: o.WriteThrough, ReadOnly: o.ReadOnly},
		Format:     o.Format,
	})
	var hung *hungError
	switch {
	case err == nil:
		for _, note := range resp.Notes {
			v.opts.Logger.Warn("attach branch", "branch", o.ID, "note", note)
		}
		vol.attached = &resp.Attachment
		return resp.Attachment, nil
	case resp.Error != nil, errors.As(err, &hung):
		// The helper has cleaned up after itself, or nothing can be done yet.
		return Attachment{}, err
	}
	return Attachment{}, errors.Join(err, v.purge(context.WithoutCancel(ctx), o.ID))
}

// yield gives back the turn on a branch, at once, or, when err says that a helper
// hangs, after that is gone and afterwards has run: until then nobody can know what
// is attached.
func (v *Volumes) yield(err error, done, afterwards func()) {
	var hung *hungError
	if !errors.As(err, &hung) {
		done()
		return
	}
	go func() { // ends with the helper, which ends when the device answers or fails
		<-hung.ended
		afterwards()
		done()
	}()
}

// purge takes away what a killed helper left of a branch.
func (v *Volumes) purge(ctx context.Context, id string) error {
	ctx, cancel := context.WithTimeout(ctx, v.opts.Timeout)
	defer cancel()
	resp, err := v.run(ctx, request{Op: "cleanup", Attachment: Attachment{ID: id}})
	if err == nil && len(resp.Report.Busy) > 0 {
		err = fmt.Errorf("%w: %v", ErrBusy, resp.Report.Busy)
	}
	return err
}

func (v *Volumes) purgeLate(id string) {
	if err := v.purge(context.Background(), id); err != nil {
		v.opts.Logger.Error("clean up after a failed attach", "branch", id, "err", err)
	}
}

// Detach unmounts a branch and unbinds its device. It waits until programs have
// left the mount, for as long as ctx and Options.Timeout allow, and until the
// kernel has let the device go; all that was written is flushed to the device
// then. The kernel releases the branch's FUSE file shortly after.
//
// While programs stay, it returns an error that wraps ErrBusy and names some; the
// branch stays attached, and Detach may be called again. It returns an error that
// wraps ErrNotAttached if the branch is not attached.
func (v *Volumes) Detach(ctx context.Context, id string) error {
	vol, done, err := v.take(ctx, id)
	if err != nil {
		return fmt.Errorf("detach branch %s: %w", id, err)
	}
	if vol.attached == nil {
		done()
		return fmt.Errorf("detach branch %s: %w", id, ErrNotAttached)
	}
	_, err = v.run(ctx, request{Op: "detach", Attachment: *vol.attached})
	if err == nil {
		vol.attached = nil
	}
	v.yield(err, done, func() {})
	if err != nil {
		return fmt.Errorf("detach branch %s: %w", id, err)
	}
	return nil
}

// Grow tells the kernel that the branch's file has grown, and grows the mounted
// file system to fill it, while it is in use.
func (v *Volumes) Grow(ctx context.Context, id string) error {
	return v.onAttached(ctx, "grow", id)
}

// Trim makes the mounted file system discard all its free space.
func (v *Volumes) Trim(ctx context.Context, id string) error {
	return v.onAttached(ctx, "trim", id)
}

// SetWriteThrough tells the kernel whether the device of an attached branch promises
// durability without flushes, while it is in use: see AttachOptions.WriteThrough. The
// device has to keep that promise from before it is made until after it is taken back.
// The kernel waits until what is under way has ended.
func (v *Volumes) SetWriteThrough(ctx context.Context, id string, through bool) error {
	const what = "set write cache of branch"
	vol, done, err := v.take(ctx, id)
	if err != nil {
		return fmt.Errorf("%s %s: %w", what, id, err)
	}
	if vol.attached == nil {
		done()
		return fmt.Errorf("%s %s: %w", what, id, ErrNotAttached)
	}
	a := *vol.attached
	a.WriteThrough = through
	resp, err := v.run(ctx, request{Op: "cache", Attachment: a})
	if err == nil {
		vol.attached = &resp.Attachment
	}
	v.yield(err, done, func() {})
	if err != nil {
		return fmt.Errorf("%s %s: %w", what, id, err)
	}
	return nil
}

func (v *Volumes) onAttached(ctx context.Context, op, id string) error {
	vol, done, err := v.take(ctx, id)
	if err != nil {
		return fmt.Errorf("%s branch %s: %w", op, id, err)
	}
	if vol.attached == nil {
		done()
		return fmt.Errorf("%s branch %s: %w", op, id, ErrNotAttached)
	}
	_, err = v.run(ctx, request{Op: op, Attachment: *vol.attached})
	v.yield(err, done, func() {})
	if err != nil {
		return fmt.Errorf("%s branch %s: %w", op, id, err)
	}
	return nil
}

// Get returns how a branch is attached, and whether it is. It waits for calls that
// are working on the branch.
func (v *Volumes) Get(ctx context.Context, id string) (Attachment, bool, error) {
	vol, done, err := v.take(ctx, id)
	if err != nil {
		return Attachment{}, false, err
	}
	defer done()
	if vol.attached == nil {
		return Attachment{}, false, nil
	}
	return *vol.attached, true, nil
}

// Cleanup takes away what a killed process with the same state directory left in
// the kernel: mounts of its branches, wherever they are, their block devices with
// their write-cache setting, and the dead FUSE mount. It never touches what is not
// of this state directory, and returns an error that wraps ErrInUse, having done
// nothing, when a live process serves the FUSE mount.
//
// It must be called before the FUSE file system is mounted. Servers that the
// killed process started should be ended first, or their devices are reported
// busy, which is not an error.
func (v *Volumes) Cleanup(ctx context.Context) (CleanupReport, error) {
	resp, err := v.run(ctx, request{Op: "cleanup"})
	if err != nil {
		return resp.Report, fmt.Errorf("clean up after an earlier process: %w", err)
	}
	return resp.Report, nil
}

func (v *Volumes) run(ctx context.Context, r request) (response, error) {
	r.State, r.Mnt = v.opts.State, v.opts.Mnt
	return runHelper(ctx, v.opts.Timeout, r)
}

// take waits for the turn on a branch. done gives it back.
func (v *Volumes) take(ctx context.Context, id string) (vol *volume, done func(), err error) {
	v.mu.Lock()
	vol, ok := v.byID[id]
	if !ok {
		vol = &volume{turn: make(chan struct{}, 1)}
		vol.turn <- struct{}{}
		v.byID[id] = vol
	}
	vol.users++
	v.mu.Unlock()

	leave := func() {
		v.mu.Lock()
		defer v.mu.Unlock()
		vol.users--
		if vol.users == 0 && vol.attached == nil {
			delete(v.byID, id)
		}
	}
	select {
	case <-vol.turn:
		return vol, func() { vol.turn <- struct{}{}; leave() }, nil
	case <-ctx.Done():
		leave()
		return nil, nil, ctx.Err()
	}
}

func (o AttachOptions) validate() error {
	var errs []error
	if o.ID == "" || o.ID == "." || o.ID == ".." || strings.ContainsAny(o.ID, "/\x00") {
		errs = append(errs, errors.New("the id is not a file name"))
	}
	if !filepath.IsAbs(o.File) {
		errs = append(errs, fmt.Errorf("file %q is not an absolute path", o.File))
	}
	if o.Dir != "" && (!filepath.IsAbs(o.Dir) || slices.Contains([]string{"/", o.File}, filepath.Clean(o.Dir))) {
		errs = append(errs, fmt.Errorf("directory %q is not an absolute path", o.Dir))
	}
	return errors.Join(errs...)
}
