package proxy

import "strings"

const (
	defaultBranch = "main"

	nameBytesMax = 63

	// hintName says how a client names a branch.
	hintName = `Name the branch in the database, as in "dbname=app@demo/dev", ` +
		`or in the options, as in PGOPTIONS="-c branch=demo/dev". A project alone means its branch main.`
)

// route is the branch that a client wants.
type route struct{ project, branch string }

// String returns the route as users write it.
func (r route) String() string { return r.project + "/" + r.branch }

// parseRoute reads PROJECT or PROJECT/BRANCH.
func parseRoute(text string) (route, error) {
	r := route{branch: defaultBranch}
	var slash bool
	var branch string
	if r.project, branch, slash = strings.Cut(text, "/"); slash {
		r.branch = branch
	}
	if !validName(r.project) || !validName(r.branch) {
		return route{}, refuse(codeUnknownBranch, hintName,
			"invalid branch name %q: want PROJECT or PROJECT/BRANCH, each of a-z, 0-9, dot, dash and underscore", clip(text))
	}
	return r, nil
}

// validName reports whether name fits the grammar of projects and branches:
// [a-z0-9][a-z0-9._-]{0,62} without "..".
func validName(name string) bool {
	if name == "" || len(name) > nameBytesMax || strings.Contains(name, "..") {
		return false
	}
	for i := range len(name) {
		c := name[i]
		switch {
		case 'a' <= c && c <= 'z', '0' <= c && c <= '9':
		case i > 0 && (c == '.' || c == '_' || c == '-'):
		default:
			return false
		}
	}
	return true
}

// clip shortens a name for a message.
func clip(name string) string {
	if len(name) > 2*nameBytesMax {
		return name[:2*nameBytesMax] + "..."
	}
	return name
}

// takeRoute finds the branch that st names and removes the naming from st, so
// that Postgres sees a plain database and only its own options.
func takeRoute(st *startup) (route, error) {
	options, _ := st.get("options")
	inOptions, rest, err := takeBranchOption(options)
	if err != nil {
		return route{}, err
	}
	if rest != options {
		st.set("options", rest)
	}

	database, _ := st.get("database")
	user, _ := st.get("user")
	at := strings.LastIndexByte(database, '@')
	if inOptions != "" && database == user {
		// Not a choice but libpq's default: a role may have an @ in its name.
		at = -1
	}
	switch {
	case at < 0 && inOptions == "":
		return route{}, refuse(codeUnknownBranch, hintName, "no branch named: this port serves many")
	case at < 0:
		return parseRoute(inOptions)
	}

	r, err := parseRoute(database[at+1:])
	if err != nil {
		return route{}, err
	}
	if inOptions != "" {
		other, err := parseRoute(inOptions)
		if err != nil {
			return route{}, err
		}
		if other != r {
			return route{}, refuse(codeUnknownBranch,
				"Name it in one place. In a database name, what follows the last @ is a branch.",
				"the database names branch %q and the options name branch %q", r, other)
		}
	}
	st.set("database", database[:at])
	return r, nil
}
