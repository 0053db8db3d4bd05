package main

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"

	"github.com/dustin/go-humanize/english"
	"github.com/spf13/cobra"

	"github.com/bough-db/bough/api"
)

// verify is `bough verify`.
type verify struct {
	*app
	quick, deep, bootIt bool
	store               string
}

func (a *app) verifyCmd() *cobra.Command {
	o := &verify{app: a}
	cmd := &cobra.Command{
		Use:   "verify [PROJECT[/BRANCH[@POINT]]]",
		Short: "Check that everything stored is whole",
		Long: "Read everything that a branch, a project or the whole store can reach and check\n" +
			"it against its checksums. With problems it exits with 1 and names each one.\n\n" +
			"With --store it needs no daemon, changes nothing, and checks what the store has: what a\n" +
			"host has not stored yet is not looked at.\n\n" +
			"With --boot it starts a branch of that moment, for this only, has pg_amcheck look at\n" +
			"every table and index and pg_checksums at every page, and says what they found.",
		Example: "  bough verify\n  bough verify demo/dev\n  bough verify --store 's3://bucket/prefix?region=eu-central-1'\n" +
			"  bough verify --boot demo@-1d",
		Args:              wantArgs("[PROJECT[/BRANCH[@POINT]]]"),
		ValidArgsFunction: a.completeBranch(cobra.ShellCompDirectiveNoFileComp),
		RunE:              o.run,
	}
	cmd.Flags().StringVar(&o.store, "store", "", "check this store, a directory or s3:// URL, without a daemon")
	cmd.Flags().BoolVar(&o.bootIt, "boot", false, "start a branch of it and have Postgres's own tools check that")
	cmd.Flags().BoolVar(&o.quick, "quick", false, "do not read the data itself, only what describes it")
	cmd.Flags().BoolVar(&o.deep, "deep", true, "read the data itself, too")
	return cmd
}

func (o *verify) run(cmd *cobra.Command, args []string) error {
	if o.quick && o.deep && cmd.Flags().Changed("deep") {
		return usagef("--quick and --deep contradict each other")
	}
	o.quick = o.quick || !o.deep
	if o.bootIt {
		if len(args) == 0 || o.quick || o.store != "" {
			return usagef("--boot wants a branch, and neither --quick nor --store: `bough verify --boot PROJECT/BRANCH[@POINT]`")
		}
		return o.boot(cmd, args[0])
	}
	scope := api.VerifyScope{Quick: o.quick}
	if len(args) > 0 {
		project, branch, err := branchArg(args[0])
		if err != nil {
			return err
		}
		scope.Project = project
		if strings.Contains(args[0], "/") {
			scope.Branch = branch
		}
	}
	enc := json.NewEncoder(o.out)
	p := o.progress("checking")
	var problems []api.VerifyProblem
	var orphans []api.VerifyOrphan
	check := o.client().Verify
	if o.store != "" {
		check = o.checkStore
	}
	result, err := check(cmd.Context(), scope, func(ev api.VerifyEvent) {
		if o.json {
			_ = enc.Encode(ev) // an output that is gone is noticed at the end
		}
		if ev.Progress != nil {
			p.set(fmt.Sprintf("checking %s/%s, %d of %d", ev.Progress.Project, ev.Progress.Branch, ev.Progress.Done+1, ev.Progress.Total))
		}
		if ev.Problem != nil {
			problems = append(problems, *ev.Problem)
		}
		if ev.Orphan != nil && len(orphans) < orphansShown {
			orphans = append(orphans, *ev.Orphan)
		}
	})
	p.end()
	if err != nil {
		return err
	}
	return o.print(result, problems, orphans)
}

// printProblem writes what is wrong, and below it for whom.
func printProblem(w io.Writer, p api.VerifyProblem) error {
	line := alarm(oneLine(p.Detail))
	if p.Object != "" {
		line = p.Object + ": " + line
	}
	for _, a := range p.Affected {
		line += "\n  affects " + a.Project + "/" + a.Branch
		if a.Blocks > 0 {
			line += ": " + english.Plural(int(a.Blocks), "block", "")
		}
	}
	_, err := fmt.Fprintln(w, line)
	return err
}

// orphansShown is how many orphans are named at most.
const orphansShown = 20

// printOrphans writes what nothing needs.
func printOrphans(w io.Writer, r api.VerifyResult, orphans []api.VerifyOrphan) error {
	for _, one := range orphans {
		if _, err := fmt.Fprintf(w, "orphan %s, %s: %s\n", one.Object, size(one.Bytes), one.Detail); err != nil {
			return err
		}
	}
	if r.Orphans == 0 {
		return nil
	}
	more := ""
	if n := r.Orphans - len(orphans); n > 0 {
		more = fmt.Sprintf(", %d of them not named here", n)
	}
	_, err := fmt.Fprintf(w, "%s, %s, that nothing needs%s: collections delete them in their time\n",
		english.Plural(r.Orphans, "orphan", ""), size(r.OrphanBytes), more)
	return err
}

func (o *verify) print(r api.VerifyResult, problems []api.VerifyProblem, orphans []api.VerifyOrphan) error {
	if o.json {
		if err := json.NewEncoder(o.out).Encode(api.VerifyEvent{Result: &r}); err != nil {
			return err
		}
	} else {
		w := o.styled()
		for _, p := range problems {
			if err := printProblem(w, p); err != nil {
				return err
			}
		}
		if err := printOrphans(w, r, orphans); err != nil {
			return err
		}
		whole := ""
		if r.Problems == 0 {
			whole = ", all whole"
		}
		if _, err := fmt.Fprintf(w, "checked %s: %s, %s, %s read%s\n", english.Plural(r.Branches, "branch", "branches"),
			english.Plural(r.Segments, "segment", ""), english.Plural(int(r.Blocks), "block", ""), size(r.Bytes), whole); err != nil {
			return err
		}
	}
	if r.Problems > 0 {
		return api.Errorf(api.CodeCorrupt, "%s found", english.Plural(r.Problems, "problem", "")).
			WithHint("what is named above cannot be read as it was written")
	}
	return nil
}
