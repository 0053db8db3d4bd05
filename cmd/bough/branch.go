package main

import (
	"slices"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/bough-db/bough/api"
)

// branchCmd returns the verbs about branches.
func (a *app) branchCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "branch",
		Aliases: []string{"branches"},
		Short:   "Create, list, show, set, restore, rename and delete branches",
		Long: "A branch is a whole database that starts as a copy of its parent and costs\n" +
			"nothing until it differs. PROJECT alone means PROJECT/main.",
		Example: "  bough branch create demo/dev\n  bough branch tree demo",
	}
	cmd.AddCommand(a.branchCreateCmd(), a.branchListCmd(), a.branchTreeCmd(), a.branchShowCmd(), a.branchSetCmd(),
		a.branchResetCmd(), a.branchRestoreCmd(), a.branchRenameCmd(), a.branchDeleteCmd(), a.branchUndeleteCmd())
	a.group(cmd)
	return cmd
}

// branchTable lists branches of one project or of several. Durability and host have
// a column where they say something.
func (a *app) branchTable(branches []api.Branch) *table {
	remote := slices.ContainsFunc(branches, func(b api.Branch) bool { return b.Durability == api.DurabilityRemote })
	several := slices.ContainsFunc(branches, func(b api.Branch) bool { return b.Host != "" })
	t := &table{header: []string{"BRANCH", "PARENT", "POSTGRES", "SEQ", "CREATED"}}
	if remote {
		t.header = append(t.header, "DURABILITY")
	}
	if several {
		t.header = append(t.header, "HOST")
	}
	for _, b := range branches {
		cells := []string{b.Ref(), parentCell(b), endpointCell(b), seqCell(b.Seq), a.ago(b.Created)}
		if remote {
			cells = append(cells, orDash(string(b.Durability)))
		}
		if several {
			cells = append(cells, hostCell(b))
		}
		t.add(cells...)
	}
	return t
}

// hostCell renders who has the branch attached.
func hostCell(b api.Branch) string {
	if b.Attached {
		return "here"
	}
	return orDash(b.Host)
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
