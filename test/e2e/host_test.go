package e2e

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// Limits of what the tests wait for: generous, since machines are busy.
const (
	startLimit   = time.Minute
	stopLimit    = 2 * time.Minute
	commandLimit = 2 * time.Minute
)

// host is one daemon's world.
type host struct {
	t      *testing.T
	bin    string
	dir    string // has all of it, the daemon's log too
	state  string
	socket string
	log    string   // the daemon's
	args   []string // of serve, after --state
	env    []string // of serve, besides the environment

	running *running
}

// running is the daemon that runs on a host, which subtests share.
type running struct {
	mu sync.Mutex
	d  *daemon // nil while none runs
}

// readyLine is what serve prints when it is up.
type readyLine struct {
	Ready   bool   `json:"ready"`
	PID     int    `json:"pid"`
	Socket  string `json:"socket"`
	Listen  string `json:"listen"`
	Project string `json:"project"`
	URL     string `json:"url"`
}

// daemon is one process of serve.
type daemon struct {
	cmd    *exec.Cmd
	ready  readyLine
	first  <-chan string // the first line of its output, "" when there is none
	exited chan struct{}
	err    error // of Wait, once exited is closed
}

// newHost returns a host on which no daemon runs yet. args are those of every
// serve on it.
func newHost(t *testing.T, args ...string) *host {
	t.Helper()
	if run.skip != "" {
		t.Skip(run.skip)
	}
	dir := filepath.Join(run.root, strconv.FormatInt(run.hosts.Add(1), 10))
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return newHostAt(t, dir, args...)
}

// newHostAt is newHost in a directory that exists.
func newHostAt(t *testing.T, dir string, args ...string) *host {
	t.Helper()
	h := &host{t: t, bin: run.bin, dir: dir, state: filepath.Join(dir, "s"), running: &running{}}
	h.socket, h.log = filepath.Join(h.state, "bough.sock"), filepath.Join(dir, "daemon.log")
	// Small disks: many hosts live at the same time.
	h.args = append([]string{"--listen", "127.0.0.1:0", "--cache-bytes", "64MiB", "--journal-bytes", "512MiB"}, args...)
	t.Cleanup(h.close)
	return h
}

// with returns the host for a subtest.
func (h *host) with(t *testing.T) *host {
	c := *h
	c.t = t
	return &c
}

// close stops the daemon, checks that it left nothing, and removes the host.
func (h *host) close() {
	running := h.daemon() != nil
	if running {
		if err := h.tryStop(syscall.SIGTERM); err != nil {
			h.t.Errorf("stop the daemon at the end: %v", err)
		} else if left := leftovers(h.dir, h.state); len(left) > 0 {
			h.t.Errorf("the daemon stopped in order, and left:\n  %s", strings.Join(left, "\n  "))
		}
	}
	if h.t.Failed() {
		h.keepLogs()
	}
	if err := tidy(h.dir); err != nil {
		h.t.Errorf("tidy up: %v", err)
	}
	if left := leftovers(h.dir, h.state); len(left) > 0 {
		h.t.Errorf("still there after tidying up:\n  %s", strings.Join(left, "\n  "))
		return
	}
	if err := os.RemoveAll(h.dir); err != nil {
		h.t.Errorf("remove the host's directory: %v", err)
	}
}

func (h *host) daemon() *daemon {
	h.running.mu.Lock()
	defer h.running.mu.Unlock()
	return h.running.d
}

func (h *host) setDaemon(d *daemon) {
	h.running.mu.Lock()
	defer h.running.mu.Unlock()
	h.running.d = d
}

// serve returns the command that runs a daemon here, which is not started.
func (h *host) serve(args ...string) *exec.Cmd {
	all := append([]string{"serve", "--json", "--state", h.state}, h.args...)
	cmd := exec.Command(h.bin, append(all, args...)...)
	cmd.Env = append(environ(), h.env...)
	cmd.Dir = "/"
	return cmd
}

// start starts a daemon and waits until it is ready.
func (h *host) start(args ...string) {
	h.t.Helper()
	if err := h.tryStart(args...); err != nil {
		h.t.Fatalf("start the daemon: %v", err)
	}
}

