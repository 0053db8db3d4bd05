package proxy

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience bounds every wait of a test for something that is about to happen.
const patience = 20 * time.Second

const version30 = 3 << 16

// wakeFunc is a Waker made of a function.
type wakeFunc func(ctx context.Context, project, branch string) (string, error)

// Wake calls f.
func (f wakeFunc) Wake(ctx context.Context, project, branch string) (string, error) {
	return f(ctx, project, branch)
}

// wakeTo is a Waker of an endpoint that always runs at addr.
func wakeTo(addr string) Waker {
	return wakeFunc(func(context.Context, string, string) (string, error) { return addr, nil })
}

// startDoor serves opts on a free port until the test ends.
func startDoor(t *testing.T, opts Options) (*Server, string) {
	t.Helper()
	s, err := New(opts)
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- s.Serve(context.Background(), l) }()
	t.Cleanup(func() {
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		_ = s.Shutdown(ctx)
		if err := <-served; err != nil && !errors.Is(err, ErrClosed) {
			t.Errorf("Serve: %v", err)
		}
	})
	return s, l.Addr().String()
}

// eventually waits until ok is true. It polls: the states it waits for are
// those of the kernel and of other goroutines' sockets.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	limit := time.After(patience)
	for !ok() {
		select {
		case <-tick.C:
		case <-limit:
			t.Fatalf("waited %s in vain: %s", patience, what)
		}
	}
}

// packetOf makes a first packet of a code and what follows it.
func packetOf(code uint32, rest ...byte) []byte {
	p := binary.BigEndian.AppendUint32(nil, uint32(8+len(rest)))
	return append(binary.BigEndian.AppendUint32(p, code), rest...)
}

// startupOf makes a StartupMessage of names and values in turn.
func startupOf(version uint32, kv ...string) []byte {
	var rest []byte
	for _, s := range kv {
		rest = append(append(rest, s...), 0)
	}
	return packetOf(version, append(rest, 0)...)
}

// message makes a typed message.
func message(kind byte, body ...byte) []byte {
	return append(binary.BigEndian.AppendUint32([]byte{kind}, uint32(4+len(body))), body...)
}

// greetingOf is what a Postgres says to a client that it takes in.
func greetingOf(key string) []byte {
	return bytes.Join([][]byte{
		message('R', 0, 0, 0, 0),
		message('S', []byte("server_version\x0015.0\x00")...),
		message(typeBackendKeyData, []byte(key)...),
		message(typeReadyForQuery, 'I'),
	}, nil)
}

// peer is one end of a connection in a test.
type peer struct {
	*net.TCPConn
	t *testing.T
}

// dialPeer connects to addr.
func dialPeer(t *testing.T, addr string) *peer {
	t.Helper()
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(patience))
	return &peer{TCPConn: conn.(*net.TCPConn), t: t}
}

// send writes p whole.
func (c *peer) send(p []byte) {
	c.t.Helper()
	if _, err := c.Write(p); err != nil {
		c.t.Fatalf("send: %v", err)
	}
}

// expect reads as many bytes as want has and compares.
func (c *peer) expect(want []byte) {
	c.t.Helper()
	got := make([]byte, len(want))
	n, err := io.ReadFull(c, got)
	if err != nil || !bytes.Equal(got, want) {
		c.t.Fatalf("read %q, %v; want %q", clipBytes(got[:n]), err, clipBytes(want))
	}
}

// expectEnd reads the end of the connection.
func (c *peer) expectEnd() {
	c.t.Helper()
	if p, err := io.ReadAll(c); len(p) > 0 || errors.Is(err, context.DeadlineExceeded) || isTimeout(err) {
		c.t.Fatalf("read %q, %v; want the end", clipBytes(p), err)
	}
}

// expectRefusal reads an ErrorResponse and then the end.
func (c *peer) expectRefusal(code string) (fields map[byte]string) {
	c.t.Helper()
	p, err := io.ReadAll(c)
	if err != nil || len(p) < 5 || p[0] != errorResponseType || int(binary.BigEndian.Uint32(p[1:]))+1 != len(p) {
		c.t.Fatalf("read %q, %v; want one ErrorResponse", clipBytes(p), err)
	}
	fields = make(map[byte]string)
	for _, f := range bytes.Split(p[5:], []byte{0}) {
		if len(f) > 0 {
			fields[f[0]] = string(f[1:])
		}
	}
	if fields['C'] != code || fields['S'] != "FATAL" || fields['V'] != "FATAL" || fields['M'] == "" || errorCode(p[5:]) != code {
		c.t.Fatalf("got refusal %q, want code %s", fields, code)
	}
	return fields
}

func isTimeout(err error) bool {
	var ne net.Error
	return errors.As(err, &ne) && ne.Timeout()
}

func clipBytes(p []byte) string {
	if len(p) > 300 {
		return fmt.Sprintf("%s... (%d bytes)", p[:300], len(p))
	}
	return string(p)
}

// fakePostgres is a backend whose part the test plays.
type fakePostgres struct {
	addr  string
	conns chan *peer // each connection, before anything is read from it
	stop  func()     // stops listening: dials are refused from now on
}

// newFakePostgres listens until the test ends.
func newFakePostgres(t *testing.T) *fakePostgres {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	f := &fakePostgres{addr: l.Addr().String(), conns: make(chan *peer, 1024)}
	over := make(chan struct{})
	go func() {
		defer close(over)
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			_ = conn.SetDeadline(time.Now().Add(patience))
			f.conns <- &peer{TCPConn: conn.(*net.TCPConn), t: t}
		}
	}()
	f.stop = sync.OnceFunc(func() { l.Close(); <-over })
	t.Cleanup(func() {
		f.stop()
		close(f.conns)
		for c := range f.conns {
			c.Close()
		}
	})
	return f
}

// accept returns the next connection and the first packet on it.
func (f *fakePostgres) accept(t *testing.T) (*peer, []byte) {
	t.Helper()
	select {
	case c := <-f.conns:
		t.Cleanup(func() { c.Close() })
		packet, err := readPacket(c)
		if err != nil {
			t.Fatalf("backend: %v", err)
		}
		return c, packet
	case <-time.After(patience):
		t.Fatal("no connection reached the backend")
		return nil, nil
	}
}

// session connects a client through the door at addr to f, and returns both
// ends, past the greeting.
func (f *fakePostgres) session(t *testing.T, addr, key string) (client, server *peer) {
	t.Helper()
	client = dialPeer(t, addr)
	client.send(startupOf(version30, "user", "app", "database", "app@demo/dev"))
	server, packet := f.accept(t)
	if want := startupOf(version30, "user", "app", "database", "app"); !bytes.Equal(packet, want) {
		t.Fatalf("backend got %q, want %q", packet, want)
	}
	server.send(greetingOf(key))
	client.expect(greetingOf(key))
	return client, server
}

// wakeTurns is a Waker that answers with the addresses put into next.
func wakeTurns(next <-chan string) Waker {
	return wakeFunc(func(context.Context, string, string) (string, error) { return <-next, nil })
}
