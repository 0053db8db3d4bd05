package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/bough-db/bough/api"
)

// branchShow is `bough branch show`.
type branchShow struct{ *app }

func (a *app) branchShowCmd() *cobra.Command {
	o := &branchShow{app: a}
	return &cobra.Command{
		Use:               "show PROJECT/BRANCH",
		Short:             "Show a branch",
		Example:           "  bough branch show demo/dev",
		Args:              wantArgs("PROJECT/BRANCH"),
		ValidArgsFunction: a.completeBranch(cobra.ShellCompDirectiveNoFileComp),
		RunE:              o.run,
	}
}

func (o *branchShow) run(cmd *cobra.Command, args []string) error {
	project, name, err := branchArg(args[0])
	if err != nil {
		return err
	}
	b, err := o.client().Branch(cmd.Context(), project, name)
	if err != nil {
		return err
	}
	if o.json {
		return o.printJSON(b)
	}
	w := o.styled()
	if _, err = fmt.Fprintf(w, "branch    %s\nid        %s\nparent    %s\npostgres  %s\nseq       %s\nsize      %s\ncreated   %s\n",
		b.Ref(), b.ID, parentCell(b), endpointCell(b), seqCell(b.Seq), size(b.SizeBytes), o.ago(b.Created)); err != nil {
		return err
	}
	if b.Durability != "" && b.Durability != api.DurabilityLocal {
		_, err = fmt.Fprintf(w, "durable   %s\n", b.Durability)
	}
	if err == nil && b.Host != "" {
		_, err = fmt.Fprintf(w, "host      %s\n", hostCell(b))
	}
	if err == nil && b.Error != "" {
		_, err = fmt.Fprintf(w, "error     %s\n", alarm(oneLine(b.Error)))
	}
	return err
}
