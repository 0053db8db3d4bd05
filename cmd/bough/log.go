package main

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/bough-db/bough/api"
	"github.com/bough-db/bough/cow/point"
)

// history is `bough log`.
type history struct {
	*app
	since         string
	before, after uint64
	limit         int
	reverse       bool
}

func (a *app) logCmd() *cobra.Command {
	o := &history{app: a}
	cmd := &cobra.Command{
		Use:   "log PROJECT/BRANCH",
		Short: "List the moments of a branch's past that can be opened",
		Long: "List the barriers of a branch, the newest first: those of its own, and before it was\n" +
			"made, its parent's. Each is a moment that can be branched from, looked at, or gone\n" +
			"back to: with its number as @seq:N, with its time as @TIME, with its LSN as @lsn:X/Y.\n" +
			"A barrier is what Postgres has waited for when it says that a transaction is\n" +
			"committed; some are made for other reasons.",
		Example:           "  bough log demo\n  bough log demo/dev --since 1h\n  bough log demo --since 2026-11-25T10:00:00Z --reverse --limit 10",
		Args:              wantArgs("PROJECT/BRANCH"),
		ValidArgsFunction: a.completeBranch(cobra.ShellCompDirectiveNoFileComp),
		RunE:              o.run,
	}
	f := cmd.Flags()
	f.StringVar(&o.since, "since", "", "leave out what is before a time, or longer ago than, such as 1h")
	f.Uint64Var(&o.before, "before", 0, "leave out the barrier of that number and later ones")
	f.Uint64Var(&o.after, "after", 0, "leave out the barrier of that number and earlier ones")
	f.IntVar(&o.limit, "limit", 25, "how many to list at most")
	f.BoolVar(&o.reverse, "reverse", false, "the oldest first")
	return cmd
}

func (o *history) run(cmd *cobra.Command, args []string) error {
	project, name, err := branchArg(args[0])
	if err != nil {
		return err
	}
	if o.limit < 1 || o.limit > api.LogMax {
		return usagef("--limit %d: give 1 to %d", o.limit, api.LogMax)
	}
	q := api.LogQuery{Before: o.before, After: o.after, OldestFirst: o.reverse, Limit: o.limit}
	if q.Since, err = o.sinceArg(); err != nil {
		return err
	}
	page, err := o.client().Log(cmd.Context(), project, name, q)
	if err != nil {
		return err
	}
	if o.json {
		return o.printJSON(page)
	}
	if len(page.Barriers) == 0 {
		_, err := fmt.Fprintln(o.out, "no barriers")
		return err
	}
	if err := barrierTable(page.Barriers).write(o.styled(), ""); err != nil || !page.More {
		return err
	}
	_, err = fmt.Fprintf(o.out, "more: %s\n", o.next(project+"/"+name, page.Barriers[len(page.Barriers)-1].Seq))
	return err
}

// sinceArg reads --since: a time, or how long ago.
func (o *history) sinceArg() (time.Time, error) {
	text := strings.TrimPrefix(o.since, "@")
	if text == "" {
		return time.Time{}, nil
	}
	if c := text[0]; c >= '0' && c <= '9' && !strings.Contains(text, ":") {
		text = "-" + text
	}
	p, err := point.Parse(text, time.Local)
	if err == nil {
		p = p.Settle(o.now())
	}
	if err != nil || p.Kind != point.Time || p.ToTransaction {
		return time.Time{}, usagef("--since %q: give a time, such as 2026-11-25T10:00:00Z, or how long ago, such as 1h30m", o.since)
	}
	return p.At, nil
}

// next is the command that lists what follows a page.
func (o *history) next(ref string, last uint64) string {
	var b strings.Builder
	fmt.Fprintf(&b, "bough log %s", ref)
	if o.reverse {
		fmt.Fprintf(&b, " --reverse --after %d", last)
		if o.before > 0 {
			fmt.Fprintf(&b, " --before %d", o.before)
		}
	} else {
		fmt.Fprintf(&b, " --before %d", last)
		if o.after > 0 {
			fmt.Fprintf(&b, " --after %d", o.after)
		}
		if o.since != "" {
			fmt.Fprintf(&b, " --since %s", o.since)
		}
	}
	if o.limit != 25 {
		fmt.Fprintf(&b, " --limit %d", o.limit)
	}
	return b.String()
}

// barrierTable lists barriers.
func barrierTable(all []api.Barrier) *table {
	several := slices.ContainsFunc(all, func(b api.Barrier) bool { return b.Timeline != all[0].Timeline })
	t := &table{header: []string{"SEQ", "TIME", "LSN", "WRITTEN"}}
	if several {
		t.header = append(t.header, "TIMELINE")
	}
	for _, b := range all {
		cells := []string{strconv.FormatUint(b.Seq, 10), pointTime(b.Time), orDash(b.LSN), size(b.Bytes)}
		if several {
			cells = append(cells, strconv.FormatUint(uint64(b.Timeline), 10))
		}
		t.add(cells...)
	}
	return t
}

// pointTime renders the time of a barrier so that, as a point, it leads there: it is
// not cut off, but rounded up.
func pointTime(t time.Time) string {
	if cut := t.Truncate(time.Microsecond); !cut.Equal(t) {
		t = cut.Add(time.Microsecond)
	}
	return t.UTC().Format("2006-01-02T15:04:05.000000Z")
}
