package netfault

import (
	"context"
	"errors"
	"net"
	"sync"
	"time"
)

// conns is a listener on loopback and the connections of a proxy: all of them end with
// it.
type conns struct {
	listener *net.TCPListener
	cancel   context.CancelFunc
	wg       sync.WaitGroup

	mu     sync.Mutex
	open   map[*net.TCPConn]struct{}
	closed bool
}

// listen begins to listen. Connections wait until run.
func listen() (*conns, error) {
	l, err := net.ListenTCP("tcp", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		return nil, err
	}
	return &conns{listener: l, open: map[*net.TCPConn]struct{}{}}, nil
}

// run lets serve take each connection; serve does not close it.
func (c *conns) run(serve func(context.Context, *net.TCPConn)) {
	var ctx context.Context
	ctx, c.cancel = context.WithCancel(context.Background())
	c.wg.Go(func() {
		for {
			conn, err := c.listener.AcceptTCP()
			if errors.Is(err, net.ErrClosed) {
				return
			}
			if err != nil {
				// No file is left, perhaps: the next one may have more luck.
				if !pause(ctx, 10*time.Millisecond) {
					return
				}
				continue
			}
			if !c.keep(conn) {
				return
			}
			c.wg.Go(func() {
				defer c.hangUp(conn)
				serve(ctx, conn)
			})
		}
	})
}

// keep notes a connection, or closes it if the proxy has ended.
func (c *conns) keep(conn *net.TCPConn) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		_ = conn.Close()
		return false
	}
	c.open[conn] = struct{}{}
	return true
}

// hangUp closes a connection.
func (c *conns) hangUp(conn *net.TCPConn) {
	c.mu.Lock()
	delete(c.open, conn)
	c.mu.Unlock()
	_ = conn.Close() // nobody waits for what is lost by it
}

// dial connects to the server, for as long as the proxy lives.
func (c *conns) dial(ctx context.Context, addr string) (*net.TCPConn, error) {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	tcp := conn.(*net.TCPConn)
	if !c.keep(tcp) {
		return nil, net.ErrClosed
	}
	return tcp, nil
}

// each calls f with every connection.
func (c *conns) each(f func(*net.TCPConn)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for conn := range c.open {
		f(conn)
	}
}

// Address returns where the proxy listens, HOST:PORT.
func (c *conns) Address() string { return c.listener.Addr().String() }

// Close ends the proxy, with what is under way.
func (c *conns) Close() error {
	c.mu.Lock()
	c.closed = true
	c.mu.Unlock()
	c.cancel()
	err := c.listener.Close()
	c.each(func(conn *net.TCPConn) { _ = conn.Close() })
	c.wg.Wait()
	return err
}
