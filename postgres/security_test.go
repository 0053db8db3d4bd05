package postgres

import (
	"encoding/base64"
	"errors"
	"net"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// The exchange of RFC 7677, section 3, ends with a signature by the server key.
func TestVerifierOfRFC7677(t *testing.T) {
	salt, err := base64.StdEncoding.DecodeString("W22ZaJ0SNY7soEsUEjb6gQ==")
	if err != nil {
		t.Fatal(err)
	}
	verifier, err := scramVerifier("pencil", salt, 4096)
	if err != nil {
		t.Fatal(err)
	}
	if want := "SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==$"; !strings.HasPrefix(verifier, want) {
		t.Fatalf("verifier = %s, want prefix %s", verifier, want)
	}
	serverKey, err := base64.StdEncoding.DecodeString(verifier[strings.LastIndexByte(verifier, ':')+1:])
	if err != nil {
		t.Fatal(err)
	}
	const nonce = "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0"
	message := "n=user,r=rOprNGfwEbeRWgbNEkqO," + nonce + ",s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096,c=biws," + nonce
	got := base64.StdEncoding.EncodeToString(keyed(serverKey, message))
	if want := "6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="; got != want {
		t.Errorf("server signature = %s, want %s", got, want)
	}
}

func sqlState(err error) string {
	var e *pgconn.PgError
	if errors.As(err, &e) {
		return e.Code
	}
	return ""
}

// No client is or becomes the superuser, or gets at the files of the host.
func TestClientsStayClients(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.project("demo")
	at := b.start("demo", "main")
	conn := b.client("demo", at)
	admin := b.admin(at, superuser)
	if got := b.value(admin, "SELECT rolsuper::text FROM pg_roles WHERE rolname = current_user"); got != "true" {
		t.Errorf("superuser on the admin socket = %s", got)
	}
	b.run(admin, "ALTER ROLE postgres PASSWORD 'known'") // even then

	host, port, err := net.SplitHostPort(at.Address)
	if err != nil {
		t.Fatal(err)
	}
	for _, url := range []string{
		"postgres://postgres:known@" + host + ":" + port + "/app",
		"postgres://postgres:known@" + host + ":" + port + "/postgres",
		"postgres://app:wrong@" + host + ":" + port + "/app",
		"postgres://app@" + host + ":" + port + "/app",
	} {
		_, err := pgx.Connect(b.ctx, url)
		if code := sqlState(err); code != "28000" && code != "28P01" {
			t.Errorf("connect to %s = %v, want a refusal", url, err)
		}
	}
	for _, statement := range []string{
		"ALTER ROLE app SUPERUSER",
		"CREATE ROLE eve SUPERUSER",
		"SET ROLE postgres",
		"GRANT postgres TO app",
		"GRANT pg_execute_server_program TO app",
		"GRANT pg_read_server_files TO app",
		"GRANT pg_write_server_files TO app",
		"COPY (SELECT 1) TO PROGRAM 'id'",
		"COPY (SELECT 1) TO '/tmp/x'",
		"ALTER SYSTEM SET port = 1",
		"SELECT pg_read_file('/etc/hostname')",
	} {
		if _, err := conn.Exec(b.ctx, statement); err == nil {
			t.Errorf("%s: a client may do that", statement)
		}
	}
	b.run(conn, "CREATE ROLE eve LOGIN PASSWORD 'x'", "CREATE DATABASE more", "CREATE SCHEMA s", "CREATE TABLE s.t (n int)")

	if b.account.other {
		cmd := exec.Command("psql", "-h", at.Socket, "-U", "postgres", "-c", "SELECT 1")
		cmd.Dir = "/"
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: b.account.credential()}
		if out, err := cmd.CombinedOutput(); err == nil || !strings.Contains(string(out), "eer authentication failed") {
			t.Errorf("the server's own OS user is the superuser: %v: %s", err, out)
		}
		info, err := os.Stat(at.Socket)
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode().Perm()&0o007 != 0 {
			t.Errorf("mode of the socket directory = %v, want none for others", info.Mode())
		}
	}
	out, err := exec.Command("psql", "-h", at.Socket, "-U", "postgres", "-tAc", "SELECT 42").CombinedOutput()
	if err != nil || strings.TrimSpace(string(out)) != "42" {
		t.Errorf("psql on the admin socket without a port: %v: %s", err, out)
	}

	// The password is nowhere in the clear.
	p, err := b.store.Project(b.ctx, "demo")
	if err != nil {
		t.Fatal(err)
	}
	s, err := ProjectSettingsOf(p.Settings)
	if err != nil {
		t.Fatal(err)
	}
	log, err := os.ReadFile(b.layout.log(at.ID))
	if err != nil {
		t.Fatal(err)
	}
	if s.Password == "" || strings.Contains(string(log), s.Password) || strings.Contains(string(log), "SCRAM-SHA-256$") {
		t.Error("the log has the password or its verifier")
	}
}

