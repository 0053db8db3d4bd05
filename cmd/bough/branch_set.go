package main

import (
	"cmp"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/bough-db/bough/api"
	"github.com/bough-db/bough/cow/point"
)

// branchSet is `bough branch set`.
type branchSet struct {
	*app
	durability         string
	protect, unprotect bool
	expires            string
	history            historySetting
}

func (a *app) branchSetCmd() *cobra.Command {
	o := &branchSet{app: a}
	cmd := &cobra.Command{
		Use:   "set PROJECT/BRANCH",
		Short: "Change the settings of a branch, which may be in use",
		Long: "Change the settings of a branch; clients stay connected.\n\n" +
			"Durability local: a commit is in this host's journal before the client hears of it,\n" +
			"and survives any crash, but not the loss of the disk. Remote: it is in the store, so\n" +
			"that it survives the loss of the host, and another host can go on with it. Branches\n" +
			"that are made of the branch later begin with its durability.\n\n" +
			"A protected branch cannot be deleted, restored or reset. One that expires is deleted\n" +
			"when the time comes, or soon after, if no daemon runs then.\n\n" + historyHelp,
		Example: "  bough branch set demo/main --durability remote --protect\n" +
			"  bough branch set demo/dev --expires 7d",
		Args:              wantArgs("PROJECT/BRANCH"),
		ValidArgsFunction: a.completeBranch(cobra.ShellCompDirectiveNoFileComp),
		RunE:              o.run,
	}
	durabilityFlag(cmd, &o.durability, "what a commit waits for: local or remote")
	cmd.Flags().BoolVar(&o.protect, "protect", false, "keep it from being deleted, restored and reset")
	cmd.Flags().BoolVar(&o.unprotect, "unprotect", false, "let it be deleted, restored and reset again")
	cmd.Flags().StringVar(&o.expires, "expires", "", "delete it by itself: in how long, such as 7d, at a time, or never")
	o.history.flags(cmd, "which of its moments are kept, or default")
	return cmd
}

// durabilityFlag adds --durability.
func durabilityFlag(cmd *cobra.Command, p *string, usage string) {
	cmd.Flags().StringVar(p, "durability", "", usage)
	// The only error is a flag that does not exist.
	_ = cmd.RegisterFlagCompletionFunc("durability", cobra.FixedCompletions(
		[]cobra.Completion{string(api.DurabilityLocal), string(api.DurabilityRemote)}, cobra.ShellCompDirectiveNoFileComp))
}

// durabilityArg checks the value of --durability.
func durabilityArg(text string) (api.Durability, error) {
	d := api.Durability(text)
	if api.CheckDurability(d) != nil {
		return "", usagef("--durability %q: choose local or remote", text)
	}
	return d, nil
}

// expiresArg checks the value of --expires; nil is none, and the zero time never.
func (a *app) expiresArg(text string) (*time.Time, error) {
	switch text {
	case "":
		return nil, nil
	case "never":
		return &time.Time{}, nil
	}
	if p, err := point.Parse("-"+text, time.Local); err == nil && p.Kind == point.Ago && !p.ToTransaction {
		at := a.now().Add(p.Back)
		return &at, nil
	}
	p, err := point.Parse(text, time.Local)
	switch {
	case err != nil || p.Kind != point.Time || p.At.IsZero() || p.ToTransaction:
		return nil, usagef("--expires %q: give in how long, such as 7d, a time, such as 2026-11-25T10:00:00Z, or never", text)
	case !p.At.After(a.now()):
		return nil, usagef("--expires %q: that time has passed", text)
	}
	return &p.At, nil
}

func (o *branchSet) run(cmd *cobra.Command, args []string) error {
	project, name, err := branchArg(args[0])
	if err != nil {
		return err
	}
	var req api.SetBranch
	if req.Durability, err = durabilityArg(o.durability); err != nil {
		return err
	}
	if req.Expires, err = o.expiresArg(o.expires); err != nil {
		return err
	}
	if req.History, err = o.history.arg(); err != nil {
		return err
	}
	if o.protect && o.unprotect {
		return usagef("--protect and --unprotect contradict each other")
	}
	if o.protect || o.unprotect {
		req.Protected = &o.protect
	}
	if req == (api.SetBranch{}) {
		return usagef("nothing to set: give --durability, --protect, --unprotect, --expires, --history or --resolution")
	}
	p := o.progress("setting " + project + "/" + name)
	b, err := o.client().SetBranch(cmd.Context(), project, name, req)
	p.end()
	if err != nil {
		return err
	}
	var said []string
	if req.Durability != "" {
		said = append(said, fmt.Sprintf("durability of %s is %s", b.Ref(), b.Durability))
	}
	if req.Protected != nil {
		said = append(said, fmt.Sprintf("%s is %s", b.Ref(), map[bool]string{true: "protected", false: "not protected"}[b.Protected]))
	}
	if req.Expires != nil && b.Expires.IsZero() {
		said = append(said, fmt.Sprintf("%s does not expire", b.Ref()))
	} else if req.Expires != nil {
		said = append(said, fmt.Sprintf("%s expires %s, at %s", b.Ref(), o.ago(b.Expires), stamp(b.Expires)))
	}
	if req.History != nil {
		said = append(said, fmt.Sprintf("history of %s is %s", b.Ref(), cmp.Or(b.History, "its project's")))
	}
	return o.done(b, "%s", strings.Join(said, "\n"))
}
