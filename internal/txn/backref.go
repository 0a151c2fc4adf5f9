package txn

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"syscall"

	"gobtrfs/disk"
	"gobtrfs/internal/block"
	"gobtrfs/internal/btree"
)

// rootSet is a sorted set of subvolumes. It is not changed once it is made.
type rootSet []disk.ObjectID

func (s rootSet) with(id disk.ObjectID) rootSet {
	at, ok := slices.BinarySearch(s, id)
	if ok {
		return s
	}
	return slices.Insert(slices.Clone(s), at, id)
}

func (s rootSet) union(o rootSet) rootSet {
	switch {
	case len(o) == 0 || slices.Equal(s, o):
		return s
	case len(s) == 0:
		return o
	}
	all := append(slices.Clone(s), o...)
	slices.Sort(all)
	return slices.Compact(all)
}

// backrefs finds the subvolumes from which an extent can be reached, upwards
// from the extent through the references that the extent tree has. It sees one
// state of the filesystem, in which no reference is pending.
type backrefs struct {
	fs     *FS
	cache  *block.Cache
	extent *btree.Tree
	// subvol is a subvolume's tree; the error wraps ENOENT if there is none.
	subvol func(ctx context.Context, id disk.ObjectID) (*btree.Tree, error)

	trees  map[disk.ObjectID]*btree.Tree // nil: there is none
	blocks map[disk.Logical]rootSet      // of tree blocks that were looked at
}

// refsNow sees the running transaction, whose references must have been run.
//
// REQUIRES: the writer, and that nothing changes while it is used.
func (f *FS) refsNow() *backrefs {
	cache := f.Running()
	b := f.newBackrefs(cache, btree.New(cache, f.extent.Root()))
	b.subvol = func(ctx context.Context, id disk.ObjectID) (*btree.Tree, error) {
		t, err := f.Tree(ctx, id)
		if err != nil {
			return nil, err
		}
		return btree.New(cache, t.Root()), nil
	}
	return b
}

// refsBefore sees the state in which the transaction before the running one
// ended. Its nodes are where they were: what it used stays pinned.
//
// REQUIRES: the writer.
func (f *FS) refsBefore(ctx context.Context) (*backrefs, error) {
	cache, sb := f.Running(), f.super
	roots := btree.New(cache, btree.Root{ID: disk.TreeRoot, Bytenr: sb.Root, Level: int(sb.RootLevel), Generation: sb.Generation})
	find := func(ctx context.Context, id disk.ObjectID) (*btree.Tree, error) {
		it := roots.SeekLast(ctx, disk.Key{ObjectID: id, Type: disk.KeyRootItem, Offset: 1<<64 - 1})
		if err := it.Err(); err != nil {
			return nil, err
		}
		if !it.Valid() || it.Key().ObjectID != id || it.Key().Type != disk.KeyRootItem {
			return nil, fmt.Errorf("tree %v: %w", id, syscall.ENOENT)
		}
		item, err := disk.ParseRootItem(it.Data())
		if err != nil {
			return nil, fmt.Errorf("root item %v: %w", it.Key(), err)
		}
		return btree.New(cache, btree.Root{ID: id, Bytenr: item.Bytenr, Level: int(item.Level), Generation: item.Generation}), nil
	}
	extent, err := find(ctx, disk.TreeExtent)
	if err != nil {
		return nil, err
	}
	b := f.newBackrefs(cache, extent)
	b.subvol = find
	return b, nil
}

func (f *FS) newBackrefs(cache *block.Cache, extent *btree.Tree) *backrefs {
	return &backrefs{
		fs: f, cache: cache, extent: extent,
		trees: make(map[disk.ObjectID]*btree.Tree), blocks: make(map[disk.Logical]rootSet),
	}
}

func (b *backrefs) tree(ctx context.Context, id disk.ObjectID) (*btree.Tree, error) {
	t, ok := b.trees[id]
	if ok {
		return t, nil
	}
	t, err := b.subvol(ctx, id)
	if err != nil && !errors.Is(err, syscall.ENOENT) {
		return nil, err
	}
	b.trees[id] = t
	return t, nil
}

// reached is an extent as a state has it; size 0 says that it has none.
type reached struct {
	size  uint64 // bytes
	roots rootSet
}

// of finds who reaches the extent at addr.
func (b *backrefs) of(ctx context.Context, addr disk.Logical) (reached, error) {
	it := b.extent.Seek(ctx, disk.Key{ObjectID: disk.ObjectID(addr), Type: disk.KeyExtentItem})
	if !it.Valid() || it.Key().ObjectID != disk.ObjectID(addr) || it.Key().Type > disk.KeyMetadataItem {
		return reached{}, it.Err()
	}
	k := it.Key()
	item, err := disk.ParseExtentItem(it.Data())
	if err != nil {
		return reached{}, b.fs.corrupt(k, "%v", err)
	}
	if item.Flags&disk.ExtentFlagData != 0 {
		set, err := b.ofData(ctx, &it)
		return reached{k.Offset, set}, err
	}
	level := int(k.Offset)
	if k.Type == disk.KeyExtentItem {
		rest, err := disk.InlineRefs(k, it.Data())
		if err != nil {
			return reached{}, b.fs.corrupt(k, "%v", err)
		}
		level = int(it.Data()[len(it.Data())-len(rest)-1])
	}
	set, err := b.ofBlock(ctx, addr, level)
	return reached{uint64(b.fs.geometry.NodeSize), set}, err
}

