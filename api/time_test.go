package api_test

import (
	"bufio"
	"context"
	"io"
	"net"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/bough-db/bough/api"
	"github.com/bough-db/bough/api/apitest"
)

func TestBadInputAboutThePast(t *testing.T) {
	const main = "/bough/v1/projects/demo/branches/main"
	tests := []struct {
		name, method, path, body string
		status                   int
		code                     api.Code
	}{
		{"log of unknown", "GET", "/bough/v1/projects/demo/branches/none/log", "", 404, api.CodeNotFound},
		{"log with unknown parameter", "GET", main + "/log?first=1", "", 400, api.CodeInvalidRequest},
		{"log before nothing", "GET", main + "/log?before=x", "", 400, api.CodeInvalidRequest},
		{"log after a negative", "GET", main + "/log?after=-1", "", 400, api.CodeInvalidRequest},
		{"log since no time", "GET", main + "/log?since=yesterday", "", 400, api.CodeInvalidRequest},
		{"log without end", "GET", main + "/log?limit=10001", "", 400, api.CodeInvalidRequest},
		{"log with negative limit", "GET", main + "/log?limit=-1", "", 400, api.CodeInvalidRequest},
		{"log in no order", "GET", main + "/log?oldest_first=maybe", "", 400, api.CodeInvalidRequest},
		{"branch at no point", "POST", "/bough/v1/projects/demo/branches", `{"name":"x","at":"@seq:x"}`, 400, api.CodeInvalidRequest},
		{"branch at a time without zone", "POST", "/bough/v1/projects/demo/branches", `{"name":"x","at":"2026-11-25T10:00:00"}`, 400, api.CodeInvalidRequest},
		{"branch at a point that is not there", "POST", "/bough/v1/projects/demo/branches", `{"name":"x","at":"seq:99"}`, 404, api.CodeNoPoint},
		{"attach at no point", "POST", main + "/attach", `{"at":"lsn:1"}`, 400, api.CodeInvalidRequest},
		{"snapshot without name", "POST", main + "/snapshots", `{}`, 400, api.CodeInvalidName},
		{"snapshot of no point", "POST", main + "/snapshots", `{"name":"x","at":"@"}`, 400, api.CodeInvalidRequest},
		{"delete unknown snapshot", "DELETE", main + "/snapshots/none", "", 404, api.CodeNotFound},
		{"delete snapshot of bad name", "DELETE", main + "/snapshots/X", "", 400, api.CodeInvalidName},
		{"restore to no point", "POST", main + "/restore", `{"at":"seq:"}`, 400, api.CodeInvalidRequest},
		{"restore from bad name", "POST", main + "/restore", `{"from":"a/b"}`, 400, api.CodeInvalidName},
		{"restore, keep as bad name", "POST", main + "/restore", `{"keep_as":"A"}`, 400, api.CodeInvalidName},
		{"restore from two", "POST", main + "/restore", `{"from":"main","parent":true}`, 400, api.CodeInvalidRequest},
		{"throwaway of no point", "POST", main + "/throwaway", `{"at":"seq:"}`, 400, api.CodeInvalidRequest},
		{"throwaway of a point that is not there", "POST", main + "/throwaway", `{"at":"seq:99"}`, 404, api.CodeNoPoint},
		{"throwaway of bad name", "POST", "/bough/v1/projects/demo/branches/X/throwaway", "", 400, api.CodeInvalidName},
		{"deleted of unknown", "GET", "/bough/v1/projects/X/deleted", "", 400, api.CodeInvalidName},
		{"undelete unknown", "POST", "/bough/v1/projects/demo/deleted/none/undelete", "", 404, api.CodeNotFound},
		{"undelete as bad name", "POST", "/bough/v1/projects/demo/deleted/none/undelete", `{"name":"/"}`, 400, api.CodeInvalidName},
	}
	c := rawClient(t, serve(t, newDemo(t), api.Options{}))
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			status, code, body := ask(t, c, tt.method, tt.path, tt.body)
			if status != tt.status || code != tt.code {
				t.Errorf("%s %s %s = %d %s, want %d %s; body %s", tt.method, tt.path, tt.body, status, code, tt.status, tt.code, body)
			}
		})
	}
	for path, want := range map[string]string{
		main + "/log?after=7":                `{"barriers":[],"more":false}` + "\n",
		main + "/snapshots":                  `{"snapshots":[]}` + "\n",
		"/bough/v1/projects/demo/deleted":    `{"branches":[]}` + "\n",
		"/bough/v1/projects/unknown/deleted": `{"branches":[]}` + "\n",
	} {
		if _, _, got := ask(t, c, "GET", path, ""); got != want {
			t.Errorf("GET %s = %q, want %q", path, got, want)
		}
	}
}

