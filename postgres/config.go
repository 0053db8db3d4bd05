package postgres

import (
	"errors"
	"fmt"
	"maps"
	"os/user"
	"slices"
	"strconv"
	"strings"
	"time"
)

// ErrBadConf reports a setting that a user may not make, or can not.
var ErrBadConf = errors.New("bad postgres setting")

const (
	superuser = "postgres"
	identMap  = "bough"
)

// serverConfig is all that the configuration of one server depends on.
type serverConfig struct {
	name      string // of the branch: PROJECT/BRANCH
	major     int
	lz4       bool // the server can compress with it
	pgdata    string
	run       string // directory of the files that are rendered
	sockets   string // directory of the admin socket
	host      string // loopback address for clients, the branch's own
	port      int
	peers     []string      // OS users that may be the superuser on the admin socket
	keep      bool          // BranchSettings.KeepEffects
	cleaning  bool          // no client and no effect on the outside in this run
	recovery  []setting     // to recover to a target in this run
	remote    bool          // a flush is a request to the store
	clients   int           // how many there are
	group     int           // the same roughly: see groupOf
	pause     time.Duration // that the first of many commits makes: see pacer
	cores     int           // processors that they and the server share
	overrides map[string]string
}

// setting is one line of postgresql.conf.
type setting struct{ name, value string }

// forced returns the settings that nothing overrides, not even ALTER SYSTEM:
// they go on the command line.
func (c *serverConfig) forced() []setting {
	s := []setting{
		{"config_file", c.run + "/postgresql.conf"},
		{"hba_file", c.run + "/pg_hba.conf"},
		{"ident_file", c.run + "/pg_ident.conf"},
		{"listen_addresses", c.host},
		{"port", strconv.Itoa(c.port)},
		{"unix_socket_directories", c.sockets},
		{"unix_socket_permissions", "0700"},
		{"unix_socket_group", ""},
		// The log goes through the daemon, which bounds it and looks for the
		// line that says that the server is ready, in English.
		{"logging_collector", "off"},
		{"log_destination", "stderr"},
		{"lc_messages", "C"},
		{"log_min_messages", c.logLevel()},
		// ext4 may split an 8 KiB page across two batches.
		{"full_page_writes", "on"},
	}
	if c.cleaning {
		s = append(s,
			setting{"listen_addresses", ""},
			setting{"max_logical_replication_workers", "0"},
			setting{"archive_mode", "off"},
			// The checkpoint after redo is waited for: one sync, no small ones.
			setting{"checkpoint_flush_after", "0"})
	}
	return append(s, c.recovery...)
}

// logLevel is the log_min_messages asked for, if that lets the ready line through.
func (c *serverConfig) logLevel() string {
	switch level := strings.ToLower(c.overrides["log_min_messages"]); level {
	case "", "fatal", "panic":
		return "warning"
	default:
		return level
	}
}

// reserved are the names that users can not set, because endpoints would no
// longer be found, be open to the wrong people, or lose data.
var reserved = map[string]string{
	"config_file": "", "hba_file": "", "ident_file": "", "data_directory": "", "external_pid_file": "",
	"listen_addresses": "clients come through the front door", "port": "it changes with every start",
	"unix_socket_directories": "", "unix_socket_permissions": "", "unix_socket_group": "",
	"logging_collector": "the daemon writes the log", "log_destination": "the daemon writes the log", "lc_messages": "",
	"full_page_writes": "the file system may split a page across two barriers",
	"include":          "", "include_dir": "", "include_if_exists": "",
}