func (h *host) tryStart(args ...string) error {
	if h.daemon() != nil {
		return errors.New("a daemon runs already")
	}
	d, err := h.launch(h.serve(args...))
	if err != nil {
		return err
	}
	select {
	case ready := <-d.first:
		if err := json.Unmarshal([]byte(ready), &d.ready); err != nil || !d.ready.Ready {
			err = fmt.Errorf("it said %q", ready)
			_ = d.cmd.Process.Kill()
			<-d.exited
			return errors.Join(err, d.err, errors.New(h.logTail()))
		}
	case <-time.After(startLimit):
		_ = d.cmd.Process.Signal(syscall.SIGQUIT) // says in the log what it does
		<-d.exited
		return fmt.Errorf("not ready after %v: %s", startLimit, h.logTail())
	}
	h.setDaemon(d)
	return nil
}

// launch starts a process of serve, which writes to the host's log.
func (h *host) launch(cmd *exec.Cmd) (*daemon, error) {
	log, err := os.OpenFile(h.log, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o644)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	fmt.Fprintf(log, "--- %s %s\n", time.Now().Format(time.RFC3339Nano), strings.Join(cmd.Args[1:], " "))
	out, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	cmd.Stdout, cmd.Stderr = w, log
	d := &daemon{cmd: cmd, exited: make(chan struct{})}
	if err := run.spawner.start(cmd); err != nil {
		return nil, errors.Join(err, out.Close(), w.Close())
	}
	_ = w.Close()
	d.first = firstLine(out)
	go func() {
		d.err = cmd.Wait()
		close(d.exited)
	}()
	return d, nil
}

// kill ends the daemon with SIGKILL.
func (h *host) kill() {
	h.t.Helper()
	d := h.daemon()
	if d == nil {
		h.t.Fatal("no daemon to kill")
	}
	h.setDaemon(nil)
	_ = d.cmd.Process.Kill() // it may have ended by itself, which the test wanted to do
	<-d.exited
}

// stop ends the daemon in order.
func (h *host) stop() {
	h.t.Helper()
	if err := h.tryStop(syscall.SIGTERM); err != nil {
		h.t.Fatalf("stop the daemon: %v", err)
	}
	if left := leftovers(h.dir, h.state); len(left) > 0 {
		h.t.Fatalf("the daemon stopped in order, and left:\n  %s", strings.Join(left, "\n  "))
	}
}

// tryStop sends a signal and waits for the end, which must be in order.
func (h *host) tryStop(sig syscall.Signal) error {
	d := h.daemon()
	if d == nil {
		return errors.New("no daemon runs")
	}
	h.setDaemon(nil)
	if err := d.cmd.Process.Signal(sig); err != nil {
		<-d.exited
		return fmt.Errorf("it had ended: %v: %s", d.err, h.logTail())
	}
	select {
	case <-d.exited:
	case <-time.After(stopLimit):
		_ = d.cmd.Process.Signal(syscall.SIGQUIT)
		<-d.exited
		return fmt.Errorf("not stopped after %v: %s", stopLimit, h.logTail())
	}
	if d.err != nil {
		return fmt.Errorf("%w: %s", d.err, h.logTail())
	}
	return nil
}

// logTail returns the end of the daemon's log.
func (h *host) logTail() string {
	text, err := os.ReadFile(h.log)
	if err != nil {
		return err.Error()
	}
	lines := strings.Split(strings.TrimSpace(string(text)), "\n")
	return "its log ends with:\n    " + strings.Join(lines[max(0, len(lines)-15):], "\n    ")
}

const keptLogs = "/var/tmp/bough-e2e-logs"

// keepLogs copies the logs of a failed test.
func (h *host) keepLogs() {
	to := filepath.Join(keptLogs, strings.ReplaceAll(h.t.Name(), "/", "_")+"-"+filepath.Base(h.dir)+time.Now().Format("-150405"))
	logs, _ := filepath.Glob(filepath.Join(h.state, "run", "*", "postgres.log*")) // the pattern is right
	for _, from := range append(logs, h.log) {
		text, err := os.ReadFile(from)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		name := filepath.Join(to, strings.ReplaceAll(strings.TrimPrefix(from, h.dir+"/"), "/", "_"))
		if err == nil {
			err = errors.Join(os.MkdirAll(to, 0o755), os.WriteFile(name, text, 0o644))
		}
		if err != nil {
			h.t.Logf("keep logs: %v", err)
		}
	}
	h.t.Logf("logs are in %s; %s", to, h.logTail())
}

