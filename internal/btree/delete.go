package btree

import (
	"context"
	"fmt"

	"gobtrfs/disk"
)

// Delete removes the item with key k.
func (e *Editor) Delete(ctx context.Context, k disk.Key) error {
	found, private, err := e.locate(ctx, k)
	if err != nil {
		return err
	}
	if !found {
		return fmt.Errorf("key %v: %w", k, ErrNotFound)
	}
	if !private {
		if err := e.ownPath(ctx, k); err != nil {
			return err
		}
	}
	leaf, slot := e.path[0].node, e.path[0].slot
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
	if e.root.Level == 0 {
		return nil
	}
	if err := e.src.Drop(ctx, e.id, e.path[0].node); err != nil {
		return err
	}
	level, err := e.removeChild(ctx, 1)
	if err != nil || level == 0 {
		return err
	}
	return e.balanceNodes(ctx, level)
}

// removeChild takes out the pointer that the path follows at a level, and the
// nodes that become empty. The result is the level of the lowest node of the
// path that is left; 0 if the tree has become an empty leaf.
func (e *Editor) removeChild(ctx context.Context, level int) (int, error) {
	for ; ; level++ {
		p := &e.path[level]
		removePtr(p.node, p.slot)
		if p.node.NrItems() > 0 {
			if p.slot == 0 {
				e.fixKeys(level)
			}
			return level, nil
		}
		if level == e.root.Level {
			break
		}
		if err := e.src.Drop(ctx, e.id, p.node); err != nil {
			return 0, err
		}
	}
	n, err := e.src.New(ctx, e.id, 0)
	if err != nil {
		return 0, err
	}
	old := e.path[e.root.Level].node
	e.setRoot(n)
	return 0, e.src.Drop(ctx, e.id, old)
}

// Child is a node as its parent describes it.
type Child struct {
	Addr       disk.Logical
	Level      int
	Generation disk.TransID
	First      disk.Key
}

// Prune takes the first node out of the tree that take accepts: it is asked
// from the first child of the root down, and has given back what it takes
// when it returns true. A leaf must be taken. The rest of the tree is not
// balanced, as all of it is to go. empty says that the root has become an
// empty leaf, or was a leaf already.
func (e *Editor) Prune(ctx context.Context, take func(context.Context, Child) (bool, error)) (empty bool, err error) {
	n, err := e.ownRoot(ctx)
	if err != nil || n.IsLeaf() {
		return true, err
	}
	for level := e.root.Level; level > 0; level-- {
		e.path[level] = step{node: n}
		took, err := take(ctx, Child{n.BlockPtr(0), level - 1, n.PtrGeneration(0), n.Key(0)})
		if err != nil {
			return false, err
		}
		if took {
			left, err := e.removeChild(ctx, level)
			return left == 0, err
		}
		if n, err = e.ownChild(ctx, n, 0); err != nil {
			return false, err
		}
	}
	return false, fmt.Errorf("tree %v: a leaf was not taken: %w", e.id, ErrNotFound)
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
