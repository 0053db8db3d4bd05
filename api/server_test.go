package api_test

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/bough-db/bough/api"
	"github.com/bough-db/bough/api/apitest"
)

// serve runs a server of b on a socket in a directory of its own and returns
// the socket's path.
func serve(t *testing.T, b api.Backend, opts api.Options) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "api") // t.TempDir is too long for a socket's path
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	sock := filepath.Join(dir, "s")
	l, err := api.Listen(sock)
	if err != nil {
		t.Fatal(err)
	}
	s := api.NewServer(b, opts)
	done := make(chan error, 1)
	go func() { done <- s.Serve(l) }()
	t.Cleanup(func() {
		s.Close()
		if err := <-done; err != nil {
			t.Errorf("Serve = %v", err)
		}
	})
	return sock
}

// rawClient returns an HTTP client that dials the socket whatever the host.
func rawClient(t *testing.T, sock string) *http.Client {
	t.Helper()
	tr := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", sock)
	}}
	t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{
		Transport:     tr,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// ask sends one request as it is and returns the status and the error's code.
func ask(t *testing.T, c *http.Client, method, path, body string) (int, api.Code, string) {
	t.Helper()
	req, err := http.NewRequest(method, "http://x", strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.URL.Opaque = "//x" + path // sent as it stands, without cleaning
	resp, err := c.Do(req)
	if err != nil {
		t.Fatalf("%s %s: %v", method, path, err)
	}
	defer resp.Body.Close()
	p, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	var eb api.ErrorBody
	if resp.StatusCode/100 != 2 {
		if err := json.Unmarshal(p, &eb); err != nil || eb.Error == nil {
			t.Fatalf("%s %s: answer %d %q is not in the shape of errors", method, path, resp.StatusCode, p)
		}
		if eb.Error.Message == "" {
			t.Errorf("%s %s: error without a message: %q", method, path, p)
		}
		return resp.StatusCode, eb.Error.Code, string(p)
	}
	return resp.StatusCode, "", string(p)
}

func newDemo(t *testing.T) *apitest.Backend {
	t.Helper()
	b := apitest.New()
	if _, err := b.CreateProject(t.Context(), api.CreateProject{Name: "demo"}); err != nil {
		t.Fatal(err)
	}
	return b
}

func TestBadInput(t *testing.T) {
	const demo = "/bough/v1/projects/demo"
	long := strings.Repeat("a", 300)
	tests := []struct {
		name, method, path, body string
		status                   int
		code                     api.Code
	}{
		{"unknown project", "GET", "/bough/v1/projects/none", "", 404, api.CodeNotFound},
		{"unknown project's branches", "GET", "/bough/v1/projects/none/branches", "", 404, api.CodeNotFound},
		{"unknown branch", "GET", demo + "/branches/none", "", 404, api.CodeNotFound},
		{"start unknown branch", "POST", demo + "/branches/none/start", "", 404, api.CodeNotFound},
		{"no route", "GET", "/bough/v1/nothing", "", 404, api.CodeNotFound},
		{"no such version", "GET", "/bough/v2/projects", "", 404, api.CodeNotFound},
		{"wrong method", "PUT", demo, "", 405, api.CodeMethodNotAllowed},
		{"wrong method on action", "GET", demo + "/branches/main/start", "", 405, api.CodeMethodNotAllowed},
		{"dot dot in path", "GET", "/bough/v1/projects/../projects/demo", "", 400, api.CodeInvalidRequest},
		{"escaped dot dot in path", "DELETE", "/bough/v1/projects/%2e%2e", "", 400, api.CodeInvalidRequest},
		{"escaped slash in path", "GET", "/bough/v1/projects/a%2Fb", "", 400, api.CodeInvalidName},
		{"empty name in path", "GET", "/bough/v1/projects//branches", "", 400, api.CodeInvalidRequest},
		{"upper case in path", "GET", "/bough/v1/projects/Demo", "", 400, api.CodeInvalidName},
		{"long name in path", "GET", "/bough/v1/projects/" + long, "", 400, api.CodeInvalidName},
		{"name taken", "POST", "/bough/v1/projects", `{"name":"demo"}`, 409, api.CodeAlreadyExists},
		{"branch taken", "POST", demo + "/branches", `{"name":"main"}`, 409, api.CodeAlreadyExists},
		{"branch of unknown", "POST", demo + "/branches", `{"name":"x","from":"none"}`, 404, api.CodeNotFound},
		{"branch from bad name", "POST", demo + "/branches", `{"name":"x","from":"a/b"}`, 400, api.CodeInvalidName},
		{"no name", "POST", "/bough/v1/projects", `{}`, 400, api.CodeInvalidName},
		{"no body", "POST", "/bough/v1/projects", ``, 400, api.CodeInvalidName},
		{"name dot dot", "POST", "/bough/v1/projects", `{"name":"../x"}`, 400, api.CodeInvalidName},
		{"name with dots inside", "POST", "/bough/v1/projects", `{"name":"a..b"}`, 400, api.CodeInvalidName},
		{"name with slash", "POST", "/bough/v1/projects", `{"name":"a/b"}`, 400, api.CodeInvalidName},
		{"name upper case", "POST", "/bough/v1/projects", `{"name":"Demo"}`, 400, api.CodeInvalidName},
		{"name too long", "POST", "/bough/v1/projects", `{"name":"` + long + `"}`, 400, api.CodeInvalidName},
		{"name with zero byte", "POST", "/bough/v1/projects", `{"name":"a\u0000"}`, 400, api.CodeInvalidName},
		{"rename to bad name", "PATCH", demo + "/branches/main", `{"name":"-x"}`, 400, api.CodeInvalidName},
		{"rename without name", "PATCH", demo + "/branches/main", ``, 400, api.CodeInvalidName},
		{"unknown field", "POST", "/bough/v1/projects", `{"name":"x","sise":1}`, 400, api.CodeInvalidRequest},
		{"not JSON", "POST", "/bough/v1/projects", `name=x`, 400, api.CodeInvalidRequest},
		{"an array", "POST", "/bough/v1/projects", `["x"]`, 400, api.CodeInvalidRequest},
		{"wrong type", "POST", "/bough/v1/projects", `{"name":1}`, 400, api.CodeInvalidRequest},
		{"cut off", "POST", "/bough/v1/projects", `{"name":"x`, 400, api.CodeInvalidRequest},
		{"two objects", "POST", "/bough/v1/projects", `{"name":"x"}{"name":"y"}`, 400, api.CodeInvalidRequest},
		{"garbage after", "POST", "/bough/v1/projects", `{"name":"x"}}`, 400, api.CodeInvalidRequest},
		{"body too large", "POST", "/bough/v1/projects", `{"name":"` + strings.Repeat("a", 70<<10) + `"}`, 413, api.CodeTooLarge},
		{"tail too large", "POST", "/bough/v1/projects", `{"name":"x"}` + strings.Repeat(" ", 70<<10), 413, api.CodeTooLarge},
		{"negative size", "POST", "/bough/v1/projects", `{"name":"x","size_bytes":-4096}`, 400, api.CodeInvalidRequest},
		{"odd size", "POST", "/bough/v1/projects", `{"name":"x","size_bytes":1000}`, 400, api.CodeInvalidRequest},
		{"size overflow", "POST", "/bough/v1/projects", `{"name":"x","size_bytes":1e30}`, 400, api.CodeInvalidRequest},
		{"negative version", "POST", "/bough/v1/projects", `{"name":"x","pg_version":-1}`, 400, api.CodeInvalidRequest},
		{"relative mount point", "POST", demo + "/branches/main/attach", `{"mountpoint":"mnt"}`, 400, api.CodeInvalidRequest},
		{"dotted mount point", "POST", demo + "/branches/main/attach", `{"mountpoint":"/mnt/../etc"}`, 400, api.CodeInvalidRequest},
		{"detach what is not attached", "POST", demo + "/branches/main/detach", ``, 400, api.CodeInvalidRequest},
		{"verify bad project", "POST", "/bough/v1/verify", `{"project":"../x"}`, 400, api.CodeInvalidName},
		{"verify branch alone", "POST", "/bough/v1/verify", `{"branch":"x"}`, 400, api.CodeInvalidName},
		{"gc of what", "POST", "/bough/v1/gc", `{"project":"demo"}`, 400, api.CodeInvalidRequest},
		{"set nothing", "PATCH", demo, `{}`, 400, api.CodeInvalidRequest},
		{"set unknown project", "PATCH", "/bough/v1/projects/none", `{"history":"7d"}`, 404, api.CodeNotFound},
		{"verify unknown", "POST", "/bough/v1/verify", `{"project":"none"}`, 404, api.CodeNotFound},
	}
	b := newDemo(t)
	c := rawClient(t, serve(t, b, api.Options{}))
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			status, code, body := ask(t, c, tt.method, tt.path, tt.body)
			if status != tt.status || code != tt.code {
				t.Errorf("%s %s %.60s = %d %s, want %d %s; body %s", tt.method, tt.path, tt.body, status, code, tt.status, tt.code, body)
			}
		})
	}
	ps, err := b.ListProjects(t.Context())
	if err != nil || len(ps) != 1 {
		t.Errorf("after bad input there are projects %v, %v; want only demo", ps, err)
	}
}

