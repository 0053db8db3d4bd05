package dirstore_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/bough-db/bough/objstore"
	"github.com/bough-db/bough/objstore/dirstore"
	"github.com/bough-db/bough/objstore/storetest"
	"github.com/bough-db/bough/vfs"
	"github.com/bough-db/bough/vfs/faultfs"
	"github.com/bough-db/bough/vfs/memfs"
)

var (
	update   = flag.Bool("update", false, "rewrite testdata/*.trace")
	seedFlag = flag.Uint64("seed", 0, "seed of the crash tests; 0 chooses one")
)

// newRand returns a source of random numbers whose seed a failing test prints.
func newRand(t *testing.T) *rand.Rand {
	t.Helper()
	seed := *seedFlag
	if seed == 0 {
		seed = uint64(time.Now().UnixNano())
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("repeat with -seed=%d", seed)
		}
	})
	return rand.New(rand.NewPCG(seed, 0))
}

func TestConformanceOtherFS(t *testing.T) {
	storetest.Run(t, func(t *testing.T) objstore.Store {
		return open(t, "/a/store", dirstore.Options{Exclusive: true, FS: memfs.New(memfs.Options{})})
	})
	storetest.RunShared(t, func(t *testing.T) func() objstore.Store {
		fsys := memfs.New(memfs.Options{})
		return func() objstore.Store { return open(t, "/a/store", dirstore.Options{FS: fsys}) }
	})
}

// world is what a script believes the store to hold.
type world struct {
	sure map[string]string // acknowledged
	// doubt is the key of a call that failed, and may be as before or as it
	// was to become. "" means gone.
	doubt         string
	before, after string
}

// step is one call of a script.
type step struct {
	key    string
	body   string // "" deletes
	absent bool
	match  bool // If-Match of what is there
}

var script = []step{
	{key: "format", body: "1", absent: true},
	{key: "branches/x/manifest", body: "generation 1", absent: true},
	{key: "names/p/main", body: "x", absent: true},
	{key: "branches/x/seg/1", body: strings.Repeat("segment 1 ", 1000), absent: true},
	{key: "branches/x/manifest", body: "generation 2", match: true},
	{key: "branches/x/seg/2", body: strings.Repeat("segment 2 ", 1000), absent: true},
	{key: "branches/x/seg/1"},
	{key: "branches/x/manifest", body: strings.Repeat("generation 3", 1000)},
	{key: "branches/x/seg/2"},
	{key: "branches/x/seg/3", body: "segment 3", absent: true},
	{key: "names/p/main"},
	{key: "names/p/main", body: "y", absent: true},
}

// play runs a script until a call fails.
func play(ctx context.Context, s objstore.Store, script []step) (w world, err error) {
	w.sure = make(map[string]string)
	tags := make(map[string]string)
	for _, st := range script {
		var tag string
		if st.body == "" {
			err = s.Delete(ctx, st.key)
		} else {
			cond := objstore.Condition{IfAbsent: st.absent}
			if st.match {
				cond.IfMatch = tags[st.key]
			}
			tag, err = s.Put(ctx, st.key, []byte(st.body), cond)
		}
		if err != nil {
			w.doubt, w.before, w.after = st.key, w.sure[st.key], st.body
			return w, err
		}
		tags[st.key], w.sure[st.key] = tag, st.body
		if st.body == "" {
			delete(w.sure, st.key)
		}
	}
	return w, nil
}

// contents returns everything that a store holds, as get and list see it.
func contents(t *testing.T, s objstore.Store) map[string]string {
	t.Helper()
	infos, err := s.List(t.Context(), "", "", 0)
	if err != nil {
		t.Fatal(err)
	}
	all := make(map[string]string)
	for _, info := range infos {
		p, got, err := s.Get(t.Context(), info.Key)
		if err != nil {
			t.Fatal(err)
		}
		if got != info {
			t.Fatalf("Get says %+v, List says %+v", got, info)
		}
		all[info.Key] = string(p)
	}
	return all
}

