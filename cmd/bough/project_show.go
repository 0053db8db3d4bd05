package main

import (
	"fmt"

	"github.com/spf13/cobra"
)

// projectShow is `bough project show`.
type projectShow struct{ *app }

func (a *app) projectShowCmd() *cobra.Command {
	o := &projectShow{app: a}
	return &cobra.Command{
		Use:               "show PROJECT",
		Short:             "Show a project and its branches",
		Example:           "  bough project show demo",
		Args:              wantArgs("PROJECT"),
		ValidArgsFunction: a.completeProject,
		RunE:              o.run,
	}
}

func (o *projectShow) run(cmd *cobra.Command, args []string) error {
	name, err := projectArg(args[0])
	if err != nil {
		return err
	}
	d, err := o.client().Project(cmd.Context(), name)
	if err != nil {
		return err
	}
	if o.json {
		return o.printJSON(d)
	}
	w := o.styled()
	if _, err := fmt.Fprintf(w, "project   %s\npostgres  %s\nsize      %s\ncreated   %s\n",
		d.Project.Name, pgVersion(d.Project.PGVersion), size(d.Project.SizeBytes), o.ago(d.Project.Created)); err != nil {
		return err
	}
	if d.Project.History != "" {
		if _, err := fmt.Fprintf(w, "history   %s\n", d.Project.History); err != nil {
			return err
		}
	}
	if _, err := fmt.Fprintln(w); err != nil {
		return err
	}
	return o.branchTable(d.Branches).write(w, "")
}
