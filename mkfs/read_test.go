//go:build linux

package mkfs

import (
	"testing"

	"gobtrfs/blockdev"
	"gobtrfs/disk"
	"gobtrfs/internal/volume"
)

// layoutOf is the chunks of a filesystem as the reader sees them.
func layoutOf(t *testing.T, images ...string) []disk.ChunkMapping {
	t.Helper()
	var devs []blockdev.Device
	for _, p := range images {
		d, err := blockdev.OpenFile(p, blockdev.FileOptions{ReadOnly: true})
		if err != nil {
			t.Fatal(err)
		}
		defer d.Close()
		devs = append(devs, d)
	}
	v, err := volume.Open(t.Context(), devs, volume.Options{})
	if err != nil {
		t.Fatal(err)
	}
	return v.Chunks()
}

// covers says whether a chunk has a copy of the superblock in it.
func covers(chunks []disk.ChunkMapping, mirror int) bool {
	for i := range chunks {
		c := &chunks[i]
		for _, s := range c.Stripes {
			if at := disk.SuperOffset(mirror); at >= s.Offset && at < s.Offset+c.StripeLength() {
				return true
			}
		}
	}
	return false
}
