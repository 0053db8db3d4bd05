package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/bough-db/bough/api"
	"github.com/bough-db/bough/api/hosts"
	"github.com/bough-db/bough/blockdev"
	"github.com/bough-db/bough/branchfs"
	"github.com/bough-db/bough/cache"
	"github.com/bough-db/bough/cow"
	"github.com/bough-db/bough/objstore/dirstore"
	"github.com/bough-db/bough/objstore/meterstore"
	"github.com/bough-db/bough/postgres"
	"github.com/bough-db/bough/postgres/walpage"
	"github.com/bough-db/bough/proxy"
	"github.com/bough-db/bough/vfs"
	"github.com/bough-db/bough/wal"
)

// What is in the state directory, besides what package postgres keeps there.
const (
	journalDir = "journal"
	cacheDir   = "cache"
	mntDir     = "mnt"
)

// daemon is everything that serve runs. Its parts are made in the order of the
// fields and taken down in the opposite one; those not made yet are nil.
type daemon struct {
	log    *slog.Logger
	socket string

	lock     *stateLock
	listener net.Listener
	objects  objects
	journals *wal.Pool
	frames   *cache.Frames
	store    *cow.Store
	disks    *disks
	kernel   *blockdev.Volumes
	volumes  *volumes
	endpoint *postgres.Manager
	files    *branchfs.Server
	backend  *backend
	door     *proxy.Server
	crowd    *crowd
	api      *api.Server
	apiConn  net.Listener

	host        cow.HostInfo // who this is among several; no ID if the store is not shared
	peers       *peers
	meter       *meterstore.Store
	hosts       *hosts.Server
	hostsServed chan error
	recorded    bool // host is in the store

	endDoor    context.CancelFunc // closes the clients' connections
	endExpirer context.CancelFunc // ends the deletion of what expires, and the collection
	served     chan error         // one from each of door, api, crowd, tuner, expirer and collector
}

// startDaemon makes everything up to the point where serve may be called. When
// it fails, nothing stays behind.
func (o *serve) startDaemon(ctx context.Context, log *slog.Logger) (*daemon, error) {
	d := &daemon{log: log, socket: o.daemonSocket(), served: make(chan error, 6)}
	if err := o.startSteps(ctx, d); err != nil {
		undo, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
		defer cancel()
		return nil, errors.Join(o.explain(err), d.stop(undo))
	}
	return d, nil
}

func (o *serve) startSteps(ctx context.Context, d *daemon) error {
	for _, step := range []func(context.Context, *daemon) error{
		o.openHost, o.openStore, o.openKernel, o.openBackend, o.openPeers, o.createFirst,
	} {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := step(ctx, d); err != nil {
			return err
		}
	}
	return nil
}

func (o *serve) daemonSocket() string {
	if o.socket != "" {
		return o.socket
	}
	if s := o.getenv("BOUGH_SOCKET"); s != "" {
		return s
	}
	return filepath.Join(o.state, socketName)
}

// openHost takes what only one daemon can have: the state directory and the port.
func (o *serve) openHost(ctx context.Context, d *daemon) (err error) {
	if d.lock, err = lockState(o.state); err != nil {
		return err
	}
	if err := checkDisk(o.state, d.log); err != nil {
		return err
	}
	var lc net.ListenConfig
	d.listener, err = lc.Listen(ctx, "tcp", o.listen)
	if errors.Is(err, syscall.EADDRINUSE) {
		return fmt.Errorf("address %s is taken: stop what listens there, or choose another one with --listen", o.listen)
	}
	if err != nil {
		return fmt.Errorf("listen for Postgres clients: %w: choose another address with --listen", err)
	}
	return nil
}

