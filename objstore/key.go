package objstore

import (
	"fmt"
	"strings"
)

// Limits of a key.
const (
	// KeyBytesMax is the greatest length of a key, in bytes.
	KeyBytesMax = 512
	// SegmentBytesMax is the greatest length of one segment of a key, in
	// bytes: the longest name that Linux file systems take.
	SegmentBytesMax = 255
)

// CheckKey returns nil when key follows the grammar of the package doc, and an
// error that wraps [ErrInvalidKey] and says why when it does not.
func CheckKey(key string) error {
	if key == "" {
		return fmt.Errorf("%w: it is empty", ErrInvalidKey)
	}
	if err := CheckPrefix(key); err != nil {
		return err
	}
	if key[len(key)-1] == '/' {
		return fmt.Errorf("%w %q: it ends with a slash", ErrInvalidKey, key)
	}
	return nil
}

// CheckPrefix returns nil when some key begins with prefix (or is prefix), and
// an error that wraps [ErrInvalidKey] when none can.
func CheckPrefix(prefix string) error {
	if len(prefix) > KeyBytesMax {
		return fmt.Errorf("%w %.40q…: %d bytes are more than %d", ErrInvalidKey, prefix, len(prefix), KeyBytesMax)
	}
	for i := 0; i < len(prefix); i++ {
		c := prefix[i]
		if c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c == '/' || c == '.' || c == '_' || c == '-' {
			continue
		}
		return fmt.Errorf("%w %q: byte %d is not one of a-z 0-9 . _ - /", ErrInvalidKey, prefix, i)
	}
	for rest := prefix; rest != ""; {
		segment, next, slash := strings.Cut(rest, "/")
		switch {
		case segment == "":
			return fmt.Errorf("%w %q: it has an empty segment", ErrInvalidKey, prefix)
		case segment[0] == '.':
			return fmt.Errorf("%w %q: a segment begins with a dot", ErrInvalidKey, prefix)
		case len(segment) > SegmentBytesMax:
			return fmt.Errorf("%w %q: a segment has more than %d bytes", ErrInvalidKey, prefix, SegmentBytesMax)
		}
		if !slash {
			break
		}
		rest = next
	}
	return nil
}
