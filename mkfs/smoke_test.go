package mkfs

import (
	"testing"

	"gobtrfs/blockdev"
	"gobtrfs/internal/oracle"
)

func TestEmptyFilesystem(t *testing.T) {
	img := oracle.Sparse(t, 1, 1<<30)[0]
	d, err := blockdev.OpenFile(img, blockdev.FileOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Make(t.Context(), []blockdev.Device{d}, Options{}); err != nil {
		t.Fatal(err)
	}
	d.Close()
	oracle.CheckWith(t, oracle.CheckOptions{Data: true}, img)
	m := oracle.Mount(t, "ro", img)
	m.Unmount()
	m = oracle.Mount(t, "", img)
	oracle.Run(t, "cp", "-a", "/usr/include", m.Dir)
	m.Sync()
	oracle.Scrub(t, m.Dir)
	m.Unmount()
	oracle.Check(t, img)
}
