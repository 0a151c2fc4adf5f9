package volume

import (
	"context"
	"errors"
	"fmt"

	"gobtrfs/disk"
)

// chunkTree is what the chunk tree holds, in key order.
type chunkTree struct {
	devices []disk.DevItem
	chunks  []disk.ChunkMapping
}

// visit is a node of the chunk tree that is still to be read, with what its
// parent says about it.
type visit struct {
	addr  disk.Logical
	level int
	gen   disk.TransID
	first *disk.Key // nil for the root
}

// walkChunkTree reads the whole chunk tree, depth first.
//
// It ends: levels fall by one from parent to child, and no address is read
// twice, so a tree that points into itself is refused where it does. The stack
// holds at most the pointers of one node per level.
func walkChunkTree(ctx context.Context, v *Volume, root disk.Logical, level int, gen disk.TransID) (*chunkTree, error) {
	t := &chunkTree{}
	if level >= disk.MaxLevel {
		return nil, &CorruptError{Logical: root, Tree: disk.TreeChunk, What: fmt.Sprintf("chunk root of level %d", level)}
	}
	sb := v.super.Load()
	g := sb.Geometry()
	seen := make(map[disk.Logical]struct{})
	var last disk.Key
	var any bool
	buf := make([]byte, sb.NodeSize)
	stack := []visit{{addr: root, level: level, gen: gen}}
	for len(stack) > 0 {
		at := stack[len(stack)-1]
		stack = stack[:len(stack)-1]
		if _, again := seen[at.addr]; again {
			return nil, &CorruptError{Logical: at.addr, Tree: disk.TreeChunk, What: "chunk tree node is used twice"}
		}
		seen[at.addr] = struct{}{}
		if err := v.ReadNode(ctx, at.addr, buf, at.check(g)); err != nil {
			return nil, ofChunkTree(err)
		}
		n := disk.Node(buf)
		count := n.NrItems()
		for i := range count {
			k := n.Key(i)
			if n.IsLeaf() {
				if any && !last.Less(k) {
					return nil, &CorruptError{Logical: at.addr, Tree: disk.TreeChunk, Key: k, What: fmt.Sprintf("key is not above %v in the leaf before", last)}
				}
				last, any = k, true
				if err := t.add(k, n.ItemData(i)); err != nil {
					return nil, &CorruptError{Logical: at.addr, Tree: disk.TreeChunk, Key: k, What: "chunk tree item", Err: err}
				}
				continue
			}
			i = count - 1 - i // the first child is to be on top of the stack
			k = n.Key(i)
			stack = append(stack, visit{n.BlockPtr(i), at.level - 1, n.PtrGeneration(i), &k})
		}
	}
	return t, nil
}

// ofChunkTree says of what tree the block is that could not be read.
func ofChunkTree(err error) error {
	var e *CorruptError
	if errors.As(err, &e) && e.Tree == 0 {
		e.Tree = disk.TreeChunk
	}
	return fmt.Errorf("read chunk tree: %w", err)
}

// check says whether n is the node that its parent points to.
func (at visit) check(g disk.Geometry) func(disk.Node) error {
	fail := func(err error) error {
		return &CorruptError{Tree: disk.TreeChunk, What: "chunk tree node", Err: err}
	}
	return func(n disk.Node) error {
		check := disk.CheckNode
		if at.level == 0 {
			check = disk.CheckLeaf
		}
		switch {
		case n.Level() != at.level:
			return fail(fmt.Errorf("level %d, want %d", n.Level(), at.level))
		case n.Generation() != at.gen:
			return fail(fmt.Errorf("generation %d, want %d", n.Generation(), at.gen))
		case n.Owner() != disk.TreeChunk:
			return fail(fmt.Errorf("owner %v", n.Owner()))
		}
		if err := check(n, g); err != nil {
			return fail(err)
		}
		if at.first != nil && (n.NrItems() == 0 || n.Key(0) != *at.first) {
			return fail(fmt.Errorf("first key is not %v, as its parent says", *at.first))
		}
		return nil
	}
}

// add takes one item of a leaf that CheckLeaf has passed.
func (t *chunkTree) add(k disk.Key, data []byte) error {
	switch {
	case k.Type == disk.KeyDevItem && k.ObjectID == disk.DevItemsObjectID:
		item, err := disk.ParseDevItem(data)
		if err != nil {
			return err
		}
		t.devices = append(t.devices, item)
	case k.Type == disk.KeyChunkItem && k.ObjectID == disk.FirstChunkTree:
		c, err := disk.ParseChunk(data)
		if err != nil {
			return err
		}
		t.chunks = append(t.chunks, disk.ChunkMapping{Logical: disk.Logical(k.Offset), Chunk: c})
	}
	return nil
}
