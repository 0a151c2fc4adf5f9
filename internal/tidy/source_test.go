package tidy

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// Limits in lines.
const (
	maxFileLines     = 700
	maxTestFileLines = 1200
	maxFuncLines     = 100 // aim for 70
)

// banned are calls and types with the packages (path prefixes) that may use
// them and what to use instead.
var banned = []struct {
	pkg     string // import path
	names   *regexp.Regexp
	allowed []string
	instead string
}{
	{"fmt", regexp.MustCompile(`^Print`), nil, "write to the app's output, or return a value"},
	{"log", regexp.MustCompile(`.`), nil, "return the error, or use the *slog.Logger from the options"},
	{"os", regexp.MustCompile(`^Exit$`), []string{"cmd/", "bench"}, "return an error"},
	{"os", regexp.MustCompile(`^(Stdin|Stdout|Stderr)$`), []string{"cmd/", "bench"}, "take an io.Reader or io.Writer"},
	{"time", regexp.MustCompile(`^(Since|Until)$`), []string{"internal/clock", "cmd/", "bench", "internal/oracle"}, "internal/clock"},
	{"math/rand", regexp.MustCompile(`.`), nil, "a seeded math/rand/v2 generator"},
	{"math/rand/v2", regexp.MustCompile(`^(Int|Uint|N$|Float|Perm|Shuffle|NormFloat|ExpFloat)`), nil, "a seeded *rand.Rand"},
	{"sync", regexp.MustCompile(`^(Mutex|RWMutex)$`), nonLockrank, "internal/lockrank"},
	{"io/ioutil", regexp.MustCompile(`.`), nil, "io and os"},
}

// nonLockrank is everything except the packages whose locks have ranks.
var nonLockrank = []string{"cmd/", "bench", "blockdev", "fusefs", "extract", "report", "mkfs", "check", "scrub", "stream", "internal/lockrank",
	"internal/volume", "internal/block", "internal/compress", "internal/csum", "internal/clock", "internal/fstree", "internal/invariants", "internal/fault", "internal/oracle"}

type source struct {
	path string // relative to the module
	fset *token.FileSet
	file *ast.File
	text []byte
}

func (s source) line(p token.Pos) string {
	return s.path + ":" + strconv.Itoa(s.fset.Position(p).Line)
}

func (s source) isTest() bool { return strings.HasSuffix(s.path, "_test.go") }

