package volume

import (
	"fmt"

	"gobtrfs/disk"
)

// checkChunk says what is wrong with a chunk item, as the kernel's
// btrfs_check_chunk_valid does (Linux 6.18).
func checkChunk(sb *disk.Superblock, l disk.Logical, c *disk.Chunk) error {
	n, sector := len(c.Stripes), uint64(sb.SectorSize)
	known := disk.BlockGroupTypeMask | disk.BlockGroupProfileMask
	prof := c.Type.Profile()
	switch {
	case n == 0:
		return fmt.Errorf("no stripes")
	case uint64(l)%sector != 0:
		return fmt.Errorf("starts at %d, not aligned to %d", uint64(l), sector)
	case c.Length == 0 || c.Length%sector != 0:
		return fmt.Errorf("length %d is not a multiple of %d", c.Length, sector)
	case uint64(l)+c.Length < uint64(l):
		return fmt.Errorf("%d bytes at %d wrap around", c.Length, uint64(l))
	case c.StripeLen != disk.StripeLen:
		return fmt.Errorf("stripe length %d, want %d", c.StripeLen, disk.StripeLen)
	case uint64(c.SectorSize) != sector:
		return fmt.Errorf("sector size %d, want %d", c.SectorSize, sector)
	case c.Type&^known != 0:
		return fmt.Errorf("unknown type bits %#x", uint64(c.Type&^known))
	case prof&(prof-1) != 0:
		return fmt.Errorf("more than one profile: %v", c.Type)
	case c.Type.Type() == 0:
		return fmt.Errorf("no type")
	case c.Type&disk.BlockGroupSystem != 0 && c.Type.Type() != disk.BlockGroupSystem:
		return fmt.Errorf("system and another type: %v", c.Type)
	case c.Type.Type() == disk.BlockGroupMixed && sb.IncompatFlags&disk.IncompatMixedGroups == 0:
		return fmt.Errorf("mixed types without the mixed-bg feature")
	}
	return checkChunkStripes(c)
}

func checkChunkStripes(c *disk.Chunk) error {
	n, p := len(c.Stripes), disk.ProfileOf(c.Type)
	want := p.DevsMax * p.DevStripes // 0: any number
	switch {
	case want != 0 && n != want:
		return fmt.Errorf("%d stripes for %s, want %d", n, p.Name, want)
	case n < p.DevsMin*p.DevStripes:
		return fmt.Errorf("%d stripes for %s, want at least %d", n, p.Name, p.DevsMin*p.DevStripes)
	case p.SubStripes > 1 && (int(c.SubStripes) != p.SubStripes || n%p.SubStripes != 0):
		return fmt.Errorf("%d stripes in groups of %d for %s, want groups of %d", n, c.SubStripes, p.Name, p.SubStripes)
	case c.Length%uint64(p.DataStripes(n)) != 0:
		return fmt.Errorf("length %d does not divide into %d data stripes", c.Length, p.DataStripes(n))
	}
	return nil
}

// checkStripePlace says whether a stripe reaches behind the device that holds
// it.
func checkStripePlace(c *disk.Chunk, s *disk.Stripe, total uint64) error {
	length := c.StripeLength()
	if s.Offset > total || length > total-s.Offset {
		return fmt.Errorf("%d bytes at %d reach behind the device's %d bytes", length, s.Offset, total)
	}
	return nil
}
