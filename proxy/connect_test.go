package proxy

import (
	"context"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// sleeper is a Waker whose endpoint starts when the test says so.
type sleeper struct {
	addr  string
	calls atomic.Int32
	asked chan struct{} // gets one value for each call
	start chan struct{} // closed to let the calls return
}

func newSleeper(addr string) *sleeper {
	return &sleeper{addr: addr, asked: make(chan struct{}, 1000), start: make(chan struct{})}
}

// Wake waits for start.
func (w *sleeper) Wake(ctx context.Context, _, _ string) (string, error) {
	w.calls.Add(1)
	w.asked <- struct{}{}
	select {
	case <-w.start:
		return w.addr, nil
	case <-ctx.Done():
		return "", ctx.Err()
	}
}

// joined waits until n clients have joined the wake of demo/dev that is under
// way. A client that counts as waiting may still be on its way there.
func joined(t *testing.T, s *Server, n int) {
	t.Helper()
	eventually(t, "all join the wake", func() bool {
		s.wakes.mu.Lock()
		defer s.wakes.mu.Unlock()
		f := s.wakes.flights[route{project: "demo", branch: "dev"}]
		return f != nil && f.joined == n
	})
}

func TestManyClientsOneWake(t *testing.T) {
	const clients = 200
	f := newFakePostgres(t)
	w := newSleeper(f.addr)
	s, addr := startDoor(t, Options{Waker: w})
	var all []*peer
	for range clients {
		c := dialPeer(t, addr)
		c.send(startupOf(version30, "user", "app", "database", "app@demo/dev"))
		all = append(all, c)
	}
	joined(t, s, clients)
	close(w.start)
	var wg sync.WaitGroup
	for range clients {
		server, _ := f.accept(t)
		wg.Go(func() { _, _ = server.Write(greetingOf("pid+key1")) })
	}
	for _, c := range all {
		c.expect(greetingOf("pid+key1"))
	}
	wg.Wait()
	if got := w.calls.Load(); got != 1 {
		t.Errorf("%d wakes, want 1", got)
	}
}

func TestWaitingClientLeaves(t *testing.T) {
	f := newFakePostgres(t)
	w := newSleeper(f.addr)
	s, addr := startDoor(t, Options{Waker: w})
	packet := startupOf(version30, "user", "app", "database", "app@demo/dev")
	leaver, stayer := dialPeer(t, addr), dialPeer(t, addr)
	leaver.send(packet)
	stayer.send(packet)
	joined(t, s, 2)
	leaver.Close()
	eventually(t, "one waits", func() bool { return s.Stats().Waiting == 1 })
	close(w.start)
	server, _ := f.accept(t)
	server.send(greetingOf("pid+key1"))
	stayer.expect(greetingOf("pid+key1"))
	if got := w.calls.Load(); got != 1 {
		t.Errorf("%d wakes, want 1", got)
	}
}

// TestWakeOutlivesItsClients checks that a start goes on when all who waited
// for it have left, and that the next client joins it.
func TestWakeOutlivesItsClients(t *testing.T) {
	f := newFakePostgres(t)
	w := newSleeper(f.addr)
	s, addr := startDoor(t, Options{Waker: w})
	packet := startupOf(version30, "user", "app", "database", "app@demo/dev")
	first := dialPeer(t, addr)
	first.send(packet)
	<-w.asked
	first.Close()
	eventually(t, "nobody waits", func() bool { return s.Stats().Waiting == 0 })
	second := dialPeer(t, addr)
	second.send(packet)
	joined(t, s, 2)
	close(w.start)
	f.accept(t)
	if got := w.calls.Load(); got != 1 {
		t.Errorf("%d wakes, want 1", got)
	}
}

// TestClientSendsWhileWaiting checks that bytes sent too early are kept.
func TestClientSendsWhileWaiting(t *testing.T) {
	f := newFakePostgres(t)
	w := newSleeper(f.addr)
	_, addr := startDoor(t, Options{Waker: w})
	c := dialPeer(t, addr)
	c.send(append(startupOf(version30, "user", "app", "database", "app@demo/dev"), "early"...))
	<-w.asked
	close(w.start)
	server, _ := f.accept(t)
	server.send(greetingOf("pid+key1"))
	server.expect([]byte("early"))
}

func TestWakeTimeLimit(t *testing.T) {
	w := newSleeper("")
	_, addr := startDoor(t, Options{Waker: w, WakeTimeout: 30 * time.Millisecond})
	c := dialPeer(t, addr)
	c.send(startupOf(version30, "user", "app", "database", "app@demo/dev"))
	if got := c.expectRefusal(codeCannotConnect); !strings.Contains(got['M'], `"demo/dev" was not ready within 30ms`) {
		t.Errorf("got %q", got)
	}
}

// TestEndpointStopsUnderTheClient meets an endpoint at every stage of a stop:
// the client must see nothing but a connection that works.
func TestEndpointStopsUnderTheClient(t *testing.T) {
	shutdown := refuse(codeCannotConnect, "", "the database system is shutting down").encode()
	for _, tt := range []struct {
		name   string
		meets  func(t *testing.T, old *fakePostgres)
		listen bool
	}{
		{name: "not listening any more"},
		{name: "shutting down", listen: true, meets: func(t *testing.T, old *fakePostgres) {
			c, _ := old.accept(t)
			c.send(shutdown)
			c.Close()
		}},
		{name: "shutting down, newer protocol", listen: true, meets: func(t *testing.T, old *fakePostgres) {
			c, _ := old.accept(t)
			c.send(message('v', 0, 0, 0, 0, 0, 0, 0, 0))
			c.send(shutdown[:10])
			c.send(shutdown[10:])
			c.Close()
		}},
		{name: "closes", listen: true, meets: func(t *testing.T, old *fakePostgres) {
			c, _ := old.accept(t)
			c.Close()
		}},
		{name: "resets", listen: true, meets: func(t *testing.T, old *fakePostgres) {
			c, _ := old.accept(t)
			_ = c.SetLinger(0)
			c.Close()
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			old, anew := newFakePostgres(t), newFakePostgres(t)
			if !tt.listen {
				old.stop()
			}
			var calls atomic.Int32
			_, addr := startDoor(t, Options{Waker: wakeFunc(func(context.Context, string, string) (string, error) {
				if calls.Add(1) == 1 {
					return old.addr, nil
				}
				return anew.addr, nil
			})})
			client := dialPeer(t, addr)
			client.send(startupOf(version30, "user", "app", "database", "app@demo/dev"))
			if tt.meets != nil {
				tt.meets(t, old)
			}
			server, _ := anew.accept(t)
			server.send(greetingOf("pid+key1"))
			client.expect(greetingOf("pid+key1"))
			if got := calls.Load(); got != 2 {
				t.Errorf("%d wakes, want 2", got)
			}
		})
	}
}

func TestRetryIsBounded(t *testing.T) {
	f := newFakePostgres(t)
	f.stop()
	_, addr := startDoor(t, Options{Waker: wakeTo(f.addr), WakeTimeout: 100 * time.Millisecond})
	c := dialPeer(t, addr)
	c.send(startupOf(version30, "user", "app", "database", "app@demo/dev"))
	c.expectRefusal(codeCannotConnect)
}

// TestServersOwnRefusal checks that a server that never takes clients in is
// heard by the client in the end, and that other refusals are passed on at once.
func TestServersOwnRefusal(t *testing.T) {
	for _, tt := range []struct{ name, code string }{
		{"for ever recovering", codeCannotConnect},
		{"no such database", codeUnknownBranch},
		{"full", codeTooMany},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f := newFakePostgres(t)
			_, addr := startDoor(t, Options{Waker: wakeTo(f.addr), WakeTimeout: 100 * time.Millisecond})
			words := refuse(tt.code, "", "words of the server").encode()
			stop := make(chan struct{})
			over := make(chan struct{})
			go func() {
				defer close(over)
				for {
					select {
					case c := <-f.conns:
						_, _ = readPacket(c)
						_, _ = c.Write(words)
						c.Close()
					case <-stop:
						return
					}
				}
			}()
			c := dialPeer(t, addr)
			c.send(startupOf(version30, "user", "app", "database", "app@demo/dev"))
			if got := c.expectRefusal(tt.code); got['M'] != "words of the server" {
				t.Errorf("got %q", got)
			}
			close(stop)
			<-over
		})
	}
}

// TestServerEndsBeforeReady ends a server that has begun to authenticate.
func TestServerEndsBeforeReady(t *testing.T) {
	f := newFakePostgres(t)
	_, addr := startDoor(t, Options{Waker: wakeTo(f.addr)})
	c := dialPeer(t, addr)
	c.send(startupOf(version30, "user", "app", "database", "app@demo/dev"))
	server, _ := f.accept(t)
	server.send(message('R', 0, 0, 0, 3))
	c.expect(message('R', 0, 0, 0, 3))
	server.Close()
	c.expectRefusal(codeCannotConnect)
}

// TestServerIsNoPostgres connects to something that speaks otherwise.
func TestServerIsNoPostgres(t *testing.T) {
	f := newFakePostgres(t)
	_, addr := startDoor(t, Options{Waker: wakeTo(f.addr)})
	c := dialPeer(t, addr)
	c.send(startupOf(version30, "user", "app", "database", "app@demo/dev"))
	server, _ := f.accept(t)
	server.send([]byte("HTTP/1.1 400 Bad Request\r\n\r\n"))
	server.Close()
	c.expectRefusal(codeCannotConnect)
}
