package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/bough-db/bough/api"
)

// takeOverFlags are the words that say that a branch may be taken from another host.
type takeOverFlags struct{ api.TakeOver }

func (f *takeOverFlags) add(cmd *cobra.Command) {
	cmd.Flags().BoolVar(&f.Force, "take-over", false, "take the branch from a host that answers, or that cannot be asked")
	cmd.Flags().BoolVar(&f.AcceptLoss, "accept-loss", false, "take it although commits which only that host has are lost")
}

// takeOverHelp is what the help of the commands with these flags says.
const takeOverHelp = "\n\nWhere several hosts share a store, a branch that another one has in use is left to\n" +
	"it. If that host does not answer, the branch is taken over when its durability is\n" +
	"remote, since the store has every commit; when it is local, only with --accept-loss."

// tookOver prints from whom a branch was taken, if it was.
func (a *app) tookOver(ref string, t *api.TakenOver) error {
	if t == nil {
		return nil
	}
	what := "complete: its durability is remote"
	if !t.Complete {
		what = "commits that only that host had are lost"
	}
	_, err := fmt.Fprintf(a.out, "took %s over from host %s, up to barrier %d of %s; %s\n", ref, t.Host, t.Seq, stamp(t.Time), what)
	return err
}