// A branch reaches out of itself in none of the ways in which its parent does.
func TestBranchIsSevered(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	if _, _, err := b.CreateProject(b.ctx, "demo", CreateProjectOptions{Conf: map[string]string{"archive_mode": "on", "wal_level": "logical"}}); err != nil {
		t.Fatal(err)
	}
	at := b.start("demo", "main")
	app, admin := b.admin(at, "app"), b.admin(at, superuser)
	b.run(admin, "ALTER SYSTEM SET archive_command = 'true'", "ALTER SYSTEM SET primary_conninfo = 'host=elsewhere'",
		"ALTER SYSTEM SET work_mem = '5MB'",
		"SELECT pg_create_physical_replication_slot('p', true)", "SELECT pg_create_logical_replication_slot('l', 'pgoutput')",
		"CREATE SUBSCRIPTION first CONNECTION 'host=127.0.0.1 port=1' PUBLICATION p WITH (connect = false)",
		"ALTER SUBSCRIPTION first ENABLE")
	b.run(app, "CREATE SUBSCRIPTION \"Second one\" CONNECTION 'host=127.0.0.1 port=1' PUBLICATION p WITH (connect = false)",
		"ALTER SUBSCRIPTION \"Second one\" ENABLE")
	b.stop("demo", "main")
	at = b.start("demo", "main")
	admin = b.admin(at, superuser)
	const effects = `SELECT concat_ws(' ', current_setting('archive_mode'), current_setting('archive_command'),
		current_setting('primary_conninfo'), current_setting('work_mem'),
		(SELECT count(*) FROM pg_replication_slots), (SELECT count(*) FILTER (WHERE subenabled) FROM pg_subscription))`
	if got, want := b.value(admin, effects), "on true host=elsewhere 5MB 2 2"; got != want {
		t.Fatalf("effects of the parent = %q, want %q", got, want)
	}
	tests := []struct {
		name, want string
		options    CreateBranchOptions
	}{
		{"severed", "off (disabled)  5MB 0 0", CreateBranchOptions{}},
		{"kept", "on true host=elsewhere 5MB 2 2", CreateBranchOptions{KeepEffects: true}},
		{"child", "off (disabled)  5MB 0 0", CreateBranchOptions{From: "kept"}},
	}
	for _, test := range tests {
		if _, err := b.CreateBranch(b.ctx, "demo", test.name, test.options); err != nil {
			t.Fatal(err)
		}
		at := b.start("demo", test.name)
		if got := b.value(b.admin(at, superuser), effects); got != test.want {
			t.Errorf("effects of %s = %q, want %q", test.name, got, test.want)
		}
		b.value(b.client("demo", at), "SELECT 'the password is good'")
	}

	// What the branch does by itself stays.
	at = b.start("demo", "severed")
	b.run(b.admin(at, superuser), "SELECT pg_create_physical_replication_slot('mine')", "ALTER SUBSCRIPTION first ENABLE",
		"ALTER SYSTEM SET archive_mode = 'on'", "ALTER SYSTEM SET archive_command = '/bin/true'")
	b.stop("demo", "severed")
	at = b.start("demo", "severed")
	if got, want := b.value(b.admin(at, superuser), effects), "on /bin/true  5MB 1 1"; got != want {
		t.Errorf("effects of the branch at its second start = %q, want %q", got, want)
	}
}

// A child of a branch that never ran is a child of the template; one whose
// parent may have run meanwhile is not.
func TestOriginOfChild(t *testing.T) {
	fresh := BranchSettings{FromTemplate: true, FSBytes: 7, Conf: map[string]string{"Work_Mem": "1MB", "archive_command": "x"}}
	used := fresh
	used.Ready = true
	if !fresh.inherit(CreateBranchOptions{}).FromTemplate || used.inherit(CreateBranchOptions{}).FromTemplate {
		t.Error("only a child of an unused branch comes from the template")
	}
	child := used.inherit(CreateBranchOptions{Conf: map[string]string{"jit": "off"}})
	if child.Ready || child.FSBytes != 7 || len(child.Conf) != 2 || child.Conf["work_mem"] != "1MB" || child.Conf["jit"] != "off" {
		t.Errorf("child = %+v", child)
	}
}
