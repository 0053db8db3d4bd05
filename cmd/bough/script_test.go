package main

import (
	"flag"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"github.com/spf13/cobra"

	"github.com/bough-db/bough/api"
	"github.com/bough-db/bough/api/apitest"
)

var update = flag.Bool("update", false, "rewrite the golden files in the scripts")

// testNow is the time of every command in a script.
func testNow() time.Time { return apitest.Epoch.Add(3 * time.Hour) }

func newTestApp(args ...string) *app {
	return &app{in: os.Stdin, out: os.Stdout, err: os.Stderr, name: "bough", args: args, environ: os.Environ(), now: testNow}
}

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){
		"bough": func() { os.Exit(run(newTestApp(os.Args[1:]...))) },
	})
}

// backendKey is the key of a script's backend in its environment.
type backendKey struct{}

// TestScripts runs testdata/script/*.txtar, each against a daemon of its own
// that has no store behind it.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:           "testdata/script",
		UpdateScripts: *update,
		Setup: func(env *testscript.Env) error {
			dir, err := os.MkdirTemp("", "bough") // the work directory is too long for a socket's path
			if err != nil {
				return err
			}
			env.Defer(func() { os.RemoveAll(dir) })
			sock := filepath.Join(dir, "s")
			l, err := api.Listen(sock)
			if err != nil {
				return err
			}
			b := apitest.New()
			s := api.NewServer(b, api.Options{})
			done := make(chan error, 1)
			go func() { done <- s.Serve(l) }()
			env.Defer(func() { s.Close(); <-done })
			env.Values[backendKey{}] = b
			env.Setenv("BOUGH_SOCKET", sock)
			env.Setenv("TERM", "xterm-256color")
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"fails":   scriptFails,
			"stuck":   scriptStuck,
			"problem": scriptProblem,
			"exits":   scriptExits,
		},
	})
}

func scriptBackend(ts *testscript.TestScript) *apitest.Backend {
	return ts.Value(backendKey{}).(*apitest.Backend)
}

// scriptFails: fails METHOD CODE MESSAGE [HINT] makes a backend's method fail.
func scriptFails(ts *testscript.TestScript, _ bool, args []string) {
	err := api.Errorf(api.Code(args[1]), "%s", args[2])
	if len(args) > 3 {
		err.Hint = args[3]
	}
	scriptBackend(ts).Fail(args[0], err)
}

// scriptStuck: stuck PROJECT BRANCH TEXT gives a branch a sticky failure.
func scriptStuck(ts *testscript.TestScript, _ bool, args []string) {
	scriptBackend(ts).SetError(args[0], args[1], args[2])
}

// scriptProblem: problem OBJECT DETAIL PROJECT/BRANCH... is found by verify.
func scriptProblem(ts *testscript.TestScript, _ bool, args []string) {
	p := api.VerifyProblem{Object: args[0], Detail: args[1]}
	for i, ref := range args[2:] {
		project, branch, err := api.ParseBranch(ref)
		ts.Check(err)
		p.Affected = append(p.Affected, api.VerifyAffected{Project: project, Branch: branch, Blocks: uint64(i)})
	}
	scriptBackend(ts).AddProblem(p)
}

// scriptExits: exits CODE COMMAND... runs a command that exits with the code
// and writes exactly one line to standard error, or none for 0.
func scriptExits(ts *testscript.TestScript, _ bool, args []string) {
	_ = ts.Exec("sh", append([]string{"-c", `"$@" 2>err.tmp; echo $? >code.tmp; cat err.tmp >&2`, "sh"}, args[1:]...)...)
	if got := strings.TrimSpace(ts.ReadFile("code.tmp")); got != args[0] {
		ts.Fatalf("%v exits with %s, want %s", args[1:], got, args[0])
	}
	if n := strings.Count(ts.ReadFile("err.tmp"), "\n"); args[0] != "0" && n != 1 || args[0] == "0" && n != 0 {
		ts.Fatalf("%v wrote %d lines to standard error:\n%s", args[1:], n, ts.ReadFile("err.tmp"))
	}
}

// TestHelpIsComplete checks that every command has a summary, an example that
// starts with its own path, and checks its arguments.
func TestHelpIsComplete(t *testing.T) {
	var walk func(*cobra.Command)
	walk = func(cmd *cobra.Command) {
		if cmd.Name() == "help" {
			return
		}
		if cmd.Short == "" || strings.HasSuffix(cmd.Short, ".") {
			t.Errorf("%s: summary %q is empty or ends with a full stop", cmd.CommandPath(), cmd.Short)
		}
		if !strings.Contains(cmd.Example, cmd.CommandPath()) {
			t.Errorf("%s: example %q does not use the command", cmd.CommandPath(), cmd.Example)
		}
		if cmd.Args == nil {
			t.Errorf("%s does not check its arguments", cmd.CommandPath())
		}
		if cmd.Flags().Lookup("json") == nil && cmd.InheritedFlags().Lookup("json") == nil && cmd.HasParent() {
			t.Errorf("%s has no --json", cmd.CommandPath())
		}
		for _, c := range cmd.Commands() {
			walk(c)
		}
	}
	walk(newTestApp().rootCmd())
}

func TestDefaultSocket(t *testing.T) {
	tests := []struct {
		env  []string
		flag string
		want string
	}{
		{[]string{"BOUGH_STATE=/s"}, "", "/s/bough.sock"},
		{[]string{"BOUGH_STATE=/s", "BOUGH_SOCKET=/t/x"}, "", "/t/x"},
		{[]string{"BOUGH_STATE=/s", "BOUGH_SOCKET=/t/x"}, "/u/y", "/u/y"},
		{[]string{"BOUGH_STATE=", "BOUGH_STATE=/later"}, "", "/later/bough.sock"},
	}
	if os.Geteuid() == 0 {
		tests = append(tests, struct {
			env  []string
			flag string
			want string
		}{[]string{"HOME=/root"}, "", "/var/lib/bough/bough.sock"})
	}
	for _, tt := range tests {
		a := &app{environ: tt.env, socket: tt.flag}
		if got := a.client().Socket(); got != tt.want {
			t.Errorf("socket with %v and flag %q = %q, want %q", tt.env, tt.flag, got, tt.want)
		}
	}
}

func TestPsqlEnv(t *testing.T) {
	environ := []string{"PATH=/bin", "PGHOST=elsewhere", "PGSERVICE=x", "PGSSLMODE=require", "PGOPTIONS=-c geqo=off", "PGAPPNAME=mine"}
	got := ownerEnv(environ, api.Connection{Host: "h", Port: 6432, Role: "app", Password: "pw", Database: "app", Options: "-c branch=demo/dev"})
	want := []string{
		"PATH=/bin", "PGAPPNAME=mine", "PGHOST=h", "PGPORT=6432", "PGUSER=app", "PGPASSWORD=pw", "PGDATABASE=app",
		"PGOPTIONS=-c branch=demo/dev -c geqo=off",
	}
	if !slices.Equal(got, want) {
		t.Errorf("ownerEnv = %q\nwant %q", got, want)
	}
	got = adminEnv(environ, api.AdminConnection{SocketDir: "/run/x", Port: 5432, Role: "postgres", Database: "app"})
	want = []string{"PATH=/bin", "PGAPPNAME=mine", "PGHOST=/run/x", "PGPORT=5432", "PGUSER=postgres", "PGDATABASE=app"}
	if !slices.Equal(got, want) {
		t.Errorf("adminEnv = %q\nwant %q", got, want)
	}
}
