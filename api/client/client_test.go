package client_test

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/bough-db/bough/api"
	"github.com/bough-db/bough/api/apitest"
	"github.com/bough-db/bough/api/client"
)

func socketPath(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "api") // t.TempDir is too long for a socket's path
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return filepath.Join(dir, "s")
}

// start serves b and returns a client of it.
func start(t *testing.T, b api.Backend) *client.Client {
	t.Helper()
	sock := socketPath(t)
	l, err := api.Listen(sock)
	if err != nil {
		t.Fatal(err)
	}
	s := api.NewServer(b, api.Options{})
	done := make(chan error, 1)
	go func() { done <- s.Serve(l) }()
	c := client.New(sock)
	t.Cleanup(func() {
		c.Close()
		s.Close()
		if err := <-done; err != nil {
			t.Errorf("Serve = %v", err)
		}
	})
	return c
}

// TestEveryMethod drives each method once and compares with the backend.
func TestEveryMethod(t *testing.T) {
	b := apitest.New()
	c := start(t, b)
	ctx := t.Context()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	created, err := c.CreateProject(ctx, api.CreateProject{Name: "demo", PGVersion: 16, SizeBytes: 1 << 30})
	must(err)
	if created.Project.PGVersion != 16 || created.Project.SizeBytes != 1<<30 || created.Branch.Name != "main" || created.Connection.URL == "" {
		t.Errorf("CreateProject = %+v", created)
	}
	dev, err := c.CreateBranch(ctx, "demo", api.CreateBranch{Name: "dev"})
	must(err)
	if dev.Branch.Parent != "main" {
		t.Errorf("CreateBranch without from: parent = %q, want main", dev.Branch.Parent)
	}
	renamed, err := c.RenameBranch(ctx, "demo", "dev", "test")
	must(err)
	if renamed.ID != dev.Branch.ID || renamed.Name != "test" {
		t.Errorf("RenameBranch = %+v", renamed)
	}
	started, err := c.Start(ctx, "demo", "test", api.StartBranch{})
	must(err)
	if started.Endpoint != api.EndpointRunning {
		t.Errorf("Start = %+v", started)
	}
	conn, err := c.Connection(ctx, "demo", "test")
	must(err)
	if conn.Admin == nil || conn.Password == "" {
		t.Errorf("Connection = %+v, want admin and password", conn)
	}
	st, err := c.Status(ctx)
	must(err)
	if len(st.Branches) != 1 || st.Branches[0].Ref() != "demo/test" {
		t.Errorf("Status branches = %+v, want demo/test", st.Branches)
	}
	suspended, err := c.Suspend(ctx, "demo", "test")
	must(err)
	if suspended.Endpoint != api.EndpointSuspended {
		t.Errorf("Suspend = %+v", suspended)
	}
	at, err := c.Attach(ctx, "demo", "test", api.AttachBranch{Mountpoint: "/mnt"})
	must(err)
	if diff := cmp.Diff(api.Attachment{Project: "demo", Branch: "test", Device: "/dev/loop7", Mountpoint: "/mnt"}, at); diff != "" {
		t.Errorf("Attach (-want +got):\n%s", diff)
	}
	must(c.Detach(ctx, "demo", "test"))
	got, err := c.Branch(ctx, "demo", "test")
	must(err)
	want, err := b.Branch(ctx, "demo", "test")
	must(err)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("Branch (-want +got):\n%s", diff)
	}
	all, err := c.Branches(ctx, "")
	must(err)
	of, err := c.Branches(ctx, "demo")
	must(err)
	if diff := cmp.Diff(all, of); diff != "" || len(all) != 2 {
		t.Errorf("Branches of all and of demo differ: %s", diff)
	}
	detail, err := c.Project(ctx, "demo")
	must(err)
	if len(detail.Branches) != 2 || detail.Project.Branches != 2 {
		t.Errorf("Project = %+v, want 2 branches", detail)
	}
	v, err := c.Version(ctx)
	must(err)
	if v != b.Version() {
		t.Errorf("Version = %+v", v)
	}
	must(c.DeleteBranch(ctx, "demo", "test"))
	must(c.DeleteProject(ctx, "demo"))
	ps, err := c.Projects(ctx)
	must(err)
	if len(ps) != 0 {
		t.Errorf("Projects after delete = %v", ps)
	}
}

