package main

import (
	"strconv"

	"github.com/spf13/cobra"

	"github.com/bough-db/bough/api"
)

// snapshotCmd returns the verbs about snapshots.
func (a *app) snapshotCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "snapshot",
		Aliases: []string{"snapshots"},
		Short:   "Create, list and delete snapshots",
		Long: "A snapshot is a name for a moment of a branch, which then stays however little of the\n" +
			"branch's history is kept. It is a point like any other: demo/main@NAME.",
		Example: "  bough snapshot create demo before-drop\n  bough branch create demo/dev --from demo@before-drop",
	}
	cmd.AddCommand(a.snapshotCreateCmd(), a.snapshotListCmd(), a.snapshotDeleteCmd())
	a.group(cmd)
	return cmd
}

// snapshotCreate is `bough snapshot create`.
type snapshotCreate struct{ *app }

func (a *app) snapshotCreateCmd() *cobra.Command {
	o := &snapshotCreate{app: a}
	return &cobra.Command{
		Use:   "create PROJECT/BRANCH[@POINT] NAME",
		Short: "Give a name to a moment of a branch",
		Long: "Give a name to a moment of a branch: the last one, or that of a point. The branch is\n" +
			"not paused, and it costs nothing but what the branch later overwrites." + pointHelp,
		Example:           "  bough snapshot create demo before-drop\n  bough snapshot create demo/dev@-1h good",
		Args:              wantArgs("PROJECT/BRANCH[@POINT]", "NAME"),
		ValidArgsFunction: a.completeBranch(cobra.ShellCompDirectiveNoFileComp),
		RunE:              o.run,
	}
}

func (o *snapshotCreate) run(cmd *cobra.Command, args []string) error {
	project, name, at, err := pointArg(args[0])
	if err != nil {
		return err
	}
	if err := api.CheckName("snapshot", args[1]); err != nil {
		return usageError{err}
	}
	s, err := o.client().CreateSnapshot(cmd.Context(), project, name, api.CreateSnapshot{Name: args[1], At: at})
	if err != nil {
		return err
	}
	return o.done(s, "created snapshot %s/%s@%s of @seq:%d, %s", project, name, s.Name, s.Barrier.Seq, pointTime(s.Barrier.Time))
}

// snapshotList is `bough snapshot list`.
type snapshotList struct{ *app }

func (a *app) snapshotListCmd() *cobra.Command {
	o := &snapshotList{app: a}
	return &cobra.Command{
		Use:               "list PROJECT/BRANCH",
		Aliases:           []string{"ls"},
		Short:             "List the snapshots of a branch",
		Example:           "  bough snapshot list demo",
		Args:              wantArgs("PROJECT/BRANCH"),
		ValidArgsFunction: a.completeBranch(cobra.ShellCompDirectiveNoFileComp),
		RunE:              o.run,
	}
}

func (o *snapshotList) run(cmd *cobra.Command, args []string) error {
	project, name, err := branchArg(args[0])
	if err != nil {
		return err
	}
	all, err := o.client().Snapshots(cmd.Context(), project, name)
	if err != nil {
		return err
	}
	if o.json {
		return o.printJSON(api.SnapshotList{Snapshots: all})
	}
	if len(all) == 0 {
		return o.done(nil, "no snapshots: create one with `bough snapshot create %s/%s NAME`", project, name)
	}
	t := &table{header: []string{"SNAPSHOT", "SEQ", "TIME", "LSN", "CREATED"}}
	for _, s := range all {
		t.add(s.Name, strconv.FormatUint(s.Barrier.Seq, 10), pointTime(s.Barrier.Time), orDash(s.Barrier.LSN), o.ago(s.Created))
	}
	return t.write(o.styled(), "")
}

// snapshotDelete is `bough snapshot delete`.
type snapshotDelete struct{ *app }

func (a *app) snapshotDeleteCmd() *cobra.Command {
	o := &snapshotDelete{app: a}
	return &cobra.Command{
		Use:     "delete PROJECT/BRANCH NAME",
		Aliases: []string{"rm"},
		Short:   "Delete a snapshot; what was made from it stays",
		Long: "Take the name from a moment of a branch. The moment itself stays for as long as the\n" +
			"branch's history keeps it.",
		Example:           "  bough snapshot delete demo before-drop",
		Args:              wantArgs("PROJECT/BRANCH", "NAME"),
		ValidArgsFunction: a.completeBranch(cobra.ShellCompDirectiveNoFileComp),
		RunE:              o.run,
	}
}

func (o *snapshotDelete) run(cmd *cobra.Command, args []string) error {
	project, name, err := branchArg(args[0])
	if err != nil {
		return err
	}
	if err := api.CheckName("snapshot", args[1]); err != nil {
		return usageError{err}
	}
	if err := o.client().DeleteSnapshot(cmd.Context(), project, name, args[1]); err != nil {
		return err
	}
	ref := project + "/" + name + "@" + args[1]
	return o.done(map[string]string{"deleted": ref}, "deleted snapshot %s", ref)
}
