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
	for _, l := range o.lifeLines(b) {
		if err == nil {
			_, err = fmt.Fprintln(w, l)
		}
	}
	if err == nil && b.Host != "" {
		_, err = fmt.Fprintf(w, "host      %s\n", hostCell(b))
	}
	if err == nil && b.Error != "" {
		_, err = fmt.Fprintf(w, "error     %s\n", alarm(oneLine(b.Error)))
	}
	return err
}

// lifeLines says what a branch's life has of its own.
func (a *app) lifeLines(b api.Branch) (lines []string) {
	if b.Protected {
		lines = append(lines, "protected yes")
	}
	if !b.Expires.IsZero() {
		lines = append(lines, "expires   "+a.ago(b.Expires))
	}
	if b.History != "" {
		lines = append(lines, "history   "+b.History)
	}
	if b.Throwaway {
		lines = append(lines, "throwaway yes")
	}
	if !b.Restored.IsZero() {
		lines = append(lines, fmt.Sprintf("restored  %s, to @seq:%d", a.ago(b.Restored), b.RestoredSeq))
	}
	return lines
}
