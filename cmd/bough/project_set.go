package main

import (
	"cmp"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/bough-db/bough/api"
)

// projectSet is `bough project set`.
type projectSet struct {
	*app
	history historySetting
}

// historySetting is --history and --resolution.
type historySetting struct{ history, resolution string }

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
	o.history.flags(cmd, "which moments of its branches are kept, or default")
	return cmd
}

const historyHelp = "Its history says which moments of the past are kept: all of them up to an age, then one\n" +
	"of each interval. An age alone, such as 7d, keeps every one for 24 hours and one a minute\n" +
	"up to that age; none keeps nothing; default is what stands above: the project's, then the\n" +
	"daemon's. Snapshots, and where branches begin, stay in any case."

// historyDefault takes a history of one's own away.
const historyDefault = "default"

// flags adds --history and --resolution.
func (h *historySetting) flags(cmd *cobra.Command, usage string) {
	cmd.Flags().StringVar(&h.history, "history", "", usage)
	cmd.Flags().StringVar(&h.resolution, "resolution", "", "keep one moment of each interval only, such as 1m, of a --history that is an age")
	// The only error is a flag that does not exist.
	_ = cmd.RegisterFlagCompletionFunc("history", cobra.FixedCompletions(
		[]cobra.Completion{"7d", "30d", "none", historyDefault}, cobra.ShellCompDirectiveNoFileComp))
}

// arg checks the values of the flags; nil is none.
func (h *historySetting) arg() (*string, error) {
	text := h.history
	if h.resolution != "" {
		if text == "" {
			text = "7d"
		}
		text = fmt.Sprintf("one every %s for %s", h.resolution, text)
		if _, err := historyOf(text); err != nil {
			return nil, usagef("--resolution %q: give an interval, such as 1m, and with --history an age, such as 7d", h.resolution)
		}
		return &text, nil
	}
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
	if req.History, err = o.history.arg(); err != nil {
		return err
	}
	if req == (api.SetProject{}) {
		return usagef("nothing to set: give --history or --resolution")
	}
	p, err := o.client().SetProject(cmd.Context(), name, req)
	if err != nil {
		return err
	}
	return o.done(p, "history of %s is %s", p.Name, cmp.Or(p.History, "the daemon's"))
}
