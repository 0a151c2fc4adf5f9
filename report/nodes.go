package report

import (
	"context"
	"iter"

	"gobtrfs"
	"gobtrfs/disk"
	"gobtrfs/internal/block"
	"gobtrfs/internal/btree"
)

// Nodes walks the tree blocks of a tree, parents before children, in key order.
// A node that cannot be read is yielded as an error, and the walk goes on beside
// it if the caller does. It ends on any filesystem: each step goes down a level.
func Nodes(ctx context.Context, f *btrfs.FS, root btree.Root) iter.Seq2[disk.Node, error] {
	return func(yield func(disk.Node, error) bool) {
		w := nodeWalk{ctx, f.Store().Cache(), root.ID, yield}
		w.visit(root.Bytenr, block.Expect{Level: root.Level, Generation: root.Generation, Owner: root.ID})
	}
}

type nodeWalk struct {
	ctx   context.Context
	cache *block.Cache
	owner disk.ObjectID
	yield func(disk.Node, error) bool
}

func (w *nodeWalk) visit(addr disk.Logical, e block.Expect) bool {
	n, err := w.cache.Get(w.ctx, addr, e)
	if err != nil {
		return w.yield(nil, err) && w.ctx.Err() == nil
	}
	if !w.yield(n, nil) {
		return false
	}
	if n.IsLeaf() {
		return true
	}
	for i := range n.NrItems() {
		key := n.Key(i)
		child := block.Expect{Level: e.Level - 1, Generation: n.PtrGeneration(i), Owner: w.owner, FirstKey: &key}
		if !w.visit(n.BlockPtr(i), child) {
			return false
		}
	}
	return true
}

// TreeIDs lists the trees of a filesystem: the root tree, the chunk tree, and
// every tree with a root item, in the order of their ids.
func TreeIDs(ctx context.Context, f *btrfs.FS) ([]disk.ObjectID, error) {
	ids := []disk.ObjectID{disk.TreeRoot, disk.TreeChunk}
	tree, _, err := f.Store().Tree(ctx, disk.TreeRoot)
	if err != nil {
		return nil, err
	}
	it := tree.Seek(ctx, disk.Key{})
	for ; it.Valid(); it.Next() {
		if k := it.Key(); k.Type == disk.KeyRootItem && ids[len(ids)-1] != k.ObjectID {
			ids = append(ids, k.ObjectID)
		}
	}
	return ids, it.Err()
}
