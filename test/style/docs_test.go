package style

import (
	"go/ast"
	"go/token"
	"maps"
	"path"
	"regexp"
	"slices"
	"strings"
)

// packageDoc checks that every package has a comment that begins well, and only one
// file that holds it.
func packageDoc(t *tree) (found []finding) {
	byDir := make(map[string][]source)
	for _, f := range t.source {
		// External test packages belong to the package that they test.
		if !strings.HasSuffix(f.ast.Name.Name, "_test") {
			byDir[path.Dir(f.path)] = append(byDir[path.Dir(f.path)], f)
		}
	}
	for _, dir := range slices.Sorted(maps.Keys(byDir)) {
		files := byDir[dir]
		documented := 0
		for _, f := range files {
			if f.ast.Doc == nil || isDirective(f.ast.Doc) {
				continue
			}
			documented++
			want := "Package " + f.ast.Name.Name + " "
			text := f.ast.Doc.Text()
			if f.ast.Name.Name == "main" && !strings.HasPrefix(text, want) {
				want = "Command " + path.Base(dir) + " "
			}
			sentence, _, _ := strings.Cut(strings.ReplaceAll(text, "\n", " ")+" ", ". ")
			if !strings.HasPrefix(text, want) || len(strings.Fields(sentence)) < 5 {
				found = append(found, t.at(f.ast.Doc.Pos(), "package comment has to begin with a sentence %q", want+"…"))
			}
		}
		switch {
		case documented == 0:
			found = append(found, t.at(files[0].ast.Package, "package %s has no comment", files[0].ast.Name.Name))
		case documented > 1:
			found = append(found, t.at(files[0].ast.Package, "package %s has comments in %d files", files[0].ast.Name.Name, documented))
		}
	}
	return found
}

// isDirective tells whether a comment is only for tools, such as a build tag.
func isDirective(g *ast.CommentGroup) bool { return strings.TrimSpace(g.Text()) == "" }

// exportedDoc checks the comments of exported identifiers.
func exportedDoc(t *tree) (found []finding) {
	for _, f := range t.source {
		if f.test {
			continue
		}
		for _, decl := range f.ast.Decls {
			switch d := decl.(type) {
			case *ast.FuncDecl:
				if d.Name.IsExported() && receiverExported(d) {
					found = append(found, t.documented(d.Name, d.Doc)...)
				}
			case *ast.GenDecl:
				for _, spec := range d.Specs {
					found = append(found, t.specDoc(d, spec)...)
				}
			}
		}
	}
	return found
}

func receiverExported(fn *ast.FuncDecl) bool {
	if fn.Recv == nil {
		return true
	}
	exported := false
	ast.Inspect(fn.Recv.List[0].Type, func(n ast.Node) bool {
		if id, ok := n.(*ast.Ident); ok {
			exported = id.IsExported()
			return false
		}
		return true
	})
	return exported
}

// documented checks that doc begins with name, after an article if there is one.
func (t *tree) documented(name *ast.Ident, doc *ast.CommentGroup) []finding {
	if doc == nil {
		return []finding{t.at(name.Pos(), "%s is not documented", name.Name)}
	}
	text := doc.Text()
	for _, article := range []string{"A ", "An ", "The "} {
		text = strings.TrimPrefix(text, article)
	}
	rest, ok := strings.CutPrefix(text, name.Name)
	if !ok || rest != "" && wordChar.MatchString(rest[:1]) {
		return []finding{t.at(name.Pos(), "the comment of %s has to begin with it", name.Name)}
	}
	return nil
}

var wordChar = regexp.MustCompile(`^\w`)

func (t *tree) specDoc(d *ast.GenDecl, spec ast.Spec) (found []finding) {
	switch s := spec.(type) {
	case *ast.TypeSpec:
		if !s.Name.IsExported() {
			return nil
		}
		doc := s.Doc
		if doc == nil && !d.Lparen.IsValid() {
			doc = d.Doc
		}
		found = t.documented(s.Name, doc)
		switch typ := s.Type.(type) {
		case *ast.StructType:
			found = append(found, t.fieldDocs(s.Name.Name, typ.Fields, true)...)
		case *ast.InterfaceType:
			found = append(found, t.fieldDocs(s.Name.Name, typ.Methods, false)...)
		}
	case *ast.ValueSpec:
		if s.Doc != nil || s.Comment != nil || d.Doc != nil && (d.Lparen.IsValid() || d.Tok == token.CONST) {
			return nil // the comment of a group is for all of it
		}
		for _, name := range s.Names {
			if name.IsExported() {
				found = append(found, t.documented(name, d.Doc)...)
			}
		}
	}
	return found
}

// fieldDocs checks the fields of a struct, or the methods of an interface. Fields on
// lines that follow each other are a group, in which one comment is enough; methods
// each need their own.
func (t *tree) fieldDocs(typ string, fields *ast.FieldList, group bool) (found []finding) {
	var missing []finding // of the group
	commented, lastLine := false, -1
	for _, f := range fields.List {
		start := f.Pos()
		if f.Doc != nil {
			start = f.Doc.Pos()
		}
		if !group || t.line(start) != lastLine+1 {
			if !commented {
				found = append(found, missing...)
			}
			missing, commented = nil, false
		}
		commented = commented || f.Doc != nil || f.Comment != nil
		for _, name := range f.Names {
			if name.IsExported() {
				missing = append(missing, t.at(name.Pos(), "%s.%s is not documented", typ, name.Name))
			}
		}
		lastLine = t.line(f.End())
	}
	if !commented {
		found = append(found, missing...)
	}
	return found
}
