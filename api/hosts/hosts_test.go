package hosts_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/bough-db/bough/api"
	"github.com/bough-db/bough/api/hosts"
)

const id = "br-calm-oak-00000001"

// branches is a host with one branch.
type branches struct {
	asked atomic.Int64
	wait  chan struct{} // if not nil, Publish waits for it
	begun chan struct{} // and closes this first
}

func (b *branches) find(asked string) error {
	b.asked.Add(1)
	if asked != id {
		return api.Errorf(api.CodeNotFound, "branch %s is not open here", asked)
	}
	return nil
}

func (b *branches) Use(_ context.Context, asked string) (hosts.Use, error) {
	return hosts.Use{Open: true}, b.find(asked)
}

func (b *branches) Publish(ctx context.Context, asked string) (hosts.Published, error) {
	if b.wait != nil {
		close(b.begun)
		select {
		case <-b.wait:
		case <-ctx.Done():
			return hosts.Published{}, ctx.Err()
		}
	}
	return hosts.Published{Seq: 812}, b.find(asked)
}

func (b *branches) Release(_ context.Context, asked string) error {
	if err := b.find(asked); err != nil {
		return err
	}
	return api.Errorf(api.CodeInUse, "branch %s is in use", asked)
}

func (b *branches) Recheck(_ context.Context, asked string) error { return b.find(asked) }

// serve returns a host that answers, and how to ask it.
func serve(t *testing.T, b hosts.Branches) hosts.Peer {
	t.Helper()
	p := hosts.Peer{Identity: hosts.Identity{Host: "h1", Run: hosts.NewRun()}, Token: hosts.NewToken()}
	s, err := hosts.NewServer(b, hosts.Options{Identity: p.Identity, Token: p.Token})
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p.Address = l.Addr().String()
	done := make(chan error, 1)
	go func() { done <- s.Serve(l) }()
	t.Cleanup(func() {
		if err := errors.Join(s.Close(), <-done); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return p
}

func TestAsk(t *testing.T) {
	p := serve(t, &branches{})
	c := hosts.NewClient()
	use, err := c.Use(t.Context(), p, id)
	if err != nil || !use.Open {
		t.Errorf("Use = %+v, %v", use, err)
	}
	at, err := c.Publish(t.Context(), p, id)
	if err != nil || at.Seq != 812 {
		t.Errorf("Publish = %+v, %v", at, err)
	}
	if err := c.Release(t.Context(), p, id); api.CodeOf(err) != api.CodeInUse {
		t.Errorf("Release = %v, want in use", err)
	}
	if err := c.Recheck(t.Context(), p, id); err != nil {
		t.Errorf("Recheck = %v", err)
	}
	for name, ask := range map[string]func(string) error{
		"Use":     func(id string) error { _, err := c.Use(t.Context(), p, id); return err },
		"Publish": func(id string) error { _, err := c.Publish(t.Context(), p, id); return err },
		"Release": func(id string) error { return c.Release(t.Context(), p, id) },
		"Recheck": func(id string) error { return c.Recheck(t.Context(), p, id) },
	} {
		if err := ask("br-calm-oak-00000002"); api.CodeOf(err) != api.CodeNotFound || errors.Is(err, hosts.ErrSilent) {
			t.Errorf("%s of an unknown branch = %v, want not found", name, err)
		}
		if err := ask("../../x"); err == nil || api.CodeOf(err) == api.CodeNotFound {
			t.Errorf("%s of a path = %v, want it refused", name, err)
		}
	}
}

// TestSilent asks what is not the host that it takes it for.
func TestSilent(t *testing.T) {
	p := serve(t, &branches{})
	c := hosts.NewClient()
	other := func(change func(*hosts.Peer)) hosts.Peer {
		q := p
		change(&q)
		return q
	}
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed.Close()
	stranger := func(answer func(http.ResponseWriter)) string {
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { answer(w) }))
		t.Cleanup(s.Close)
		return s.Listener.Addr().String()
	}
	at := func(addr string) func(*hosts.Peer) { return func(q *hosts.Peer) { q.Address = addr } }
	for name, q := range map[string]hosts.Peer{
		"nobody listens": other(at(closed.Addr().String())),
		"no address":     other(at("")),
		"bad address":    other(at("a b:c/d")),
		"wrong token":    other(func(q *hosts.Peer) { q.Token = hosts.NewToken() }),
		"no token":       other(func(q *hosts.Peer) { q.Token = "" }),
		"another host":   other(func(q *hosts.Peer) { q.Identity.Host = "h2" }),
		"another life":   other(func(q *hosts.Peer) { q.Identity.Run = hosts.NewRun() }),
		"a web server":   other(at(stranger(func(w http.ResponseWriter) { fmt.Fprint(w, "<html>hello</html>") }))),
		"empty answer":   other(at(stranger(func(http.ResponseWriter) {}))),
		"endless answer": other(at(stranger(func(w http.ResponseWriter) { fmt.Fprint(w, `{"host": "`, strings.Repeat("x", 1<<20)) }))),
		"redirection":    other(at(stranger(func(w http.ResponseWriter) { w.Header().Set("Location", "http://"+p.Address); w.WriteHeader(307) }))),
		"error without who": other(at(stranger(func(w http.ResponseWriter) {
			w.WriteHeader(404)
			fmt.Fprint(w, `{"error": {"code": "not_found", "message": "x"}}`)
		}))),
	} {
		if _, err := c.Use(t.Context(), q, id); !errors.Is(err, hosts.ErrSilent) || api.CodeOf(err) == api.CodeNotFound {
			t.Errorf("%s: %v, want ErrSilent", name, err)
		} else if text := err.Error(); strings.Contains(text, "\n") || strings.Contains(text, p.Token) {
			t.Errorf("%s: the error is no clear line, or has the token: %s", name, text)
		}
		if err := c.Recheck(t.Context(), q, id); !errors.Is(err, hosts.ErrSilent) {
			t.Errorf("%s: recheck: %v, want ErrSilent", name, err)
		}
	}
}

