package branchfs_test

import (
	"context"
	"sync/atomic"
	"testing"
	"time"

	"github.com/bough-db/bough/blockdev/memdev"
	"github.com/bough-db/bough/branchfs/branchfstest"
)

// TestParallelRequests shows that calls on one file run together: each call waits
// until want of them have begun.
func TestParallelRequests(t *testing.T) {
	const want = 32
	for kind, letter := range map[memdev.Kind]string{memdev.Read: "r", memdev.Write: "w"} {
		t.Run(kind.String(), func(t *testing.T) {
			s, _, dev := one(t)
			var begun atomic.Int32
			all := make(chan struct{})
			patience := time.AfterFunc(15*time.Second, func() { close(all) })
			dev.SetHook(func(_ context.Context, c memdev.Call) error {
				if c.Kind != kind {
					return nil
				}
				if begun.Add(1) == want && patience.Stop() {
					close(all)
				}
				<-all
				return nil
			})
			branchfstest.Parallel(t, s.DiskPath("p", "main"), letter, want)
			if peak := dev.Stats().InFlight[kind]; peak != want {
				t.Fatalf("%d calls were in flight, want %d", peak, want)
			}
		})
	}
}
