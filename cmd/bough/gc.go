package main

import (
	"fmt"
	"io"

	"github.com/dustin/go-humanize/english"
	"github.com/spf13/cobra"

	"github.com/bough-db/bough/api"
)

// gc is `bough gc`.
type gc struct {
	*app
	dryRun bool
}

func (a *app) gcCmd() *cobra.Command {
	o := &gc{app: a}
	cmd := &cobra.Command{
		Use:   "gc",
		Short: "Remove from the store what nothing can reach any more",
		Long: "Remove from the store what no branch, snapshot or kept moment can reach: moments that\n" +
			"the history of their branch does not keep, and branches that were deleted a day ago.\n" +
			"The daemon does that by itself, in the background, some minutes after something has\n" +
			"changed; this does at once all that is worth it. Objects in whose place it puts others\n" +
			"are deleted some minutes later, by the daemon, since others may be reading them.\n\n" +
			"It may be interrupted at any time, and run while branches are in use.",
		Example:           "  bough gc --dry-run\n  bough gc",
		Args:              wantArgs(),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE:              o.run,
	}
	cmd.Flags().BoolVar(&o.dryRun, "dry-run", false, "change nothing, and say what would be done")
	return cmd
}

func (o *gc) run(cmd *cobra.Command, _ []string) error {
	p := o.progress("collecting")
	r, err := o.client().Collect(cmd.Context(), api.Collect{DryRun: o.dryRun})
	p.end()
	if err != nil {
		return err
	}
	if o.json {
		return o.printJSON(r)
	}
	return o.print(o.styled(), r)
}

func (o *gc) print(w io.Writer, r api.Collected) error {
	verb := "wrote"
	if o.dryRun {
		verb = "would write"
	}
	lines := []string{"looked at " + english.Plural(r.Branches, "log", "")}
	if r.Packs > 0 {
		wrote := fmt.Sprintf("%s %s", verb, english.Plural(r.Packs, "pack", ""))
		if !o.dryRun {
			wrote += " of " + size(r.WrittenBytes)
		}
		lines = append(lines, fmt.Sprintf("%s for %s, which frees %s", wrote, english.Plural(r.Replaced, "object", ""), size(r.FreeableBytes)))
	}
	if r.Deleted > 0 || r.Purged > 0 {
		lines = append(lines, fmt.Sprintf("deleted %s of %s, %s for good",
			english.Plural(r.Deleted, "object", ""), size(r.FreedBytes), english.Plural(r.Purged, "deleted branch", "deleted branches")))
	}
	if r.Waiting > 0 {
		lines = append(lines, english.Plural(r.Waiting, "object waits", "objects wait")+" for their time of grace to be over")
	}
	if r.Packs == 0 && r.Deleted == 0 && r.Waiting == 0 && r.Purged == 0 {
		lines = append(lines, "nothing is worth collecting")
	}
	if p := r.Pressure; p != nil {
		lines = append(lines, alarm(pressureText(p)))
	}
	for _, p := range r.Problems {
		lines = append(lines, alarm(fmt.Sprintf("%s was left alone: %s", p.Branch, oneLine(p.Detail))))
	}
	for _, l := range lines {
		if _, err := fmt.Fprintln(w, l); err != nil {
			return err
		}
	}
	return nil
}

// pressureText says what too much history means.
func pressureText(p *api.Pressure) string {
	return fmt.Sprintf("history takes %s, and may take %s: nothing before %s is kept", size(p.Bytes), size(p.BytesMax), stamp(p.Since))
}
