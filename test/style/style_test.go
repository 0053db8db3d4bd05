package style

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"
	"github.com/rogpeppe/go-internal/txtar"
)

// rules are all rules, by the name that package comment, testdata and -run use.
var rules = []struct {
	name  string
	check func(*tree) []finding
}{
	{"package-doc", packageDoc},
	{"exported-doc", exportedDoc},
	{"imports", imports},
	{"names", names},
	{"length", length},
	{"sleep", sleep},
	{"panic", panics},
	{"sentinels", sentinels},
	{"invariants", invariants},
	{"words", words},
	{"shell", shell},
	{"links", links},
}

// TestTree checks this repository.
func TestTree(t *testing.T) {
	tree, err := readTree(os.DirFS("../.."))
	if err != nil {
		t.Fatal(err)
	}
	for _, rule := range rules {
		t.Run(rule.name, func(t *testing.T) {
			for _, f := range rule.check(tree) {
				t.Error(f)
			}
		})
	}
}

// TestRules checks every rule on a tree that breaks it. The file named want in the
// archive lists what the rule has to find there, and by that also what not.
func TestRules(t *testing.T) {
	for _, rule := range rules {
		t.Run(rule.name, func(t *testing.T) {
			archive, err := txtar.ParseFile(filepath.Join("testdata", rule.name+".txtar"))
			if err != nil {
				t.Fatal(err)
			}
			fsys := fstest.MapFS{"go.mod": {Data: []byte("module example.com/m\n")}}
			want := ""
			for _, f := range archive.Files {
				data := expand(string(f.Data))
				if f.Name == "want" {
					want = data
					continue
				}
				fsys[f.Name] = &fstest.MapFile{Data: []byte(data)}
			}
			tree, err := readTree(fsys)
			if err != nil {
				t.Fatal(err)
			}
			got := ""
			for _, f := range rule.check(tree) {
				// What bash says after this depends on its version.
				line, _, _ := strings.Cut(f.String(), "shell syntax: ")
				got += strings.TrimSpace(line) + "\n"
			}
			if want == "" {
				t.Error("the example has no file named want, or an empty one")
			}
			if d := cmp.Diff(want, got); d != "" {
				t.Errorf("findings (-want +got):\n%s", d)
			}
		})
	}
}

// expand replaces what an example cannot spell out, or would be too long to.
func expand(s string) string {
	return strings.NewReplacer(
		"@HOST@", "registry.npmjs"+".org",
		"@TICK@", "```",
		"@LINES118@\n", strings.Repeat("\t_ = 0\n", 118),
		"@LINES119@\n", strings.Repeat("\t_ = 0\n", 119),
		"@LINES600@\n", strings.Repeat("// line\n", 600),
	).Replace(s)
}

// TestEveryExampleHasARule keeps testdata from outliving its rules.
func TestEveryExampleHasARule(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txtar")
	if err != nil || len(files) != len(rules) {
		t.Errorf("%d examples for %d rules (%v)", len(files), len(rules), err)
	}
}

// TestReadTreeRefuses: a tree that cannot be read is not a tree without findings.
func TestReadTreeRefuses(t *testing.T) {
	for name, fsys := range map[string]fstest.MapFS{
		"no module":    {"a/a.go": {Data: []byte("package a\n")}},
		"syntax error": {"go.mod": {Data: []byte("module m\n")}, "a/a.go": {Data: []byte("package\n")}},
	} {
		if _, err := readTree(fsys); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}
