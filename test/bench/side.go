package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// settings are those of both servers. They are the ones that endpoints use as
// far as storage is concerned.
var settings = []string{
	"wal_init_zero=off", "wal_recycle=off", "listen_addresses=''", "shared_buffers=128MB",
	"max_wal_size=2GB", "checkpoint_timeout=5min", "full_page_writes=on", "max_connections=100",
}

// side is a directory to measure, with a Postgres in it.
type side struct {
	name    string
	dir     string
	fioFile string
	socket  string // directory
	port    string
	bin     string // of Postgres
	cred    *syscall.Credential
	server  *exec.Cmd
}

// prepare makes the file and the database that the workloads use.
func (s *side) prepare(ctx context.Context, o options) error {
	if err := os.MkdirAll(s.dir, 0o755); err != nil {
		return err
	}
	var err error
	if s.bin, err = findPostgres(); err != nil {
		return err
	}
	if os.Geteuid() == 0 {
		u, err := user.Lookup("postgres")
		if err != nil {
			return fmt.Errorf("run Postgres as somebody else than root: %w", err)
		}
		uid, _ := strconv.Atoi(u.Uid)
		gid, _ := strconv.Atoi(u.Gid)
		s.cred = &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
		if err := os.Chown(s.dir, uid, gid); err != nil {
			return err
		}
	}
	s.fioFile = filepath.Join(s.dir, "fio")
	lay := exec.CommandContext(ctx, "fio", "--name=lay", "--filename="+s.fioFile, "--size="+fioBytes, "--bs=1m",
		"--rw=write", "--refill_buffers", "--buffer_compress_percentage=50", "--end_fsync=1")
	if out, err := lay.CombinedOutput(); err != nil {
		return fmt.Errorf("lay out fio's file: %w: %s", err, tail(out))
	}
	data := filepath.Join(s.dir, "pgdata")
	if _, err := s.as(ctx, "initdb", "-D", data, "--data-checksums", "-A", "trust", "--locale=C", "-E", "UTF8", "-U", "postgres"); err != nil {
		return err
	}
	if err := s.start(ctx, data); err != nil {
		return err
	}
	_, err = s.as(ctx, "pgbench", "-h", s.socket, "-p", s.port, "-i", "-q", "-s", strconv.Itoa(o.scale), "postgres")
	return err
}

// start runs the server and waits until it says that it is ready.
func (s *side) start(ctx context.Context, data string) error {
	s.socket, s.port = data, "5432"
	args := []string{"-D", data, "-c", "unix_socket_directories=" + data, "-c", "lc_messages=C"}
	for _, c := range settings {
		args = append(args, "-c", strings.ReplaceAll(c, "'", ""))
	}
	s.server = exec.Command(filepath.Join(s.bin, "postgres"), args...)
	s.server.Dir = data
	s.server.SysProcAttr = &syscall.SysProcAttr{Credential: s.cred, Setpgid: true}
	log, err := s.server.StderrPipe()
	if err != nil {
		return err
	}
	if err := s.server.Start(); err != nil {
		return err
	}
	ready := make(chan error, 1)
	go func() {
		var last string
		said := false
		for sc := bufio.NewScanner(log); sc.Scan(); {
			last = sc.Text()
			if !said && strings.Contains(last, "ready to accept connections") {
				said = true
				ready <- nil
			}
		}
		if !said {
			ready <- errors.New("postgres ended: " + last)
		}
	}()
	select {
	case err := <-ready:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// stop ends the server.
func (s *side) stop() {
	if s.server == nil || s.server.Process == nil {
		return
	}
	_ = s.server.Process.Signal(syscall.SIGINT)
	_ = s.server.Wait()
}

// as runs a program of Postgres as the user that the server runs as.
func (s *side) as(ctx context.Context, name string, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, filepath.Join(s.bin, name), args...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: s.cred}
	cmd.Dir = "/"
	out, err := cmd.CombinedOutput()
	if err != nil {
		return nil, fmt.Errorf("%s: %w: %s", name, err, tail(out))
	}
	return out, nil
}

func (s *side) sql(ctx context.Context, q string) error {
	_, err := s.as(ctx, "psql", "-h", s.socket, "-p", s.port, "-U", "postgres", "-qc", q, "postgres")
	return err
}

// findPostgres returns the newest installed server's programs.
func findPostgres() (string, error) {
	dirs, err := filepath.Glob("/usr/lib/postgresql/*/bin")
	if err != nil || len(dirs) == 0 {
		return "", errors.New("no Postgres in /usr/lib/postgresql: apt-get install postgresql")
	}
	return slices.MaxFunc(dirs, func(a, b string) int { return major(a) - major(b) }), nil
}

func major(dir string) int {
	n, _ := strconv.Atoi(filepath.Base(filepath.Dir(dir)))
	return n
}

// daemon is the bough under test.
type daemon struct {
	bough, socket, mode string
	cmd                 *exec.Cmd
}

func startDaemon(ctx context.Context, o options, state string) (*daemon, error) {
	d := &daemon{bough: o.bough, socket: filepath.Join(state, "bough.sock"), mode: o.mode}
	args := []string{"serve", "--state", state, "--listen", "127.0.0.1:0", "--create", "bench"}
	args = append(args, o.serve...)
	if o.mode != "" {
		args = append(args, "--write-mode", o.mode)
	} else {
		d.mode = "default"
	}
	d.cmd = exec.Command(o.bough, args...)
	d.cmd.Stdout, d.cmd.Stderr = os.Stderr, os.Stderr
	d.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := d.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start daemon: %w", err)
	}
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	limit := time.After(time.Minute)
	for {
		if d.call(ctx, nil, "project", "show", "bench") == nil {
			return d, nil
		}
		select {
		case <-tick.C:
		case <-limit:
			return nil, errors.Join(errors.New("the daemon does not answer"), d.stop())
		case <-ctx.Done():
			return nil, errors.Join(ctx.Err(), d.stop())
		}
	}
}

// call runs a command of the CLI and decodes its JSON into v, if not nil.
func (d *daemon) call(ctx context.Context, v any, args ...string) error {
	cmd := exec.CommandContext(ctx, d.bough, append(args, "--json", "--socket", d.socket)...)
	out, err := cmd.Output()
	if err != nil {
		return fmt.Errorf("bough %s: %w", strings.Join(args, " "), err)
	}
	if v == nil {
		return nil
	}
	return json.Unmarshal(out, v)
}

// attach mounts a fresh branch at dir.
func (d *daemon) attach(ctx context.Context, dir string) (string, error) {
	if err := d.call(ctx, nil, "branch", "create", "bench/storage"); err != nil {
		return "", err
	}
	return dir, d.call(ctx, nil, "attach", "bench/storage", dir)
}

func (d *daemon) stop() error {
	if err := d.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		return fmt.Errorf("stop daemon: %w", err)
	}
	return d.cmd.Wait()
}
