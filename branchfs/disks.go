package branchfs

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"syscall"

	"github.com/hanwen/go-fuse/v2/fuse"

	"github.com/bough-db/bough/blockdev"
)

// disk is a device that is open, opening or closing, shared by all open files of
// one branch.
type disk struct {
	id   string
	path string
	log  *slog.Logger

	readOnly bool

	ready chan struct{} // closed when dev or err is set
	gone  chan struct{} // closed when the device is closed or did not open

	dev  Disk
	trim blockdev.Trimmer // nil if the device cannot
	zero blockdev.Zeroer  // nil if the device cannot
	err  error

	refs     int   // guarded by diskTable.mu
	closeErr error // set before gone is closed

	lastLogged atomic.Pointer[string]
}

// diskTable opens each branch's device once, however many files are open on it,
// and closes it after the last release.
type diskTable struct {
	log *slog.Logger

	mu   sync.Mutex
	byID map[string]*disk
}

// open returns the branch's disk with one more reference. It waits for another
// open or close of the same branch that is under way. ctx bounds the wait, life
// the opening itself: an interrupted opener must not fail those that wait with it.
func (t *diskTable) open(ctx, life context.Context, b Branch, path string) (*disk, error) {
	info := b.Info()
	id := info.ID
	for {
		t.mu.Lock()
		d, ok := t.byID[id]
		switch {
		case !ok:
			d = &disk{
				id: id, path: path, log: t.log, readOnly: info.ReadOnly, refs: 1,
				ready: make(chan struct{}), gone: make(chan struct{}),
			}
			t.byID[id] = d
			t.mu.Unlock()
			go t.start(life, d, b)
		case d.refs == 0: // closing
			t.mu.Unlock()
			select {
			case <-d.gone:
			case <-ctx.Done():
				return nil, ctx.Err()
			}
			continue
		default:
			d.refs++
			t.mu.Unlock()
		}
		select {
		case <-d.ready:
		case <-ctx.Done():
			go t.release(life, d) // waits for the open; idle waits for it
			return nil, ctx.Err()
		}
		if d.err != nil {
			t.release(life, d)
			return nil, d.err
		}
		return d, nil
	}
}

// start opens the device and wakes those who wait for it.
func (t *diskTable) start(life context.Context, d *disk, b Branch) {
	d.dev, d.err = b.Open(life)
	if d.err == nil {
		d.trim, _ = d.dev.(blockdev.Trimmer)
		d.zero, _ = d.dev.(blockdev.Zeroer)
	}
	close(d.ready)
}

// release drops one reference and closes the device with the last. It returns
// when the device is closed.
func (t *diskTable) release(ctx context.Context, d *disk) {
	t.mu.Lock()
	d.refs--
	last := d.refs == 0
	t.mu.Unlock()
	if !last {
		return
	}
	<-d.ready
	if d.err == nil {
		if d.closeErr = d.dev.Close(ctx); d.closeErr != nil {
			t.log.Error("close branch", "path", d.path, "err", d.closeErr)
		}
	}
	t.mu.Lock()
	delete(t.byID, d.id)
	t.mu.Unlock()
	close(d.gone)
}

// size returns the size of the branch's device if it is open, else 0.
func (t *diskTable) size(id string) int64 {
	t.mu.Lock()
	d, ok := t.byID[id]
	t.mu.Unlock()
	if !ok {
		return 0
	}
	select {
	case <-d.ready:
	default:
		return 0
	}
	if d.err != nil {
		return 0
	}
	return d.dev.Size()
}

// wait returns when the branch's device is closed, with the error of its Close;
// at once, and nil, when it is not open.
func (t *diskTable) wait(ctx context.Context, id string) error {
	t.mu.Lock()
	d, ok := t.byID[id]
	t.mu.Unlock()
	if !ok {
		return nil
	}
	select {
	case <-d.gone:
		return d.closeErr
	case <-ctx.Done():
		return fmt.Errorf("wait for release of branch %s: %w", id, ctx.Err())
	}
}

// idle returns when no device is open.
func (t *diskTable) idle(ctx context.Context) error {
	for {
		t.mu.Lock()
		var id string
		for id = range t.byID {
			break
		}
		t.mu.Unlock()
		if id == "" {
			return nil
		}
		if err := t.wait(ctx, id); err != nil && ctx.Err() != nil {
			return err
		}
	}
}

// status answers a request on the device. beyondEnd is the errno for a range
// outside the device. A failed device repeats its error with every request, so
// the same text is logged once in a row.
func (d *disk) status(op string, off, n int64, beyondEnd syscall.Errno, err error) fuse.Status {
	if err == nil {
		return fuse.OK
	}
	errno, known := errnoOf(err, beyondEnd)
	if !known || errno == syscall.ENOSPC && !errors.Is(err, blockdev.ErrOutOfRange) {
		text := op + err.Error()
		level := slog.LevelError
		if last := d.lastLogged.Swap(&text); last != nil && *last == text {
			level = slog.LevelDebug
		}
		d.log.Log(context.Background(), level, "device request failed",
			"op", op, "path", d.path, "offset", off, "bytes", n, "errno", errno.Error(), "err", err)
	}
	return fuse.Status(errno)
}
