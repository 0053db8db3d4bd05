package main

import (
	"github.com/spf13/cobra"
)

// suspend is `bough suspend`.
type suspend struct{ *app }

func (a *app) suspendCmd() *cobra.Command {
	o := &suspend{app: a}
	return &cobra.Command{
		Use:   "suspend PROJECT/BRANCH",
		Short: "Stop the Postgres of a branch until the next connection",
		Long: "Stop the Postgres of a branch, unmount and detach its device, and bring what was\n" +
			"written into the store. Clients are disconnected; the next connection starts it.",
		Example:           "  bough suspend demo/dev",
		Args:              wantArgs("PROJECT/BRANCH"),
		ValidArgsFunction: a.completeBranch(cobra.ShellCompDirectiveNoFileComp),
		RunE:              o.run,
	}
}

func (o *suspend) run(cmd *cobra.Command, args []string) error {
	project, name, err := branchArg(args[0])
	if err != nil {
		return err
	}
	began := o.now()
	p := o.progress("suspending " + project + "/" + name)
	b, err := o.client().Suspend(cmd.Context(), project, name)
	p.end()
	if err != nil {
		return err
	}
	return o.done(b, "%s is suspended%s", b.Ref(), took(o.now().Sub(began)))
}
