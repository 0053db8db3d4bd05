package proxy

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestOptions(t *testing.T) {
	_, err := New(Options{WakeTimeout: -1, MaxSessions: -1, ReservedRoles: []string{""}})
	for _, want := range []string{"waker", "wake timeout", "maximum", "reserved role"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v does not tell of %q", err, want)
		}
	}
	s, err := New(Options{Waker: wakeTo("")})
	if err != nil {
		t.Fatal(err)
	}
	if o := s.opts; o.WakeTimeout != 60*time.Second || o.HandshakeTimeout != 10*time.Second || !s.reserved("postgres") {
		t.Errorf("defaults are %+v", o)
	}
}

func TestPassesRawStartupOn(t *testing.T) {
	f := newFakePostgres(t)
	_, addr := startDoor(t, Options{Waker: wakeTo(f.addr)})
	for _, version := range []uint32{version30, 3<<16 | 2, 3<<16 | 9999} {
		client := dialPeer(t, addr)
		client.send(packetOf(codeSSLRequest))
		client.expect([]byte("N"))
		client.send(startupOf(version, "user", "app", "_pq_.x", "y", "database", "app@demo",
			"options", "-c a=b branch=demo/main", "replication", "database"))
		server, packet := f.accept(t)
		want := startupOf(version, "user", "app", "_pq_.x", "y", "database", "app", "options", "-c a=b ", "replication", "database")
		if diff := cmp.Diff(want, packet); diff != "" {
			t.Errorf("version %x: backend got (-want +got):\n%s", version, diff)
		}
		// Between startup and ReadyForQuery both directions pass, too.
		server.send(message('v', 0, 0, 0, 0, 0, 0, 0, 0))
		server.send(message('R', 0, 0, 0, 3))
		client.expect(message('v', 0, 0, 0, 0, 0, 0, 0, 0))
		client.expect(message('R', 0, 0, 0, 3))
		client.send(message('p', []byte("secret\x00")...))
		server.expect(message('p', []byte("secret\x00")...))
		server.send(append(greetingOf("pid+key1"), "whatever"...))
		client.expect(append(greetingOf("pid+key1"), "whatever"...))
	}
}

func TestRefusals(t *testing.T) {
	waker := wakeFunc(func(_ context.Context, project, branch string) (string, error) {
		switch branch {
		case "unknown":
			return "", fmt.Errorf("open branch: %w", ErrNotFound)
		case "own":
			return "", fmt.Errorf("wake: %w", &Error{Code: "53100", Message: "the disk is full", Hint: "Make room."})
		default:
			return "", errors.New("secret path /var/lib")
		}
	})
	_, addr := startDoor(t, Options{Waker: waker})
	for _, tt := range []struct {
		name          string
		packet        []byte
		code          string
		message, hint string
	}{
		{"no user", startupOf(version30, "database", "app@demo"), codeAuthorization, "no PostgreSQL user name", ""},
		{"reserved role", startupOf(version30, "user", "postgres", "database", "app@demo"), codeAuthorization, `"postgres" is reserved`, "bough psql demo/main"},
		{"no branch", startupOf(version30, "user", "app"), codeUnknownBranch, "no branch named", "app@demo/dev"},
		{"bad name", startupOf(version30, "user", "app", "database", "app@../x"), codeUnknownBranch, `invalid branch name "../x"`, "app@demo/dev"},
		{"unknown branch", startupOf(version30, "user", "app", "database", "@demo/unknown"), codeUnknownBranch, `branch "demo/unknown" does not exist`, "bough branch create demo/unknown"},
		{"the waker's words", startupOf(version30, "user", "app", "database", "@demo/own"), "53100", "the disk is full", "Make room."},
		{"other errors", startupOf(version30, "user", "app", "database", "@demo/x"), codeCannotConnect, `branch "demo/x" could not be started`, "log"},
		{"not Postgres", []byte("GET / HTTP/1.1\r\nHost: x\r\n\r\n"), codeProtocol, "invalid length of startup packet", ""},
		{"old protocol", packetOf(2 << 16), codeUnsupported, "unsupported frontend protocol 2.0", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := dialPeer(t, addr)
			c.send(tt.packet)
			got := c.expectRefusal(tt.code)
			if !strings.Contains(got['M'], tt.message) || !strings.Contains(got['H'], tt.hint) || strings.Contains(fmt.Sprint(got), "secret") {
				t.Errorf("got %q, want message with %q and hint with %q", got, tt.message, tt.hint)
			}
		})
	}
}

