package api_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/bough-db/bough/api"
)

func TestCheckName(t *testing.T) {
	good := []string{"a", "0", "main", "a.b", "a_b-c", "pr-1234", strings.Repeat("a", 63), "a-", "a_"}
	for _, name := range good {
		if err := api.CheckName("branch", name); err != nil {
			t.Errorf("CheckName(%q) = %v, want nil", name, err)
		}
	}
	bad := map[string]string{
		"":                       "branch name is empty",
		"../x":                   `invalid branch name "../x": it starts with '.'`,
		"a..b":                   `invalid branch name "a..b": it contains ".."`,
		"a.":                     `invalid branch name "a.": it ends with '.'`,
		"a/b":                    `invalid branch name "a/b": it contains '/'`,
		"Main":                   `invalid branch name "Main": it has the upper-case letter 'M'`,
		"-x":                     `invalid branch name "-x": it starts with '-'`,
		"a b":                    `invalid branch name "a b": it contains ' '`,
		"é":                      `invalid branch name "é": it contains 'é'`,
		"a\x00":                  `invalid branch name "a\x00": it contains '\x00'`,
		"a@b":                    `invalid branch name "a@b": it contains '@'`,
		strings.Repeat("a", 300): `invalid branch name "` + strings.Repeat("a", 40) + `"…: it has 300 bytes`,
	}
	for name, want := range bad {
		err := api.CheckName("branch", name)
		var e *api.Error
		if !errors.As(err, &e) || e.Code != api.CodeInvalidName || e.Message != want || e.Hint == "" {
			t.Errorf("CheckName(%q) = %v, want %s and a hint", name, err, want)
		}
	}
}

func TestParseBranch(t *testing.T) {
	tests := []struct{ ref, project, branch string }{
		{"demo", "demo", "main"}, {"demo/dev", "demo", "dev"},
	}
	for _, tt := range tests {
		p, b, err := api.ParseBranch(tt.ref)
		if p != tt.project || b != tt.branch || err != nil {
			t.Errorf("ParseBranch(%q) = %q, %q, %v; want %q, %q", tt.ref, p, b, err, tt.project, tt.branch)
		}
	}
	for _, ref := range []string{"", "/", "demo/", "/dev", "a/b/c", "demo/dev@-10m"} {
		if _, _, err := api.ParseBranch(ref); api.CodeOf(err) != api.CodeInvalidName {
			t.Errorf("ParseBranch(%q) = %v, want an invalid name", ref, err)
		}
	}
}

func TestErrorIsByCode(t *testing.T) {
	err := error(api.Errorf(api.CodeNotFound, "no project x"))
	if !errors.Is(err, &api.Error{Code: api.CodeNotFound}) {
		t.Errorf("errors.Is by code = false for %v", err)
	}
	if errors.Is(err, &api.Error{Code: api.CodeInUse}) {
		t.Errorf("errors.Is by another code = true for %v", err)
	}
	if api.CodeOf(nil) != "" || api.CodeOf(errors.New("x")) != api.CodeInternal {
		t.Error("CodeOf of nil or of a plain error is wrong")
	}
}
