package memdev

import (
	"context"
	"sync"
	"sync/atomic"

	"github.com/bough-db/bough/blockdev"
)

const shardCount = 64

// Options shape a Device. The zero value is a device with a volatile cache.
type Options struct {
	// WriteThrough makes the device promise that writes are durable when they
	// return. Default: false.
	WriteThrough bool

	// TrackDurable keeps the contents as of the last flush as well, for
	// PowerCut. Default: false.
	TrackDurable bool
}

// Device is a thin block device in memory. It implements blockdev.Device,
// Trimmer, Zeroer and WriteThrougher.
type Device struct {
	opts   Options
	size   atomic.Int64
	hook   atomic.Pointer[Hook]
	shards [shardCount]shard
	count  counters

	flushMu sync.Mutex
	durable map[int64][]byte // guarded by flushMu; nil unless TrackDurable
}

type shard struct {
	mu     sync.RWMutex
	blocks map[int64][]byte
	dirty  map[int64]struct{} // changed since the last flush; nil unless TrackDurable
}

var (
	_ blockdev.Device         = (*Device)(nil)
	_ blockdev.Trimmer        = (*Device)(nil)
	_ blockdev.Zeroer         = (*Device)(nil)
	_ blockdev.WriteThrougher = (*Device)(nil)
)

// New returns an empty device of size bytes.
func New(size int64, o Options) *Device {
	d := &Device{opts: o}
	d.size.Store(size)
	for i := range d.shards {
		d.shards[i].blocks = make(map[int64][]byte)
		if o.TrackDurable {
			d.shards[i].dirty = make(map[int64]struct{})
		}
	}
	if o.TrackDurable {
		d.durable = make(map[int64][]byte)
	}
	return d
}

// Size implements blockdev.Device.
func (d *Device) Size() int64 { return d.size.Load() }

// Grow raises the size to size bytes; a smaller size is ignored.
func (d *Device) Grow(size int64) {
	for {
		old := d.size.Load()
		if size <= old || d.size.CompareAndSwap(old, size) {
			return
		}
	}
}

// WriteThrough implements blockdev.WriteThrougher.
func (d *Device) WriteThrough() bool { return d.opts.WriteThrough }

// ReadAt implements blockdev.Device.
func (d *Device) ReadAt(ctx context.Context, p []byte, off int64) error {
	defer d.count.enter(Read, int64(len(p)))()
	if err := d.admit(ctx, Call{Read, off, int64(len(p))}); err != nil {
		return err
	}
	for len(p) > 0 {
		no, from := off/blockdev.BlockSize, off%blockdev.BlockSize
		n := min(len(p), blockdev.BlockSize-int(from))
		s := d.shard(no)
		s.mu.RLock()
		if b := s.blocks[no]; b != nil {
			copy(p[:n], b[from:])
		} else {
			clear(p[:n])
		}
		s.mu.RUnlock()
		p, off = p[n:], off+int64(n)
	}
	return nil
}

// WriteAt implements blockdev.Device.
func (d *Device) WriteAt(ctx context.Context, p []byte, off int64) error {
	defer d.count.enter(Write, int64(len(p)))()
	if err := d.admit(ctx, Call{Write, off, int64(len(p))}); err != nil {
		return err
	}
	for len(p) > 0 {
		no, from := off/blockdev.BlockSize, off%blockdev.BlockSize
		n := min(len(p), blockdev.BlockSize-int(from))
		s := d.shard(no)
		s.mu.Lock()
		b := s.blocks[no]
		if b == nil {
			b = make([]byte, blockdev.BlockSize)
			s.blocks[no] = b
		}
		copy(b[from:], p[:n])
		s.touch(no)
		s.mu.Unlock()
		p, off = p[n:], off+int64(n)
	}
	return nil
}

// Flush implements blockdev.Device.
func (d *Device) Flush(ctx context.Context) error {
	defer d.count.enter(Flush, 0)()
	if err := d.admit(ctx, Call{Kind: Flush}); err != nil {
		return err
	}
	if !d.opts.TrackDurable {
		return nil
	}
	d.flushMu.Lock()
	defer d.flushMu.Unlock()
	for i := range d.shards {
		s := &d.shards[i]
		s.mu.Lock()
		for no := range s.dirty {
			if b := s.blocks[no]; b != nil {
				d.durable[no] = append([]byte(nil), b...)
			} else {
				delete(d.durable, no)
			}
		}
		clear(s.dirty)
		s.mu.Unlock()
	}
	return nil
}

// Trim implements blockdev.Trimmer.
func (d *Device) Trim(ctx context.Context, off, n int64) error {
	defer d.count.enter(Trim, n)()
	if err := d.admit(ctx, Call{Trim, off, n}); err != nil {
		return err
	}
	d.zero(off, n)
	return nil
}

// WriteZeroes implements blockdev.Zeroer.
func (d *Device) WriteZeroes(ctx context.Context, off, n int64) error {
	defer d.count.enter(Zero, n)()
	if err := d.admit(ctx, Call{Zero, off, n}); err != nil {
		return err
	}
	d.zero(off, n)
	return nil
}

// PowerCut returns a new device that holds what was durable: the contents as
// of the last flush. The device must have been made with TrackDurable.
func (d *Device) PowerCut() *Device {
	d.flushMu.Lock()
	defer d.flushMu.Unlock()
	c := New(d.Size(), d.opts)
	for no, b := range d.durable {
		c.shard(no).blocks[no] = append([]byte(nil), b...)
		c.durable[no] = append([]byte(nil), b...)
	}
	return c
}

// zero drops whole blocks of [off, off+n) and clears the parts at its ends. It
// walks what is stored, not the range, which may be terabytes of nothing.
func (d *Device) zero(off, n int64) {
	end := off + n
	for i := range d.shards {
		s := &d.shards[i]
		s.mu.Lock()
		for no, b := range s.blocks {
			start := no * blockdev.BlockSize
			from, to := max(off, start), min(end, start+blockdev.BlockSize)
			switch {
			case from >= to:
				continue
			case to-from == blockdev.BlockSize:
				delete(s.blocks, no)
			default:
				clear(b[from-start : to-start])
			}
			s.touch(no)
		}
		s.mu.Unlock()
	}
}

func (d *Device) shard(no int64) *shard { return &d.shards[uint64(no)%shardCount] }

// touch notes that block no changed; the caller holds s.mu.
func (s *shard) touch(no int64) {
	if s.dirty != nil {
		s.dirty[no] = struct{}{}
	}
}

// admit runs the hook and checks the range.
func (d *Device) admit(ctx context.Context, c Call) error {
	if h := d.hook.Load(); h != nil {
		if err := (*h)(ctx, c); err != nil {
			return err
		}
	}
	return blockdev.CheckRange(d.Size(), c.Off, c.Len)
}
