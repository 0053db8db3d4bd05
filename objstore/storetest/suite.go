package storetest

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/bough-db/bough/objstore"
)

// racers is how many callers compete in a race.
const racers = 8

// Run runs the suite; each test gets a new store from open, and must find it
// empty.
func Run(t *testing.T, open func(t *testing.T) objstore.Store) {
	for _, test := range []struct {
		name string
		run  func(*tester)
	}{
		{"GetMissing", getMissing},
		{"PutGet", putGet},
		{"PutReplaces", putReplaces},
		{"PutEmpty", putEmpty},
		{"PutLarge", putLarge},
		{"PutRetainsNothing", putRetainsNothing},
		{"KeysValid", keysValid},
		{"KeysInvalid", keysInvalid},
		{"ReadAt", readAt},
		{"ReadAtLarge", readAtLarge},
		{"ReadAtFollowsChanges", readAtFollowsChanges},
		{"IfAbsent", ifAbsent},
		{"IfAbsentAfterDelete", ifAbsentAfterDelete},
		{"IfMatch", ifMatch},
		{"IfMatchStale", ifMatchStale},
		{"IfMatchMissing", ifMatchMissing},
		{"ConditionContradiction", conditionContradiction},
		{"TagsAgree", tagsAgree},
		{"TagsChange", tagsChange},
		{"Delete", deletes},
		{"ListEmpty", listEmpty},
		{"ListOrder", listOrder},
		{"ListPrefix", listPrefix},
		{"ListPages", listPages},
		{"ListFollowsChanges", listFollowsChanges},
		{"Cancelled", cancelled},
		{"RaceIfAbsent", raceIfAbsent},
		{"RaceIfMatch", raceIfMatch},
		{"RaceReadersSeeWholeObjects", raceReaders},
		{"RaceCounter", raceCounter},
		{"Probe", probe},
		{"Model", model},
	} {
		t.Run(test.name, func(t *testing.T) {
			test.run(newTester(t, open(t)))
		})
	}
}

// RunShared runs the tests that need several handles on one store: each call of
// place returns a function that opens one new, empty place again and again.
func RunShared(t *testing.T, place func(t *testing.T) (open func() objstore.Store)) {
	for _, test := range []struct {
		name string
		run  func(*tester)
	}{
		{"ReadAtFollowsChanges", readAtFollowsChanges},
		{"RaceIfAbsent", raceIfAbsent},
		{"RaceIfMatch", raceIfMatch},
		{"RaceReadersSeeWholeObjects", raceReaders},
		{"RaceCounter", raceCounter},
		{"Model", model},
	} {
		t.Run(test.name, func(t *testing.T) {
			open := place(t)
			var stores []objstore.Store
			for range racers {
				stores = append(stores, open())
			}
			test.run(newTester(t, stores...))
		})
	}
}

// tester is one test: its stores are handles on the same objects.
type tester struct {
	*testing.T
	ctx    context.Context
	stores []objstore.Store
	s      objstore.Store // the first
}

func newTester(t *testing.T, stores ...objstore.Store) *tester {
	return &tester{T: t, ctx: t.Context(), stores: stores, s: stores[0]}
}

// store returns a handle for actor i.
func (t *tester) store(i int) objstore.Store { return t.stores[i%len(t.stores)] }

// put puts unconditionally and must succeed.
func (t *tester) put(key, body string) (tag string) {
	t.Helper()
	return t.putIf(key, body, objstore.Condition{})
}

func (t *tester) putIf(key, body string, cond objstore.Condition) (tag string) {
	t.Helper()
	tag, err := t.s.Put(t.ctx, key, []byte(body), cond)
	if err != nil {
		t.Fatalf("Put(%q, %.40q, %+v): %v", key, body, cond, err)
	}
	if tag == "" {
		t.Fatalf("Put(%q, %.40q, %+v): no tag", key, body, cond)
	}
	return tag
}

