package volume

import (
	"context"

	"gobtrfs/disk"
)

// StripeLookup finds the raid-stripe-tree item that covers l: its strides, and
// the logical range for which they hold.
type StripeLookup func(ctx context.Context, l disk.Logical) (strides []disk.RaidStride, start disk.Logical, length uint64, err error)

// SetStripeTree tells the volume how to look into the raid-stripe-tree, which
// says where data really stands in filesystems with that feature. Call it once,
// when the trees can be read and before data is.
func (v *Volume) SetStripeTree(lookup StripeLookup) { v.stripes.Store(&lookup) }
