package main

import (
	"fmt"
	"strings"

	"charm.land/lipgloss/v2"
	"github.com/spf13/cobra"

	"github.com/bough-db/bough/api"
)

// branchTree is `bough branch tree`.
type branchTree struct{ *app }

func (a *app) branchTreeCmd() *cobra.Command {
	o := &branchTree{app: a}
	return &cobra.Command{
		Use:               "tree [PROJECT]",
		Short:             "Draw the branches of a project, or of all, as a tree",
		Example:           "  bough branch tree demo",
		Args:              wantArgs("[PROJECT]"),
		ValidArgsFunction: a.completeProject,
		RunE:              o.run,
	}
}

func (o *branchTree) run(cmd *cobra.Command, args []string) error {
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
	w := o.styled()
	bold := lipgloss.NewStyle().Bold(true)
	for len(branches) > 0 {
		project, n := branches[0].Project, 0
		for n < len(branches) && branches[n].Project == project {
			n++
		}
		if _, err := fmt.Fprintln(w, bold.Render(project)); err != nil {
			return err
		}
		if err := o.treeTable(branches[:n]).write(w, ""); err != nil {
			return err
		}
		branches = branches[n:]
	}
	return nil
}

// treeTable lays a project's tree out as a table without a header.
func (o *branchTree) treeTable(branches []api.Branch) *table {
	t := &table{header: make([]string, 4)}
	for _, l := range drawTree(branches) {
		note := ""
		switch {
		case l.branch.Error != "":
			note = alarm(oneLine(l.branch.Error))
		case l.orphan:
			note = faint("its parent was deleted")
		}
		for _, more := range o.treeNotes(l.branch) {
			note = strings.TrimPrefix(note+faint(", ")+more, faint(", "))
		}
		t.add(faint(l.lead)+l.branch.Name, endpointCell(l.branch), o.ago(l.branch.Created), note)
	}
	return t
}

// treeNotes says of a branch what is not so of most.
func (a *app) treeNotes(b api.Branch) (notes []string) {
	if b.Durability == api.DurabilityRemote {
		notes = append(notes, string(b.Durability))
	}
	if b.Protected {
		notes = append(notes, "protected")
	}
	if b.Throwaway {
		notes = append(notes, "throwaway")
	}
	if !b.Expires.IsZero() {
		notes = append(notes, "expires "+a.ago(b.Expires))
	}
	if b.Host != "" && !b.Attached {
		notes = append(notes, "on host "+b.Host)
	} else if b.Host != "" {
		notes = append(notes, "here")
	}
	return notes
}
