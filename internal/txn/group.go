package txn

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"

	"gobtrfs/disk"
	"gobtrfs/internal/space"
)

// group is a block group as the trees have it. It belongs to the writer.
type group struct {
	start  disk.Logical
	length uint64
	flags  disk.BlockGroupFlags
	used   uint64 // by extents in the extent tree
	dirty  bool   // its item says something else
}

func (g *group) end() uint64 { return uint64(g.start) + g.length }

func (g *group) key() disk.Key {
	return disk.Key{ObjectID: disk.ObjectID(g.start), Type: disk.KeyBlockGroupItem, Offset: g.length}
}

func (g *group) item() []byte {
	i := disk.BlockGroupItem{Used: g.used, ChunkObjectID: disk.FirstChunkTree, Flags: g.flags}
	return i.Append(nil)
}

// hasGroup says whether the group of a chunk is in the trees.
func (f *FS) hasGroup(start disk.Logical) bool {
	_, ok := slices.BinarySearchFunc(f.groups, start, func(g *group, at disk.Logical) int { return cmp.Compare(g.start, at) })
	return ok
}

// groupOf finds the group that holds an address. A group that was made
// meanwhile is entered in the trees first.
func (f *FS) groupOf(ctx context.Context, at disk.Logical) (*group, error) {
	for try := 0; ; try++ {
		i, ok := slices.BinarySearchFunc(f.groups, at, func(g *group, at disk.Logical) int { return cmp.Compare(g.start, at) })
		if !ok {
			i--
		}
		if i >= 0 && uint64(at) < f.groups[i].end() {
			return f.groups[i], nil
		}
		if try > 0 {
			return nil, fmt.Errorf("address %d is in no block group: %w", uint64(at), errInternal)
		}
		if err := f.writeNewGroups(ctx); err != nil {
			return nil, err
		}
	}
}

// writeNewGroups is phase 2 of chunks that were made: the group's item, its
// pieces of the devices, and its free space.
func (f *FS) writeNewGroups(ctx context.Context) error {
	for _, sg := range f.space.NewGroups() {
		c := sg.Chunk()
		g := &group{start: c.Start, length: uint64(c.Length), flags: c.Flags}
		if err := f.insertDevExtents(ctx, c); err != nil {
			return err
		}
		if err := f.groupTree.Insert(ctx, g.key(), g.item()); err != nil {
			return err
		}
		if err := f.fst.create(ctx, g); err != nil {
			return err
		}
		i, _ := slices.BinarySearchFunc(f.groups, g.start, func(g *group, at disk.Logical) int { return cmp.Compare(g.start, at) })
		f.groups = slices.Insert(f.groups, i, g)
		f.space.Written(sg)
	}
	return nil
}

func (f *FS) insertDevExtents(ctx context.Context, c *space.Chunk) error {
	for _, s := range c.Stripes {
		e := disk.DevExtent{
			ChunkTree: disk.TreeChunk, ChunkObjectID: disk.FirstChunkTree, ChunkOffset: c.Start,
			Length: uint64(c.StripeSize), ChunkTreeUUID: f.chunkTreeUUID,
		}
		k := disk.Key{ObjectID: disk.ObjectID(s.Dev), Type: disk.KeyDevExtent, Offset: uint64(s.Off)}
		if err := f.dev.Insert(ctx, k, e.Append(nil)); err != nil {
			return err
		}
	}
	return nil
}

// writeGroups brings the items of the groups up to date, and says whether any
// was not.
func (f *FS) writeGroups(ctx context.Context) (changed bool, err error) {
	for _, g := range f.groups {
		if !g.dirty {
			continue
		}
		// Cleared first: writing the item may change the group's own use.
		g.dirty = false
		if err := f.groupTree.Update(ctx, g.key(), g.item()); err != nil {
			return true, err
		}
		changed = true
	}
	return changed, nil
}

// removeUnused takes groups that nothing uses out of the filesystem, but for
// one spare of each kind, and says how many. Their places on the devices can be
// used again after the next commit.
func (f *FS) removeUnused(ctx context.Context) (removed int, err error) {
	if err := f.lockWriter(ctx); err != nil {
		return 0, err
	}
	defer f.state.Unlock()
	ctx = context.WithoutCancel(ctx)
	for _, sg := range f.space.Unused() {
		ok, err := f.removeGroup(ctx, sg)
		if err != nil {
			return removed, f.abort(fmt.Errorf("remove block group %d: %w", uint64(sg.Chunk().Start), err))
		}
		if ok {
			removed++
		}
	}
	return removed, nil
}

// removeGroup removes one group, unless it must stay after all: delayed refs
// alone made it look empty, or the chunk tree has no room for the change.
func (f *FS) removeGroup(ctx context.Context, sg *space.Group) (bool, error) {
	c := sg.Chunk()
	g, err := f.groupOf(ctx, c.Start)
	if err != nil {
		return false, err
	}
	if g.used != 0 {
		sg.KeepAfterAll()
		return false, nil
	}
	err = f.removeChunk(ctx, c)
	if errors.Is(err, space.ErrNoSpace) {
		sg.KeepAfterAll()
		return false, nil
	}
	if err != nil {
		return false, err
	}
	f.touch()
	for _, s := range c.Stripes {
		k := disk.Key{ObjectID: disk.ObjectID(s.Dev), Type: disk.KeyDevExtent, Offset: uint64(s.Off)}
		if err := f.dev.Delete(ctx, k); err != nil {
			return false, err
		}
	}
	if err := f.fst.remove(ctx, g); err != nil {
		return false, err
	}
	if err := f.groupTree.Delete(ctx, g.key()); err != nil {
		return false, err
	}
	f.groups = slices.DeleteFunc(f.groups, func(o *group) bool { return o == g })
	return true, sg.Remove(f.Trans())
}
