package postgres

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/bough-db/bough/cow"
)

const (
	// RoleDefault owns DatabaseDefault in every project.
	RoleDefault = "app"
	// DatabaseDefault is the database that a project begins with.
	DatabaseDefault = "app"

	templateTimeout = 10 * time.Minute
	// abandonedAge is the age from which an unfinished template is not taken
	// for another host's work in progress any more.
	abandonedAge = time.Hour
)

// TemplateName returns the name of the hidden project that holds the template
// of a major version.
func TemplateName(major int) string { return fmt.Sprintf("template-%d", major) }

// templateBuild is a build under way in this process.
type templateBuild struct {
	done chan struct{}
	info cow.BranchInfo
	err  error
}

// EnsureTemplate returns the branch that projects of the major version (0: the
// newest installed) begin as, and makes it if the store has none: a file
// system and a database cluster with the role and the database that every
// project has. Concurrent callers wait for one build. A build that is cut short
// leaves nothing that counts: the project names its template only when it is
// whole. Of two hosts that build at the same time, one wins.
func (m *Manager) EnsureTemplate(ctx context.Context, major int) (cow.BranchInfo, error) {
	in, err := pick(m.installations, major)
	if err != nil {
		return cow.BranchInfo{}, err
	}
	info, err := m.findTemplate(ctx, in.Major)
	if err == nil || !errors.Is(err, cow.ErrNotFound) {
		return info, err
	}
	m.mu.Lock()
	build := m.templates[in.Major]
	if build == nil {
		build = &templateBuild{done: make(chan struct{})}
		m.templates[in.Major] = build
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), templateTimeout)
		go func() {
			defer cancel()
			build.info, build.err = m.buildTemplate(ctx, in)
			m.mu.Lock()
			delete(m.templates, in.Major)
			m.mu.Unlock()
			close(build.done)
		}()
	}
	m.mu.Unlock()
	select {
	case <-build.done:
		return build.info, build.err
	case <-ctx.Done():
		return cow.BranchInfo{}, context.Cause(ctx)
	}
}

// findTemplate returns the finished template, or an error that wraps
// ErrNotFound of the store.
func (m *Manager) findTemplate(ctx context.Context, major int) (cow.BranchInfo, error) {
	name := TemplateName(major)
	project, err := m.options.Store.Project(ctx, name)
	if err != nil {
		return cow.BranchInfo{}, fmt.Errorf("find template of PostgreSQL %d: %w", major, err)
	}
	settings, err := ProjectSettingsOf(project.Settings)
	if err != nil {
		return cow.BranchInfo{}, fmt.Errorf("find template of PostgreSQL %d: %w", major, err)
	}
	if settings.Template == nil {
		return cow.BranchInfo{}, fmt.Errorf("find template of PostgreSQL %d: project %s is somebody's and no template: rename or delete it", major, name)
	}
	if settings.Template.Branch == "" {
		return cow.BranchInfo{}, fmt.Errorf("find template of PostgreSQL %d: %w", major, cow.ErrNotFound)
	}
	info, err := m.options.Store.Branch(ctx, name, settings.Template.Branch)
	if err != nil {
		return cow.BranchInfo{}, fmt.Errorf("find template of PostgreSQL %d: %w", major, err)
	}
	return info, nil
}

