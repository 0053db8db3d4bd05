package api

import (
	"strconv"
	"strings"
)

// NameBytesMax is the length that a project's or branch's name may have.
const NameBytesMax = 63

// MainBranch is the branch that every project starts with, and the one meant
// where only a project is named.
const MainBranch = "main"

// CheckName returns nil when name may name a kind ("project" or "branch"):
// [a-z0-9][a-z0-9._-]{0,62}, without "..". Otherwise it returns an *Error with
// CodeInvalidName whose message says what is wrong with it.
func CheckName(kind, name string) error {
	why := nameProblem(name)
	if why == "" {
		return nil
	}
	if name == "" {
		return Errorf(CodeInvalidName, "%s name is empty", kind).WithHint("%s", nameRule)
	}
	return Errorf(CodeInvalidName, "invalid %s name %s: %s", kind, quoteShort(name), why).WithHint("%s", nameRule)
}

const nameRule = "use 1 to 63 of a-z, 0-9, '-', '_' and '.', starting with a letter or a digit"

// nameProblem says what keeps name from being one, or "".
func nameProblem(name string) string {
	if name == "" {
		return "it is empty"
	}
	if len(name) > NameBytesMax {
		return "it has " + strconv.Itoa(len(name)) + " bytes"
	}
	for i, r := range name {
		switch {
		case r >= 'a' && r <= 'z', r >= '0' && r <= '9':
		case r >= 'A' && r <= 'Z':
			return "it has the upper-case letter " + strconv.QuoteRune(r)
		case r == '.' || r == '_' || r == '-':
			if i == 0 {
				return "it starts with " + strconv.QuoteRune(r)
			}
		default:
			return "it contains " + strconv.QuoteRune(r)
		}
	}
	if strings.HasSuffix(name, ".") {
		return "it ends with '.'"
	}
	if strings.Contains(name, "..") {
		return `it contains ".."`
	}
	return ""
}

// quoteShort quotes s, cut to a length that fits on a line.
func quoteShort(s string) string {
	const most = 40
	if len(s) > most {
		return strconv.Quote(s[:most]) + "…"
	}
	return strconv.Quote(s)
}

// ParseBranch splits "project/branch", or "project" for its main branch, and
// checks both names.
func ParseBranch(ref string) (project, branch string, err error) {
	project, branch, slash := strings.Cut(ref, "/")
	if !slash {
		branch = MainBranch
	}
	if err := CheckName("project", project); err != nil {
		return "", "", err
	}
	if err := CheckName("branch", branch); err != nil {
		return "", "", err
	}
	return project, branch, nil
}
