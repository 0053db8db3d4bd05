package main

import (
	"strings"

	"github.com/spf13/cobra"
)

// completionVerb is `bough completion`.
type completionVerb struct{ *app }

// completionCmd replaces cobra's own, whose mistakes do not exit with 2.
func (a *app) completionCmd() *cobra.Command {
	o := &completionVerb{app: a}
	shells := []string{"bash", "zsh", "fish", "powershell"}
	return &cobra.Command{
		Use:       "completion " + strings.Join(shells, "|"),
		Short:     "Print the script that completes commands and names in a shell",
		Example:   "  source <(bough completion bash)\n  bough completion fish > ~/.config/fish/completions/bough.fish",
		Args:      wantArgs("a shell"),
		ValidArgs: shells,
		RunE:      o.run,
	}
}

func (o *completionVerb) run(cmd *cobra.Command, args []string) error {
	root := cmd.Root()
	switch args[0] {
	case "bash":
		return root.GenBashCompletionV2(o.out, true)
	case "zsh":
		return root.GenZshCompletion(o.out)
	case "fish":
		return root.GenFishCompletion(o.out, true)
	case "powershell":
		return root.GenPowerShellCompletionWithDesc(o.out)
	default:
		return usagef("unknown shell %q: choose bash, zsh, fish or powershell", args[0])
	}
}
