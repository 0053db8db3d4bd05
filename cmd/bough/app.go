package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/charmbracelet/colorprofile"
	"github.com/charmbracelet/x/term"
	"github.com/spf13/cobra"

	"github.com/bough-db/bough/api"
	"github.com/bough-db/bough/api/client"
)

// Exit codes, as the help of every command says.
const (
	exitOK     = 0
	exitFailed = 1
	exitUsage  = 2
)

// app is one run of the program: its world, and the flags that all verbs take.
type app struct {
	in       io.Reader
	out, err io.Writer
	name     string // as the program was called
	args     []string
	environ  []string
	now      func() time.Time

	socket string
	json   bool
}

// usageError is a command line that makes no sense; it exits with 2.
type usageError struct{ err error }

func (e usageError) Error() string { return e.err.Error() }
func (e usageError) Unwrap() error { return e.err }

func usagef(format string, args ...any) error { return usageError{fmt.Errorf(format, args...)} }

// run runs one command line and returns the exit code.
func run(a *app) int {
	root := a.rootCmd()
	root.SetArgs(a.args)
	root.SetIn(a.in)
	root.SetOut(a.out)
	root.SetErr(a.err)
	// The first signal ends what waits for the daemon; serve takes its own.
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	defer context.AfterFunc(ctx, stop)() // and the next one ends the program, unless serve takes it
	err := root.ExecuteContext(ctx)
	if err == nil {
		return exitOK
	}
	if code, ok := errors.AsType[exitError](err); ok {
		return int(code)
	}
	if ctx.Err() != nil && errors.Is(err, context.Canceled) {
		err = errors.New("interrupted; what the daemon has begun, it finishes")
	}
	a.report(err)
	if _, ok := errors.AsType[usageError](err); ok {
		return exitUsage
	}
	return exitFailed
}

// report writes the line of an error, or those of several that are independent.
func (a *app) report(err error) {
	if list, ok := err.(problemList); ok {
		for _, err := range list {
			a.report(err)
		}
		return
	}
	if a.json {
		e, ok := errors.AsType[*api.Error](err)
		if !ok {
			e = api.Errorf(api.CodeInternal, "%s", oneLine(err.Error()))
			if _, usage := errors.AsType[usageError](err); usage {
				e.Code = api.CodeInvalidRequest
			} else if errors.Is(err, client.ErrNoDaemon) {
				e.Code = api.CodeUnavailable
			}
		}
		p, _ := json.Marshal(api.ErrorBody{Error: e}) // strings always marshal
		fmt.Fprintf(a.err, "%s\n", p)
		return
	}
	fmt.Fprintf(a.err, "bough: %s\n", oneLine(err.Error()))
}

// oneLine joins the lines of s.
func oneLine(s string) string {
	return strings.Join(strings.FieldsFunc(s, func(r rune) bool { return r == '\n' || r == '\r' }), "; ")
}

// rootCmd returns the command tree.
func (a *app) rootCmd() *cobra.Command {
	root := &cobra.Command{
		Use:   "bough",
		Short: "Postgres branches on a copy-on-write block device",
		Long: "bough runs unmodified Postgres on a copy-on-write block device: a branch of a\n" +
			"database is made in milliseconds, whatever its size.",
		Example:           "  bough serve --create demo\n  bough psql demo\n  bough branch create demo/dev\n  bough branch tree demo",
		SilenceErrors:     true,
		SilenceUsage:      true,
		CompletionOptions: cobra.CompletionOptions{DisableDefaultCmd: true},
	}
	root.PersistentFlags().StringVar(&a.socket, "socket", "", "the daemon's socket (default: BOUGH_SOCKET, else "+abbreviateHome(a, a.defaultSocket())+")")
	root.PersistentFlags().BoolVar(&a.json, "json", false, "print JSON")
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return usagef("%w: see `%s --help`", err, cmd.CommandPath())
	})
	root.SetHelpTemplate(root.HelpTemplate() + "\nExit codes: 0 success, 1 it failed, 2 the command line makes no sense.\n")
	root.AddCommand(
		a.serveCmd(), a.projectCmd(), a.branchCmd(), a.psqlCmd(), a.urlCmd(), a.startCmd(), a.suspendCmd(),
		a.attachCmd(), a.detachCmd(), a.logCmd(), a.snapshotCmd(), a.statusCmd(), a.verifyCmd(), a.gcCmd(), a.storeCmd(), a.versionCmd(), a.completionCmd(),
	)
	a.group(root)
	// cobra parses the flags and only then looks for the command, so that a
	// mistyped command would be reported as a bad flag of the root.
	return root
}

// group makes cmd, which only has subcommands, complain of a missing or unknown one.
func (a *app) group(cmd *cobra.Command) {
	cmd.Args = cobra.ArbitraryArgs
	cmd.SuggestionsMinimumDistance = 2
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if len(args) == 0 {
			return errors.Join(cmd.Help(), usagef("no command given: see above"))
		}
		hint := ""
		if s := cmd.SuggestionsFor(args[0]); len(s) > 0 {
			hint = fmt.Sprintf("; did you mean %s?", s[0])
		}
		return usagef("unknown command %q%s: see `%s --help`", args[0], hint, cmd.CommandPath())
	}
}

// getenv returns the value of an environment variable, or "".
func (a *app) getenv(key string) string {
	value := ""
	for _, kv := range a.environ {
		if k, v, ok := strings.Cut(kv, "="); ok && k == key {
			value = v
		}
	}
	return value
}

// defaultState returns the state directory of a daemon that was not told one.
func (a *app) defaultState() string {
	if dir := a.getenv("BOUGH_STATE"); dir != "" {
		return dir
	}
	if os.Geteuid() == 0 {
		return "/var/lib/bough"
	}
	if dir := a.getenv("XDG_STATE_HOME"); filepath.IsAbs(dir) {
		return filepath.Join(dir, "bough")
	}
	return filepath.Join(a.getenv("HOME"), ".local/state/bough")
}

func (a *app) defaultSocket() string { return filepath.Join(a.defaultState(), socketName) }

// socketName is the socket's name in the state directory.
const socketName = "bough.sock"

func abbreviateHome(a *app, path string) string {
	if home := a.getenv("HOME"); home != "" && home != "/" {
		if rest, ok := strings.CutPrefix(path, home+"/"); ok {
			return "~/" + rest
		}
	}
	return path
}

// client returns a client of the daemon that the flags and the environment name.
func (a *app) client() *client.Client {
	socket := a.socket
	if socket == "" {
		socket = a.getenv("BOUGH_SOCKET")
	}
	if socket == "" {
		socket = a.defaultSocket()
	}
	return client.New(socket)
}

// terminal reports whether w is a terminal.
func terminal(w any) bool {
	f, ok := w.(*os.File)
	return ok && term.IsTerminal(f.Fd())
}

// styled returns standard output as a writer that drops the styles it cannot show.
func (a *app) styled() io.Writer { return colorprofile.NewWriter(a.out, a.environ) }

// printJSON writes v, indented, to standard output.
func (a *app) printJSON(v any) error {
	p, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return fmt.Errorf("encode answer: %w", err)
	}
	_, err = fmt.Fprintf(a.out, "%s\n", p)
	return err
}
