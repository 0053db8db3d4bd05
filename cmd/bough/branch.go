package main

import (
	"strconv"

	"github.com/spf13/cobra"

	"github.com/bough-db/bough/api"
)

// branchCmd returns the verbs about branches.
func (a *app) branchCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "branch",
		Aliases: []string{"branches"},
		Short:   "Create, list, show, rename and delete branches",
		Long: "A branch is a whole database that starts as a copy of its parent and costs\n" +
			"nothing until it differs. PROJECT alone means PROJECT/main.",
		Example: "  bough branch create demo/dev\n  bough branch tree demo",
	}
	cmd.AddCommand(a.branchCreateCmd(), a.branchListCmd(), a.branchTreeCmd(), a.branchShowCmd(), a.branchRenameCmd(), a.branchDeleteCmd())
	a.group(cmd)
	return cmd
}

// branchTable lists branches of one project or of several.
func (a *app) branchTable(branches []api.Branch) *table {
	t := &table{header: []string{"BRANCH", "PARENT", "POSTGRES", "SEQ", "CREATED"}}
	for _, b := range branches {
		t.add(b.Ref(), parentCell(b), endpointCell(b), seqCell(b.Seq), a.ago(b.Created))
	}
	return t
}

// seqCell renders a barrier, which is not known of every branch.
func seqCell(seq uint64) string {
	if seq == 0 {
		return "-"
	}
	return strconv.FormatUint(seq, 10)
}

// parentCell renders the parent and where the branch left it.
func parentCell(b api.Branch) string {
	switch {
	case b.Parent != "":
		return b.Parent + faint("@seq:"+strconv.FormatUint(b.ForkSeq, 10))
	case b.ParentID != "":
		return faint("deleted")
	default:
		return "-"
	}
}
