package postgres

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"syscall"

	"github.com/bough-db/bough/cow"
)

const (
	// socketPathMax is sizeof(sockaddr_un.sun_path) less the final NUL.
	socketPathMax = 107
	// socketNameMax is the length of "/.s.PGSQL.65535.lock".
	socketNameMax = 20

	// stickyShared lets the server create its socket in a directory whose
	// other files it can neither replace nor remove.
	stickyShared = os.ModeSticky | 0o770
)

// account is the OS user that Postgres runs as.
type account struct {
	name     string
	uid, gid uint32
	groups   []uint32
	// other tells that it is not the user that this process runs as, so that
	// files have to be handed over and processes started under its name.
	other bool
}

// lookupAccount finds the user to run Postgres as: name, or "postgres" if this
// process is root, else the user it runs as.
func lookupAccount(name string) (account, error) {
	self := os.Geteuid()
	if self != 0 {
		a := account{uid: uint32(self), gid: uint32(os.Getegid()), name: strconv.Itoa(self)}
		if u, err := user.LookupId(strconv.Itoa(self)); err == nil {
			a.name = u.Username
		}
		if name != "" && name != a.name {
			return account{}, fmt.Errorf("run Postgres as user %s: only root can; this is %s", name, a.name)
		}
		return a, nil
	}
	if name == "" {
		name = "postgres"
	}
	u, err := user.Lookup(name)
	if err != nil {
		return account{}, fmt.Errorf("run Postgres as user %s: %w: create it (adduser --system --group %s), or name another one with --pg-user", name, err, name)
	}
	uid, errUID := strconv.ParseUint(u.Uid, 10, 32)
	gid, errGID := strconv.ParseUint(u.Gid, 10, 32)
	if errUID != nil || errGID != nil || uid == 0 {
		return account{}, fmt.Errorf("run Postgres as user %s: it has uid %s: Postgres refuses to run as root; name another one with --pg-user", name, u.Uid)
	}
	a := account{name: u.Username, uid: uint32(uid), gid: uint32(gid), other: true}
	ids, err := u.GroupIds()
	if err != nil {
		return account{}, fmt.Errorf("look up the groups of user %s: %w", name, err)
	}
	for _, id := range ids {
		if n, err := strconv.ParseUint(id, 10, 32); err == nil {
			a.groups = append(a.groups, uint32(n))
		}
	}
	return a, nil
}

// credential makes a child process run under the account; nil if it does anyway.
func (a account) credential() *syscall.Credential {
	if !a.other {
		return nil
	}
	return &syscall.Credential{Uid: a.uid, Gid: a.gid, Groups: a.groups}
}

// reach returns an error unless the account may enter dir and all above it.
func (a account) reach(dir string) error {
	if !a.other {
		return nil
	}
	for at := dir; ; at = filepath.Dir(at) {
		info, err := os.Stat(at)
		if err != nil {
			return fmt.Errorf("check that user %s can enter %s: %w", a.name, dir, err)
		}
		if !a.mayEnter(info) {
			return fmt.Errorf("user %s, under which Postgres runs, can not enter %s: chmod o+x %s, or choose another state directory", a.name, at, at)
		}
		if at == filepath.Dir(at) {
			return nil
		}
	}
}

func (a account) mayEnter(info os.FileInfo) bool {
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return true
	}
	mode := info.Mode().Perm()
	if st.Uid == a.uid {
		return mode&0o100 != 0
	}
	for _, gid := range append([]uint32{a.gid}, a.groups...) {
		if st.Gid == gid {
			return mode&0o010 != 0
		}
	}
	return mode&0o001 != 0
}

// layout says where everything of an endpoint is. Nothing of it but data is on
// a file system that the daemon serves.
type layout struct {
	state   string // <state>, absolute
	account account
}

// newLayout makes the directories that all endpoints share.
func newLayout(state string, a account) (layout, error) {
	state, err := filepath.Abs(state)
	if err != nil {
		return layout{}, fmt.Errorf("find state directory %s: %w", state, err)
	}
	l := layout{state: state, account: a}
	for _, dir := range []string{state, l.runRoot(), l.dataRoot()} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return layout{}, fmt.Errorf("make state directory: %w", err)
		}
		if err := a.reach(dir); err != nil {
			return layout{}, err
		}
	}
	return l, nil
}

func (l *layout) runRoot() string  { return filepath.Join(l.state, "run") }
func (l *layout) dataRoot() string { return filepath.Join(l.state, "data") }

