package proxy

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// realPostgres is a Postgres of this machine with one role, app, whose password
// is secret, and one database, app.
type realPostgres struct {
	t         *testing.T
	bin, data string
	port      int
	as        *syscall.SysProcAttr // the user it runs as
}

// newPostgres makes a data directory; the server is not started yet. The test
// is skipped if the machine has no Postgres.
func newPostgres(t *testing.T) *realPostgres {
	t.Helper()
	dirs, _ := filepath.Glob("/usr/lib/postgresql/*/bin")
	if len(dirs) == 0 {
		t.Skip("no Postgres on this machine")
	}
	pg := &realPostgres{t: t, bin: dirs[len(dirs)-1], as: new(syscall.SysProcAttr)}
	dir, err := os.MkdirTemp("", "proxy-test-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if os.Getuid() == 0 {
		u, err := user.Lookup("postgres")
		if err != nil {
			t.Skip(err)
		}
		uid, _ := strconv.Atoi(u.Uid)
		gid, _ := strconv.Atoi(u.Gid)
		pg.as.Credential = &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
		if err := os.Chown(dir, uid, gid); err != nil {
			t.Fatal(err)
		}
	}
	pg.data = filepath.Join(dir, "data")
	pg.run(exec.Command(pg.bin+"/initdb", "-D", pg.data, "-U", "postgres", "--no-sync", "--auth-local=trust", "--auth-host=scram-sha-256"))
	sql := exec.Command(pg.bin+"/postgres", "--single", "-D", pg.data, "postgres")
	sql.Stdin = strings.NewReader("create role app login password 'secret'\ncreate database app owner app\nalter role postgres password 'secret'\n")
	pg.run(sql)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	pg.port = l.Addr().(*net.TCPAddr).Port
	l.Close()
	return pg
}

// run runs one of Postgres's programs to its end.
func (pg *realPostgres) run(cmd *exec.Cmd) {
	pg.t.Helper()
	cmd.SysProcAttr = pg.as
	cmd.Dir = filepath.Dir(pg.data)
	if out, err := cmd.CombinedOutput(); err != nil {
		pg.t.Fatalf("%s: %v\n%s", cmd, err, out)
	}
}

// start starts the server and returns its address.
func (pg *realPostgres) start() string {
	pg.t.Helper()
	pg.run(exec.Command(pg.bin+"/pg_ctl", "-D", pg.data, "-w", "-l", pg.data+".log", "start", "-o",
		fmt.Sprintf("-p %d -c listen_addresses=127.0.0.1 -k %s -c fsync=off -c max_connections=250", pg.port, filepath.Dir(pg.data))))
	return "127.0.0.1:" + strconv.Itoa(pg.port)
}

// stop stops the server.
func (pg *realPostgres) stop() {
	pg.run(exec.Command(pg.bin+"/pg_ctl", "-D", pg.data, "-w", "-m", "fast", "stop"))
}

