package cow

import (
	"math/rand/v2"
	"os"
	"testing"
	"time"
)

// TestSoakModels runs the random tests with new seeds for as long as BOUGH_SOAK
// says. A failure tells how to repeat it.
func TestSoakModels(t *testing.T) {
	text := os.Getenv("BOUGH_SOAK")
	if text == "" {
		t.Skip("runs with BOUGH_SOAK=30m")
	}
	limit, err := time.ParseDuration(text)
	if err != nil {
		t.Fatal(err)
	}
	all := []struct {
		name string
		f    func(*testing.T)
	}{
		{"TestModel", TestModel}, {"TestModelOnDisk", TestModelOnDisk}, {"TestModelConcurrent", TestModelConcurrent},
		{"TestCrashAtEveryOperation", TestCrashAtEveryOperation}, {"TestCrashAgainAndAgain", TestCrashAgainAndAgain},
		{"TestFailedSyncIsFinal", TestFailedSyncIsFinal}, {"TestStoreFaults", TestStoreFaults},
	}
	end := time.Now().Add(limit)
	for n := 0; time.Now().Before(end) && !t.Failed(); n++ {
		one := all[n%len(all)]
		if n >= len(all) {
			one = all[rand.IntN(len(all))]
		}
		t.Run(one.name, one.f)
	}
}
