package txn

import (
	"context"
	"fmt"

	"gobtrfs/disk"
	"gobtrfs/internal/space"
)

// A free-space tree that the superblock does not call valid says nothing: what
// changed the filesystem since then did not keep it. Free space is then what the
// extent items leave, and the tree is made anew, group by group in order of
// address. Entries of the groups done so far are kept, those of the others are
// not there; the superblock calls the tree valid when all are done. So a crash in
// between leaves a tree that is not valid, as before.

// ignores says whether the tree does not keep the entries of a group.
func (t *freeTree) ignores(g *group) bool { return t == nil || t.partial && g.start >= t.upTo }

// valid says whether the tree can be believed.
func (t *freeTree) valid() bool { return t != nil && !t.partial }

const (
	// rebuildItems is what a step of the rebuilding has promises for: more than the
	// entries of any group, as those become bitmaps before they are many, and lie
	// side by side.
	rebuildItems = 64
	// clearItems is how many old entries go at a time.
	clearItems = 512
)

// RebuildFreeSpaceTree makes the free-space tree anew if there is one that is
// not valid, and commits. Operations may go on meanwhile.
func (f *FS) RebuildFreeSpaceTree(ctx context.Context) error {
	if f.fst == nil || f.fst.valid() {
		return nil
	}
	for _, step := range []func(ctx context.Context) (done bool, err error){f.clearFreeSpace, f.enterFreeSpace} {
		for done := false; !done; {
			err := f.Do(ctx, rebuildItems, space.ClassSteal, func(ctx context.Context) (err error) {
				done, err = step(ctx)
				return err
			})
			if err != nil {
				return fmt.Errorf("rebuild the free-space tree: %w", err)
			}
		}
	}
	return f.Commit(ctx)
}

// clearFreeSpace removes some of the old entries, and says whether none is left.
func (f *FS) clearFreeSpace(ctx context.Context) (done bool, err error) {
	for range clearItems {
		it, ok, err := f.fst.tree.Ceil(ctx, disk.Key{})
		if err != nil || !ok {
			return err == nil, err
		}
		if err := f.fst.tree.Delete(ctx, it.Key); err != nil {
			return false, err
		}
	}
	return false, nil
}

// enterFreeSpace enters the next group. When there is none the tree is valid.
func (f *FS) enterFreeSpace(ctx context.Context) (done bool, err error) {
	for _, g := range f.groups {
		if g.start < f.fst.upTo {
			continue
		}
		if err := f.enterGroup(ctx, g); err != nil {
			return false, err
		}
		f.fst.upTo = disk.Logical(g.end())
		return false, nil
	}
	if err := f.lockGrowth(ctx); err != nil {
		return false, err
	}
	defer f.unlockGrowth()
	f.super.CompatROFlags |= disk.CompatROFreeSpaceTreeValid
	f.touch()
	f.fst.partial = false
	return true, nil
}

func (f *FS) enterGroup(ctx context.Context, g *group) error {
	var free []space.Range
	if err := f.complement(ctx, g, func(r space.Range) { free = append(free, r) }); err != nil {
		return err
	}
	info := disk.FreeSpaceInfo{ExtentCount: uint32(len(free))}
	bitmaps := uint64(len(free)) > f.fst.mostExtents(g)
	if bitmaps {
		info.Flags = disk.FreeSpaceUsingBitmaps
	}
	if err := f.fst.tree.Insert(ctx, infoKey(g), info.Append(nil)); err != nil {
		return err
	}
	if bitmaps {
		return f.fst.insertBitmaps(ctx, g, free)
	}
	for _, r := range free {
		if err := f.fst.tree.Insert(ctx, extentKey(uint64(r.Start), uint64(r.Length)), nil); err != nil {
			return err
		}
	}
	return nil
}
