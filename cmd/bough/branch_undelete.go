package main

import (
	"github.com/spf13/cobra"

	"github.com/bough-db/bough/api"
)

// branchUndelete is `bough branch undelete`.
type branchUndelete struct {
	*app
	as string
}

func (a *app) branchUndeleteCmd() *cobra.Command {
	o := &branchUndelete{app: a}
	cmd := &cobra.Command{
		Use:   "undelete PROJECT/BRANCH",
		Short: "Bring a deleted branch back",
		Long: "Bring a deleted branch back, as it was. Of several with the same name it is the last\n" +
			"one that was deleted, unless its id is given in place of the name; see\n" +
			"`bough branch list --deleted`.",
		Example:           "  bough branch undelete demo/dev\n  bough branch undelete demo/dev --as dev2",
		Args:              wantArgs("PROJECT/BRANCH"),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE:              o.run,
	}
	cmd.Flags().StringVar(&o.as, "as", "", "the name to give it (default: the one that it had)")
	return cmd
}

func (o *branchUndelete) run(cmd *cobra.Command, args []string) error {
	project, name, err := newBranchArg(args[0])
	if err != nil {
		return err
	}
	if o.as != "" {
		if err := api.CheckName("branch", o.as); err != nil {
			return usageError{err}
		}
	}
	b, err := o.client().UndeleteBranch(cmd.Context(), project, name, api.UndeleteBranch{Name: o.as})
	if err != nil {
		return err
	}
	return o.done(b, "branch %s is back", b.Ref())
}
