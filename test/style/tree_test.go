package style

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path"
	"regexp"
	"slices"
	"strings"
)

// tree is a repository, read once for all rules.
type tree struct {
	module string
	fset   *token.FileSet
	source []source // Go files outside of testdata
	text   []text   // all files
}

// source is a parsed Go file.
type source struct {
	path string // from the root, with slashes
	ast  *ast.File
	test bool // a _test.go file
	text string
}

// text is any file.
type text struct {
	path, content string
}

// finding is a place that breaks a rule.
type finding struct {
	path string
	line int // from 1; 0 is the whole file
	what string
}

func (f finding) String() string {
	if f.line == 0 {
		return fmt.Sprintf("%s: %s", f.path, f.what)
	}
	return fmt.Sprintf("%s:%d: %s", f.path, f.line, f.what)
}

// skipped are directories that are no part of the tree: what git ignores, and a
// module of its own.
var skipped = []string{".git", "bin", ".bough", "node_modules"}

var moduleLine = regexp.MustCompile(`(?m)^module (\S+)$`)

// readTree reads the repository at the root of fsys.
func readTree(fsys fs.FS) (*tree, error) {
	t := &tree{fset: token.NewFileSet()}
	err := fs.WalkDir(fsys, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			if slices.Contains(skipped, d.Name()) {
				return fs.SkipDir
			}
			return nil
		}
		if !d.Type().IsRegular() {
			return nil
		}
		content, err := fs.ReadFile(fsys, name)
		if err != nil {
			return err
		}
		t.text = append(t.text, text{name, string(content)})
		if strings.HasSuffix(name, ".go") && !inTestdata(name) {
			return t.parse(name, string(content))
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	for _, x := range t.text {
		if m := moduleLine.FindStringSubmatch(x.content); x.path == "go.mod" && m != nil {
			t.module = m[1]
		}
	}
	if t.module == "" {
		return nil, fmt.Errorf("no module line in go.mod")
	}
	return t, nil
}

func (t *tree) parse(name, content string) error {
	file, err := parser.ParseFile(t.fset, name, content, parser.ParseComments|parser.SkipObjectResolution)
	if err != nil {
		return err
	}
	t.source = append(t.source, source{name, file, strings.HasSuffix(name, "_test.go"), content})
	return nil
}

func inTestdata(name string) bool {
	return slices.Contains(strings.Split(path.Dir(name), "/"), "testdata")
}

// at makes a finding at a position of a Go file.
func (t *tree) at(pos token.Pos, format string, args ...any) finding {
	p := t.fset.Position(pos)
	return finding{p.Filename, p.Line, fmt.Sprintf(format, args...)}
}

func (t *tree) line(pos token.Pos) int { return t.fset.Position(pos).Line }

// importName returns the name under which a file uses an imported package, or "".
func importName(file *ast.File, importPath string) string {
	for _, spec := range file.Imports {
		if strings.Trim(spec.Path.Value, `"`) != importPath {
			continue
		}
		if spec.Name != nil {
			return spec.Name.Name
		}
		return path.Base(importPath)
	}
	return ""
}
