package main

import (
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/dustin/go-humanize/english"
	"github.com/spf13/cobra"

	"github.com/bough-db/bough/api"
)

// status is `bough status`.
type status struct {
	*app
	usage bool
}

func (a *app) statusCmd() *cobra.Command {
	o := &status{app: a}
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Show what the daemon does",
		Long: "Show the daemon, its store, journal and caches, and the branches in use on this host.\n\n" +
			"With --usage, measure instead what each branch takes of the store. OWN is what its\n" +
			"own objects take; those of all branches, of deleted ones and of records are all that\n" +
			"the store holds. UNIQUE is what only its present state needs, SHARED what other\n" +
			"branches need too, HISTORY what only its past needs, and FREES what goes if it is\n" +
			"deleted.",
		Example:           "  bough status\n  bough status --usage\n  bough status --json | jq .journal",
		Args:              wantArgs(),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE:              o.run,
	}
	cmd.Flags().BoolVar(&o.usage, "usage", false, "measure what each branch takes of the store")
	return cmd
}

func (o *status) run(cmd *cobra.Command, _ []string) error {
	if o.usage {
		return o.showUsage(cmd)
	}
	s, err := o.client().Status(cmd.Context())
	if err != nil {
		return err
	}
	if o.json {
		return o.printJSON(s)
	}
	w := o.styled()
	if err := o.head(w, s); err != nil {
		return err
	}
	if len(s.Branches) == 0 {
		_, err := fmt.Fprintln(w, "\nno branch is in use")
		return err
	}
	t := table{header: []string{"BRANCH", "POSTGRES", "CLIENTS", "SEQ", "DURABLE", "TO UPLOAD", "DEVICE", "MOUNTED ON"}}
	for _, b := range s.Branches {
		t.add(b.Ref(), endpointCell(b.Branch), strconv.Itoa(b.Connections), seqCell(b.Seq), orDash(string(b.Durability)),
			o.pending(b), orDash(b.Device), orDash(b.Mountpoint))
	}
	fmt.Fprintln(w)
	if err := t.write(w, ""); err != nil {
		return err
	}
	return o.errors(w, s)
}

// showUsage measures and shows what everything takes.
func (o *status) showUsage(cmd *cobra.Command) error {
	p := o.progress("measuring")
	u, err := o.client().Usage(cmd.Context())
	p.end()
	if err != nil {
		return err
	}
	if o.json {
		return o.printJSON(u)
	}
	w := o.styled()
	t := table{header: []string{"BRANCH", "LOGICAL", "OWN", "UNIQUE", "SHARED", "HISTORY", "FREES"}}
	for _, b := range u.Branches {
		t.add(b.Project+"/"+b.Branch, size(b.LogicalBytes), size(b.OwnBytes), size(b.UniqueBytes), size(b.SharedBytes), size(b.HistoryBytes), size(b.DeletionFreesBytes))
	}
	t.add(faint("deleted branches"), "", size(u.DeletedBytes))
	t.add(faint("records and templates"), "", size(u.RecordBytes))
	t.add("all", "", size(u.TotalBytes), "", "", size(u.HistoryBytes))
	if err := t.write(w, ""); err != nil {
		return err
	}
	for _, p := range u.Problems {
		if _, err := fmt.Fprintln(w, alarm(fmt.Sprintf("%s could not be measured: %s", p.Branch, oneLine(p.Detail)))); err != nil {
			return err
		}
	}
	return nil
}

