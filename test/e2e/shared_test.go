package e2e

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/bough-db/bough/api"
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

// link is a way from one host to the store, which can be cut off and mended.
type link struct {
	listener net.Listener
	target   string
	tasks    sync.WaitGroup

	mu    sync.Mutex
	open  chan struct{} // closed while data passes
	conns map[net.Conn]bool
}

// newLink returns a link to an address, which is gone when the test ends.
func newLink(t *testing.T, target string) *link {
	t.Helper()
	l := &link{target: target, open: make(chan struct{}), conns: map[net.Conn]bool{}}
	close(l.open)
	var err error
	if l.listener, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	l.tasks.Go(l.accept)
	t.Cleanup(func() {
		_ = l.listener.Close()
		l.mend()
		l.mu.Lock()
		for c := range l.conns {
			_ = c.Close()
		}
		l.conns = nil
		l.mu.Unlock()
		l.tasks.Wait()
	})
	return l
}

func (l *link) endpoint() string { return "http://" + l.listener.Addr().String() }

func (l *link) accept() {
	for {
		c, err := l.listener.Accept()
		if err != nil {
			return // the test is over
		}
		l.tasks.Go(func() { l.carry(c) })
	}
}

// carry carries a connection.
func (l *link) carry(c net.Conn) {
	defer l.drop(c)
	far, err := net.Dial("tcp", l.target)
	if err != nil || !l.note(c) || !l.note(far) {
		if far != nil {
			_ = far.Close()
		}
		return
	}
	defer l.drop(far)
	done := make(chan struct{})
	go func() {
		defer close(done)
		l.copy(far, c)
		_ = c.Close()
		_ = far.Close()
	}()
	l.copy(c, far)
	_ = c.Close()
	_ = far.Close()
	<-done
}

func (l *link) note(c net.Conn) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.conns == nil {
		return false
	}
	l.conns[c] = true
	return true
}

func (l *link) drop(c net.Conn) {
	_ = c.Close()
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.conns, c)
}

// copy copies what passes, as far as it may.
func (l *link) copy(to io.Writer, from io.Reader) {
	p := make([]byte, 64<<10)
	for {
		n, err := from.Read(p)
		l.mu.Lock()
		open := l.open
		l.mu.Unlock()
		<-open
		if n > 0 {
			if _, werr := to.Write(p[:n]); werr != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}

// cut lets nothing pass any more; connections stay, and new ones are made.
func (l *link) cut() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.open = make(chan struct{})
}

// mend lets everything pass that has waited.
func (l *link) mend() {
	l.mu.Lock()
	defer l.mu.Unlock()
	select {
	case <-l.open:
	default:
		close(l.open)
	}
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
