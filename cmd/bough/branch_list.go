package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/bough-db/bough/api"
)

// branchList is `bough branch list`.
type branchList struct{ *app }

func (a *app) branchListCmd() *cobra.Command {
	o := &branchList{app: a}
	return &cobra.Command{
		Use:               "list [PROJECT]",
		Aliases:           []string{"ls"},
		Short:             "List the branches of a project, or of all",
		Example:           "  bough branch list\n  bough branch list demo --json",
		Args:              wantArgs("[PROJECT]"),
		ValidArgsFunction: a.completeProject,
		RunE:              o.run,
	}
}

func (o *branchList) run(cmd *cobra.Command, args []string) error {
	branches, err := o.branches(cmd, args)
	if err != nil {
		return err
	}
	if o.json {
		return o.printJSON(api.BranchList{Branches: branches})
	}
	if len(branches) == 0 {
		return o.noBranches()
	}
	return o.branchTable(branches).write(o.styled(), "")
}

// branches lists the branches of the project that args may name.
func (a *app) branches(cmd *cobra.Command, args []string) ([]api.Branch, error) {
	project := ""
	if len(args) > 0 {
		var err error
		if project, err = projectArg(args[0]); err != nil {
			return nil, err
		}
	}
	return a.client().Branches(cmd.Context(), project)
}

func (a *app) noBranches() error {
	_, err := fmt.Fprintln(a.out, "no branches: create a project with `bough project create NAME`")
	return err
}
