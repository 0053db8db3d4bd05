package main

import (
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/bough-db/bough/api"
)

// branchCreate is `bough branch create`.
type branchCreate struct {
	*app
	from       string
	durability string
}

func (a *app) branchCreateCmd() *cobra.Command {
	o := &branchCreate{app: a}
	cmd := &cobra.Command{
		Use:   "create PROJECT/BRANCH",
		Short: "Create a branch",
		Long: "Create a branch of another one, as that is at this moment, or was at another. The\n" +
			"parent is not paused. Without a point every transaction that it acknowledged before\n" +
			"is in the branch." + pointHelp,
		Example:           "  bough branch create demo/dev\n  bough branch create demo/feature --from demo/dev\n  bough branch create demo/yesterday --from demo@-1d",
		Args:              wantArgs("PROJECT/BRANCH"),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE:              o.run,
	}
	cmd.Flags().StringVar(&o.from, "from", "", "the parent, as PROJECT/BRANCH[@POINT] (default: the project's main)")
	a.completeFrom(cmd)
	durabilityFlag(cmd, &o.durability, "what a commit waits for: local or remote (default: the parent's)")
	return cmd
}

func (o *branchCreate) run(cmd *cobra.Command, args []string) error {
	project, name, err := newBranchArg(args[0])
	if err != nil {
		return err
	}
	req := api.CreateBranch{Name: name}
	if o.from != "" {
		fromProject, from, at, err := pointArg(o.from)
		if err != nil {
			return err
		}
		if fromProject != project {
			return usagef("--from %s is in another project: a branch stays in the project of its parent, %s", o.from, fromProject)
		}
		req.From, req.At = from, at
	}
	if req.Durability, err = durabilityArg(o.durability); err != nil {
		return err
	}
	start := o.now()
	p := o.progress("creating branch " + args[0])
	created, err := o.client().CreateBranch(cmd.Context(), project, req)
	p.end()
	if err != nil {
		return err
	}
	if o.json {
		return o.printJSON(created)
	}
	b := created.Branch
	_, err = fmt.Fprintf(o.out, "created branch %s from %s@seq:%d%s\n%sconnect with `bough psql %s`\n",
		b.Ref(), b.Parent, b.ForkSeq, took(o.now().Sub(start)), forkLine(created.Fork), b.Ref())
	return err
}

// forkLine says what a branch begins with if another host has its parent attached.
func forkLine(f *api.Fork) string {
	switch {
	case f == nil:
		return ""
	case f.Published:
		return fmt.Sprintf("its parent is attached by host %s, which has stored its last barrier for it\n", f.Host)
	default:
		when := ""
		if !f.Time.IsZero() {
			when = ", of " + stamp(f.Time)
		}
		return fmt.Sprintf("its parent is attached by host %s: %s; this is the last barrier that the store has%s\n", f.Host, f.Why, when)
	}
}

// took renders how long something took, unless that is nothing.
func took(d time.Duration) string {
	switch {
	case d <= 0:
		return ""
	case d < time.Second:
		return fmt.Sprintf(" in %.1f ms", float64(d)/float64(time.Millisecond))
	default:
		return fmt.Sprintf(" in %.2f s", d.Seconds())
	}
}
