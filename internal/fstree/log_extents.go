package fstree

import (
	"math"
	"slices"

	"gobtrfs/disk"
	"gobtrfs/internal/btree"
)

// extents appends what a file has that it did not have at the last commit. What
// it has no more is logged as a hole; what lies behind its end is logged in any
// case, because replay cuts everything off there first.
func (b *logBuilder) extents(items []btree.Item, ino disk.ObjectID, item *disk.InodeItem) ([]btree.Item, error) {
	end := roundUp(item.Size, b.now.store.sectorSize)
	from, to := disk.Key{ObjectID: ino, Type: disk.KeyExtentData}, disk.Key{ObjectID: ino, Type: disk.KeyExtentData, Offset: math.MaxUint64}
	var out []btree.Item
	err := btree.Diff(b.ctx, b.was.items.tree, b.now.items.tree, b.trans, from, to, func(c btree.Change) error {
		if c.New != nil {
			out = append(out, btree.Item{Key: c.Key, Data: slices.Clone(c.New)})
		}
		if c.Old == nil {
			return nil
		}
		e, err := b.was.parseExtent(c.Key, c.Old)
		if err != nil {
			return err
		}
		holes, err := b.holes(ino, e.Start, min(e.End, end))
		out = append(out, holes...)
		return err
	})
	if err != nil {
		return nil, err
	}
	if item.Mode&modeType == modeReg {
		it := b.now.Extents(b.ctx, ino, math.MaxInt64, end)
		for it.Next() {
			if e := it.Extent(); e.key.ObjectID == ino && e.End > end {
				out = append(out, btree.Item{Key: e.key, Data: e.Item.Append(nil)})
			}
		}
		if err := it.Err(); err != nil {
			return nil, err
		}
	}
	byKey := func(a, b btree.Item) int { return a.Key.Compare(b.Key) }
	slices.SortStableFunc(out, byKey)
	out = slices.CompactFunc(out, func(a, b btree.Item) bool { return a.Key == b.Key })
	for _, x := range out {
		fe, err := disk.ParseFileExtent(x.Data)
		if err != nil {
			return nil, b.now.corrupt(x.Key, err)
		}
		if fe.Type == disk.FileExtentRegular && !fe.IsHole() && fe.Generation >= b.trans && item.Flags&disk.InodeNoDataSum == 0 {
			if err := b.sums(&fe); err != nil {
				return nil, err
			}
		}
	}
	return append(items, out...), nil
}

// holes are the parts of a range in which the file has nothing.
func (b *logBuilder) holes(ino disk.ObjectID, from, to uint64) ([]btree.Item, error) {
	var out []btree.Item
	it := b.now.Extents(b.ctx, ino, to, from)
	for it.Next() {
		e := it.Extent()
		if e.key.ObjectID != 0 {
			continue // an item, be it one of a hole
		}
		start, end := max(e.Start, from), min(e.End, to)
		fe := disk.FileExtent{Generation: b.trans, RAMBytes: end - start, NumBytes: end - start, Type: disk.FileExtentRegular}
		out = append(out, btree.Item{Key: disk.Key{ObjectID: ino, Type: disk.KeyExtentData, Offset: start}, Data: fe.Append(nil)})
	}
	return out, it.Err()
}
