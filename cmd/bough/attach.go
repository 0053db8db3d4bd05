package main

import (
	"fmt"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/bough-db/bough/api"
)

// attach is `bough attach`.
type attach struct {
	*app
	takeOver takeOverFlags
}

func (a *app) attachCmd() *cobra.Command {
	o := &attach{app: a}
	cmd := &cobra.Command{
		Use:   "attach PROJECT/BRANCH[@POINT] [MOUNTPOINT]",
		Short: "Mount the file system of a branch on this host",
		Long: "Attach a branch as a block device and mount its file system. Its Postgres must be\n" +
			"suspended, and cannot start until `bough detach`.\n\n" +
			"With a point it is the file system of that moment, read-only, on a branch of its own,\n" +
			"which is deleted when it is detached, or with the daemon." + pointHelp + takeOverHelp,
		Example:           "  bough attach demo/dev /mnt\n  bough detach demo/dev\n  bough attach demo@-1d /mnt",
		Args:              wantArgs("PROJECT/BRANCH[@POINT]", "[MOUNTPOINT]"),
		ValidArgsFunction: a.completeBranch(cobra.ShellCompDirectiveFilterDirs),
		RunE:              o.run,
	}
	o.takeOver.add(cmd)
	return cmd
}

func (o *attach) run(cmd *cobra.Command, args []string) error {
	project, name, at, err := pointArg(args[0])
	if err != nil {
		return err
	}
	if at != "" && o.takeOver.TakeOver != (api.TakeOver{}) {
		return usagef("a moment of the past needs no taking over: leave out --take-over, or the point")
	}
	req := api.AttachBranch{At: at, TakeOver: o.takeOver.TakeOver}
	if len(args) > 1 {
		if args[1] == "" {
			return usagef("MOUNTPOINT is empty")
		}
		// The daemon's working directory is another one.
		if req.Mountpoint, err = filepath.Abs(args[1]); err != nil {
			return fmt.Errorf("find mount point: %w", err)
		}
	}
	p := o.progress("attaching " + project + "/" + name)
	done, err := o.client().Attach(cmd.Context(), project, name, req)
	p.end()
	if err != nil {
		return err
	}
	ref := done.Project + "/" + done.Branch
	if done.ReadOnly {
		return o.done(done, "attached %s/%s@seq:%d as %s on %s, read-only\nend it with `bough detach %s`",
			done.Project, done.Of, done.Seq, done.Device, done.Mountpoint, ref)
	}
	if !o.json {
		if err := o.tookOver(ref, done.TakenOver); err != nil {
			return err
		}
	}
	return o.done(done, "attached %s as %s on %s", ref, done.Device, done.Mountpoint)
}
