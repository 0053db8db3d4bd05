package proxy

import (
	"bytes"
	"flag"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"
)

var seed = flag.Uint64("seed", 1, "seed of the random bytes sent through the door")

// randomBytes returns n bytes that depend on the seed alone.
func randomBytes(t *testing.T, n int) []byte {
	t.Logf("seed %d", *seed)
	var key [32]byte
	key[0] = byte(*seed)
	p := make([]byte, n)
	_, _ = rand.NewChaCha8(key).Read(p)
	return p
}

// bytesRead is what this process has read by system calls so far (splice does
// not count).
func bytesRead(t *testing.T) int {
	t.Helper()
	p, err := os.ReadFile("/proc/self/io")
	if err != nil {
		t.Skip(err)
	}
	_, rest, _ := strings.Cut(string(p), "rchar: ")
	line, _, _ := strings.Cut(rest, "\n")
	n, err := strconv.Atoi(line)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// TestKernelMovesTheBytes sends much both ways at once. Everything must arrive,
// and the only ones to read it must be the two ends: a door that copied through
// its own memory would read it once more.
func TestKernelMovesTheBytes(t *testing.T) {
	f := newFakePostgres(t)
	_, addr := startDoor(t, Options{Waker: wakeTo(f.addr)})
	client, server := f.session(t, addr, "pid+key1")
	data := randomBytes(t, 32<<20)
	before := bytesRead(t)
	type arrival struct {
		end string
		got []byte
		err error
	}
	arrived := make(chan arrival, 2)
	for end, c := range map[string]*peer{"client": client, "server": server} {
		go func() { _, _ = c.Write(data) }()
		go func() {
			got := make([]byte, len(data))
			n, err := io.ReadFull(c, got)
			arrived <- arrival{end, got[:n], err}
		}()
	}
	for range 2 {
		if a := <-arrived; !bytes.Equal(a.got, data) {
			t.Errorf("%s read %d of %d bytes (a prefix of what was sent: %t), %v",
				a.end, len(a.got), len(data), bytes.HasPrefix(data, a.got), a.err)
		}
	}
	if read := bytesRead(t) - before; read > 2*len(data)+len(data)/2 {
		t.Errorf("%d bytes were read to move 2 * %d", read, len(data))
	}
}

func TestClientEndsItsSide(t *testing.T) {
	f := newFakePostgres(t)
	_, addr := startDoor(t, Options{Waker: wakeTo(f.addr)})
	client, server := f.session(t, addr, "pid+key1")
	client.send([]byte("question"))
	_ = client.CloseWrite()
	if p, err := io.ReadAll(server); string(p) != "question" || err != nil {
		t.Fatalf("backend read %q, %v", p, err)
	}
	server.send([]byte("a late answer"))
	server.Close()
	if p, err := io.ReadAll(client); string(p) != "a late answer" || err != nil {
		t.Fatalf("client read %q, %v", p, err)
	}
}

// TestServerEndsItsSide is not what Postgres does, and works all the same.
func TestServerEndsItsSide(t *testing.T) {
	f := newFakePostgres(t)
	_, addr := startDoor(t, Options{Waker: wakeTo(f.addr)})
	client, server := f.session(t, addr, "pid+key1")
	server.send([]byte("last words"))
	_ = server.CloseWrite()
	if p, err := io.ReadAll(client); string(p) != "last words" || err != nil {
		t.Fatalf("client read %q, %v", p, err)
	}
	data := randomBytes(t, 4<<20)
	go func() {
		_, _ = client.Write(data)
		_ = client.CloseWrite()
	}()
	if p, err := io.ReadAll(server); !bytes.Equal(p, data) || err != nil {
		t.Fatalf("server read %d of %d bytes, %v", len(p), len(data), err)
	}
}

func TestBackendEnds(t *testing.T) {
	for _, tt := range []struct {
		name  string
		end   func(server *peer)
		words string
	}{
		{"close", func(c *peer) { c.Close() }, ""},
		{"last words", func(c *peer) { c.send([]byte("FATAL")); c.Close() }, "FATAL"},
		{"crash", func(c *peer) { _ = c.SetLinger(0); c.Close() }, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f := newFakePostgres(t)
			s, addr := startDoor(t, Options{Waker: wakeTo(f.addr)})
			client, server := f.session(t, addr, "pid+key1")
			tt.end(server)
			p, err := io.ReadAll(client)
			if string(p) != tt.words || isTimeout(err) {
				t.Errorf("client read %q, %v", p, err)
			}
			client.Close()
			eventually(t, "the session is over", func() bool { return s.Stats() == Stats{Accepted: 1} })
		})
	}
}