// TestTimeouts asks hosts that do not answer, or not to the end.
func TestTimeouts(t *testing.T) {
	c := hosts.NewClient()
	l, err := net.Listen("tcp", "127.0.0.1:0") // like one of a stopped process
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	p := hosts.Peer{Identity: hosts.Identity{Host: "h1", Run: "r"}, Token: "t", Address: l.Addr().String()}
	began := time.Now()
	if _, err := c.Use(t.Context(), p, id); !errors.Is(err, hosts.ErrSilent) {
		t.Errorf("a host that does not answer: %v, want ErrSilent", err)
	}
	if took := time.Since(began); took < hosts.AnswerTimeout/2 {
		t.Errorf("gave up after %v", took)
	}
	// Whose caller has given up has not learned that the host is silent.
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := c.Use(ctx, p, id); errors.Is(err, hosts.ErrSilent) || !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

// TestCloseEndsWork closes a server whose work waits.
func TestCloseEndsWork(t *testing.T) {
	b := &branches{wait: make(chan struct{}), begun: make(chan struct{})}
	identity := hosts.Identity{Host: "h1", Run: "r"}
	s, err := hosts.NewServer(b, hosts.Options{Identity: identity, Token: "t"})
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- s.Serve(l) }()
	asked := make(chan error, 1)
	go func() {
		_, err := hosts.NewClient().Publish(context.Background(), hosts.Peer{Identity: identity, Token: "t", Address: l.Addr().String()}, id)
		asked <- err
	}()
	<-b.begun
	if err := errors.Join(s.Close(), <-served); err != nil {
		t.Error(err)
	}
	if err := <-asked; err == nil {
		t.Error("an answer without the work")
	}
}

