package api_test

import (
	"errors"
	"io/fs"
	"net"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/bough-db/bough/api"
)

func TestPeerOutsideList(t *testing.T) {
	other := uint32(os.Geteuid()) + 1
	c := rawClient(t, serve(t, newDemo(t), api.Options{UIDs: []uint32{other}}))
	if status, code, body := ask(t, c, "GET", "/bough/v1/version", ""); status != 403 || code != api.CodeForbidden {
		t.Errorf("version as another user = %d %s, want 403 forbidden; body %s", status, code, body)
	}
}

// TestPeerWithoutSocket asks over something that has no credentials.
func TestPeerWithoutSocket(t *testing.T) {
	s := api.NewServer(newDemo(t), api.Options{})
	w := httptest.NewRecorder()
	s.ServeHTTP(w, httptest.NewRequest("GET", "/bough/v1/version", nil))
	if w.Code != 403 {
		t.Errorf("version without a connection = %d, want 403", w.Code)
	}
}

// TestPeerOfAnotherUser connects from a process of user nobody: the socket's
// mode stops it, and where the mode does not, its credentials do.
func TestPeerOfAnotherUser(t *testing.T) {
	if sock := os.Getenv("API_TEST_SOCKET"); sock != "" {
		status, code, body := ask(t, rawClient(t, sock), "GET", "/bough/v1/version", "")
		t.Logf("answer %d %s %s", status, code, body)
		return
	}
	if os.Geteuid() != 0 {
		t.Skip("needs root to become another user")
	}
	sock := serve(t, newDemo(t), api.Options{})
	if err := os.Chmod(filepath.Dir(sock), 0o755); err != nil {
		t.Fatal(err)
	}
	exe := filepath.Join(filepath.Dir(sock), "t") // the test binary's directory is root's alone
	self, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(exe, self, 0o755); err != nil {
		t.Fatal(err)
	}
	as := func() string {
		cmd := exec.Command(exe, "-test.run=^TestPeerOfAnotherUser$", "-test.v")
		cmd.Dir = "/"
		cmd.Env = append(os.Environ(), "API_TEST_SOCKET="+sock)
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
		out, _ := cmd.CombinedOutput()
		return string(out)
	}
	if out := as(); !strings.Contains(out, "permission denied") {
		t.Errorf("nobody at a 0600 socket: want permission denied, got\n%s", out)
	}
	if err := os.Chmod(sock, 0o666); err != nil {
		t.Fatal(err)
	}
	if out := as(); !strings.Contains(out, "answer 403 forbidden") {
		t.Errorf("nobody at a 0666 socket: want 403 forbidden, got\n%s", out)
	}
}

func TestListen(t *testing.T) {
	dir, err := os.MkdirTemp("", "api")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	sock := filepath.Join(dir, "s")

	l, err := api.Listen(sock)
	if err != nil {
		t.Fatal(err)
	}
	fi, err := os.Stat(sock)
	if err != nil || fi.Mode().Perm() != 0o600 {
		t.Errorf("socket's mode = %v, %v; want 0600", fi.Mode(), err)
	}
	if _, err := api.Listen(sock); !errors.Is(err, api.ErrSocketInUse) {
		t.Errorf("second Listen = %v, want ErrSocketInUse", err)
	}

	// What a killed daemon leaves: the file without a listener.
	l.SetUnlinkOnClose(false)
	l.Close()
	l, err = api.Listen(sock)
	if err != nil {
		t.Fatalf("Listen over a stale socket: %v", err)
	}
	l.Close()
	if _, err := os.Stat(sock); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("after Close: stat = %v, want not exist", err)
	}

	if err := os.WriteFile(sock, []byte("mine"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := api.Listen(sock); err == nil || !strings.Contains(err.Error(), "not a socket") {
		t.Errorf("Listen over a file = %v, want a refusal", err)
	}
	if p, _ := os.ReadFile(sock); string(p) != "mine" {
		t.Errorf("Listen changed the file to %q", p)
	}
	if _, err := api.Listen(filepath.Join(dir, strings.Repeat("x", 120))); err == nil || !strings.Contains(err.Error(), "shorter") {
		t.Errorf("Listen at a long path = %v, want advice", err)
	}
	if _, err := api.Listen(filepath.Join(dir, "none", "s")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Listen in no directory = %v, want not exist", err)
	}
}

func TestServeOverTCPIsForbidden(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := api.NewServer(newDemo(t), api.Options{})
	done := make(chan error, 1)
	go func() { done <- s.Serve(l) }()
	defer func() { s.Close(); <-done }()
	resp, err := rawTCP(l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(resp, "403") {
		t.Errorf("over TCP: %q, want 403", resp)
	}
}

func rawTCP(addr string) (string, error) {
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	if _, err := conn.Write([]byte("GET /bough/v1/version HTTP/1.0\r\n\r\n")); err != nil {
		return "", err
	}
	p := make([]byte, 64)
	n, err := conn.Read(p)
	return string(p[:n]), err
}
