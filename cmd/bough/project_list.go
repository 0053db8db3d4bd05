package main

import (
	"fmt"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/bough-db/bough/api"
)

// projectList is `bough project list`.
type projectList struct{ *app }

func (a *app) projectListCmd() *cobra.Command {
	o := &projectList{app: a}
	return &cobra.Command{
		Use:               "list",
		Aliases:           []string{"ls"},
		Short:             "List the projects",
		Example:           "  bough project list\n  bough project list --json | jq -r '.projects[].name'",
		Args:              wantArgs(),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE:              o.run,
	}
}

func (o *projectList) run(cmd *cobra.Command, _ []string) error {
	projects, err := o.client().Projects(cmd.Context())
	if err != nil {
		return err
	}
	if o.json {
		return o.printJSON(api.ProjectList{Projects: projects})
	}
	if len(projects) == 0 {
		_, err := fmt.Fprintln(o.out, "no projects: create one with `bough project create NAME`")
		return err
	}
	t := table{header: []string{"PROJECT", "POSTGRES", "BRANCHES", "SIZE", "CREATED"}}
	for _, p := range projects {
		if p.Error != "" {
			t.add(p.Name, "-", strconv.Itoa(p.Branches), "-", alarm(oneLine(p.Error)))
			continue
		}
		t.add(p.Name, pgVersion(p.PGVersion), strconv.Itoa(p.Branches), size(p.SizeBytes), o.ago(p.Created))
	}
	return t.write(o.styled(), "")
}

// pgVersion renders a major version, which an older daemon may not know.
func pgVersion(v int) string {
	if v == 0 {
		return "-"
	}
	return strconv.Itoa(v)
}
