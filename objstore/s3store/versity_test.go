package s3store_test

import (
	"bytes"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"testing"

	"github.com/bough-db/bough/objstore"
	"github.com/bough-db/bough/objstore/s3store"
	"github.com/bough-db/bough/test/s3fault"
	"github.com/bough-db/bough/test/s3server"
)

// TestVersityRefusesDamage: what is damaged on its way to a real server is refused
// there, and nothing is stored; nor is a body that breaks off.
func TestVersityRefusesDamage(t *testing.T) {
	srv := s3server.ForTest(t)
	transport := new(http.Transport)
	defer transport.CloseIdleConnections()
	trip := s3fault.ForTest(t, transport)
	s := open(t, srv.URL("damage"), s3store.Options{Wrap: trip.Wrap})
	for i, size := range []int{1, 1000, 3 << 20} {
		key := fmt.Sprint(i)
		trip.Add(s3fault.Rule{Op: s3fault.Put, Fault: s3fault.FlipRequest})
		_, err := s.Put(t.Context(), key, bytes.Repeat([]byte("x"), size), objstore.Condition{IfAbsent: true})
		checkFinal(t, err, "400 ")
		if _, _, err := s.Get(t.Context(), key); !errors.Is(err, objstore.ErrNotExist) {
			t.Errorf("after a damaged put of %d bytes: got error %v, want %v", size, err, objstore.ErrNotExist)
		}
	}
	takes, err := s.TakesDamaged(t.Context(), "wrong-sum")
	if takes || err != nil {
		t.Errorf("TakesDamaged: %v, %v", takes, err)
	}
}

// TestVersityLargeRaces lets large conditional puts race: the losers get their answer
// or a broken connection, and are told that they have lost.
func TestVersityLargeRaces(t *testing.T) {
	srv := s3server.ForTest(t)
	s := open(t, srv.URL("races"), s3store.Options{})
	const racers, size = 6, 3 << 20
	bodies := make([][]byte, racers)
	for i := range bodies {
		bodies[i] = bytes.Repeat([]byte{byte(i)}, size)
	}
	for round := range 6 {
		cond, lost := objstore.Condition{IfAbsent: true}, objstore.ErrExists
		key := fmt.Sprintf("k/%d", round/2)
		if round%2 == 1 {
			_, info, err := s.Get(t.Context(), key)
			if err != nil {
				t.Fatal(err)
			}
			cond, lost = objstore.Condition{IfMatch: info.Tag}, objstore.ErrMismatch
		}
		var wg sync.WaitGroup
		tags, errs := make([]string, racers), make([]error, racers)
		for i := range racers {
			wg.Go(func() {
				tags[i], errs[i] = s.Put(t.Context(), key, append([]byte{byte(round)}, bodies[i]...), cond)
			})
		}
		wg.Wait()
		got, info, err := s.Get(t.Context(), key)
		if err != nil || len(got) != size+1 {
			t.Fatalf("Get: %d bytes, %v", len(got), err)
		}
		won := 0
		for i, err := range errs {
			switch {
			case err == nil:
				won++
				if got[1] != byte(i) || tags[i] != info.Tag {
					t.Errorf("round %d: racer %d has won, and %d's object is there", round, i, got[1])
				}
			case errors.Is(err, lost):
			case brokeOff(err):
				// All of it had left: nobody can know but by reading it back.
				if got[1] == byte(i) {
					won++
				}
			default:
				t.Errorf("round %d: racer %d: got error %v, want %v", round, i, err, lost)
			}
		}
		if won != 1 {
			t.Errorf("round %d: %d racers have won", round, won)
		}
	}
}

// brokeOff tells whether a put's error leaves open what happened.
func brokeOff(err error) bool {
	for _, sentinel := range []error{objstore.ErrExists, objstore.ErrMismatch, objstore.ErrNotExist, objstore.ErrFull} {
		if errors.Is(err, sentinel) {
			return false
		}
	}
	return true
}