func TestHandshakeTimeLimit(t *testing.T) {
	s, addr := startDoor(t, Options{Waker: wakeTo(""), HandshakeTimeout: 50 * time.Millisecond})
	for _, begin := range [][]byte{nil, {0, 0}, packetOf(codeSSLRequest), startupOf(version30, "user", "app")[:12]} {
		c := dialPeer(t, addr)
		c.send(begin)
		if bytes.Equal(begin, packetOf(codeSSLRequest)) {
			c.expect([]byte("N"))
		}
		c.expectEnd()
	}
	eventually(t, "no handshake left", func() bool { return s.Stats().Handshakes == 0 })
}

func TestMaxSessions(t *testing.T) {
	f := newFakePostgres(t)
	s, addr := startDoor(t, Options{Waker: wakeTo(f.addr), MaxSessions: 3, MaxBranchSessions: 2})
	f.session(t, addr, "pid+key1")
	client, server := f.session(t, addr, "pid+key2")
	refused := func(database string) {
		t.Helper()
		c := dialPeer(t, addr)
		c.send(startupOf(version30, "user", "app", "database", database))
		c.expectRefusal(codeTooMany)
	}
	refused("app@demo/dev")
	other := dialPeer(t, addr)
	other.send(startupOf(version30, "user", "app", "database", "app@demo/other"))
	f.accept(t)
	refused("app@demo/third")
	if got := s.Stats().Refused; got != 2 {
		t.Errorf("%d refused, want 2", got)
	}
	client.Close()
	server.expectEnd()
	server.Close()
	eventually(t, "a place is free", func() bool { st := s.Stats(); return st.Connected+st.Waiting == 2 })
	f.session(t, addr, "pid+key3")
}

func TestMaxHandshakesQueues(t *testing.T) {
	f := newFakePostgres(t)
	s, addr := startDoor(t, Options{Waker: wakeTo(f.addr), MaxHandshakes: 1})
	first := dialPeer(t, addr)
	eventually(t, "the first was accepted", func() bool { return s.Stats().Accepted == 1 })
	second := dialPeer(t, addr)
	second.send(startupOf(version30, "user", "app", "database", "app@demo"))
	first.send(startupOf(version30, "user", "app", "database", "app@demo"))
	f.accept(t)
	f.accept(t) // the second gets its turn once the first has said what it wants
}

// observer counts sessions by branch.
type observer struct {
	mu   sync.Mutex
	open map[string]int
}

// SessionBegins counts one more.
func (o *observer) SessionBegins(project, branch string) { o.add(project+"/"+branch, 1) }

// SessionEnds counts one less.
func (o *observer) SessionEnds(project, branch string) { o.add(project+"/"+branch, -1) }

func (o *observer) add(name string, n int) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.open[name] += n
}

func (o *observer) count(name string) int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.open[name]
}

func TestObserverAndStats(t *testing.T) {
	f := newFakePostgres(t)
	o := &observer{open: make(map[string]int)}
	s, addr := startDoor(t, Options{
		Observer: o,
		Waker: wakeFunc(func(context.Context, string, string) (string, error) {
			if got := o.count("demo/dev"); got != 1 {
				t.Errorf("%d sessions at the wake, want 1", got)
			}
			return f.addr, nil
		}),
	})
	client, server := f.session(t, addr, "pid+key1")
	want := Stats{Connected: 1, CancelKeys: 1, Accepted: 1}
	if diff := cmp.Diff(want, s.Stats()); diff != "" {
		t.Errorf("stats (-want +got):\n%s", diff)
	}
	list := s.Sessions()
	if len(list) != 1 {
		t.Fatalf("sessions %+v, want one", list)
	}
	list[0].Began = time.Time{}
	wantSession := Session{Project: "demo", Branch: "dev", User: "app", Client: client.LocalAddr().String(), Connected: true}
	if diff := cmp.Diff(wantSession, list[0]); diff != "" {
		t.Errorf("session (-want +got):\n%s", diff)
	}
	client.Close()
	server.expectEnd()
	server.Close()
	eventually(t, "the session is over", func() bool { return s.Stats() == Stats{Accepted: 1} && o.count("demo/dev") == 0 })
}

