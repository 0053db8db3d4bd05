package faultstore

import "context"

// Gate stops calls until the test lets them go on. Its Wait is given to a rule:
//
//	g := faultstore.NewGate()
//	s.Add(faultstore.Rule{Verb: objstore.VerbPut, Wait: g.Wait})
//	go put()
//	op := <-g.Arrived // the put has begun, and not reached the store
//	g.Release()
type Gate struct {
	// Arrived receives each call that has come to the gate; a call that
	// nobody receives waits as well.
	Arrived chan Op
	open    chan struct{}
}

// NewGate returns a closed gate.
func NewGate() *Gate {
	return &Gate{Arrived: make(chan Op), open: make(chan struct{})}
}

// Wait waits until one Release is for this call, or until ctx ends.
func (g *Gate) Wait(ctx context.Context, op Op) error {
	select {
	case g.Arrived <- op:
	case <-ctx.Done():
		return ctx.Err()
	}
	select {
	case <-g.open:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Release lets one call go on that has arrived, and waits for it to come.
func (g *Gate) Release() { g.open <- struct{}{} }
