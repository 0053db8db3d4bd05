package e2e

import (
	"fmt"
	"os"
	"slices"
	"sync"
	"testing"
	"time"
)

// How long a region's own S3 takes, from a machine in it.
const (
	regionGet = 20 * time.Millisecond
	regionPut = 35 * time.Millisecond
)

// How many rounds the soaks of several hosts have, however short they are to be.
const (
	lostHostsLeast   = 100
	splitBrainsLeast = 20
)

// soakLimit returns how long BOUGH_SOAK wants a soak to be, and skips the test where
// it says nothing.
func soakLimit(t *testing.T) time.Duration {
	t.Helper()
	text := os.Getenv("BOUGH_SOAK")
	if text == "" {
		t.Skip("runs with BOUGH_SOAK=30m")
	}
	limit, err := time.ParseDuration(text)
	if err != nil {
		t.Fatal(err)
	}
	return limit
}

// TestSoakLostHost loses hosts with their disks, one after the other, while clients
// commit at durability remote to a store as far away as S3 is. Everything that was
// acknowledged is on the next host (I1, I2).
func TestSoakLostHost(t *testing.T) {
	limit := soakLimit(t)
	t.Parallel()
	f := newFailover(t, sharedStore(t), regionGet, regionPut)
	random := run.random(t)
	end := time.Now().Add(limit)
	for i := 0; i < lostHostsLeast || time.Now().Before(end); i++ {
		began := time.Now()
		clients := []int{1, 8, 50}[i%3]
		f.lose(clients, time.Duration(random.Int64N(int64(1500*time.Millisecond))))
		if i%10 == 9 {
			f.b.checkWhole(f.project)
		}
		t.Logf("host %d lost under %d clients: %v, %d commits acknowledged so far, %d more found",
			i, clients, time.Since(began).Round(time.Millisecond), f.ledger.total(), f.ledger.extra)
		if t.Failed() {
			t.Fatalf("damage (seed %d)", run.seed)
		}
		f.a.start() // a new host, with nothing
		f.swap()
	}
	f.checkStore()
}

// lose kills the host that has the branch while clients commit, and removes its disk.
func (f *failover) lose(clients int, after time.Duration) {
	f.t.Helper()
	load := f.load(clients)
	f.round(after, func() {
		if err := <-load; err == nil {
			f.t.Error("pgbench did not notice that its server is gone")
		}
		if err := tidy(f.a.dir); err != nil {
			f.t.Fatal(err)
		}
		if err := os.RemoveAll(f.a.state); err != nil {
			f.t.Fatal(err)
		}
	})
	f.b.checkBalances(f.project)
}

// checkStore reads everything that is stored. Each commit was a segment, so that it
// would take long from far away.
func (f *failover) checkStore() {
	f.t.Helper()
	f.wayA.Set(0, 0)
	if problems, r := f.a.verify(); len(problems) > 0 {
		f.t.Errorf("verify: %v", r)
	}
}

// swap makes a of b and b of a.
func (f *failover) swap() {
	f.a, f.b = f.b, f.a
	f.wayA, f.wayB = f.wayB, f.wayA
}

// load runs pgbench on the branch where it is, until its server goes; the channel
// has what became of it.
func (f *failover) load(clients int) <-chan error {
	load := make(chan error, 1)
	h := f.a
	go func() {
		_, err := h.pgbench(f.project, "-n", "-c", fmt.Sprint(clients), "-T", "600")
		load <- err
	}()
	return load
}

// TestSoakSplitBrain has two hosts that take themselves for the one that has the
// branch, in all the ways there are: the first one is stopped in the middle of its
// work, so is it with its uploads on their way for long, and both start the branch at
// once. Only one of them acknowledges anything (I4).
func TestSoakSplitBrain(t *testing.T) {
	limit := soakLimit(t)
	t.Parallel()
	f := newFailover(t, sharedStore(t), regionGet, regionPut)
	end := time.Now().Add(limit)
	for i := 0; i < splitBrainsLeast || time.Now().Before(end); i++ {
		began := time.Now()
		what := ""
		switch i % 3 {
		case 0:
			what = "stopped"
			f.splitBrain(0)
		case 1:
			what = "stopped, its uploads late"
			f.splitBrain(15 * time.Second)
		case 2:
			what = "both start at once"
			f.both()
		}
		if i%5 == 4 {
			f.b.checkWhole(f.project)
		}
		t.Logf("round %d, %s: %v, %d commits acknowledged so far, %d more found",
			i, what, time.Since(began).Round(time.Millisecond), f.ledger.total(), f.ledger.extra)
		if t.Failed() {
			t.Fatalf("damage (seed %d)", run.seed)
		}
		f.swap()
	}
	f.checkStore()
}

// both has the two hosts start the branch at the same moment. One has it then, which
// is f.b afterwards, and the other is told so.
func (f *failover) both() {
	f.t.Helper()
	f.a.bough("suspend", f.project)
	hosts := []*host{f.a, f.b}
	results := make([]result, len(hosts))
	var wg sync.WaitGroup
	for i, h := range hosts {
		wg.Go(func() { results[i] = h.call("start", f.project) })
	}
	wg.Wait()
	won := slices.IndexFunc(results, func(r result) bool { return r.code == 0 })
	if won < 0 {
		f.t.Fatalf("both failed: %v", results)
	}
	checkRefused(f.t, results[1-won], 1, []string{f.project + "/main", hosts[won].id()})
	f.ledger.check(hosts[won], f.project)
	hosts[1-won].refused(1, []string{hosts[won].id()}, "start", f.project)
	if won == 0 {
		f.swap()
	}
}
