package postgres

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/bough-db/bough/cow"
)

const (
	// exitWrongOwner is how prepareScript says that the data is of another
	// user; whatever else it fails with is 96. Postgres's own are 0, 1 and 2.
	exitWrongOwner = 97

	// bindTries is how often another port is tried when somebody was faster.
	bindTries = 8

	// lingerLimit is how long the children of a dead postmaster may take to
	// notice, before they are killed.
	lingerLimit = 5 * time.Second
)

// prepareScript runs as the Postgres user before the server and becomes it. It
// is a child's work because the daemon must not touch files that it serves.
//
// $1 is the data directory, $2 begins with "first" on a branch's first start and ends
// with "+recover" if it is to recover to a target, and the rest is the command. A postmaster.pid that is found here is never of a live
// server: the device has one writer, and that is us, see Manager.Start. It
// came with the data from the parent, and Postgres would take the parent's
// live server, or any process with that id, for one of its own.
const prepareScript = `
cd "$1" || exit 97
[ -f PG_VERSION ] || { echo "no database in $1" >&2; exit 96; }
[ -O . ] || exit 97
rm -f postmaster.pid || exit 96
case "$2" in first*)
	if [ -n "$(ls -A pg_replslot)" ]; then
		rm -rf pg_replslot/* && sync -f . || exit 96
	fi
esac
case "$2" in *+recover) : >recovery.signal || exit 96 ;; esac
shift 2
exec "$@"
`

// ready is how the line ends that a server writes when it takes connections.
var readyLines = [...]string{
	"database system is ready to accept connections",
	"database system is ready to accept read-only connections",
}

// server is one run of a postmaster.
type server struct {
	config serverConfig
	proc   process
	log    *logFile
	ready  chan struct{} // closed when it takes connections
	exited chan struct{} // closed when it and all its children are gone
	state  *os.ProcessState
	inUse  bool          // the port was taken
	grace  time.Duration // lingerLimit, but in tests
	zeroed atomic.Bool   // at durability remote: zeroWAL was called
}

// serverSpec is what it takes to start a server.
type serverSpec struct {
	binDir string
	config serverConfig
	first  bool // undo what the parent did to the outside
	// recover has it recover to config.recovery before it is ready.
	recover bool
}

// startServer starts a server and returns it when it takes connections. When
// ctx ends earlier, the server is stopped at once.
func (m *Manager) startServer(ctx context.Context, id cow.BranchID, spec serverSpec) (*server, error) {
	for try := 1; ; try++ {
		spec.config.host = loopback(id)
		port, err := m.freePort(spec.config.host)
		if err != nil {
			return nil, err
		}
		spec.config.port = port
		s, err := m.spawn(id, spec)
		if err != nil {
			return nil, err
		}
		select {
		case <-s.ready:
			return s, nil
		case <-s.exited:
		case <-ctx.Done():
			err := s.proc.terminate(lingerLimit)
			<-s.exited
			return nil, errors.Join(fmt.Errorf("start Postgres: %w%s", context.Cause(ctx), quoteLog(s.log.tail())), err)
		}
		if s.inUse && try < bindTries {
			m.options.Logger.Debug("port was taken, trying another one", "branch", id, "port", port)
			continue
		}
		return nil, &startError{code: s.state.ExitCode(), state: s.state.String(), log: s.log.tail()}
	}
}

// startError reports a server that ended before it was ready.
type startError struct {
	code  int
	state string
	log   []string
}

// Error returns what the server said last.
func (e *startError) Error() string {
	return "start Postgres: " + e.state + quoteLog(e.log)
}

// What an error message, which is one line, quotes of a log: its last lines, each
// cut at so many bytes. The rest is in the log.
const (
	quoteLines   = 2
	quoteLineMax = 110
)

// quoteLog renders the end of a log for an error message, without time and process: up to
// the last line that says what ended it, if there is one.
func quoteLog(lines []string) string {
	for i, line := range slices.Backward(lines) {
		if strings.Contains(line, " FATAL:  ") || strings.Contains(line, " PANIC:  ") {
			lines = lines[:i+1]
			break
		}
	}
	var quoted []string
	for _, line := range lines[max(0, len(lines)-quoteLines):] {
		if _, said, ok := strings.Cut(line, "] "); ok {
			line = said
		}
		line = strings.TrimSpace(line)
		if len(line) > quoteLineMax {
			line = strings.ToValidUTF8(line[:quoteLineMax], "") + "…"
		}
		quoted = append(quoted, line)
	}
	if len(quoted) == 0 {
		return ""
	}
	return ": " + strings.Join(quoted, "; ")
}

// loopback returns the branch's own address in 127.0.0.0/8, out of its id. The
// front door connects to it some time after it was told where: had all branches
// one address, a server that has stopped meanwhile could have left its port to
// another branch's.
func loopback(id cow.BranchID) string {
	h := sha256.Sum256([]byte(id))
	return net.IPv4(127, 64|h[0]>>1, h[1], 1|h[2]&0xfe).String()
}

