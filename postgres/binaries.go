package postgres

import (
	"context"
	"debug/elf"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// ErrNotInstalled reports that no Postgres of the wanted major version is on
// this machine. The message names the package that has it.
var ErrNotInstalled = errors.New("not installed")

// MajorMin is the oldest major version of Postgres that endpoints run.
const MajorMin = 13

// Installation is one installed Postgres server.
type Installation struct {
	// Major is the major version, as in 15.
	Major int
	// Version is the full version, as in "15.18".
	Version string
	// BinDir is the directory of the programs postgres and initdb.
	BinDir string

	lz4 bool // built with it, and new enough to use it for WAL
}

// installDirs are where packages put one directory of programs per major
// version: Debian's and Ubuntu's, then the PGDG packages for RPM systems.
var installDirs = [...]string{"/usr/lib/postgresql/*/bin", "/usr/pgsql-*/bin"}

// FindInstallations returns the servers on this machine, newest major first.
// With binDir it returns the one there, or an error that says what is missing;
// otherwise it looks where packages install servers, and in PATH. None at all
// is an ErrNotInstalled.
func FindInstallations(ctx context.Context, binDir string) ([]Installation, error) {
	if binDir != "" {
		in, err := inspect(ctx, binDir)
		if err != nil {
			return nil, err
		}
		return []Installation{in}, nil
	}
	return findInstallations(ctx, installDirs[:], os.Getenv("PATH"))
}

// findInstallations looks at the directories that the patterns match and then
// at those of path. Of two with the same major version the first one counts.
func findInstallations(ctx context.Context, patterns []string, path string) ([]Installation, error) {
	var dirs []string
	for _, pattern := range patterns {
		found, err := filepath.Glob(pattern)
		if err != nil {
			return nil, fmt.Errorf("look for postgres in %s: %w", pattern, err)
		}
		dirs = append(dirs, found...)
	}
	for _, dir := range filepath.SplitList(path) {
		// The server in PATH is often a link to the directory that has the rest.
		if target, err := filepath.EvalSymlinks(filepath.Join(dir, "postgres")); err == nil {
			dirs = append(dirs, filepath.Dir(target))
		}
	}

	var all []Installation
	var problems []error
	seen := make(map[string]bool)
	for _, dir := range dirs {
		if seen[dir] {
			continue
		}
		seen[dir] = true
		in, err := inspect(ctx, dir)
		switch {
		case errors.Is(err, os.ErrNotExist):
			// A client-only package: psql without a server.
		case err != nil:
			problems = append(problems, err)
		case !slices.ContainsFunc(all, func(other Installation) bool { return other.Major == in.Major }):
			all = append(all, in)
		}
	}
	if len(all) == 0 {
		return nil, errors.Join(append([]error{fmt.Errorf(
			"PostgreSQL is %w: apt install postgresql, or name the directory of its programs with --pg-bin", ErrNotInstalled)},
			problems...)...)
	}
	slices.SortFunc(all, func(a, b Installation) int { return b.Major - a.Major })
	return all, nil
}

var versionLine = regexp.MustCompile(`^postgres \(PostgreSQL\) ((\d+)[.\w]*)`)

// inspect asks the server in dir for its version.
func inspect(ctx context.Context, dir string) (Installation, error) {
	for _, program := range []string{"postgres", "initdb"} {
		if _, err := os.Stat(filepath.Join(dir, program)); err != nil {
			return Installation{}, fmt.Errorf("look for a PostgreSQL server in %s: %w", dir, err)
		}
	}
	program := filepath.Join(dir, "postgres")
	out, err := exec.CommandContext(ctx, program, "--version").Output()
	if err != nil {
		return Installation{}, fmt.Errorf("run %s --version: %w", program, err)
	}
	version, major, err := parseVersion(string(out))
	if err != nil {
		return Installation{}, fmt.Errorf("run %s --version: %w", program, err)
	}
	if major < MajorMin {
		return Installation{}, fmt.Errorf("%s is PostgreSQL %s: the oldest supported major version is %d", program, version, MajorMin)
	}
	return Installation{Major: major, Version: version, BinDir: dir, lz4: major >= 15 && linksLZ4(program)}, nil
}

// linksLZ4 reports whether the program was built with lz4.
func linksLZ4(program string) bool {
	file, err := elf.Open(program)
	if err != nil {
		return false
	}
	defer file.Close()
	libs, err := file.ImportedLibraries()
	return err == nil && slices.ContainsFunc(libs, func(lib string) bool { return strings.HasPrefix(lib, "liblz4.") })
}

// parseVersion reads the answer of postgres --version.
func parseVersion(line string) (version string, major int, err error) {
	m := versionLine.FindStringSubmatch(line)
	if m == nil {
		return "", 0, fmt.Errorf("no version in %q", strings.TrimSpace(line))
	}
	if major, err = strconv.Atoi(m[2]); err != nil {
		return "", 0, fmt.Errorf("no version in %q: %w", strings.TrimSpace(line), err)
	}
	return m[1], major, nil
}

// pick returns the installation of a major version; 0 means the newest.
func pick(all []Installation, major int) (Installation, error) {
	if major == 0 && len(all) > 0 {
		return all[0], nil
	}
	var have []string
	for _, in := range all {
		if in.Major == major {
			return in, nil
		}
		have = append(have, strconv.Itoa(in.Major))
	}
	return Installation{}, fmt.Errorf("PostgreSQL %d is %w (there is %s): apt install postgresql-%d, or name the directory of its programs with --pg-bin",
		major, ErrNotInstalled, strings.Join(have, ", "), major)
}
