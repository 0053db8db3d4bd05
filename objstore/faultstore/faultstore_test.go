package faultstore_test

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"math/bits"
	"os"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/bough-db/bough/objstore"
	"github.com/bough-db/bough/objstore/faultstore"
	"github.com/bough-db/bough/objstore/memstore"
	"github.com/bough-db/bough/objstore/storetest"
)

var update = flag.Bool("update", false, "rewrite testdata/*.trace")

func TestConformance(t *testing.T) {
	storetest.Run(t, func(t *testing.T) objstore.Store {
		return faultstore.New(memstore.New(memstore.Options{}), faultstore.Options{})
	})
}

// world is a faulty store with an object "k" of 100 bytes, and what is behind it.
func world(t *testing.T, opts faultstore.Options) (s *faultstore.Store, inner *memstore.Store, body []byte) {
	t.Helper()
	inner = memstore.New(memstore.Options{})
	body = bytes.Repeat([]byte("0123456789"), 10)
	if _, err := inner.Put(t.Context(), "k", body, objstore.Condition{}); err != nil {
		t.Fatal(err)
	}
	return faultstore.New(inner, opts), inner, body
}

func stored(t *testing.T, s objstore.Store, key string) string {
	t.Helper()
	p, _, err := s.Get(t.Context(), key)
	if errors.Is(err, objstore.ErrNotExist) {
		return "(nothing)"
	}
	if err != nil {
		t.Fatal(err)
	}
	return string(p)
}

func TestErrors(t *testing.T) {
	mine := errors.New("mine")
	for _, test := range []struct {
		name  string
		rule  faultstore.Rule
		want  error
		after string
	}{
		{"Before", faultstore.Rule{Verb: objstore.VerbPut, Fault: faultstore.ErrorBefore}, faultstore.ErrInjected, "(nothing)"},
		{"After", faultstore.Rule{Verb: objstore.VerbPut, Fault: faultstore.ErrorAfter}, faultstore.ErrInjected, "new"},
		{"Own", faultstore.Rule{Verb: objstore.VerbPut, Fault: faultstore.ErrorBefore, Err: mine}, mine, "(nothing)"},
		{"OtherVerb", faultstore.Rule{Verb: objstore.VerbGet, Fault: faultstore.ErrorBefore}, nil, "new"},
		{"AnyVerb", faultstore.Rule{Verb: faultstore.AnyVerb, Fault: faultstore.ErrorBefore}, faultstore.ErrInjected, "(nothing)"},
		{"OtherKey", faultstore.Rule{Verb: objstore.VerbPut, KeyPrefix: "x", Fault: faultstore.ErrorBefore}, nil, "new"},
		{"Second", faultstore.Rule{Verb: objstore.VerbPut, Nth: 2, Fault: faultstore.ErrorBefore}, nil, "new"},
	} {
		t.Run(test.name, func(t *testing.T) {
			s, inner, _ := world(t, faultstore.Options{})
			s.Add(test.rule)
			_, err := s.Put(t.Context(), "n", []byte("new"), objstore.Condition{IfAbsent: true})
			if !errors.Is(err, test.want) {
				t.Errorf("Put: got error %v, want %v", err, test.want)
			}
			if got := stored(t, inner, "n"); got != test.after {
				t.Errorf("inner store has %q, want %q", got, test.after)
			}
		})
	}
}

func TestNthAndTimes(t *testing.T) {
	s, _, _ := world(t, faultstore.Options{})
	s.Add(faultstore.Rule{Verb: objstore.VerbGet, Nth: 2, Times: 2, Fault: faultstore.ErrorBefore})
	s.Add(faultstore.Rule{Verb: objstore.VerbDelete, Times: -1, Fault: faultstore.ErrorBefore})
	var got []bool
	for range 5 {
		_, _, err := s.Get(t.Context(), "k")
		got = append(got, err == nil)
	}
	if diff := cmp.Diff([]bool{true, false, false, true, true}, got); diff != "" {
		t.Errorf("successful gets (-want +got):\n%s", diff)
	}
	for range 5 {
		if err := s.Delete(t.Context(), "k"); !errors.Is(err, faultstore.ErrInjected) {
			t.Errorf("Delete: got error %v, want %v", err, faultstore.ErrInjected)
		}
	}
	s.Heal()
	if err := s.Delete(t.Context(), "k"); err != nil {
		t.Errorf("Delete after Heal: %v", err)
	}
	if n := s.Ops(); n != 11 {
		t.Errorf("%d calls, want 11", n)
	}
}