func TestErrorStatus(t *testing.T) {
	tests := []struct {
		err    error
		status int
		code   api.Code
	}{
		{api.Errorf(api.CodeNoSpace, "disk full"), 507, api.CodeNoSpace},
		{api.Errorf(api.CodeFenced, "fenced"), 409, api.CodeFenced},
		{api.Errorf(api.CodeCorrupt, "corrupt"), 500, api.CodeCorrupt},
		{api.Errorf(api.CodeNewerFormat, "newer"), 500, api.CodeNewerFormat},
		{api.Errorf(api.CodeUnavailable, "stopping"), 503, api.CodeUnavailable},
		{errors.New("anything"), 500, api.CodeInternal},
	}
	b := newDemo(t)
	c := rawClient(t, serve(t, b, api.Options{}))
	for _, tt := range tests {
		t.Run(string(tt.code), func(t *testing.T) {
			b.Fail("Status", tt.err)
			status, code, body := ask(t, c, "GET", "/bough/v1/status", "")
			if status != tt.status || code != tt.code {
				t.Errorf("status = %d %s, want %d %s; body %s", status, code, tt.status, tt.code, body)
			}
		})
	}
}

func TestErrorShape(t *testing.T) {
	c := rawClient(t, serve(t, newDemo(t), api.Options{}))
	_, _, got := ask(t, c, "GET", "/bough/v1/projects/demo/branches/dev", "")
	want := `{"error":{"code":"not_found","message":"no branch demo/dev","hint":"see ` + "`bough branch list demo`" + `"}}` + "\n"
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("body (-want +got):\n%s", diff)
	}
}

