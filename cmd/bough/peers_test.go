package main

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/bough-db/bough/api"
	"github.com/bough-db/bough/api/hosts"
	"github.com/bough-db/bough/cow"
	"github.com/bough-db/bough/objstore"
	"github.com/bough-db/bough/objstore/memstore"
	"github.com/bough-db/bough/vfs/memfs"
	"github.com/bough-db/bough/wal"
)

// node is a host of a shared store, without kernel and Postgres.
type node struct {
	t       *testing.T
	backend *backend
	store   *cow.Store
	info    cow.HostInfo
	hangUp  func() // stops answering
}

const testNetwork = "here"

// newNode returns a host that answers the others.
func newNode(t *testing.T, objects objstore.Store, name string) *node {
	t.Helper()
	quiet := slog.New(slog.DiscardHandler)
	pool, err := wal.OpenPool(memfs.New(memfs.Options{}), "/journal", wal.PoolOptions{MaxBytes: 256 << 20, Logger: quiet})
	if err != nil {
		t.Fatal(err)
	}
	store, err := cow.OpenStore(t.Context(), cow.Options{Objects: objects, Journals: pool, Host: name, Shared: true, Logger: quiet})
	if err != nil {
		t.Fatal(err)
	}
	p := newPeers(store, testNetwork, quiet)
	p.tellFirst, p.tellMost = 10*time.Millisecond, 10*time.Millisecond
	n := &node{t: t, store: store, info: cow.HostInfo{ID: name, Run: hosts.NewRun(), Token: hosts.NewToken(), Network: testNetwork}}
	n.backend = &backend{
		store: catalogue{store, storePatience}, peers: p, log: quiet, disks: newDisks(store, quiet), volumes: newVolumes(p, nil, false), host: n.info,
	}
	t.Cleanup(func() {
		p.close()
		_ = store.Close(context.Background()) // a branch that was lost is not detached
		if err := pool.Close(); err != nil {
			t.Error(err)
		}
	})
	n.listen("127.0.0.1:0")
	n.record(n.info)
	return n
}

// listen begins to answer.
func (n *node) listen(addr string) {
	n.t.Helper()
	l, err := net.Listen("tcp", addr)
	if err != nil {
		n.t.Fatal(err)
	}
	s, err := hosts.NewServer(answers{n.backend}, hosts.Options{Identity: hosts.Identity{Host: n.info.ID, Run: n.info.Run}, Token: n.info.Token})
	if err != nil {
		n.t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- s.Serve(l) }()
	closed := false
	n.hangUp = func() {
		if !closed {
			closed = true
			if err := errors.Join(s.Close(), <-done); err != nil {
				n.t.Error(err)
			}
		}
	}
	n.t.Cleanup(n.hangUp)
	n.info.API = l.Addr().String()
}

func (n *node) record(info cow.HostInfo) {
	n.t.Helper()
	if err := n.store.PutHost(n.t.Context(), info); err != nil {
		n.t.Fatal(err)
	}
}

// use makes a project and uses its branch, with one commit.
func (n *node) use(project string, d cow.Durability) *cow.Branch {
	n.t.Helper()
	_, info, err := n.store.CreateProject(n.t.Context(), project, cow.ProjectOptions{Size: 1 << 30, Durability: d})
	if err != nil {
		n.t.Fatal(err)
	}
	b, err := n.backend.peers.open(n.t.Context(), info.ID, api.TakeOver{})
	if err != nil {
		n.t.Fatal(err)
	}
	n.backend.volumes.held[b.ID()] = &holding{by: heldByEndpoint, branch: b}
	n.commit(b, 1)
	return b
}

func (n *node) commit(b *cow.Branch, value byte) {
	n.t.Helper()
	block := make([]byte, 4096)
	block[0] = value
	if err := errors.Join(b.WriteAt(n.t.Context(), block, 0), b.Flush(n.t.Context())); err != nil {
		n.t.Fatal(err)
	}
}

// value reads what commit wrote.
func value(t *testing.T, b *cow.Branch) byte {
	t.Helper()
	block := make([]byte, 4096)
	if err := b.ReadAt(t.Context(), block, 0); err != nil {
		t.Fatal(err)
	}
	return block[0]
}