func TestBodies(t *testing.T) {
	s, inner, body := world(t, faultstore.Options{Seed: 1})
	ctx := t.Context()
	differing := func(p, q []byte) (n int) {
		for i := range p {
			n += bits.OnesCount8(p[i] ^ q[i])
		}
		return n
	}
	for range 20 {
		s.Add(faultstore.Rule{Verb: objstore.VerbGet, Fault: faultstore.ShortBody})
		if p, info, err := s.Get(ctx, "k"); err != nil || len(p) >= 100 || !bytes.HasPrefix(body, p) || info.Size != 100 {
			t.Fatalf("short Get: got %d bytes, %+v, %v", len(p), info, err)
		}
		s.Add(faultstore.Rule{Verb: objstore.VerbReadAt, Fault: faultstore.ShortBody})
		buf := make([]byte, 50)
		if n, _, err := s.ReadAt(ctx, "k", buf, 10); err != nil || n >= 50 || !bytes.Equal(buf[:n], body[10:10+n]) {
			t.Fatalf("short ReadAt: got %d bytes, %v", n, err)
		}
		s.Add(faultstore.Rule{Verb: objstore.VerbGet, Fault: faultstore.FlipBit})
		if p, _, err := s.Get(ctx, "k"); err != nil || len(p) != 100 || differing(p, body) != 1 {
			t.Fatalf("flipped Get: got %d bytes, %v, %d bits flipped", len(p), err, differing(p, body))
		}
		s.Add(faultstore.Rule{Verb: objstore.VerbReadAt, Fault: faultstore.FlipBit})
		if n, _, err := s.ReadAt(ctx, "k", buf, 50); err != nil || n != 50 || differing(buf, body[50:]) != 1 {
			t.Fatalf("flipped ReadAt: got %d bytes, %v", n, err)
		}
		if stored(t, inner, "k") != string(body) {
			t.Fatal("a read has changed the object")
		}
	}

	s.Add(faultstore.Rule{Verb: objstore.VerbPut, Fault: faultstore.ShortBody})
	if _, err := s.Put(ctx, "short", body, objstore.Condition{}); !errors.Is(err, faultstore.ErrInjected) {
		t.Errorf("short Put: got error %v, want %v", err, faultstore.ErrInjected)
	}
	if got := stored(t, inner, "short"); len(got) >= 100 || !strings.HasPrefix(string(body), got) {
		t.Errorf("short Put stored %q", got)
	}
	given := bytes.Clone(body)
	s.Add(faultstore.Rule{Verb: objstore.VerbPut, Fault: faultstore.FlipBit})
	if _, err := s.Put(ctx, "flipped", given, objstore.Condition{}); err != nil {
		t.Errorf("flipped Put: %v", err)
	}
	if got := stored(t, inner, "flipped"); differing([]byte(got), body) != 1 || !bytes.Equal(given, body) {
		t.Errorf("flipped Put stored %q, the caller's buffer is %q", got, given)
	}
}

func TestLies(t *testing.T) {
	s, inner, _ := world(t, faultstore.Options{})
	ctx := t.Context()
	s.Add(faultstore.Rule{Verb: objstore.VerbPut, Fault: faultstore.IgnoreCondition})
	if _, err := s.Put(ctx, "k", []byte("over"), objstore.Condition{IfAbsent: true}); err != nil {
		t.Errorf("Put: %v", err)
	}
	if got := stored(t, inner, "k"); got != "over" {
		t.Errorf("stored %q", got)
	}
	s.Add(faultstore.Rule{Verb: objstore.VerbGet, Fault: faultstore.WrongObject, Instead: "k"})
	if p, info, err := s.Get(ctx, "other"); err != nil || string(p) != "over" || info.Key != "other" {
		t.Errorf("Get: got %q, %+v, %v", p, info, err)
	}
}

// TestProbeRefuses shows that objstore.Probe finds stores that break the contract.
func TestProbeRefuses(t *testing.T) {
	probe := func(r faultstore.Rule) error {
		s, _, _ := world(t, faultstore.Options{Seed: 7})
		r.Times = -1
		s.Add(r)
		return objstore.Probe(t.Context(), s, "probe/1")
	}
	for name, match := range map[string]func(faultstore.Op) bool{
		"IfAbsent": func(o faultstore.Op) bool { return o.Cond.IfAbsent },
		"IfMatch":  func(o faultstore.Op) bool { return o.Cond.IfMatch != "" },
	} {
		err := probe(faultstore.Rule{Verb: objstore.VerbPut, Match: match, Fault: faultstore.IgnoreCondition})
		if !errors.Is(err, objstore.ErrUnfit) {
			t.Errorf("%s ignored: got error %v, want %v", name, err, objstore.ErrUnfit)
		}
	}
	if err := probe(faultstore.Rule{Verb: objstore.VerbReadAt, Fault: faultstore.ShortBody}); !errors.Is(err, objstore.ErrUnfit) {
		t.Errorf("short ranges: got error %v, want %v", err, objstore.ErrUnfit)
	}
	err := probe(faultstore.Rule{Verb: objstore.VerbList, Fault: faultstore.ErrorBefore})
	if !errors.Is(err, faultstore.ErrInjected) || errors.Is(err, objstore.ErrUnfit) {
		t.Errorf("failing list: got error %v, want only %v", err, faultstore.ErrInjected)
	}
}

