package main

import (
	"fmt"

	"github.com/spf13/cobra"
)

// urlVerb is `bough url`.
type urlVerb struct{ *app }

func (a *app) urlCmd() *cobra.Command {
	o := &urlVerb{app: a}
	return &cobra.Command{
		Use:   "url PROJECT/BRANCH",
		Short: "Print the connection URL of a branch, password included",
		Long: "Print the connection URL of a branch, password included. It stays the same until\n" +
			"the branch is renamed, whether its Postgres runs or is suspended.",
		Example:           "  psql \"$(bough url demo/dev)\"\n  bough url demo --json",
		Args:              wantArgs("PROJECT/BRANCH"),
		ValidArgsFunction: a.completeBranch(cobra.ShellCompDirectiveNoFileComp),
		RunE:              o.run,
	}
}

func (o *urlVerb) run(cmd *cobra.Command, args []string) error {
	project, name, err := branchArg(args[0])
	if err != nil {
		return err
	}
	conn, err := o.client().Connection(cmd.Context(), project, name)
	if err != nil {
		return err
	}
	if o.json {
		return o.printJSON(conn)
	}
	_, err = fmt.Fprintln(o.out, conn.URL)
	return err
}
