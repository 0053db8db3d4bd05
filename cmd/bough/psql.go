package main

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/bough-db/bough/api"
)

// psql is `bough psql`.
type psql struct {
	*app
	admin bool
}

func (a *app) psqlCmd() *cobra.Command {
	o := &psql{app: a}
	cmd := &cobra.Command{
		Use:   "psql PROJECT[/BRANCH][@POINT] [-- PSQL ARGUMENTS]",
		Short: "Open psql on a branch",
		Long: "Open psql on a branch, as the owner of its database. A suspended Postgres is\n" +
			"started by the connection. With --admin it is the superuser, over a private\n" +
			"socket. The password goes through the environment, never the command line.\n" +
			"The exit code is psql's.\n\n" +
			"With a point it is a branch of its own, which begins as that moment and is deleted\n" +
			"when psql ends, with all that was written there." + pointHelp,
		Example: "  bough psql demo\n  bough psql demo/dev -- -c 'select version()'\n  bough psql demo --admin -- -f schema.sql\n" +
			"  bough psql demo@-10m -- -c 'table orders'",
		Args: func(cmd *cobra.Command, args []string) error {
			own := args
			if n := cmd.ArgsLenAtDash(); n >= 0 {
				own = args[:n]
			}
			if len(own) > 1 {
				return usagef("psql's own arguments go after --, as in `bough psql %s -- %s`", own[0], strings.Join(own[1:], " "))
			}
			return wantArgs("PROJECT[/BRANCH][@POINT]")(cmd, own)
		},
		ValidArgsFunction: a.completeBranch(cobra.ShellCompDirectiveDefault),
		RunE:              o.run,
	}
	cmd.Flags().BoolVar(&o.admin, "admin", false, "be the superuser, over the private socket")
	cmd.SetFlagErrorFunc(func(_ *cobra.Command, err error) error {
		return usagef("%w: psql's own arguments go after --, as in `bough psql demo -- -c 'select 1'`", err)
	})
	return cmd
}

func (o *psql) run(cmd *cobra.Command, args []string) error {
	project, name, at, err := pointArg(args[0])
	if err != nil {
		return err
	}
	bin, err := findPsql()
	if err != nil {
		return err
	}
	if at != "" {
		return o.runPast(cmd.Context(), bin, project, name, at, args[1:])
	}
	env, err := o.psqlEnv(cmd.Context(), project, name)
	if err != nil {
		return err
	}
	// psql takes this process's place, so that signals, the terminal and the
	// exit code are its own.
	argv := append([]string{"psql"}, args[1:]...)
	return fmt.Errorf("run %s: %w", bin, syscall.Exec(bin, argv, env))
}

// psqlEnv returns the environment that leads psql to the branch.
func (o *psql) psqlEnv(ctx context.Context, project, name string) ([]string, error) {
	c := o.client()
	defer c.Close()
	if o.admin {
		p := o.progress("starting " + project + "/" + name)
		_, err := c.Start(ctx, project, name, api.StartBranch{})
		p.end()
		if err != nil {
			return nil, err
		}
	}
	conn, err := c.Connection(ctx, project, name)
	if err != nil {
		return nil, err
	}
	if o.admin {
		if conn.Admin == nil {
			return nil, fmt.Errorf("the Postgres of %s/%s stopped again: see `bough status`", project, name)
		}
		return adminEnv(o.environ, *conn.Admin), nil
	}
	return ownerEnv(o.environ, conn), nil
}

// ownerEnv is environ with the way to the branch through the front door. The
// branch is named in the options, so that another database can be opened with
// -d or \c.
func ownerEnv(environ []string, c api.Connection) []string {
	options := c.Options
	for _, kv := range environ {
		if v, ok := strings.CutPrefix(kv, "PGOPTIONS="); ok && v != "" {
			options += " " + v
		}
	}
	return append(withoutPG(environ), "PGHOST="+c.Host, "PGPORT="+strconv.Itoa(c.Port), "PGUSER="+c.Role,
		"PGPASSWORD="+c.Password, "PGDATABASE="+c.Database, "PGOPTIONS="+options)
}

// adminEnv is environ with the way to the branch's private socket.
func adminEnv(environ []string, c api.AdminConnection) []string {
	return append(withoutPG(environ), "PGHOST="+c.SocketDir, "PGPORT="+strconv.Itoa(c.Port), "PGUSER="+c.Role, "PGDATABASE="+c.Database)
}

// withoutPG returns environ without the variables that lead libpq elsewhere.
func withoutPG(environ []string) []string {
	lead := []string{
		"PGHOST", "PGHOSTADDR", "PGPORT", "PGUSER", "PGPASSWORD", "PGPASSFILE", "PGDATABASE", "PGOPTIONS", "PGSERVICE",
		"PGSERVICEFILE", "PGSSLMODE", "PGREQUIRESSL", "PGSSLNEGOTIATION", "PGCHANNELBINDING", "PGGSSENCMODE",
		"PGREQUIREAUTH", "PGREQUIREPEER", "PGTARGETSESSIONATTRS", "PGLOADBALANCEHOSTS",
	}
	return slices.DeleteFunc(slices.Clone(environ), func(kv string) bool {
		k, _, _ := strings.Cut(kv, "=")
		return slices.Contains(lead, k)
	})
}

// findPsql returns the psql of PATH, or Debian's newest.
func findPsql() (string, error) {
	if bin, err := exec.LookPath("psql"); err == nil {
		return bin, nil
	}
	found, _ := filepath.Glob("/usr/lib/postgresql/*/bin/psql") // the pattern is well formed
	if len(found) == 0 {
		return "", errors.New("psql is not installed: install postgresql-client, or give another client the URL that `bough url` prints")
	}
	return slices.MaxFunc(found, func(x, y string) int { return pgDirVersion(x) - pgDirVersion(y) }), nil
}

// pgDirVersion returns the version in /usr/lib/postgresql/VERSION/bin/psql.
func pgDirVersion(path string) int {
	v, err := strconv.Atoi(filepath.Base(filepath.Dir(filepath.Dir(path))))
	if err != nil {
		return 0
	}
	return v
}
