package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/bough-db/bough/api"
	"github.com/bough-db/bough/api/hosts"
	"github.com/bough-db/bough/cow"
)

// peers is this host's view of the others that share its store: it asks them about
// the branches that they have, and decides what may be taken from whom.
type peers struct {
	store   *cow.Store
	client  *hosts.Client
	network string // that a loopback address of this host is in
	far     bool   // the store is: what a branch is going to need is fetched ahead
	log     *slog.Logger

	tellFirst, tellMost time.Duration // pauses between the tries to tell a host

	ctx    context.Context // ends with close
	cancel context.CancelFunc
	tasks  sync.WaitGroup
}

// How long the pauses are between the tries to tell a host that it has lost a branch.
const (
	tellFirst = time.Second
	tellMost  = 30 * time.Second
)

func newPeers(store *cow.Store, network string, log *slog.Logger) *peers {
	p := &peers{store: store, client: hosts.NewClient(), network: network, log: log, tellFirst: tellFirst, tellMost: tellMost}
	p.ctx, p.cancel = context.WithCancel(context.Background())
	return p
}

// close ends what is under way.
func (p *peers) close() {
	p.cancel()
	p.tasks.Wait()
}

// errCannotAsk says that there is no way to a host from here, whether it lives or not.
var errCannotAsk = errors.New("it cannot be asked from here")

// errGone says that a host has taken its record away: it stopped in order.
var errGone = errors.New("it is not recorded in the store")

// localNetwork names the network namespace of this process: in no other one do its
// loopback addresses lead here.
func localNetwork() string {
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	ns, nerr := os.Readlink("/proc/self/ns/net")
	if err != nil || nerr != nil {
		return "" // then nobody is on the same one
	}
	return strings.TrimSpace(string(boot)) + "/" + ns
}

// peer returns how a host is asked.
func (p *peers) peer(ctx context.Context, id string) (hosts.Peer, error) {
	info, err := p.store.Host(ctx, id)
	if errors.Is(err, cow.ErrNotFound) {
		return hosts.Peer{}, errGone
	}
	if err != nil {
		return hosts.Peer{}, err
	}
	return peerOf(info, p.network)
}

// peerOf returns how the host of a record is asked from the network.
func peerOf(info cow.HostInfo, network string) (hosts.Peer, error) {
	switch {
	case info.API == "" || info.Token == "":
		return hosts.Peer{}, fmt.Errorf("%w: it has no address for other hosts", errCannotAsk)
	case info.Network != "" && info.Network != network:
		return hosts.Peer{}, fmt.Errorf("%w: its address %s is good on its own machine only", errCannotAsk, info.API)
	}
	return hosts.Peer{Identity: hosts.Identity{Host: info.ID, Run: info.Run}, Address: info.API, Token: info.Token}, nil
}

// askTries is how often a host is asked before it counts as silent: a busy one may
// miss the first.
const askTries = 2

// ask asks a host whether it uses a branch. That it does not have it open is the zero
// Use. That it is gone or does not answer is errGone or hosts.ErrSilent.
func (p *peers) ask(ctx context.Context, host string, id cow.BranchID) (hosts.Peer, hosts.Use, error) {
	for try := 1; ; try++ {
		// Again each time: a host that has just been restarted has another address.
		peer, err := p.peer(ctx, host)
		if err != nil {
			return peer, hosts.Use{}, err
		}
		use, err := p.client.Use(ctx, peer, string(id))
		if api.CodeOf(err) == api.CodeNotFound {
			err = nil
		}
		if !errors.Is(err, hosts.ErrSilent) || try == askTries {
			return peer, use, err
		}
	}
}

// openTries is how often a branch changes hands while it is being opened, before
// that is an error.
const openTries = 4

