package blockdev

import (
	"errors"
	"fmt"
)

// ErrOutOfRange is wrapped by the error of every call whose range does not lie
// inside the device. Nothing was read or changed.
var ErrOutOfRange = errors.New("range is outside the device")

// CheckRange returns nil when [off, off+n) lies inside a device of the given
// size, else an error that wraps ErrOutOfRange. It is written so that no sum
// can overflow: off and n come from a kernel or a network. An empty range is
// inside when its offset is not beyond the end.
func CheckRange(size, off, n int64) error {
	if off < 0 || n < 0 || off > size || n > size-off {
		return fmt.Errorf("%d bytes at offset %d of %d: %w", n, off, size, ErrOutOfRange)
	}
	return nil
}
