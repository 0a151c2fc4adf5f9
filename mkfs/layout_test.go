//go:build linux

package mkfs

import (
	"fmt"
	"strings"
	"testing"

	"gobtrfs/blockdev"
	"gobtrfs/disk"
	"gobtrfs/internal/oracle"
)

// sized are devices of one size without contents.
func sizedLayout(n int, size uint64) *layout {
	var devs []*device
	for i := range n {
		devs = append(devs, &device{id: disk.DevID(i + 1), size: size, dev: blockdev.NewMemory(0)})
	}
	return newLayout(devs, 16384)
}

// TestChunkSizes holds the size rule against sizes that Linux chose.
func TestChunkSizes(t *testing.T) {
	for _, c := range []struct {
		// given
		devices int
		size    uint64
		flags   disk.BlockGroupFlags
		// want
		stripes int
		length  uint64
	}{
		{1, gib, disk.BlockGroupData, 1, 117440512},
		{1, 8 * gib, disk.BlockGroupData, 1, 872415232},
		{1, 100 * gib, disk.BlockGroupData, 1, gib},
		{1, 20 * gib, disk.BlockGroupMetadata | disk.BlockGroupDUP, 2, 256 * mib},
		{1, 60 * gib, disk.BlockGroupMetadata | disk.BlockGroupDUP, 2, gib},
		{4, 1000 * gib, disk.BlockGroupData | disk.BlockGroupRAID0, 4, 4 * gib},
		{8, 1000 * gib, disk.BlockGroupData | disk.BlockGroupRAID6, 8, 6 * gib},
		{40, 1000 * gib, disk.BlockGroupData | disk.BlockGroupRAID10, 40, 10 * gib},
		{3, 100 * gib, disk.BlockGroupMetadata | disk.BlockGroupRAID1, 2, gib},
		{1, 1000 * gib, disk.BlockGroupSystem, 1, 32 * mib},
	} {
		t.Run(fmt.Sprint(c.devices, "x", c.size>>30, "G ", c.flags), func(t *testing.T) {
			k, err := sizedLayout(c.devices, c.size).addChunk(chunkOrder{flags: c.flags})
			if err != nil {
				t.Fatal(err)
			}
			if len(k.Stripes) != c.stripes || k.Length != c.length {
				t.Errorf("%d stripes, %d bytes; want %d and %d", len(k.Stripes), k.Length, c.stripes, c.length)
			}
		})
	}
}

// TestDevExtentsNeverOverlap fills devices with chunks until none fits and looks
// at where they lie.
func TestDevExtentsNeverOverlap(t *testing.T) {
	for _, p := range disk.Profiles {
		for _, compact := range []bool{false, true} {
			l := sizedLayout(max(p.DevsMin, 3), 3*gib+123*mib)
			l.compact = compact
			for i := 0; ; i++ {
				typ := []disk.BlockGroupFlags{disk.BlockGroupData, disk.BlockGroupMetadata}[i%2]
				if _, err := l.addChunk(chunkOrder{flags: typ | p.Flag}); err != nil {
					break
				}
			}
			for _, d := range l.devices {
				end, used := uint64(disk.BlockReservedStart), uint64(0)
				for _, s := range d.taken {
					if s.start < end || s.end > d.size || s.start%disk.StripeLen != 0 {
						t.Errorf("%s: extent %v after %d", p.Name, s, end)
					}
					if super := disk.SuperOffset(1); compact && s.start < super+disk.StripeLen && s.end > super {
						t.Errorf("%s: extent %v covers a superblock", p.Name, s)
					}
					end, used = s.end, used+s.len()
				}
				if used != d.used {
					t.Errorf("%s: %d bytes used, want %d", p.Name, d.used, used)
				}
			}
		}
	}
}

// TestSuperblocksAreLeftOut makes filesystems whose groups cover the copies of the
// superblock at 64 MiB and at 256 GiB, puts data on both sides, and asks the
// judges. On disk the places count as free.
func TestSuperblocksAreLeftOut(t *testing.T) {
	dir := oracle.Dir(t)
	oracle.Run(t, "sh", "-c", "head -c 90M /dev/urandom > "+dir+"/noise")
	for i, p := range disk.Profiles {
		if !long && i%3 != 1 {
			continue
		}
		name := strings.ToLower(p.Name)
		t.Run(name, func(t *testing.T) {
			n := max(p.DevsMin, 1)
			if p.DevsMax == 0 {
				n = max(n, 3)
			}
			images := oracle.Sparse(t, n, 1<<30)
			makeOn(t, Options{Source: Dir(dir), Data: name, Metadata: name}, images...)
			if l := layoutOf(t, images...); !covers(l, 1) {
				t.Error("no chunk covers 64 MiB: this tests nothing")
			}
			judge(t, dir, images...)
		})
	}
}

// TestSuperblockAt256GiB lets chunks reach over the third copy.
func TestSuperblockAt256GiB(t *testing.T) {
	for _, p := range disk.Profiles {
		n := max(p.DevsMin, 1)
		if p.DevsMax == 0 {
			n = max(n, 4)
		}
		l := sizedLayout(n, 300*gib)
		for _, d := range l.devices {
			d.take(span{disk.BlockReservedStart, 256*gib - 300*mib}) // leaves the hole around the copy
		}
		r := &region{l: l, order: chunkOrder{flags: disk.BlockGroupData | p.Flag}}
		total := uint64(0)
		for range 20_000 {
			at, c, n, err := r.take(mib, false)
			if err != nil {
				t.Fatal(err)
			}
			total += n
			err = mapRange(&c.ChunkMapping, uint64(at-c.Logical), n, func(_, n uint64, places []place) error {
				for _, v := range places {
					if super := disk.SuperOffset(2); v.off < super+disk.StripeLen && v.off+n > super {
						return fmt.Errorf("bytes at %d of device %d", v.off, v.dev)
					}
				}
				return nil
			})
			if err != nil {
				t.Fatalf("%s: %v", p.Name, err)
			}
		}
		used, excluded := uint64(0), 0
		for _, c := range l.chunks {
			used += c.used
			excluded += len(c.excluded)
			free := uint64(0)
			for _, s := range c.free() {
				free += s.len()
			}
			if c.used+free != c.Length {
				t.Errorf("%s: %d used and %d free of %d", p.Name, c.used, free, c.Length)
			}
		}
		if used != total || excluded == 0 {
			t.Errorf("%s: %d bytes used, want %d; %d ranges left out, want some", p.Name, used, total, excluded)
		}
	}
}

// TestLargeSparseFilesystem makes a filesystem of 300 GiB, with a superblock copy
// at 256 GiB.
func TestLargeSparseFilesystem(t *testing.T) {
	img := oracle.Sparse(t, 1, 300<<30)
	makeOn(t, Options{}, img...)
	judge(t, "", img...)
}