// open opens a branch. One that another host has is asked for there, and taken over
// as far as nothing can be lost or how says so.
func (p *peers) open(ctx context.Context, id cow.BranchID, how api.TakeOver) (*cow.Branch, error) {
	var err error
	for range openTries {
		var b *cow.Branch
		if b, err = p.store.OpenWith(ctx, id, cow.OpenOptions{FetchStart: p.far}); err == nil {
			return b, nil
		}
		held, ok := errors.AsType[*cow.AttachedError](err)
		if !ok {
			return nil, err
		}
		opts, peer, serr := p.settle(ctx, held, how)
		if serr != nil {
			return nil, serr
		}
		if opts.TakeOver == cow.TakeOverNone {
			continue // released
		}
		if b, err = p.store.OpenWith(ctx, id, opts); err == nil {
			p.tell(peer, b)
			return b, nil
		}
		if _, ok := errors.AsType[*cow.AttachedError](err); !ok {
			return nil, err
		}
	}
	return nil, err
}

// settle decides what becomes of a branch that another host has: how to open it, or
// why not, as an *api.Error.
func (p *peers) settle(ctx context.Context, held *cow.AttachedError, how api.TakeOver) (cow.OpenOptions, hosts.Peer, error) {
	began := time.Now()
	peer, use, err := p.ask(ctx, held.Host, held.ID)
	if ctx.Err() != nil {
		return cow.OpenOptions{}, peer, ctx.Err()
	}
	answers := err == nil || api.CodeOf(err) != "" && api.CodeOf(err) != api.CodeInternal
	p.log.Info("branch is attached by another host", "branch", held.Project+"/"+held.Name, "id", held.ID,
		"host", held.Host, "durability", held.Durability, "answers", answers, "in_use", use.Open, "err", err,
		"asked_for", time.Since(began).Round(time.Millisecond))
	if answers && err == nil && !use.Open {
		switch err := p.client.Release(ctx, peer, string(held.ID)); {
		case err == nil:
			return cow.OpenOptions{}, peer, nil
		case api.CodeOf(err) != api.CodeInUse:
			p.log.Warn("another host does not give a branch back that it does not use", "branch", held.ID, "host", held.Host, "err", err)
		}
	}
	silent := errors.Is(err, hosts.ErrSilent) || errors.Is(err, errGone)
	lossy := held.Durability != cow.DurabilityRemote
	if !silent && !how.Force || lossy && !how.AcceptLoss {
		return cow.OpenOptions{}, peer, heldElsewhere(held, err)
	}
	opts := cow.OpenOptions{TakeOver: cow.TakeOverStored, Epoch: held.Epoch, FetchStart: p.far}
	if lossy {
		opts.TakeOver = cow.TakeOverLossy
		if answers {
			// What it has until now need not be lost.
			if _, err := p.client.Publish(ctx, peer, string(held.ID)); err != nil {
				p.log.Warn("a host whose branch is taken over did not store its last barrier", "branch", held.ID, "host", held.Host, "err", err)
			}
		}
	}
	return opts, peer, nil
}

// heldElsewhere says that another host has a branch, and what can be done. why is
// what came of asking it: nil if it answers.
func heldElsewhere(held *cow.AttachedError, why error) *api.Error {
	ref := held.Project + "/" + held.Name
	lossy := held.Durability != cow.DurabilityRemote
	command := "bough start " + ref
	silent := errors.Is(why, hosts.ErrSilent) || errors.Is(why, errGone)
	if !silent {
		command += " --take-over"
	}
	if lossy {
		command += " --accept-loss"
	}
	switch {
	case why == nil:
		e := api.Errorf(api.CodeInUse, "branch %s is in use on host %s", ref, held.Host)
		if lossy {
			return e.WithHint("run `bough suspend %s` there, or take it over with `%s`, which loses what is committed there meanwhile", ref, command)
		}
		return e.WithHint("run `bough suspend %s` there, or take it over with `%s`", ref, command)
	case silent && lossy:
		return api.Errorf(api.CodeInUse, "branch %s is attached by host %s, which does not answer, and its durability is local: %s, and commits after that are on that host only", ref, held.Host, storedUpTo(held)).
			WithHint("start that host again, or lose those commits with `%s`", command)
	case silent: // and nothing would be lost: somebody else was quicker, again and again
		return api.Errorf(api.CodeInUse, "branch %s is attached by host %s", ref, held.Host).WithHint("try again")
	case lossy:
		return api.Errorf(api.CodeInUse, "branch %s is attached by host %s: %s; its durability is local: %s", ref, held.Host, reason(why), storedUpTo(held)).
			WithHint("if that host is gone, lose later commits with `%s`", command)
	default:
		return api.Errorf(api.CodeInUse, "branch %s is attached by host %s: %s", ref, held.Host, reason(why)).
			WithHint("if that host is gone, run `%s`: nothing is lost", command)
	}
}

