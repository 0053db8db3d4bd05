package faultstore

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"

	"github.com/bough-db/bough/objstore"
)

// ErrInjected is the error of a fault whose rule names no other. It tells
// nothing about what happened, like a connection that breaks.
var ErrInjected = errors.New("injected fault")

// Fault is what happens to a call.
type Fault int

// The faults.
const (
	// None passes the call on; together with Wait it is a delay.
	None Fault = iota
	// ErrorBefore returns an error and does nothing.
	ErrorBefore
	// ErrorAfter does what was asked, and returns an error: a lost response.
	ErrorAfter
	// ShortBody hands out a part of the body without an error. A Put stores a
	// part of the body and returns an error, as some servers do when a client
	// disconnects.
	ShortBody
	// FlipBit inverts one bit of a body on its way, without an error.
	FlipBit
	// IgnoreCondition makes a Put unconditional.
	IgnoreCondition
	// WrongObject reads the object of another key: see Rule.Instead.
	WrongObject
)

// String returns the name of the fault as traces show it.
func (f Fault) String() string {
	names := []string{"none", "error before", "error after", "short body", "flipped bit", "condition ignored", "wrong object"}
	if f < 0 || int(f) >= len(names) {
		return "unknown"
	}
	return names[f]
}

// Op is a call on its way.
type Op struct {
	N     int           // 1 for the first call since New
	Verb  objstore.Verb // which call it is
	Key   string        // the key, or the prefix of a List
	After string        // of a List
	Off   int64         // of a ReadAt
	Len   int           // buffer of a ReadAt, body of a Put, limit of a List
	Cond  objstore.Condition
	Fault Fault // that it met
	Err   error // that it returned; nil as long as it is on its way
}

// String returns the trace line of the call, which does not depend on tags,
// contents or times:
//
//	put branches/x/manifest 212 if-match: ok
//	get names/p/main: not there
//	read branches/x/seg/1 4096@-4096: ok (flipped bit)
func (o Op) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%v %s", o.Verb, o.Key)
	switch o.Verb {
	case objstore.VerbReadAt:
		fmt.Fprintf(&b, " %d@%d", o.Len, o.Off)
	case objstore.VerbPut:
		fmt.Fprintf(&b, " %d", o.Len)
	case objstore.VerbList:
		fmt.Fprintf(&b, " after %q max %d", o.After, o.Len)
	}
	if o.Cond.IfAbsent {
		b.WriteString(" if-absent")
	}
	if o.Cond.IfMatch != "" {
		b.WriteString(" if-match")
	}
	switch {
	case o.Err == nil:
		b.WriteString(": ok")
	case errors.Is(o.Err, objstore.ErrNotExist):
		b.WriteString(": not there")
	case errors.Is(o.Err, objstore.ErrExists):
		b.WriteString(": exists")
	case errors.Is(o.Err, objstore.ErrMismatch):
		b.WriteString(": mismatch")
	default:
		b.WriteString(": error")
	}
	if o.Fault != None {
		fmt.Fprintf(&b, " (%v)", o.Fault)
	}
	return b.String()
}

// Rule chooses calls and says what they meet. The first rule that chooses a call
// applies; rules that choose nothing any more are dropped.
type Rule struct {
	// Match chooses calls. Default: all of Verb under KeyPrefix.
	Match func(Op) bool
	// Verb is the kind of call; AnyVerb for all.
	Verb objstore.Verb
	// KeyPrefix begins the key (or, of a List, the prefix). Default: every key.
	KeyPrefix string
	// Nth is the first of the matching calls that is chosen, counted from the
	// moment the rule is added. Default: 1, the next.
	Nth int
	// Times is how many calls are chosen from there on; -1 for all. Default: 1.
	Times int

	// Wait is called before the call is passed on (or ErrorBefore returned);
	// its error is returned instead, with nothing done. Default: no wait.
	Wait func(context.Context, Op) error
	// WaitAfter is called after the inner store has answered, and before the
	// caller is told; its error is returned. Default: no wait.
	WaitAfter func(context.Context, Op) error
	// Fault is what happens then. Default: None.
	Fault Fault
	// Err is what a fault with an error returns, wrapped. Default: ErrInjected.
	Err error
	// Instead is the key that WrongObject reads.
	Instead string
}

// AnyVerb makes a Rule choose calls of every kind.
const AnyVerb objstore.Verb = -1