func TestShutdownWaitsForSessions(t *testing.T) {
	f := newFakePostgres(t)
	woken := make(chan struct{}, 1)
	s, addr := startDoor(t, Options{Waker: wakeFunc(func(ctx context.Context, project, branch string) (string, error) {
		if branch == "slow" {
			woken <- struct{}{}
			<-ctx.Done()
			return "", ctx.Err()
		}
		return f.addr, nil
	})})
	client, server := f.session(t, addr, "pid+key1")
	silent := dialPeer(t, addr)
	waiting := dialPeer(t, addr)
	waiting.send(startupOf(version30, "user", "app", "database", "app@demo/slow"))
	<-woken
	eventually(t, "all are in", func() bool { return s.Stats().Accepted == 3 })

	done := make(chan error, 1)
	go func() { done <- s.Shutdown(context.Background()) }()
	if got := waiting.expectRefusal(codeCannotConnect); !strings.Contains(got['M'], "shutting down") {
		t.Errorf("waiting client got %q", got)
	}
	waiting.Close()
	silent.expectRefusal(codeCannotConnect)
	silent.Close()
	eventually(t, "the port is closed", func() bool {
		c, err := net.Dial("tcp", addr)
		if err == nil {
			c.Close()
		}
		return errors.Is(err, syscall.ECONNREFUSED)
	})
	client.send([]byte("still works"))
	server.expect([]byte("still works"))
	select {
	case err := <-done:
		t.Fatalf("Shutdown returned %v with a session open", err)
	default:
	}
	client.Close()
	server.expectEnd()
	server.Close()
	if err := <-done; err != nil {
		t.Errorf("Shutdown: %v", err)
	}
	if err := s.Serve(context.Background(), &net.TCPListener{}); !errors.Is(err, ErrClosed) {
		t.Errorf("Serve after Shutdown: %v, want ErrClosed", err)
	}
}

func TestShutdownLosesPatience(t *testing.T) {
	f := newFakePostgres(t)
	s, addr := startDoor(t, Options{Waker: wakeTo(f.addr)})
	client, server := f.session(t, addr, "pid+key1")
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
	defer cancel()
	if err := s.Shutdown(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Shutdown: %v, want DeadlineExceeded", err)
	}
	client.expectEnd()
	server.expectEnd()
}

func TestServeEndsWithContext(t *testing.T) {
	f := newFakePostgres(t)
	s, err := New(Options{Waker: wakeTo(f.addr)})
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- s.Serve(ctx, l) }()
	client, server := f.session(t, l.Addr().String(), "pid+key1")
	cancel()
	client.expectEnd()
	server.expectEnd()
	if err := <-served; err != nil {
		t.Errorf("Serve: %v", err)
	}
}

// shakyListener fails in given ways before it accepts.
type shakyListener struct {
	net.Listener
	errs chan error
}

// Accept returns the next error, if one is left.
func (l *shakyListener) Accept() (net.Conn, error) {
	select {
	case err := <-l.errs:
		return nil, &net.OpError{Op: "accept", Err: err}
	default:
		return l.Listener.Accept()
	}
}

func TestAcceptErrors(t *testing.T) {
	f := newFakePostgres(t)
	s, err := New(Options{Waker: wakeTo(f.addr)})
	if err != nil {
		t.Fatal(err)
	}
	inner, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l := &shakyListener{Listener: inner, errs: make(chan error, 2)}
	l.errs <- syscall.EMFILE
	served := make(chan error, 1)
	go func() { served <- s.Serve(context.Background(), l) }()
	f.session(t, inner.Addr().String(), "pid+key1") // it goes on after EMFILE
	l.errs <- syscall.EINVAL
	// This ends the Accept that is under way; if there is none, the next one fails
	// without it, and Serve may have closed the listener already.
	if conn, err := net.Dial("tcp", inner.Addr().String()); err == nil {
		defer conn.Close()
	}
	if err := <-served; !errors.Is(err, syscall.EINVAL) {
		t.Errorf("Serve: %v, want EINVAL", err)
	}
}
