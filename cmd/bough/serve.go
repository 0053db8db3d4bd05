package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"runtime/debug"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/bough-db/bough/api"
)

// The ways to make a write durable; see package cow.
const (
	writeFlush   = "flush"
	writeThrough = "through"
)

// cacheAuto lets autoCacheBytes choose the size of the cache on disk.
const cacheAuto = "auto"

// historyAuto lets autoHistoryBytes choose the bound of history.
const historyAuto = "auto"

// stopLimit bounds an orderly stop; what is not done by then, the next start
// cleans up.
const stopLimit = 3 * time.Minute

// serve is `bough serve`.
type serve struct {
	*app
	state, store, listen, create string
	api, apiAdvertise            string
	pgVersion                    int
	pgBin, pgUser                string
	writeMode                    string
	cache, journal, memory       string
	history, historyCap          string
	collectEvery                 time.Duration
	verbose                      bool

	// The same as numbers.
	cacheBytes, journalBytes, memoryBytes, historyBytes int64
}

func (a *app) serveCmd() *cobra.Command {
	o := &serve{app: a}
	cmd := &cobra.Command{
		Use:   "serve",
		Short: "Run the daemon",
		Long: "Run the daemon in the foreground: it serves all projects of one store to Postgres\n" +
			"clients, and its socket to the other commands. It needs root, for devices and mounts.\n\n" +
			"SIGINT or SIGTERM stops it in order; a second one in a hurry. Whatever way it ends,\n" +
			"no acknowledged transaction is lost, and the next start cleans up.",
		Example:           "  bough serve --create demo\n  bough serve --state /srv/bough --listen 0.0.0.0:6432",
		Args:              wantArgs(),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE:              o.run,
	}
	f := cmd.Flags()
	f.StringVar(&o.state, "state", "", "directory for what belongs to this host (default: BOUGH_STATE, else "+abbreviateHome(a, a.defaultState())+")")
	f.StringVar(&o.store, "store", "", "the object store: a directory, or s3://BUCKET/PREFIX[?endpoint=URL&region=NAME&…]\n(default: store in the state directory)")
	f.StringVar(&o.listen, "listen", "127.0.0.1:6432", "address for Postgres clients")
	f.StringVar(&o.api, "api", "", "address for the other hosts of a shared store, or none (default: that of --listen,\nany free port)")
	f.StringVar(&o.apiAdvertise, "api-advertise", "", "HOST:PORT at which other hosts reach --api, if that differs")
	f.StringVar(&o.create, "create", "", "create this project if it does not exist")
	f.IntVar(&o.pgVersion, "pg-version", 0, "major version of Postgres for --create (default: the newest installed)")
	f.StringVar(&o.pgBin, "pg-bin", "", "directory of the one Postgres to use (default: every installed one)")
	f.StringVar(&o.pgUser, "pg-user", "", "user to run Postgres as (default: postgres)")
	f.StringVar(&o.writeMode, "write-mode", writeFlush, "flush or through: when a write is journaled")
	f.StringVar(&o.cache, "cache-bytes", cacheAuto, "disk for the cache of the store, 0 for none; auto is 1GiB, or none\nfor a store on the file system of the state directory")
	f.StringVar(&o.journal, "journal-bytes", "4GiB", "disk for what is not yet in the store")
	f.StringVar(&o.memory, "memory-bytes", "256MiB", "memory that the daemon aims to stay below")
	f.StringVar(&o.history, "history", "7d", "which moments of the past are kept of projects that say nothing else;\nsee `bough project set --help`")
	f.StringVar(&o.historyCap, "history-bytes", historyAuto, "how much of the store the history of all branches may take, 0 for no bound;\nauto is a fifth of the disk for a store in a directory")
	f.DurationVar(&o.collectEvery, "gc-every", collectEvery, "how soon after changes the store is collected by itself, 0 for never")
	f.BoolVarP(&o.verbose, "verbose", "v", false, "log more")
	return cmd
}

// check turns the flags into what they mean.
func (o *serve) check() error {
	if o.state == "" {
		o.state = o.defaultState()
	}
	var err error
	if o.state, err = filepath.Abs(o.state); err != nil {
		return fmt.Errorf("find state directory: %w", err)
	}
	if o.store == "" {
		o.store = filepath.Join(o.state, "store")
	}
	if err := checkLocation(o.store); err != nil {
		return usagef("--store: %w", err)
	}
	if !isURL(o.store) {
		if o.store, err = filepath.Abs(o.store); err != nil {
			return fmt.Errorf("find store directory: %w", err)
		}
	}
	if _, _, err := net.SplitHostPort(o.listen); err != nil {
		return usagef("--listen %q is not an address: write HOST:PORT, such as 127.0.0.1:6432", o.listen)
	}
	if err := o.checkAPI(); err != nil {
		return err
	}
	if o.create != "" {
		if _, err := projectArg(o.create); err != nil {
			return err
		}
	}
	if o.writeMode != writeFlush && o.writeMode != writeThrough {
		return usagef("--write-mode %q: choose flush or through", o.writeMode)
	}
	if o.cache != cacheAuto {
		if o.cacheBytes, err = parseSize("--cache-bytes", o.cache); err != nil {
			return err
		}
	}
	if o.historyCap != historyAuto {
		if o.historyBytes, err = parseSize("--history-bytes", o.historyCap); err != nil {
			return err
		}
	}
	if _, err := historyOf(o.history); err != nil {
		return usagef("--history: %w", err)
	}
	if o.collectEvery < 0 || o.collectEvery > 0 && o.collectEvery < time.Second {
		return usagef("--gc-every %v: give at least 1s, or 0 for never", o.collectEvery)
	}
	for _, s := range []struct {
		flag, text string
		bytes      *int64
		least      int64
	}{
		{"--journal-bytes", o.journal, &o.journalBytes, 64 << 20},
		{"--memory-bytes", o.memory, &o.memoryBytes, 128 << 20},
	} {
		if *s.bytes, err = parseSize(s.flag, s.text); err != nil {
			return err
		}
		if *s.bytes < s.least {
			return usagef("%s %s is too little: give at least %s", s.flag, s.text, size(s.least))
		}
	}
	return nil
}

