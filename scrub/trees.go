package scrub

import (
	"context"
	"errors"
	"fmt"

	"gobtrfs/disk"
	"gobtrfs/internal/block"
	"gobtrfs/internal/btree"
	"gobtrfs/internal/volume"
)

// cacheBytes is for the paths of two walks, side by side.
const cacheBytes = 32 << 20

// trees are the trees that say what is in use, as the last commit left them.
type trees struct {
	cache *block.Cache
	root  *btree.Tree
}

// errNoTree is returned for a tree that has no root item.
var errNoTree = errors.New("no such tree")

func openTrees(ctx context.Context, v *volume.Volume) (*trees, error) {
	sb := v.Super()
	t := &trees{cache: block.New(v, block.Options{Bytes: cacheBytes})}
	t.root = btree.New(t.cache, btree.Root{ID: disk.TreeRoot, Bytenr: sb.Root, Level: int(sb.RootLevel), Generation: sb.Generation})
	if sb.IncompatFlags&disk.IncompatRaidStripeTree == 0 {
		return t, nil
	}
	stripes, err := t.open(ctx, disk.TreeRaidStripe)
	if err != nil {
		return nil, err
	}
	v.SetStripeTree(func(ctx context.Context, l disk.Logical) ([]disk.RaidStride, disk.Logical, uint64, error) {
		it := stripes.SeekLast(ctx, disk.Key{ObjectID: disk.ObjectID(l), Type: disk.KeyRaidStripe, Offset: 1<<64 - 1})
		if err := it.Err(); err != nil || !it.Valid() || it.Key().Type != disk.KeyRaidStripe {
			return nil, 0, 0, err
		}
		strides, err := disk.ParseRaidStripe(it.Data())
		return strides, disk.Logical(it.Key().ObjectID), it.Key().Offset, err
	})
	return t, nil
}

// open finds a tree by its id.
func (t *trees) open(ctx context.Context, id disk.ObjectID) (*btree.Tree, error) {
	it := t.root.SeekLast(ctx, disk.Key{ObjectID: id, Type: disk.KeyRootItem, Offset: 1<<64 - 1})
	if err := it.Err(); err != nil {
		return nil, fmt.Errorf("open tree %v: %w", id, err)
	}
	if !it.Valid() || it.Key().ObjectID != id || it.Key().Type != disk.KeyRootItem {
		return nil, fmt.Errorf("open tree %v: %w", id, errNoTree)
	}
	r, err := disk.ParseRootItem(it.Data())
	if err != nil {
		return nil, fmt.Errorf("open tree %v: %w", id, err)
	}
	return btree.New(t.cache, btree.Root{ID: id, Bytenr: r.Bytenr, Level: int(r.Level), Generation: r.Generation}), nil
}