// agrees compares contents with what is believed.
func (w world) agrees(got map[string]string) error {
	want := maps.Clone(w.sure)
	if w.doubt != "" {
		if g := got[w.doubt]; g != w.before && g != w.after {
			return fmt.Errorf("%s is %.30q, want %.30q or %.30q", w.doubt, g, w.before, w.after)
		}
		delete(want, w.doubt)
		got = maps.Clone(got)
		delete(got, w.doubt)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		return fmt.Errorf("contents (-want +got):\n%s", diff)
	}
	return nil
}

func quiet(fsys vfs.FS, exclusive bool) dirstore.Options {
	return dirstore.Options{FS: fsys, Exclusive: exclusive, Logger: slog.New(slog.DiscardHandler)}
}

// TestCrash stops the machine at every mutation of a script, in every way, and
// opens what is left. What was acknowledged must be there, whole; what the first
// start after the crash has seen must survive a power cut right after.
func TestCrash(t *testing.T) {
	const dir = "/var/store"
	rng := newRand(t)
	for _, exclusive := range []bool{true, false} {
		for k, done := 0, false; !done; k++ {
			mem := memfs.New(memfs.Options{})
			disk := faultfs.New(mem, dir)
			disk.CrashAt(k)
			w := world{sure: make(map[string]string)}
			s, err := dirstore.Open(dir, quiet(disk, exclusive))
			if err == nil {
				w, err = play(t.Context(), s, script)
			}
			done = err == nil
			if err != nil && !errors.Is(err, faultfs.ErrCrashed) {
				t.Fatalf("crash at %d: got error %v, want %v", k, err, faultfs.ErrCrashed)
			}
			for _, mode := range memfs.Modes() {
				left := mem.CrashClone(rng, mode)
				if err := recovers(t, dir, left, rng, exclusive, w); err != nil {
					t.Fatalf("exclusive %v, crash at mutation %d, %v: %v\n%s", exclusive, k, mode, err, disk.Trace())
				}
			}
		}
	}
}

// TestCrashRandom is TestCrash with random scripts, each cut at a random point.
func TestCrashRandom(t *testing.T) {
	const dir = "/store"
	rng := newRand(t)
	runs := 300
	if testing.Short() {
		runs = 50
	}
	for run := range runs {
		script := randomScript(rng)
		mem := memfs.New(memfs.Options{})
		disk := faultfs.New(mem, dir)
		s, err := dirstore.Open(dir, quiet(disk, run%2 == 0))
		if err != nil {
			t.Fatal(err)
		}
		disk.CrashAt(disk.Mutations() + rng.IntN(8*len(script)))
		w, err := play(t.Context(), s, script)
		if err != nil && !errors.Is(err, faultfs.ErrCrashed) {
			t.Fatalf("run %d: got error %v, want %v", run, err, faultfs.ErrCrashed)
		}
		for _, mode := range memfs.Modes() {
			if err := recovers(t, dir, mem.CrashClone(rng, mode), rng, run%2 == 0, w); err != nil {
				t.Fatalf("run %d, %v: %v\n%s", run, mode, err, disk.Trace())
			}
		}
	}
}

func randomScript(rng *rand.Rand) (script []step) {
	keys := []string{"a", "b/1", "b/2", "c/d/1", "c/d/2", "c/e/f/1"}
	there := make(map[string]bool)
	for i := range 5 + rng.IntN(15) {
		st := step{key: keys[rng.IntN(len(keys))]}
		if rng.IntN(4) > 0 {
			st.body = strings.Repeat(fmt.Sprintf("%d ", i), 1+rng.IntN(3000))
			st.match = there[st.key] && rng.IntN(2) == 0
			st.absent = !there[st.key] && rng.IntN(2) == 0
		}
		there[st.key] = st.body != ""
		script = append(script, st)
	}
	return script
}

