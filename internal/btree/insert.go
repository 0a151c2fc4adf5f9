package btree

import (
	"context"
	"fmt"

	"gobtrfs/disk"
)

// Insert adds an item. data must not alias a node.
func (e *Editor) Insert(ctx context.Context, k disk.Key, data []byte) error {
	if len(data) > e.maxItem() {
		return fmt.Errorf("key %v, %d bytes: %w", k, len(data), ErrTooLarge)
	}
	need := len(data) + disk.ItemHeaderSize
	found, private, err := e.locate(ctx, k)
	switch {
	case err != nil:
		return err
	case found:
		return fmt.Errorf("key %v: %w", k, ErrExists)
	case private && e.path[0].node.LeafFree() >= need:
	default:
		if err := e.own(ctx, k, true); err != nil {
			return err
		}
		e.path[0].slot, _ = e.path[0].node.Search(k)
		if e.path[0].node.LeafFree() < need {
			if err := e.makeRoom(ctx, k, need); err != nil {
				return err
			}
		}
	}
	leaf := &e.path[0]
	insertItem(leaf.node, leaf.slot, k, data)
	if leaf.slot == 0 {
		e.fixKeys(0)
	}
	return nil
}

// fixKeys writes the first key of the path's node at a level into the parents,
// as far up as it is their first key too.
func (e *Editor) fixKeys(level int) {
	k := e.path[level].node.Key(0)
	for l := level + 1; l <= e.root.Level; l++ {
		p := &e.path[l]
		p.node.SetPtr(p.slot, k, p.node.BlockPtr(p.slot), p.node.PtrGeneration(p.slot))
		if p.slot > 0 {
			return
		}
	}
}

// growRoot puts a new root above the old one, with room beside it.
func (e *Editor) growRoot(ctx context.Context) error {
	old := e.path[e.root.Level].node
	n, err := e.src.New(ctx, e.id, e.root.Level+1)
	if err != nil {
		return err
	}
	n.SetNrItems(1)
	n.SetPtr(0, old.Key(0), old.Bytenr(), old.Generation())
	e.setRoot(n)
	e.path[e.root.Level] = step{node: n}
	return nil
}

// splitNode halves the interior node of the path at a level and leaves the
// path in the half that k belongs to.
func (e *Editor) splitNode(ctx context.Context, level int, k disk.Key) error {
	if level == e.root.Level {
		if level+1 >= disk.MaxLevel {
			return fmt.Errorf("tree %v: more than %d levels: %w", e.id, disk.MaxLevel, ErrTooLarge)
		}
		if err := e.growRoot(ctx); err != nil {
			return err
		}
	}
	left := e.path[level].node
	right, err := e.src.New(ctx, e.id, level)
	if err != nil {
		return err
	}
	mid := left.NrItems() / 2
	movePtrs(left, right, mid)
	parent := &e.path[level+1]
	insertPtr(parent.node, parent.slot+1, right.Key(0), right)
	if !k.Less(right.Key(0)) {
		parent.slot++
		e.path[level].node = right
	}
	return nil
}

// makeRoom splits the leaf of the path so that an item with key k, of need
// bytes with its header, fits; the path then leads to its place.
//
// Items are first moved to a neighbour that can take them, which keeps leaves
// full. An item at the very end of the leaf starts a new one, so that rising
// keys leave full leaves behind.
func (e *Editor) makeRoom(ctx context.Context, k disk.Key, need int) error {
	if e.root.Level == 0 {
		if err := e.growRoot(ctx); err != nil {
			return err
		}
	}
	if ok, err := e.pushLeaf(ctx, need); err != nil || ok {
		return err
	}
	leaf, slot := e.path[0].node, e.path[0].slot
	if at, ok := splitPoint(leaf, slot, need); ok {
		right, err := e.splitLeaf(ctx, at)
		if err != nil {
			return err
		}
		if slot > at || slot == at && leaf.LeafFree() < need {
			e.path[1].slot++
			e.path[0] = step{right, slot - at}
		}
		return nil
	}
	// The item fits neither half: it gets a leaf of its own in between.
	if slot > 0 && slot < leaf.NrItems() {
		if _, err := e.splitLeaf(ctx, slot); err != nil {
			return err
		}
	}
	own, err := e.src.New(ctx, e.id, 0)
	if err != nil {
		return err
	}
	parent := &e.path[1]
	if slot > 0 {
		parent.slot++
	}
	insertPtr(parent.node, parent.slot, k, own)
	e.path[0] = step{own, 0}
	return nil
}

