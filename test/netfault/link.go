package netfault

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// Line says how bad a line is. The zero value is a good one.
type Line struct {
	// Up and Down are how long what the client, or the server, sends is under way.
	Up, Down time.Duration
	// UpRate and DownRate are how many bytes pass in a second. Default: no limit.
	UpRate, DownRate int64
	// Blackhole: nothing passes and nothing breaks, as if packets were lost. What was
	// sent meanwhile passes when it is over.
	Blackhole bool
	// Refuse: new connections are reset at once.
	Refuse bool
	// CutAfter: every connection is reset once so many bytes have passed, counted
	// from its begin and in both directions together. Default: never.
	CutAfter int64
	// CloseAfter is how long the end of a connection is kept from the other side.
	CloseAfter time.Duration
}

// Link is a TCP proxy in front of one server, over a line that can be made bad while it
// is in use. Its methods may be called concurrently.
type Link struct {
	*conns
	addr string

	mu      sync.Mutex
	line    Line
	changed chan struct{} // closed when line changes

	accepted, up, down atomic.Int64
}

// LinkCounts is what has passed a Link.
type LinkCounts struct {
	Connections int64 // accepted, refused ones too
	UpBytes     int64 // from clients to the server
	DownBytes   int64 // from the server to clients
}

// NewLink starts a proxy in front of the server at addr, HOST:PORT. The caller closes it.
func NewLink(addr string, line Line) (*Link, error) {
	c, err := listen()
	if err != nil {
		return nil, fmt.Errorf("start TCP proxy: %w", err)
	}
	l := &Link{conns: c, addr: addr, line: line, changed: make(chan struct{})}
	l.run(l.serve)
	return l, nil
}

// Set replaces the line: for new connections and for those that there are.
func (l *Link) Set(line Line) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.line = line
	close(l.changed)
	l.changed = make(chan struct{})
}

// Reset breaks all connections that there are.
func (l *Link) Reset() { l.each(reset) }

// Counts returns what has passed so far.
func (l *Link) Counts() LinkCounts {
	return LinkCounts{Connections: l.accepted.Load(), UpBytes: l.up.Load(), DownBytes: l.down.Load()}
}

// now returns the line, and a channel that is closed when it changes.
func (l *Link) now() (Line, <-chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.line, l.changed
}

// reset closes a connection so that the other end is told that it broke.
func reset(c *net.TCPConn) {
	_ = c.SetLinger(0) // one that is closed already needs none
	_ = c.Close()
}

// serve carries one connection.
func (l *Link) serve(ctx context.Context, client *net.TCPConn) {
	l.accepted.Add(1)
	if line, _ := l.now(); line.Refuse {
		reset(client)
		return
	}
	server, err := l.dial(ctx, l.addr)
	if err != nil {
		reset(client)
		return
	}
	defer l.hangUp(server)
	passed := new(atomic.Int64)
	cut := func() { reset(client); reset(server) }
	up := &way{link: l, from: client, to: server, passed: passed, total: &l.up, cut: cut,
		delay: func(n Line) (time.Duration, int64) { return n.Up, n.UpRate }}
	down := &way{link: l, from: server, to: client, passed: passed, total: &l.down, cut: cut,
		delay: func(n Line) (time.Duration, int64) { return n.Down, n.DownRate }}
	var both sync.WaitGroup
	both.Go(func() { up.carry(ctx) })
	both.Go(func() { down.carry(ctx) })
	both.Wait()
}

// Sizes of what is under way in one direction of a connection.
const (
	packetBytes = 16 << 10
	packetsMax  = 64
)

// packet is what was read at once, and when.
type packet struct {
	data []byte
	read time.Time
}

// way is one direction of a connection.
type way struct {
	link     *Link
	from, to *net.TCPConn
	passed   *atomic.Int64 // of the connection
	total    *atomic.Int64 // of the link, in this direction
	cut      func()
	delay    func(Line) (time.Duration, int64)
}

// carry passes on what comes, until one end is closed.
func (w *way) carry(ctx context.Context) {
	reading, cancel := context.WithCancel(ctx)
	defer cancel()
	underWay := make(chan packet, packetsMax)
	var broke error
	go func() {
		defer close(underWay)
		for {
			p := make([]byte, packetBytes)
			n, err := w.from.Read(p)
			if n > 0 {
				select {
				case underWay <- packet{p[:n], time.Now()}:
				case <-reading.Done():
					return
				}
			}
			if err != nil {
				broke = err
				return
			}
		}
	}()
	for p := range underWay {
		if err := w.pass(ctx, p); err != nil {
			// The other direction has nobody to talk to either.
			w.cut()
			cancel()
		}
	}
	// The reader has ended: it was the one to close underWay.
	if broke != io.EOF {
		w.cut() // or somebody else has, and this changes nothing
		return
	}
	line, err := w.open(ctx)
	if err == nil && pause(ctx, line.CloseAfter) {
		_ = w.to.CloseWrite() // it may be closed already
	}
}

// errCut: the line cuts its connections after so many bytes.
var errCut = errors.New("connection cut")

// pass writes a packet when its time has come.
func (w *way) pass(ctx context.Context, p packet) error {
	line, err := w.open(ctx)
	if err != nil {
		return err
	}
	delay, rate := w.delay(line)
	if !pause(ctx, time.Until(p.read.Add(delay))) {
		return ctx.Err()
	}
	// Counted before they pass: the other direction is not to pass them, too.
	data, cut := p.data, false
	if passed := w.passed.Add(int64(len(data))); line.CutAfter > 0 && passed >= line.CutAfter {
		data, cut = data[:max(0, int64(len(data))-(passed-line.CutAfter))], true
	}
	w.total.Add(int64(len(data)))
	if _, err := w.to.Write(data); err != nil {
		return err
	}
	if cut {
		return errCut
	}
	if rate > 0 && !pause(ctx, time.Duration(len(data))*time.Second/time.Duration(rate)) {
		return ctx.Err()
	}
	return nil
}

// open waits while nothing passes, and returns the line as it is then.
func (w *way) open(ctx context.Context) (Line, error) {
	for {
		line, changed := w.link.now()
		if !line.Blackhole {
			return line, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return Line{}, ctx.Err()
		}
	}
}