// putErr puts, and must be refused with want.
func (t *tester) putErr(key, body string, cond objstore.Condition, want error) {
	t.Helper()
	if _, err := t.s.Put(t.ctx, key, []byte(body), cond); !errors.Is(err, want) {
		t.Fatalf("Put(%q, %.40q, %+v): got error %v, want %v", key, body, cond, err, want)
	}
}

// get must find body under key.
func (t *tester) get(key, body string) objstore.Info {
	t.Helper()
	p, info, err := t.s.Get(t.ctx, key)
	if err != nil {
		t.Fatalf("Get(%q): %v", key, err)
	}
	if string(p) != body {
		t.Fatalf("Get(%q): got %.60q, want %.60q", key, p, body)
	}
	if info.Key != key || info.Size != int64(len(body)) || info.Tag == "" {
		t.Fatalf("Get(%q): got %+v, want key, size %d and a tag", key, info, len(body))
	}
	return info
}

// gone must find nothing under key, by any call.
func (t *tester) gone(key string) {
	t.Helper()
	if _, _, err := t.s.Get(t.ctx, key); !errors.Is(err, objstore.ErrNotExist) {
		t.Fatalf("Get(%q): got error %v, want %v", key, err, objstore.ErrNotExist)
	}
	if _, _, err := t.s.ReadAt(t.ctx, key, make([]byte, 1), 0); !errors.Is(err, objstore.ErrNotExist) {
		t.Fatalf("ReadAt(%q): got error %v, want %v", key, err, objstore.ErrNotExist)
	}
	infos, err := t.s.List(t.ctx, key, "", 0)
	if err != nil {
		t.Fatalf("List(%q): %v", key, err)
	}
	for _, info := range infos {
		if info.Key == key {
			t.Fatalf("List(%q): got %+v, want it gone", key, info)
		}
	}
}

func (t *tester) delete(key string) {
	t.Helper()
	if err := t.s.Delete(t.ctx, key); err != nil {
		t.Fatalf("Delete(%q): %v", key, err)
	}
}

// list must return exactly these keys.
func (t *tester) list(prefix, after string, limit int, want ...string) []objstore.Info {
	t.Helper()
	infos, err := t.s.List(t.ctx, prefix, after, limit)
	if err != nil {
		t.Fatalf("List(%q, %q, %d): %v", prefix, after, limit, err)
	}
	var got []string
	for _, info := range infos {
		got = append(got, info.Key)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Fatalf("List(%q, %q, %d): wrong keys (-want +got):\n%s", prefix, after, limit, diff)
	}
	return infos
}

// race runs f as racers actors at once and returns their errors.
func (t *tester) race(f func(i int, s objstore.Store) error) []error {
	var wg sync.WaitGroup
	start := make(chan struct{})
	errs := make([]error, racers)
	for i := range racers {
		wg.Go(func() {
			<-start
			errs[i] = f(i, t.store(i))
		})
	}
	close(start)
	wg.Wait()
	return errs
}

// winner returns the index of the only nil among errs; the others must wrap lost.
func (t *tester) winner(errs []error, lost error) int {
	t.Helper()
	won := -1
	for i, err := range errs {
		switch {
		case err == nil && won >= 0:
			t.Fatalf("racers %d and %d have both won", won, i)
		case err == nil:
			won = i
		case !errors.Is(err, lost):
			t.Fatalf("racer %d: got error %v, want %v", i, err, lost)
		}
	}
	if won < 0 {
		t.Fatal("nobody has won the race")
	}
	return won
}

// pattern returns n bytes that differ from place to place and from seed to seed.
func pattern(n int, seed uint32) []byte {
	p := make([]byte, n)
	x := seed*2654435761 + 1
	for i := range p {
		x ^= x << 13
		x ^= x >> 17
		x ^= x << 5
		p[i] = byte(x >> 8)
	}
	return p
}

func racerBody(i int) string { return fmt.Sprintf("racer %d was here", i) }
