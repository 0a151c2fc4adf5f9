//go:build linux

package mkfs

import (
	"testing"

	"gobtrfs"
	"gobtrfs/blockdev"
	"gobtrfs/internal/manifest"
	"gobtrfs/internal/oracle"
	"gobtrfs/report"
)

// attributes are what a populated filesystem takes over from its source.
const attributes = manifest.Path | manifest.TypeField | manifest.Mode | manifest.UID | manifest.GID | manifest.Nlink |
	manifest.Mtime | manifest.Rdev | manifest.Target | manifest.Xattrs | manifest.SHA256

// makeOn makes a filesystem on image files.
func makeOn(t *testing.T, o Options, images ...string) *Result {
	t.Helper()
	var devs []blockdev.Device
	for _, img := range images {
		d, err := blockdev.OpenFile(img, blockdev.FileOptions{})
		if err != nil {
			t.Fatal(err)
		}
		defer d.Close()
		devs = append(devs, d)
	}
	r, err := Make(t.Context(), devs, o)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// judge asks btrfs check, the kernel and our own reader about a filesystem made from dir.
func judge(t *testing.T, dir string, images ...string) {
	t.Helper()
	oracle.CheckWith(t, oracle.CheckOptions{Data: true}, images...)
	if dir != "" {
		oracle.RequireSame(t, sourceManifest(t, dir), ownManifest(t, images...), attributes)
	}
	const v1 = "the kernel warns of every filesystem without a free-space tree"
	m := oracle.Mount(t, "ro", images...)
	m.AllowLog("space cache v1 is being deprecated", v1)
	if dir != "" {
		compareTrees(t, dir, m.Dir)
	}
	m.Unmount()
	m = oracle.Mount(t, "", images...)
	m.AllowLog("space cache v1 is being deprecated", v1)
	oracle.Scrub(t, m.Dir)
	m.Unmount()
}

// compareTrees compares a source with a mounted copy.
func compareTrees(t *testing.T, want, got string) {
	t.Helper()
	oracle.RequireSame(t, sourceManifest(t, want), oracle.HostManifest(t, got, oracle.HostOptions{}), attributes)
}

// sourceManifest is the manifest that a copy of a directory must have.
func sourceManifest(t *testing.T, dir string) []manifest.Entry {
	t.Helper()
	out := oracle.HostManifest(t, dir, oracle.HostOptions{})
	for i := range out { // directories count their subdirectories elsewhere
		if out[i].Type == 'd' {
			out[i].Nlink = 1
		}
	}
	return out
}

// ownManifest is what the verb manifest says.
func ownManifest(t *testing.T, images ...string) (out []manifest.Entry) {
	t.Helper()
	f, err := btrfs.Open(t.Context(), images[0], btrfs.Options{Devices: images[1:]})
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	s, err := f.Default(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	top, err := s.Root(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for e, err := range report.Manifest(t.Context(), top, attributes) {
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, e)
	}
	return out
}

func TestEmptyFilesystem(t *testing.T) {
	img := oracle.Sparse(t, 1, 1<<30)
	makeOn(t, Options{Label: "empty one"}, img...)
	judge(t, "", img...)
	m := oracle.Mount(t, "", img...)
	oracle.Run(t, "cp", "-a", "/usr/include/linux", m.Dir)
	m.Sync()
	oracle.Scrub(t, m.Dir)
	m.Unmount()
	oracle.Check(t, img...)
}

func TestSampleTree(t *testing.T) {
	dir := sampleTree(t)
	img := oracle.Sparse(t, 1, 1<<30)
	makeOn(t, Options{Source: Dir(dir)}, img...)
	judge(t, dir, img...)
}
