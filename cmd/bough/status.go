package main

import (
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/dustin/go-humanize"
	"github.com/dustin/go-humanize/english"
	"github.com/spf13/cobra"

	"github.com/bough-db/bough/api"
)

// status is `bough status`.
type status struct{ *app }

func (a *app) statusCmd() *cobra.Command {
	o := &status{app: a}
	return &cobra.Command{
		Use:               "status",
		Short:             "Show what the daemon does",
		Long:              "Show the daemon, its store, journal and caches, and the branches in use on this host.",
		Example:           "  bough status\n  bough status --json | jq .journal",
		Args:              wantArgs(),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE:              o.run,
	}
}

func (o *status) run(cmd *cobra.Command, _ []string) error {
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
	t := table{header: []string{"BRANCH", "POSTGRES", "CLIENTS", "SEQ", "TO UPLOAD", "DEVICE", "MOUNTED ON"}}
	for _, b := range s.Branches {
		t.add(b.Ref(), endpointCell(b.Branch), strconv.Itoa(b.Connections), seqCell(b.Seq),
			size(b.PendingBytes), orDash(b.Device), orDash(b.Mountpoint))
	}
	fmt.Fprintln(w)
	if err := t.write(w, ""); err != nil {
		return err
	}
	return o.errors(w, s)
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
	t.add("journal", fmt.Sprintf("%s, write mode %s", of(s.Journal.UsedBytes, s.Journal.BytesMax), s.Daemon.WriteMode))
	c := s.Cache
	t.add("cache", fmt.Sprintf("memory %s, hits %s", of(c.MemoryBytes, c.MemoryBytesMax), percent(c.MemoryHits, c.MemoryMisses)))
	if c.DiskBytesMax > 0 {
		t.add("", fmt.Sprintf("disk %s, %s, hits %s", size(c.DiskBytesMax), english.Plural(int(c.DiskFrames), "frame", ""), percent(c.DiskHits, c.DiskMisses)))
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
	for _, b := range s.Branches {
		if b.Error != "" {
			t.add(b.Ref(), alarm(oneLine(b.Error)))
		}
		if b.Waiting != "" {
			t.add(b.Ref(), alarm("writes wait "+oneLine(b.Waiting)))
		}
	}
	if len(t.rows) == 0 {
		return nil
	}
	fmt.Fprintln(w, "\nerrors")
	return t.write(w, "  ")
}

// percent renders the share of hits.
func percent(hits, misses uint64) string {
	if hits+misses == 0 {
		return "-"
	}
	return fmt.Sprintf("%.0f %%", 100*float64(hits)/float64(hits+misses))
}
