package txn

import (
	"context"
	"fmt"
	"slices"
	"syscall"

	"gobtrfs/disk"
	"gobtrfs/internal/block"
	"gobtrfs/internal/btree"
	"gobtrfs/internal/space"
)

// Tree is a tree under change. It belongs to whoever holds the writer (the
// chunk tree: growth).
type Tree struct {
	*btree.Editor
	fs        *FS
	id        disk.ObjectID
	shareable bool
	resuming  bool // see resumeDrop
	pruned    bool // DropSome has begun: the mark in item says nothing new

	key     disk.Key      // of the root item; none for root and chunk tree
	item    disk.RootItem // as the tree has it now, but for the root's place
	changed bool          // item differs from the root tree's
	written btree.Root    // what the root tree says
	gone    bool          // deleted in this transaction
}

// ID is the tree's id.
func (t *Tree) ID() disk.ObjectID { return t.id }

// Item is the tree's root item. After changing it call Touch.
func (t *Tree) Item() *disk.RootItem { return &t.item }

// Touch has the root item written at commit.
func (t *Tree) Touch() {
	t.changed = true
	t.fs.touch()
	t.fs.changes++
}

// Key is the key of the tree's root item.
func (t *Tree) Key() disk.Key { return t.key }

func (f *FS) newTree(id disk.ObjectID, root btree.Root) *Tree {
	root.ID = id
	t := &Tree{fs: f, id: id, shareable: id.IsSubvolume(), written: root}
	t.Editor = btree.Edit(source{t}, root, int(f.geometry.NodeSize))
	return t
}

// Tree finds a tree by its id. The error wraps syscall.ENOENT if there is none.
//
// REQUIRES: the writer, or Look for reading.
func (f *FS) Tree(ctx context.Context, id disk.ObjectID) (*Tree, error) {
	if t := f.knownTree(id); t != nil && !t.gone {
		return t, nil
	}
	it, ok, err := f.root.Floor(ctx, disk.Key{ObjectID: id, Type: disk.KeyRootItem, Offset: 1<<64 - 1})
	if err != nil {
		return nil, err
	}
	if !ok || it.Key.ObjectID != id || it.Key.Type != disk.KeyRootItem {
		return nil, fmt.Errorf("tree %v: %w", id, syscall.ENOENT)
	}
	item, err := disk.ParseRootItem(it.Data)
	if err != nil {
		return nil, fmt.Errorf("root item %v: %w", it.Key, err)
	}
	t := f.newTree(id, btree.Root{Bytenr: item.Bytenr, Level: int(item.Level), Generation: item.Generation})
	t.key, t.item = it.Key, item
	f.treesMu.Lock()
	defer f.treesMu.Unlock()
	if o := f.trees[id]; o != nil && !o.gone {
		return o, nil // another reader was faster
	}
	f.trees[id] = t
	return t, nil
}

func (f *FS) knownTree(id disk.ObjectID) *Tree {
	f.treesMu.Lock()
	defer f.treesMu.Unlock()
	return f.trees[id]
}

// source is a Tree as its Editor's source of nodes.
type source struct{ t *Tree }

// Private implements btree.Source.
func (s source) Private(addr disk.Logical) disk.Node { return s.t.fs.dirty.Private(addr) }

// Read implements btree.Source.
func (s source) Read(ctx context.Context, addr disk.Logical, e block.Expect) (disk.Node, bool, error) {
	if n, private := s.t.fs.dirty.Get(addr); n != nil {
		return n, private, nil
	}
	n, err := s.t.fs.cache.Get(ctx, addr, e)
	return n, false, err
}

// New implements btree.Source.
func (s source) New(ctx context.Context, id disk.ObjectID, level int) (disk.Node, error) {
	f := s.t.fs
	r, err := f.allocNode(ctx, s.t)
	if err != nil {
		return nil, err
	}
	if n, _ := f.dirty.Get(r.Start); n != nil {
		return nil, fmt.Errorf("tree block %d was given out twice: %w", uint64(r.Start), errInternal)
	}
	if err := f.checkUnused(ctx, r); err != nil {
		return nil, err
	}
	if s.t.id != disk.TreeChunk { // a flight changes that without the writer
		if err := f.checkFresh(ctx, r); err != nil {
			return nil, err
		}
	}
	n := make(disk.Node, f.geometry.NodeSize)
	n.InitHeader(r.Start, f.nodeFSID, f.chunkTreeUUID, f.Trans(), id, level)
	f.dirty.Add(n)
	f.refs.add(r.Start, uint64(len(n)), level, treeRef(id, 0), 1, true)
	s.t.item.BytesUsed += uint64(len(n))
	return n, nil
}

// Copy implements btree.Source.
func (s source) Copy(ctx context.Context, id disk.ObjectID, n disk.Node, root bool) (disk.Node, error) {
	c, err := s.New(ctx, id, n.Level())
	if err != nil {
		return nil, err
	}
	copy(c[96:], n[96:]) // behind the owner: count, level, contents
	if s.t.resuming {
		n = disk.Node(slices.Clone(n))
		s.t.trim(n)
		s.t.trim(c)
	}
	if err := s.t.shareRefs(ctx, n, c, root); err != nil {
		return nil, err
	}
	return c, s.t.fs.freeNode(s.t, n.Bytenr(), n.Level(), treeRef(id, 0))
}

