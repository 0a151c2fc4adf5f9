// Package btree searches the trees of a filesystem. A Tree is a snapshot: its
// nodes never change, so any number of readers walk it at once without locks.
package btree

import (
	"context"
	"fmt"

	"gobtrfs/disk"
	"gobtrfs/internal/block"
	"gobtrfs/internal/volume"
)

// Root says where a tree starts.
type Root struct {
	ID         disk.ObjectID // whose nodes these are; 0: any owner
	Bytenr     disk.Logical
	Level      int
	Generation disk.TransID // 0: not known
}

// Tree is one tree of a filesystem. It is safe for concurrent use.
type Tree struct {
	cache *block.Cache
	root  Root
}

// New makes a tree that starts at root.
func New(cache *block.Cache, root Root) *Tree { return &Tree{cache, root} }

// Root says where the tree starts.
func (t *Tree) Root() Root { return t.root }

// step is a node on the way from the root, and the slot taken in it.
type step struct {
	node disk.Node
	slot int
}

// Iterator is a position among a tree's items. It is made by Seek and its
// kin, and used by one goroutine.
type Iterator struct {
	ctx  context.Context
	tree *Tree
	err  error
	leaf step
	// path[l] is the interior node of level l+1.
	path  [disk.MaxLevel - 1]step
	valid bool
}

// Seek is the position of the first item whose key is not below k.
func (t *Tree) Seek(ctx context.Context, k disk.Key) Iterator {
	it := Iterator{ctx: ctx, tree: t}
	it.seek(k)
	if it.err == nil && it.leaf.slot >= it.leaf.node.NrItems() {
		it.nextLeaf()
	}
	return it
}

// SeekLast is the position of the last item whose key is not above k; the
// iterator is not valid if there is none.
func (t *Tree) SeekLast(ctx context.Context, k disk.Key) Iterator {
	it := Iterator{ctx: ctx, tree: t}
	it.seek(k)
	if it.err != nil {
		return it
	}
	if it.valid = it.leaf.slot < it.leaf.node.NrItems(); it.valid && it.Key() == k {
		return it
	}
	it.Prev()
	return it
}

// Get returns the data of the item with key k, which aliases a cached node and
// must not be changed. ok says whether there is one.
func (t *Tree) Get(ctx context.Context, k disk.Key) (data []byte, ok bool, err error) {
	var node disk.Node
	if node, err = t.descend(ctx, k, nil); err != nil {
		return nil, false, err
	}
	slot, found := node.Search(k)
	if !found {
		return nil, false, nil
	}
	return node.ItemData(slot), true, nil
}

// Node returns the node of a level, 0 for the leaf, on the way to k, which must
// not be changed. The level must not be above the root's.
func (t *Tree) Node(ctx context.Context, k disk.Key, level int) (disk.Node, error) {
	return t.descendTo(ctx, k, level, nil)
}

// descend finds the leaf that holds k or would hold it; path, if not nil,
// gets the interior nodes.
func (t *Tree) descend(ctx context.Context, k disk.Key, path *[disk.MaxLevel - 1]step) (disk.Node, error) {
	return t.descendTo(ctx, k, 0, path)
}

func (t *Tree) descendTo(ctx context.Context, k disk.Key, level int, path *[disk.MaxLevel - 1]step) (disk.Node, error) {
	node, err := t.cache.Get(ctx, t.root.Bytenr, block.Expect{
		Level: t.root.Level, Generation: t.root.Generation, Owner: t.root.ID,
	})
	for err == nil && node.Level() > level {
		slot := node.ChildSlot(k)
		if path != nil {
			path[node.Level()-1] = step{node, slot}
		}
		node, err = t.child(ctx, node, slot)
	}
	return node, err
}

// child reads the child in slot of an interior node, and checks that its keys
// lie between those of its neighbours.
func (t *Tree) child(ctx context.Context, parent disk.Node, slot int) (disk.Node, error) {
	first := parent.Key(slot)
	n, err := t.cache.Get(ctx, parent.BlockPtr(slot), t.expectChild(parent, slot, &first))
	if err != nil {
		return nil, err
	}
	if slot+1 < parent.NrItems() {
		last, limit := n.Key(n.NrItems()-1), parent.Key(slot+1)
		if !last.Less(limit) {
			return nil, &volume.CorruptError{
				Logical: parent.BlockPtr(slot), Tree: t.root.ID, Key: last, What: "tree block",
				Err: fmt.Errorf("%w: key not below %v, where the next block starts", disk.ErrFormat, limit),
			}
		}
	}
	return n, nil
}

