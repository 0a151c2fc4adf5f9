package btree

import (
	"context"
	"errors"
	"fmt"

	"gobtrfs/disk"
	"gobtrfs/internal/block"
	"gobtrfs/internal/volume"
)

// Source is where a tree under change gets its nodes, and where it gives them
// back: the transaction. What it returns is either private, which means that
// this transaction made it, nothing on disk refers to it and it may be changed
// in place, or it must not be changed.
type Source interface {
	// Private finds a node that is private; nil: it is not.
	Private(addr disk.Logical) disk.Node
	// Read finds a node and says whether it is private.
	Read(ctx context.Context, addr disk.Logical, e block.Expect) (n disk.Node, private bool, err error)
	// New makes an empty private node for tree t.
	New(ctx context.Context, t disk.ObjectID, level int) (disk.Node, error)
	// Copy makes the private copy of n that takes n's place in tree t. root
	// says that n is the tree's root.
	Copy(ctx context.Context, t disk.ObjectID, n disk.Node, root bool) (disk.Node, error)
	// Drop frees a private node that t no longer uses.
	Drop(ctx context.Context, t disk.ObjectID, n disk.Node) error
}

// Errors of an Editor about keys.
var (
	ErrExists   = errors.New("item exists")
	ErrNotFound = errors.New("item does not exist")
	ErrTooLarge = errors.New("item does not fit a leaf")
)

// Item is an item of a tree. Data aliases a node: it is good until the next
// change of any tree, and must not be changed.
type Item struct {
	Key  disk.Key
	Data []byte
}

// Editor is a tree under change. Every change copies the nodes on the way from
// the root once per transaction and then works in place, so what was committed
// stays as it is. One goroutine uses it at a time.
//
// After an error of a changing method other than ErrExists, ErrNotFound and
// ErrTooLarge the tree is in between: the transaction must be aborted.
//
// Invariants: the key of a pointer is the first key of its child; no node but
// an empty tree's root leaf is empty; an interior root has two children or
// more.
type Editor struct {
	src      Source
	id       disk.ObjectID
	nodeSize int

	root Root
	path [disk.MaxLevel]step // path[l] is of level l; good up to root.Level
}

// Edit starts to change the tree at root.
func Edit(src Source, root Root, nodeSize int) *Editor {
	return &Editor{src: src, id: root.ID, root: root, nodeSize: nodeSize}
}

// Root says where the tree starts now.
func (e *Editor) Root() Root { return e.root }

// Get returns the data of the item with key k.
func (e *Editor) Get(ctx context.Context, k disk.Key) ([]byte, bool, error) {
	it, ok, err := e.Floor(ctx, k)
	if err != nil || !ok || it.Key != k {
		return nil, false, err
	}
	return it.Data, true, nil
}

// Floor is the last item whose key is not above k.
func (e *Editor) Floor(ctx context.Context, k disk.Key) (Item, bool, error) {
	n, _, _, err := e.find(ctx, k)
	if err != nil {
		return Item{}, false, err
	}
	slot, found := n.Search(k)
	if !found {
		slot--
	}
	if slot < 0 {
		return Item{}, false, nil
	}
	return Item{n.Key(slot), n.ItemData(slot)}, true, nil
}

// Ceil is the first item whose key is not below k.
func (e *Editor) Ceil(ctx context.Context, k disk.Key) (Item, bool, error) {
	for {
		n, next, more, err := e.find(ctx, k)
		if err != nil {
			return Item{}, false, err
		}
		if slot, _ := n.Search(k); slot < n.NrItems() {
			return Item{n.Key(slot), n.ItemData(slot)}, true, nil
		}
		if !more {
			return Item{}, false, nil
		}
		k = next
	}
}

// find descends to the leaf that holds k or would hold it; next is the first
// key behind the leaf, unless that is the last one.
func (e *Editor) find(ctx context.Context, k disk.Key) (n disk.Node, next disk.Key, more bool, err error) {
	n, private, err := e.readRoot(ctx)
	for err == nil && !n.IsLeaf() {
		slot := n.ChildSlot(k)
		if slot+1 < n.NrItems() {
			next, more = n.Key(slot+1), true
		}
		n, private, err = e.readNext(ctx, n, slot, private)
	}
	return n, next, more, err
}

// locate descends to k's leaf as find does and leaves the path, the slot in the
// leaf included. It changes nothing: private says that the path may be changed.
func (e *Editor) locate(ctx context.Context, k disk.Key) (found, private bool, err error) {
	n, private, err := e.readRoot(ctx)
	if err != nil {
		return false, false, err
	}
	for level := e.root.Level; level > 0; level-- {
		slot := n.ChildSlot(k)
		e.path[level] = step{n, slot}
		if n, private, err = e.readNext(ctx, n, slot, private); err != nil {
			return false, false, err
		}
	}
	slot, found := n.Search(k)
	e.path[0] = step{n, slot}
	return found, private, nil
}

// ownPath makes the path to k private that locate has found.
func (e *Editor) ownPath(ctx context.Context, k disk.Key) error {
	err := e.own(ctx, k, false)
	if err == nil {
		// Not where it was if the source trims what it copies.
		e.path[0].slot, _ = e.path[0].node.Search(k)
	}
	return err
}