func TestEmptyListsAreNotNull(t *testing.T) {
	c := rawClient(t, serve(t, apitest.New(), api.Options{}))
	for path, want := range map[string]string{
		"/bough/v1/projects": `{"projects":[]}` + "\n",
		"/bough/v1/branches": `{"branches":[]}` + "\n",
	} {
		if _, _, got := ask(t, c, "GET", path, ""); got != want {
			t.Errorf("GET %s = %q, want %q", path, got, want)
		}
	}
}

// panicker is a Backend whose Status panics.
type panicker struct{ *apitest.Backend }

func (panicker) Status(context.Context) (api.Status, error) { panic("boom") } // unreachable: but for this test

func TestPanicIsAnError(t *testing.T) {
	c := rawClient(t, serve(t, panicker{newDemo(t)}, api.Options{}))
	if status, code, _ := ask(t, c, "GET", "/bough/v1/status", ""); status != 500 || code != api.CodeInternal {
		t.Errorf("status = %d %s, want 500 internal", status, code)
	}
	if status, _, _ := ask(t, c, "GET", "/bough/v1/version", ""); status != 200 {
		t.Errorf("after a panic: version = %d, want 200", status)
	}
}

func TestTimeouts(t *testing.T) {
	b := newDemo(t)
	defer b.Block("Status")()
	defer b.Block("Start")()
	c := rawClient(t, serve(t, b, api.Options{ReadTimeout: 20 * time.Millisecond, ChangeTimeout: 20 * time.Millisecond}))
	for _, r := range [][2]string{{"GET", "/bough/v1/status"}, {"POST", "/bough/v1/projects/demo/branches/main/start"}} {
		if status, code, body := ask(t, c, r[0], r[1], ""); status != 504 || code != api.CodeTimeout {
			t.Errorf("%s %s = %d %s, want 504 timeout; body %s", r[0], r[1], status, code, body)
		}
	}
}