// recovers opens what a crash left, and lets the power fail again and again.
func recovers(t *testing.T, dir string, left *memfs.FS, rng *rand.Rand, exclusive bool, w world) error {
	t.Helper()
	s, err := dirstore.Open(dir, quiet(left, exclusive))
	if err != nil {
		return fmt.Errorf("first start: %w", err)
	}
	seen := contents(t, s)
	if err := w.agrees(seen); err != nil {
		return err
	}
	if names := temps(t, left, dir); len(names) > 0 {
		return fmt.Errorf("temporary files after open: %q", names)
	}
	second := left.CrashClone(rng, memfs.LoseAll)
	again, err := dirstore.Open(dir, quiet(second, exclusive))
	if err != nil {
		return fmt.Errorf("second start: %w", err)
	}
	if diff := cmp.Diff(seen, contents(t, again)); diff != "" {
		return fmt.Errorf("a power cut took what the start before had seen (-seen +left):\n%s", diff)
	}
	// An object beside the old ones, in directories that the dead may have
	// made and not synced.
	const key, body = "branches/x/seg/9", "after the crash"
	if _, err := s.Put(t.Context(), key, []byte(body), objstore.Condition{IfAbsent: true}); err != nil {
		return err
	}
	seen[key] = body
	third, err := dirstore.Open(dir, quiet(left.CrashClone(rng, memfs.LoseAll), exclusive))
	if err != nil {
		return fmt.Errorf("third start: %w", err)
	}
	if diff := cmp.Diff(seen, contents(t, third)); diff != "" {
		return fmt.Errorf("after a put and a power cut (-want +got):\n%s", diff)
	}
	return nil
}

// temps returns the names of temporary files.
func temps(t *testing.T, fsys vfs.FS, dir string) (names []string) {
	t.Helper()
	entries, err := fsys.ReadDir(dir + "/.tmp")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if !strings.HasSuffix(e.Name(), ".lock") {
			names = append(names, e.Name())
		}
	}
	return names
}

// TestTrace compares what the store does to the file system with golden files: a
// missing sync shows as a difference.
func TestTrace(t *testing.T) {
	const dir = "/store"
	for _, exclusive := range []bool{true, false} {
		name := map[bool]string{true: "exclusive", false: "shared"}[exclusive]
		t.Run(name, func(t *testing.T) {
			disk := faultfs.New(memfs.New(memfs.Options{}), dir)
			s, err := dirstore.Open(dir, quiet(disk, exclusive))
			if err != nil {
				t.Fatal(err)
			}
			var b strings.Builder
			fmt.Fprintf(&b, "# open\n%s", hidePid(disk.Trace()))
			tags := make(map[string]string)
			for _, st := range []step{
				{key: "branches/x/manifest", body: "one", absent: true},
				{key: "branches/y/manifest", body: "one", absent: true},
				{key: "branches/y/manifest", body: "lost", absent: true},
				{key: "branches/x/manifest", body: "two", match: true},
				{key: "branches/x/manifest", body: "lost", match: true},
				{key: "branches/x/manifest", body: "three"},
				{key: "branches/x/manifest"},
				{key: "branches/x/manifest"},
			} {
				var err error
				if st.body == "" {
					fmt.Fprintf(&b, "# delete %s", st.key)
					err = s.Delete(t.Context(), st.key)
				} else {
					cond := objstore.Condition{IfAbsent: st.absent}
					if st.match {
						cond.IfMatch = tags[st.key]
					}
					fmt.Fprintf(&b, "# put %s absent=%v match=%v", st.key, st.absent, st.match)
					var tag string
					tag, err = s.Put(t.Context(), st.key, []byte(st.body), cond)
					if _, ok := tags[st.key]; !ok {
						tags[st.key] = tag
					}
				}
				switch {
				case errors.Is(err, objstore.ErrExists):
					b.WriteString(": exists")
				case errors.Is(err, objstore.ErrMismatch):
					b.WriteString(": mismatch")
				case err != nil:
					t.Fatal(err)
				}
				fmt.Fprintf(&b, "\n%s", disk.Trace())
			}
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			fmt.Fprintf(&b, "# close\n%s", disk.Trace())
			golden(t, name+".trace", b.String())
		})
	}
}

// hidePid makes the length of the process id disappear from a trace.
func hidePid(trace string) string {
	lines := strings.SplitAfter(trace, "\n")
	for i, l := range lines {
		if strings.HasPrefix(l, "write .lock") {
			lines[i] = "write .lock (process id)\n"
		}
	}
	return strings.Join(lines, "")
}

func golden(t *testing.T, name, got string) {
	t.Helper()
	name = filepath.Join("testdata", name)
	if *update {
		if err := os.MkdirAll("testdata", 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s (-want +got); -update accepts it:\n%s", name, diff)
	}
}