func (t *Tree) expectChild(parent disk.Node, slot int, first *disk.Key) block.Expect {
	return block.Expect{
		Level: parent.Level() - 1, Generation: parent.PtrGeneration(slot), Owner: t.root.ID, FirstKey: first,
	}
}

// seek descends to k; the slot may lie behind the leaf's last item.
func (it *Iterator) seek(k disk.Key) {
	var node disk.Node
	if node, it.err = it.tree.descend(it.ctx, k, &it.path); it.err != nil {
		return
	}
	slot, _ := node.Search(k)
	it.leaf = step{node, slot}
	it.valid = slot < node.NrItems()
}

// Valid says whether the iterator stands on an item.
func (it *Iterator) Valid() bool { return it.valid }

// Err is the error that ended the iteration, nil at the end of the tree.
func (it *Iterator) Err() error { return it.err }

// Key is the key of the item; the iterator must be valid.
func (it *Iterator) Key() disk.Key { return it.leaf.node.Key(it.leaf.slot) }

// Data is the item's data; it aliases a node and must not be changed. The
// iterator must be valid.
func (it *Iterator) Data() []byte { return it.leaf.node.ItemData(it.leaf.slot) }

// Node is the leaf and the slot of the item; the iterator must be valid.
func (it *Iterator) Node() (disk.Node, int) { return it.leaf.node, it.leaf.slot }

// Next moves to the item behind this one.
func (it *Iterator) Next() {
	if !it.valid {
		return
	}
	if it.leaf.slot++; it.leaf.slot >= it.leaf.node.NrItems() {
		it.nextLeaf()
	}
}

// readAhead is how many leaves an iterator asks for before it needs them.
const readAhead = 4

// nextLeaf moves to the first item of the leaf behind this one.
func (it *Iterator) nextLeaf() {
	it.valid = false
	level := 1
	for ; level <= it.tree.root.Level; level++ {
		s := &it.path[level-1]
		if s.slot+1 < s.node.NrItems() {
			s.slot++
			break
		}
	}
	if level > it.tree.root.Level {
		return
	}
	if level == 1 {
		it.prefetch()
	}
	it.down(level, func(disk.Node) int { return 0 })
	it.leaf.slot = 0
	it.valid = it.err == nil && it.leaf.node.NrItems() > 0
}

// prefetch asks for the leaf readAhead places in front of the next one.
func (it *Iterator) prefetch() {
	s := &it.path[0]
	if slot := s.slot + readAhead; slot < s.node.NrItems() {
		// The read outlives this call at most by itself: it is bounded by the
		// cache and its error is the next reader's.
		first := s.node.Key(slot)
		it.tree.cache.Prefetch(it.ctx, s.node.BlockPtr(slot), it.tree.expectChild(s.node, slot, &first))
	}
}

// Prev moves to the item before this one, or from behind the last item onto
// it.
func (it *Iterator) Prev() {
	if it.err != nil {
		return
	}
	if it.leaf.slot > 0 {
		it.leaf.slot--
		it.valid = true
		return
	}
	it.valid = false
	level := 1
	for ; level <= it.tree.root.Level; level++ {
		if s := &it.path[level-1]; s.slot > 0 {
			s.slot--
			break
		}
	}
	if level > it.tree.root.Level {
		return
	}
	it.down(level, func(n disk.Node) int { return n.NrItems() - 1 })
	if it.err == nil {
		it.leaf.slot = it.leaf.node.NrItems() - 1
		it.valid = it.leaf.slot >= 0
	}
}

// down goes from the slot taken at level to a leaf, choosing a slot in each
// node on the way.
func (it *Iterator) down(level int, choose func(disk.Node) int) {
	for ; level >= 1; level-- {
		s := &it.path[level-1]
		n, err := it.tree.child(it.ctx, s.node, s.slot)
		if err != nil {
			it.err = err
			return
		}
		if level == 1 {
			it.leaf.node = n
		} else {
			it.path[level-2] = step{n, choose(n)}
		}
	}
}