// openStore opens the disks and the store, and brings into the store what an
// earlier daemon left in its journals.
func (o *serve) openStore(ctx context.Context, d *daemon) (err error) {
	if d.objects, err = o.openObjects(ctx, d.log); err != nil {
		return err
	}
	d.journals, err = wal.OpenPool(vfs.OS(), filepath.Join(o.state, journalDir), wal.PoolOptions{MaxBytes: o.journalBytes, Logger: d.log})
	if err != nil {
		return err
	}
	if o.cache == cacheAuto {
		if o.cacheBytes, err = autoCacheBytes(o.state, o.store); err != nil {
			return err
		}
	}
	if o.cacheBytes > 0 {
		d.frames, err = cache.OpenFrames(vfs.OS(), filepath.Join(o.state, cacheDir), cache.FramesOptions{Bytes: o.cacheBytes, Logger: d.log})
		if err != nil {
			return err
		}
	}
	d.meter = meterstore.New(d.objects, nil)
	if sharedStore(o.store) {
		if err := o.identify(ctx, d, d.meter); err != nil {
			return err
		}
	}
	began := time.Now()
	if o.historyCap == historyAuto {
		if o.historyBytes, err = autoHistoryBytes(o.store); err != nil {
			return fmt.Errorf("look at the disk of the store: %w", err)
		}
	}
	keeps, err := historyOf(o.history)
	if err != nil {
		return err
	}
	memory := cache.NewMemory(o.memoryBytes / 4)
	d.store, err = cow.OpenStore(ctx, cow.Options{
		Objects: d.meter, Journals: d.journals, Frames: d.frames, Memory: memory, Host: d.host.ID, Shared: d.host.ID != "",
		WriteThrough: o.writeMode == writeThrough, Retention: keeps, Logger: d.log,
		Marker: func(last cow.Mark) cow.Marker { return walpage.New(last) },
	})
	if err != nil {
		return err
	}
	d.log.Info("store is open", "store", o.store, "took", time.Since(began).Round(time.Millisecond))
	d.disks = newDisks(d.store, d.log)
	d.peers = newPeers(d.store, localNetwork(), d.log)
	d.peers.far = d.frames != nil || isURL(o.store)
	d.backend = &backend{
		app: o.app, store: catalogue{d.store, storePatience}, disks: d.disks, log: d.log, started: o.now(), listen: d.listener.Addr().String(),
		state: o.state, location: o.store, writeMode: o.writeMode, memoryBytesMax: o.memoryBytes,
		journals: d.journals, journalBytes: o.journalBytes, frames: d.frames, memory: memory,
		quiet: map[cow.BranchID]*quiet{}, throwaways: map[string]bool{}, peers: d.peers, meter: d.meter,
	}
	return nil
}

// openObjects opens the object store, once it is seen to be one.
func (o *serve) openObjects(ctx context.Context, log *slog.Logger) (objects, error) {
	if isURL(o.store) {
		return openS3(ctx, o.store, log)
	}
	if err := checkStoreDir(o.store); err != nil {
		return nil, err
	}
	return openObjects(ctx, o.store, objectOptions{exclusive: true, logger: log})
}

// autoCacheBytes returns how much of the disk the cache gets if nobody says. A
// store on the same file system is read as quickly as the cache would be, and the
// cache would write everything once more: docs/format-cache.md has the figures.
func autoCacheBytes(state, store string) (int64, error) {
	if isURL(store) {
		return cacheBytesAuto, nil
	}
	var st [2]unix.Stat_t
	for i, dir := range []string{state, store} {
		if err := unix.Stat(dir, &st[i]); err != nil {
			return 0, fmt.Errorf("look at %s: %w", dir, err)
		}
	}
	if st[0].Dev == st[1].Dev {
		return 0, nil
	}
	return cacheBytesAuto, nil
}

// cacheBytesAuto is the size of the cache for a store that is elsewhere.
const cacheBytesAuto = 1 << 30