// TestEveryMethodAboutThePast drives each of those once.
func TestEveryMethodAboutThePast(t *testing.T) {
	b := apitest.New()
	c := start(t, b)
	ctx := t.Context()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	_, err := c.CreateProject(ctx, api.CreateProject{Name: "demo"})
	must(err)
	page, err := c.Log(ctx, "demo", "main", api.LogQuery{After: 2, Before: 7, OldestFirst: true, Limit: 3, Since: apitest.Epoch})
	must(err)
	want, err := b.Log(ctx, "demo", "main", api.LogQuery{After: 2, Before: 7, OldestFirst: true, Limit: 3})
	must(err)
	if diff := cmp.Diff(want, page); diff != "" || len(page.Barriers) != 3 || page.Barriers[0].Seq != 3 || !page.More {
		t.Errorf("Log = %+v (-want +got):\n%s", page, diff)
	}
	snap, err := c.CreateSnapshot(ctx, "demo", "main", api.CreateSnapshot{Name: "good", At: "@seq:5"})
	must(err)
	all, err := c.Snapshots(ctx, "demo", "main")
	must(err)
	if diff := cmp.Diff([]api.Snapshot{snap}, all); diff != "" || snap.Barrier.Seq != 5 {
		t.Errorf("Snapshots (-created +listed):\n%s", diff)
	}
	old, err := c.CreateBranch(ctx, "demo", api.CreateBranch{Name: "old", At: "@good"})
	must(err)
	if old.Branch.ForkSeq != 5 {
		t.Errorf("CreateBranch at a snapshot = %+v", old.Branch)
	}
	must(c.DeleteSnapshot(ctx, "demo", "main", "good"))
	r, err := c.RestoreBranch(ctx, "demo", "main", api.RestoreBranch{At: "seq:6", KeepAs: "kept"})
	must(err)
	if r.Seq != 6 || r.Kept == nil || r.Kept.Name != "kept" {
		t.Errorf("RestoreBranch = %+v", r)
	}
	must(c.DeleteBranch(ctx, "demo", "old"))
	gone, err := c.Deleted(ctx, "demo")
	must(err)
	if len(gone) != 1 || gone[0].Name != "old" {
		t.Errorf("Deleted = %+v", gone)
	}
	back, err := c.UndeleteBranch(ctx, "demo", "old", api.UndeleteBranch{Name: "old2"})
	must(err)
	if back.Name != "old2" || back.ID != old.Branch.ID {
		t.Errorf("UndeleteBranch = %+v", back)
	}
	tmp, release, err := c.Throwaway(ctx, "demo", "main", api.ThrowawayBranch{At: "seq:4"})
	must(err)
	if !tmp.Branch.Throwaway || tmp.Branch.ForkSeq != 4 || tmp.Connection.Options == "" {
		t.Errorf("Throwaway = %+v", tmp)
	}
	release()
	for api.CodeOf(err) != api.CodeNotFound {
		_, err = c.Branch(ctx, "demo", tmp.Branch.Name)
		if err != nil && api.CodeOf(err) != api.CodeNotFound {
			t.Fatal(err)
		}
	}
	if _, _, err = c.Throwaway(ctx, "demo", "main", api.ThrowawayBranch{At: "seq:99"}); api.CodeOf(err) != api.CodeNoPoint {
		t.Errorf("Throwaway at no point = %v, want %s", err, api.CodeNoPoint)
	}
}

func TestErrorsComeThrough(t *testing.T) {
	c := start(t, apitest.New())
	_, err := c.Project(t.Context(), "none")
	want := api.Errorf(api.CodeNotFound, "no project none").WithHint("see `bough project list`")
	var got *api.Error
	if !errors.As(err, &got) || *got != *want {
		t.Errorf("Project(none) = %#v, want %#v", err, want)
	}
}

// TestBadNamesStayHere uses a client of a socket where nothing listens: a bad
// name is reported without asking.
func TestBadNamesStayHere(t *testing.T) {
	c := client.New(filepath.Join(t.TempDir(), "none"))
	ctx := t.Context()
	for _, name := range []string{"../x", "", strings.Repeat("a", 300), "Demo", "a/b"} {
		calls := map[string]func() error{
			"Project":       func() error { _, err := c.Project(ctx, name); return err },
			"CreateProject": func() error { _, err := c.CreateProject(ctx, api.CreateProject{Name: name}); return err },
			"DeleteProject": func() error { return c.DeleteProject(ctx, name) },
			"CreateBranch":  func() error { _, err := c.CreateBranch(ctx, "demo", api.CreateBranch{Name: name}); return err },
			"RenameBranch":  func() error { _, err := c.RenameBranch(ctx, "demo", "x", name); return err },
			"CreateSnapshot": func() error {
				_, err := c.CreateSnapshot(ctx, "demo", "main", api.CreateSnapshot{Name: name})
				return err
			},
			"DeleteSnapshot": func() error { return c.DeleteSnapshot(ctx, "demo", "main", name) },
			"UndeleteBranch": func() error { _, err := c.UndeleteBranch(ctx, "demo", name, api.UndeleteBranch{}); return err },
			"Deleted":        func() error { _, err := c.Deleted(ctx, name); return err },
			"Throwaway":      func() error { _, _, err := c.Throwaway(ctx, "demo", name, api.ThrowawayBranch{}); return err },
			"Start":          func() error { _, err := c.Start(ctx, "demo", name, api.StartBranch{}); return err },
		}
		for method, call := range calls {
			if err := call(); api.CodeOf(err) != api.CodeInvalidName {
				t.Errorf("%s(%.20q) = %v, want an invalid name", method, name, err)
			}
		}
	}
}

