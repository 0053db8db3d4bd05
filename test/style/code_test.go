package style

import (
	"go/ast"
	"path"
	"slices"
	"strings"
)

// layers orders the directories at the root: a package imports only from layers
// below its own, or from its own directory.
var layers = [][]string{
	{"vfs"},
	{"wal", "cache", "objstore"},
	{"cow"},
	{"blockdev"},
	{"branchfs"},
	{"postgres"},
	{"api", "proxy"},
	{"cmd"},
	{"test"},
}

// apart lists further pairs that do not know each other, though their layers would
// allow it.
var apart = map[string][]string{
	"blockdev": {"cow", "wal", "cache", "objstore"},
}

// layerOf returns the number of a directory's layer, or -1.
func layerOf(dir string) int {
	return slices.IndexFunc(layers, func(l []string) bool { return slices.Contains(l, dir) })
}

func top(name string) string {
	dir, _, _ := strings.Cut(name, "/")
	return dir
}

// imports checks the direction of imports. Tests may import what they like.
func imports(t *tree) (found []finding) {
	for _, f := range t.source {
		dir := top(f.path)
		if f.test || dir == "tools" || !strings.Contains(f.path, "/") {
			continue
		}
		if layerOf(dir) < 0 {
			found = append(found, t.at(f.ast.Package, "directory %s has no layer: give it one in test/style", dir))
			continue
		}
		for _, spec := range f.ast.Imports {
			rest, ours := strings.CutPrefix(strings.Trim(spec.Path.Value, `"`), t.module+"/")
			if to := top(rest); ours && to != dir && (layerOf(to) >= layerOf(dir) || slices.Contains(apart[dir], to)) {
				found = append(found, t.at(spec.Pos(), "%s may not import %s", dir, to))
			}
		}
	}
	return found
}

var badNames = []string{"util", "utils", "common", "helper", "helpers", "misc", "types", "base", "shared"}

// names checks the names of packages and of their directories.
func names(t *tree) (found []finding) {
	for _, f := range t.source {
		name := strings.TrimSuffix(f.ast.Name.Name, "_test")
		if slices.Contains(badNames, name) || slices.Contains(badNames, path.Base(path.Dir(f.path))) {
			found = append(found, t.at(f.ast.Package, "package %s: name it after what it is", name))
		}
	}
	return found
}

const (
	functionLinesMax = 120
	fileLinesMax     = 600
)

// length checks the size of functions and files.
func length(t *tree) (found []finding) {
	for _, f := range t.source {
		if n := strings.Count(f.text, "\n"); n > fileLinesMax {
			found = append(found, t.at(f.ast.Package, "file of %d lines, more than %d", n, fileLinesMax))
		}
		for _, decl := range f.ast.Decls {
			if fn, ok := decl.(*ast.FuncDecl); ok {
				if n := t.line(fn.End()) - t.line(fn.Pos()) + 1; n > functionLinesMax {
					found = append(found, t.at(fn.Pos(), "%s has %d lines, more than %d", fn.Name.Name, n, functionLinesMax))
				}
			}
		}
	}
	return found
}

// sleep finds uses of time.Sleep.
func sleep(t *tree) (found []finding) {
	for _, f := range t.source {
		name := importName(f.ast, "time")
		if name == "" {
			continue
		}
		ast.Inspect(f.ast, func(n ast.Node) bool {
			if sel, ok := n.(*ast.SelectorExpr); ok && sel.Sel.Name == "Sleep" {
				if x, ok := sel.X.(*ast.Ident); ok && x.Name == name {
					found = append(found, t.at(sel.Pos(), "time.Sleep: wait for what you wait for"))
				}
			}
			return true
		})
	}
	return found
}

// panics finds calls of panic without a comment that says why it is unreachable. A
// test may also panic on purpose, to see what happens, and a handler as net/http asks
// it to.
func panics(t *tree) (found []finding) {
	for _, f := range t.source {
		excused := make(map[int]bool)
		for _, group := range f.ast.Comments {
			for _, c := range group.List {
				reason, ok := strings.CutPrefix(c.Text, "// unreachable:")
				if !ok && f.test {
					reason, ok = strings.CutPrefix(c.Text, "// on purpose:")
				}
				if ok && strings.TrimSpace(reason) != "" {
					// The comment may run over several lines; the call follows it.
					excused[t.line(c.Pos())] = true
					excused[t.line(group.End())+1] = true
				}
			}
		}
		ast.Inspect(f.ast, func(n ast.Node) bool {
			call, ok := n.(*ast.CallExpr)
			if !ok {
				return true
			}
			fn, ok := call.Fun.(*ast.Ident)
			if ok && fn.Name == "panic" && !excused[t.line(call.Pos())] && !abortsHandler(call) {
				found = append(found, t.at(call.Pos(), "panic: return an error, or say why with // unreachable:"))
			}
			return true
		})
	}
	return found
}

// abortsHandler recognises panic(http.ErrAbortHandler).
func abortsHandler(call *ast.CallExpr) bool {
	if len(call.Args) != 1 {
		return false
	}
	sel, ok := call.Args[0].(*ast.SelectorExpr)
	return ok && sel.Sel.Name == "ErrAbortHandler"
}
