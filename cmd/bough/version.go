package main

import (
	"fmt"
	"runtime"
	"runtime/debug"
	"strings"

	"github.com/spf13/cobra"

	"github.com/bough-db/bough/api"
)

// versionVerb is `bough version`.
type versionVerb struct {
	*app
	daemon bool
}

func (a *app) versionCmd() *cobra.Command {
	o := &versionVerb{app: a}
	cmd := &cobra.Command{
		Use:               "version",
		Short:             "Print the version of this program, or of the daemon",
		Example:           "  bough version\n  bough version --daemon",
		Args:              wantArgs(),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE:              o.run,
	}
	cmd.Flags().BoolVar(&o.daemon, "daemon", false, "ask the daemon for its version")
	return cmd
}

func (o *versionVerb) run(cmd *cobra.Command, _ []string) error {
	v := buildVersion()
	if o.daemon {
		var err error
		if v, err = o.client().Version(cmd.Context()); err != nil {
			return err
		}
	}
	if o.json {
		return o.printJSON(v)
	}
	line := "bough " + v.Version
	if v.Revision != "" {
		line += " (" + v.Revision + ")"
	}
	_, err := fmt.Fprintln(o.out, line+", "+v.Go)
	return err
}

// version is set by the linker: -ldflags "-X main.version=v1.2.3".
var version string

// buildVersion returns the version of this program.
func buildVersion() api.Version {
	v := api.Version{Version: version, Go: runtime.Version()}
	info, ok := debug.ReadBuildInfo()
	if v.Version == "" {
		v.Version = "devel"
		if ok && info.Main.Version != "" && !strings.HasPrefix(info.Main.Version, "(") {
			v.Version = info.Main.Version
		}
	}
	if !ok {
		return v
	}
	dirty := ""
	for _, s := range info.Settings {
		switch {
		case s.Key == "vcs.revision":
			v.Revision = s.Value[:min(12, len(s.Value))]
		case s.Key == "vcs.modified" && s.Value == "true":
			dirty = "+changes"
		}
	}
	if v.Revision != "" {
		v.Revision += dirty
	}
	return v
}
