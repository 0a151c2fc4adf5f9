package txn

import (
	"context"
	"fmt"

	"gobtrfs/disk"
)

// distrustCache marks the free-space cache of version 1 as not to be believed,
// before the first commit: we do not keep it. That its generation is not the
// superblock's is not enough. The next commit of Linux (6.18) makes it so again,
// but looks only after the caches of groups that it changes itself.
//
// A cache is a file in the root tree; Linux takes generation 0 of its inode
// for a cache that was not finished.
func (f *FS) distrustCache(ctx context.Context) error {
	if f.cacheDistrusted {
		return nil
	}
	f.cacheDistrusted = true
	if f.super.CompatROFlags&disk.CompatROFreeSpaceTree != 0 {
		return nil
	}
	for k := (disk.Key{ObjectID: disk.FreeSpaceObjectID}); ; k = k.Next() {
		it, ok, err := f.root.Ceil(ctx, k)
		if err != nil {
			return err
		}
		if !ok || it.Key.ObjectID != disk.FreeSpaceObjectID || it.Key.Type != 0 {
			return nil
		}
		k = it.Key
		h, err := disk.ParseFreeSpaceHeader(it.Data)
		if err != nil {
			return fmt.Errorf("free-space cache of group %d: %w", k.Offset, err)
		}
		data, ok, err := f.root.Get(ctx, h.Location)
		if err != nil {
			return err
		}
		if !ok {
			continue
		}
		inode, err := disk.ParseInodeItem(data)
		if err != nil {
			return fmt.Errorf("free-space cache of group %d: %w", k.Offset, err)
		}
		inode.Generation = 0
		if err := f.root.Update(ctx, h.Location, inode.Append(nil)); err != nil {
			return err
		}
	}
}