// TestLastWordsReachASender ends a backend while the client sends without
// pause: what the backend said last must not be lost to a reset.
func TestLastWordsReachASender(t *testing.T) {
	f := newFakePostgres(t)
	_, addr := startDoor(t, Options{Waker: wakeTo(f.addr)})
	client, server := f.session(t, addr, "pid+key1")
	sent := make(chan error, 1)
	go func() {
		p := make([]byte, 64<<10)
		for {
			if _, err := client.Write(p); err != nil {
				sent <- err
				return
			}
		}
	}()
	if _, err := io.ReadFull(server, make([]byte, 1<<20)); err != nil {
		t.Fatal(err)
	}
	server.send([]byte("FATAL: terminating connection"))
	_ = server.CloseWrite()
	client.expect([]byte("FATAL: terminating connection"))
	if p, err := io.ReadAll(client); len(p) > 0 || isTimeout(err) {
		t.Errorf("then read %q, %v", p, err)
	}
	client.Close()
	<-sent
}

func TestClientVanishes(t *testing.T) {
	f := newFakePostgres(t)
	s, addr := startDoor(t, Options{Waker: wakeTo(f.addr)})
	client, server := f.session(t, addr, "pid+key1")
	_ = client.SetLinger(0)
	client.Close()
	server.expectEnd()
	server.Close()
	eventually(t, "the session is over", func() bool { return s.Stats() == Stats{Accepted: 1} })
}

func TestSlowClient(t *testing.T) {
	f := newFakePostgres(t)
	_, addr := startDoor(t, Options{Waker: wakeTo(f.addr)})
	client, server := f.session(t, addr, "pid+key1")
	data := randomBytes(t, 64<<20)
	written := make(chan int, 1)
	_ = server.SetWriteDeadline(time.Now().Add(500 * time.Millisecond))
	go func() {
		n, _ := server.Write(data)
		written <- n
	}()
	n := <-written // stopped by the deadline, since nobody reads
	if n == len(data) {
		t.Fatalf("all %d bytes were taken for a client that reads nothing", n)
	}
	t.Logf("%d bytes under way", n)
	server.Close()
	got, err := io.ReadAll(client)
	if err != nil || !bytes.Equal(got, data[:n]) {
		t.Errorf("client read %d bytes, %v; want %d", len(got), err, n)
	}
}

// TestPlainConnections runs a session whose client side is not a TCP
// connection, as a TLS one will not be.
func TestPlainConnections(t *testing.T) {
	f := newFakePostgres(t)
	s, _ := startDoor(t, Options{Waker: wakeTo(f.addr)})
	near, far := net.Pipe()
	l := &oneConn{conn: make(chan net.Conn, 1), closed: make(chan struct{})}
	l.conn <- far
	served := make(chan error, 1)
	go func() { served <- s.Serve(t.Context(), l) }()
	if _, err := near.Write(startupOf(version30, "user", "app", "database", "app@demo")); err != nil {
		t.Fatal(err)
	}
	server, _ := f.accept(t)
	server.send(append(greetingOf("pid+key1"), "hello"...))
	want := append(greetingOf("pid+key1"), "hello"...)
	got := make([]byte, len(want))
	if _, err := io.ReadFull(near, got); err != nil || !bytes.Equal(got, want) {
		t.Errorf("client read %q, %v", got, err)
	}
	near.Close()
	server.expectEnd()
	server.Close()
	if err := s.Shutdown(t.Context()); err != nil {
		t.Error(err)
	}
	if err := <-served; err != nil {
		t.Error(err)
	}
}

// oneConn is a listener of one connection.
type oneConn struct {
	conn   chan net.Conn
	closed chan struct{}
}

// Accept returns the connection, then waits for Close.
func (l *oneConn) Accept() (net.Conn, error) {
	select {
	case c := <-l.conn:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

// Close ends Accept. The door closes a listener more than once.
func (l *oneConn) Close() error {
	select {
	case <-l.closed:
	default:
		close(l.closed)
	}
	return nil
}

// Addr is not used.
func (l *oneConn) Addr() net.Addr { return &net.TCPAddr{} }
