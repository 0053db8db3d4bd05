package main

import "github.com/spf13/cobra"

func (a *app) storeCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "store",
		Short:   "Try out object stores",
		Example: "  bough store check s3://bucket/prefix",
	}
	cmd.AddCommand(a.storeCheckCmd())
	a.group(cmd)
	return cmd
}
