package main

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/dustin/go-humanize/english"
	"github.com/spf13/cobra"

	"github.com/bough-db/bough/api"
	"github.com/bough-db/bough/postgres"
)

// certificate is what `bough verify --boot` has seen.
type certificate struct {
	Project string `json:"project"`
	Branch  string `json:"branch"`
	// Point is what was asked for, and Seq the barrier that it began with.
	Point string `json:"point,omitempty"`
	Seq   uint64 `json:"seq"`
	// Postgres is the version of the tools, and the rest how long each step took and
	// what it found.
	Postgres     string    `json:"postgres"`
	Time         time.Time `json:"time"`
	StartSeconds float64   `json:"start_seconds"`
	AmcheckClean bool      `json:"amcheck_clean"`
	Amcheck      string    `json:"amcheck,omitempty"` // what it had to say
	Files        int       `json:"files"`
	Pages        int64     `json:"pages"`
	BadPages     int64     `json:"bad_pages"`
	Detail       string    `json:"detail,omitempty"` // what pg_checksums had to say
}

// ok tells whether nothing is wrong.
func (c *certificate) ok() bool { return c.AmcheckClean && c.BadPages == 0 && c.Detail == "" }

// boot starts a throwaway branch of a point and has Postgres's own tools check it.
func (o *verify) boot(cmd *cobra.Command, ref string) error {
	project, name, at, err := pointArg(ref)
	if err != nil {
		return err
	}
	c := o.client()
	defer c.Close()
	ctx := cmd.Context()
	detail, err := c.Project(ctx, project)
	if err != nil {
		return err
	}
	bin, version, err := tools(ctx, detail.Project.PGVersion)
	if err != nil {
		return err
	}
	p := o.progress("starting a branch of " + ref)
	defer p.end()
	created, release, err := c.Throwaway(ctx, project, name, api.ThrowawayBranch{At: at})
	if err != nil {
		return err
	}
	defer release()
	tmp := created.Branch.Name
	cert := certificate{Project: project, Branch: name, Point: at, Seq: created.Branch.ForkSeq, Postgres: version, Time: o.now().UTC()}
	began := time.Now()
	if _, err := c.Start(ctx, project, tmp, api.StartBranch{}); err != nil {
		return err
	}
	cert.StartSeconds = time.Since(began).Seconds()
	p.set("amcheck of " + ref)
	if err := cert.amcheck(ctx, o, bin, tmp); err != nil {
		return err
	}
	p.set("checksums of " + ref)
	if _, err := c.Suspend(ctx, project, tmp); err != nil {
		return err
	}
	mounted, err := c.Attach(ctx, project, tmp, api.AttachBranch{})
	if err != nil {
		return err
	}
	err = cert.checksums(ctx, bin, mounted.Mountpoint)
	if derr := c.Detach(context.WithoutCancel(ctx), project, tmp); err == nil {
		err = derr
	}
	p.end()
	if err != nil {
		return err
	}
	return o.printCertificate(&cert)
}

// tools returns the directory of the programs of a major version of Postgres.
func tools(ctx context.Context, major int) (dir, version string, err error) {
	all, err := postgres.FindInstallations(ctx, "")
	if err != nil {
		return "", "", err
	}
	i := slices.IndexFunc(all, func(in postgres.Installation) bool { return in.Major == major })
	if i < 0 {
		return "", "", fmt.Errorf("PostgreSQL %d is not installed here: its pg_amcheck and pg_checksums are needed", major)
	}
	return all[i].BinDir, all[i].Version, nil
}

// amcheck looks at every table and index.
func (c *certificate) amcheck(ctx context.Context, o *verify, bin, branch string) error {
	conn, err := o.client().Connection(ctx, c.Project, branch)
	if err != nil {
		return err
	}
	if conn.Admin == nil {
		return fmt.Errorf("branch %s/%s runs, and has no admin socket", c.Project, branch)
	}
	out, err := runTool(ctx, filepath.Join(bin, "pg_amcheck"), "-h", conn.Admin.SocketDir, "-p", strconv.Itoa(conn.Admin.Port), "-U", conn.Admin.Role,
		"--all", "--install-missing", "--heapallindexed", "--rootdescend")
	var said []string
	for line := range strings.Lines(out) {
		if line = strings.TrimSpace(line); line != "" && !strings.HasPrefix(line, "NOTICE") {
			said = append(said, line)
		}
	}
	c.Amcheck = strings.Join(said[:min(len(said), 20)], "; ")
	if exit, ok := errors.AsType[*exec.ExitError](err); ok && exit.ExitCode() == 2 { // it has found something
		return nil
	}
	if err != nil {
		return fmt.Errorf("pg_amcheck: %w: %s", err, c.Amcheck)
	}
	c.AmcheckClean = len(said) == 0
	return nil
}

var checksumLine = regexp.MustCompile(`(?m)^(Files scanned|Blocks scanned|Bad checksums):\s+(\d+)`)

// checksums looks at every page of a database that was shut down.
func (c *certificate) checksums(ctx context.Context, bin, mountpoint string) error {
	out, err := runTool(ctx, filepath.Join(bin, "pg_checksums"), "--check", "-D", filepath.Join(mountpoint, "pgdata"))
	found := 0
	for _, m := range checksumLine.FindAllStringSubmatch(out, -1) {
		n, nerr := strconv.ParseInt(m[2], 10, 64)
		if nerr != nil {
			continue
		}
		found++
		switch m[1] {
		case "Files scanned":
			c.Files = int(n)
		case "Blocks scanned":
			c.Pages = n
		case "Bad checksums":
			c.BadPages = n
		}
	}
	if found < 3 {
		return fmt.Errorf("pg_checksums: %w: %s", err, oneLine(strings.TrimSpace(out)))
	}
	if err != nil && c.BadPages == 0 {
		c.Detail = oneLine(strings.TrimSpace(out))
	}
	return nil
}

// runTool runs a program and returns all that it says.
func runTool(ctx context.Context, name string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir, cmd.Env = "/", []string{"PATH=/usr/bin:/bin", "LC_ALL=C", "HOME=/"}
	out, err := cmd.CombinedOutput()
	return string(out), err
}

func (o *verify) printCertificate(c *certificate) error {
	if o.json {
		if err := o.printJSON(c); err != nil {
			return err
		}
	} else {
		found := "nothing wrong"
		if !c.AmcheckClean {
			found = alarm(c.Amcheck)
		}
		pages := "none bad"
		if c.BadPages > 0 || c.Detail != "" {
			pages = alarm(english.Plural(int(c.BadPages), "bad page", "") + c.Detail)
		}
		if _, err := fmt.Fprintf(o.styled(), "checked   %s/%s at @seq:%d, %s\nstarted   PostgreSQL %s, in %.1f s\namcheck   every table and index: %s\nchecksums %s in %s: %s\n",
			c.Project, c.Branch, c.Seq, stamp(c.Time), c.Postgres, c.StartSeconds, found,
			english.Plural(int(c.Pages), "page", ""), english.Plural(c.Files, "file", ""), pages); err != nil {
			return err
		}
	}
	if !c.ok() {
		return api.Errorf(api.CodeCorrupt, "%s/%s at @seq:%d is damaged", c.Project, c.Branch, c.Seq).
			WithHint("branch from an earlier moment, and see `bough verify %s/%s`", c.Project, c.Branch)
	}
	return nil
}