// hold asks for a throwaway branch on a connection of its own, and returns that as soon
// as the branch is there.
func hold(t *testing.T, sock string) net.Conn {
	t.Helper()
	conn, err := net.Dial("unix", sock)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	if _, err := io.WriteString(conn, "POST /bough/v1/projects/demo/branches/main/throwaway HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	for lines := bufio.NewReader(conn); ; {
		line, err := lines.ReadString('\n')
		if err != nil {
			t.Fatal(err)
		}
		if line[0] == '{' {
			return conn
		}
	}
}

// TestThrowawayGoesWithClient hangs up, and stops the server, while a throwaway branch
// is held: it goes both times.
func TestThrowawayGoesWithClient(t *testing.T) {
	b := newDemo(t)
	dir, err := os.MkdirTemp("", "api")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	l, err := api.Listen(filepath.Join(dir, "s"))
	if err != nil {
		t.Fatal(err)
	}
	s := api.NewServer(b, api.Options{})
	served := make(chan error, 1)
	go func() { served <- s.Serve(l) }()

	branches := func() int {
		all, err := b.ListBranches(t.Context(), "demo")
		if err != nil {
			t.Fatal(err)
		}
		return len(all)
	}
	conn := hold(t, l.Addr().String())
	if n := branches(); n != 2 {
		t.Errorf("there are %d branches, want main and the throwaway", n)
	}
	conn.Close()
	for branches() > 1 {
	}
	hold(t, l.Addr().String())
	if err := s.Shutdown(t.Context()); err != nil {
		t.Errorf("Shutdown = %v", err)
	}
	if n := branches(); n != 1 {
		t.Errorf("after the server's end there are %d branches, want main only", n)
	}
	if err := <-served; err != nil {
		t.Errorf("Serve = %v", err)
	}
}

// logger is a Backend that remembers what it was asked for.
type logger struct {
	*apitest.Backend
	asked api.LogQuery
}

func (l *logger) Log(_ context.Context, _, _ string, q api.LogQuery) (api.LogPage, error) {
	l.asked = q
	return api.LogPage{}, nil
}

// FuzzLogQuery checks that what the server reads is what the client meant.
func FuzzLogQuery(f *testing.F) {
	for _, s := range []string{"", "before=7&limit=3", "after=1&oldest_first=true", "since=2026-03-01T12:00:00.5Z", "limit=0", "since=x", "before=%zz"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, query string) {
		b := &logger{Backend: apitest.New()}
		s := api.NewServer(b, api.Options{})
		get := func(query string) (api.LogQuery, int) {
			req := httptest.NewRequestWithContext(api.WithPeer(t.Context(), 0), "GET", "/bough/v1/projects/demo/branches/main/log", nil)
			req.URL.RawQuery = query
			rec := httptest.NewRecorder()
			s.ServeHTTP(rec, req)
			return b.asked, rec.Code
		}
		q, status := get(query)
		if status != 200 {
			return
		}
		again, status := get(q.Encode())
		if status != 200 || !cmp.Equal(q, again, cmp.Comparer(time.Time.Equal)) {
			t.Errorf("%q is %+v, and %q of that is %+v (status %d)", query, q, q.Encode(), again, status)
		}
		if _, err := url.ParseQuery(q.Encode()); err != nil {
			t.Errorf("Encode of %+v: %v", q, err)
		}
	})
}
