package e2e

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/bough-db/bough/api"
	"github.com/bough-db/bough/test/netfault"
	"github.com/bough-db/bough/test/s3server"
)

// cloud is an S3 server with one store, which has a template. Tests share it: each has
// its own hosts, and projects of its own.
type cloud struct {
	once     sync.Once
	server   *s3server.Server
	err      error
	projects atomic.Int64
}

// sharedStore returns the suite's S3 store, which the first test that wants it makes.
func sharedStore(t *testing.T) *cloud {
	t.Helper()
	if run.skip != "" {
		t.Skip(run.skip)
	}
	c := &run.cloud
	c.once.Do(func() {
		dir := filepath.Join(run.root, "s3")
		if c.err = os.Mkdir(dir, 0o755); c.err != nil {
			return
		}
		if c.server, c.err = s3server.Start(context.Background(), s3server.Options{Dir: dir}); c.err == nil {
			h := c.host(t)
			h.start("--create", c.project())
			h.stop()
		}
	})
	if errors.Is(c.err, s3server.ErrNotBuilt) && os.Getenv("BOUGH_VERSITYGW") == "" {
		t.Skip(c.err)
	}
	if c.err != nil || c.server == nil {
		t.Fatalf("make the shared store: %v", c.err)
	}
	return c
}

func (c *cloud) close() error {
	if c.server == nil {
		return nil
	}
	return c.server.Close()
}

// project returns the name of a project that no other test has.
func (c *cloud) project() string { return "p" + strconv.FormatInt(c.projects.Add(1), 10) }

// host returns a host of the store, on which no daemon runs yet.
func (c *cloud) host(t *testing.T, args ...string) *host {
	t.Helper()
	return c.hostAt(t, c.server.URL("store"), args...)
}

// hostAt is host for a host that reaches the store at another URL.
func (c *cloud) hostAt(t *testing.T, url string, args ...string) *host {
	t.Helper()
	h := newHost(t, append([]string{"--store", url}, args...)...)
	h.env = c.server.Env()
	return h
}

// id returns a running host's id.
func (h *host) id() string {
	h.t.Helper()
	var s api.Status
	h.json(&s, "status")
	if s.Store.Host == "" {
		h.t.Fatal("the host has no id")
	}
	return s.Store.Host
}

// newLink returns a way to an address that can be made bad, which is gone when the
// test ends.
func newLink(t *testing.T, target string) *netfault.Link {
	t.Helper()
	l, err := netfault.NewLink(target, netfault.Line{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	})
	return l
}

// logHas returns an error unless the daemon's log has all the words on one line.
func (h *host) logHas(words ...string) error {
	text, err := os.ReadFile(h.log)
	if err != nil {
		return err
	}
	for line := range strings.SplitSeq(string(text), "\n") {
		has := true
		for _, w := range words {
			has = has && strings.Contains(line, w)
		}
		if has {
			return nil
		}
	}
	return fmt.Errorf("no line of the log has %q", words)
}
