package txn

import (
	"context"

	"gobtrfs/disk"
	"gobtrfs/internal/block"
	"gobtrfs/internal/space"
)

// What filled many metadata groups and was removed leaves nodes here and there that
// nobody has changed since: a handful in a place for thousands, which no other type
// of space can have. Linux leaves that to balance. Here a commit that somebody waits
// for (Tidy) copies the nodes elsewhere, as a change would have done, so that the
// groups become empty and go.

const (
	// sparseNodes is how many nodes a group may have to be worth it.
	sparseNodes = 64
	// moveNodes is how many one operation copies.
	moveNodes = 4
)

// evacuate copies nodes out of groups that others have room for. The groups, which
// are read-only from now on, are empty after the next commit, if all could go.
func (f *FS) evacuate(ctx context.Context) (groups []*space.Group, err error) {
	for _, sg := range f.space.Sparse(sparseNodes * space.Bytes(f.geometry.NodeSize)) {
		moved := 0
		at, end := disk.Key{ObjectID: disk.ObjectID(sg.Chunk().Start)}, disk.ObjectID(sg.Chunk().Range().End())
		for more := true; more && err == nil; {
			err = f.Do(ctx, moveNodes, space.ClassNoWait, func(ctx context.Context) (err error) {
				var n int
				at, n, more, err = f.moveSome(ctx, at, end)
				moved += n
				return err
			})
		}
		if err != nil && f.Err() == nil && context.Cause(ctx) == nil {
			err = nil // nobody asked for it: what cannot be read, or has no room elsewhere, stays
		}
		if moved > 0 {
			groups = append(groups, sg)
			continue
		}
		sg.ClearReadOnly()
		sg.ReclaimDone(false)
	}
	return groups, err
}

// moveSome copies the first nodes in a range of keys of extents. It says where it
// stopped, how many it copied, and whether there may be more. What it cannot copy
// stays.
func (f *FS) moveSome(ctx context.Context, from disk.Key, end disk.ObjectID) (at disk.Key, moved int, more bool, err error) {
	for at = from; moved < moveNodes; {
		it, ok, err := f.extent.Ceil(ctx, at)
		if err != nil || !ok || it.Key.ObjectID >= end {
			return at, moved, false, err
		}
		k := it.Key
		at = k.Next()
		if k.Type != disk.KeyMetadataItem && k.Type != disk.KeyExtentItem {
			continue
		}
		x, err := f.parseExtent(ctx, k, it.Data)
		if err != nil {
			return at, moved, false, err
		}
		if x.item.Flags&disk.ExtentFlagData != 0 {
			return at, moved, false, nil // a mixed group, which stays for the data's sake
		}
		ok, err = f.moveNode(ctx, x)
		if err != nil {
			return at, moved, false, err
		}
		if ok {
			moved++
		}
	}
	return at, moved, true, nil
}

// moveNode copies a node, if one tree alone uses it.
func (f *FS) moveNode(ctx context.Context, x *extentItem) (bool, error) {
	addr := disk.Logical(x.key.ObjectID)
	if delta, _, _ := f.refs.pending(addr); delta != 0 || x.item.Refs != 1 || x.item.Flags&disk.ExtentFlagFullBackref != 0 {
		return false, nil // going already, or shared
	}
	if len(x.inline) != 1 || x.inline[0].Type != disk.KeyTreeBlockRef {
		return false, nil
	}
	level := int(x.key.Offset)
	if x.info != nil {
		level = int(x.info.Level)
	}
	t := f.root
	if id := x.inline[0].Root; id != disk.TreeRoot {
		var err error
		if t, err = f.Tree(ctx, id); err != nil {
			return false, err
		}
		if t.item.Refs == 0 {
			return false, nil // being dropped
		}
	}
	n, err := f.cache.Get(ctx, addr, block.Expect{Level: level, Generation: x.item.Generation})
	if err != nil {
		return false, err
	}
	var first disk.Key
	if n.NrItems() > 0 {
		first = n.Key(0)
	}
	return true, t.note(t.Own(ctx, first))
}