// sources parses every Go file of the module.
func sources(t *testing.T) []source {
	t.Helper()
	top := root(t)
	var all []source
	err := filepath.WalkDir(top, func(file string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(top, file)
		if err != nil {
			return err
		}
		if d.IsDir() {
			if name := d.Name(); file != top && (strings.HasPrefix(name, ".") || name == "testdata") || rel == "tools" {
				return filepath.SkipDir
			}
			return nil
		}
		if filepath.Ext(file) != ".go" {
			return nil
		}
		s := source{path: filepath.ToSlash(rel), fset: token.NewFileSet()}
		if s.text, err = os.ReadFile(file); err != nil {
			return err
		}
		s.file, err = parser.ParseFile(s.fset, file, s.text, parser.ParseComments)
		all = append(all, s)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(all) < 20 {
		t.Fatalf("only %d Go files found", len(all))
	}
	return all
}

func TestFilesAndFunctionsStayShort(t *testing.T) {
	t.Parallel()
	for _, s := range sources(t) {
		limit := maxFileLines
		if s.isTest() {
			limit = maxTestFileLines
		}
		if n := strings.Count(string(s.text), "\n"); n > limit {
			t.Errorf("%s has %d lines, limit %d: split it by concept", s.path, n, limit)
		}
		for _, d := range s.file.Decls {
			fn, ok := d.(*ast.FuncDecl)
			if !ok || s.isTest() {
				continue
			}
			if n := s.fset.Position(fn.End()).Line - s.fset.Position(fn.Pos()).Line + 1; n > maxFuncLines {
				t.Errorf("%s: %s has %d lines, limit %d", s.line(fn.Pos()), fn.Name.Name, n, maxFuncLines)
			}
		}
	}
}

func TestBannedCallsAreNotMade(t *testing.T) {
	t.Parallel()
	for _, s := range sources(t) {
		if s.isTest() {
			continue
		}
		names := importNames(s.file)
		ast.Inspect(s.file, func(n ast.Node) bool {
			sel, ok := n.(*ast.SelectorExpr)
			if !ok {
				return true
			}
			x, ok := sel.X.(*ast.Ident)
			if !ok || x.Obj != nil { // Obj: a local variable of that name
				return true
			}
			for _, b := range banned {
				if names[x.Name] == b.pkg && b.names.MatchString(sel.Sel.Name) && !mayUse(s.path, b.allowed) {
					t.Errorf("%s uses %s.%s: use %s", s.line(sel.Pos()), b.pkg, sel.Sel.Name, b.instead)
				}
			}
			return true
		})
	}
}

// A package may name time.Now as the default of a clock that its caller can
// replace, but not call it.
func TestTimeIsNotReadDirectly(t *testing.T) {
	t.Parallel()
	allowed := []string{"internal/clock", "cmd/", "bench", "internal/oracle"}
	for _, s := range sources(t) {
		if s.isTest() || mayUse(s.path, allowed) {
			continue
		}
		names := importNames(s.file)
		ast.Inspect(s.file, func(n ast.Node) bool {
			call, ok := n.(*ast.CallExpr)
			if !ok {
				return true
			}
			if sel, ok := call.Fun.(*ast.SelectorExpr); ok && sel.Sel.Name == "Now" {
				if x, ok := sel.X.(*ast.Ident); ok && names[x.Name] == "time" {
					t.Errorf("%s calls time.Now: use internal/clock, or a clock from the options", s.line(call.Pos()))
				}
			}
			return true
		})
	}
}

func mayUse(path string, allowed []string) bool {
	return slices.ContainsFunc(allowed, func(prefix string) bool { return strings.HasPrefix(path, prefix) })
}

func importNames(f *ast.File) map[string]string {
	names := map[string]string{}
	for _, imp := range f.Imports {
		path, err := strconv.Unquote(imp.Path.Value)
		if err != nil {
			continue // the parser has accepted it, so it is quoted
		}
		name := path[strings.LastIndex(path, "/")+1:]
		if name == "v2" {
			name = filepath.Base(filepath.Dir(path))
		}
		if imp.Name != nil {
			name = imp.Name.Name
		}
		names[name] = path
	}
	return names
}

func TestExportedNamesAreDocumented(t *testing.T) {
	t.Parallel()
	for _, s := range sources(t) {
		if s.isTest() {
			continue
		}
		for _, d := range s.file.Decls {
			switch d := d.(type) {
			case *ast.FuncDecl:
				if d.Doc == nil && d.Name.IsExported() && exportedReceiver(d) {
					t.Errorf("%s: %s has no doc comment", s.line(d.Pos()), d.Name.Name)
				}
			case *ast.GenDecl:
				for _, spec := range d.Specs {
					if ts, ok := spec.(*ast.TypeSpec); ok && ts.Name.IsExported() && d.Doc == nil && ts.Doc == nil && ts.Comment == nil {
						t.Errorf("%s: type %s has no doc comment", s.line(ts.Pos()), ts.Name.Name)
					}
				}
			}
		}
	}
}

// methodsThatSpeakForThemselves implement well-known interfaces.
var methodsThatSpeakForThemselves = []string{"Error", "Unwrap", "Is", "String", "Len", "Less", "Swap"}

func exportedReceiver(d *ast.FuncDecl) bool {
	if d.Recv == nil {
		return true
	}
	if slices.Contains(methodsThatSpeakForThemselves, d.Name.Name) {
		return false
	}
	typ := d.Recv.List[0].Type
	if star, ok := typ.(*ast.StarExpr); ok {
		typ = star.X
	}
	if index, ok := typ.(*ast.IndexExpr); ok {
		typ = index.X
	}
	id, ok := typ.(*ast.Ident)
	return ok && id.IsExported()
}

// unfinished words are split so that this file does not find itself.
var unfinished = regexp.MustCompile(`\b(TO` + `DO|FIX` + `ME|X` + `XX)\b`)

func TestNothingIsLeftUnfinished(t *testing.T) {
	t.Parallel()
	for _, s := range sources(t) {
		for _, group := range s.file.Comments {
			for _, c := range group.List {
				if unfinished.MatchString(c.Text) {
					t.Errorf("%s: %s", s.line(c.Pos()), c.Text)
				}
			}
		}
	}
}
