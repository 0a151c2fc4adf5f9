package volume

import (
	"context"
	"fmt"

	"gobtrfs/disk"
)

// StripeLookup finds the raid-stripe-tree item that covers l: its strides, and
// the logical range for which they hold. Nothing there is a length of 0.
type StripeLookup func(ctx context.Context, l disk.Logical) (strides []disk.RaidStride, start disk.Logical, length uint64, err error)

// SetStripeTree tells the volume how to look into the raid-stripe-tree, which
// says where data really stands in filesystems with that feature. Call it when
// the trees can be read and before data is; until then such data is refused.
func (v *Volume) SetStripeTree(lookup StripeLookup) { v.stripes.Store(&lookup) }

// stripeTreeProfiles are the profiles of data chunks that the raid-stripe-tree
// describes; the others are mapped as without it (btrfs_need_stripe_tree_update,
// Linux 6.18).
const stripeTreeProfiles = disk.BlockGroupDUP | disk.BlockGroupRAID0 | disk.BlockGroupRAID10 | disk.BlockGroupRAID1Mask

func inStripeTree(sb *disk.Superblock, f disk.BlockGroupFlags) bool {
	return sb.IncompatFlags&disk.IncompatRaidStripeTree != 0 &&
		f&disk.BlockGroupData != 0 && f&stripeTreeProfiles != 0
}

// readFromStripeTree reads a piece whose chunk only says which device has it;
// where on the device stands in the tree.
func (v *Volume) readFromStripeTree(ctx context.Context, c *chunk, off uint64, s segment, buf []byte) error {
	lookup := v.stripes.Load()
	if lookup == nil {
		return &UnsupportedError{Feature: "reading data before the raid-stripe-tree is known"}
	}
	d := c.devs[s.stripe]
	for len(buf) > 0 {
		l := c.Logical + disk.Logical(off)
		strides, start, length, err := (*lookup)(ctx, l)
		if err != nil {
			return fmt.Errorf("raid-stripe-tree entry for logical %d: %w", uint64(l), err)
		}
		if l < start || uint64(l-start) >= length {
			return &CorruptError{Dev: d.id, DevName: d.name, Logical: l, Tree: disk.TreeRaidStripe, What: "no raid-stripe-tree entry"}
		}
		in := uint64(l - start)
		phys, ok := stridePlace(c, s.stripe, strides)
		if !ok || phys+in < phys {
			return &CorruptError{Dev: d.id, DevName: d.name, Logical: l, Tree: disk.TreeRaidStripe,
				Key:  disk.Key{ObjectID: disk.ObjectID(start), Type: disk.KeyRaidStripe, Offset: length},
				What: fmt.Sprintf("raid-stripe-tree entry has no stride for device %d", d.id)}
		}
		n := min(length-in, uint64(len(buf)))
		if err := d.read(ctx, buf[:n], phys+in); err != nil {
			return err
		}
		off, buf = off+n, buf[n:]
	}
	return nil
}

// stridePlace finds the stride of a stripe: by its device, and for DUP, whose
// stripes share one, by its position.
func stridePlace(c *chunk, stripe int, strides []disk.RaidStride) (phys uint64, ok bool) {
	for i, s := range strides {
		if s.DevID != c.Stripes[stripe].DevID {
			continue
		}
		if c.profile.DevStripes > 1 && i != stripe {
			continue
		}
		return s.Physical, true
	}
	return 0, false
}
