package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/bough-db/bough/api/hosts"
	"github.com/bough-db/bough/cow"
	"github.com/bough-db/bough/objstore"
	"github.com/bough-db/bough/vfs"
)

// apiNone is the --api of a host that the others cannot ask.
const apiNone = "none"

// checkAPI checks the flags about other hosts.
func (o *serve) checkAPI() error {
	if o.api != "" && o.api != apiNone {
		if _, _, err := net.SplitHostPort(o.api); err != nil {
			return usagef("--api %q is not an address: write HOST:PORT, such as 10.0.0.5:6433, or none", o.api)
		}
	}
	if o.apiAdvertise == "" {
		return nil
	}
	host, port, err := net.SplitHostPort(o.apiAdvertise)
	if n, nerr := strconv.Atoi(port); err != nil || nerr != nil || n < 1 || n > 65535 || host == "" {
		return usagef("--api-advertise %q is not an address that others can use: write HOST:PORT", o.apiAdvertise)
	}
	if o.api == apiNone {
		return usagef("--api-advertise says where others reach --api, and that is none")
	}
	return nil
}

// sharedStore tells whether other hosts may use the store too. A directory has the
// one whose lock is on it.
func sharedStore(location string) bool { return isURL(location) }

// identify decides who this host is among those that share the store, before
// anything in the store or the journals is touched.
func (o *serve) identify(ctx context.Context, d *daemon, objects objstore.Store) error {
	name, err := os.Hostname()
	if err != nil {
		d.log.Warn("the machine has no name", "err", err) // the id goes without
	}
	id, err := loadHostID(vfs.OS(), o.state, name, o.now())
	if err != nil {
		return err
	}
	d.host = cow.HostInfo{
		ID: id, Started: o.now().UTC(), Version: buildVersion().Version, Run: hosts.NewRun(), Token: hosts.NewToken(),
	}
	return o.checkAlone(ctx, d, objects)
}

// checkAlone refuses to be a host that is alive already: then this state directory is
// a copy of that one's, and its journals are that one's too.
func (o *serve) checkAlone(ctx context.Context, d *daemon, objects objstore.Store) error {
	info, err := cow.ReadHost(ctx, objects, d.host.ID)
	switch {
	case errors.Is(err, cow.ErrNotFound):
		return nil // it stopped in order, or is new
	case errors.Is(err, cow.ErrCorrupt):
		d.log.Warn("the record of this host is damaged, and is replaced", "host", d.host.ID, "err", err)
		return nil
	case err != nil:
		return err
	}
	peer, err := peerOf(info, localNetwork())
	if err != nil {
		return nil // of before a reboot, or of another machine: nobody can tell
	}
	_, err = hosts.NewClient().Use(ctx, peer, "none")
	if errors.Is(err, hosts.ErrSilent) {
		return nil // what was killed
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return fmt.Errorf("host %s is alive at %s, so the state directory %s is a copy of its: start this one with another --state, or remove %s and %s from the copy to make it a host of its own",
		d.host.ID, info.API, o.state, filepath.Join(o.state, hostFile), filepath.Join(o.state, journalDir))
}

// openPeers begins to answer other hosts, and tells them so in the store.
func (o *serve) openPeers(ctx context.Context, d *daemon) error {
	if d.host.ID == "" {
		return nil
	}
	if o.api != apiNone {
		if err := o.listenPeers(ctx, d); err != nil {
			return err
		}
	}
	d.backend.host = d.host
	switch {
	case d.host.API == "":
		d.log.Warn("other hosts cannot ask this one: they branch from what is in the store, and take over only when told to", "host", d.host.ID)
	case d.host.Network != "":
		d.log.Warn("hosts on other machines cannot ask this one: give --api an address that they reach", "host", d.host.ID, "api", d.host.API)
	default:
		d.log.Info("other hosts ask this one", "host", d.host.ID, "api", d.host.API)
	}
	// From now on it counts as alive only while it answers.
	if err := d.store.PutHost(ctx, d.host); err != nil {
		return err
	}
	d.recorded = true
	return nil
}

// listenPeers starts the server for other hosts.
func (o *serve) listenPeers(ctx context.Context, d *daemon) error {
	addr := o.api
	if addr == "" {
		// Whoever reaches the front door can be assumed to reach this.
		host, _, err := net.SplitHostPort(o.listen)
		if err != nil {
			return err
		}
		addr = net.JoinHostPort(host, "0")
	}
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", addr)
	if err != nil {
		return fmt.Errorf("listen for other hosts: %w: choose another address with --api", err)
	}
	server, err := hosts.NewServer(answers{d.backend}, hosts.Options{
		Identity: hosts.Identity{Host: d.host.ID, Run: d.host.Run}, Token: d.host.Token, Logger: d.log,
	})
	if err != nil {
		return errors.Join(err, l.Close())
	}
	d.host.API = o.apiAdvertise
	if d.host.API == "" {
		if d.host.API, err = advertised(l.Addr().String(), net.InterfaceAddrs); err != nil {
			return errors.Join(err, l.Close())
		}
	}
	if loopbackOnly(d.host.API) {
		d.host.Network = localNetwork()
	}
	d.hosts, d.hostsServed = server, make(chan error, 1)
	go func() { d.hostsServed <- server.Serve(l) }()
	return nil
}

// advertised returns the address under which others reach a listener. One that
// listens everywhere is reached at the machine's first address that is not loopback.
func advertised(listen string, addrs func() ([]net.Addr, error)) (string, error) {
	host, port, err := net.SplitHostPort(listen)
	if err != nil {
		return "", err
	}
	if ip := net.ParseIP(host); ip == nil || !ip.IsUnspecified() {
		return listen, nil
	}
	all, err := addrs()
	if err != nil {
		return "", fmt.Errorf("look for the address of this machine: %w: name it with --api-advertise", err)
	}
	best := net.ParseIP("127.0.0.1")
	for _, a := range all {
		if n, ok := a.(*net.IPNet); ok && n.IP.IsGlobalUnicast() {
			best = n.IP
			break
		}
	}
	return net.JoinHostPort(best.String(), port), nil
}

// stopPeers ends what answers and asks other hosts.
func (d *daemon) stopPeers(note func(string, error)) {
	if d.hosts != nil {
		note("stop answering other hosts", d.hosts.Close())
		note("answer other hosts", <-d.hostsServed)
	}
	if d.peers != nil {
		d.peers.close()
	}
}

// leave takes the record of this host out of the store, so that nobody asks a host that
// has stopped in order and has nothing attached.
func (d *daemon) leave(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, leaveTimeout)
	defer cancel()
	return d.store.DeleteHost(ctx, d.host.ID)
}

// leaveTimeout bounds the last request of a stop: a record that stays behind is of a
// host that does not answer.
const leaveTimeout = 10 * time.Second
