package s3store_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/bough-db/bough/objstore"
	"github.com/bough-db/bough/test/s3fault"
)

// history is what a model of a faulty store knows: the contents that an object may
// have, after puts of which nobody knows whether they happened.
type history map[string]map[string]bool

const nothing = "(nothing)"

func (h history) may(key string) map[string]bool {
	if h[key] == nil {
		h[key] = map[string]bool{nothing: true}
	}
	return h[key]
}

func (h history) is(key, body string) { h[key] = map[string]bool{body: true} }

// TestRandom makes random calls on a store that fails often and in every way, and
// compares with a model: an error leaves open only what it may leave open, and no answer
// is wrong.
func TestRandom(t *testing.T) {
	rounds := 20
	if testing.Short() {
		rounds = 4
	}
	for round := range rounds {
		t.Run(fmt.Sprint(round), func(t *testing.T) { inWorld(t, randomCalls) })
	}
}

func randomCalls(w *world) {
	rng := rand.New(rand.NewPCG(w.trip.Seed(), 1))
	p := rng.Float64() / 30 // for each of the faults below
	var rates []s3fault.Rate
	for _, f := range []s3fault.Fault{
		s3fault.Internal, s3fault.InternalAfter, s3fault.SlowDown, s3fault.Hang, s3fault.Lost, s3fault.ResetRequest, s3fault.ResetAfter,
		s3fault.Unreached, s3fault.ResetResponse, s3fault.ShortBody, s3fault.Skewed, s3fault.Expired,
	} {
		rates = append(rates, s3fault.Rate{Fault: f, P: p})
	}
	rates = append(rates, s3fault.Rate{Op: s3fault.Put, Fault: s3fault.Conflict, P: p})
	w.trip.SetRates(rates...)
	keys := []string{"k", "a", "a-b", "b/c", "b/d"}
	h := history{}
	h.is("k", kBody)
	failed := 0
	for op := range 150 {
		key := keys[rng.IntN(len(keys))]
		var err error
		switch rng.IntN(6) {
		case 0, 1, 2:
			err = w.randomPut(h, key, fmt.Sprintf("body %d %s", op, strings.Repeat("x", rng.IntN(2000))), rng)
		case 3:
			if err = w.s.Delete(w.Context(), key); err == nil {
				h.is(key, nothing)
			} else {
				h.may(key)[nothing] = true
			}
		case 4:
			err = w.randomGet(h, key)
		case 5:
			err = w.randomList(h)
		}
		if err != nil {
			failed++
		}
		if w.Failed() {
			w.Fatalf("operation %d, key %s", op, key)
		}
	}
	w.trip.Heal()
	for _, key := range keys {
		if got := w.has(key); !h.may(key)[got] {
			w.Errorf("%s has %.20q in the end, it may have %.200q", key, got, fmt.Sprint(h.may(key)))
		}
	}
	st := w.s.Stats()
	w.Logf("rate %.3f: %d requests, %d retries, %d hedges, %d calls failed", p, w.trip.Requests(s3fault.Any), st.Retries, st.Hedges, failed)
}

// randomPut puts under a condition, and notes what may be stored now.
func (w *world) randomPut(h history, key, body string, rng *rand.Rand) error {
	cond := objstore.Condition{IfAbsent: rng.IntN(2) == 0}
	old, info, err := w.plain.Get(w.Context(), key)
	there := err == nil
	if there {
		h.is(key, string(old))
	} else {
		h.is(key, nothing)
	}
	if !cond.IfAbsent {
		cond.IfMatch = info.Tag
		if !there || rng.IntN(4) == 0 {
			cond.IfMatch = "stale"
		}
	}
	holds := cond.IfAbsent && !there || !cond.IfAbsent && there && cond.IfMatch != "stale"
	_, err = w.s.Put(w.Context(), key, []byte(body), cond)
	switch {
	case err == nil:
		if !holds {
			w.Errorf("Put under %+v succeeded, there: %v", cond, there)
		}
		h.is(key, body)
	case errors.Is(err, objstore.ErrExists), errors.Is(err, objstore.ErrMismatch):
		// Nobody else puts: the condition held, or it did not.
		if holds {
			w.Errorf("Put under %+v: got error %v, there: %v", cond, err, there)
		}
	case holds:
		h.may(key)[body] = true
	}
	return err
}

func (w *world) randomGet(h history, key string) error {
	p, info, err := w.s.Get(w.Context(), key)
	got := string(p)
	if errors.Is(err, objstore.ErrNotExist) {
		got, err = nothing, nil
	}
	if err != nil {
		return err
	}
	if !h.may(key)[got] || got != nothing && info.Size != int64(len(got)) {
		w.Errorf("Get: got %.20q, %+v, it may have %.200q", got, info, fmt.Sprint(h.may(key)))
	}
	h.is(key, got) // what is read once stays
	if len(got) < 100 {
		return nil
	}
	part := make([]byte, 50)
	n, _, err := w.s.ReadAt(w.Context(), key, part, -70)
	if err == nil && string(part[:n]) != got[len(got)-70:len(got)-20] {
		w.Errorf("ReadAt: got %q of %q", part[:n], got)
	}
	return err
}

func (w *world) randomList(h history) error {
	infos, err := w.s.List(w.Context(), "", "", 0)
	if err != nil {
		return err
	}
	var listed []string
	for _, i := range infos {
		listed = append(listed, i.Key)
	}
	if !slices.IsSorted(listed) {
		w.Errorf("List: %v is not sorted", listed)
	}
	for key := range h {
		if there := slices.Contains(listed, key); there && len(h[key]) == 1 && h[key][nothing] || !there && !h.may(key)[nothing] {
			w.Errorf("List: %v, but %s may have %.200q", listed, key, fmt.Sprint(h.may(key)))
		}
	}
	return nil
}
