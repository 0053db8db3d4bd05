package blockdev

import "context"

// BlockSize is the unit of allocation, journaling and copy-on-write, in bytes.
// It equals the page size and the sector size that attached devices report.
const BlockSize = 4096

// Device is a random-access block device of a fixed size.
//
// All methods may be called concurrently. Offsets and lengths are in bytes and
// need not be multiples of BlockSize; a range outside [0, Size()) is an error
// that wraps ErrOutOfRange and changes nothing. Buffers belong to the caller
// and are not retained. A write, trim or flush that fails for a reason other
// than its arguments leaves the device failed: every later call that changes
// or flushes returns the same error.
type Device interface {
	// Size returns the device's size in bytes. It grows only.
	Size() int64

	// ReadAt fills p from offset off, or returns an error and leaves the
	// contents of p undefined. What was never written reads as zeros.
	ReadAt(ctx context.Context, p []byte, off int64) error

	// WriteAt writes p at offset off. When it returns nil, every later ReadAt
	// sees the write. It is durable only after a later Flush returned nil,
	// unless the device is a WriteThrougher that says otherwise.
	WriteAt(ctx context.Context, p []byte, off int64) error

	// Flush returns nil only when every write, trim and zeroing that completed
	// before Flush was called is durable: it is a barrier.
	Flush(ctx context.Context) error
}

// Trimmer is a Device that can discard ranges; they read as zeros afterwards.
type Trimmer interface {
	// Trim discards [off, off+n). Its cost does not depend on n.
	Trim(ctx context.Context, off, n int64) error
}

// Zeroer is a Device that can zero a range without being sent the zeros.
type Zeroer interface {
	// WriteZeroes makes [off, off+n) read as zeros. Its cost does not depend on n.
	WriteZeroes(ctx context.Context, off, n int64) error
}

// WriteThrougher is a Device that may have no volatile cache.
type WriteThrougher interface {
	// WriteThrough reports whether every WriteAt, Trim and WriteZeroes is
	// durable when it returns, so that Flush has nothing left to do.
	WriteThrough() bool
}
