package main

import (
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/bough-db/bough/api"
)

// branchRestore is `bough branch restore`.
type branchRestore struct {
	*app
	from, keepAs string
	discard      bool
}

func (a *app) branchRestoreCmd() *cobra.Command {
	o := &branchRestore{app: a}
	cmd := &cobra.Command{
		Use:   "restore PROJECT/BRANCH[@POINT]",
		Short: "Take a branch back to a moment of its past, or of another branch's",
		Long: "Make a branch begin anew at a moment of its own past, or with --from of another\n" +
			"branch's. Its name, address and password stay. Its Postgres is stopped, and starts\n" +
			"with the next connection. The state before stays as a branch of its own, called\n" +
			"BRANCH-before-TIME, unless told otherwise: nothing is lost." + pointHelp,
		Example:           "  bough branch restore demo@-10m\n  bough branch restore demo/dev --from demo@before-drop --keep-as dev-old",
		Args:              wantArgs("PROJECT/BRANCH[@POINT]"),
		ValidArgsFunction: a.completeBranch(cobra.ShellCompDirectiveNoFileComp),
		RunE:              o.run,
	}
	cmd.Flags().StringVar(&o.from, "from", "", "the branch whose past it is, as PROJECT/BRANCH[@POINT]")
	cmd.Flags().StringVar(&o.keepAs, "keep-as", "", "name of the branch that keeps the state before (default: BRANCH-before-TIME)")
	cmd.Flags().BoolVar(&o.discard, "discard", false, "keep no branch with the state before")
	a.completeFrom(cmd)
	return cmd
}

// completeFrom completes the values of --from.
func (a *app) completeFrom(cmd *cobra.Command) {
	// The only error is a flag that does not exist.
	_ = cmd.RegisterFlagCompletionFunc("from", func(*cobra.Command, []string, string) ([]cobra.Completion, cobra.ShellCompDirective) {
		return a.branchNames(), cobra.ShellCompDirectiveNoFileComp
	})
}

func (o *branchRestore) run(cmd *cobra.Command, args []string) error {
	project, name, at, err := pointArg(args[0])
	if err != nil {
		return err
	}
	req := api.RestoreBranch{At: at, KeepAs: o.keepAs}
	switch {
	case o.from != "" && at != "":
		return usagef("the point goes to the branch whose past it is: write --from %s@…, and %s/%s alone", o.from, project, name)
	case o.from != "":
		var fromProject string
		if fromProject, req.From, req.At, err = pointArg(o.from); err != nil {
			return err
		}
		if fromProject != project {
			return usagef("--from %s is in another project: a branch stays in its own, %s", o.from, project)
		}
	case at == "":
		return usagef("to which moment? Write it behind the branch, as in %s/%s@-10m, or give --from; see `bough log %s/%s`", project, name, project, name)
	}
	if o.discard && o.keepAs != "" {
		return usagef("--discard and --keep-as %s contradict each other", o.keepAs)
	}
	if !o.discard && req.KeepAs == "" {
		req.KeepAs = keepName(name, o.now())
	}
	return o.restore(cmd, project, name, req)
}

// keepName is what the state before a restoration is called.
func keepName(branch string, now time.Time) string {
	const suffix = "-before-20060102-150405"
	return branch[:min(len(branch), api.NameBytesMax-len(suffix))] + now.UTC().Format(suffix)
}

// restore asks for a restoration and prints what came of it.
func (a *app) restore(cmd *cobra.Command, project, name string, req api.RestoreBranch) error {
	if req.KeepAs != "" {
		if err := api.CheckName("branch", req.KeepAs); err != nil {
			return usageError{err}
		}
	}
	start := a.now()
	p := a.progress("restoring " + project + "/" + name)
	r, err := a.client().RestoreBranch(cmd.Context(), project, name, req)
	p.end()
	if err != nil {
		return err
	}
	if a.json {
		return a.printJSON(r)
	}
	kept := ""
	if r.Kept != nil {
		kept = fmt.Sprintf("the state before is %s\n", r.Kept.Ref())
	}
	_, err = fmt.Fprintf(a.out, "restored branch %s to %s@seq:%d%s\n%sconnect with `bough psql %s`\n",
		r.Branch.Ref(), r.From, r.Seq, took(a.now().Sub(start)), kept, r.Branch.Ref())
	return err
}
