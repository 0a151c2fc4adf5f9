package tidy

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const module = "gobtrfs"

// layers is the house, top first. A package imports packages of lower layers
// only; the packages of one layer do not import each other unless named in
// siblings.
var layers = [][]string{
	{"cmd/gobtrfs", "bench", "bench/verify", "bench/write"},
	{"fusefs", "report", "extract", "internal/lab"}, // what the public API is enough for
	{""}, // the public API
	{"mkfs", "check", "scrub", "relocate", "stream"},
	{"internal/fstree"},
	{"internal/txn"},
	{"internal/space"},
	{"internal/btree"},
	{"internal/block"},
	{"internal/volume"},
	{"blockdev", "blockdev/nbd"},
	{"internal/csum", "internal/compress", "internal/lzo", "internal/zstd", "internal/raid6", "internal/manifest"},
	{"internal/clock", "internal/lockrank", "internal/invariants", "internal/fault", "internal/ordered"},
	{"disk"},
}

// siblings are the imports allowed inside one layer.
var siblings = map[string]string{
	"internal/compress": "internal/lzo internal/zstd",
	"internal/lockrank": "internal/invariants",
	"blockdev/nbd":      "blockdev",
	"extract":           "report",
	"check":             "scrub",
}

// testOnly packages serve tests; nothing else may import them.
var testOnly = []string{"internal/oracle", "internal/specimen", "internal/tidy"}

// pure packages have no third-party package below them.
var pure = []string{"disk", "internal/space"}

// reserved third-party modules and who may import them directly.
var reserved = map[string][]string{
	"github.com/hanwen/go-fuse":         {"fusefs", "cmd/gobtrfs"},
	"github.com/klauspost/compress":     {"internal/compress", "internal/zstd"},
	"github.com/cespare/xxhash":         {"internal/csum"},
	"golang.org/x/crypto":               {"internal/csum"},
	"github.com/tidwall/btree":          {"internal/fstree"},
	"github.com/spf13/cobra":            {"cmd/gobtrfs"},
	"github.com/spf13/pflag":            {"cmd/gobtrfs"},
	"golang.org/x/term":                 {"cmd/gobtrfs"},
	"github.com/google/go-cmp":          {},
	"pgregory.net/rapid":                {},
	"github.com/klauspost/reedsolomon":  {},
	"github.com/cockroachdb/datadriven": {},
	"github.com/anishathalye/porcupine": {},
	"github.com/rogpeppe/go-internal":   {},
}

type pkg struct {
	ImportPath string
	Dir        string
	Doc        string
	GoFiles    []string
	Imports    []string
	Deps       []string
	Standard   bool
}

// packages asks the go command about the whole module.
func packages(t *testing.T) []pkg {
	t.Helper()
	cmd := exec.Command("go", "list", "-deps", "-json=ImportPath,Dir,Doc,GoFiles,Imports,Deps,Standard", "./...")
	cmd.Dir = root(t)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v\n%s", err, &stderr)
	}
	var all []pkg
	for d := json.NewDecoder(bytes.NewReader(out)); ; {
		var p pkg
		if err := d.Decode(&p); errors.Is(err, io.EOF) {
			return all
		} else if err != nil {
			t.Fatal(err)
		}
		all = append(all, p)
	}
}

func root(t *testing.T) string {
	t.Helper()
	dir, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// own returns a package's path inside the module.
func own(importPath string) (string, bool) {
	if importPath == module {
		return "", true
	}
	return strings.CutPrefix(importPath, module+"/")
}

func layerOf(path string) int {
	return slices.IndexFunc(layers, func(l []string) bool { return slices.Contains(l, path) })
}

func TestImportsPointDown(t *testing.T) {
	t.Parallel()
	seen := 0
	for _, p := range packages(t) {
		path, mine := own(p.ImportPath)
		if !mine {
			continue
		}
		seen++
		if !slices.Contains(testOnly, path) && layerOf(path) < 0 {
			t.Errorf("%q is in no layer: give it a place in the house", path)
		}
		for _, imp := range p.Imports {
			checkImport(t, path, imp)
		}
	}
	if seen < 5 {
		t.Errorf("only %d packages of the module seen", seen)
	}
}

func checkImport(t *testing.T, path, imp string) {
	t.Helper()
	target, mine := own(imp)
	if !mine {
		for mod, users := range reserved {
			if strings.HasPrefix(imp, mod) && !slices.Contains(users, path) {
				t.Errorf("%s imports %s; allowed: %q (and tests)", path, imp, users)
			}
		}
		return
	}
	if slices.Contains(testOnly, target) {
		t.Errorf("%s imports %s outside of a test", path, target)
	}
	if slices.Contains(testOnly, path) || slices.Contains(strings.Fields(siblings[path]), target) {
		return
	}
	if layerOf(target) <= layerOf(path) {
		t.Errorf("%q imports %q, which is not below it", path, target)
	}
}

func TestTheHeartIsPure(t *testing.T) {
	t.Parallel()
	all := packages(t)
	standard := map[string]bool{}
	for _, p := range all {
		standard[p.ImportPath] = p.Standard
	}
	for _, p := range all {
		path, mine := own(p.ImportPath)
		if !mine || !slices.Contains(pure, path) {
			continue
		}
		for _, dep := range p.Deps {
			if _, ours := own(dep); !ours && !standard[dep] {
				t.Errorf("%s depends on third-party %s", path, dep)
			}
		}
	}
}

func TestEveryPackageSaysWhatItIs(t *testing.T) {
	t.Parallel()
	for _, p := range packages(t) {
		if path, mine := own(p.ImportPath); mine && strings.TrimSpace(p.Doc) == "" {
			t.Errorf("package %q has no package comment", path)
		}
	}
}
