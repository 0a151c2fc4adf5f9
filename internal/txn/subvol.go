package txn

import (
	"context"
	"fmt"

	"gobtrfs/disk"
	"gobtrfs/internal/block"
	"gobtrfs/internal/btree"
)

// NewSubvolID is an id that no tree has had while the filesystem was open.
//
// REQUIRES: the writer.
func (f *FS) NewSubvolID(ctx context.Context) (disk.ObjectID, error) {
	it, ok, err := f.root.Floor(ctx, disk.Key{ObjectID: disk.LastFreeObjectID, Type: 255, Offset: 1<<64 - 1})
	if err != nil {
		return 0, err
	}
	id := disk.FirstFreeObjectID
	if ok {
		id = max(id, it.Key.ObjectID+1)
	}
	f.lastSubvol = max(f.lastSubvol+1, id)
	return f.lastSubvol, nil
}

// NewTree makes an empty tree with a root item, of which the root's place is
// filled in.
//
// REQUIRES: the writer.
func (f *FS) NewTree(ctx context.Context, id disk.ObjectID, item disk.RootItem) (*Tree, error) {
	t := f.newTree(id, btree.Root{})
	root, err := source{t}.New(ctx, id, 0)
	if err != nil {
		return nil, err
	}
	if t.shareable {
		if err := f.addQgroup(ctx, uint64(id)); err != nil {
			return nil, err
		}
	}
	return t, f.enterTree(ctx, t, disk.Key{ObjectID: id, Type: disk.KeyRootItem}, item, root)
}

// enterTree makes a tree with its first root known.
func (f *FS) enterTree(ctx context.Context, t *Tree, k disk.Key, item disk.RootItem, root disk.Node) error {
	r := btree.Root{ID: t.id, Bytenr: root.Bytenr(), Level: root.Level(), Generation: f.Trans()}
	t.Editor = btree.Edit(source{t}, r, f.geometry.NodeSize)
	used := t.item.BytesUsed
	t.key, t.item, t.written = k, item, r
	t.item.Bytenr, t.item.Level, t.item.BytesUsed = r.Bytenr, uint8(r.Level), max(used, item.BytesUsed)
	t.item.Generation, t.item.GenerationV2 = f.Trans(), f.Trans()
	f.treesMu.Lock()
	f.trees[t.id] = t
	f.treesMu.Unlock()
	return f.root.Insert(ctx, k, t.item.Append(nil))
}

// Clean says whether the running transaction has changed nothing of a tree.
//
// REQUIRES: the writer.
func (f *FS) Clean(t *Tree) bool { return f.dirty.Private(t.Root().Bytenr) == nil }

// CopyTree makes a snapshot of a tree that is clean: a new root that points to
// the same children. From now on nodes of src that are not newer than this
// transaction may be shared.
//
// REQUIRES: the writer.
func (f *FS) CopyTree(ctx context.Context, src *Tree, id disk.ObjectID, item disk.RootItem) (*Tree, error) {
	if !f.Clean(src) {
		return nil, fmt.Errorf("snapshot of tree %v in change: %w", src.id, errInternal)
	}
	// Linux wants a tree to be no older than its last snapshot.
	old, err := src.OwnRoot(ctx)
	if err := src.note(err); err != nil {
		return nil, err
	}
	src.item.LastSnapshot = f.Trans()
	src.Touch()
	t := f.newTree(id, btree.Root{})
	root, err := source{t}.New(ctx, id, old.Level())
	if err != nil {
		return nil, err
	}
	copy(root[96:], old[96:])
	if err := f.modRefs(t, root, 0, 1); err != nil {
		return nil, err
	}
	if err := f.copied(ctx, src.id, id); err != nil {
		return nil, err
	}
	item.LastSnapshot = f.Trans()
	k := disk.Key{ObjectID: id, Type: disk.KeyRootItem, Offset: f.trans.Load()}
	return t, f.enterTree(ctx, t, k, item, root)
}

// DropSome takes up to n nodes out of a tree that nobody names any more, and
// says whether it is gone, root item included. A tree that is left half-way is
// whole, only smaller: dropping goes on whenever it is called again. Its root item
// says, as Linux has it, that what is left of its first key is gone, so that nobody
// misses it.
//
// REQUIRES: the writer.
func (f *FS) DropSome(ctx context.Context, t *Tree, n int) (done bool, err error) {
	if t.item.DropProgress != (disk.Key{}) && !t.pruned {
		return false, f.resumeDrop(ctx, t)
	}
	t.pruned = true
	for range n {
		empty, err := t.Prune(ctx, t.dropChild)
		if err := t.note(err); err != nil {
			return false, err
		}
		if !empty {
			continue
		}
		root := f.dirty.Private(t.Root().Bytenr)
		if root == nil {
			return false, fmt.Errorf("root of dropped tree %v is not private: %w", t.id, errInternal)
		}
		if err := f.modRefs(t, root, 0, -1); err != nil {
			return false, err
		}
		if err := f.freeNode(t, root.Bytenr(), 0, treeRef(t.id, 0)); err != nil {
			return false, err
		}
		t.gone = true
		if q := f.quota.Load(); q != nil && t.shareable {
			q.dropped = append(q.dropped, t.id)
		}
		return true, f.root.Delete(ctx, t.key)
	}
	root, err := t.OwnRoot(ctx)
	if err := t.note(err); err != nil {
		return false, err
	}
	t.item.DropProgress, t.item.DropLevel = root.Key(0), uint8(root.Level())
	t.Touch()
	return false, nil
}

