package main

import (
	"bufio"
	"fmt"
	"strings"

	"github.com/spf13/cobra"
)

// projectDelete is `bough project delete`.
type projectDelete struct {
	*app
	yes bool
}

func (a *app) projectDeleteCmd() *cobra.Command {
	o := &projectDelete{app: a}
	cmd := &cobra.Command{
		Use:     "delete PROJECT",
		Aliases: []string{"rm"},
		Short:   "Delete a project with all its branches",
		Long: "Delete a project with all its branches. Postgres servers that run on them are\n" +
			"stopped. On a terminal it asks first.",
		Example:           "  bough project delete demo\n  bough project delete demo --yes",
		Args:              wantArgs("PROJECT"),
		ValidArgsFunction: a.completeProject,
		RunE:              o.run,
	}
	cmd.Flags().BoolVarP(&o.yes, "yes", "y", false, "do not ask")
	return cmd
}

func (o *projectDelete) run(cmd *cobra.Command, args []string) error {
	name, err := projectArg(args[0])
	if err != nil {
		return err
	}
	c := o.client()
	if !o.yes && terminal(o.in) && terminal(o.err) {
		d, err := c.Project(cmd.Context(), name)
		if err != nil {
			return err
		}
		fmt.Fprintf(o.err, "delete project %s with %d branches and all their data? [y/N] ", name, len(d.Branches))
		answer, _ := bufio.NewReader(o.in).ReadString('\n') // no answer is a no
		if a := strings.ToLower(strings.TrimSpace(answer)); a != "y" && a != "yes" {
			return fmt.Errorf("project %s is left as it was", name)
		}
	}
	p := o.progress("deleting project " + name)
	err = c.DeleteProject(cmd.Context(), name)
	p.end()
	if err != nil {
		return err
	}
	return o.done(map[string]string{"deleted": name}, "deleted project %s", name)
}

// done prints that a change was made: v as JSON, or the line.
func (a *app) done(v any, format string, args ...any) error {
	if a.json {
		return a.printJSON(v)
	}
	_, err := fmt.Fprintf(a.out, format+"\n", args...)
	return err
}
