package postgres

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"
)

func TestConfigOfMajors(t *testing.T) {
	for _, test := range []struct {
		major        int
		lz4          bool
		syncfs, comp string
	}{
		{13, false, "", "on"}, {14, false, "syncfs", "on"}, {15, true, "syncfs", "lz4"}, {16, false, "syncfs", "on"},
		{17, true, "syncfs", "lz4"}, {18, true, "syncfs", "lz4"},
	} {
		c := serverConfig{major: test.major, lz4: test.lz4, pgdata: "/d/it's", run: "/r", sockets: "/s", port: 5433, host: "127.81.7.203", peers: []string{"root"}}
		c.override(map[string]string{"Work_Mem": "2MB", "archive_command": "cp", "jit": "on"}, map[string]string{"jit": `o'f\f`})
		file := c.file()
		var got struct{ syncfs, comp string }
		for line := range strings.Lines(file) {
			name, value, _ := strings.Cut(strings.TrimSpace(line), " = ")
			switch name {
			case "recovery_init_sync_method":
				got.syncfs = strings.Trim(value, "'")
			case "wal_compression":
				got.comp = strings.Trim(value, "'")
			}
		}
		if got.syncfs != test.syncfs || got.comp != test.comp {
			t.Errorf("major %d: %+v, want %+v", test.major, got, test)
		}
		for _, want := range []string{"include_if_exists '/d/it''s/postgresql.conf'\n", "\nwork_mem = '2MB'\n", "\njit = 'o''f\\\\f'\n",
			"\nwal_init_zero = 'off'\n", "\nwal_recycle = 'off'\n", "\narchive_mode = 'off'\n"} {
			if !strings.Contains(file, want) {
				t.Errorf("major %d: no %q in\n%s", test.major, want, file)
			}
		}
		if strings.Contains(file, "archive_command") {
			t.Errorf("major %d: the project's archive_command is on the branch", test.major)
		}
		args := c.args()
		for _, want := range []string{"listen_addresses=127.81.7.203", "port=5433", "full_page_writes=on", "log_min_messages=warning"} {
			if !slices.Contains(args, want) {
				t.Errorf("major %d: no %s in %v", test.major, want, args)
			}
		}
	}
}

func TestCheckConf(t *testing.T) {
	for name, good := range map[string]bool{
		"work_mem": true, "pg_stat_statements.max": true, "Jit": true,
		"port": false, "PORT": false, "full_page_writes": false, "include": false, "": false, "a b": false, "a.": false, "1x": false, "x'": false,
	} {
		if err := CheckConf(map[string]string{name: "1"}); (err == nil) != good || err != nil && !errors.Is(err, ErrBadConf) {
			t.Errorf("CheckConf(%q) = %v", name, err)
		}
	}
	if err := CheckConf(map[string]string{"a": "1\nport = 1"}); !errors.Is(err, ErrBadConf) {
		t.Errorf("CheckConf of two lines = %v", err)
	}
}

func TestSettingsKeepWhatIsOthers(t *testing.T) {
	raw, err := encodeSettings(json.RawMessage(`{"history": "7d"}`), BranchSettings{Ready: true})
	if err != nil {
		t.Fatal(err)
	}
	if want := `{"history":"7d","postgres":{"ready":true}}`; string(raw) != want {
		t.Errorf("settings = %s, want %s", raw, want)
	}
	for _, empty := range []json.RawMessage{nil, json.RawMessage("null"), json.RawMessage("{}")} {
		got, err := BranchSettingsOf(empty)
		if diff := cmp.Diff(BranchSettings{}, got); err != nil || diff != "" {
			t.Errorf("settings of %s: %v %s", empty, err, diff)
		}
		if raw, err := encodeSettings(empty, ProjectSettings{Major: 15}); err != nil || string(raw) != `{"postgres":{"major":15}}` {
			t.Errorf("settings from %s = %s, %v", empty, raw, err)
		}
	}
	if _, err := ProjectSettingsOf(json.RawMessage(`{"postgres": 1}`)); err == nil {
		t.Error("nonsense is accepted")
	}
}

func TestURL(t *testing.T) {
	s := ProjectSettings{Role: "app", Database: "app", Password: "p/w"}
	for branch, want := range map[string]string{
		"main":   "postgresql://app:p%2Fw@127.0.0.1:5432/app@demo",
		"dev.x1": "postgresql://app:p%2Fw@127.0.0.1:5432/app@demo/dev.x1",
	} {
		got := clientURL(s, "demo", branch, "127.0.0.1:5432")
		if got != want {
			t.Errorf("URL = %s, want %s", got, want)
		}
		config, err := pgx.ParseConfig(got)
		if err != nil || config.Password != "p/w" || config.Database != strings.TrimPrefix(want, "postgresql://app:p%2Fw@127.0.0.1:5432/") {
			t.Errorf("a driver reads %s as %+v, %v", got, config, err)
		}
	}
}

func TestParseVersion(t *testing.T) {
	for line, want := range map[string]string{
		"postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)\n": "15.18 15",
		"postgres (PostgreSQL) 19devel":                          "19devel 19",
		"postgres (PostgreSQL) 18beta1":                          "18beta1 18",
		"postgres (PostgreSQL) 9.6.24":                           "9.6.24 9",
		"EDB 15":                                                 " 0",
	} {
		version, major, err := parseVersion(line)
		if got := fmt.Sprint(version, " ", major); got != want || (err != nil) != (major == 0) {
			t.Errorf("parseVersion(%q) = %s, %v, want %s", line, got, err, want)
		}
	}
}

func TestFindInstallations(t *testing.T) {
	root := t.TempDir()
	install := func(dir, version string, programs ...string) string {
		dir = filepath.Join(root, dir, "bin")
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		for _, p := range programs {
			script := "#!/bin/sh\necho 'postgres (PostgreSQL) " + version + "'\n"
			if err := os.WriteFile(filepath.Join(dir, p), []byte(script), 0o755); err != nil {
				t.Fatal(err)
			}
		}
		return dir
	}
	install("pg/14", "14.2", "postgres", "initdb")
	install("pg/17", "17.1", "postgres", "initdb")
	install("pg/16", "16.1", "psql") // the client only
	install("pg/9", "9.6.24", "postgres", "initdb")
	inPath := install("own", "18beta1", "postgres", "initdb")
	links := filepath.Join(root, "links")
	if err := os.MkdirAll(links, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(filepath.Join(inPath, "postgres"), filepath.Join(links, "postgres")); err != nil {
		t.Fatal(err)
	}
	all, err := findInstallations(t.Context(), []string{root + "/pg/*/bin"}, "/nowhere:"+links)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, in := range all {
		got = append(got, fmt.Sprint(in.Major, " ", in.Version))
	}
	if want := []string{"18 18beta1", "17 17.1", "14 14.2"}; !slices.Equal(got, want) {
		t.Errorf("found %q, want %q", got, want)
	}
	if in, err := pick(all, 0); err != nil || in.Major != 18 {
		t.Errorf("newest = %+v, %v", in, err)
	}
	if _, err := pick(all, 16); !errors.Is(err, ErrNotInstalled) || !strings.Contains(err.Error(), "apt install postgresql-16") {
		t.Errorf("pick(16) = %v, want the package to install", err)
	}
	if _, err := findInstallations(t.Context(), []string{root + "/none/*"}, ""); !errors.Is(err, ErrNotInstalled) || !strings.Contains(err.Error(), "apt install postgresql") {
		t.Errorf("find nothing = %v, want the package to install", err)
	}
	if _, err := FindInstallations(t.Context(), root); err == nil {
		t.Error("a directory without a server is accepted")
	}
}
