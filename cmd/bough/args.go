package main

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/bough-db/bough/api"
	"github.com/bough-db/bough/cow/point"
)

// wantArgs returns a check that the command got the named arguments; names in
// brackets are optional and come last.
func wantArgs(names ...string) cobra.PositionalArgs {
	least := 0
	for _, n := range names {
		if n[0] != '[' {
			least++
		}
	}
	return func(cmd *cobra.Command, args []string) error {
		switch {
		case len(args) < least:
			return usagef("%s needs %s: see `%s --help`", cmd.CommandPath(), names[len(args)], cmd.CommandPath())
		case len(args) > len(names):
			return usagef("%s does not take %q: see `%s --help`", cmd.CommandPath(), args[len(names)], cmd.CommandPath())
		}
		return nil
	}
}

// projectArg checks the name of a project.
func projectArg(arg string) (string, error) {
	if project, branch, ok := strings.Cut(arg, "/"); ok && api.CheckName("project", project) == nil {
		return "", usagef("a project is wanted here, not the branch %q of %s", branch, project)
	}
	if err := api.CheckName("project", arg); err != nil {
		return "", usageError{err}
	}
	return arg, nil
}

// branchArg splits and checks PROJECT/BRANCH, or PROJECT for its main branch.
func branchArg(arg string) (project, branch string, err error) {
	project, branch, err = api.ParseBranch(arg)
	if err == nil {
		return project, branch, nil
	}
	if name, _, ok := point.Split(arg); ok {
		return "", "", usagef("%q has a point, and here a branch as it is now is wanted: write %s", arg, name)
	}
	if strings.Count(arg, "/") > 1 {
		return "", "", usagef("%q has more than one '/': write PROJECT/BRANCH", arg)
	}
	return "", "", usageError{err}
}

// pointArg splits and checks PROJECT/BRANCH[@POINT]; at is "" without a point. Times
// without a zone are local.
func pointArg(arg string) (project, branch, at string, err error) {
	ref, text, ok := point.Split(arg)
	if project, branch, err = branchArg(ref); err != nil || !ok {
		return project, branch, "", err
	}
	p, err := point.Parse(text, time.Local)
	if err != nil {
		return "", "", "", usageError{err}
	}
	return project, branch, p.String(), nil
}

// readPoint checks a point that stands alone, with or without the @; "" is none.
func readPoint(text string) (at string, err error) {
	if text == "" {
		return "", nil
	}
	p, err := point.Parse(text, time.Local)
	if err != nil {
		return "", usageError{err}
	}
	return p.String(), nil
}

// pointHelp is what the help of the commands that take a point says.
const pointHelp = "\n\nA POINT is a time (@2026-11-25T10:00:00Z, local without a zone), how long ago (@-10m),\n" +
	"@seq:N, @lsn:X/Y or the name of a snapshot; `bough log` lists them. To a single\n" +
	"transaction: @xid:N, a time or an LSN with a ! behind it, or @restore:NAME for what\n" +
	"pg_create_restore_point has named; that takes a second or so."

// newBranchArg is branchArg for a branch that is being named: PROJECT alone is
// not enough, because main exists.
func newBranchArg(arg string) (project, branch string, err error) {
	project, branch, err = branchArg(arg)
	if err == nil && !strings.Contains(arg, "/") {
		return "", "", usagef("the branch has no name: write %s/NAME", project)
	}
	return project, branch, err
}

// completeFor is how long the shell waits for the daemon's names.
const completeFor = time.Second

type completion = func(*cobra.Command, []string, string) ([]cobra.Completion, cobra.ShellCompDirective)

// completeProject completes the names of projects, as the first argument.
func (a *app) completeProject(cmd *cobra.Command, args []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	ctx, cancel := context.WithTimeout(context.Background(), completeFor)
	defer cancel()
	projects, err := a.client().Projects(ctx)
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	var names []cobra.Completion
	for _, p := range projects {
		names = append(names, p.Name)
	}
	return names, cobra.ShellCompDirectiveNoFileComp
}

// completeBranch completes the names of branches, as the first argument, and
// leaves later ones to rest.
func (a *app) completeBranch(rest cobra.ShellCompDirective) completion {
	return func(cmd *cobra.Command, args []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
		if len(args) > 0 {
			return nil, rest
		}
		return a.branchNames(), cobra.ShellCompDirectiveNoFileComp
	}
}

// branchNames returns every project/branch, and the projects for their main.
func (a *app) branchNames() []cobra.Completion {
	ctx, cancel := context.WithTimeout(context.Background(), completeFor)
	defer cancel()
	branches, err := a.client().Branches(ctx, "")
	if err != nil {
		return nil
	}
	var names []cobra.Completion
	for _, b := range branches {
		names = append(names, b.Project, b.Ref())
	}
	slices.Sort(names)
	return slices.Compact(names)
}
