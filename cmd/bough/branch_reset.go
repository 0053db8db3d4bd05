package main

import (
	"github.com/spf13/cobra"

	"github.com/bough-db/bough/api"
)

// branchReset is `bough branch reset`.
type branchReset struct {
	*app
	to, keepAs string
}

func (a *app) branchResetCmd() *cobra.Command {
	o := &branchReset{app: a}
	cmd := &cobra.Command{
		Use:   "reset PROJECT/BRANCH",
		Short: "Make a branch what its parent is now",
		Long: "Make a branch begin anew as its parent is at this moment, or with --to was at another.\n" +
			"Its name, address and password stay; what was done on it is lost, unless --keep-as\n" +
			"names a branch for it." + pointHelp,
		Example:           "  bough branch reset demo/dev\n  bough branch reset demo/dev --to @-1h --keep-as dev-old",
		Args:              wantArgs("PROJECT/BRANCH"),
		ValidArgsFunction: a.completeBranch(cobra.ShellCompDirectiveNoFileComp),
		RunE:              o.run,
	}
	cmd.Flags().StringVar(&o.to, "to", "", "a point of the parent (default: its last moment)")
	cmd.Flags().StringVar(&o.keepAs, "keep-as", "", "name of a branch that keeps the state before (default: none)")
	return cmd
}

func (o *branchReset) run(cmd *cobra.Command, args []string) error {
	project, name, err := branchArg(args[0])
	if err != nil {
		return err
	}
	req := api.RestoreBranch{Parent: true, KeepAs: o.keepAs}
	if req.At, err = readPoint(o.to); err != nil {
		return err
	}
	return o.restore(cmd, project, name, req)
}
