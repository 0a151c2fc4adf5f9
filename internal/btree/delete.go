package btree

import (
	"context"
	"fmt"

	"gobtrfs/disk"
)

// Delete removes the item with key k.
func (e *Editor) Delete(ctx context.Context, k disk.Key) error {
	if _, ok, err := e.Get(ctx, k); err != nil {
		return err
	} else if !ok {
		return fmt.Errorf("key %v: %w", k, ErrNotFound)
	}
	if err := e.own(ctx, k, false); err != nil {
		return err
	}
	leaf := e.path[0].node
	slot, _ := leaf.Search(k)
	removeItems(leaf, slot, 1)
	if leaf.NrItems() == 0 {
		return e.dropEmpty(ctx)
	}
	if slot == 0 {
		e.fixKeys(0)
	}
	return e.balanceLeaf(ctx)
}

// dropEmpty takes the path's empty leaf out of the tree, and the nodes above
// that become empty with it.
func (e *Editor) dropEmpty(ctx context.Context) error {
	for level := 0; level < e.root.Level; level++ {
		if err := e.src.Drop(ctx, e.id, e.path[level].node); err != nil {
			return err
		}
		p := &e.path[level+1]
		removePtr(p.node, p.slot)
		if p.node.NrItems() == 0 {
			continue
		}
		if p.slot == 0 {
			e.fixKeys(level + 1)
		}
		return e.balanceNodes(ctx, level+1)
	}
	if e.root.Level == 0 {
		return nil
	}
	// Nothing is left: the root becomes an empty leaf.
	n, err := e.src.New(ctx, e.id, 0)
	if err != nil {
		return err
	}
	old := e.path[e.root.Level].node
	e.setRoot(n)
	return e.src.Drop(ctx, e.id, old)
}

// balanceLeaf joins the path's leaf with a neighbour if it is less than a
// third full and both fit into one.
func (e *Editor) balanceLeaf(ctx context.Context) error {
	leaf := e.path[0].node
	size := disk.LeafDataSize(e.nodeSize)
	if e.root.Level == 0 || size-leaf.LeafFree() > size/3 {
		return nil
	}
	joined, err := e.join(ctx, 0, func(a, b disk.Node) bool { return size-b.LeafFree() <= a.LeafFree() })
	if err != nil || !joined {
		return err
	}
	return e.balanceNodes(ctx, 1)
}

// balanceNodes does the same with the interior nodes of the path, from a level
// up, and takes away a root with one child.
func (e *Editor) balanceNodes(ctx context.Context, level int) error {
	limit := disk.MaxPtrs(e.nodeSize)
	for ; level < e.root.Level; level++ {
		if e.path[level].node.NrItems() > limit/4 {
			return nil
		}
		// Not to the brim: the next insert would split again.
		joined, err := e.join(ctx, level, func(a, b disk.Node) bool { return a.NrItems()+b.NrItems() <= limit*3/4 })
		if err != nil || !joined {
			return err
		}
	}
	for e.root.Level > 0 && e.path[e.root.Level].node.NrItems() == 1 {
		old := e.path[e.root.Level].node
		child, err := e.ownChild(ctx, old, 0)
		if err != nil {
			return err
		}
		e.setRoot(child)
		e.path[e.root.Level].node = child
		if err := e.src.Drop(ctx, e.id, old); err != nil {
			return err
		}
	}
	return nil
}

// join moves the path's node at a level and a neighbour under the same parent
// into one node, if fit says that all of b fits into a. The path's parent then
// has one pointer less; below the parent the path is not valid any more.
func (e *Editor) join(ctx context.Context, level int, fit func(a, b disk.Node) bool) (bool, error) {
	parent := &e.path[level+1]
	for _, at := range [2]int{parent.slot - 1, parent.slot} {
		if at < 0 || at+1 >= parent.node.NrItems() {
			continue
		}
		other := at
		if at == parent.slot {
			other = at + 1
		}
		n, _, err := e.readChild(ctx, parent.node, other)
		if err != nil {
			return false, err
		}
		a, b := n, e.path[level].node
		if other > at {
			a, b = b, a
		}
		if !fit(a, b) {
			continue
		}
		if n, err = e.ownChild(ctx, parent.node, other); err != nil {
			return false, err
		}
		a, b = n, e.path[level].node
		if other > at {
			a, b = b, a
		}
		if level == 0 {
			moveHead(a, b, b.NrItems())
		} else {
			appendPtrs(a, b)
		}
		removePtr(parent.node, at+1)
		parent.slot = at
		e.path[level].node = a
		return true, e.src.Drop(ctx, e.id, b)
	}
	return false, nil
}
