package main

import (
	"github.com/spf13/cobra"

	"github.com/bough-db/bough/api"
)

// start is `bough start`.
type start struct {
	*app
	takeOver takeOverFlags
}

func (a *app) startCmd() *cobra.Command {
	o := &start{app: a}
	cmd := &cobra.Command{
		Use:   "start PROJECT/BRANCH",
		Short: "Start the Postgres of a branch",
		Long: "Start the Postgres of a branch and wait until it accepts connections. This is not\n" +
			"needed to connect: the first connection starts it as well." + takeOverHelp,
		Example:           "  bough start demo/dev\n  bough start demo/dev --accept-loss",
		Args:              wantArgs("PROJECT/BRANCH"),
		ValidArgsFunction: a.completeBranch(cobra.ShellCompDirectiveNoFileComp),
		RunE:              o.run,
	}
	o.takeOver.add(cmd)
	return cmd
}

func (o *start) run(cmd *cobra.Command, args []string) error {
	project, name, err := branchArg(args[0])
	if err != nil {
		return err
	}
	began := o.now()
	p := o.progress("starting " + project + "/" + name)
	b, err := o.client().Start(cmd.Context(), project, name, api.StartBranch{TakeOver: o.takeOver.TakeOver})
	p.end()
	if err != nil {
		return err
	}
	if !o.json {
		if err := o.tookOver(b.Ref(), b.TakenOver); err != nil {
			return err
		}
	}
	return o.done(b, "%s is running%s", b.Ref(), took(o.now().Sub(began)))
}
