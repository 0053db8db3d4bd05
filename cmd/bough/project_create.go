package main

import (
	"fmt"

	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"

	"github.com/bough-db/bough/api"
)

// projectCreate is `bough project create`.
type projectCreate struct {
	*app
	pgVersion  int
	size       string
	durability string
}

func (a *app) projectCreateCmd() *cobra.Command {
	o := &projectCreate{app: a}
	cmd := &cobra.Command{
		Use:               "create NAME",
		Short:             "Create a project with an empty database",
		Example:           "  bough project create demo\n  bough project create demo --pg-version 16 --size 1TiB",
		Args:              wantArgs("NAME"),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE:              o.run,
	}
	cmd.Flags().IntVar(&o.pgVersion, "pg-version", 0, "major version of Postgres (default: the newest installed)")
	cmd.Flags().StringVar(&o.size, "size", "", "size of the device, thin (default: 256GiB)")
	durabilityFlag(cmd, &o.durability, "what a commit waits for: local or remote (default: local)")
	return cmd
}

func (o *projectCreate) run(cmd *cobra.Command, args []string) error {
	name, err := projectArg(args[0])
	if err != nil {
		return err
	}
	req := api.CreateProject{Name: name, PGVersion: o.pgVersion}
	if req.SizeBytes, err = parseSize("--size", o.size); err != nil {
		return err
	}
	if req.Durability, err = durabilityArg(o.durability); err != nil {
		return err
	}
	p := o.progress("creating project " + name)
	created, err := o.client().CreateProject(cmd.Context(), req)
	p.end()
	if err != nil {
		return err
	}
	if o.json {
		return o.printJSON(created)
	}
	_, err = fmt.Fprintf(o.out, "created project %s on Postgres %d\nconnect with `bough psql %s`, or to what `bough url %s` prints\n",
		name, created.Project.PGVersion, name, name)
	return err
}

// parseSize reads a size such as 1GiB for a flag; "" is 0. Devices are made of
// 4 KiB blocks, so a size is rounded up to one.
func parseSize(flag, text string) (int64, error) {
	if text == "" {
		return 0, nil
	}
	n, err := humanize.ParseBytes(text)
	if err != nil || n > 1<<60 {
		return 0, usagef("%s %q is not a size: write a number and a unit, such as 64MiB or 1TiB", flag, text)
	}
	return int64(n+4095) &^ 4095, nil
}
