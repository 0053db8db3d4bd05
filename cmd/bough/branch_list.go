package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/bough-db/bough/api"
)

// branchList is `bough branch list`.
type branchList struct {
	*app
	deleted bool
}

func (a *app) branchListCmd() *cobra.Command {
	o := &branchList{app: a}
	cmd := &cobra.Command{
		Use:               "list [PROJECT]",
		Aliases:           []string{"ls"},
		Short:             "List the branches of a project, or of all",
		Example:           "  bough branch list\n  bough branch list demo --json\n  bough branch list demo --deleted",
		Args:              wantArgs("[PROJECT]"),
		ValidArgsFunction: a.completeProject,
		RunE:              o.run,
	}
	cmd.Flags().BoolVar(&o.deleted, "deleted", false, "list the branches of a project that were deleted and can come back")
	return cmd
}

func (o *branchList) run(cmd *cobra.Command, args []string) error {
	if o.deleted {
		return o.listDeleted(cmd, args)
	}
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

// listDeleted lists what `bough branch undelete` can bring back.
func (o *branchList) listDeleted(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return usagef("--deleted wants a project: `bough branch list PROJECT --deleted`")
	}
	project, err := projectArg(args[0])
	if err != nil {
		return err
	}
	all, err := o.client().Deleted(cmd.Context(), project)
	if err != nil {
		return err
	}
	if o.json {
		return o.printJSON(api.DeletedList{Branches: all})
	}
	if len(all) == 0 {
		return o.done(nil, "no deleted branch of %s can come back", project)
	}
	t := &table{header: []string{"BRANCH", "ID", "DELETED"}}
	for _, b := range all {
		t.add(b.Project+"/"+b.Name, b.ID, o.ago(b.Deleted))
	}
	return t.write(o.styled(), "")
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
