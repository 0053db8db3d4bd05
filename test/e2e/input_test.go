package e2e

import (
	"bytes"
	"errors"
	"fmt"
	"hash/crc32"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestBadCommand gives commands what makes no sense. Each is refused with one line
// that says what to do, and changes nothing.
func TestBadCommand(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	h.start("--create", "demo")
	h.bough("project", "create", "other")
	h.bough("branch", "create", "demo/dev")
	before := h.bough("branch", "list", "--json")

	const failed, usage = 1, 2
	type row struct {
		code  int
		words []string
		args  []string
	}
	var rows []row
	for _, c := range [][]string{
		{"url"}, {"start"}, {"suspend"}, {"attach"}, {"detach"}, {"psql"}, {"verify"}, {"branch", "show"}, {"branch", "delete"},
	} {
		rows = append(rows,
			row{failed, []string{"no project nope", "bough project list"}, append(c[:len(c):len(c)], "nope/main")},
			row{failed, []string{"no branch demo/nope", "bough branch list demo"}, append(c[:len(c):len(c)], "demo/nope")})
	}
	rows = append(rows, []row{
		{failed, []string{"no project nope", "bough project list"}, []string{"project", "show", "nope"}},
		{failed, []string{"no project nope", "bough project list"}, []string{"project", "delete", "nope", "--yes"}},
		{failed, []string{"no project nope", "bough project list"}, []string{"branch", "list", "nope"}},
		{failed, []string{"no project nope", "bough project list"}, []string{"branch", "tree", "nope"}},
		{failed, []string{"no project nope", "bough project list"}, []string{"branch", "create", "nope/dev"}},
		{failed, []string{"no branch demo/nope", "bough branch list demo"}, []string{"branch", "create", "demo/x", "--from", "demo/nope"}},
		{failed, []string{"no branch demo/nope", "bough branch list demo"}, []string{"branch", "rename", "demo/nope", "x"}},
		{failed, []string{"project demo exists", "another name"}, []string{"project", "create", "demo"}},
		{failed, []string{"demo/dev exists", "another name"}, []string{"branch", "create", "demo/dev"}},
		{failed, []string{"demo/main exists", "another name"}, []string{"branch", "create", "demo/main"}},
		{failed, []string{"demo/main exists", "another name"}, []string{"branch", "rename", "demo/dev", "main"}},
		{failed, []string{"reserved"}, []string{"project", "create", "template-15"}},
		{usage, []string{"demo/NAME"}, []string{"branch", "create", "demo"}},
		{usage, []string{"other/main"}, []string{"branch", "create", "demo/x", "--from", "other/main"}},
		{failed, []string{"before the history", "bough log demo/main"}, []string{"psql", "demo@-10m"}},
		{usage, []string{"frobnicate", "--help"}, []string{"frobnicate"}},
		{usage, []string{"--frobnicate", "--help"}, []string{"status", "--frobnicate"}},
		{usage, []string{"PROJECT/BRANCH"}, []string{"start"}},
		{usage, []string{"extra"}, []string{"start", "demo", "extra"}},
		{usage, []string{"size"}, []string{"project", "create", "x", "--size", "many"}},
		{failed, []string{"99 is not installed", "install"}, []string{"project", "create", "x", "--pg-version", "99"}},
		{failed, []string{"/dev/null"}, []string{"attach", "demo/dev", "/dev/null"}},
		{failed, []string{"not attached"}, []string{"detach", "demo/dev"}},
	}...)
	for _, bad := range []string{
		"../x", "..", ".", "", strings.Repeat("a", 300), "Upper", "a/b/c", "-x", ".x", "a..b", "a b", "ü", "a\nb", "a\x00b", "a;b", "$(x)", "a%2fb",
	} {
		if strings.Contains(bad, "\x00") {
			continue // no argument of a program can have it
		}
		rows = append(rows,
			row{usage, nil, []string{"project", "create", "--", bad}},
			row{usage, nil, []string{"branch", "create", "--", "demo/" + bad}},
			row{usage, nil, []string{"branch", "rename", "--", "demo/dev", bad}},
			row{usage, nil, []string{"start", "--", bad}},
			row{usage, nil, []string{"psql", "demo/" + bad}})
	}
	for _, r := range rows {
		h.refused(r.code, r.words, r.args...)
	}
	if after := h.bough("branch", "list", "--json"); after != before {
		t.Errorf("something changed: before\n%s\nafter\n%s", before, after)
	}

	// The same for a program: JSON on standard error.
	if r := h.call("start", "demo/nope", "--json"); r.code != failed || !strings.HasPrefix(r.err, `{"error":{"code":"not_found"`) {
		t.Error(r)
	}
	h.stop()
	h.refused(failed, []string{h.socket, "bough serve"}, "status")
	h.refused(failed, []string{"bough serve"}, "psql", "demo")
}

// TestBadSQL names branches that do not exist to the front door.
func TestBadSQL(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	h.start("--create", "demo")
	good := strings.TrimSpace(h.bough("url", "demo"))
	for _, c := range []struct{ url, words string }{
		{strings.Replace(good, "app@demo", "app@nope", 1), "nope"},
		{strings.Replace(good, "app@demo", "app@demo/nope", 1), "demo/nope"},
		{strings.Replace(good, "app@demo", "app@../demo", 1), "branch"},
		{strings.Replace(good, "app@demo", "app", 1), "branch"},
		{strings.Replace(good, "app@demo", "nodb@demo", 1), "nodb"},
		{strings.Replace(good, "app:", "stranger:", 1), "stranger"},
		{strings.Replace(good, "app:", "app:x", 1), "password authentication failed"},
	} {
		if c.url == good {
			t.Fatalf("cannot change %s", good)
		}
		out, err := exec.Command(filepath.Join(run.pgbin, "psql"), "-X", "-c", "select 1", c.url).CombinedOutput()
		if err == nil || !strings.Contains(string(out), c.words) {
			t.Errorf("psql %s: %v, want words %q in %q", c.url, err, c.words, out)
		}
	}
	h.exec("demo", "select 1")
}

// serveFails runs a daemon that cannot start, and checks its exit code, its one
// line, and that it leaves nothing.
func (h *host) serveFails(cmd *exec.Cmd, code int, words ...string) {
	h.t.Helper()
	done := make(chan result, 1)
	go func() { done <- execute(cmd) }()
	var r result
	select {
	case r = <-done:
	case <-time.After(startLimit):
		_ = cmd.Process.Signal(syscall.SIGTERM)
		h.t.Fatalf("it started: %v", <-done)
	}
	lines := strings.Split(strings.TrimSuffix(r.err, "\n"), "\n")
	last := lines[len(lines)-1]
	for _, l := range lines[:len(lines)-1] { // what it logs before
		if strings.HasPrefix(l, "bough: ") || strings.Contains(l, "ERROR") || strings.Contains(l, "panic") {
			h.t.Errorf("more than one line: %v", r)
		}
	}
	r.err = last
	checkRefused(h.t, r, code, words)
	if left := leftovers(h.dir, h.state); h.daemon() == nil && len(left) > 0 {
		h.t.Errorf("a failed start left:\n  %s", strings.Join(left, "\n  "))
	}
}

// plainServe is serve with output for people, and the flags of the host.
func (h *host) plainServe(args ...string) *exec.Cmd {
	cmd := h.serve(args...)
	cmd.Args = append(cmd.Args[:2:2], cmd.Args[3:]...) // without --json
	return cmd
}

// TestBadServe starts daemons that cannot run.
func TestBadServe(t *testing.T) {
	t.Parallel()
	busy := newHost(t)
	busy.start("--create", "demo")
	busy.exec("demo", "create table t (i int)")
	listen := busy.daemon().ready.Listen
	stranger := filepath.Join(busy.dir, "stranger")
	if err := errors.Join(os.Mkdir(stranger, 0o755), os.WriteFile(filepath.Join(stranger, "thesis.txt"), []byte("mine"), 0o644)); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(busy.dir, "file")
	if err := os.WriteFile(file, nil, 0o644); err != nil {
		t.Fatal(err)
	}

	h := newHost(t)
	const failed, usage = 1, 2
	for _, c := range []struct {
		name  string
		code  int
		words []string
		args  []string
	}{
		{"state in use", failed, []string{busy.state, strconv.Itoa(busy.daemon().ready.PID), "--state"}, []string{"--state", busy.state}},
		{"store in use", failed, []string{filepath.Join(busy.state, "store"), strconv.Itoa(busy.daemon().ready.PID), "another directory"}, []string{"--store", filepath.Join(busy.state, "store")}},
		{"port taken", failed, []string{listen, "--listen"}, []string{"--listen", listen}},
		{"socket taken", failed, []string{busy.socket, "--socket"}, []string{"--socket", busy.socket}},
		{"stranger's directory", failed, []string{"not a bough store", "--store"}, []string{"--store", stranger}},
		{"state is a file", failed, []string{file, "--state"}, []string{"--state", file}},
		{"store is a file", failed, []string{file, "--store"}, []string{"--store", file}},
		{"no such Postgres", failed, []string{"/nowhere", "--pg-bin"}, []string{"--pg-bin", "/nowhere"}},
		{"version not installed", failed, []string{"99", "install"}, []string{"--create", "x", "--pg-version", "99"}},
		{"user unknown", failed, []string{"nosuchuser", "--pg-user"}, []string{"--pg-user", "nosuchuser"}},
		{"address unknown", failed, []string{"192.0.2.1", "--listen"}, []string{"--listen", "192.0.2.1:5"}},
		{"address", usage, []string{"--listen", "HOST:PORT"}, []string{"--listen", "nonsense"}},
		{"store elsewhere", usage, []string{"--store", `"b"`, "3 to 63 characters"}, []string{"--store", "s3://b/p"}},
		{"write mode", usage, []string{"flush", "through"}, []string{"--write-mode", "maybe"}},
		{"journal too small", usage, []string{"--journal-bytes", "64"}, []string{"--journal-bytes", "1"}},
		{"cache size", usage, []string{"--cache-bytes"}, []string{"--cache-bytes", "much"}},
		{"project name", usage, []string{"Demo"}, []string{"--create", "Demo"}},
		{"project path", usage, []string{"../x"}, []string{"--create", "../x"}},
	} {
		t.Run(strings.ReplaceAll(c.name, " ", "-"), func(t *testing.T) {
			h := h.with(t)
			h.serveFails(h.plainServe(c.args...), c.code, c.words...)
		})
	}
	if text, err := os.ReadFile(filepath.Join(stranger, "thesis.txt")); err != nil || string(text) != "mine" {
		t.Errorf("the stranger's file: %q, %v", text, err)
	}
	if entries, err := os.ReadDir(stranger); err != nil || len(entries) != 1 {
		t.Errorf("the stranger's directory has %v now", entries)
	}
	busy.exec("demo", "insert into t values (1)") // it never noticed
}

// TestNewerFormat opens a store of a later version: it is refused by name, and not
// touched.
func TestNewerFormat(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	h.start("--create", "demo")
	h.exec("demo", "create table t (i int)")
	h.stop()
	path := h.object("format")
	old, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	_, body, ok := bytes.Cut(old, []byte("\n"))
	if !ok {
		t.Fatalf("format record %q has no header line", old)
	}
	sum := crc32.Checksum(body, crc32.MakeTable(crc32.Castagnoli))
	h.replaceObject("format", fmt.Appendf(nil, "bough store 2 %08x\n%s", sum, body))
	h.serveFails(h.plainServe(), 1, "newer", "version 2")
	h.replaceObject("format", bytes.Replace(old, []byte("created"), []byte("crEated"), 1))
	h.serveFails(h.plainServe(), 1, "object format", "checksum", "copy")
	h.replaceObject("format", old)
	bit := run.random(t).Int64N(int64(len(old)) * 8)
	h.start() // which marks the file with a tag of its contents, or finds the mark
	h.stop()
	flip(t, path, bit)
	h.serveFails(h.plainServe(), 1, "format", "copy")
	flip(t, path, bit)
	h.start("--create", "demo")
	h.exec("demo", "insert into t values (1)")
}

// replaceObject puts other contents in the place of an object, as a later version
// of the program would. The store marks each file with a tag of its contents, which
// goes with the file: a new one has none.
func (h *host) replaceObject(key string, content []byte) {
	h.t.Helper()
	path := h.object(key)
	if err := errors.Join(os.Remove(path), os.WriteFile(path, content, 0o600)); err != nil {
		h.t.Fatal(err)
	}
}

// TestNoFUSE runs where there is no /dev/fuse, and where it is something else.
func TestNoFUSE(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	dev := filepath.Join(h.dir, "dev")
	if err := os.Mkdir(dev, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, prepare := range []string{
		"mount -t tmpfs none " + dev + " && cp -a /dev/null /dev/urandom /dev/loop-control " + dev + " && mount --move " + dev + " /dev",
		"mount --bind /dev/null /dev/fuse",
	} {
		serve := h.plainServe()
		cmd := exec.Command("unshare", append([]string{"-m", "sh", "-c", prepare + ` && exec "$@"`, "sh"}, serve.Args...)...)
		cmd.Env, cmd.Dir = serve.Env, serve.Dir
		h.serveFails(cmd, 1, "/dev/fuse")
	}
}

// TestNoRights runs as somebody who may not do what the daemon does.
func TestNoRights(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	nobody, err := credential("nobody")
	if err != nil {
		t.Skip(err)
	}
	cmd := h.plainServe()
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: nobody}
	h.serveFails(cmd, 1, "root", "sudo")

	// Neither may nobody command a daemon that runs.
	h.start("--create", "demo")
	call := exec.Command(h.bin, "branch", "list")
	call.Env = append(environ(), "BOUGH_SOCKET="+h.socket)
	call.SysProcAttr = &syscall.SysProcAttr{Credential: nobody}
	checkRefused(t, execute(call), 1, []string{h.socket})
}

// TestPortFreed shows that a daemon that could not listen can when the port is free.
func TestPortFreed(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	h.serveFails(h.plainServe("--listen", addr), 1, addr)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	h.start("--listen", addr, "--create", "demo")
	h.exec("demo", "select 1")
}
