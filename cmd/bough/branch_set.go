package main

import (
	"github.com/spf13/cobra"

	"github.com/bough-db/bough/api"
)

// branchSet is `bough branch set`.
type branchSet struct {
	*app
	durability string
}

func (a *app) branchSetCmd() *cobra.Command {
	o := &branchSet{app: a}
	cmd := &cobra.Command{
		Use:   "set PROJECT/BRANCH",
		Short: "Change the settings of a branch, which may be in use",
		Long: "Change the settings of a branch; clients stay connected.\n\n" +
			"Durability local: a commit is in this host's journal before the client hears of it,\n" +
			"and survives any crash, but not the loss of the disk. Remote: it is in the store, so\n" +
			"that it survives the loss of the host, and another host can go on with it. Branches\n" +
			"that are made of the branch later begin with its durability.",
		Example:           "  bough branch set demo/main --durability remote",
		Args:              wantArgs("PROJECT/BRANCH"),
		ValidArgsFunction: a.completeBranch(cobra.ShellCompDirectiveNoFileComp),
		RunE:              o.run,
	}
	durabilityFlag(cmd, &o.durability, "what a commit waits for: local or remote")
	return cmd
}

// durabilityFlag adds --durability.
func durabilityFlag(cmd *cobra.Command, p *string, usage string) {
	cmd.Flags().StringVar(p, "durability", "", usage)
	// The only error is a flag that does not exist.
	_ = cmd.RegisterFlagCompletionFunc("durability", cobra.FixedCompletions(
		[]cobra.Completion{string(api.DurabilityLocal), string(api.DurabilityRemote)}, cobra.ShellCompDirectiveNoFileComp))
}

// durabilityArg checks the value of --durability.
func durabilityArg(text string) (api.Durability, error) {
	d := api.Durability(text)
	if api.CheckDurability(d) != nil {
		return "", usagef("--durability %q: choose local or remote", text)
	}
	return d, nil
}

func (o *branchSet) run(cmd *cobra.Command, args []string) error {
	project, name, err := branchArg(args[0])
	if err != nil {
		return err
	}
	d, err := durabilityArg(o.durability)
	if err != nil {
		return err
	}
	if d == "" {
		return usagef("nothing to set: give --durability")
	}
	p := o.progress("setting " + project + "/" + name)
	b, err := o.client().SetBranch(cmd.Context(), project, name, api.SetBranch{Durability: d})
	p.end()
	if err != nil {
		return err
	}
	return o.done(b, "durability of %s is %s", b.Ref(), b.Durability)
}