// TestServerRefuses sends what a client does not.
func TestServerRefuses(t *testing.T) {
	b := &branches{}
	p := serve(t, b)
	for name, tc := range map[string]struct {
		method, path, token, body string
		code                      api.Code
	}{
		"no token":       {"GET", "/bough/hosts/v1/branches/" + id, "", "", api.CodeForbidden},
		"wrong token":    {"POST", "/bough/hosts/v1/branches/" + id + "/publish", "x", "", api.CodeForbidden},
		"longer token":   {"GET", "/bough/hosts/v1/branches/" + id, p.Token + "0", "", api.CodeForbidden},
		"shorter token":  {"GET", "/bough/hosts/v1/branches/" + id, p.Token[1:], "", api.CodeForbidden},
		"wrong method":   {"POST", "/bough/hosts/v1/branches/" + id, p.Token, "", api.CodeMethodNotAllowed},
		"change by GET":  {"GET", "/bough/hosts/v1/branches/" + id + "/release", p.Token, "", api.CodeMethodNotAllowed},
		"no branch":      {"GET", "/bough/hosts/v1/branches/", p.Token, "", api.CodeInvalidRequest},
		"odd branch":     {"GET", "/bough/hosts/v1/branches/A%2Fb", p.Token, "", api.CodeInvalidRequest},
		"unknown verb":   {"POST", "/bough/hosts/v1/branches/" + id + "/delete", p.Token, "", api.CodeInvalidRequest},
		"deeper path":    {"POST", "/bough/hosts/v1/branches/" + id + "/publish/x", p.Token, "", api.CodeInvalidRequest},
		"another route":  {"GET", "/bough/v1/projects", p.Token, "", api.CodeInvalidRequest},
		"profiles":       {"GET", "/debug/pprof/", p.Token, "", api.CodeInvalidRequest},
		"a body":         {"POST", "/bough/hosts/v1/branches/" + id + "/publish", p.Token, "{}", api.CodeInvalidRequest},
		"a large body":   {"POST", "/bough/hosts/v1/branches/" + id + "/publish", p.Token, strings.Repeat("x", 1<<20), api.CodeInvalidRequest},
		"unknown branch": {"GET", "/bough/hosts/v1/branches/br-none", p.Token, "", api.CodeNotFound},
	} {
		req, err := http.NewRequestWithContext(t.Context(), tc.method, "http://"+p.Address+tc.path, strings.NewReader(tc.body))
		if err != nil {
			t.Fatal(err)
		}
		if tc.token != "" {
			req.Header.Set("Authorization", "Bearer "+tc.token)
		}
		before := b.asked.Load()
		resp, err := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}}).Do(req)
		if err != nil && len(tc.body) > 1<<16 {
			continue // the server may hang up before it has read all of it
		}
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		var got struct {
			hosts.Identity
			Error api.Error `json:"error"`
		}
		err = json.NewDecoder(resp.Body).Decode(&got)
		resp.Body.Close()
		if err != nil || got.Error.Code != tc.code || resp.StatusCode != tc.code.Status() {
			t.Errorf("%s: %s, %+v, %v; want %s", name, resp.Status, got.Error, err, tc.code)
		}
		if (got.Host == "") != (tc.code == api.CodeForbidden) {
			t.Errorf("%s: the answer is signed %q", name, got.Host)
		}
		if tc.code == api.CodeForbidden && b.asked.Load() != before {
			t.Errorf("%s: it was asked", name)
		}
	}
	// Garbage and headers without end hang up.
	for _, text := range []string{"\x00\x01\x02\r\n\r\n", "GET / HTTP/1.1\r\nX: " + strings.Repeat("x", 1<<16) + "\r\n\r\n"} {
		conn, err := net.Dial("tcp", p.Address)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = conn.Write([]byte(text)) // it may have hung up by then
		line, _ := bufio.NewReader(conn).ReadString('\n')
		if !strings.Contains(line, " 4") && line != "" {
			t.Errorf("garbage is answered with %q", line)
		}
		conn.Close()
	}
}

func TestNewServerWantsIdentity(t *testing.T) {
	if _, err := hosts.NewServer(&branches{}, hosts.Options{}); err == nil {
		t.Error("a server without identity and token")
	}
	if a, b := hosts.NewToken(), hosts.NewToken(); a == b || len(a) != 64 {
		t.Errorf("tokens %q and %q", a, b)
	}
}