// splitLeaf moves the items of the path's leaf from slot at on to a new leaf
// behind it.
func (e *Editor) splitLeaf(ctx context.Context, at int) (disk.Node, error) {
	left := e.path[0].node
	right, err := e.src.New(ctx, e.id, 0)
	if err != nil {
		return nil, err
	}
	moveTail(left, right, at)
	parent := e.path[1]
	insertPtr(parent.node, parent.slot+1, right.Key(0), right)
	return right, nil
}

// splitPoint is the slot from which on items should move to a new leaf for an
// item of need bytes to fit at slot: the one that divides the bytes most
// evenly. ok is false if there is none.
func splitPoint(leaf disk.Node, slot, need int) (at int, ok bool) {
	size := disk.LeafDataSize(len(leaf))
	n := leaf.NrItems()
	total := size - leaf.LeafFree()
	best, left := size+1, 0
	for i := 1; i < n; i++ {
		left += leaf.ItemSize(i-1) + disk.ItemHeaderSize
		right := total - left
		// The new item goes left if its slot is below i, right if above; at i
		// it may go either way.
		for _, l := range [2]bool{true, false} {
			if l && slot > i || !l && slot < i {
				continue
			}
			a, b := left, right
			if l {
				a += need
			} else {
				b += need
			}
			if a > size || b > size {
				continue
			}
			if d := abs(a - b); d < best {
				best, at, ok = d, i, true
			}
		}
	}
	return at, ok && slot < n
}

func abs(a int) int { return max(a, -a) }

// pushLeaf makes room by moving items of the path's leaf to the neighbours
// under the same parent. It says whether need bytes fit now.
func (e *Editor) pushLeaf(ctx context.Context, need int) (bool, error) {
	leaf, parent := &e.path[0], &e.path[1]
	if leaf.slot == leaf.node.NrItems() && parent.slot+1 == parent.node.NrItems() {
		return false, nil // rising keys: leave a full leaf behind
	}
	if parent.slot+1 < parent.node.NrItems() {
		if ok, err := e.pushRight(ctx, need); err != nil || ok {
			return ok, err
		}
	}
	if parent.slot > 0 {
		return e.pushLeft(ctx, need)
	}
	return false, nil
}

// worthPush is the part of a leaf that a push must make free beyond what is
// needed: one that gains little would be followed by another at once.
const worthPush = 16

// pushRight moves items behind the slot to the right neighbour until both have
// about the same room, if that makes enough of it here.
func (e *Editor) pushRight(ctx context.Context, need int) (bool, error) {
	leaf, parent := &e.path[0], &e.path[1]
	right, _, err := e.readChild(ctx, parent.node, parent.slot+1)
	if err != nil {
		return false, err
	}
	at, room, free := leaf.node.NrItems(), leaf.node.LeafFree(), right.LeafFree()
	for at > max(leaf.slot, 1) && room-need < free {
		n := leaf.node.ItemSize(at-1) + disk.ItemHeaderSize
		if n > free {
			break
		}
		at, room, free = at-1, room+n, free-n
	}
	if room < need+e.nodeSize/worthPush {
		return false, nil
	}
	if right, err = e.ownChild(ctx, parent.node, parent.slot+1); err != nil {
		return false, err
	}
	moveTail(leaf.node, right, at)
	parent.node.SetPtr(parent.slot+1, right.Key(0), right.Bytenr(), right.Generation())
	return true, nil
}

// pushLeft is pushRight the other way.
func (e *Editor) pushLeft(ctx context.Context, need int) (bool, error) {
	leaf, parent := &e.path[0], &e.path[1]
	left, _, err := e.readChild(ctx, parent.node, parent.slot-1)
	if err != nil {
		return false, err
	}
	count, room, free := 0, leaf.node.LeafFree(), left.LeafFree()
	for count < min(leaf.slot, leaf.node.NrItems()-1) && room-need < free {
		n := leaf.node.ItemSize(count) + disk.ItemHeaderSize
		if n > free {
			break
		}
		count, room, free = count+1, room+n, free-n
	}
	if room < need+e.nodeSize/worthPush {
		return false, nil
	}
	if left, err = e.ownChild(ctx, parent.node, parent.slot-1); err != nil {
		return false, err
	}
	moveHead(left, leaf.node, count)
	leaf.slot -= count
	e.fixKeys(0)
	return true, nil
}
