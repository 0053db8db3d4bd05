package s3store

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// errRange: a server announced another part of an object than it was asked for.
var errRange = errors.New("wrong range")

// span is a part of an object: the bytes from first to last, both included, out of
// size. An empty part has last < first.
type span struct{ first, last, size int64 }

// length returns the number of bytes.
func (s span) length() int64 { return s.last - s.first + 1 }

// parseContentRange parses the Content-Range header of a 206 response,
// "bytes FIRST-LAST/SIZE". What it returns holds at least one byte and lies
// within the object.
func parseContentRange(header string) (span, error) {
	bad := fmt.Errorf("%w: Content-Range %.60q", errRange, header)
	rest, ok := strings.CutPrefix(header, "bytes ")
	if !ok {
		return span{}, bad
	}
	bounds, size, ok := strings.Cut(rest, "/")
	if !ok {
		return span{}, bad
	}
	first, last, ok := strings.Cut(bounds, "-")
	if !ok {
		return span{}, bad
	}
	var s span
	for _, n := range []struct {
		text string
		to   *int64
	}{{first, &s.first}, {last, &s.last}, {size, &s.size}} {
		u, err := strconv.ParseUint(n.text, 10, 63)
		if err != nil {
			return span{}, bad
		}
		*n.to = int64(u)
	}
	if s.last < s.first || s.last >= s.size {
		return span{}, bad
	}
	return s, nil
}
