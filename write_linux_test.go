package btrfs_test

import (
	"context"
	"testing"

	"gobtrfs"
	"gobtrfs/internal/manifest"
	"gobtrfs/internal/oracle"
)

// openWritable opens an image for writing.
func openWritable(t *testing.T, image string) (*btrfs.FS, *btrfs.Editor) {
	t.Helper()
	return openWith(t, image, btrfs.Options{})
}

func openWith(t *testing.T, image string, o btrfs.Options) (*btrfs.FS, *btrfs.Editor) {
	t.Helper()
	ctx := context.Background()
	o.Writable = true
	f, err := btrfs.Open(ctx, image, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	top, err := f.TopLevel(ctx)
	if err != nil {
		t.Fatal(err)
	}
	e, err := top.Edit()
	if err != nil {
		t.Fatal(err)
	}
	return f, e
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// mount is oracle.Mount for filesystems that may have no free-space tree.
func mount(t *testing.T, options, image string) *oracle.Mounted {
	t.Helper()
	m := oracle.Mount(t, options, image)
	m.AllowLog("space cache v1 is being deprecated", "filesystems without a free-space tree are still around")
	return m
}

// judge lets btrfs check and the kernel, reading and writing, look at an image
// and compares what the kernel shows with what we show.
func judge(t *testing.T, image string) {
	t.Helper()
	judgeWith(t, oracle.CheckOptions{}, image)
}

func judgeWith(t *testing.T, o oracle.CheckOptions, image string) {
	t.Helper()
	o.Data = true
	oracle.CheckWith(t, o, image)
	ours := imageManifest(t, image, btrfs.Options{})
	m := mount(t, "ro", image)
	oracle.RequireSame(t, oracle.HostManifest(t, m.Dir, oracle.HostOptions{}), ours, manifest.All)
	m.Unmount()
	m = mount(t, "", image)
	oracle.RequireSame(t, oracle.HostManifest(t, m.Dir, oracle.HostOptions{}), ours, manifest.All)
	oracle.Scrub(t, m.Dir)
	m.Unmount()
	oracle.CheckWith(t, o, image)
}

func TestWriteOneFile(t *testing.T) {
	oracle.Need(t, oracle.Mounting...)
	ctx := context.Background()
	image := oracle.Mkfs(t, 256<<20)
	f, e := openWritable(t, image)
	must(t, e.Create(ctx, "/hello", btrfs.Attr{Perm: 0o644}))
	_, err := e.WriteAt(ctx, "/hello", []byte("hello, world\n"), 0)
	must(t, err)
	must(t, f.Sync(ctx))
	must(t, f.Close())
	judge(t, image)
}
