package btrfs_test

import (
	"strings"
	"syscall"
	"testing"

	"gobtrfs"
	"gobtrfs/internal/manifest"
	"gobtrfs/internal/oracle"
)

// A subvolume that Linux makes inherits the property of compression from the top
// of the one that it is in, and not the flag, which Linux shows all the same.
func TestInheritedProperty(t *testing.T) {
	oracle.Need(t, oracle.Mounting...)
	image := oracle.Mkfs(t, 128<<20)
	m := oracle.Mount(t, "", image)
	oracle.Run(t, "btrfs", "property", "set", m.Dir, "compression", "zstd")
	oracle.Run(t, "btrfs", "subvolume", "create", m.Dir+"/s")
	m.Unmount()
	m = oracle.Mount(t, "ro", image)
	want := oracle.HostManifest(t, m.Dir, oracle.HostOptions{})
	m.Unmount()
	oracle.RequireSame(t, want, imageManifest(t, image, btrfs.Options{}), manifest.All)
}

// A name that is too long is that in the first place, wherever the file is.
func TestLinkWithALongName(t *testing.T) {
	f, e := editDevice(t, inMemory(t, 128<<20), btrfs.Options{})
	defer f.Close()
	_, err := e.CreateSubvolume(t.Context(), "/s", btrfs.Attr{Perm: 0o755})
	must(t, err)
	must(t, e.Create(t.Context(), "/s/f", btrfs.Attr{Perm: 0o644}))
	if err := e.Link(t.Context(), "/s/f", "/"+strings.Repeat("x", 256)); errno(err) != syscall.ENAMETOOLONG {
		t.Error(err)
	}
}
