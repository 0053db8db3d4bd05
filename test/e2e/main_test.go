package e2e

import (
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

var (
	flagSeed  = flag.Uint64("seed", 0, "seed of random choices; 0 = choose one")
	flagScale = flag.Int("scale", 10, "scale of pgbench in the test under load")
)

// testsAtOnce is how many tests run at the same time. They mostly wait: for disks,
// for servers that start, for time to pass.
const testsAtOnce = 4

// run is this run of the suite, made before the first test. The tests only read it.
var run *suite

type suite struct {
	skip    string // why nothing can run, or ""
	seed    uint64
	root    string // has everything
	lock    *os.File
	bin     string // the program under test
	pgbin   string // directory of Postgres's programs
	spawner *spawner
	hosts   atomic.Int64
	figures figures
	cloud   cloud
}

func TestMain(m *testing.M) {
	flag.Parse()
	if flag.Lookup("test.parallel").Value.String() == strconv.Itoa(runtime.GOMAXPROCS(0)) {
		_ = flag.Set("test.parallel", strconv.Itoa(testsAtOnce)) // a number is always right
	}
	code := 1
	var err error
	if run, err = newSuite(); err == nil {
		code = m.Run()
		run.figures.print()
		err = run.close()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "e2e:", err)
		code = max(code, 1)
	}
	os.Exit(code)
}

// newSuite looks at the machine, and builds the program if the tests can run here.
func newSuite() (*suite, error) {
	s := &suite{seed: *flagSeed, spawner: newSpawner()}
	if s.seed == 0 {
		s.seed = rand.Uint64()
	}
	if s.skip = s.missing(); s.skip != "" {
		return s, nil
	}
	parent := os.Getenv("TMPDIR")
	if parent == "" {
		parent = "/var/tmp" // not /tmp, which is often a tmpfs
	}
	if err := sweep(parent); err != nil {
		return nil, err
	}
	var err error
	if s.root, err = os.MkdirTemp(parent, rootPrefix); err != nil {
		return nil, err
	}
	if err := os.Chmod(s.root, 0o755); err != nil { // Postgres goes through it
		return nil, err
	}
	if s.lock, err = lockRoot(s.root); err != nil {
		return nil, err
	}
	fmt.Printf("seed %d\n", s.seed)
	if s.bin = os.Getenv("BOUGH_BIN"); s.bin != "" {
		s.bin, err = filepath.Abs(s.bin)
		return s, err
	}
	s.bin = filepath.Join(s.root, "bough")
	build := exec.Command("go", "build", "-trimpath", "-o", s.bin, "../../cmd/bough")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("build the program: %w\n%s", err, out)
	}
	return s, nil
}

// missing says what this machine lacks, or "".
func (s *suite) missing() string {
	if os.Geteuid() != 0 {
		return "needs root, for block devices and mounts"
	}
	if _, err := os.Stat("/dev/fuse"); err != nil {
		return "needs FUSE: " + err.Error()
	}
	dirs, err := filepath.Glob("/usr/lib/postgresql/*/bin/postgres")
	if err != nil || len(dirs) == 0 {
		return "needs Postgres in /usr/lib/postgresql: run scripts/install-deps.sh"
	}
	version := func(path string) int {
		n, _ := strconv.Atoi(strings.Split(path, "/")[4]) // what is no number is no candidate
		return n
	}
	s.pgbin = filepath.Dir(slices.MaxFunc(dirs, func(a, b string) int { return version(a) - version(b) }))
	if _, err := credential("postgres"); err != nil {
		return "needs the user postgres: " + err.Error()
	}
	return ""
}

func (s *suite) close() error {
	s.spawner.close()
	if s.root == "" {
		return nil
	}
	return errors.Join(s.cloud.close(), tidy(s.root), os.RemoveAll(s.root), s.lock.Close())
}

// random returns the random choices of a test: the same ones for a seed, whatever
// other tests do.
func (s *suite) random(t *testing.T) *rand.Rand {
	h := uint64(14695981039346656037)
	for _, c := range []byte(t.Name()) {
		h = (h ^ uint64(c)) * 1099511628211
	}
	return rand.New(rand.NewPCG(s.seed, h))
}

const rootPrefix = "bough-e2e-"

// lockRoot marks a root as one of a live test process.
func lockRoot(root string) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(root, "lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// sweep removes what killed runs left.
func sweep(parent string) error {
	old, err := filepath.Glob(filepath.Join(parent, rootPrefix+"[0-9]*"))
	if err != nil {
		return err
	}
	for _, root := range old {
		if lock, err := lockRoot(root); err == nil {
			if err := errors.Join(tidy(root), os.RemoveAll(root), lock.Close()); err != nil {
				return fmt.Errorf("remove what an earlier run left: %w", err)
			}
		}
	}
	return nil
}

// spawner starts processes that the kernel tells to stop when the test process
// dies. The kernel does so when the thread that started them ends, so one thread
// does nothing else.
type spawner struct {
	requests chan func()
	done     chan struct{}
}

func newSpawner() *spawner {
	s := &spawner{requests: make(chan func()), done: make(chan struct{})}
	go func() {
		defer close(s.done)
		runtime.LockOSThread()
		for start := range s.requests {
			start()
		}
	}()
	return s
}

// start starts cmd in a process group of its own, which a terminal's Ctrl-C does
// not reach.
func (s *spawner) start(cmd *exec.Cmd) error {
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Pdeathsig = syscall.SIGTERM
	cmd.SysProcAttr.Setpgid = true
	result := make(chan error, 1)
	s.requests <- func() { result <- cmd.Start() }
	return <-result
}

func (s *spawner) close() {
	close(s.requests)
	<-s.done
}

// figures are the times that tests took, by what they did.
type figures struct {
	mu sync.Mutex
	by map[string][]time.Duration
}

// add notes how long something took.
func (f *figures) add(what string, took time.Duration) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.by == nil {
		f.by = map[string][]time.Duration{}
	}
	f.by[what] = append(f.by[what], took)
}

// print writes the figures, when tests are to be verbose.
func (f *figures) print() {
	if !testing.Verbose() || len(f.by) == 0 {
		return
	}
	fmt.Printf("%-34s %5s %10s %10s %10s\n", "figure", "n", "least", "median", "most")
	for _, what := range slices.Sorted(func(yield func(string) bool) {
		for what := range f.by {
			if !yield(what) {
				return
			}
		}
	}) {
		all := slices.Sorted(slices.Values(f.by[what]))
		ms := func(d time.Duration) string { return fmt.Sprintf("%.1f ms", float64(d.Microseconds())/1000) }
		fmt.Printf("%-34s %5d %10s %10s %10s\n", what, len(all), ms(all[0]), ms(all[len(all)/2]), ms(all[len(all)-1]))
	}
}