// buildTemplate builds a template on a branch of its own and publishes it.
func (m *Manager) buildTemplate(ctx context.Context, in Installation) (cow.BranchInfo, error) {
	// Another caller may have finished between the look and the lock.
	if info, err := m.findTemplate(ctx, in.Major); !errors.Is(err, cow.ErrNotFound) {
		return info, err
	}
	begun := time.Now()
	m.options.Logger.Info("building the template for new projects, once per store", "major", in.Major)
	branch, err := m.templateBranch(ctx, in.Major)
	if err != nil {
		return cow.BranchInfo{}, fmt.Errorf("build template of PostgreSQL %d: %w", in.Major, err)
	}
	if err := m.fillTemplate(ctx, in, branch); err != nil {
		return cow.BranchInfo{}, fmt.Errorf("build template of PostgreSQL %d: %w", in.Major, err)
	}
	err = m.options.Store.UpdateProject(ctx, branch.Project, func(p *cow.ProjectInfo) error {
		settings, err := ProjectSettingsOf(p.Settings)
		if err != nil {
			return err
		}
		if settings.Template == nil {
			settings.Template = &TemplateSettings{}
		}
		if settings.Template.Branch == "" {
			*settings.Template = TemplateSettings{Branch: branch.Name, Version: in.Version}
		}
		p.Settings, err = encodeSettings(p.Settings, settings)
		return err
	})
	if err != nil {
		return cow.BranchInfo{}, fmt.Errorf("publish template of PostgreSQL %d: %w", in.Major, err)
	}
	m.options.Logger.Info("template is ready", "major", in.Major, "took", time.Since(begun).Round(time.Millisecond))
	return m.findTemplate(ctx, in.Major) // ours, or that of a faster host
}

// templateBranch returns an empty branch that nobody else works on. It is the
// main branch of the project if this call made the project.
func (m *Manager) templateBranch(ctx context.Context, major int) (cow.BranchInfo, error) {
	name := TemplateName(major)
	settings, err := encodeSettings(nil, ProjectSettings{Major: major, Template: &TemplateSettings{}})
	if err != nil {
		return cow.BranchInfo{}, err
	}
	_, branch, err := m.options.Store.CreateProject(ctx, name, cow.ProjectOptions{Hidden: true, Settings: settings})
	if err == nil || !errors.Is(err, cow.ErrExists) {
		return branch, err
	}
	// An earlier build did not finish, or another host's is under way.
	main, err := m.options.Store.Branch(ctx, name, cow.MainBranch)
	if err != nil {
		return cow.BranchInfo{}, err
	}
	if err := m.dropAbandoned(ctx, name); err != nil {
		m.options.Logger.Warn("unfinished templates stay in the store", "project", name, "error", err)
	}
	return m.options.Store.CreateBranch(ctx, name, "build-"+strings.ToLower(rand.Text()), cow.BranchOptions{From: main.ID})
}

// dropAbandoned deletes what builds that never finished have left.
func (m *Manager) dropAbandoned(ctx context.Context, project string) error {
	all, err := m.options.Store.Branches(ctx, project)
	if err != nil {
		return err
	}
	var problems []error
	for _, b := range all {
		if strings.HasPrefix(b.Name, "build-") && time.Since(b.Created) > abandonedAge {
			problems = append(problems, m.options.Store.DeleteBranch(ctx, project, b.Name))
		}
	}
	return errors.Join(problems...)
}

// fillTemplate puts a file system and a cluster on the branch.
func (m *Manager) fillTemplate(ctx context.Context, in Installation, info cow.BranchInfo) error {
	sockets, err := m.layout.makeRun(info.ID)
	if err != nil {
		return err
	}
	v, err := m.mount(ctx, info, true)
	if err != nil {
		return err
	}
	err = m.makeCluster(ctx, in, info.ID, sockets)
	if err == nil {
		// What initdb and the server wrote and removed would be in every project.
		if errTrim := m.options.Volumes.Trim(ctx, string(info.ID)); errTrim != nil {
			m.options.Logger.Warn("the template holds blocks that nothing uses", "error", errTrim)
		}
	}
	if err := errors.Join(err, v.unmount(context.WithoutCancel(ctx))); err != nil {
		return err // with the log of the server still there
	}
	return m.removeAll(info.ID) // it never runs again
}

// makeCluster runs initdb and creates what every project has.
func (m *Manager) makeCluster(ctx context.Context, in Installation, id cow.BranchID, sockets string) error {
	if err := m.initdb(ctx, in, m.layout.pgdata(id)); err != nil {
		return err
	}
	s, err := m.startServer(ctx, id, serverSpec{binDir: in.BinDir, config: serverConfig{
		major: in.Major, lz4: in.lz4, pgdata: m.layout.pgdata(id), run: m.layout.run(id), sockets: sockets,
		peers: m.peers, keep: true,
	}})
	if err != nil {
		return err
	}
	err = furnish(ctx, s, in.Major)
	return errors.Join(err, s.stop(context.WithoutCancel(ctx), m.options.StopTimeout))
}