// openKernel takes away what a killed daemon left in the kernel, then mounts
// the branches' files.
func (o *serve) openKernel(ctx context.Context, d *daemon) (err error) {
	if d.kernel, err = blockdev.NewVolumes(blockdev.Options{State: o.state, Logger: d.log}); err != nil {
		return err
	}
	through := o.writeMode == writeThrough
	d.volumes = newVolumes(d.peers, d.kernel, through)
	d.crowd = newCrowd(d.log)
	d.endpoint, err = postgres.New(ctx, postgres.Options{
		StateDir: o.state, Store: d.backend.store, Volumes: d.volumes, Hold: d.volumes.hold, WriteThrough: through,
		BinDir: o.pgBin, User: o.pgUser, Clients: d.crowd.of, Logger: d.log,
	})
	if err != nil {
		return err
	}
	d.crowd.tune = d.endpoint.Retune
	// Servers first: they hold the devices that are to be taken away.
	if err := d.endpoint.CleanupStale(ctx); err != nil {
		return err
	}
	report, err := d.kernel.Cleanup(ctx)
	if err != nil {
		return err
	}
	if !report.Empty() {
		d.log.Info("took away what an earlier daemon left", "mounts", len(report.Unmounted), "devices", len(report.Detached), "busy", report.Busy)
	}
	d.files, err = branchfs.Mount(ctx, branchfs.Options{Source: d.disks, Dir: filepath.Join(o.state, mntDir), Logger: d.log})
	if err != nil {
		return err
	}
	d.volumes.files, d.volumes.disks = d.files, d.disks
	return nil
}

// openBackend makes the two servers.
func (o *serve) openBackend(_ context.Context, d *daemon) (err error) {
	d.backend.endpoint, d.backend.volumes = d.endpoint, d.volumes
	d.backend.expirer = newExpirer(d.backend)
	d.backend.collector = &collector{
		store: d.store, meter: d.meter, log: d.log, now: o.now, pace: &pacer{busy: d.disks.barriers},
		trim:  func(ctx context.Context) { d.volumes.trimAll(ctx, d.log) },
		every: o.collectEvery, historyBytes: o.historyBytes,
	}
	d.volumes.lost = d.backend.lost
	d.door, err = proxy.New(proxy.Options{Waker: waker{d.backend}, Observer: d.crowd, Logger: d.log})
	if err != nil {
		return err
	}
	d.backend.door = d.door
	d.backend.metrics = newMetrics(d.backend)
	d.api = api.NewServer(d.backend, api.Options{Logger: d.log})
	conn, err := api.Listen(d.socket)
	if err != nil {
		return err
	}
	d.apiConn = conn
	return nil
}

// createFirst makes the project that --create names, unless it is there.
func (o *serve) createFirst(ctx context.Context, d *daemon) error {
	if o.create == "" {
		return nil
	}
	_, err := d.backend.CreateProject(ctx, api.CreateProject{Name: o.create, PGVersion: o.pgVersion})
	if api.CodeOf(err) == api.CodeAlreadyExists {
		return nil
	}
	if err == nil {
		d.log.Info("created project", "project", o.create)
	}
	return err
}

// serve starts the two servers and returns a channel that has an error if one
// of them ends before stop.
func (d *daemon) serve() <-chan error {
	ctx, cancel := context.WithCancel(context.Background())
	d.endDoor = cancel
	early := make(chan error, 3)
	run := func(what string, serve func() error) {
		err := serve()
		d.served <- err
		if err != nil {
			early <- fmt.Errorf("%s: %w", what, err)
		}
	}
	go run("serve Postgres clients", func() error {
		err := d.door.Serve(ctx, d.listener)
		if errors.Is(err, proxy.ErrClosed) { // a signal was quicker
			return nil
		}
		return err
	})
	go run("serve the socket", func() error { return d.api.Serve(d.apiConn) })
	expire, cancelExpire := context.WithCancel(ctx)
	d.endExpirer = cancelExpire
	go run("delete what expires", func() error {
		d.backend.expirer.run(expire)
		return nil
	})
	go run("collect", func() error {
		d.backend.collector.run(expire)
		return nil
	})
	go run("adapt settings", func() error {
		d.crowd.run(ctx)
		return nil
	})
	go run("tune endpoints", func() error {
		d.endpoint.Tune(ctx)
		return nil
	})
	go func() {
		<-d.files.Done()
		early <- errors.New("the file system of the branches was unmounted")
	}()
	return early
}

