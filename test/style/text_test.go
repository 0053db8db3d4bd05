package style

import (
	"fmt"
	"go/ast"
	"go/token"
	"os/exec"
	"path"
	"regexp"
	"strings"

	"github.com/bough-db/bough/test/readme"
)

const invariantsMax = 10

// self is this directory, whose files name what they forbid and require.
const self = "test/style/"

// invariants checks that a test names each invariant.
func invariants(t *tree) (found []finding) {
	for i := 1; i <= invariantsMax; i++ {
		if !t.testsMatch(regexp.MustCompile(fmt.Sprintf(`\bI%d\b`, i)), "") {
			found = append(found, finding{path: "test", what: fmt.Sprintf("no test names invariant I%d", i)})
		}
	}
	return found
}

// sentinels checks that a test names each exported error variable: in its own
// directory by its name, elsewhere by its qualified name.
func sentinels(t *tree) (found []finding) {
	for _, f := range t.source {
		if f.test {
			continue
		}
		for _, decl := range f.ast.Decls {
			d, ok := decl.(*ast.GenDecl)
			if !ok || d.Tok != token.VAR {
				continue
			}
			for _, spec := range d.Specs {
				for _, name := range spec.(*ast.ValueSpec).Names {
					if !strings.HasPrefix(name.Name, "Err") {
						continue
					}
					local := regexp.MustCompile(`\b` + name.Name + `\b`)
					qualified := regexp.MustCompile(`\b` + f.ast.Name.Name + `\.` + name.Name + `\b`)
					if !t.testsMatch(local, path.Dir(f.path)) && !t.testsMatch(qualified, "") {
						found = append(found, t.at(name.Pos(), "no test names %s.%s", f.ast.Name.Name, name.Name))
					}
				}
			}
		}
	}
	return found
}

// testsMatch tells whether a test in dir, or anywhere if dir is empty, matches re.
// A conformance suite is a test too, although other packages import it.
func (t *tree) testsMatch(re *regexp.Regexp, dir string) bool {
	for _, f := range t.source {
		test := f.test || importName(f.ast, "testing") != ""
		if test && !strings.HasPrefix(f.path, self) && (dir == "" || path.Dir(f.path) == dir) && re.MatchString(f.text) {
			return true
		}
	}
	return false
}

// forbidden are the words that no file has. The names of hosts are put together
// here, so that this file keeps the rule too.
var forbidden = []struct {
	re   *regexp.Regexp
	what string
}{
	{regexp.MustCompile(`\b(DESIGN|STYLE|FAULTS|FIELD|LIBRARIES|CONTRACT)\.md\b`), "a document that is not here"},
	{regexp.MustCompile(`(?i)\b(this|previous|earlier|next|last) session\b`), "how it was made"},
	{regexp.MustCompile(`(?i)\b(issue|ticket) #?[0-9]+\b`), "how it was made"},
	{regexp.MustCompile(`\bCEO\b|(?i)\bsub-?agents?\b`), "how it was made"},
	{regexp.MustCompile(`\b(FIXME|XXX)\b`), "unfinished: mend it, or write TODO: and the reason"},
	{regexp.MustCompile(`\bTODO\b($|[^:]|:\s*$)`), "TODO without a colon and a reason"},
	{registries("proxy.golang", "sum.golang", "index.golang", "registry.npmjs", "deb.debian", "security.debian",
		"files.pythonhosted", "static.crates"), "the host of a package registry"},
}

func registries(names ...string) *regexp.Regexp {
	for i, name := range names {
		names[i] = regexp.QuoteMeta(name)
	}
	return regexp.MustCompile(`\b(` + strings.Join(names, "|") + `)\.(org|com|io)\b`)
}

// words finds forbidden words.
func words(t *tree) (found []finding) {
	for _, x := range t.text {
		if strings.HasPrefix(x.path, self) || strings.ContainsRune(x.content, 0) {
			continue
		}
		for i, line := range strings.Split(x.content, "\n") {
			for _, w := range forbidden {
				if m := w.re.FindString(line); m != "" {
					found = append(found, finding{x.path, i + 1, fmt.Sprintf("%q: %s", strings.TrimSpace(m), w.what)})
				}
			}
		}
	}
	return found
}

// shell checks the syntax of scripts and of the shell blocks of documents.
func shell(t *tree) (found []finding) {
	runs := false
	for _, x := range t.text {
		switch {
		case inTestdata(x.path):
		case strings.HasPrefix(x.content, "#!/usr/bin/env bash") || strings.HasPrefix(x.content, "#!/bin/bash"):
			if msg := bashSyntax(x.content); msg != "" {
				found = append(found, finding{x.path, 0, msg})
			}
		case strings.HasSuffix(x.path, ".md"):
			blocks, err := readme.Blocks(x.content)
			if err != nil {
				found = append(found, finding{x.path, 0, err.Error()})
			}
			for _, b := range blocks {
				runs = runs || b.Run && x.path == "README.md"
				if msg := bashSyntax(b.Text); msg != "" {
					found = append(found, finding{x.path, b.Line, msg})
				}
			}
		}
	}
	if !runs {
		found = append(found, finding{path: "README.md", what: "no shell block is marked to be run"})
	}
	return found
}

// bashSyntax returns what bash has to say against a program, or "".
func bashSyntax(program string) string {
	cmd := exec.Command("bash", "-n")
	cmd.Stdin = strings.NewReader(program)
	out, err := cmd.CombinedOutput()
	if err == nil {
		return ""
	}
	first, _, _ := strings.Cut(strings.TrimSpace(string(out)), "\n")
	return "shell syntax: " + first
}

// link matches the target of an inline link or image.
var link = regexp.MustCompile(`\]\(([^)\s]+)\)`)

// links checks that the relative links of documents lead to a file or directory.
func links(t *tree) (found []finding) {
	exists := make(map[string]bool)
	for _, x := range t.text {
		for name := x.path; name != "."; name = path.Dir(name) {
			exists[name] = true
		}
	}
	for _, x := range t.text {
		if !strings.HasSuffix(x.path, ".md") || inTestdata(x.path) {
			continue
		}
		for i, line := range strings.Split(x.content, "\n") {
			for _, m := range link.FindAllStringSubmatch(line, -1) {
				target, _, _ := strings.Cut(m[1], "#")
				if target == "" || strings.Contains(target, ":") {
					continue // within the document, or an address
				}
				if !exists[path.Join(path.Dir(x.path), target)] {
					found = append(found, finding{x.path, i + 1, "link to nothing: " + target})
				}
			}
		}
	}
	return found
}
