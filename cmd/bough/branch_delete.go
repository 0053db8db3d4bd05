package main

import (
	"github.com/spf13/cobra"
)

// branchDelete is `bough branch delete`.
type branchDelete struct{ *app }

func (a *app) branchDeleteCmd() *cobra.Command {
	o := &branchDelete{app: a}
	return &cobra.Command{
		Use:     "delete PROJECT/BRANCH",
		Aliases: []string{"rm"},
		Short:   "Delete a branch; its children stay",
		Long: "Delete a branch. A Postgres server that runs on it is stopped. Branches that were\n" +
			"made from it stay whole. For a day `bough branch undelete` can bring it back.",
		Example:           "  bough branch delete demo/dev",
		Args:              wantArgs("PROJECT/BRANCH"),
		ValidArgsFunction: a.completeBranch(cobra.ShellCompDirectiveNoFileComp),
		RunE:              o.run,
	}
}

func (o *branchDelete) run(cmd *cobra.Command, args []string) error {
	project, name, err := branchArg(args[0])
	if err != nil {
		return err
	}
	if args[0] == project {
		return usagef("%s is a project: write %s/main for its main branch, or use `bough project delete %s`", project, project, project)
	}
	p := o.progress("deleting branch " + args[0])
	err = o.client().DeleteBranch(cmd.Context(), project, name)
	p.end()
	if err != nil {
		return err
	}
	return o.done(map[string]string{"deleted": project + "/" + name}, "deleted branch %s/%s", project, name)
}
