package s3fault

import (
	"flag"
	"math/rand/v2"
	"net/http"
	"testing"
)

var seedFlag = flag.Uint64("s3fault.seed", 0, "seed of the transport's faults; 0 chooses one")

// ForTest returns a transport for a test, which prints the seed if it fails, and waits
// for late requests at its end.
func ForTest(tb testing.TB, inner http.RoundTripper) *Trip {
	tb.Helper()
	seed := *seedFlag
	if seed == 0 {
		seed = rand.Uint64()
	}
	t := New(inner, seed)
	tb.Cleanup(func() {
		t.Settle()
		if tb.Failed() {
			tb.Logf("repeat with -s3fault.seed=%d", seed)
		}
	})
	return t
}