// CheckConf returns an ErrBadConf for the settings that a project or a branch
// can not have. Whether Postgres likes the values is seen at the next start.
func CheckConf(conf map[string]string) error {
	var problems []error
	for _, name := range slices.Sorted(maps.Keys(conf)) {
		why, taken := reserved[strings.ToLower(name)]
		switch {
		case !validSettingName(name):
			problems = append(problems, fmt.Errorf("%w %q: not a name", ErrBadConf, name))
		case taken && why != "":
			problems = append(problems, fmt.Errorf("%w %s: it is not yours to set: %s", ErrBadConf, name, why))
		case taken:
			problems = append(problems, fmt.Errorf("%w %s: it is not yours to set", ErrBadConf, name))
		case strings.ContainsAny(conf[name], "\n\r\x00"):
			problems = append(problems, fmt.Errorf("%w %s: its value has more than one line", ErrBadConf, name))
		}
	}
	return errors.Join(problems...)
}

func validSettingName(name string) bool {
	for part := range strings.SplitSeq(name, ".") {
		if part == "" || part[0] >= '0' && part[0] <= '9' {
			return false
		}
		if strings.Trim(strings.ToLower(part), "abcdefghijklmnopqrstuvwxyz0123456789_") != "" {
			return false
		}
	}
	return len(name) <= 126
}

// defaults returns the settings that suit a database on a branch. Users
// override them: per project, per branch, and with ALTER SYSTEM.
func (c *serverConfig) defaults() []setting {
	s := []setting{
		{"shared_buffers", "128MB"},
		{"timezone", "UTC"},
		{"log_timezone", "UTC"},
		{"log_line_prefix", "%m [%p] %q%u@%d "},

		{"min_wal_size", "32MB"},

		// A branch of a running server starts with redo from the parent's last
		// checkpoint, and writes every page that redo touched; see
		// "Checkpoints" in the package documentation. That makes for many
		// checkpoints under load, which is what is wanted.
		{"max_wal_size", "64MB"},
		{"checkpoint_timeout", "5min"},
		{"checkpoint_completion_target", "0.3"},
		{"checkpoint_warning", "0"},
		{"wal_compression", "on"},
	}
	if c.lz4 {
		s[len(s)-1].value = "lz4"
	}
	s = append(s, c.flushing()...)
	if c.major >= 14 {
		// After an unclean stop: one syncfs instead of opening every file.
		s = append(s, setting{"recovery_init_sync_method", "syncfs"})
	}
	if c.major >= 15 {
		// Redo begins with an image of every page, so what it would read ahead
		// is about to be overwritten: 0.6 s of reading for 0.1 s of redo.
		s = append(s, setting{"recovery_prefetch", "off"})
	}
	if !c.keep {
		s = append(s,
			setting{"archive_mode", "off"},
			setting{"primary_conninfo", ""},
			setting{"cron.launch_active_jobs", "off"})
	}
	return s
}

// flushing returns the settings that suit what a flush costs. All of them change
// with a reload.
func (c *serverConfig) flushing() []setting {
	if !c.remote {
		// A block that is written for the first time costs the same as one
		// that is written again, and old segments would only be dead weight
		// in the history: create them sparse and delete them.
		return []setting{{"wal_init_zero", "off"}, {"wal_recycle", "off"}}
	}
	return []setting{
		// What is written to a file for the first time takes a commit of the file
		// system's journal with the flush, which are two more flushes, one after the
		// other. So the WAL is written over what was written before.
		{"wal_init_zero", "on"},
		{"wal_recycle", "on"},
		// A flush takes as long as a request to the store. Whoever comes in that time
		// waits for the next one; without a pause before that, half of the clients
		// are always one flush behind the other half. A client alone does not wait.
		{"commit_delay", strconv.FormatInt(c.pause.Microseconds(), 10)},
		{"commit_siblings", "1"},
		// Pages are written evenly. Each write takes as long as a request too, and
		// the kernel has 128 on their way at most: more at a time, from a checkpoint
		// in a hurry or from the kernel after half a minute, and flushes wait.
		{"checkpoint_completion_target", "0.9"},
		{"bgwriter_delay", "50ms"},
		{"bgwriter_lru_maxpages", "1000"},
		{"bgwriter_flush_after", "256kB"},
		{"backend_flush_after", "256kB"},
	}
}