// initdb makes the cluster. It does not sync: unmounting does.
func (m *Manager) initdb(ctx context.Context, in Installation, pgdata string) error {
	own := []string{"-d", "-m", "0700"}
	if m.account.other {
		own = append(own, "-o", fmt.Sprint(m.account.uid), "-g", fmt.Sprint(m.account.gid))
	}
	if _, err := m.runTool(ctx, nil, "install", append(own, pgdata)...); err != nil {
		return err
	}
	var err error
	for _, locale := range initdbLocales(in.Major) {
		args := append([]string{
			"--pgdata", pgdata, "--username", superuser, "--data-checksums", "--encoding", "UTF8", "--no-sync",
			"--auth-local", "peer", "--auth-host", "scram-sha-256",
		}, locale...)
		if _, err = m.runTool(ctx, m.account.credential(), filepath.Join(in.BinDir, "initdb"), args...); err == nil {
			return nil
		}
		if !strings.Contains(err.Error(), "invalid locale name") {
			break
		}
	}
	return err
}

// initdbLocales returns the locale options to try. The order of strings must
// be the same on every host that opens the branch, whatever its libc: that is
// so for code points, which the builtin provider, C.UTF-8 and C sort by.
func initdbLocales(major int) [][]string {
	libc := [][]string{{"--locale", "C.UTF-8"}, {"--locale", "C"}}
	if major >= 17 {
		return append([][]string{{"--locale", "C.UTF-8", "--locale-provider", "builtin", "--builtin-locale", "C.UTF-8"},
			{"--locale", "C", "--locale-provider", "builtin", "--builtin-locale", "C.UTF-8"}}, libc...)
	}
	return libc
}

// furnish creates the role and the database of every project.
func furnish(ctx context.Context, s *server, major int) error {
	for _, part := range []struct {
		database   string
		statements []string
	}{{superuser, clusterStatements(major)}, {DatabaseDefault, databaseStatements(major)}} {
		conn, err := connectAdmin(ctx, s.config.sockets, s.config.port, part.database)
		if err != nil {
			return err
		}
		for _, statement := range part.statements {
			if _, err := conn.Exec(ctx, statement); err != nil {
				conn.Close(ctx)
				return fmt.Errorf("run %q: %w", statement, err)
			}
		}
		if err := conn.Close(ctx); err != nil {
			return fmt.Errorf("close admin session: %w", err)
		}
	}
	return nil
}

// clusterStatements returns what makes a cluster of initdb a project's.
func clusterStatements(major int) []string {
	role, database := pgx.Identifier{RoleDefault}.Sanitize(), pgx.Identifier{DatabaseDefault}.Sanitize()
	granted := "pg_monitor, pg_signal_backend"
	if major >= 15 {
		granted += ", pg_checkpoint"
	}
	all := []string{
		"CREATE ROLE " + role + " LOGIN CREATEDB CREATEROLE",
		"GRANT " + granted + " TO " + role,
		"CREATE DATABASE " + database + " OWNER " + role,
	}
	if major < 16 {
		// Before 16, CREATEROLE may grant any role that is not a superuser's,
		// and these three are one: they reach files and programs of the OS
		// user, and so every branch on the host. Without them nobody but the
		// superuser has that power.
		all = append(all, `DELETE FROM pg_authid WHERE rolname IN
			('pg_execute_server_program', 'pg_read_server_files', 'pg_write_server_files')`)
	}
	return all
}

// databaseStatements returns what is done in the project's database.
func databaseStatements(major int) []string {
	if major >= 15 {
		return nil // as below, out of the box
	}
	return []string{
		"ALTER SCHEMA public OWNER TO " + pgx.Identifier{RoleDefault}.Sanitize(),
		"REVOKE CREATE ON SCHEMA public FROM PUBLIC",
	}
}