// TestOpenElsewhere opens branches that another host has.
func TestOpenElsewhere(t *testing.T) {
	const local, remote = cow.DurabilityLocal, cow.DurabilityRemote
	force, lossy, both := api.TakeOver{Force: true}, api.TakeOver{AcceptLoss: true}, api.TakeOver{Force: true, AcceptLoss: true}
	answering := func(*node) {}
	silent := func(n *node) { n.hangUp() }
	gone := func(n *node) {
		if err := n.store.DeleteHost(n.t.Context(), n.info.ID); err != nil {
			n.t.Fatal(err)
		}
	}
	away := func(n *node) {
		info := n.info
		info.Network = "there"
		n.record(info)
	}
	mute := func(n *node) {
		info := n.info
		info.API = ""
		n.record(info)
	}
	for name, tc := range map[string]struct {
		d      cow.Durability
		state  func(*node)
		how    api.TakeOver
		refuse []string // words of the refusal; none if it is taken over
	}{
		"in use":                    {remote, answering, api.TakeOver{}, []string{"in use on host a", "bough suspend p/main", "`bough start p/main --take-over`"}},
		"in use, local":             {local, answering, api.TakeOver{}, []string{"in use on host a", "`bough start p/main --take-over --accept-loss`"}},
		"in use, lossy is no force": {local, answering, lossy, []string{"in use on host a"}},
		"in use, remote, lossy":     {remote, answering, lossy, []string{"in use on host a"}},
		"in use, local, forced":     {local, answering, force, []string{"--accept-loss"}},
		"forced":                    {remote, answering, force, nil},
		"forced, local":             {local, answering, both, nil},
		"silent":                    {remote, silent, api.TakeOver{}, nil},
		"silent, local":             {local, silent, api.TakeOver{}, []string{"host a", "does not answer", "barrier ", "UTC", "`bough start p/main --accept-loss`"}},
		"silent, local, lossy":      {local, silent, lossy, nil},
		"silent, local, forced":     {local, silent, force, []string{"--accept-loss"}},
		"gone":                      {remote, gone, api.TakeOver{}, nil},
		"gone, local":               {local, gone, api.TakeOver{}, []string{"--accept-loss"}},
		"elsewhere":                 {remote, away, api.TakeOver{}, []string{"cannot be asked from here", "`bough start p/main --take-over`"}},
		"elsewhere, forced":         {remote, away, force, nil},
		"elsewhere, local":          {local, away, lossy, []string{"cannot be asked", "--take-over --accept-loss"}},
		"no address":                {remote, mute, api.TakeOver{}, []string{"no address"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			objects := memstore.New(memstore.Options{})
			a, b := newNode(t, objects, "a"), newNode(t, objects, "b")
			a.record(a.info)
			mine := a.use("p", tc.d)
			tc.state(a)
			got, err := b.backend.peers.open(t.Context(), mine.ID(), tc.how)
			if tc.refuse != nil {
				if api.CodeOf(err) != api.CodeInUse {
					t.Fatalf("open = %v, want it refused", err)
				}
				for _, w := range tc.refuse {
					if !strings.Contains(err.Error(), w) {
						t.Errorf("the refusal has no %q: %v", w, err)
					}
				}
				if len(err.Error()) > 390 || strings.Contains(err.Error(), "\n") {
					t.Errorf("not a clear line: %v", err)
				}
				a.commit(mine, 2)
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			taken := got.TakenOver()
			if taken == nil || taken.Host != "a" || taken.Complete != (tc.d == remote) {
				t.Errorf("taken over: %+v", taken)
			}
			// What was acknowledged was stored, or is published on the way by who answers.
			if v := value(t, got); v != 1 && (tc.d == remote || tc.how == both) {
				t.Errorf("value %d", v)
			}
			if err := got.Close(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestForcedTakeOverKeepsWhatAnswers takes a branch of durability local from a host
// that answers: what it has committed by then comes along.
func TestForcedTakeOverKeepsWhatAnswers(t *testing.T) {
	objects := memstore.New(memstore.Options{})
	a, b := newNode(t, objects, "a"), newNode(t, objects, "b")
	a.record(a.info)
	mine := a.use("p", cow.DurabilityLocal)
	a.commit(mine, 7)
	got, err := b.backend.peers.open(t.Context(), mine.ID(), api.TakeOver{Force: true, AcceptLoss: true})
	if err != nil {
		t.Fatal(err)
	}
	if v := value(t, got); v != 7 {
		t.Errorf("value %d, want 7", v)
	}
	<-mine.Failed() // it is told, without a write
	if !errors.Is(mine.Err(), cow.ErrFenced) {
		t.Errorf("the loser: %v", mine.Err())
	}
	if err := got.Close(t.Context()); err != nil {
		t.Error(err)
	}
}

// TestLoserIsToldLater takes a branch from a host that is cut off, and comes back.
func TestLoserIsToldLater(t *testing.T) {
	objects := memstore.New(memstore.Options{})
	a, b := newNode(t, objects, "a"), newNode(t, objects, "b")
	a.record(a.info)
	mine := a.use("p", cow.DurabilityRemote)
	a.hangUp()
	got, err := b.backend.peers.open(t.Context(), mine.ID(), api.TakeOver{})
	if err != nil {
		t.Fatal(err)
	}
	if mine.Err() != nil {
		t.Errorf("it failed before it was told: %v", mine.Err())
	}
	a.listen(a.info.API)
	<-mine.Failed()
	if !errors.Is(mine.Err(), cow.ErrFenced) {
		t.Errorf("the loser: %v", mine.Err())
	}
	if err := got.Close(t.Context()); err != nil {
		t.Error(err)
	}
}

// TestReleased opens a branch that its host does not use any more, but did not
// detach: it gives it back, with all that it left in its journals.
func TestReleased(t *testing.T) {
	objects := memstore.New(memstore.Options{})
	a, b := newNode(t, objects, "a"), newNode(t, objects, "b")
	a.record(a.info)
	mine := a.use("p", cow.DurabilityLocal)
	a.commit(mine, 9)
	hurry, cancel := context.WithCancel(t.Context())
	cancel()
	_ = mine.Close(hurry) // there is no time to detach it
	delete(a.backend.volumes.held, mine.ID())
	got, err := b.backend.peers.open(t.Context(), mine.ID(), api.TakeOver{})
	if err != nil {
		t.Fatal(err)
	}
	if v := value(t, got); v != 9 || got.TakenOver() != nil {
		t.Errorf("value %d, taken over %+v", v, got.TakenOver())
	}
	if err := got.Close(t.Context()); err != nil {
		t.Error(err)
	}
	// A host that stops does not begin anything.
	a.backend.stop()
	if err := (answers{a.backend}).Release(t.Context(), string(mine.ID())); api.CodeOf(err) != api.CodeUnavailable {
		t.Errorf("release by a host that stops: %v", err)
	}
}

// TestForkElsewhere branches from a branch that another host has.
func TestForkElsewhere(t *testing.T) {
	objects := memstore.New(memstore.Options{})
	a, b := newNode(t, objects, "a"), newNode(t, objects, "b")
	a.record(a.info)
	mine := a.use("p", cow.DurabilityLocal)
	parent := func() cow.BranchInfo {
		info, err := b.store.BranchByID(t.Context(), mine.ID())
		if err != nil {
			t.Fatal(err)
		}
		return info
	}
	for v := range byte(3) {
		a.commit(mine, v+10)
		f, err := b.backend.peers.fork(t.Context(), parent())
		if err != nil || !f.Published || f.Host != "a" || f.Why != "" {
			t.Fatalf("fork = %+v, %v", f, err)
		}
		info, err := b.store.CreateBranch(t.Context(), "p", "dev"+string('0'+rune(v)), cow.BranchOptions{From: mine.ID()})
		if err != nil {
			t.Fatal(err)
		}
		dev, err := b.store.Open(t.Context(), info.ID)
		if err != nil {
			t.Fatal(err)
		}
		if got := value(t, dev); got != v+10 || info.ForkSeq != f.Seq {
			t.Errorf("the branch has %d, want %d; it begins at %d, the host said %d", got, v+10, info.ForkSeq, f.Seq)
		}
		if err := dev.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	a.hangUp()
	f, err := b.backend.peers.fork(t.Context(), parent())
	if err != nil || f.Published || f.Why != "it does not answer" || f.Seq == 0 || f.Time.IsZero() {
		t.Errorf("fork of a silent host's = %+v, %v", f, err)
	}
}

func TestAdvertised(t *testing.T) {
	cidr := func(texts ...string) func() ([]net.Addr, error) {
		return func() (all []net.Addr, err error) {
			for _, text := range texts {
				ip, n, err := net.ParseCIDR(text)
				if err != nil {
					return nil, err
				}
				all = append(all, &net.IPNet{IP: ip, Mask: n.Mask})
			}
			return all, nil
		}
	}
	for _, tc := range []struct {
		listen string
		addrs  func() ([]net.Addr, error)
		want   string
	}{
		{"127.0.0.1:7001", nil, "127.0.0.1:7001"},
		{"192.0.2.7:7001", nil, "192.0.2.7:7001"},
		{"[::]:7001", cidr("127.0.0.1/8", "fe80::1/64", "192.0.2.7/24"), "192.0.2.7:7001"},
		{"0.0.0.0:7001", cidr("127.0.0.1/8"), "127.0.0.1:7001"},
	} {
		if got, err := advertised(tc.listen, tc.addrs); err != nil || got != tc.want {
			t.Errorf("advertised(%s) = %s, %v; want %s", tc.listen, got, err, tc.want)
		}
	}
	if _, err := advertised("0.0.0.0:1", func() ([]net.Addr, error) { return nil, errors.New("no interfaces") }); err == nil || !strings.Contains(err.Error(), "--api-advertise") {
		t.Errorf("without interfaces: %v", err)
	}
	for addr, want := range map[string]bool{"127.0.0.1:1": true, "[::1]:1": true, "localhost:1": true, "192.0.2.7:1": false, "db1:1": false} {
		if got := loopbackOnly(addr); got != want {
			t.Errorf("loopbackOnly(%s) = %v", addr, got)
		}
	}
}
