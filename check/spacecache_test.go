package check_test

import (
	"encoding/binary"
	"hash/crc32"
	"testing"

	"gobtrfs/blockdev"
	"gobtrfs/check"
	"gobtrfs/disk"
	"gobtrfs/internal/oracle"
	"gobtrfs/internal/volume"
)

// cacheFiles are where the first pages of v1 free-space caches stand on the
// device.
func cacheFiles(t *testing.T, v *volume.Volume) []uint64 {
	t.Helper()
	var out []uint64
	var walk func(a disk.Logical)
	walk = func(a disk.Logical) {
		n := disk.Node(make([]byte, v.Super().NodeSize))
		if err := v.ReadNode(t.Context(), a, n, nil); err != nil {
			t.Fatal(err)
		}
		for i := range n.NrItems() {
			if !n.IsLeaf() {
				walk(n.BlockPtr(i))
				continue
			}
			if n.Key(i).Type != disk.KeyExtentData || n.Key(i).Offset != 0 {
				continue
			}
			f, err := disk.ParseFileExtent(n.ItemData(i))
			if err != nil {
				t.Fatal(err)
			}
			at, err := v.Map(f.DiskBytenr, 4096)
			if err != nil {
				t.Fatal(err)
			}
			out = append(out, at[0].Off)
		}
	}
	walk(v.Super().Root)
	return out
}

// TestSpaceCacheIsJudged makes one free range of a v1 cache longer than it is,
// checksum right, and another cache invalid.
func TestSpaceCacheIsJudged(t *testing.T) {
	oracle.Need(t, oracle.Mounting...)
	img := oracle.Mkfs(t, 3072*mib, "-R", "^free-space-tree", "-m", "single")
	m := oracle.Mount(t, "", img)
	m.AllowLog("space cache v1 is being deprecated", "the old form is what is wanted")
	smallWorkload(t, m)
	m.Unmount()
	requireClean(t, checkImages(t, check.Options{}, img))
	d, err := blockdev.OpenFile(img, blockdev.FileOptions{NoLock: true})
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	v, err := volume.Open(t.Context(), []blockdev.Device{d}, volume.Options{})
	if err != nil {
		t.Fatal(err)
	}
	files := cacheFiles(t, v)
	if len(files) < 2 {
		t.Fatalf("%d cache files", len(files))
	}
	b := make([]byte, 4096)
	changed := 0
	for _, off := range files {
		if _, err := d.ReadAt(b, int64(off)); err != nil {
			t.Fatal(err)
		}
		// 65536 bytes of cache file are 16 checksums.
		entry := 16*4 + 8
		if binary.LittleEndian.Uint32(b) != crc32.Checksum(b[16*4:], crc32.MakeTable(crc32.Castagnoli)) || b[entry+16] != 1 {
			continue
		}
		binary.LittleEndian.PutUint64(b[entry:], binary.LittleEndian.Uint64(b[entry:])-4096)
		binary.LittleEndian.PutUint64(b[entry+8:], binary.LittleEndian.Uint64(b[entry+8:])+4096)
		if changed == 0 {
			binary.LittleEndian.PutUint32(b, crc32.Checksum(b[16*4:], crc32.MakeTable(crc32.Castagnoli)))
		}
		if _, err := d.WriteAt(b, int64(off)); err != nil {
			t.Fatal(err)
		}
		if changed++; changed == 2 {
			break
		}
	}
	if changed < 2 {
		t.Fatalf("only %d caches begin with a free range", changed)
	}
	r := checkImages(t, check.Options{}, img)
	for _, c := range []check.Code{check.CodeFreeSpace, check.CodeSpaceCacheStale} {
		if !r.Has(c) {
			t.Errorf("no %s: %v", c, r.Findings)
		}
	}
	if len(oracle.Complaints(t, oracle.CheckOptions{NoLowmem: true}, img)) == 0 {
		t.Error("btrfs check finds nothing")
	}
}
