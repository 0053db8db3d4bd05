package netfault

import (
	"bytes"
	"errors"
	"io"
	"net"
	"sync"
	"syscall"
	"testing"
	"time"
)

// echo starts a server that sends back what it gets, and ends when its client does.
func echo(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				_, _ = io.Copy(c, c)
				_ = c.Close()
			})
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		wg.Wait()
	})
	return l.Addr().String()
}

// link starts a proxy in front of an echo.
func link(t *testing.T, line Line) *Link {
	t.Helper()
	l, err := NewLink(echo(t), line)
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

func connect(t *testing.T, l *Link) net.Conn {
	t.Helper()
	c, err := net.Dial("tcp", l.Address())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// say sends p and wants it back, and returns how long that took.
func say(t *testing.T, c net.Conn, p []byte) time.Duration {
	t.Helper()
	begun := time.Now()
	sent := make(chan error, 1)
	go func() {
		_, err := c.Write(p)
		sent <- err
	}()
	got := make([]byte, len(p))
	if _, err := io.ReadFull(c, got); err != nil || !bytes.Equal(got, p) {
		t.Fatalf("got %.20q, %v", got, err)
	}
	if err := <-sent; err != nil {
		t.Fatal(err)
	}
	return time.Since(begun)
}

func TestLinkPasses(t *testing.T) {
	l := link(t, Line{})
	var wg sync.WaitGroup
	const size = 1 << 20
	for range 4 {
		c := connect(t, l)
		wg.Go(func() {
			say(t, c, bytes.Repeat([]byte("x"), size))
			if err := c.(*net.TCPConn).CloseWrite(); err != nil {
				t.Error(err)
			}
			if n, err := c.Read(make([]byte, 1)); err != io.EOF {
				t.Errorf("after the end: %d, %v", n, err)
			}
		})
	}
	wg.Wait()
	if got := l.Counts(); got != (LinkCounts{Connections: 4, UpBytes: 4 * size, DownBytes: 4 * size}) {
		t.Errorf("counted %+v", got)
	}
}

func TestLinkLatency(t *testing.T) {
	l := link(t, Line{Up: 30 * time.Millisecond, Down: 40 * time.Millisecond})
	c := connect(t, l)
	if took := say(t, c, []byte("x")); took < 70*time.Millisecond {
		t.Errorf("it took %v, less than both ways", took)
	}
	l.Set(Line{Down: time.Millisecond})
	say(t, c, []byte("x"))
}

func TestLinkRate(t *testing.T) {
	l := link(t, Line{UpRate: 1 << 20})
	// The last packet is not waited for.
	if took := say(t, connect(t, l), make([]byte, 100<<10)); took < 80*time.Millisecond {
		t.Errorf("100 KiB at 1 MiB/s took %v", took)
	}
}

func TestLinkBlackhole(t *testing.T) {
	l := link(t, Line{})
	c := connect(t, l)
	say(t, c, []byte("x"))
	l.Set(Line{Blackhole: true})
	if _, err := c.Write([]byte("later")); err != nil {
		t.Fatal(err)
	}
	if err := c.SetReadDeadline(time.Now().Add(50 * time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	var timeout net.Error
	if n, err := c.Read(make([]byte, 1)); !errors.As(err, &timeout) || !timeout.Timeout() {
		t.Fatalf("through a blackhole: %d, %v", n, err)
	}
	if err := c.SetReadDeadline(time.Time{}); err != nil {
		t.Fatal(err)
	}
	l.Set(Line{})
	got := make([]byte, 5)
	if _, err := io.ReadFull(c, got); err != nil || string(got) != "later" {
		t.Errorf("afterwards: %q, %v", got, err)
	}
}

// TestLinkClosesInBlackhole: the proxy ends though nothing passes.
func TestLinkClosesInBlackhole(t *testing.T) {
	l := link(t, Line{Blackhole: true})
	c := connect(t, l)
	if _, err := c.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
}

func wantReset(t *testing.T, c net.Conn) {
	t.Helper()
	if n, err := c.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("read %d, %v, want a reset", n, err)
	}
}

// wantRefused wants a connection to be reset, which may show when it is made.
func wantRefused(t *testing.T, l *Link) {
	t.Helper()
	c, err := net.Dial("tcp", l.Address())
	if err == nil {
		defer c.Close()
		_, err = c.Read(make([]byte, 1))
	}
	if !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("got error %v, want a reset", err)
	}
}

func TestLinkReset(t *testing.T) {
	l := link(t, Line{})
	c := connect(t, l)
	say(t, c, []byte("x"))
	l.Reset()
	wantReset(t, c)
	say(t, connect(t, l), []byte("x"))
	l.Set(Line{Refuse: true})
	wantRefused(t, l)
}

func TestLinkCut(t *testing.T) {
	l := link(t, Line{CutAfter: 10})
	c := connect(t, l)
	say(t, c, []byte("four"))
	if _, err := c.Write([]byte("four more")); err != nil {
		t.Fatal(err)
	}
	wantReset(t, c)
	if got := l.Counts(); got.UpBytes+got.DownBytes != 10 {
		t.Errorf("counted %+v, want 10 bytes", got)
	}
}

func TestLinkSlowClose(t *testing.T) {
	l := link(t, Line{CloseAfter: 30 * time.Millisecond})
	c := connect(t, l)
	say(t, c, []byte("x"))
	begun := time.Now()
	if err := c.(*net.TCPConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if n, err := c.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("read %d, %v, want the end", n, err)
	}
	if took := time.Since(begun); took < 60*time.Millisecond {
		t.Errorf("the end took %v, less than both ways", took)
	}
}

// TestLinkNobodyThere: where the server is gone, clients are reset.
func TestLinkNobodyThere(t *testing.T) {
	gone, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	if err := gone.Close(); err != nil {
		t.Fatal(err)
	}
	l, err := NewLink(gone.Addr().String(), Line{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	}()
	wantRefused(t, l)
}