func (o *serve) run(cmd *cobra.Command, _ []string) error {
	if err := o.check(); err != nil {
		return err
	}
	log := o.logger()
	errHost := checkHost(cmd.Context(), log, o.pgBin)
	beFlusher(log)
	debug.SetMemoryLimit(o.memoryBytes)
	// cobra's context ends at the first signal; everything here outlives it.
	start, stopStart := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stopStart()
	// A signal that came before that ended cobra's alone.
	if cmd.Context().Err() != nil {
		return errors.New("stopped before it was ready")
	}
	if errHost != nil {
		return errHost
	}

	d, err := o.startDaemon(start, log)
	if err != nil {
		if start.Err() != nil {
			return errors.New("stopped before it was ready")
		}
		return err
	}
	notify(o.getenv("NOTIFY_SOCKET"), "READY=1")
	served := d.serve()
	if err := o.announce(d); err != nil {
		log.Warn("announce", "err", err)
	}
	select {
	case <-start.Done():
		log.Info("stopping: endpoints first; once more to hurry")
	case err = <-served:
		log.Error("stopping", "err", err)
	}
	notify(o.getenv("NOTIFY_SOCKET"), "STOPPING=1")

	// The second signal ends this context, and the third the process.
	hurry, stopHurry := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stopHurry()
	stopStart()
	ctx, cancel := context.WithTimeout(hurry, stopLimit)
	defer cancel()
	context.AfterFunc(ctx, stopHurry)
	if stopErr := d.stop(ctx); stopErr != nil {
		if hurry.Err() != nil {
			// Not wrapped: a cancelled context is no news after two signals.
			return fmt.Errorf("stopped in a hurry; the next start cleans up: %s", oneLine(stopErr.Error()))
		}
		return errors.Join(err, stopErr)
	}
	log.Info("stopped")
	return err
}

// ready is the JSON line that says that the daemon is up.
type ready struct {
	Ready  bool      `json:"ready"`
	PID    int       `json:"pid"`
	Socket string    `json:"socket"`
	Listen string    `json:"listen"`
	State  string    `json:"state"`
	Store  string    `json:"store"`
	Time   time.Time `json:"time"`
	// Project is the one that --create named, and URL leads to its main branch.
	Project string `json:"project,omitempty"`
	URL     string `json:"url,omitempty"`
}

// announce prints how to connect.
func (o *serve) announce(d *daemon) error {
	r := ready{
		Ready: true, PID: os.Getpid(), Socket: d.socket, Listen: d.listener.Addr().String(),
		State: o.state, Store: o.store, Time: o.now(), Project: o.create,
	}
	if o.create != "" {
		conn, err := d.backend.Connection(context.Background(), o.create, api.MainBranch)
		if err != nil {
			return err
		}
		r.URL = conn.URL
	}
	if o.json {
		return json.NewEncoder(o.out).Encode(r)
	}
	project, flag := "PROJECT", ""
	if o.create != "" {
		project = o.create
	}
	if d.socket != o.defaultSocket() {
		flag = " --socket " + d.socket
	}
	// As it was called: `make run` calls a program that is not in PATH.
	bough := o.name + flag
	var b strings.Builder
	fmt.Fprintf(&b, "bough is ready; Postgres clients connect to %s\n\n", r.Listen)
	if o.create == "" {
		fmt.Fprintf(&b, "  %s project create PROJECT\n", bough)
	}
	fmt.Fprintf(&b, "  %s psql %s\n", bough, project)
	fmt.Fprintf(&b, "  %s branch create %s/dev\n", bough, project)
	fmt.Fprintf(&b, "  %s url %s/dev\n\n", bough, project)
	_, err := fmt.Fprint(o.out, b.String())
	return err
}

// logger returns the daemon's log, on standard error.
func (o *serve) logger() *slog.Logger {
	level := slog.LevelInfo
	if o.verbose {
		level = slog.LevelDebug
	}
	return newLogger(o.err, terminal(o.err), o.json, o.getenv("NO_COLOR") != "", level)
}
