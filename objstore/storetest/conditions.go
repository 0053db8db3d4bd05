package storetest

import (
	"errors"
	"fmt"
	"strconv"
	"sync"

	"github.com/bough-db/bough/objstore"
)

func ifAbsent(t *tester) {
	cond := objstore.Condition{IfAbsent: true}
	tag := t.putIf("names/p/main", "first", cond)
	t.putErr("names/p/main", "second", cond, objstore.ErrExists)
	t.putErr("names/p/main", "first", cond, objstore.ErrExists)
	if info := t.get("names/p/main", "first"); info.Tag != tag {
		t.Errorf("a refused put changed the tag from %q to %q", tag, info.Tag)
	}
}

func ifAbsentAfterDelete(t *tester) {
	cond := objstore.Condition{IfAbsent: true}
	t.putIf("k", "first", cond)
	t.delete("k")
	t.putIf("k", "second", cond)
	t.get("k", "second")
}

func ifMatch(t *tester) {
	tag := t.put("m", "generation 0")
	for i := range 20 {
		body := fmt.Sprintf("generation %d", i+1)
		tag = t.putIf("m", body, objstore.Condition{IfMatch: tag})
		if info := t.get("m", body); info.Tag != tag {
			t.Fatalf("Get: tag %q, Put returned %q", info.Tag, tag)
		}
	}
}

func ifMatchStale(t *tester) {
	old := t.put("m", "one")
	t.put("m", "two")
	t.putErr("m", "three", objstore.Condition{IfMatch: old}, objstore.ErrMismatch)
	t.putErr("m", "three", objstore.Condition{IfMatch: "made-up"}, objstore.ErrMismatch)
	info := t.get("m", "two")
	t.delete("m")
	t.put("m", "four")
	t.putErr("m", "five", objstore.Condition{IfMatch: info.Tag}, objstore.ErrMismatch)
	t.get("m", "four")
}

func ifMatchMissing(t *tester) {
	tag := t.put("m", "one")
	t.delete("m")
	t.putErr("m", "two", objstore.Condition{IfMatch: tag}, objstore.ErrMismatch)
	t.putErr("no/such/directory", "two", objstore.Condition{IfMatch: tag}, objstore.ErrMismatch)
	t.gone("m")
	t.gone("no/such/directory")
}

func conditionContradiction(t *tester) {
	tag := t.put("m", "one")
	_, err := t.s.Put(t.ctx, "m", []byte("two"), objstore.Condition{IfAbsent: true, IfMatch: tag})
	if err == nil || errors.Is(err, objstore.ErrExists) || errors.Is(err, objstore.ErrMismatch) {
		t.Errorf("Put with both conditions: got error %v, want one of its own", err)
	}
	t.get("m", "one")
}

func tagsAgree(t *tester) {
	for i, body := range []string{"", "x", string(pattern(100_000, 3))} {
		key := "t/" + strconv.Itoa(i)
		tag := t.put(key, body)
		want := objstore.Info{Key: key, Size: int64(len(body)), Tag: tag}
		if info := t.get(key, body); info != want {
			t.Errorf("Get: got %+v, want %+v", info, want)
		}
		if _, info, err := t.s.ReadAt(t.ctx, key, make([]byte, 10), 0); info != want || err != nil {
			t.Errorf("ReadAt: got %+v, %v, want %+v", info, err, want)
		}
		if infos := t.list(key, "", 0, key); infos[0] != want {
			t.Errorf("List: got %+v, want %+v", infos[0], want)
		}
	}
}

func tagsChange(t *tester) {
	seen := make(map[string]string)
	body := pattern(3000, 4)
	for i := range 200 {
		// One flipped bit at a time, and every few a different length.
		if i%5 == 4 {
			body = append(body, 0)
		} else {
			body[i*7%len(body)] ^= 1 << (i % 8)
		}
		tag := t.put("k", string(body))
		if old, ok := seen[tag]; ok && old != string(body) {
			t.Fatalf("change %d: tag %q was that of other contents", i, tag)
		}
		seen[tag] = string(body)
	}
}