// reason renders why a host could not be asked, or what it answered.
func reason(err error) string {
	if e, ok := errors.AsType[*api.Error](err); ok {
		return "it answers: " + oneLine(e.Message)
	}
	return oneLine(err.Error())
}

// storedUpTo says how much of a branch the store has.
func storedUpTo(held *cow.AttachedError) string {
	if held.Time.IsZero() {
		return "up to where the store has it cannot be read"
	}
	return fmt.Sprintf("the store has it up to barrier %d of %s", held.Seq, stamp(held.Time))
}

// stamp renders the time of a barrier.
func stamp(t time.Time) string { return t.UTC().Format("2006-01-02 15:04:05.000 MST") }

// tell tells a host that it has lost the branch b, until it has heard it or b is
// closed: one that was only cut off or stopped would show its clients old data, until
// it next wrote something.
func (p *peers) tell(peer hosts.Peer, b *cow.Branch) {
	if peer.Address == "" {
		return
	}
	p.tasks.Go(func() {
		for pause := p.tellFirst; ; pause = min(2*pause, p.tellMost) {
			err := p.client.Recheck(p.ctx, peer, string(b.ID()))
			if !errors.Is(err, hosts.ErrSilent) {
				if p.ctx.Err() == nil {
					p.log.Info("told a host that it has lost a branch", "branch", b.ID(), "host", peer.Identity.Host)
				}
				return
			}
			t := time.NewTimer(pause)
			select {
			case <-t.C:
			case <-b.Failed():
			case <-p.ctx.Done():
			}
			t.Stop()
			if p.ctx.Err() != nil || b.Err() != nil {
				return
			}
		}
	})
}

// fork sees to it that the store has the last barrier of a branch which another host
// has attached, as far as that host answers, and says what a branch of it will
// begin with.
func (p *peers) fork(ctx context.Context, parent cow.BranchInfo) (*api.Fork, error) {
	f := &api.Fork{Host: parent.Host}
	peer, use, err := p.ask(ctx, parent.Host, parent.ID)
	if err == nil && !use.Open {
		f.Published = true // all that it left behind was stored when it started
		return f, nil
	}
	if err == nil {
		var at hosts.Published
		if at, err = p.client.Publish(ctx, peer, string(parent.ID)); err == nil {
			f.Published, f.Seq = true, at.Seq
			return f, nil
		}
	}
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	f.Why = reason(err)
	if errors.Is(err, hosts.ErrSilent) {
		f.Why = "it does not answer"
	}
	p.log.Warn("a host that has a branch attached did not store its last barrier: a branch of it begins with what is stored",
		"branch", parent.Project+"/"+parent.Name, "id", parent.ID, "host", parent.Host, "err", err)
	seq, when, err := p.store.Stored(ctx, parent.ID)
	if err != nil {
		return nil, err
	}
	f.Seq, f.Time = uint64(seq), when
	return f, nil
}

// loopbackOnly tells whether other machines cannot reach an address.
func loopbackOnly(addr string) bool {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return false
	}
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}
