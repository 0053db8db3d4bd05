package main

import (
	"slices"

	"github.com/bough-db/bough/api"
)

// treeLine is one branch in a drawn tree.
type treeLine struct {
	lead   string // what is drawn before the name
	branch api.Branch
	orphan bool // its parent was deleted
}

// drawTree orders a project's branches as a tree: parents before children,
// children by creation. A branch whose parent is gone stands at the root.
func drawTree(branches []api.Branch) []treeLine {
	children := map[string][]api.Branch{}
	known := map[string]bool{}
	for _, b := range branches {
		known[b.ID] = true
	}
	for _, b := range branches {
		parent := b.ParentID
		if !known[parent] {
			parent = ""
		}
		children[parent] = append(children[parent], b)
	}
	for _, c := range children {
		slices.SortStableFunc(c, func(x, y api.Branch) int { return x.Created.Compare(y.Created) })
	}
	var lines []treeLine
	var walk func(parent, lead string)
	walk = func(parent, lead string) {
		kids := children[parent]
		for i, b := range kids {
			knee, below := "├─ ", "│  "
			if i == len(kids)-1 {
				knee, below = "└─ ", "   "
			}
			lines = append(lines, treeLine{lead: lead + knee, branch: b, orphan: parent == "" && b.ParentID != ""})
			walk(b.ID, lead+below)
		}
	}
	walk("", "")
	return lines
}
