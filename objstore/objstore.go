package objstore

import (
	"context"
	"errors"
)

// Errors that every Store returns wrapped with the operation and the key.
var (
	// ErrNotExist: the object is not there. Only this error may be read as
	// "no such object"; any other error means that nothing is known.
	ErrNotExist = errors.New("object does not exist")
	// ErrExists: a put with IfAbsent found an object under the key.
	ErrExists = errors.New("object exists already")
	// ErrMismatch: a put with IfMatch found another version, or no object.
	ErrMismatch = errors.New("object was changed by someone else")
	// ErrInvalidKey: the key breaks the grammar described in the package doc.
	ErrInvalidKey = errors.New("invalid object key")
	// ErrFull: the store has no room left; nothing was changed.
	ErrFull = errors.New("object store is full")
)

// ListMax is the number of objects that [Store.List] returns at most when it is
// given no maximum.
const ListMax = 1000

// Info describes one object.
type Info struct {
	Key  string
	Size int64  // bytes
	Tag  string // version tag (ETag): changes with the contents, may repeat when contents repeat
}

// Condition makes a Put conditional. The zero value is an unconditional put.
// Setting both fields contradicts itself: such a put is refused with an error
// that is none of the sentinels.
type Condition struct {
	// IfAbsent lets the put succeed only when no object has the key.
	IfAbsent bool
	// IfMatch, if not empty, lets the put succeed only when the object's
	// current Tag equals it.
	IfMatch string
}

// Check returns an error when the condition contradicts itself.
func (c Condition) Check() error {
	if c.IfAbsent && c.IfMatch != "" {
		return errors.New("condition wants the object both absent and present")
	}
	return nil
}

// Store is the contract that bough needs of an object store. Objects are
// immutable values under string keys: a reader sees an object whole or not at
// all, and whoever starts a read after a put or delete returned sees its effect.
//
// All methods may be called concurrently, by any number of processes and hosts.
// Buffers belong to the caller and are not retained.
type Store interface {
	// Get returns the whole object.
	Get(ctx context.Context, key string) ([]byte, Info, error)

	// ReadAt fills p from byte off of the object; a negative off counts from
	// the object's end (-len(p) is a tail read). It returns the number of
	// bytes read and the object's Info; n < len(p) only where the object ends.
	// An off beyond either end is clamped to it.
	ReadAt(ctx context.Context, key string, p []byte, off int64) (n int, info Info, err error)

	// Put stores data under key, durably, and returns the new version tag. With
	// a condition that does not hold it returns ErrExists or ErrMismatch and
	// changes nothing. After any other error the put may or may not have
	// happened: read the object back, do not repeat a conditional put blindly.
	Put(ctx context.Context, key string, data []byte, cond Condition) (tag string, err error)

	// List returns up to max objects (max <= 0: 1000) whose keys begin with prefix and sort
	// after the key after, in key order. Fewer than max means that there are no more.
	List(ctx context.Context, prefix, after string, max int) ([]Info, error)

	// Delete removes the object. Deleting what is not there succeeds.
	Delete(ctx context.Context, key string) error
}

// Window turns the arguments of [Store.ReadAt] into the first byte and the
// number of bytes to read of an object of size bytes: negative offsets count
// from the end, and what lies outside of the object is cut off.
func Window(size int64, length int, off int64) (start int64, n int) {
	if off < 0 {
		off = max(off+size, 0)
	}
	off = min(off, size)
	return off, int(min(int64(length), size-off))
}
