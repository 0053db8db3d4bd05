package main

import "github.com/spf13/cobra"

// projectCmd returns the verbs about projects.
func (a *app) projectCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "project",
		Aliases: []string{"projects"},
		Short:   "Create, list, show, set and delete projects",
		Long:    "A project is a database with all its branches; its first branch is main.",
		Example: "  bough project create demo",
	}
	cmd.AddCommand(a.projectCreateCmd(), a.projectListCmd(), a.projectShowCmd(), a.projectSetCmd(), a.projectDeleteCmd())
	a.group(cmd)
	return cmd
}
