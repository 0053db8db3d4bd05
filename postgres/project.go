package postgres

import (
	"context"
	"fmt"
	"net/url"
	"slices"
	"strings"

	"github.com/bough-db/bough/cow"
	ask "github.com/bough-db/bough/cow/point"
)

// CreateProjectOptions configure a project.
type CreateProjectOptions struct {
	// Major is the major version of Postgres. Default: the newest installed.
	Major int
	// SizeBytes is the size of the device. Default: the template's.
	SizeBytes int64
	// Conf holds settings of postgresql.conf for all branches of the project.
	Conf map[string]string
	// Durability is that of the branch main, and so of its branches. Default: local.
	Durability cow.Durability
}

// CreateBranchOptions configure a branch.
type CreateBranchOptions struct {
	// From is the name of the parent in the same project. Default: main.
	From string
	// At is the point of the parent to begin as. Default: its last barrier.
	At ask.Point
	// Throwaway says that the branch is for one use of this host.
	Throwaway bool
	// KeepEffects lets the branch reach out as its parent does: replication
	// slots, subscriptions, archiving, cron jobs. Default: it starts without.
	KeepEffects bool
	// Conf holds settings of postgresql.conf for this branch and its children,
	// in addition to the parent's.
	Conf map[string]string
	// Durability is that of the branch. Default: the parent's.
	Durability cow.Durability
}

// CreateProject creates a project whose branch main is a copy of the template,
// and makes the template first if the store has none. The project has a
// password of its own.
func (m *Manager) CreateProject(ctx context.Context, name string, o CreateProjectOptions) (cow.ProjectInfo, cow.BranchInfo, error) {
	fail := func(err error) (cow.ProjectInfo, cow.BranchInfo, error) {
		return cow.ProjectInfo{}, cow.BranchInfo{}, fmt.Errorf("create project %s: %w", name, err)
	}
	if err := CheckConf(o.Conf); err != nil {
		return fail(err)
	}
	in, err := pick(m.installations, o.Major)
	if err != nil {
		return fail(err)
	}
	template, err := m.EnsureTemplate(ctx, in.Major)
	if err != nil {
		return fail(err)
	}
	if o.SizeBytes != 0 && o.SizeBytes < template.Size {
		return fail(fmt.Errorf("a device of %d bytes is too small: the template has %d, which are not allocated before they are used", o.SizeBytes, template.Size))
	}
	settings, err := encodeSettings(nil, ProjectSettings{
		Major: in.Major, Role: RoleDefault, Database: DatabaseDefault, Password: newPassword(), Conf: o.Conf,
	})
	if err != nil {
		return fail(err)
	}
	branchSettings, err := encodeSettings(nil, BranchSettings{FromTemplate: true, FSBytes: template.Size})
	if err != nil {
		return fail(err)
	}
	project, branch, err := m.options.Store.CreateProject(ctx, name, cow.ProjectOptions{
		Size: max(o.SizeBytes, template.Size), Settings: settings, Branch: branchSettings, From: template.ID,
		Durability: o.Durability,
	})
	if err != nil {
		return fail(err)
	}
	return project, branch, nil
}

// CreateBranch creates a branch of a branch as that is now, running or not. The
// parent does not notice. The child has the parent's settings.
func (m *Manager) CreateBranch(ctx context.Context, project, name string, o CreateBranchOptions) (cow.BranchInfo, error) {
	return m.createBranch(ctx, project, name, o, func(*BranchSettings) {})
}

