package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"gobtrfs/internal/manifest"
	"gobtrfs/internal/oracle"
)

// TestMkfsManifest reads an image back with the manifest verb and compares it with
// what the system says of the source.
func TestMkfsManifest(t *testing.T) {
	dir := oracle.Dir(t)
	src := filepath.Join(dir, "src")
	for _, p := range []string{"a/b", "empty"} {
		if err := os.MkdirAll(filepath.Join(src, p), 0o750); err != nil {
			t.Fatal(err)
		}
	}
	for p, n := range map[string]int{"inline": 100, "a/page": 4096, "a/b/large": 3 << 20, "none": 0} {
		if err := os.WriteFile(filepath.Join(src, p), []byte(strings.Repeat("0123456789abcde\n", n/16)), 0o640); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Link(filepath.Join(src, "inline"), filepath.Join(src, "a/link")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("a/b", filepath.Join(src, "symbolic")); err != nil {
		t.Fatal(err)
	}
	sel := manifest.Path | manifest.TypeField | manifest.Mode | manifest.UID | manifest.GID | manifest.Nlink | manifest.Mtime |
		manifest.Target | manifest.Xattrs | manifest.SHA256
	want := oracle.HostManifest(t, src, oracle.HostOptions{})
	for i := range want {
		if want[i].Type == 'd' {
			want[i].Nlink = 1 // btrfs does not count subdirectories
		}
	}
	for _, args := range [][]string{
		{"--size", "256M"}, {"--shrink"}, {"--shrink", "--compress", "zstd:3"}, {"--shrink", "--compress", "lzo", "-m", "single", "--csum", "xxhash"},
		{"--size", "256M", "--compress", "zlib", "--nodesize", "4k", "-O", "^no-holes"},
	} {
		img := filepath.Join(dir, "image")
		out, code := command(t, append(append([]string{"mkfs", "-f", "--rootdir", src}, args...), img)...)
		if code != exitDone || !strings.Contains(out, "9 inodes") {
			t.Fatalf("mkfs %v: %d %s", args, code, out)
		}
		out, code = command(t, "manifest", img)
		if code != exitDone {
			t.Fatalf("manifest: %d %s", code, out)
		}
		var got []manifest.Entry
		for e, err := range manifest.Read(strings.NewReader(out)) {
			if err != nil {
				t.Fatal(err)
			}
			got = append(got, e)
		}
		oracle.RequireSame(t, want, got, sel)
		if out, code := command(t, "check", img); code != exitDone {
			t.Errorf("check: %d %s", code, out)
		}
	}
}
