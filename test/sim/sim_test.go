package sim

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"slices"
	"testing"
	"testing/synctest"
	"time"
)

var (
	seedFlag  = flag.Uint64("seed", 0, "the seed to run; 0 runs those that every change has to pass")
	seedsFlag = flag.Int("seeds", 0, "how many seeds to run, one after the other. Default: 1 with -seed")
	stepsFlag = flag.Int("steps", 400, "steps of a run")
	keepFlag  = flag.Bool("keep", false, "go on after a failure, and say only what is wrong")
	traceFlag = flag.Bool("show", false, "print the whole trace of a run")
)

// Seeds of TestSim: always the same, so that a change is judged by what it does.
const (
	firstSeed = 1
	seeds     = 1000
	seedsLess = 100 // with -short
)

func TestMain(m *testing.M) {
	flag.Parse()
	// One goroutine at a time, and none interrupted by a collection.
	runtime.GOMAXPROCS(1)
	debug.SetGCPercent(-1)
	debug.SetMemoryLimit(2 << 30)
	os.Exit(m.Run())
}

// result is what came of a run.
type result struct {
	seed    uint64
	hash    uint64
	failure error
	tail    []string
	step    int
}

// simulate makes one run. all, if not nil, gets every line of the trace.
func simulate(t *testing.T, seed uint64, steps int, all func(string)) (r result) {
	synctest.Test(t, func(*testing.T) {
		w := newWorld(seed)
		w.log.all = all
		w.run(steps)
		r = result{seed: seed, hash: w.log.hash.Sum64(), failure: w.failure, tail: w.log.tail(), step: w.steps}
	})
	collect()
	return r
}

// heapMax is how many bytes may be on the heap before it is collected, between two
// runs.
const heapMax = 64 << 20

func collect() {
	m := []metrics.Sample{{Name: "/memory/classes/heap/objects:bytes"}}
	if metrics.Read(m); m[0].Value.Uint64() > heapMax {
		runtime.GC()
	}
}

// report fails the test for a run.
func report(t *testing.T, r result, steps int) {
	t.Helper()
	if *keepFlag {
		t.Errorf("seed %d, step %d: %v", r.seed, r.step, r.failure)
		return
	}
	for _, line := range r.tail {
		t.Log(line)
	}
	t.Errorf("seed %d, step %d: %v\nrepeat with: go test ./test/sim -run TestSim -seed %d -steps %d -v",
		r.seed, r.step, r.failure, r.seed, steps)
}

// TestSim is the simulation. I1 to I7.
func TestSim(t *testing.T) {
	first, n := uint64(firstSeed), seeds
	switch {
	case *seedFlag > 0:
		first, n = *seedFlag, max(1, *seedsFlag)
	case *seedsFlag > 0:
		n = *seedsFlag
	case testing.Short():
		n = seedsLess
	}
	var all func(string)
	if *traceFlag {
		all = func(line string) { fmt.Println(line) }
	}
	bad := 0
	for i := range n {
		r := simulate(t, first+uint64(i), *stepsFlag, all)
		if r.failure == nil {
			continue
		}
		report(t, r, *stepsFlag)
		if bad++; !*keepFlag {
			return
		}
	}
	t.Logf("seeds %d to %d of %d steps: %d failed", first, first+uint64(n)-1, *stepsFlag, bad)
}

// TestSame makes each run twice: the same seed gives the same trace, line by line. On
// a machine so busy that the runtime took the processor away in the middle of a step
// they may differ: a third run then decides which it was.
func TestSame(t *testing.T) {
	if raceDetector {
		t.Skip("the race detector draws the order of goroutines by lot")
	}
	for i := range uint64(20) {
		seed := 1_000_000 + i
		var lines []string
		record := func(line string) { lines = append(lines, line) }
		simulate(t, seed, *stepsFlag, record)
		first := lines
		for try := 0; ; try++ {
			lines = nil
			simulate(t, seed, *stepsFlag, record)
			if slices.Equal(first, lines) {
				break
			}
			if at := difference(first, lines); try == sameTries {
				t.Fatalf("seed %d: %d runs differ from each other; the last two from here on:\n%s\n%s", seed, try+2, at[0], at[1])
			}
			first = lines
		}
	}
}

// sameTries is how many pairs of runs may differ.
const sameTries = 8

// difference returns the first lines of two traces that differ.
func difference(a, b []string) (at [2]string) {
	for i := range min(len(a), len(b)) {
		if a[i] != b[i] {
			return [2]string{a[i], b[i]}
		}
	}
	return [2]string{fmt.Sprint(len(a), " lines"), fmt.Sprint(len(b), " lines")}
}

// TestSoakSim makes runs with new seeds for as long as BOUGH_SOAK says.
func TestSoakSim(t *testing.T) {
	text := os.Getenv("BOUGH_SOAK")
	if text == "" {
		t.Skip("runs with BOUGH_SOAK=30m")
	}
	limit, err := time.ParseDuration(text)
	if err != nil {
		t.Fatal(err)
	}
	runs := 0
	for end := time.Now().Add(limit); time.Now().Before(end); runs++ {
		steps := 100 + rand.IntN(900)
		if r := simulate(t, rand.Uint64(), steps, nil); r.failure != nil {
			report(t, r, steps)
			return
		}
	}
	t.Logf("%d runs", runs)
}