// Drop implements btree.Source.
func (s source) Drop(_ context.Context, id disk.ObjectID, n disk.Node) error {
	return s.t.fs.freeNode(s.t, n.Bytenr(), n.Level(), treeRef(id, 0))
}

// freeNode takes away one reference to a node. If it was private it is gone.
func (f *FS) freeNode(t *Tree, addr disk.Logical, level int, ref disk.ExtentRef) error {
	size := uint64(f.geometry.NodeSize)
	t.item.BytesUsed -= min(t.item.BytesUsed, size)
	if f.refs.add(addr, size, level, ref, -1, false) {
		f.dirty.Remove(addr)
		return f.space.ReturnExtent(space.Range{Start: addr, Length: space.Bytes(size)})
	}
	f.dirty.Remove(addr)
	return nil
}

// shareRefs moves what n refers to so that both n, if others still use it, and
// its copy c account for their references.
//
// A node that only this tree uses hands its references on unchanged: they name
// the tree, and the copy is the tree's as well. When a snapshot uses n too, n's
// own references must stay when this tree goes, so they become n's (full
// backrefs) the first time n's owner leaves it, and the copy gets references of
// its own. When n belongs to somebody else, or has full backrefs already, the
// copy only adds its own.
func (t *Tree) shareRefs(ctx context.Context, n, c disk.Node, root bool) error {
	shared := t.shareable && !root && (n.Generation() <= t.item.LastSnapshot || n.Flags()&disk.HeaderReloc != 0)
	if !shared {
		return nil
	}
	count, flags, err := t.fs.extentInfo(ctx, n.Bytenr(), n.Level())
	if err != nil {
		return err
	}
	full := flags&disk.ExtentFlagFullBackref != 0
	switch {
	case count > 1 && n.Owner() == t.id && !full:
		// n had one reference in the name of t for each child, and keeps none
		// in that name: the copy takes them over, n gets its own.
		if err := t.fs.modRefs(t, n, n.Bytenr(), 1); err != nil {
			return err
		}
		t.fs.refs.setFlags(n.Bytenr(), uint64(len(n)), n.Level(), disk.ExtentFlagFullBackref)
	case count > 1:
		return t.fs.modRefs(t, c, 0, 1)
	case full:
		if err := t.fs.modRefs(t, c, 0, 1); err != nil {
			return err
		}
		return t.fs.modRefs(t, n, n.Bytenr(), -1)
	}
	return nil
}

// modRefs changes the references of everything that n points to by delta: in
// the name of parent if it is not 0 (full backrefs), else of n's owner.
func (f *FS) modRefs(t *Tree, n disk.Node, parent disk.Logical, delta int) error {
	owner := n.Owner()
	for i := range n.NrItems() {
		if !n.IsLeaf() {
			f.refs.add(n.BlockPtr(i), uint64(len(n)), n.Level()-1, treeRef(owner, parent), delta, false)
			continue
		}
		k := n.Key(i)
		if k.Type != disk.KeyExtentData || !t.shareable {
			continue
		}
		fe, err := disk.ParseFileExtent(n.ItemData(i))
		if err != nil {
			return fmt.Errorf("file extent %v: %w", k, err)
		}
		if fe.Type == disk.FileExtentInline || fe.IsHole() {
			continue
		}
		f.refs.add(fe.DiskBytenr, fe.DiskNumBytes, dataLevel, dataRef(owner, k.ObjectID, k.Offset-fe.Offset, parent), delta, false)
	}
	return nil
}

// allocNode finds a place for a node of t.
func (f *FS) allocNode(ctx context.Context, t *Tree) (space.Range, error) {
	size := space.Bytes(f.geometry.NodeSize)
	if t.id == disk.TreeChunk {
		if f.system == nil || !f.system.Use(size) {
			return space.Range{}, fmt.Errorf("node of the chunk tree: %w", space.ErrNoSpace)
		}
		return f.space.System().AllocExtent(ctx, space.ExtentRequest{Want: size, NoGrow: true})
	}
	if err := f.promised(ctx, size); err != nil {
		return space.Range{}, err
	}
	r, err := f.space.Metadata().AllocExtent(ctx, space.ExtentRequest{Want: size, Align: size})
	if err != nil {
		f.pool += size
	}
	return r, err
}

// promised takes n bytes of metadata that were promised: to the operation, to
// the commit, or to nobody in particular.
func (f *FS) promised(ctx context.Context, n space.Bytes) error {
	switch {
	case f.pool >= n:
		f.pool -= n
		return nil
	case f.committing && f.space.CommitReserve().Use(n):
		return nil
	case f.space.GlobalReserve().Use(n):
		return nil
	}
	return f.space.Metadata().Reserve(ctx, n, space.ClassEmergency)
}
