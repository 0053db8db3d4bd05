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
		Use:   "attach PROJECT/BRANCH [MOUNTPOINT]",
		Short: "Mount the file system of a branch on this host",
		Long: "Attach a branch as a block device and mount its file system. Its Postgres must be\n" +
			"suspended, and cannot start until `bough detach`." + takeOverHelp,
		Example:           "  bough attach demo/dev /mnt\n  bough detach demo/dev",
		Args:              wantArgs("PROJECT/BRANCH", "[MOUNTPOINT]"),
		ValidArgsFunction: a.completeBranch(cobra.ShellCompDirectiveFilterDirs),
		RunE:              o.run,
	}
	o.takeOver.add(cmd)
	return cmd
}

func (o *attach) run(cmd *cobra.Command, args []string) error {
	project, name, err := branchArg(args[0])
	if err != nil {
		return err
	}
	req := api.AttachBranch{TakeOver: o.takeOver.TakeOver}
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
	at, err := o.client().Attach(cmd.Context(), project, name, req)
	p.end()
	if err != nil {
		return err
	}
	if !o.json {
		if err := o.tookOver(at.Project+"/"+at.Branch, at.TakenOver); err != nil {
			return err
		}
	}
	return o.done(at, "attached %s/%s as %s on %s", at.Project, at.Branch, at.Device, at.Mountpoint)
}