func raceIfAbsent(t *tester) {
	for round := range 25 {
		// Each round in a new directory: its making races, too.
		key := fmt.Sprintf("race/%d/k", round)
		errs := t.race(func(i int, s objstore.Store) error {
			_, err := s.Put(t.ctx, key, []byte(racerBody(i)), objstore.Condition{IfAbsent: true})
			return err
		})
		t.get(key, racerBody(t.winner(errs, objstore.ErrExists)))
	}
}

func raceIfMatch(t *tester) {
	tag := t.put("m", "start")
	for range 25 {
		tags := make([]string, racers)
		errs := t.race(func(i int, s objstore.Store) error {
			var err error
			tags[i], err = s.Put(t.ctx, "m", []byte(racerBody(i)+tag), objstore.Condition{IfMatch: tag})
			return err
		})
		won := t.winner(errs, objstore.ErrMismatch)
		info := t.get("m", racerBody(won)+tag)
		if info.Tag != tags[won] {
			t.Fatalf("the winner was told tag %q, it is %q", tags[won], info.Tag)
		}
		tag = info.Tag
	}
}

// raceCounter counts to a number by compare-and-swap with all racers: a lost
// update shows in the sum.
func raceCounter(t *tester) {
	const each = 10
	t.put("counter", "0")
	errs := t.race(func(i int, s objstore.Store) error {
		for done := 0; done < each; {
			p, info, err := s.Get(t.ctx, "counter")
			if err != nil {
				return err
			}
			n, err := strconv.Atoi(string(p))
			if err != nil {
				return err
			}
			_, err = s.Put(t.ctx, "counter", []byte(strconv.Itoa(n+1)), objstore.Condition{IfMatch: info.Tag})
			switch {
			case err == nil:
				done++
			case !errors.Is(err, objstore.ErrMismatch):
				return err
			}
		}
		return nil
	})
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
	t.get("counter", strconv.Itoa(racers*each))
}

// raceReaders replaces and removes an object while others read it: each must
// see one version whole, or none.
func raceReaders(t *tester) {
	const size, rounds = 50_000, 30
	stop := make(chan struct{})
	var wg sync.WaitGroup
	errs := make([]error, racers)
	for i := range racers - 1 {
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				if errs[i] = readUniform(t, t.store(i), i%2 == 0, size); errs[i] != nil {
					return
				}
			}
		})
	}
	w := t.store(racers - 1)
	for round := range rounds {
		body := make([]byte, size)
		for i := range body {
			body[i] = byte(round)
		}
		if _, err := w.Put(t.ctx, "r/k", body, objstore.Condition{}); err != nil {
			t.Fatal(err)
		}
		if round%7 == 6 {
			if err := w.Delete(t.ctx, "r/k"); err != nil {
				t.Fatal(err)
			}
		}
	}
	close(stop)
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}

// readUniform reads an object that must be missing or size equal bytes.
func readUniform(t *tester, s objstore.Store, whole bool, size int) error {
	p := make([]byte, size)
	var n int
	var err error
	if whole {
		p, _, err = s.Get(t.ctx, "r/k")
		n = len(p)
	} else {
		n, _, err = s.ReadAt(t.ctx, "r/k", p, 0)
	}
	if errors.Is(err, objstore.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if n != size {
		return fmt.Errorf("read %d bytes of an object of %d", n, size)
	}
	for i, b := range p {
		if b != p[0] {
			return fmt.Errorf("byte %d is of version %d, byte 0 of version %d", i, b, p[0])
		}
	}
	return nil
}

func probe(t *tester) {
	if err := objstore.Probe(t.ctx, t.s, "probe/1"); err != nil {
		t.Fatal(err)
	}
	t.list("", "", 0)
}
