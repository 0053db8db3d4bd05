package blockdev_test

import (
	"errors"
	"math"
	"testing"

	"github.com/bough-db/bough/blockdev"
)

func TestCheckRange(t *testing.T) {
	const size = 1 << 20
	for _, tc := range []struct {
		name   string
		off, n int64
		inside bool
	}{
		{"whole", 0, size, true},
		{"empty at start", 0, 0, true},
		{"empty at end", size, 0, true},
		{"empty beyond end", size + 1, 0, false},
		{"last byte", size - 1, 1, true},
		{"one byte too long", 1, size, false},
		{"starts at end", size, 1, false},
		{"negative offset", -1, 1, false},
		{"negative length", 0, -1, false},
		{"sum overflows", math.MaxInt64, math.MaxInt64, false},
		{"length overflows", 1, math.MaxInt64, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			err := blockdev.CheckRange(size, tc.off, tc.n)
			if tc.inside && err != nil {
				t.Fatalf("CheckRange(%d, %d, %d) = %v, want nil", size, tc.off, tc.n, err)
			}
			if !tc.inside && !errors.Is(err, blockdev.ErrOutOfRange) {
				t.Fatalf("CheckRange(%d, %d, %d) = %v, want ErrOutOfRange", size, tc.off, tc.n, err)
			}
		})
	}
}