func (l *layout) run(id cow.BranchID) string    { return filepath.Join(l.runRoot(), string(id)) }
func (l *layout) mount(id cow.BranchID) string  { return filepath.Join(l.dataRoot(), string(id)) }
func (l *layout) pgdata(id cow.BranchID) string { return filepath.Join(l.mount(id), "pgdata") }
func (l *layout) conf(id cow.BranchID) string   { return filepath.Join(l.run(id), "postgresql.conf") }
func (l *layout) hba(id cow.BranchID) string    { return filepath.Join(l.run(id), "pg_hba.conf") }
func (l *layout) ident(id cow.BranchID) string  { return filepath.Join(l.run(id), "pg_ident.conf") }
func (l *layout) log(id cow.BranchID) string    { return filepath.Join(l.run(id), "postgres.log") }
func (l *layout) record(id cow.BranchID) string { return filepath.Join(l.run(id), "endpoint.json") }

// socketDir returns the directory of the branch's admin socket: its run
// directory, or one with a short name where that is too long for a socket.
func (l *layout) socketDir(id cow.BranchID) (string, error) {
	if dir := l.run(id); len(dir)+socketNameMax <= socketPathMax {
		return dir, nil
	}
	short := filepath.Join(shortRoot(l.state), string(id))
	if len(short)+socketNameMax > socketPathMax {
		return "", fmt.Errorf("place the admin socket of branch %s: %s and %s are both too long for a unix socket (%d bytes at most): choose a shorter state directory",
			id, l.run(id), short, socketPathMax-socketNameMax)
	}
	return short, nil
}

// shortRoot is the directory for the sockets of the state directory: short,
// and the same every time.
func shortRoot(state string) string {
	sum := sha256.Sum256([]byte(state))
	name := "bough-" + hex.EncodeToString(sum[:5])
	if os.Geteuid() == 0 {
		return filepath.Join("/run", name)
	}
	if dir := os.Getenv("XDG_RUNTIME_DIR"); dir != "" && len(dir) <= 40 {
		return filepath.Join(dir, name)
	}
	return filepath.Join("/tmp", name+"-"+strconv.Itoa(os.Geteuid()))
}

// makeRun makes the branch's run and socket directories and returns the latter.
func (l *layout) makeRun(id cow.BranchID) (string, error) {
	sockets, err := l.socketDir(id)
	if err != nil {
		return "", err
	}
	dirs := []string{l.run(id)}
	if sockets != dirs[0] {
		if err := makePrivate(filepath.Dir(sockets)); err != nil {
			return "", err
		}
		dirs = append(dirs, sockets)
	}
	for _, dir := range dirs {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return "", fmt.Errorf("make run directory: %w", err)
		}
		if err := l.share(dir); err != nil {
			return "", err
		}
	}
	return sockets, nil
}

// share lets the account create files in dir, and nobody else look.
func (l *layout) share(dir string) error {
	if !l.account.other {
		return nil
	}
	if err := os.Chown(dir, -1, int(l.account.gid)); err != nil {
		return fmt.Errorf("hand directory to Postgres: %w", err)
	}
	if err := os.Chmod(dir, stickyShared); err != nil {
		return fmt.Errorf("hand directory to Postgres: %w", err)
	}
	return nil
}

// makePrivate makes dir in a directory that others may write to, and refuses
// one that somebody else made first.
func makePrivate(dir string) error {
	if err := os.Mkdir(dir, 0o711); err != nil && !os.IsExist(err) {
		return fmt.Errorf("make socket directory: %w", err)
	}
	info, err := os.Lstat(dir)
	if err != nil {
		return fmt.Errorf("make socket directory: %w", err)
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !info.IsDir() || !ok || int(st.Uid) != os.Geteuid() || info.Mode().Perm()&0o022 != 0 {
		return fmt.Errorf("make socket directory: %s is there already and is not ours: remove it, or choose a shorter state directory", dir)
	}
	return nil
}

// writeConf writes a file that Postgres reads and can not change.
func (l *layout) writeConf(path, text string) error {
	tmp := path + ".tmp"
	if err := os.WriteFile(tmp, []byte(text), 0o640); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	if l.account.other {
		if err := os.Chown(tmp, -1, int(l.account.gid)); err != nil {
			return fmt.Errorf("write %s: %w", path, err)
		}
	}
	if err := os.Rename(tmp, path); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return nil
}
