package txn

import (
	"context"
	"errors"

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

// evacuate copies the nodes out of groups that others have room for. The groups,
// which are read-only from now on, are empty after the next commit.
func (f *FS) evacuate(ctx context.Context) ([]*space.Group, error) {
	groups := f.space.Sparse(sparseNodes * space.Bytes(f.geometry.NodeSize))
	for _, sg := range groups {
		at := disk.Key{ObjectID: disk.ObjectID(sg.Chunk().Start)}
		for more := true; more; {
			err := f.Do(ctx, moveNodes, space.ClassNoWait, func(ctx context.Context) (err error) {
				at, more, err = f.moveSome(ctx, at, disk.ObjectID(sg.Chunk().Range().End()))
				return err
			})
			if errors.Is(err, space.ErrNoSpace) {
				break // it was meant to save some
			}
			if err != nil {
				return groups, err
			}
		}
	}
	return groups, nil
}

// moveSome copies the first nodes in the range of keys of extents, and says where
// it stopped and whether there may be more. What it cannot copy stays.
func (f *FS) moveSome(ctx context.Context, from disk.Key, end disk.ObjectID) (at disk.Key, more bool, err error) {
	at = from
	for n := 0; n < moveNodes; n++ {
		it, ok, err := f.extent.Ceil(ctx, at)
		if err != nil || !ok || it.Key.ObjectID >= end {
			return at, false, err
		}
		k := it.Key
		at = k.Next()
		if k.Type != disk.KeyMetadataItem && k.Type != disk.KeyExtentItem {
			continue
		}
		x, err := f.parseExtent(ctx, k, it.Data)
		if err != nil {
			return at, false, err
		}
		if x.item.Flags&disk.ExtentFlagData != 0 {
			return at, false, nil // a mixed group, which stays for the data's sake
		}
		if err := f.moveNode(ctx, x); err != nil {
			return at, false, err
		}
	}
	return at, true, nil
}

// moveNode copies a node that one tree uses.
func (f *FS) moveNode(ctx context.Context, x *extentItem) error {
	addr := disk.Logical(x.key.ObjectID)
	if delta, _, _ := f.refs.pending(addr); delta != 0 || x.item.Refs != 1 || x.item.Flags&disk.ExtentFlagFullBackref != 0 {
		return nil // going already, or shared
	}
	if len(x.inline) != 1 || x.inline[0].Type != disk.KeyTreeBlockRef {
		return nil
	}
	level := int(x.key.Offset)
	if x.info != nil {
		level = int(x.info.Level)
	}
	t := f.root
	if id := x.inline[0].Root; id != disk.TreeRoot {
		var err error
		if t, err = f.Tree(ctx, id); err != nil {
			return err
		}
		if t.item.Refs == 0 {
			return nil // being dropped
		}
	}
	n, err := f.cache.Get(ctx, addr, block.Expect{Level: level, Generation: x.item.Generation})
	if err != nil {
		return err
	}
	var first disk.Key
	if n.NrItems() > 0 {
		first = n.Key(0)
	}
	return t.note(t.Own(ctx, first))
}