// ofBlock finds who reaches the tree block at addr.
func (b *backrefs) ofBlock(ctx context.Context, addr disk.Logical, level int) (rootSet, error) {
	if set, ok := b.blocks[addr]; ok {
		return set, nil
	}
	if level >= disk.MaxLevel {
		return nil, b.fs.corrupt(disk.Key{ObjectID: disk.ObjectID(addr)}, "a tree block above the highest level")
	}
	it := b.extent.Seek(ctx, disk.Key{ObjectID: disk.ObjectID(addr), Type: disk.KeyExtentItem})
	var set rootSet
	err := b.eachRef(&it, addr, func(ref disk.ExtentRef) error {
		parent := ref.Parent
		if ref.Type == disk.KeyTreeBlockRef {
			if !ref.Root.IsSubvolume() {
				return nil
			}
			t, err := b.tree(ctx, ref.Root)
			if err != nil || t == nil {
				return err
			}
			if t.Root().Bytenr == addr {
				set = set.with(ref.Root)
				return nil
			}
			if parent, err = b.parentIn(ctx, t, addr, level); err != nil {
				return err
			}
		}
		up, err := b.ofBlock(ctx, parent, level+1)
		set = set.union(up)
		return err
	})
	if err != nil {
		return nil, err
	}
	b.blocks[addr] = set
	return set, nil
}

// parentIn is the block of a tree that points to the block at addr.
func (b *backrefs) parentIn(ctx context.Context, t *btree.Tree, addr disk.Logical, level int) (disk.Logical, error) {
	n, err := b.cache.Get(ctx, addr, block.Expect{Level: level})
	if err != nil {
		return 0, err
	}
	where := disk.Key{ObjectID: disk.ObjectID(addr), Type: disk.KeyMetadataItem, Offset: uint64(level)}
	if n.NrItems() == 0 || level >= t.Root().Level {
		return 0, b.fs.corrupt(where, "tree %v does not have the block", t.Root().ID)
	}
	k := n.Key(0)
	p, err := t.Node(ctx, k, level+1)
	if err != nil {
		return 0, err
	}
	if p.BlockPtr(p.ChildSlot(k)) != addr {
		return 0, b.fs.corrupt(where, "tree %v does not have the block", t.Root().ID)
	}
	return p.Bytenr(), nil
}

// ofData finds who reaches the data extent whose item it stands on.
func (b *backrefs) ofData(ctx context.Context, it *btree.Iterator) (rootSet, error) {
	var set rootSet
	k := it.Key()
	err := b.eachRef(it, disk.Logical(k.ObjectID), func(ref disk.ExtentRef) error {
		switch ref.Type {
		case disk.KeySharedDataRef:
			up, err := b.ofBlock(ctx, ref.Parent, 0)
			set = set.union(up)
			return err
		case disk.KeyExtentDataRef:
			if !ref.Root.IsSubvolume() {
				return nil
			}
			up, err := b.ofFile(ctx, ref, disk.Logical(k.ObjectID), k.Offset)
			set = set.union(up)
			return err
		}
		return nil
	})
	return set, err
}

// maxCompressed is how many bytes a compressed extent stands for at most.
const maxCompressed = 128 << 10

// ofFile finds who reaches the leaves in which a file refers to an extent of
// size bytes.
func (b *backrefs) ofFile(ctx context.Context, ref disk.ExtentRef, addr disk.Logical, size uint64) (rootSet, error) {
	t, err := b.tree(ctx, ref.Root)
	if err != nil || t == nil {
		return nil, err
	}
	// An item begins at ref.Offset plus its offset in the extent. ref.Offset
	// is below zero when the file has only a later part of the extent.
	first, end := ref.Offset, ref.Offset+max(size, maxCompressed)
	if int64(first) < 0 {
		first = 0
	}
	var set rootSet
	var last disk.Logical // a leaf is asked once
	it := t.Seek(ctx, disk.Key{ObjectID: ref.ObjectID, Type: disk.KeyExtentData, Offset: first})
	for ; it.Valid(); it.Next() {
		k := it.Key()
		if k.ObjectID != ref.ObjectID || k.Type != disk.KeyExtentData || k.Offset >= end {
			break
		}
		fe, err := disk.ParseFileExtent(it.Data())
		if err != nil {
			return nil, fmt.Errorf("file extent %v of tree %v: %w", k, ref.Root, err)
		}
		leaf, _ := it.Node()
		if fe.Type == disk.FileExtentInline || fe.DiskBytenr != addr || leaf.Bytenr() == last {
			continue
		}
		last = leaf.Bytenr()
		up, err := b.ofBlock(ctx, last, 0)
		if err != nil {
			return nil, err
		}
		set = set.union(up)
	}
	return set, it.Err()
}

// eachRef calls do with every reference of the extent whose item it stands on,
// if there is one; it is moved.
func (b *backrefs) eachRef(it *btree.Iterator, addr disk.Logical, do func(disk.ExtentRef) error) error {
	for ; it.Valid() && it.Key().ObjectID == disk.ObjectID(addr); it.Next() {
		k := it.Key()
		switch {
		case k.Type == disk.KeyExtentItem || k.Type == disk.KeyMetadataItem:
			rest, err := disk.InlineRefs(k, it.Data())
			for err == nil && len(rest) > 0 {
				var ref disk.ExtentRef
				var n int
				if ref, n, err = disk.ParseInlineRef(rest); err != nil {
					break
				}
				if err := do(ref); err != nil {
					return err
				}
				rest = rest[n:]
			}
			if err != nil {
				return b.fs.corrupt(k, "%v", err)
			}
		case k.Type >= disk.KeyTreeBlockRef && k.Type < disk.KeyBlockGroupItem:
			ref, err := disk.ParseKeyedRef(k, it.Data())
			if err != nil {
				return b.fs.corrupt(k, "%v", err)
			}
			if err := do(ref); err != nil {
				return err
			}
		}
	}
	return it.Err()
}
