package branchfs_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/bough-db/bough/blockdev/memdev"
	"github.com/bough-db/bough/branchfs"
	"github.com/bough-db/bough/branchfs/branchfstest"
)

const deviceSize = 1 << 30

func TestMain(m *testing.M) {
	branchfstest.Main(m, map[string]branchfstest.Role{
		"serve":       serveRole,
		"descriptors": descriptorsRole,
		"list":        listRole,
		"hold":        holdRole,
	})
}

// serveRole serves one branch until it is killed. With a second argument, the
// device panics when it is read.
func serveRole(args []string) error {
	dev := memdev.New(deviceSize, memdev.Options{})
	if len(args) > 1 {
		dev.SetHook(func(_ context.Context, c memdev.Call) error {
			if c.Kind == memdev.Read {
				var none []error
				return none[c.Off] // a bug in the device
			}
			return nil
		})
	}
	src := branchfstest.NewSource()
	src.Add("p", "main", dev)
	if _, err := branchfs.Mount(context.Background(), branchfs.Options{Source: src, Dir: args[0]}); err != nil {
		return err
	}
	fmt.Println("ready")
	select {}
}

// descriptorsRole prints what its open descriptors are.
func descriptorsRole([]string) error {
	links, err := filepath.Glob("/proc/self/fd/*")
	for _, l := range links {
		target, _ := os.Readlink(l)
		fmt.Println(target)
	}
	return err
}

// listRole prints a directory.
func listRole(args []string) error {
	entries, err := os.ReadDir(args[0])
	for _, e := range entries {
		fmt.Println(e.Name(), e.IsDir())
	}
	return err
}

// holdRole opens a file and waits for the end of its standard input.
func holdRole(args []string) error {
	f, err := os.OpenFile(args[0], os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	fmt.Println("open")
	_, err = io.Copy(io.Discard, os.Stdin)
	return err
}

// child starts a role, waits for its first line of output, and returns what ends it
// and waits for it.
func child(t *testing.T, role string, args ...string) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	cmd := branchfstest.Command(ctx, role, args...)
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	stopped := false
	stop = func() {
		if stopped {
			return
		}
		stopped = true
		_ = in.Close()
		cancel()
		_ = cmd.Wait()
	}
	t.Cleanup(stop)
	var line [64]byte
	if n, err := out.Read(line[:]); err != nil {
		t.Fatalf("child %s said %q: %v", role, line[:n], err)
	}
	return stop
}

// serve mounts src for the time of the test.
func serve(t *testing.T, src branchfs.Source) *branchfs.Server {
	t.Helper()
	branchfstest.RequireKernel(t)
	s, err := branchfs.Mount(t.Context(), branchfs.Options{
		Source: src,
		Dir:    filepath.Join(t.TempDir(), "mnt"),
		Logger: slog.New(slog.NewTextHandler(t.Output(), nil)),
		Fatal:  func(reason any) { t.Errorf("panic: %v", reason) },
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := soon()
		defer cancel()
		err := s.Close(ctx)
		if err != nil {
			t.Errorf("close: %v", err)
			err = s.Abort(ctx)
		}
		if err != nil {
			t.Errorf("abort: %v", err)
		}
	})
	return s
}

// soon is a context for what should not take long, in a cleanup too.
func soon() (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.Background(), 20*time.Second)
}

// one serves a single branch, p/main.
func one(t *testing.T) (*branchfs.Server, *branchfstest.Source, *memdev.Device) {
	t.Helper()
	dev := memdev.New(deviceSize, memdev.Options{})
	src := branchfstest.NewSource()
	src.Add("p", "main", dev)
	return serve(t, src), src, dev
}

// requireErrors reports a missing sentinel or text in err.
func requireErrors(t *testing.T, err, want error, text string) {
	t.Helper()
	if !errors.Is(err, want) || !strings.Contains(err.Error(), text) || strings.Contains(err.Error(), "\n") {
		t.Fatalf("got error %v; want one that wraps %q and has %q in its one line", err, want, text)
	}
}
