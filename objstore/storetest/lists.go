package storetest

import (
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"github.com/bough-db/bough/objstore"
)

func listEmpty(t *tester) {
	t.list("", "", 0)
	t.list("branches/", "", 0)
	t.list("branches/x", "branches/a", 5)
}

// listKeys sort in ways in which directories and bytes disagree: '-' and '.'
// come before '/', digits and letters after it.
var listKeys = []string{
	"a", "a-b", "a.b", "a0", "ab",
	"b-/x", "b.c/x", "b/a", "b/a-b", "b/a.b", "b/c/1", "b/c/2", "b/c0", "b0/x",
	"c/d/e/f",
}

func (t *tester) putAll(keys []string) {
	t.Helper()
	for _, k := range keys {
		t.put(k, k)
	}
}

func listOrder(t *tester) {
	sorted := slices.Sorted(slices.Values(listKeys))
	t.putAll(listKeys)
	for _, info := range t.list("", "", 0, sorted...) {
		if info.Size != int64(len(info.Key)) {
			t.Errorf("List: got %+v, want size %d", info, len(info.Key))
		}
	}
}

// matching returns what List is to return.
func matching(keys []string, prefix, after string, limit int) []string {
	var want []string
	for _, k := range slices.Sorted(slices.Values(keys)) {
		if strings.HasPrefix(k, prefix) && k > after && (limit <= 0 || len(want) < limit) {
			want = append(want, k)
		}
	}
	return want
}

func listPrefix(t *tester) {
	t.putAll(listKeys)
	edges := []string{"", "0", "a", "a-", "a.b", "a/", "a0", "b", "b-", "b-/x", "b/", "b/a", "b/c", "b/c/", "b/c/1", "b/c/2", "b0", "c/d/e/", "c/d/e/f", "c/d/e/f/", "z"}
	for _, prefix := range edges {
		if objstore.CheckPrefix(prefix) != nil {
			continue
		}
		for _, after := range append(edges, "~", "b/~") {
			for _, limit := range []int{0, 1, 3} {
				t.list(prefix, after, limit, matching(listKeys, prefix, after, limit)...)
			}
		}
	}
}

func listPages(t *tester) {
	const n = 123
	var keys []string
	for i := range n {
		keys = append(keys, fmt.Sprintf("branches/br-%d/seg/%04d", i%3, i))
	}
	t.putAll(keys)
	slices.Sort(keys)
	for _, limit := range []int{1, 7, 41, n - 1, n, n + 1, 5000} {
		var got []string
		for after := ""; ; {
			infos, err := t.s.List(t.ctx, "branches/", after, limit)
			if err != nil {
				t.Fatal(err)
			}
			for _, info := range infos {
				got = append(got, info.Key)
			}
			if len(infos) < limit {
				break
			}
			after = got[len(got)-1]
		}
		if !slices.Equal(got, keys) {
			t.Errorf("pages of %d: got %d keys, want %d", limit, len(got), n)
		}
	}
}

func listFollowsChanges(t *tester) {
	for i := range 10 {
		k := fmt.Sprintf("l/%d/x", i)
		t.put(k, "x")
		t.list(k, "", 0, k)
		info := t.get(k, "x")
		t.put(k, "longer")
		if got := t.list("l/", "", 0, k)[0]; got.Size != 6 || got.Tag == info.Tag {
			t.Fatalf("List after Put: got %+v, want size 6 and another tag than %q", got, info.Tag)
		}
		t.delete(k)
		t.list("l/", "", 0)
	}
}

var seedFlag = flag.Uint64("storetest.seed", 0, "seed of the random test; 0 chooses one")

// model makes random calls and compares every answer with a map's.
func model(t *tester) {
	seed := *seedFlag
	if seed == 0 {
		seed = uint64(time.Now().UnixNano())
	}
	defer func() {
		if t.Failed() {
			t.Logf("repeat with -storetest.seed=%d", seed)
		}
	}()
	rng := rand.New(rand.NewPCG(seed, 0))
	want := make(map[string]string)
	tags := make(map[string]string)
	var stale string
	for op := range 400 {
		t.s = t.store(rng.IntN(racers))
		key := listKeys[rng.IntN(len(listKeys))]
		body := string(pattern(rng.IntN(300), rng.Uint32N(5)))
		old, there := want[key]
		switch rng.IntN(8) {
		case 0, 1:
			stale = tags[key]
			tags[key], want[key] = t.put(key, body), body
		case 2:
			cond := objstore.Condition{IfAbsent: true}
			if there {
				t.putErr(key, body, cond, objstore.ErrExists)
				break
			}
			tags[key], want[key] = t.putIf(key, body, cond), body
		case 3:
			cond := objstore.Condition{IfMatch: tags[key]}
			if rng.IntN(2) == 0 && stale != "" {
				cond.IfMatch = stale
			}
			if cond.IfMatch == "" {
				break
			}
			if !there || tags[key] != cond.IfMatch {
				t.putErr(key, body, cond, objstore.ErrMismatch)
				break
			}
			tags[key], want[key] = t.putIf(key, body, cond), body
		case 4:
			t.delete(key)
			delete(want, key)
			delete(tags, key)
		case 5:
			if there {
				t.get(key, old)
			} else {
				t.gone(key)
			}
		case 6:
			t.modelRange(rng, key, old, there)
		case 7:
			keys := make([]string, 0, len(want))
			for k := range want {
				keys = append(keys, k)
			}
			prefix, limit := key[:rng.IntN(len(key)+1)], rng.IntN(6)
			after := listKeys[rng.IntN(len(listKeys))]
			t.list(prefix, after, limit, matching(keys, prefix, after, limit)...)
		}
		if t.Failed() {
			t.Fatalf("operation %d", op)
		}
	}
}

func (t *tester) modelRange(rng *rand.Rand, key, body string, there bool) {
	t.Helper()
	p := make([]byte, rng.IntN(200))
	off := int64(rng.IntN(800) - 400)
	n, _, err := t.s.ReadAt(t.ctx, key, p, off)
	if !there {
		if !errors.Is(err, objstore.ErrNotExist) {
			t.Errorf("ReadAt(%q): got error %v, want %v", key, err, objstore.ErrNotExist)
		}
		return
	}
	start, length := objstore.Window(int64(len(body)), len(p), off)
	if want := body[start : start+int64(length)]; err != nil || string(p[:n]) != want {
		t.Errorf("ReadAt(%q, %d bytes, %d): got %x, %v, want %x", key, len(p), off, p[:n], err, want)
	}
}
