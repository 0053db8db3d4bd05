package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"time"

	"github.com/bough-db/bough/api"
	"github.com/bough-db/bough/api/client"
	"github.com/bough-db/bough/objstore"
	"github.com/bough-db/bough/objstore/s3store"
	"github.com/bough-db/bough/test/netfault"
	"github.com/bough-db/bough/test/s3server"
	"github.com/jackc/pgx/v5"
)

// coldSuite measures how long a client waits that connects to a sleeping database on
// a host which has nothing of it.
type coldSuite struct {
	o       options
	root    string
	server  *s3server.Server
	slow    *netfault.Latency
	objects objstore.Store // without the latency
	close   []func() error
	hosts   int
	took    map[string][]time.Duration
	order   []string // of the names in took
}

// loadSeconds is how long TPC-B runs between two cold wakes of a database in use.
const loadSeconds = 5

// runCold takes each kind of wake in turn, as often as asked for.
func runCold(ctx context.Context, root string, o options) (_ []latency, err error) {
	s := &coldSuite{o: o, root: root, took: map[string][]time.Duration{}}
	defer func() {
		for _, f := range s.close {
			err = errors.Join(err, f())
		}
	}()
	if err := s.start(ctx); err != nil {
		return nil, err
	}
	if err := s.near(ctx, s.fill); err != nil {
		return nil, err
	}
	for i := range o.wakes {
		fmt.Fprintf(os.Stderr, "cold wakes, round %d of %d\n", i+1, o.wakes)
		for _, step := range []func(context.Context, int) error{s.quiet, s.used, s.branches} {
			if err := step(ctx, i); err != nil {
				return nil, err
			}
		}
	}
	var found []latency
	for _, name := range s.order {
		found = append(found, newLatency(name, s.took[name]))
	}
	return found, nil
}

// start starts the store and what makes it slow.
func (s *coldSuite) start(ctx context.Context) (err error) {
	if s.server, err = s3server.Start(ctx, s3server.Options{}); err != nil {
		return err
	}
	s.close = append(s.close, s.server.Close)
	if err := useServer(s.server); err != nil {
		return err
	}
	if s.slow, err = netfault.NewLatency(s.server.Address(), 0, 0); err != nil {
		return err
	}
	s.close = append([]func() error{s.slow.Close}, s.close...)
	objects, err := s3store.Open(ctx, s.server.URL("cold"), s3store.Options{})
	if err != nil {
		return err
	}
	s.objects = objects
	s.close = append([]func() error{objects.Close}, s.close...)
	return nil
}

// host runs work on a host of its own, whose state is empty before and gone
// afterwards.
func (s *coldSuite) host(ctx context.Context, work func(context.Context, *client.Client) error) (err error) {
	o := s.o
	o.serve = []string{"--store", s.server.URLAt("http://"+s.slow.Address(), "cold")}
	s.hosts++
	state := filepath.Join(s.root, fmt.Sprint("host", s.hosts))
	d, err := startDaemon(ctx, o, state)
	if err != nil {
		return err
	}
	c := client.New(d.socket)
	defer func() {
		c.Close()
		err = errors.Join(err, d.stop(), os.RemoveAll(state))
	}()
	return work(ctx, c)
}

// near is host with a store that answers at once.
func (s *coldSuite) near(ctx context.Context, work func(context.Context, *client.Client) error) error {
	s.slow.Set(0, 0)
	return s.host(ctx, work)
}

// fill makes the database, and puts it to sleep.
func (s *coldSuite) fill(ctx context.Context, c *client.Client) error {
	conn, err := c.Connection(ctx, "bench", api.MainBranch)
	if err != nil {
		return err
	}
	fmt.Fprintf(os.Stderr, "filling the database: scale %d\n", s.o.coldScale)
	out, err := exec.CommandContext(ctx, "pgbench", "-i", "-q", "-s", strconv.Itoa(s.o.coldScale), conn.URL).CombinedOutput()
	if err != nil {
		return fmt.Errorf("pgbench -i: %w: %s", err, tail(out))
	}
	db, err := pgx.Connect(ctx, conn.URL)
	if err != nil {
		return err
	}
	defer db.Close(ctx)
	var bytes int64
	if err := db.QueryRow(ctx, "select pg_database_size(current_database())").Scan(&bytes); err != nil {
		return err
	}
	fmt.Printf("the database has %.0f MB\n", float64(bytes)/million)
	_, err = c.Suspend(ctx, "bench", api.MainBranch)
	return err
}