// resumeDrop makes a tree whole that was not left by DropSome, so that it can go
// on. Linux leaves nodes as they are and notes in the root item how far it
// came: of the nodes from the root down to a level, each the only child of its
// kind on the way to a key, what is left of that key is gone already. Here these
// nodes are copied without it.
func (f *FS) resumeDrop(ctx context.Context, t *Tree) error {
	level := int(t.item.DropLevel)
	if level == 0 || level > t.Root().Level {
		return fmt.Errorf("tree %v was dropped as far as level %d of %d: %w", t.id, level, t.Root().Level, disk.ErrFormat)
	}
	t.resuming = true
	defer func() { t.resuming = false }()
	n, err := t.OwnRoot(ctx)
	if err := t.note(err); err != nil {
		return err
	}
	way := []disk.Node{n}
	for n.Level() > level {
		child, err := t.readChild(ctx, btree.Child{Addr: n.BlockPtr(0), Level: n.Level() - 1, Generation: n.PtrGeneration(0), First: n.Key(0)})
		if err != nil {
			return err
		}
		if n, err = (source{t}).Copy(ctx, t.id, child, false); err != nil {
			return err
		}
		way = append(way, n)
	}
	for i := len(way) - 1; i > 0; i-- {
		way[i-1].SetPtr(0, way[i].Key(0), way[i].Bytenr(), way[i].Generation())
	}
	t.item.DropProgress, t.item.DropLevel = disk.Key{}, 0
	t.Touch()
	return nil
}

// trim takes out of an interior node what resumeDrop finds gone.
func (t *Tree) trim(n disk.Node) {
	gone := n.ChildSlot(t.item.DropProgress)
	left := n.NrItems() - gone
	for i := range left {
		n.SetPtr(i, n.Key(gone+i), n.BlockPtr(gone+i), n.PtrGeneration(gone+i))
	}
	n.SetNrItems(left)
}

// dropChild gives back a child of a private node of a tree that is dropped: if
// it is a leaf that nobody else uses, with what it refers to; if others use it
// too, this tree's reference. A node that only this tree uses is for Prune to
// descend to.
func (t *Tree) dropChild(ctx context.Context, c btree.Child) (bool, error) {
	f := t.fs
	count, flags, err := f.extentInfo(ctx, c.Addr, c.Level)
	if err != nil {
		return false, err
	}
	full := flags&disk.ExtentFlagFullBackref != 0
	if count == 1 {
		if c.Level > 0 {
			return false, nil
		}
		n, err := t.readChild(ctx, c)
		if err != nil {
			return false, err
		}
		var parent disk.Logical
		if full {
			parent = c.Addr
		}
		if err := f.modRefs(t, n, parent, -1); err != nil {
			return false, err
		}
		return true, f.freeNode(t, c.Addr, 0, treeRef(t.id, 0))
	}
	if err := t.touchShared(ctx, c); err != nil {
		return false, err
	}
	// What was made before this tree was made as a snapshot is not in its name.
	if c.Generation > disk.TransID(t.key.Offset) && !(full && c.Level == 0) {
		if err := t.disown(ctx, c); err != nil {
			return false, err
		}
	}
	return true, f.freeNode(t, c.Addr, c.Level, treeRef(t.id, 0))
}

func (t *Tree) readChild(ctx context.Context, c btree.Child) (disk.Node, error) {
	n, _, err := source{t}.Read(ctx, c.Addr, block.Expect{
		Level: c.Level, Generation: c.Generation, Owner: t.id, FirstKey: &c.First,
	})
	return n, err
}

// disown gives the nodes of a shared subtree that are in the name of this
// tree full backrefs: the name is about to vanish.
func (t *Tree) disown(ctx context.Context, c btree.Child) error {
	f := t.fs
	n, err := t.readChild(ctx, c)
	if err != nil || n.Owner() != t.id {
		return err
	}
	_, flags, err := f.extentInfo(ctx, c.Addr, c.Level)
	if err != nil {
		return err
	}
	if flags&disk.ExtentFlagFullBackref == 0 {
		if err := f.modRefs(t, n, c.Addr, 1); err != nil {
			return err
		}
		if err := f.modRefs(t, n, 0, -1); err != nil {
			return err
		}
		f.refs.setFlags(c.Addr, uint64(len(n)), c.Level, disk.ExtentFlagFullBackref)
	}
	if c.Level == 0 {
		return nil
	}
	for i := range n.NrItems() {
		child := btree.Child{Addr: n.BlockPtr(i), Level: c.Level - 1, Generation: n.PtrGeneration(i), First: n.Key(i)}
		if err := t.disown(ctx, child); err != nil {
			return err
		}
	}
	return nil
}
