package main

import (
	"strings"

	"github.com/spf13/cobra"

	"github.com/bough-db/bough/api"
)

// branchRename is `bough branch rename`.
type branchRename struct{ *app }

func (a *app) branchRenameCmd() *cobra.Command {
	o := &branchRename{app: a}
	return &cobra.Command{
		Use:               "rename PROJECT/BRANCH NAME",
		Aliases:           []string{"mv"},
		Short:             "Give a branch another name",
		Example:           "  bough branch rename demo/dev test",
		Args:              wantArgs("PROJECT/BRANCH", "NAME"),
		ValidArgsFunction: a.completeBranch(cobra.ShellCompDirectiveNoFileComp),
		RunE:              o.run,
	}
}

func (o *branchRename) run(cmd *cobra.Command, args []string) error {
	project, name, err := newBranchArg(args[0])
	if err != nil {
		return err
	}
	// PROJECT/NAME is what people type, and means the same.
	to := strings.TrimPrefix(args[1], project+"/")
	if err := api.CheckName("branch", to); err != nil {
		return usageError{err}
	}
	b, err := o.client().RenameBranch(cmd.Context(), project, name, to)
	if err != nil {
		return err
	}
	return o.done(b, "renamed branch %s to %s", args[0], b.Ref())
}
