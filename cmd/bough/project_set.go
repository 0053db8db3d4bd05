package main

import (
	"cmp"

	"github.com/spf13/cobra"

	"github.com/bough-db/bough/api"
)

// projectSet is `bough project set`.
type projectSet struct {
	*app
	history string
}

func (a *app) projectSetCmd() *cobra.Command {
	o := &projectSet{app: a}
	cmd := &cobra.Command{
		Use:               "set PROJECT",
		Short:             "Change the settings of a project",
		Long:              "Change the settings of a project.\n\n" + historyHelp,
		Example:           "  bough project set demo --history 30d\n  bough project set demo --history 'every barrier for 24h, one a minute for 7d, one an hour for 30d'",
		Args:              wantArgs("PROJECT"),
		ValidArgsFunction: a.completeProject,
		RunE:              o.run,
	}
	historyFlag(cmd, &o.history, "which moments of its branches are kept, or default")
	return cmd
}

const historyHelp = "Its history says which moments of the past are kept: all of them up to an age, then one\n" +
	"of each interval. An age alone, such as 7d, keeps every one for 24 hours and one a minute\n" +
	"up to that age; none keeps nothing; default is what stands above: the project's, then the\n" +
	"daemon's. Snapshots, and where branches begin, stay in any case."

// historyDefault takes a history of one's own away.
const historyDefault = "default"

// historyFlag adds --history.
func historyFlag(cmd *cobra.Command, p *string, usage string) {
	cmd.Flags().StringVar(p, "history", "", usage)
	// The only error is a flag that does not exist.
	_ = cmd.RegisterFlagCompletionFunc("history", cobra.FixedCompletions(
		[]cobra.Completion{"7d", "30d", "none", historyDefault}, cobra.ShellCompDirectiveNoFileComp))
}

// historyArg checks the value of --history; nil is none.
func historyArg(text string) (*string, error) {
	switch text {
	case "":
		return nil, nil
	case historyDefault:
		return new(string), nil
	}
	if _, err := historyOf(text); err != nil {
		return nil, usagef("--history: %w", err)
	}
	return &text, nil
}

func (o *projectSet) run(cmd *cobra.Command, args []string) error {
	name, err := projectArg(args[0])
	if err != nil {
		return err
	}
	var req api.SetProject
	if req.History, err = historyArg(o.history); err != nil {
		return err
	}
	if req == (api.SetProject{}) {
		return usagef("nothing to set: give --history")
	}
	p, err := o.client().SetProject(cmd.Context(), name, req)
	if err != nil {
		return err
	}
	return o.done(p, "history of %s is %s", p.Name, cmp.Or(p.History, "the daemon's"))
}