// createBranch is CreateBranch for a branch whose settings are changed before.
func (m *Manager) createBranch(ctx context.Context, project, name string, o CreateBranchOptions, change func(*BranchSettings)) (cow.BranchInfo, error) {
	fail := func(err error) (cow.BranchInfo, error) {
		return cow.BranchInfo{}, fmt.Errorf("create branch %s/%s: %w", project, name, err)
	}
	if err := CheckConf(o.Conf); err != nil {
		return fail(err)
	}
	from := o.From
	if from == "" {
		from = cow.MainBranch
	}
	parent, err := m.options.Store.Branch(ctx, project, from)
	if err != nil {
		return fail(fmt.Errorf("find parent %s: %w", from, err))
	}
	theirs, err := BranchSettingsOf(parent.Settings)
	if err != nil {
		return fail(err)
	}
	mine := theirs.inherit(o)
	if o.At.Kind != ask.Head {
		mine.FromTemplate, mine.FSBytes = false, fsUnknown // as it was then, nobody knows
	}
	change(&mine)
	raw, err := encodeSettings(parent.Settings, mine)
	if err != nil {
		return fail(err)
	}
	branch, err := m.options.Store.CreateBranch(ctx, project, name, cow.BranchOptions{
		From: parent.ID, At: o.At, Settings: raw, Durability: o.Durability, Throwaway: o.Throwaway,
	})
	if err != nil {
		return fail(err)
	}
	if err := m.recheckOrigin(ctx, project, from, &branch); err != nil {
		return fail(err)
	}
	return branch, nil
}

// recheckOrigin corrects a child that was taken for a branch of the template
// while the parent had its first start: the record of that comes before the
// first client, so if the parent still has none, no client's work was copied.
func (m *Manager) recheckOrigin(ctx context.Context, project, from string, child *cow.BranchInfo) error {
	mine, err := BranchSettingsOf(child.Settings)
	if err != nil || !mine.FromTemplate {
		return err
	}
	parent, err := m.options.Store.Branch(ctx, project, from)
	if err == nil {
		var theirs BranchSettings
		if theirs, err = BranchSettingsOf(parent.Settings); err == nil && !theirs.Ready {
			return nil
		}
	}
	// Renamed, deleted or running by now: cleaning is right in any case.
	return m.options.Store.UpdateBranch(ctx, child.ID, func(b *cow.BranchInfo) error {
		mine.FromTemplate = false
		b.Settings, err = encodeSettings(b.Settings, mine)
		child.Settings = b.Settings
		return err
	})
}

// inherit returns the settings of a child.
func (s BranchSettings) inherit(o CreateBranchOptions) BranchSettings {
	child := BranchSettings{
		KeepEffects: o.KeepEffects,
		FSBytes:     s.FSBytes,
		// A branch of a branch that never ran is a branch of the template.
		FromTemplate: s.FromTemplate && !s.Ready,
		Conf:         make(map[string]string),
	}
	for name, value := range s.Conf {
		if name = strings.ToLower(name); o.KeepEffects || !slices.Contains(outwardSettings, name) {
			child.Conf[name] = value
		}
	}
	for name, value := range o.Conf {
		child.Conf[strings.ToLower(name)] = value
	}
	return child
}

// URL returns the connection URL of the branch, password included, for clients
// of the front door at proxyAddr, as in "127.0.0.1:5432".
func (m *Manager) URL(ctx context.Context, project, branch, proxyAddr string) (string, error) {
	info, err := m.options.Store.Branch(ctx, project, branch)
	if err != nil {
		return "", fmt.Errorf("find branch %s/%s: %w", project, branch, err)
	}
	p, err := m.options.Store.Project(ctx, info.Project)
	if err != nil {
		return "", fmt.Errorf("find project %s: %w", project, err)
	}
	settings, err := ProjectSettingsOf(p.Settings)
	if err != nil {
		return "", err
	}
	if settings.Role == "" || settings.Database == "" {
		return "", fmt.Errorf("make URL of %s/%s: the project has no database", project, branch)
	}
	return clientURL(settings, project, branch, proxyAddr), nil
}

// clientURL names the branch in the database, which every driver passes on.
func clientURL(s ProjectSettings, project, branch, proxyAddr string) string {
	database := s.Database + "@" + project
	if branch != cow.MainBranch {
		database += "/" + branch
	}
	u := url.URL{Scheme: "postgresql", User: url.UserPassword(s.Role, s.Password), Host: proxyAddr, Path: "/" + database}
	return u.String()
}