// head writes the lines about the daemon.
func (o *status) head(w io.Writer, s api.Status) error {
	up := humanize.RelTime(s.Daemon.Started, o.now(), "", "")
	t := table{header: make([]string, 2)}
	t.add("daemon", fmt.Sprintf("%s, process %d, up %s", s.Daemon.Version, s.Daemon.PID, strings.TrimSpace(up)))
	t.add("clients", s.Daemon.Listen)
	t.add("state", s.Daemon.StateDir)
	t.add("store", fmt.Sprintf("%s: %s, %s", s.Store.Location,
		english.Plural(s.Store.Projects, "project", ""), english.Plural(s.Store.Branches, "branch", "branches")))
	if s.Store.Requests > 0 {
		t.add("", fmt.Sprintf("%s, %s sent, %s received", english.Plural(int(s.Store.Requests), "request", ""), size(s.Store.SentBytes), size(s.Store.ReceivedBytes)))
	}
	if s.Store.Host != "" {
		t.add("host", fmt.Sprintf("%s, asked by others at %s", s.Store.Host, orDash(s.Store.API)))
	}
	for _, h := range s.Store.Hosts {
		if !h.Here {
			t.add("", faint(fmt.Sprintf("%s at %s, up %s", h.ID, orDash(h.API), strings.TrimSpace(humanize.RelTime(h.Started, o.now(), "", "")))))
		}
	}
	t.add("journal", fmt.Sprintf("%s, write mode %s", of(s.Journal.UsedBytes, s.Journal.BytesMax), s.Daemon.WriteMode))
	c := s.Cache
	t.add("cache", fmt.Sprintf("memory %s, hits %s", of(c.MemoryBytes, c.MemoryBytesMax), percent(c.MemoryHits, c.MemoryMisses)))
	if c.DiskBytesMax > 0 {
		t.add("", fmt.Sprintf("disk %s, %s, hits %s", size(c.DiskBytesMax), english.Plural(int(c.DiskFrames), "frame", ""), percent(c.DiskHits, c.DiskMisses)))
	}
	if u := s.Usage; u != nil {
		t.add("usage", fmt.Sprintf("%s in the store, of which history %s, %s", size(u.TotalBytes), of(u.HistoryBytes, s.Collector.HistoryBytesMax), o.ago(u.Time)))
	}
	if c := s.Collector; c.Running {
		t.add("gc", "at work")
	} else if !c.Last.IsZero() {
		t.add("gc", fmt.Sprintf("%s, %s freed since the start", o.ago(c.Last), size(c.FreedBytes)))
	}
	t.add("memory", of(s.Daemon.MemoryBytes, s.Daemon.MemoryBytesMax))
	return t.write(w, "")
}

// errors writes the failures that something is stuck with.
func (o *status) errors(w io.Writer, s api.Status) error {
	t := table{header: make([]string, 2)}
	if s.Store.Error != "" {
		t.add("store", alarm(oneLine(s.Store.Error)))
	}
	if s.Journal.Error != "" {
		t.add("journal", alarm(oneLine(s.Journal.Error)))
	}
	if n := s.Cache.DiskCorrupt; n > 0 {
		t.add("cache", fmt.Sprintf("%s did not agree with their checksum and were fetched again", english.Plural(int(n), "slot", "")))
	}
	if c := s.Collector; c.Error != "" {
		t.add("gc", alarm(oneLine(c.Error)))
	}
	if p := s.Collector.Pressure; p != nil {
		t.add("history", alarm(pressureText(p)))
	}
	for _, b := range s.Branches {
		if b.Error != "" {
			t.add(b.Ref(), alarm(oneLine(b.Error)))
		}
		if b.Waiting != "" {
			t.add(b.Ref(), alarm("writes wait "+oneLine(b.Waiting)))
		}
		if b.StoreError != "" {
			t.add(b.Ref(), alarm(o.storeTrouble(b, s.Journal)))
		}
	}
	if len(t.rows) == 0 {
		return nil
	}
	fmt.Fprintln(w, "\nerrors")
	return t.write(w, "  ")
}

// pending renders what of a branch is not in the store, and for how long.
func (o *status) pending(b api.BranchStatus) string {
	if b.PendingSince.IsZero() {
		return size(b.PendingBytes)
	}
	return fmt.Sprintf("%s, %s", size(b.PendingBytes), seconds(o.now().Sub(b.PendingSince)))
}

// seconds renders a time that passes, to the second.
func seconds(d time.Duration) string {
	return max(d, 0).Truncate(time.Second).String()
}

// storeTrouble says what it means that the store does not take what it is given.
func (o *status) storeTrouble(b api.BranchStatus, j api.JournalStatus) string {
	since := seconds(o.now().Sub(b.StoreErrorSince))
	if b.Durability == api.DurabilityRemote {
		return fmt.Sprintf("commits have waited for the store for %s: %s", since, oneLine(b.StoreError))
	}
	return fmt.Sprintf("uploads have failed for %s, and %s of journal are left for writes: %s",
		since, size(j.BytesMax-j.UsedBytes), oneLine(b.StoreError))
}

// percent renders the share of hits.
func percent(hits, misses uint64) string {
	if hits+misses == 0 {
		return "-"
	}
	return fmt.Sprintf("%.0f %%", 100*float64(hits)/float64(hits+misses))
}