// Rates are probabilities, from 0 to 1, with which calls that no rule chose meet
// faults. Together they are at most 1. The zero value is a store without faults.
type Rates struct {
	Before float64 // Before is the rate of ErrorBefore.
	After  float64 // After is the rate of ErrorAfter.
	Short  float64 // Short is the rate of ShortBody, for calls with a body.
	Flip   float64 // Flip is the rate of FlipBit, for calls with a body.
	Delay  float64 // Delay is the rate of calls without fault that wait in Options.Wait.
}

// Options are the settings of a Store.
type Options struct {
	// Seed determines the random faults, cuts and bits.
	Seed uint64
	// Rates apply from the start. See also Store.SetRates.
	Rates Rates
	// Wait is where a call waits that Rates.Delay has chosen. Default: nowhere.
	Wait func(context.Context, Op) error
}

// Store is a faulty view of another store.
type Store struct {
	inner objstore.Store
	wait  func(context.Context, Op) error

	mu    sync.Mutex
	rng   *rand.Rand
	rates Rates
	rules []*Rule
	n     int
	trace []*Op
}

var _ objstore.Store = (*Store)(nil)

// New returns a store that passes calls on to inner, as far as rules and rates
// let it.
func New(inner objstore.Store, opts Options) *Store {
	return &Store{
		inner: inner,
		wait:  opts.Wait,
		rng:   rand.New(rand.NewPCG(opts.Seed, 0x6661756c74)),
		rates: opts.Rates,
	}
}

// Add adds a rule after those that are there.
func (s *Store) Add(r Rule) {
	r.Nth = max(r.Nth, 1)
	if r.Times == 0 {
		r.Times = 1
	}
	if r.Err == nil {
		r.Err = ErrInjected
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.rules = append(s.rules, &r)
}

// SetRates replaces the rates.
func (s *Store) SetRates(r Rates) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.rates = r
}

// Heal drops all rules and rates: later calls are passed on as they are.
func (s *Store) Heal() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.rules, s.rates = nil, Rates{}
}

// Ops returns how many calls have begun since New.
func (s *Store) Ops() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.n
}

// Trace returns the calls so far, as Op.String writes them, in the order in which
// they began. A call that has not ended yet looks as if it were successful.
func (s *Store) Trace() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	lines := make([]string, len(s.trace))
	for i, o := range s.trace {
		lines[i] = o.String()
	}
	return lines
}

// ResetTrace forgets the calls so far.
func (s *Store) ResetTrace() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.trace = nil
}

// plan is what was decided about one call when it began.
type plan struct {
	rule Rule
	op   Op     // as it began
	kept *Op    // as the trace has it; under Store.mu
	dice uint64 // where to cut, which bit to flip
}

// begin numbers a call and decides what it meets.
func (s *Store) begin(op Op) plan {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.n++
	op.N = s.n
	p := plan{rule: s.choose(op), dice: s.rng.Uint64()}
	op.Fault = p.rule.Fault
	p.op, p.kept = op, &op
	s.trace = append(s.trace, p.kept)
	return p
}

// choose returns the rule that applies to op: possibly one made of the rates.
func (s *Store) choose(op Op) Rule {
	// Drawn for each call, so that one rule more does not change what the
	// others meet.
	x := s.rng.Float64()
	for i, r := range s.rules {
		if r.Verb != AnyVerb && r.Verb != op.Verb || !strings.HasPrefix(op.Key, r.KeyPrefix) || r.Match != nil && !r.Match(op) {
			continue
		}
		if r.Nth > 1 {
			r.Nth--
			continue
		}
		if r.Times > 0 {
			r.Times--
		}
		if r.Times == 0 {
			s.rules = slices.Delete(s.rules, i, i+1)
		}
		return *r
	}
	body := op.Verb == objstore.VerbGet || op.Verb == objstore.VerbReadAt || op.Verb == objstore.VerbPut
	for _, c := range []struct {
		rate float64
		rule Rule
		ok   bool
	}{
		{s.rates.Before, Rule{Fault: ErrorBefore}, true},
		{s.rates.After, Rule{Fault: ErrorAfter}, true},
		{s.rates.Short, Rule{Fault: ShortBody}, body},
		{s.rates.Flip, Rule{Fault: FlipBit}, body},
		{s.rates.Delay, Rule{Wait: s.wait}, true},
	} {
		if x -= c.rate; x < 0 {
			if !c.ok {
				break
			}
			c.rule.Err = ErrInjected
			return c.rule
		}
	}
	return Rule{}
}