// freePort returns a port of the address that nobody listens on just now.
func freePort(host string) (int, error) {
	l, err := net.Listen("tcp4", net.JoinHostPort(host, "0"))
	if err != nil {
		return 0, fmt.Errorf("find a free port: %w", err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port, nil
}

// spawn writes the configuration, starts the server and watches it.
func (m *Manager) spawn(id cow.BranchID, spec serverSpec) (*server, error) {
	c := spec.config
	files := []struct{ path, text string }{
		{m.layout.conf(id), c.file()}, {m.layout.hba(id), c.hbaFile()}, {m.layout.ident(id), c.identFile()},
	}
	for _, f := range files {
		if err := m.layout.writeConf(f.path, f.text); err != nil {
			return nil, err
		}
	}
	mode := "again"
	if spec.first {
		mode = "first"
	}
	if spec.recover {
		mode += "+recover"
	}
	args := append([]string{"-c", prepareScript, "bough", c.pgdata, mode, filepath.Join(spec.binDir, "postgres")}, c.args()...)
	cmd := exec.Command("/bin/sh", args...)
	cmd.Dir = "/"
	cmd.Env = m.childEnv(spec.binDir)
	// A group of its own, so that Ctrl-C in the daemon's terminal stays there.
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: m.account.credential(), Setpgid: true}

	log, err := openLog(m.layout.log(id), m.options.Logger)
	if err != nil {
		return nil, err
	}
	out, in, err := os.Pipe()
	if err != nil {
		log.close()
		return nil, fmt.Errorf("start Postgres: %w", err)
	}
	cmd.Stdout, cmd.Stderr = in, in
	err = m.spawner.start(cmd)
	in.Close()
	if err != nil {
		out.Close()
		log.close()
		return nil, fmt.Errorf("start Postgres: %w", err)
	}
	s := &server{config: c, log: log, grace: lingerLimit, ready: make(chan struct{}), exited: make(chan struct{})}
	// It is not reaped yet, so the id is still its own even if it is dead.
	if s.proc, err = identify(cmd.Process.Pid); err == nil {
		err = m.layout.writeRecord(id, record{Process: s.proc, PGData: c.pgdata, Port: c.port})
	}
	go s.watch(cmd, out)
	if err != nil {
		s.proc.terminate(lingerLimit)
		<-s.exited
		return nil, err
	}
	return s, nil
}

// watch reads the server's log to its end and reaps it. The log ends when the
// last of the server's processes is gone.
func (s *server) watch(cmd *exec.Cmd, out *os.File) {
	logged := make(chan struct{})
	go func() {
		defer close(logged)
		up := false
		s.log.copyFrom(out, func(line []byte) {
			if !up && isReady(line) {
				up = true
				close(s.ready)
			}
			if !up && bytes.Contains(line, []byte("Address already in use")) {
				s.inUse = true
			}
		})
	}()
	cmd.Wait() // the state says it all
	linger := time.NewTimer(lingerLimit)
	defer linger.Stop()
	select {
	case <-logged:
	case <-linger.C:
		s.clear(0)
		// A helper of an extension may still hold the pipe from elsewhere.
		out.SetReadDeadline(time.Now().Add(time.Second))
		<-logged
	}
	if !cmd.ProcessState.Success() {
		// Nobody has waited for the children, and the kernel closes a dying
		// process's files before it lets go of its working directory.
		s.clear(lingerLimit)
	}
	out.Close()
	s.log.close()
	s.state = cmd.ProcessState
	close(s.exited)
}

// clear waits until no process works in the data directory, and kills those
// that still do after the time.
func (s *server) clear(patience time.Duration) {
	deadline := time.Now().Add(patience)
	for _, p := range workingIn(s.config.pgdata) {
		if fd, err := p.open(); err == nil {
			waitPidfd(fd, time.Until(deadline))
			unix.Close(fd)
		}
		p.kill() // nothing more can be done if that does not help
	}
}

// hasExited reports whether the server and all its children are gone.
func (s *server) hasExited() bool {
	select {
	case <-s.exited:
		return true
	default:
		return false
	}
}

func isReady(line []byte) bool {
	for _, text := range readyLines {
		if bytes.HasSuffix(line, []byte(text)) {
			return true
		}
	}
	return false
}

// stop shuts the server down: fast, and when that takes longer than limit or
// ctx, immediately. It returns when all of it is gone; the error tells only
// that the shutdown was not clean.
func (s *server) stop(ctx context.Context, limit time.Duration) error {
	fd, err := s.proc.open()
	if err == nil {
		err = unix.PidfdSendSignal(fd, unix.SIGINT, nil, 0)
		unix.Close(fd)
	}
	if err != nil && !errors.Is(err, os.ErrProcessDone) && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("stop Postgres: %w", err)
	}
	timer := time.NewTimer(limit)
	defer timer.Stop()
	select {
	case <-s.exited:
		return s.exitError()
	case <-ctx.Done():
	case <-timer.C:
	}
	if err := s.proc.terminate(s.grace); err != nil {
		return err
	}
	<-s.exited
	return fmt.Errorf("stop Postgres: the fast shutdown took longer than %v, so it was an immediate one", limit)
}

// exitError describes an end that was not clean; the server must be gone.
func (s *server) exitError() error {
	if s.state.Success() {
		return nil
	}
	return fmt.Errorf("server ended: %v%s", s.state, quoteLog(s.log.tail()))
}

// childEnv is the environment of all programs of Postgres: nothing of the
// daemon's own gets in.
func (m *Manager) childEnv(binDir string) []string {
	return []string{"PATH=" + binDir + ":/usr/local/bin:/usr/bin:/bin", "LANG=C", "LC_ALL=C", "TZ=UTC", "HOME=" + m.layout.state}
}
