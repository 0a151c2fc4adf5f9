package blockdev

import (
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// A child of the process has a copy of the open file between fork and exec. The
// lock does not live on in it.
func TestCloseGivesTheLockBack(t *testing.T) {
	path := filepath.Join(t.TempDir(), "image")
	d, err := OpenFile(path, FileOptions{Create: true, Size: 4096})
	if err != nil {
		t.Fatal(err)
	}
	child, err := unix.Dup(int(d.f.Fd()))
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(child)
	if _, err := OpenFile(path, FileOptions{}); err == nil {
		t.Fatal("two write at a time")
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	if d, err = OpenFile(path, FileOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
}
