package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"gobtrfs/internal/oracle"
)

// runVerb runs one command line and returns what it wrote.
func runVerb(t *testing.T, in string, want int, args ...string) string {
	t.Helper()
	var out, errOut bytes.Buffer
	if code := run(t.Context(), args, newApp(strings.NewReader(in), &out, &errOut)); code != want {
		t.Fatalf("%q exits with %d, want %d: %s", args, code, want, errOut.String())
	}
	return out.String()
}

// TestEditVerbs changes an image of our own with every editing verb.
func TestEditVerbs(t *testing.T) {
	dir := t.TempDir()
	image := filepath.Join(dir, "fs.img")
	if err := os.MkdirAll(filepath.Join(dir, "src", "sub"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "src", "sub", "f"), oracle.Text(1, 100000), 0o640); err != nil {
		t.Fatal(err)
	}
	runVerb(t, "", 0, "mkfs", "--size", "256M", image)
	runVerb(t, "", 0, "mkdir", "-p", image, "/a/b")
	runVerb(t, "", 1, "mkdir", image, "/a")
	runVerb(t, "", 0, "put", image, filepath.Join(dir, "src"), "/a/b")
	runVerb(t, "hello\n", 0, "put", image, "-", "/hello")
	runVerb(t, "", 0, "cp", "--reflink", image, "/a/b/src/sub/f", "/shared")
	runVerb(t, "", 0, "cp", image, "/hello", "/a")
	runVerb(t, "", 0, "ln", image, "/hello", "/second")
	runVerb(t, "", 0, "ln", "-s", image, "hello", "/sym")
	runVerb(t, "", 0, "mv", image, "/second", "/a/b")
	runVerb(t, "", 0, "chmod", image, "4711", "/hello")
	runVerb(t, "", 0, "chown", image, "5:", "/shared")
	runVerb(t, "", 0, "setxattr", image, "user.x", "0x6869", "/hello")
	runVerb(t, "", 0, "truncate", "--size", "5000", image, "/shared")
	runVerb(t, "# edits\nmkdir '/with blank'\nfallocate --offset 1K --length 1M /big\n", 1, "edit", "--batch", "-", image)
	runVerb(t, "truncate -s 0 /shared\nfallocate -o 4K -l 64K /shared\nfallocate -z -o 5000 -l 10K /shared\nfallocate -p -o 8K -l 4K /shared\nrm -r /a/b/src\n", 0, "edit", "--batch", "-", image)
	runVerb(t, "", 2, "chmod", image, "9", "/hello")
	runVerb(t, "", 2, "truncate", image, "/hello")
	runVerb(t, "", 2, "fallocate", "-p", "-z", "-l", "4K", image, "/hello")
	want := `/  [subvolume 5]
├── a
│   ├── b
│   │   └── second
│   └── hello
├── hello
├── shared
└── sym -> hello
`
	if got := runVerb(t, "", 0, "tree", image); !strings.HasPrefix(got, want) {
		t.Errorf("tree:\n%swant:\n%s", got, want)
	}
	if got := runVerb(t, "", 0, "cat", image, "/a/b/second"); got != "hello\n" {
		t.Errorf("contents %q", got)
	}
	runVerb(t, "", 0, "check", image)
	t.Run("judges", func(t *testing.T) {
		oracle.Need(t, oracle.Mounting...)
		oracle.CheckWith(t, oracle.CheckOptions{Data: true}, image)
		m := oracle.Mount(t, "", image)
		oracle.Scrub(t, m.Dir)
		m.Unmount()
	})
}

// What does not fit says so, with its exit code, and whether part of it is done.
func TestEditThatDoesNotFit(t *testing.T) {
	t.Parallel()
	image := filepath.Join(t.TempDir(), "fs.img")
	runVerb(t, "", 0, "mkfs", "--size", "128M", image)
	var out, errOut bytes.Buffer
	a := newApp(bytes.NewReader(oracle.Noise(1, 140<<20)), &out, &errOut)
	if code := run(t.Context(), []string{"put", image, "-", "/big"}, a); code != exitNoSpace {
		t.Errorf("exit code %d", code)
	}
	done := strings.Contains(runVerb(t, "", 0, "ls", image), "big")
	if says := strings.Contains(errOut.String(), "as far as it came it is done"); says != done {
		t.Errorf("done in part: %v; it says: %s", done, errOut.String())
	}
	runVerb(t, "", 0, "check", image)
}

func TestSplitWords(t *testing.T) {
	t.Parallel()
	for line, want := range map[string]string{
		"":                          "",
		" # mkdir x":                "",
		"a  b\tc":                   "a|b|c",
		`mkdir 'a "b' "c \"d\" \e"`: `mkdir|a "b|c "d" \e`,
		`x ''`:                      "x|",
		`pre'mid'post`:              "premidpost",
	} {
		words, err := splitWords(line)
		if got := strings.Join(words, "|"); err != nil || got != want {
			t.Errorf("%q: %q, %v, want %q", line, got, err, want)
		}
	}
	if _, err := splitWords(`a "b`); err == nil {
		t.Error("an open quote is accepted")
	}
}

// TestSubvolumeVerbs makes, shows, changes and deletes subvolumes, one by one
// and in a batch.
func TestSubvolumeVerbs(t *testing.T) {
	image := filepath.Join(t.TempDir(), "fs.img")
	runVerb(t, "", 0, "mkfs", "--size", "256M", image)
	runVerb(t, "", 0, "subvolume", "create", image, "/a", "/b")
	runVerb(t, "hello\n", 0, "put", image, "-", "/a/hello")
	runVerb(t, "", 0, "subvolume", "snapshot", "-r", image, "/a", "/b")
	runVerb(t, "", 1, "rm", image, "/b/a/hello")
	if got := runVerb(t, "", 0, "cat", image, "/b/a/hello"); got != "hello\n" {
		t.Errorf("the snapshot shows %q", got)
	}
	runVerb(t, "", 1, "subvolume", "delete", image, "/b") // holds the snapshot
	runVerb(t, "", 2, "subvolume", "read-only", image, "/b/a", "maybe")
	runVerb(t, "", 0, "subvolume", "read-only", image, "/b/a", "false")
	runVerb(t, "", 0, "rm", image, "/b/a/hello")
	runVerb(t, "", 0, "subvolume", "set-default", image, "/a")
	if got := runVerb(t, "", 0, "subvolume", "get-default", image); !strings.HasSuffix(got, " path a\n") {
		t.Errorf("default: %q", got)
	}
	runVerb(t, "", 1, "subvolume", "delete", "--subvol", "/", image, "/a") // the default
	runVerb(t, "subvolume snapshot / /again\nsubvolume set-default /again\n", 0, "edit", "--batch", "-", image)
	runVerb(t, "subvolume delete /b/a /b\nmv /a/again /again\nsubvolume create /c\n", 0, "edit", "--subvol", "/", "--batch", "-", image)
	runVerb(t, "", 0, "subvolume", "delete", "--subvol", "/", image, "/a")
	if got := runVerb(t, "", 0, "tree", "--subvol", "/", image); !strings.Contains(got, "├── again  [subvolume 259]\n│   └── hello\n└── c ") {
		t.Errorf("tree:\n%s", got)
	}
	runVerb(t, "", 0, "check", image)
}
