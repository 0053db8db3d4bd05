package s3server_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/bough-db/bough/objstore"
	"github.com/bough-db/bough/objstore/s3store"
	"github.com/bough-db/bough/test/s3server"
)

// TestMain lets the test program be the process that dies under a server.
func TestMain(m *testing.M) {
	if os.Getenv("S3SERVER_TEST_DIR") == "" {
		os.Exit(m.Run())
	}
	s, err := s3server.Start(context.Background(), s3server.Options{Dir: os.Getenv("S3SERVER_TEST_DIR")})
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	fmt.Println(s.Address())
	_, _ = os.Stdin.Read(make([]byte, 1)) // until it is killed
}

// TestDiesWithItsProcess kills the process that has started a server, and sees the
// server go.
func TestDiesWithItsProcess(t *testing.T) {
	s3server.ForTest(t) // or skip
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), "S3SERVER_TEST_DIR="+t.TempDir())
	if _, err := cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	addr := strings.TrimSpace(line)
	if _, _, serr := net.SplitHostPort(addr); err != nil || serr != nil {
		t.Fatalf("the process said %q, %v", line, err)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait() // it was killed
	deadline := time.Now().Add(time.Minute)
	for tick := time.NewTicker(10 * time.Millisecond); ; <-tick.C {
		conn, err := net.Dial("tcp", addr)
		if err != nil {
			return
		}
		if err := conn.Close(); err != nil {
			t.Fatal(err)
		}
		if time.Now().After(deadline) {
			t.Fatalf("the server at %s lives on", addr)
		}
	}
}

// TestRequests: every request is a line of the log, and a server that nobody asks has
// none.
func TestRequests(t *testing.T) {
	srv := s3server.ForTest(t)
	store, err := s3store.Open(t.Context(), srv.URL("p"), s3store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	requests := func() []string {
		t.Helper()
		lines, err := srv.Requests()
		if err != nil {
			t.Fatal(err)
		}
		return lines
	}
	before := requests()
	if _, err := store.Put(t.Context(), "k", []byte("x"), objstore.Condition{}); err != nil {
		t.Fatal(err)
	}
	if _, _, err := store.Get(t.Context(), "k"); err != nil {
		t.Fatal(err)
	}
	if _, err := store.List(t.Context(), "", "", 0); err != nil {
		t.Fatal(err)
	}
	got := requests()[len(before):]
	if len(got) != 3 {
		t.Fatalf("3 requests are %d lines: %q", len(got), got)
	}
	for i, want := range []string{"s3_PutObject p/k", "s3_GetObject p/k", "s3_ListObjectsV2 - "} {
		if !strings.Contains(got[i], want) {
			t.Errorf("line %q, want %q", got[i], want)
		}
	}
}

// TestKeepsItsDirectory: a directory that was given is left, and holds what it held
// when it is given again.
func TestKeepsItsDirectory(t *testing.T) {
	s3server.ForTest(t) // or skip
	dir := t.TempDir()
	for round := range 2 {
		srv, err := s3server.Start(t.Context(), s3server.Options{Dir: dir})
		if err != nil {
			t.Fatal(err)
		}
		s3server.Setenv(t, srv)
		store, err := s3store.Open(t.Context(), srv.URL("p"), s3store.Options{})
		if err != nil {
			t.Fatal(err)
		}
		_, err = store.Put(t.Context(), "k", []byte("x"), objstore.Condition{IfAbsent: true})
		if want := []error{nil, objstore.ErrExists}[round]; !errors.Is(err, want) {
			t.Errorf("round %d: got error %v, want %v", round, err, want)
		}
		if err := errors.Join(store.Close(), srv.Close()); err != nil {
			t.Fatal(err)
		}
	}
}

// TestNotBuilt: a program that is named must be there.
func TestNotBuilt(t *testing.T) {
	if _, err := s3server.Start(t.Context(), s3server.Options{Program: filepath.Join(t.TempDir(), "none")}); err == nil {
		t.Error("a server started without its program")
	}
	t.Chdir(t.TempDir())
	t.Setenv("BOUGH_VERSITYGW", "")
	if _, err := s3server.Start(t.Context(), s3server.Options{}); !errors.Is(err, s3server.ErrNotBuilt) {
		t.Errorf("got error %v, want %v", err, s3server.ErrNotBuilt)
	}
}