// quiet wakes a database that has only slept: without a start set, with one, and on
// the same host again.
func (s *coldSuite) quiet(ctx context.Context, _ int) error {
	if err := s.forget(ctx); err != nil {
		return err
	}
	if err := s.cold(ctx, api.MainBranch, "cold wake without a start set", ""); err != nil {
		return err
	}
	return s.cold(ctx, api.MainBranch, "cold wake", "warm wake of the same")
}

// used wakes a database that another host has changed since its last start.
func (s *coldSuite) used(ctx context.Context, _ int) error {
	err := s.near(ctx, func(ctx context.Context, c *client.Client) error {
		conn, err := c.Connection(ctx, "bench", api.MainBranch)
		if err != nil {
			return err
		}
		out, err := exec.CommandContext(ctx, "pgbench", "-n", "-c", strconv.Itoa(s.o.clients), "-j", "2",
			"-T", strconv.Itoa(loadSeconds), conn.URL).CombinedOutput()
		if err != nil {
			return fmt.Errorf("pgbench: %w: %s", err, tail(out))
		}
		_, err = c.Suspend(ctx, "bench", api.MainBranch)
		return err
	})
	if err != nil {
		return err
	}
	return s.cold(ctx, api.MainBranch, fmt.Sprintf("cold wake after %d s of TPC-B elsewhere", loadSeconds), "")
}

// branches starts new branches: one that has what its parent's start read, one that
// also has what the first start of the other one read, and one that has nothing.
func (s *coldSuite) branches(ctx context.Context, round int) error {
	for i, what := range []string{
		"first start of a new branch, cold", "the same of its sibling", "the same without a start set",
	} {
		name := fmt.Sprintf("b%d-%d", round, i)
		if i == 2 {
			if err := s.forget(ctx); err != nil {
				return err
			}
		}
		err := s.near(ctx, func(ctx context.Context, c *client.Client) error {
			_, err := c.CreateBranch(ctx, "bench", api.CreateBranch{Name: name})
			return err
		})
		if err != nil {
			return err
		}
		if err := s.cold(ctx, name, what, ""); err != nil {
			return err
		}
	}
	return nil
}

// cold takes the time of one wake on a new host, and of another one there.
func (s *coldSuite) cold(ctx context.Context, branch, what, again string) error {
	s.slow.Set(getTime, putTime)
	return s.host(ctx, func(ctx context.Context, c *client.Client) error {
		conn, err := c.Connection(ctx, "bench", branch)
		if err != nil {
			return err
		}
		for _, name := range []string{what, again} {
			if name == "" {
				break
			}
			took, err := firstRow(ctx, conn.URL)
			if err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
			if s.took[name] == nil {
				s.order = append(s.order, name)
			}
			s.took[name] = append(s.took[name], took)
			fmt.Fprintf(os.Stderr, "%s: %v\n", name, took.Round(time.Millisecond))
			if _, err := c.Suspend(ctx, "bench", branch); err != nil {
				return err
			}
		}
		return nil
	})
}

// firstRow returns how long it takes to connect and to get a row.
func firstRow(ctx context.Context, url string) (time.Duration, error) {
	began := time.Now()
	db, err := pgx.Connect(ctx, url)
	if err != nil {
		return 0, err
	}
	defer db.Close(ctx)
	var one int
	err = db.QueryRow(ctx, "select 1").Scan(&one)
	return time.Since(began), err
}

// forget removes all start sets from the store.
func (s *coldSuite) forget(ctx context.Context) error {
	for after := ""; ; {
		list, err := s.objects.List(ctx, "branches/", after, 0)
		if err != nil {
			return err
		}
		for _, i := range list {
			after = i.Key
			if filepath.Base(i.Key) != "start" {
				continue
			}
			if err := s.objects.Delete(ctx, i.Key); err != nil {
				return err
			}
		}
		if len(list) < objstore.ListMax {
			return nil
		}
	}
}