func (e *Editor) readRoot(ctx context.Context) (disk.Node, bool, error) {
	if n := e.src.Private(e.root.Bytenr); n != nil {
		return n, true, nil
	}
	return e.src.Read(ctx, e.root.Bytenr, block.Expect{
		Level: e.root.Level, Generation: e.root.Generation, Owner: e.id,
	})
}

// readNext is readChild on the way down; private says whether the parent is,
// without which no child is.
func (e *Editor) readNext(ctx context.Context, parent disk.Node, slot int, private bool) (disk.Node, bool, error) {
	if private {
		if n := e.src.Private(parent.BlockPtr(slot)); n != nil {
			return n, true, nil
		}
	}
	return e.readChild(ctx, parent, slot)
}

func (e *Editor) readChild(ctx context.Context, parent disk.Node, slot int) (disk.Node, bool, error) {
	first := parent.Key(slot)
	n, private, err := e.src.Read(ctx, parent.BlockPtr(slot), block.Expect{
		Level: parent.Level() - 1, Generation: parent.PtrGeneration(slot), Owner: e.id, FirstKey: &first,
	})
	if err == nil && !private && slot+1 < parent.NrItems() {
		if last, limit := n.Key(n.NrItems()-1), parent.Key(slot+1); !last.Less(limit) {
			return nil, false, &volume.CorruptError{
				Logical: parent.BlockPtr(slot), Tree: e.id, Key: last, What: "tree block",
				Err: fmt.Errorf("%w: key not below %v, where the next block starts", disk.ErrFormat, limit),
			}
		}
	}
	return n, private, err
}

// OwnRoot makes the root private and returns it.
func (e *Editor) OwnRoot(ctx context.Context) (disk.Node, error) { return e.ownRoot(ctx) }

// ownRoot makes the root private.
func (e *Editor) ownRoot(ctx context.Context) (disk.Node, error) {
	n, private, err := e.readRoot(ctx)
	if err != nil || private {
		return n, err
	}
	if n, err = e.src.Copy(ctx, e.id, n, true); err != nil {
		return nil, err
	}
	e.setRoot(n)
	return n, nil
}

func (e *Editor) setRoot(n disk.Node) {
	e.root.Bytenr, e.root.Level, e.root.Generation = n.Bytenr(), n.Level(), n.Generation()
}

// ownChild makes the child in slot of a private node private.
func (e *Editor) ownChild(ctx context.Context, parent disk.Node, slot int) (disk.Node, error) {
	n, private, err := e.readNext(ctx, parent, slot, true)
	if err != nil || private {
		return n, err
	}
	if n, err = e.src.Copy(ctx, e.id, n, false); err != nil {
		return nil, err
	}
	parent.SetPtr(slot, parent.Key(slot), n.Bytenr(), n.Generation())
	return n, nil
}

// Own makes the path to the leaf for k private.
func (e *Editor) Own(ctx context.Context, k disk.Key) error { return e.own(ctx, k, false) }

// own descends to k and makes the path private. With split it also divides
// interior nodes that could not take the two pointers which a split of the
// node below them may bring.
func (e *Editor) own(ctx context.Context, k disk.Key, split bool) error {
	n, err := e.ownRoot(ctx)
	if err != nil {
		return err
	}
	for level := e.root.Level; ; level-- {
		e.path[level] = step{node: n}
		if level == 0 {
			return nil
		}
		if split && n.NrItems() > disk.MaxPtrs(e.nodeSize)-3 {
			if err := e.splitNode(ctx, level, k); err != nil {
				return err
			}
			n = e.path[level].node
		}
		slot := n.ChildSlot(k)
		e.path[level].slot = slot
		if n, err = e.ownChild(ctx, n, slot); err != nil {
			return err
		}
	}
}

// Update replaces the data of the item with key k, which may change its size.
// data must not alias a node.
func (e *Editor) Update(ctx context.Context, k disk.Key, data []byte) error {
	found, private, err := e.locate(ctx, k)
	if err != nil {
		return err
	}
	if !found {
		return fmt.Errorf("key %v: %w", k, ErrNotFound)
	}
	if len(data) > e.maxItem() {
		return fmt.Errorf("key %v, %d bytes: %w", k, len(data), ErrTooLarge)
	}
	if !private {
		if err := e.ownPath(ctx, k); err != nil {
			return err
		}
	}
	leaf, slot := e.path[0].node, e.path[0].slot
	grow := len(data) - leaf.ItemSize(slot)
	switch {
	case grow == 0:
		copy(leaf.ItemData(slot), data)
		return nil
	case leaf.LeafFree() >= grow:
		removeItems(leaf, slot, 1)
		insertItem(leaf, slot, k, data)
		return e.balanceLeaf(ctx)
	}
	if err := e.Delete(ctx, k); err != nil {
		return err
	}
	return e.Insert(ctx, k, data)
}

// maxItem is the size of the largest item.
func (e *Editor) maxItem() int { return disk.LeafDataSize(e.nodeSize) - disk.ItemHeaderSize }

// Depth is the number of levels.
func (e *Editor) Depth() int { return e.root.Level + 1 }
