package memdev

import (
	"context"
	"fmt"
	"sync/atomic"

	"github.com/bough-db/bough/blockdev"
)

// Kind says which method a call used.
type Kind int

// The kinds of call.
const (
	// Read is a ReadAt.
	Read Kind = iota
	// Write is a WriteAt.
	Write
	// Flush is a Flush.
	Flush
	// Trim is a Trim.
	Trim
	// Zero is a WriteZeroes.
	Zero
	kindCount
)

// String returns the kind in lower case.
func (k Kind) String() string {
	switch k {
	case Read:
		return "read"
	case Write:
		return "write"
	case Flush:
		return "flush"
	case Trim:
		return "trim"
	case Zero:
		return "zero"
	}
	return fmt.Sprintf("kind %d", int(k))
}

// Call describes one call, as a hook sees it.
type Call struct {
	// Kind is the method.
	Kind Kind
	// Off is the range's offset in bytes.
	Off int64
	// Len is the range's length in bytes; 0 for Flush.
	Len int64
}

// Hook runs before a call takes effect, in the caller's goroutine and counted as
// in flight. An error fails the call, which then changes nothing.
type Hook func(ctx context.Context, c Call) error

// SetHook makes h run before each call; nil takes the hook away. Calls already
// past the hook are not affected.
func (d *Device) SetHook(h Hook) {
	if h == nil {
		d.hook.Store(nil)
		return
	}
	d.hook.Store(&h)
}

// Stats are totals since the device was made.
type Stats struct {
	// Calls counts the calls of each kind, failed ones included.
	Calls map[Kind]int64
	// Bytes sums the lengths of the calls of each kind.
	Bytes map[Kind]int64
	// InFlight holds the highest number of calls of each kind that ran together.
	InFlight map[Kind]int64
	// Blocks counts the blocks that hold data now.
	Blocks int64
}

// Stats returns the totals so far.
func (d *Device) Stats() Stats {
	s := Stats{Calls: map[Kind]int64{}, Bytes: map[Kind]int64{}, InFlight: map[Kind]int64{}}
	for k := range kindCount {
		s.Calls[k] = d.count.calls[k].Load()
		s.Bytes[k] = d.count.bytes[k].Load()
		s.InFlight[k] = d.count.peak[k].Load()
	}
	for i := range d.shards {
		d.shards[i].mu.RLock()
		s.Blocks += int64(len(d.shards[i].blocks))
		d.shards[i].mu.RUnlock()
	}
	return s
}

// String formats the totals on one line.
func (s Stats) String() string {
	var out string
	for k := range kindCount {
		if s.Calls[k] > 0 {
			out += fmt.Sprintf("%v %d calls %d bytes %d in flight; ", k, s.Calls[k], s.Bytes[k], s.InFlight[k])
		}
	}
	return out + fmt.Sprintf("%d KiB held", s.Blocks*blockdev.BlockSize>>10)
}

type counters struct {
	calls, bytes, running, peak [kindCount]atomic.Int64
}

// enter counts a call and returns what to run when it ends.
func (c *counters) enter(k Kind, n int64) func() {
	c.calls[k].Add(1)
	c.bytes[k].Add(n)
	now := c.running[k].Add(1)
	for {
		p := c.peak[k].Load()
		if now <= p || c.peak[k].CompareAndSwap(p, now) {
			break
		}
	}
	return func() { c.running[k].Add(-1) }
}