// result is what a command did.
type result struct {
	args     []string
	code     int
	out, err string
	took     time.Duration
}

func (r result) String() string {
	return fmt.Sprintf("bough %s: exit code %d\n  stdout: %q\n  stderr: %q", strings.Join(r.args, " "), r.code, r.out, r.err)
}

// call runs a command of the CLI to its end.
func (h *host) call(args ...string) result {
	ctx, cancel := context.WithTimeout(context.Background(), commandLimit)
	defer cancel()
	cmd := exec.CommandContext(ctx, h.bin, args...)
	cmd.Env = append(environ(), "BOUGH_SOCKET="+h.socket)
	cmd.Dir = "/"
	return execute(cmd)
}

// execute runs a command of the CLI to its end.
func execute(cmd *exec.Cmd) result {
	var out, errs strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &errs
	r := result{args: cmd.Args[1:]}
	began := time.Now()
	err := cmd.Run()
	r.took, r.out, r.err = time.Since(began), out.String(), errs.String()
	if err != nil {
		r.code = cmd.ProcessState.ExitCode()
		if _, ok := errors.AsType[*exec.ExitError](err); !ok {
			r.code, r.err = -1, err.Error()
		}
	}
	return r
}

// bough runs a command that must succeed and returns what it printed.
func (h *host) bough(args ...string) string {
	h.t.Helper()
	r := h.call(args...)
	if r.code != 0 {
		h.t.Fatal(r)
	}
	return r.out
}

// json runs a command that must succeed and decodes its JSON.
func (h *host) json(v any, args ...string) {
	h.t.Helper()
	out := h.bough(append(slices.Clone(args), "--json")...)
	if err := json.Unmarshal([]byte(out), v); err != nil {
		h.t.Fatalf("bough %s: %v in %q", strings.Join(args, " "), err, out)
	}
}

// refused runs a command that must fail with the code and one line that has all
// the words.
func (h *host) refused(code int, words []string, args ...string) {
	h.t.Helper()
	checkRefused(h.t, h.call(args...), code, words)
}

// checkRefused checks that a command failed with the code and one line that has
// all the words.
func checkRefused(t *testing.T, r result, code int, words []string) {
	t.Helper()
	line := strings.TrimSuffix(r.err, "\n")
	switch {
	case r.code != code:
		t.Errorf("want exit code %d: %v", code, r)
	case !strings.HasPrefix(line, "bough: ") || strings.Contains(line, "\n"):
		t.Errorf("want one line that begins with bough: %v", r)
	case len(line) > 400:
		t.Errorf("a line of %d bytes is not clear: %v", len(line), r)
	default:
		for _, w := range words {
			if !strings.Contains(line, w) {
				t.Errorf("the line has no %q: %v", w, r)
			}
		}
	}
}

// environ is the environment without what leads bough or libpq elsewhere.
func environ() []string {
	return slices.DeleteFunc(os.Environ(), func(kv string) bool {
		return strings.HasPrefix(kv, "PG") || strings.HasPrefix(kv, "BOUGH_") || strings.HasPrefix(kv, "NOTIFY_")
	})
}

// firstLine returns a channel with the first line of r, or "" if there is none;
// what follows is dropped.
func firstLine(r io.ReadCloser) <-chan string {
	lines := make(chan string, 1)
	go func() {
		defer r.Close()
		sc := bufio.NewScanner(r)
		sc.Scan()
		lines <- sc.Text()
		_, _ = io.Copy(io.Discard, r) // its end is the process's
	}()
	return lines
}

// eventually calls f until it returns nil, and fails the test when that takes
// longer than the limit.
func eventually(t *testing.T, limit time.Duration, what string, f func() error) {
	t.Helper()
	if err := wait(limit, f); err != nil {
		t.Fatalf("%s: not within %v: %v", what, limit, err)
	}
}

// wait calls f until it returns nil, or the last error when that takes longer than
// the limit.
func wait(limit time.Duration, f func() error) error {
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	end := time.After(limit)
	for {
		err := f()
		if err == nil {
			return nil
		}
		select {
		case <-tick.C:
		case <-end:
			return err
		}
	}
}
