package btrfs_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"gobtrfs"
	"gobtrfs/blockdev"
	"gobtrfs/internal/manifest"
	"gobtrfs/internal/oracle"
	"gobtrfs/mkfs"
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

// TestWriteBesideGroupsOfOneType: with a source directory, mkfs.btrfs -O mixed-bg
// makes one group for data and one for metadata all the same, which Linux mounts.
func TestWriteBesideGroupsOfOneType(t *testing.T) {
	oracle.Need(t, oracle.Mounting...)
	ctx := context.Background()
	dir := t.TempDir()
	must(t, os.WriteFile(filepath.Join(dir, "old"), oracle.Noise(1, 100_000), 0o644))
	image := oracle.Mkfs(t, 256<<20, "-O", "mixed-bg", "-n", "4096", "-m", "single", "--rootdir", dir)
	f, e := openWritable(t, image)
	must(t, e.Remove(ctx, "/old"))
	must(t, e.Create(ctx, "/new", btrfs.Attr{Perm: 0o644}))
	_, err := e.WriteAt(ctx, "/new", oracle.Noise(2, 100_000), 0)
	must(t, err)
	must(t, f.Sync(ctx))
	must(t, f.Verify())
	must(t, f.Close())
	judge(t, image)
}

// Linux asks whether a directory takes names before it asks whether the file is
// in the same subvolume.
func TestLinkIntoAnImmutableSubvolume(t *testing.T) {
	ctx := t.Context()
	mem := blockdev.NewMemory(256 << 20)
	_, err := mkfs.Make(ctx, []blockdev.Device{mem}, mkfs.Options{})
	must(t, err)
	_, e := openDevices(t, []blockdev.Device{mem}, btrfs.Options{Writable: true})
	must(t, e.Create(ctx, "/f", btrfs.Attr{Perm: 0o600}))
	_, err = e.CreateSubvolume(ctx, "/vol", btrfs.Attr{Perm: 0o755})
	must(t, err)
	if err := e.Link(ctx, "/f", "/vol/f"); !errors.Is(err, syscall.EXDEV) {
		t.Errorf("link into another subvolume: %v", err)
	}
	const immutable = 0x10
	must(t, e.SetFlags(ctx, "/vol", immutable))
	if err := e.Link(ctx, "/f", "/vol/f"); !errors.Is(err, syscall.EPERM) {
		t.Errorf("link into an immutable directory: %v", err)
	}
}