// run carries out one call. do passes it on; it is not called when the fault is
// ErrorBefore.
func (s *Store) run(ctx context.Context, p plan, do func() error) error {
	err := s.meet(ctx, p, do)
	s.mu.Lock()
	defer s.mu.Unlock()
	p.kept.Err = err
	return err
}

func (s *Store) meet(ctx context.Context, p plan, do func() error) error {
	wrap := func(err error) error { return fmt.Errorf("%v %s: %w", p.op.Verb, p.op.Key, err) }
	if p.rule.Wait != nil {
		if err := p.rule.Wait(ctx, p.op); err != nil {
			return wrap(err)
		}
	}
	if p.rule.Fault == ErrorBefore {
		return wrap(p.rule.Err)
	}
	err := do()
	if p.rule.WaitAfter != nil {
		if werr := p.rule.WaitAfter(ctx, p.op); werr != nil {
			return wrap(werr)
		}
	}
	if p.rule.Fault == ErrorAfter || p.rule.Fault == ShortBody && p.op.Verb == objstore.VerbPut {
		return wrap(p.rule.Err)
	}
	return err
}

// spoil returns the body as the fault has it: p itself, a part of it, or a
// changed copy.
func (p plan) spoil(body []byte) []byte {
	if len(body) == 0 {
		return body
	}
	switch p.rule.Fault {
	case ShortBody:
		return body[:p.dice%uint64(len(body))]
	case FlipBit:
		body = slices.Clone(body)
		bit := p.dice % uint64(len(body)*8)
		body[bit/8] ^= 1 << (bit % 8)
	}
	return body
}

// from returns the key to read.
func (p plan) from() string {
	if p.rule.Fault == WrongObject {
		return p.rule.Instead
	}
	return p.op.Key
}

// Get passes the call on, or does what was planned for it.
func (s *Store) Get(ctx context.Context, key string) ([]byte, objstore.Info, error) {
	p := s.begin(Op{Verb: objstore.VerbGet, Key: key})
	var body []byte
	var info objstore.Info
	err := s.run(ctx, p, func() (err error) {
		body, info, err = s.inner.Get(ctx, p.from())
		return err
	})
	if err != nil {
		return nil, objstore.Info{}, err
	}
	info.Key = key
	return p.spoil(body), info, nil
}

// ReadAt passes the call on, or does what was planned for it.
func (s *Store) ReadAt(ctx context.Context, key string, buf []byte, off int64) (int, objstore.Info, error) {
	p := s.begin(Op{Verb: objstore.VerbReadAt, Key: key, Off: off, Len: len(buf)})
	var n int
	var info objstore.Info
	err := s.run(ctx, p, func() (err error) {
		n, info, err = s.inner.ReadAt(ctx, p.from(), buf, off)
		return err
	})
	if err != nil {
		return 0, objstore.Info{}, err
	}
	info.Key = key
	return copy(buf, p.spoil(buf[:n])), info, nil
}

// Put passes the call on, or does what was planned for it.
func (s *Store) Put(ctx context.Context, key string, data []byte, cond objstore.Condition) (string, error) {
	p := s.begin(Op{Verb: objstore.VerbPut, Key: key, Len: len(data), Cond: cond})
	var tag string
	err := s.run(ctx, p, func() (err error) {
		if p.rule.Fault == IgnoreCondition {
			cond = objstore.Condition{}
		}
		tag, err = s.inner.Put(ctx, key, p.spoil(data), cond)
		return err
	})
	if err != nil {
		return "", err
	}
	return tag, nil
}

// List passes the call on, or does what was planned for it.
func (s *Store) List(ctx context.Context, prefix, after string, limit int) ([]objstore.Info, error) {
	p := s.begin(Op{Verb: objstore.VerbList, Key: prefix, After: after, Len: limit})
	var infos []objstore.Info
	err := s.run(ctx, p, func() (err error) {
		infos, err = s.inner.List(ctx, prefix, after, limit)
		return err
	})
	if err != nil {
		return nil, err
	}
	return infos, nil
}

// Delete passes the call on, or does what was planned for it.
func (s *Store) Delete(ctx context.Context, key string) error {
	p := s.begin(Op{Verb: objstore.VerbDelete, Key: key})
	return s.run(ctx, p, func() error { return s.inner.Delete(ctx, key) })
}