func TestNoDaemon(t *testing.T) {
	missing := filepath.Join(t.TempDir(), "none")
	stale := socketPath(t)
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: stale, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	l.Close()
	for name, sock := range map[string]string{"missing": missing, "stale": stale} {
		_, err := client.New(sock).Version(t.Context())
		if !errors.Is(err, client.ErrNoDaemon) {
			t.Errorf("%s socket: %v, want ErrNoDaemon", name, err)
			continue
		}
		if want := "no daemon at " + sock + ": start one with `bough serve`"; !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%s socket: %q, want it to start with %q", name, err, want)
		}
	}
}

func TestNotAllowed(t *testing.T) {
	if os.Geteuid() == 0 {
		t.Skip("root may open every socket; see the test of peer credentials in package api")
	}
	sock := socketPath(t)
	l, err := net.Listen("unix", sock)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if err := os.Chmod(sock, 0); err != nil {
		t.Fatal(err)
	}
	if _, err := client.New(sock).Version(t.Context()); !errors.Is(err, client.ErrNotAllowed) {
		t.Errorf("closed socket: %v, want ErrNotAllowed", err)
	}
}

func TestVerifyStream(t *testing.T) {
	ctx := t.Context()
	b := apitest.New()
	c := start(t, b)
	if _, err := c.CreateProject(ctx, api.CreateProject{Name: "demo"}); err != nil {
		t.Fatal(err)
	}
	b.AddProblem(api.VerifyProblem{Object: "branches/x/seg/1", Detail: "checksum"})
	var events []api.VerifyEvent
	res, err := c.Verify(ctx, api.VerifyScope{Project: "demo"}, func(ev api.VerifyEvent) { events = append(events, ev) })
	if err != nil || res.Problems != 1 || len(events) != 2 || events[0].Progress == nil || events[1].Problem == nil {
		t.Errorf("Verify = %+v, %v with events %+v", res, err, events)
	}

	b.Fail("Verify", api.Errorf(api.CodeUnavailable, "store is gone"))
	_, err = c.Verify(ctx, api.VerifyScope{}, func(api.VerifyEvent) {})
	if api.CodeOf(err) != api.CodeUnavailable {
		t.Errorf("Verify that fails in the middle = %v, want unavailable", err)
	}

	release := b.Block("Verify")
	defer release()
	cctx, cancel := context.WithCancel(ctx)
	_, err = c.Verify(cctx, api.VerifyScope{}, func(api.VerifyEvent) { cancel() })
	if !errors.Is(err, context.Canceled) {
		t.Errorf("Verify cancelled = %v, want context.Canceled", err)
	}
}

// fakeServer answers every request on a socket with handler.
func fakeServer(t *testing.T, handler http.HandlerFunc) *client.Client {
	t.Helper()
	sock := socketPath(t)
	l, err := net.Listen("unix", sock)
	if err != nil {
		t.Fatal(err)
	}
	s := &http.Server{Handler: handler}
	go s.Serve(l)
	t.Cleanup(func() { s.Close() })
	return client.New(sock)
}

// TestThrowawayOfStrangeServer gets no branch from a server that ends its answer, or
// does not write what it should.
func TestThrowawayOfStrangeServer(t *testing.T) {
	for _, body := range []string{"", "{\n"} {
		c := fakeServer(t, func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(http.StatusCreated)
			io.WriteString(w, body)
		})
		if _, _, err := c.Throwaway(t.Context(), "demo", "main", api.ThrowawayBranch{}); err == nil {
			t.Errorf("a branch came of the answer %q", body)
		}
	}
}

func TestStrangeAnswers(t *testing.T) {
	ctx := t.Context()
	verify := func(c *client.Client) error {
		_, err := c.Verify(ctx, api.VerifyScope{}, func(api.VerifyEvent) {})
		return err
	}
	version := func(c *client.Client) error { _, err := c.Version(ctx); return err }
	tests := []struct {
		name    string
		call    func(*client.Client) error
		handler http.HandlerFunc
		want    string
	}{
		{"another server", version, func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "hello", 404) }, "is it a bough daemon?"},
		{"redirect", version, func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "/elsewhere", http.StatusTemporaryRedirect)
		}, "is it a bough daemon?"},
		{"not JSON", version, func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "hello") }, "decode answer"},
		{"cut off", version, func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, "went away"},
		{"stream without end", verify, func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, `{"progress":{}}`+"\n") }, "before the check ended"},
		{"line too long", verify, func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, strings.Repeat("x", 2<<20)) }, "read answer"},
		{"line not JSON", verify, func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "x\n") }, "decode answer"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			err := tt.call(fakeServer(t, tt.handler))
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("err = %v, want one with %q", err, tt.want)
			}
		})
	}
}
