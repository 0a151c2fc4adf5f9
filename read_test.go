package btrfs_test

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"testing/fstest"

	"gobtrfs"
	"gobtrfs/internal/manifest"
	"gobtrfs/internal/oracle"
	"gobtrfs/report"
)

// TestIOFS runs the standard library's own judge over a filesystem that the
// kernel wrote.
func TestIOFS(t *testing.T) {
	t.Parallel()
	oracle.Need(t, oracle.Mounting...)
	image := oracle.Mkfs(t, 256<<20)
	m := oracle.Mount(t, "", image)
	for _, args := range [][]string{
		{"mkdir", "-p", filepath.Join(m.Dir, "a/b/c")},
		{"btrfs", "-q", "subvolume", "create", filepath.Join(m.Dir, "a/sub")},
		{"ln", "-s", "b/c", filepath.Join(m.Dir, "a/link")},
		{"ln", "-s", "/a/small", filepath.Join(m.Dir, "a/b/absolute")},
	} {
		if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("%v: %v\n%s", args, err, out)
		}
	}
	for name, size := range map[string]int{"a/empty": 0, "a/small": 100, "a/b/big": 300000, "a/b/c/x": 5000, "a/sub/in": 4096} {
		if err := os.WriteFile(filepath.Join(m.Dir, name), make([]byte, size), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	m.Unmount()

	ctx := context.Background()
	f, err := btrfs.Open(ctx, image, btrfs.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	top, err := f.TopLevel(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if err := fstest.TestFS(top.IOFS(ctx), "a/empty", "a/small", "a/b/big", "a/b/c/x", "a/sub/in"); err != nil {
		t.Error(err)
	}
}

// imageManifest lists the top level of the filesystem on an image.
func imageManifest(t *testing.T, image string, o btrfs.Options) []manifest.Entry {
	t.Helper()
	ctx := context.Background()
	f, err := btrfs.Open(ctx, image, o)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	return filesOf(t, f)
}

// filesOf is the manifest of what is committed.
func filesOf(t *testing.T, f *btrfs.FS) []manifest.Entry {
	t.Helper()
	ctx := t.Context()
	top, err := f.TopLevel(ctx)
	if err != nil {
		t.Fatal(err)
	}
	root, err := top.Root(ctx)
	if err != nil {
		t.Fatal(err)
	}
	var out []manifest.Entry
	for e, err := range report.Manifest(ctx, root, manifest.All) {
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, e)
	}
	return out
}
