package main

import (
	"github.com/spf13/cobra"
)

// detach is `bough detach`.
type detach struct{ *app }

func (a *app) detachCmd() *cobra.Command {
	o := &detach{app: a}
	return &cobra.Command{
		Use:               "detach PROJECT/BRANCH",
		Short:             "Unmount what attach mounted",
		Example:           "  bough detach demo/dev",
		Args:              wantArgs("PROJECT/BRANCH"),
		ValidArgsFunction: a.completeBranch(cobra.ShellCompDirectiveNoFileComp),
		RunE:              o.run,
	}
}

func (o *detach) run(cmd *cobra.Command, args []string) error {
	project, name, err := branchArg(args[0])
	if err != nil {
		return err
	}
	p := o.progress("detaching " + project + "/" + name)
	err = o.client().Detach(cmd.Context(), project, name)
	p.end()
	if err != nil {
		return err
	}
	return o.done(map[string]string{"detached": project + "/" + name}, "detached %s/%s", project, name)
}