func TestTooManyRequests(t *testing.T) {
	b := newDemo(t)
	release := b.Block("Start")
	entered := make(chan struct{})
	c := rawClient(t, serve(t, enterer{b, entered}, api.Options{RequestsMax: 1}))
	done := make(chan int, 1)
	go func() {
		status, _, _ := ask(t, c, "POST", "/bough/v1/projects/demo/branches/main/start", "")
		done <- status
	}()
	<-entered
	if status, code, _ := ask(t, c, "GET", "/bough/v1/version", ""); status != 503 || code != api.CodeUnavailable {
		t.Errorf("second request = %d %s, want 503 unavailable", status, code)
	}
	release()
	if status := <-done; status != 200 {
		t.Errorf("first request = %d, want 200", status)
	}
	if status, _, _ := ask(t, c, "GET", "/bough/v1/version", ""); status != 200 {
		t.Errorf("request afterwards = %d, want 200", status)
	}
}

// enterer is a Backend that says when Start was called.
type enterer struct {
	*apitest.Backend
	entered chan struct{}
}

func (e enterer) Start(ctx context.Context, project, branch string, req api.StartBranch) (api.StartedBranch, error) {
	e.entered <- struct{}{}
	return e.Backend.Start(ctx, project, branch, req)
}

// TestChangeOutlivesClient hangs up while a branch is being started: the start
// goes on to its end.
func TestChangeOutlivesClient(t *testing.T) {
	b := newDemo(t)
	release := b.Block("Start")
	entered := make(chan struct{})
	sock := serve(t, enterer{b, entered}, api.Options{})
	conn, err := net.Dial("unix", sock)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(conn, "POST /bough/v1/projects/demo/branches/main/start HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	<-entered
	conn.Close()
	release()
	for {
		br, err := b.Branch(t.Context(), "demo", "main")
		if err != nil {
			t.Fatal(err)
		}
		if br.Endpoint == api.EndpointRunning {
			return
		}
	}
}

// TestCloseEndsChanges closes the server under a start that hangs.
func TestCloseEndsChanges(t *testing.T) {
	b := newDemo(t)
	defer b.Block("Start")()
	entered := make(chan struct{}, 1)
	dir, err := os.MkdirTemp("", "api")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	l, err := api.Listen(filepath.Join(dir, "s"))
	if err != nil {
		t.Fatal(err)
	}
	s := api.NewServer(enterer{b, entered}, api.Options{})
	served := make(chan error, 1)
	go func() { served <- s.Serve(l) }()
	asked := make(chan struct{})
	go func() {
		defer close(asked)
		req, _ := http.NewRequest("POST", "http://x/bough/v1/projects/demo/branches/main/start", nil)
		if resp, err := rawClient(t, l.Addr().String()).Do(req); err == nil {
			resp.Body.Close()
		}
	}()
	<-entered
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if err := s.Shutdown(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Shutdown under a request = %v, want deadline exceeded", err)
	}
	<-asked // Shutdown cancelled the request's work
	if err := <-served; err != nil {
		t.Errorf("Serve = %v", err)
	}
}

func TestPprofAndVars(t *testing.T) {
	c := rawClient(t, serve(t, newDemo(t), api.Options{}))
	for _, path := range []string{"/debug/pprof/", "/debug/pprof/goroutine?debug=1", "/debug/vars"} {
		resp, err := c.Get("http://x" + path)
		if err != nil {
			t.Fatal(err)
		}
		n, _ := io.Copy(io.Discard, resp.Body)
		resp.Body.Close()
		if resp.StatusCode != 200 || n == 0 {
			t.Errorf("GET %s = %d with %d bytes", path, resp.StatusCode, n)
		}
	}
}