// explain adds what to do to the errors of a start that need it.
func (o *serve) explain(err error) error {
	switch {
	case errors.Is(err, cow.ErrNewerFormat), errors.Is(err, wal.ErrVersion):
		return fmt.Errorf("%w: run the newer version of bough", err)
	case errors.Is(err, cow.ErrCorrupt), errors.Is(err, dirstore.ErrDamaged):
		return fmt.Errorf("%w: put it back from a copy of the store; nothing else was touched", err)
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, wal.ErrFull):
		return fmt.Errorf("%w: make room on the disk; nothing is lost", err)
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("%w: run as root", err)
	case errors.Is(err, api.ErrSocketInUse):
		return fmt.Errorf("%w: another daemon answers there; choose another socket with --socket", err)
	default:
		return err
	}
}

// stop takes everything down in order, as far as ctx allows, and joins the
// errors. What it does not get done, the next start does.
func (d *daemon) stop(ctx context.Context) error {
	var errs []error
	note := func(what string, err error) {
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", what, err))
		}
	}
	if d.backend != nil {
		d.backend.stop()
	}
	d.stopServing(ctx, note)
	if d.volumes != nil && d.files != nil {
		note("detach branches", d.volumes.detachAll(ctx, d.log))
	}
	if d.files != nil {
		// What is still in use stays mounted until the process ends, as after a
		// kill: the next start finds it where it was and takes it away.
		note("unmount branches", d.files.Close(ctx))
	}
	if d.store != nil {
		note("close store", d.store.Close(ctx))
	}
	if d.volumes != nil {
		d.volumes.watches.Wait()
	}
	d.stopPeers(note)
	if d.recorded && len(errs) == 0 {
		note("take this host's record away", d.leave(ctx))
	}
	if d.journals != nil {
		note("close journals", d.journals.Close())
	}
	if d.frames != nil {
		note("close cache", d.frames.Close())
	}
	if d.objects != nil {
		note("close object store", d.objects.Close())
	}
	if d.lock != nil {
		note("unlock state directory", d.lock.release())
	}
	return errors.Join(errs...)
}

// stopServing ends the two servers and all endpoints. Clients are told by their
// Postgres that it shuts down, through the door that stays open until then.
func (d *daemon) stopServing(ctx context.Context, note func(string, error)) {
	running := d.endDoor != nil
	if running {
		d.endExpirer()
	}
	doorDone := make(chan error, 1)
	doorCtx, cutDoor := context.WithCancel(ctx)
	defer cutDoor()
	if d.door != nil && running {
		go func() { doorDone <- d.door.Shutdown(doorCtx) }()
	}
	if d.api != nil && running {
		apiCtx, cancel := context.WithTimeout(ctx, 10*time.Second)
		if err := d.api.Shutdown(apiCtx); err != nil {
			note("close socket", d.api.Close())
		}
		cancel()
	}
	if d.endpoint != nil {
		note("stop endpoints", d.endpoint.Close(ctx))
	}
	if !running {
		if d.apiConn != nil {
			note("close socket", d.apiConn.Close())
		}
		if d.listener != nil {
			note("close listener", d.listener.Close())
		}
		return
	}
	select {
	case <-doorDone:
	case <-time.After(2 * time.Second):
		cutDoor() // clients that do not take their leave
		<-doorDone
	}
	d.endDoor()
	for range cap(d.served) {
		note("serve", <-d.served)
	}
	if err := os.Remove(d.socket); err != nil && !errors.Is(err, fs.ErrNotExist) {
		note("remove socket", err)
	}
}