// crowd adapts the settings to a number of clients.
func (c *serverConfig) crowd(clients int) {
	c.clients = clients
	if group := groupOf(clients); group != c.group {
		c.group, c.pause = group, firstPause(group, c.cores)
	}
}

// groupOf rounds a number of clients up to a power of two from 4 to 1024, so that
// settings which depend on it are not changed with every client that comes or goes.
func groupOf(clients int) int {
	group := 4
	for group < clients && group < 1024 {
		group *= 2
	}
	return group
}

// file renders postgresql.conf: what initdb found out about the cluster and
// what a user wrote in it, then defaults, then what the user asked bough for.
func (c *serverConfig) file() string {
	var b strings.Builder
	b.WriteString("# Written at every start. Change settings with ALTER SYSTEM, or in the project's\n" +
		"# or the branch's settings.\n")
	fmt.Fprintf(&b, "include_if_exists %s\n\n", quoteConf(c.pgdata+"/postgresql.conf"))
	for _, s := range c.defaults() {
		fmt.Fprintf(&b, "%s = %s\n", s.name, quoteConf(s.value))
	}
	if len(c.overrides) > 0 {
		b.WriteString("\n# Of the project and the branch.\n")
	}
	for _, name := range slices.Sorted(maps.Keys(c.overrides)) {
		fmt.Fprintf(&b, "%s = %s\n", name, quoteConf(c.overrides[name]))
	}
	return b.String()
}

// quoteConf quotes a value for a configuration file.
func quoteConf(value string) string {
	return "'" + strings.NewReplacer(`\`, `\\`, `'`, `''`).Replace(value) + "'"
}

// hbaFile renders pg_hba.conf. The superuser has no way in but the admin
// socket, whatever password somebody may give it.
func (c *serverConfig) hbaFile() string {
	return "# Written at every start.\n" +
		"local all         " + superuser + "                peer map=" + identMap + "\n" +
		"local all         all                     scram-sha-256\n" +
		"host  all         " + superuser + " 0.0.0.0/0      reject\n" +
		"host  all         " + superuser + " ::/0           reject\n" +
		"host  replication all      0.0.0.0/0      reject\n" +
		"host  replication all      ::/0           reject\n" +
		"host  all         all      127.0.0.0/8    scram-sha-256\n" +
		"host  all         all      ::1/128        scram-sha-256\n"
}

// identFile renders pg_ident.conf.
func (c *serverConfig) identFile() string {
	var b strings.Builder
	b.WriteString("# Written at every start.\n")
	for _, name := range c.peers {
		fmt.Fprintf(&b, "%s %s %s\n", identMap, quoteToken(name), superuser)
	}
	return b.String()
}

// quoteToken quotes a word of pg_hba.conf or pg_ident.conf.
func quoteToken(word string) string { return `"` + strings.ReplaceAll(word, `"`, `""`) + `"` }

// peersOf returns the OS users that may be the superuser on the admin socket:
// root, and whoever this daemon runs as. The user that Postgres runs as is not
// among them when the two differ: a program that a query managed to start
// would otherwise be one psql away from every other branch.
func peersOf(uid int) []string {
	peers := []string{"root"}
	if u, err := user.LookupId(strconv.Itoa(uid)); err == nil && u.Username != "root" {
		peers = append(peers, u.Username)
	}
	return peers
}

// args renders the command line of postgres.
func (c *serverConfig) args() []string {
	args := []string{"-D", c.pgdata}
	for _, s := range c.forced() {
		args = append(args, "-c", s.name+"="+s.value)
	}
	return args
}

// override sets the user's settings: the project's, and over them the branch's.
// What a project does to the outside, its branches do not do, unless asked to.
func (c *serverConfig) override(project, branch map[string]string) {
	c.overrides = make(map[string]string, len(project)+len(branch))
	for name, value := range project {
		if name = strings.ToLower(name); c.keep || !slices.Contains(outwardSettings, name) {
			c.overrides[name] = value
		}
	}
	for name, value := range branch {
		c.overrides[strings.ToLower(name)] = value
	}
}