// client runs a client program against the door, with libpq's environment set.
func client(t *testing.T, door string, env []string, name string, args ...string) (string, error) {
	t.Helper()
	host, port, _ := net.SplitHostPort(door)
	cmd := exec.CommandContext(t.Context(), name, args...)
	cmd.Env = append(slices.Clone(os.Environ()),
		"PGHOST="+host, "PGPORT="+port, "PGUSER=app", "PGPASSWORD=secret", "PGDATABASE=app", "PGCONNECT_TIMEOUT=30")
	cmd.Env = append(cmd.Env, env...)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// TestPostgres runs stock clients against stock Postgres through the door.
func TestPostgres(t *testing.T) {
	pg := newPostgres(t)
	addr := pg.start()
	defer pg.stop()
	s, door := startDoor(t, Options{Waker: wakeTo(addr)})

	t.Run("psql", func(t *testing.T) { testPSQL(t, door) })
	t.Run("pgx", func(t *testing.T) { testPGX(t, door) })
	t.Run("newer protocol", func(t *testing.T) { testNewerProtocol(t, door) })
	t.Run("crash", func(t *testing.T) { testCrash(t, door) })
	t.Run("cancel by psql", func(t *testing.T) { testPSQLCancel(t, door) })
	t.Run("pgbench", func(t *testing.T) {
		if out, err := client(t, door, nil, "pgbench", "-i", "-q", "-s", "1", "app@demo"); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		out, err := client(t, door, nil, "pgbench", "-c", "8", "-j", "2", "-t", "50", "app@demo/dev")
		if err != nil || !strings.Contains(out, "400/400") || !strings.Contains(out, "failed transactions: 0 ") {
			t.Fatalf("%v\n%s", err, out)
		}
	})
	eventually(t, "all sessions are over", func() bool { st := s.Stats(); return st.Connected+st.Waiting+st.CancelKeys == 0 })
}

func testPSQL(t *testing.T, door string) {
	const ask = "select current_database() || ' ' || current_user || ' ' || current_setting('work_mem') || ' ' || current_setting('search_path')"
	for _, tt := range []struct {
		name      string
		env, args []string
		want      string // in the output
		bad       bool
	}{
		{name: "database", args: []string{"app@demo/dev"}, want: "app app 4MB"},
		{name: "default database", args: []string{"@demo"}, want: "app app 4MB"},
		{name: "options", env: []string{"PGOPTIONS=-c branch=demo/dev -c work_mem=5MB"}, want: "app app 5MB"},
		{name: "options with spaces", env: []string{`PGOPTIONS=-c search_path=a,\ b --work_mem=6MB branch=demo`}, want: "app app 6MB a, b"},
		{name: "url", args: []string{"postgresql:///app?options=--branch%3Ddemo/dev"}, want: "app app 4MB"},
		{name: "conninfo", args: []string{"dbname=app@demo/dev sslmode=prefer gssencmode=prefer"}, want: "app app 4MB"},
		{
			name: "terminated", args: []string{"app@demo", "-c", "select pg_terminate_backend(pg_backend_pid())"},
			bad: true, want: "terminating connection due to administrator command",
		},
		{name: "no branch", bad: true, want: `HINT:  Name the branch in the database, as in "dbname=app@demo/dev"`},
		{name: "wrong password", env: []string{"PGPASSWORD=wrong"}, args: []string{"app@demo"}, bad: true, want: `password authentication failed for user "app"`},
		{name: "no such database", args: []string{"nope@demo"}, bad: true, want: `database "nope" does not exist`},
		{name: "reserved role", env: []string{"PGUSER=postgres"}, args: []string{"postgres@demo"}, bad: true, want: `role "postgres" is reserved`},
		{name: "bad setting", env: []string{"PGOPTIONS=-c nope=1 -c branch=demo"}, bad: true, want: `unrecognized configuration parameter "nope"`},
		{name: "tls required", args: []string{"dbname=app@demo sslmode=require"}, bad: true, want: "server does not support SSL"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			out, err := client(t, door, tt.env, "psql", append([]string{"-XAt", "-c", ask}, tt.args...)...)
			if (err != nil) != tt.bad || !strings.Contains(out, tt.want) {
				t.Errorf("error %v, output %q; want an error: %t, output with %q", err, out, tt.bad, tt.want)
			}
		})
	}
}

func testPGX(t *testing.T, door string) {
	ctx := t.Context()
	conn, err := pgx.Connect(ctx, "postgres://app:secret@"+door+"/app%40demo%2Fdev?sslmode=prefer")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background())
	var n int
	if err := conn.QueryRow(ctx, "select sum(length(repeat('x', 1000000 + $1))) from generate_series(1, 20)", 1).Scan(&n); err != nil || n != 20_000_020 {
		t.Fatalf("query: %d, %v", n, err)
	}
	var text string
	if err := conn.QueryRow(ctx, "select repeat('x', 5000000)").Scan(&text); err != nil || len(text) != 5000000 {
		t.Fatalf("large answer: %d bytes, %v", len(text), err)
	}
	if err := conn.QueryRow(ctx, "select length($1::text)", text).Scan(&n); err != nil || n != len(text) {
		t.Fatalf("large question: %d, %v", n, err)
	}
	failed := make(chan error, 1)
	started := make(chan struct{})
	go func() {
		close(started)
		_, err := conn.Exec(ctx, "select pg_sleep(60)")
		failed <- err
	}()
	<-started
	// A cancel request that comes before the query does nothing: ask until it works.
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		if err := conn.PgConn().CancelRequest(ctx); err != nil {
			t.Fatal(err)
		}
		select {
		case err := <-failed:
			var pgErr *pgconn.PgError
			if !errors.As(err, &pgErr) || pgErr.Code != "57014" {
				t.Errorf("cancelled query: %v, want SQLSTATE 57014", err)
			}
			return
		case <-tick.C:
		}
	}
}

// testNewerProtocol opens with the version that the newest libpq tries, and a
// protocol option that no server knows: the server itself must answer.
func testNewerProtocol(t *testing.T, door string) {
	c := dialPeer(t, door)
	c.send(startupOf(3<<16|9999, "user", "app", "database", "app@demo", "_pq_.nonsense", "1"))
	const negotiate = "\x00\x00\x00\x01_pq_.nonsense\x00"
	head := make([]byte, 5+4)
	if _, err := io.ReadFull(c, head); err != nil || head[0] != typeNegotiate {
		t.Fatalf("read %q, %v; want a protocol negotiation", head, err)
	}
	c.expect([]byte(negotiate))
	c.expect([]byte{'R'})
}