func TestGate(t *testing.T) {
	s, inner, _ := world(t, faultstore.Options{})
	before, after := faultstore.NewGate(), faultstore.NewGate()
	s.Add(faultstore.Rule{Verb: objstore.VerbPut, Wait: before.Wait, WaitAfter: after.Wait})
	var wg sync.WaitGroup
	var err error
	wg.Go(func() { _, err = s.Put(t.Context(), "n", []byte("new"), objstore.Condition{}) })
	if op := <-before.Arrived; op.Key != "n" || op.Len != 3 {
		t.Errorf("arrived: %v", op)
	}
	if got := stored(t, inner, "n"); got != "(nothing)" {
		t.Errorf("before the gate: stored %q", got)
	}
	before.Release()
	<-after.Arrived
	if got := stored(t, inner, "n"); got != "new" {
		t.Errorf("behind the store: stored %q", got)
	}
	after.Release()
	wg.Wait()
	if err != nil {
		t.Error(err)
	}

	ctx, cancel := context.WithCancel(t.Context())
	s.Add(faultstore.Rule{Verb: objstore.VerbPut, Wait: before.Wait})
	wg.Go(func() { _, err = s.Put(ctx, "n", []byte("newer"), objstore.Condition{}) })
	<-before.Arrived
	cancel()
	wg.Wait()
	if !errors.Is(err, context.Canceled) || stored(t, inner, "n") != "new" {
		t.Errorf("cancelled at the gate: %v, stored %q", err, stored(t, inner, "n"))
	}
}

// script is a fixed series of calls.
func script(ctx context.Context, s objstore.Store) {
	for i := range 40 {
		key := string(rune('a' + i%3))
		_, _ = s.Put(ctx, key, []byte("generation"), objstore.Condition{IfAbsent: i%2 == 0})
		_, info, _ := s.Get(ctx, key)
		_, _, _ = s.ReadAt(ctx, key, make([]byte, 4), -4)
		_, _ = s.Put(ctx, key, []byte("next"), objstore.Condition{IfMatch: info.Tag})
		_, _ = s.List(ctx, "", "a", 2)
		if i%4 == 3 {
			_ = s.Delete(ctx, key)
		}
	}
}

func TestRatesAreSeeded(t *testing.T) {
	run := func(seed uint64) []string {
		waits := 0
		s, _, _ := world(t, faultstore.Options{
			Seed:  seed,
			Rates: faultstore.Rates{Before: 0.1, After: 0.1, Short: 0.1, Flip: 0.1, Delay: 0.1},
			Wait:  func(context.Context, faultstore.Op) error { waits++; return nil },
		})
		script(t.Context(), s)
		if waits == 0 {
			t.Error("no call was delayed")
		}
		return s.Trace()
	}
	first := run(1)
	if diff := cmp.Diff(first, run(1)); diff != "" {
		t.Errorf("two runs with one seed differ:\n%s", diff)
	}
	if cmp.Equal(first, run(2)) {
		t.Error("two seeds give the same faults")
	}
	all := strings.Join(first, "\n")
	for _, f := range []faultstore.Fault{faultstore.ErrorBefore, faultstore.ErrorAfter, faultstore.ShortBody, faultstore.FlipBit} {
		if !strings.Contains(all, f.String()) {
			t.Errorf("%d calls and no %q", len(first), f)
		}
	}
}

func TestTraceGolden(t *testing.T) {
	s, _, _ := world(t, faultstore.Options{})
	ctx := t.Context()
	s.Add(faultstore.Rule{Verb: objstore.VerbPut, KeyPrefix: "lost", Fault: faultstore.ErrorAfter})
	s.Add(faultstore.Rule{Verb: objstore.VerbReadAt, Fault: faultstore.FlipBit})
	tag, _ := s.Put(ctx, "m", []byte("one"), objstore.Condition{IfAbsent: true})
	_, _ = s.Put(ctx, "m", []byte("one"), objstore.Condition{IfAbsent: true})
	_, _ = s.Put(ctx, "m", []byte("three"), objstore.Condition{IfMatch: tag})
	_, _ = s.Put(ctx, "m", []byte("four"), objstore.Condition{IfMatch: tag})
	_, _ = s.Put(ctx, "lost", nil, objstore.Condition{})
	_, _, _ = s.Get(ctx, "m")
	_, _, _ = s.Get(ctx, "none")
	_, _, _ = s.ReadAt(ctx, "m", make([]byte, 4), -4)
	_, _ = s.List(ctx, "a/", "a/b", 0)
	_ = s.Delete(ctx, "m")
	_ = s.Delete(ctx, "M")
	got := strings.Join(s.Trace(), "\n") + "\n"
	const name = "testdata/calls.trace"
	if *update {
		if err := os.MkdirAll("testdata", 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("trace (-want +got); -update accepts it:\n%s", diff)
	}
	s.ResetTrace()
	if len(s.Trace()) != 0 {
		t.Errorf("after ResetTrace: %q", s.Trace())
	}
}