// testCrash kills the server process of a client. The whole server ends its
// other clients then, recovers, and turns clients away meanwhile: they must not
// see that.
func testCrash(t *testing.T, door string) {
	var conns [2]*pgx.Conn
	url := "postgres://app:secret@" + door + "/app%40demo"
	for i := range conns {
		conn, err := pgx.Connect(t.Context(), url)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close(context.Background())
		conns[i] = conn
	}
	if err := syscall.Kill(int(conns[0].PgConn().PID()), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	for i, conn := range conns {
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		if _, err := conn.WaitForNotification(ctx); err == nil || ctx.Err() != nil {
			t.Fatalf("connection %d was not ended by the crash: %v", i, err)
		}
	}
	for range 5 {
		again, err := pgx.Connect(t.Context(), url)
		if err != nil {
			t.Fatalf("connect after the crash: %v", err)
		}
		again.Close(t.Context())
	}
}

// endedInside reports whether err is that of a client which the server had
// begun to take in when it was stopped: silently while it authenticates,
// with SQLSTATE 57P01 (admin_shutdown) after. Such a client is not refused, it
// is ended, and nobody could go on for it.
func endedInside(err error) bool {
	var pgErr *pgconn.PgError
	return errors.As(err, &pgErr) &&
		(pgErr.Code == "57P01" || pgErr.Message == "the server ended the connection before it was ready")
}

// testPSQLCancel interrupts a psql, as Ctrl-C does.
func testPSQLCancel(t *testing.T, door string) {
	host, port, _ := net.SplitHostPort(door)
	cmd := exec.CommandContext(t.Context(), "psql", "-X", "-h", host, "-p", port, "-U", "app", "app@demo",
		"-c", `\echo ready`, "-c", "select pg_sleep(60)", "-c", "select 'not ' || 'reached'")
	cmd.Env = append(slices.Clone(os.Environ()), "PGPASSWORD=secret")
	var out syncBuffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	watcher, err := pgx.Connect(t.Context(), "postgres://app:secret@"+door+"/app%40demo")
	if err != nil {
		t.Fatal(err)
	}
	defer watcher.Close(context.Background())
	eventually(t, "psql sleeps in the server", func() bool {
		var n int
		err := watcher.QueryRow(t.Context(), "select count(*) from pg_stat_activity where wait_event = 'PgSleep'").Scan(&n)
		return err == nil && n == 1
	})
	if err := cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	if got := out.String(); !strings.Contains(got, "canceling statement due to user request") {
		t.Errorf("psql said %q", got)
	}
}

// syncBuffer is a bytes.Buffer for two writers.
type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

// Write appends p.
func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

// String returns what was written.
func (b *syncBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// TestPostgresWakes has 200 clients connect at once to a Postgres that sleeps,
// then stops it and starts it again under clients that keep connecting. Nobody
// must be refused.
func TestPostgresWakes(t *testing.T) {
	pg := newPostgres(t)
	var mu sync.Mutex
	running, starts := false, 0
	s, door := startDoor(t, Options{Waker: wakeFunc(func(context.Context, string, string) (string, error) {
		mu.Lock()
		defer mu.Unlock()
		if !running {
			running, starts = true, starts+1
			return pg.start(), nil
		}
		return "127.0.0.1:" + strconv.Itoa(pg.port), nil
	})})
	stop := func() {
		mu.Lock()
		defer mu.Unlock()
		if running {
			running = false
			pg.stop()
		}
	}
	defer stop()

	const clients = 200
	url := "postgres://app:secret@" + door + "/app%40demo%2Fdev"
	connect := func() error {
		conn, err := pgx.Connect(t.Context(), url)
		if err != nil {
			return err
		}
		return conn.Close(t.Context())
	}
	errs := make(chan error, clients)
	for range clients {
		go func() { errs <- connect() }()
	}
	for range clients {
		if err := <-errs; err != nil {
			t.Errorf("connect: %v", err)
		}
	}
	if starts != 1 {
		t.Errorf("%d starts, want 1", starts)
	}

	testStops(t, connect, stop, func() bool { mu.Lock(); defer mu.Unlock(); return running })
	eventually(t, "all sessions are over", func() bool { return s.Stats().Connected == 0 })
}

// testStops stops the endpoint again and again while clients connect.
func testStops(t *testing.T, connect func() error, stop func(), running func() bool) {
	over := make(chan struct{})
	var made atomic.Int32
	var clients sync.WaitGroup
	for range 4 {
		clients.Go(func() {
			for {
				select {
				case <-over:
					return
				default:
				}
				err := connect()
				if err != nil && !endedInside(err) {
					t.Errorf("connect during stops: %v", err)
					return
				}
				if err == nil {
					made.Add(1)
				}
			}
		})
	}
	for range 4 {
		before := made.Load()
		eventually(t, "clients connect", func() bool { return made.Load() > before+10 && running() })
		stop()
	}
	before := made.Load()
	eventually(t, "clients connect in the end", func() bool { return made.Load() > before })
	close(over)
	clients.Wait()
}
