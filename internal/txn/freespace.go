package txn

import (
	"context"
	"encoding/binary"
	"fmt"
	"math/bits"
	"slices"

	"gobtrfs/disk"
	"gobtrfs/internal/space"
	"gobtrfs/internal/volume"
)

// freeTree is the free-space tree: for each group the complement of its extent
// items, superblock copies included, as extents or as bitmaps. A nil freeTree
// stands for a filesystem without one.
type freeTree struct {
	tree   *Tree
	sector uint64
	// partial: the tree is not valid, and keeps the groups below upTo only. Of the
	// writer.
	partial bool
	upTo    disk.Logical
}

// spans says how many bytes one full bitmap covers.
func (t *freeTree) span() uint64 { return t.sector * 8 * disk.FreeSpaceBitmapSize }

func (t *freeTree) corrupt(k disk.Key, format string, args ...any) error {
	return &volume.CorruptError{Tree: disk.TreeFreeSpace, Key: k, What: "free-space tree",
		Err: fmt.Errorf("%w: %s", disk.ErrFormat, fmt.Sprintf(format, args...))}
}

func infoKey(g *group) disk.Key {
	return disk.Key{ObjectID: disk.ObjectID(g.start), Type: disk.KeyFreeSpaceInfo, Offset: g.length}
}

func (t *freeTree) info(ctx context.Context, g *group) (disk.FreeSpaceInfo, error) {
	k := infoKey(g)
	data, ok, err := t.tree.Get(ctx, k)
	if err != nil {
		return disk.FreeSpaceInfo{}, err
	}
	if !ok {
		return disk.FreeSpaceInfo{}, t.corrupt(k, "block group has no entry")
	}
	return disk.ParseFreeSpaceInfo(data)
}

// take enters that a range is not free any more.
func (t *freeTree) take(ctx context.Context, g *group, start disk.Logical, n uint64) error {
	return t.change(ctx, g, start, n, false)
}

// give enters that a range is free.
func (t *freeTree) give(ctx context.Context, g *group, start disk.Logical, n uint64) error {
	return t.change(ctx, g, start, n, true)
}

func (t *freeTree) change(ctx context.Context, g *group, start disk.Logical, n uint64, free bool) error {
	if t.ignores(g) {
		return nil
	}
	info, err := t.info(ctx, g)
	if err != nil {
		return err
	}
	var delta int
	switch {
	case info.Flags&disk.FreeSpaceUsingBitmaps != 0:
		delta, err = t.changeBits(ctx, g, uint64(start), n, free)
	case free:
		delta, err = t.giveExtent(ctx, g, uint64(start), n)
	default:
		delta, err = t.takeExtent(ctx, g, uint64(start), n)
	}
	if err != nil {
		return err
	}
	if int64(info.ExtentCount)+int64(delta) < 0 {
		return t.corrupt(infoKey(g), "%d extents, %d go", info.ExtentCount, -delta)
	}
	info.ExtentCount += uint32(delta)
	if delta != 0 {
		if err := t.tree.Update(ctx, infoKey(g), info.Append(nil)); err != nil {
			return err
		}
	}
	return t.convert(ctx, g, info)
}

func extentKey(start, n uint64) disk.Key {
	return disk.Key{ObjectID: disk.ObjectID(start), Type: disk.KeyFreeSpaceExtent, Offset: n}
}

// takeExtent cuts a range out of the free extent that holds it. The result is
// by how much the number of extents changes.
func (t *freeTree) takeExtent(ctx context.Context, g *group, start, n uint64) (int, error) {
	it, ok, err := t.tree.Floor(ctx, extentKey(start, 1<<64-1))
	if err != nil {
		return 0, err
	}
	from, size := uint64(it.Key.ObjectID), it.Key.Offset
	if !ok || it.Key.Type != disk.KeyFreeSpaceExtent || from < uint64(g.start) || start+n > from+size {
		return 0, t.corrupt(extentKey(start, n), "range is not free")
	}
	if err := t.tree.Delete(ctx, it.Key); err != nil {
		return 0, err
	}
	delta := -1
	for _, piece := range [2][2]uint64{{from, start}, {start + n, from + size}} {
		if piece[0] == piece[1] {
			continue
		}
		delta++
		if err := t.tree.Insert(ctx, extentKey(piece[0], piece[1]-piece[0]), nil); err != nil {
			return 0, err
		}
	}
	return delta, nil
}

// giveExtent adds a range and joins it with its neighbours.
func (t *freeTree) giveExtent(ctx context.Context, g *group, start, n uint64) (int, error) {
	delta := 1
	end := start + n
	it, ok, err := t.tree.Floor(ctx, extentKey(start, 1<<64-1))
	if err != nil {
		return 0, err
	}
	if ok && it.Key.Type == disk.KeyFreeSpaceExtent && it.Key.ObjectID >= disk.ObjectID(g.start) {
		from, before := uint64(it.Key.ObjectID), uint64(it.Key.ObjectID)+it.Key.Offset
		if before > start {
			return 0, t.corrupt(it.Key, "range %d of %d bytes is free already", start, n)
		}
		if before == start {
			delta--
			if err := t.tree.Delete(ctx, it.Key); err != nil {
				return 0, err
			}
			start = from
		}
	}
	it, ok, err = t.tree.Ceil(ctx, extentKey(end, 0))
	if err != nil {
		return 0, err
	}
	if ok && it.Key.Type == disk.KeyFreeSpaceExtent && uint64(it.Key.ObjectID) == end && end < g.end() {
		delta--
		n := it.Key.Offset
		if err := t.tree.Delete(ctx, it.Key); err != nil {
			return 0, err
		}
		end += n
	}
	return delta, t.tree.Insert(ctx, extentKey(start, end-start), nil)
}

// bitmap is one bitmap of a group.
type bitmap struct {
	key  disk.Key
	bits []byte // a copy
}

// bitmapAt reads the bitmap that covers an address.
func (t *freeTree) bitmapAt(ctx context.Context, at uint64) (bitmap, error) {
	k := disk.Key{ObjectID: disk.ObjectID(at), Type: disk.KeyFreeSpaceBitmap, Offset: 1<<64 - 1}
	it, ok, err := t.tree.Floor(ctx, k)
	if err != nil {
		return bitmap{}, err
	}
	if !ok || it.Key.Type != disk.KeyFreeSpaceBitmap || at-uint64(it.Key.ObjectID) >= it.Key.Offset ||
		uint64(len(it.Data))*8*t.sector < it.Key.Offset {
		return bitmap{}, t.corrupt(k, "no bitmap covers %d", at)
	}
	return bitmap{it.Key, slices.Clone(it.Data)}, nil
}

func (t *freeTree) bit(b bitmap, at uint64) bool {
	i := (at - uint64(b.key.ObjectID)) / t.sector
	return b.bits[i/8]>>(i%8)&1 != 0
}

// changeBits sets or clears the bits of a range, which all must be the other
// way.
func (t *freeTree) changeBits(ctx context.Context, g *group, start, n uint64, free bool) (int, error) {
	neighbours := 0
	if start > uint64(g.start) {
		b, err := t.bitmapAt(ctx, start-t.sector)
		if err != nil {
			return 0, err
		}
		if t.bit(b, start-t.sector) {
			neighbours++
		}
	}
	end := start + n
	if end < g.end() {
		b, err := t.bitmapAt(ctx, end)
		if err != nil {
			return 0, err
		}
		if t.bit(b, end) {
			neighbours++
		}
	}
	for at := start; at < end; {
		b, err := t.bitmapAt(ctx, at)
		if err != nil {
			return 0, err
		}
		stop := min(end, uint64(b.key.ObjectID)+b.key.Offset)
		for ; at < stop; at += t.sector {
			if t.bit(b, at) == free {
				return 0, t.corrupt(b.key, "the sector at %d is free: %v, already", at, free)
			}
			i := (at - uint64(b.key.ObjectID)) / t.sector
			b.bits[i/8] ^= 1 << (i % 8)
		}
		if err := t.tree.Update(ctx, b.key, b.bits); err != nil {
			return 0, err
		}
	}
	// One run becomes its neighbours, or the other way round.
	if free {
		return 1 - neighbours, nil
	}
	return neighbours - 1, nil
}

// mostExtents is the number of extents beyond which bitmaps are smaller.
func (t *freeTree) mostExtents(g *group) uint64 {
	maps := (g.length + t.span() - 1) / t.span()
	return maps * (disk.FreeSpaceBitmapSize + disk.ItemHeaderSize) / disk.ItemHeaderSize
}

// convert switches a group between extents and bitmaps when the other form is
// smaller (thresholds: set_free_space_tree_thresholds, Linux 6.18: bitmaps when
// the extents' keys would take more than all bitmaps of the group, back at 100
// extents less).
func (t *freeTree) convert(ctx context.Context, g *group, info disk.FreeSpaceInfo) error {
	high := t.mostExtents(g)
	low := high - min(high, 100)
	bitmaps := info.Flags&disk.FreeSpaceUsingBitmaps != 0
	switch {
	case !bitmaps && uint64(info.ExtentCount) > high:
		info.Flags |= disk.FreeSpaceUsingBitmaps
	case bitmaps && uint64(info.ExtentCount) < low:
		info.Flags &^= disk.FreeSpaceUsingBitmaps
	default:
		return nil
	}
	var free []space.Range
	err := t.ranges(ctx, g, func(r space.Range) { free = append(free, r) })
	if err != nil {
		return err
	}
	if err := t.clear(ctx, g); err != nil {
		return err
	}
	if err := t.tree.Insert(ctx, infoKey(g), info.Append(nil)); err != nil {
		return err
	}
	if bitmaps {
		for _, r := range free {
			if err := t.tree.Insert(ctx, extentKey(uint64(r.Start), uint64(r.Length)), nil); err != nil {
				return err
			}
		}
		return nil
	}
	return t.insertBitmaps(ctx, g, free)
}

func (t *freeTree) insertBitmaps(ctx context.Context, g *group, free []space.Range) error {
	for at := uint64(g.start); at < g.end(); {
		n := min(t.span(), g.end()-at)
		b := bitmap{
			key:  disk.Key{ObjectID: disk.ObjectID(at), Type: disk.KeyFreeSpaceBitmap, Offset: n},
			bits: make([]byte, (n/t.sector+7)/8),
		}
		for len(free) > 0 && uint64(free[0].Start) < at+n {
			from, to := max(at, uint64(free[0].Start)), min(at+n, uint64(free[0].End()))
			for s := from; s < to; s += t.sector {
				i := (s - at) / t.sector
				b.bits[i/8] |= 1 << (i % 8)
			}
			if uint64(free[0].End()) > at+n {
				break
			}
			free = free[1:]
		}
		if err := t.tree.Insert(ctx, b.key, b.bits); err != nil {
			return err
		}
		at += n
	}
	return nil
}

// clear removes all entries of a group.
func (t *freeTree) clear(ctx context.Context, g *group) error {
	for {
		it, ok, err := t.tree.Ceil(ctx, infoKey(g))
		if err != nil {
			return err
		}
		if !ok || uint64(it.Key.ObjectID) >= g.end() {
			return nil
		}
		if err := t.tree.Delete(ctx, it.Key); err != nil {
			return err
		}
	}
}

// create enters a new group: all of it is free.
func (t *freeTree) create(ctx context.Context, g *group) error {
	if t.ignores(g) {
		return nil
	}
	if err := t.tree.Insert(ctx, infoKey(g), disk.FreeSpaceInfo{ExtentCount: 1}.Append(nil)); err != nil {
		return err
	}
	return t.tree.Insert(ctx, extentKey(uint64(g.start), g.length), nil)
}

// remove forgets a group.
func (t *freeTree) remove(ctx context.Context, g *group) error {
	if t.ignores(g) {
		return nil
	}
	return t.clear(ctx, g)
}

// ranges calls yield with the free ranges of a group, in order; ranges that
// touch come as one.
func (t *freeTree) ranges(ctx context.Context, g *group, yield func(space.Range)) error {
	var run space.Range
	add := func(at, n uint64) {
		if run.Length > 0 && uint64(run.End()) == at {
			run.Length += space.Bytes(n)
			return
		}
		if run.Length > 0 {
			yield(run)
		}
		run = space.Range{Start: disk.Logical(at), Length: space.Bytes(n)}
	}
	for k := infoKey(g); ; k = k.Next() {
		it, ok, err := t.tree.Ceil(ctx, k)
		if err != nil {
			return err
		}
		if !ok || uint64(it.Key.ObjectID) >= g.end() {
			break
		}
		k = it.Key
		if n := k.Offset; k.Type != disk.KeyFreeSpaceInfo && n > g.end()-uint64(k.ObjectID) {
			return t.corrupt(k, "reaches behind its block group")
		}
		switch k.Type {
		case disk.KeyFreeSpaceExtent:
			add(uint64(k.ObjectID), k.Offset)
		case disk.KeyFreeSpaceBitmap:
			t.runs(bitmap{k, it.Data}, add)
		}
	}
	if run.Length > 0 {
		yield(run)
	}
	return nil
}

// runs calls add with the runs of set bits in a bitmap.
func (t *freeTree) runs(b bitmap, add func(at, n uint64)) {
	limit := min(b.key.Offset/t.sector, uint64(len(b.bits))*8)
	word := func(i uint64) uint64 { // the 64 bits from i on
		var buf [9]byte
		copy(buf[:], b.bits[i/8:])
		w := binary.LittleEndian.Uint64(buf[:8]) >> (i % 8)
		if i%8 > 0 {
			w |= uint64(buf[8]) << (64 - i%8)
		}
		return w
	}
	for i := uint64(0); i < limit; {
		if w := word(i); w&1 == 0 {
			i += uint64(min(bits.TrailingZeros64(w), 64))
			continue
		}
		from := i
		for i < limit {
			n := uint64(bits.TrailingZeros64(^word(i)))
			if i += n; n < 64 {
				break
			}
		}
		i = min(i, limit)
		add(uint64(b.key.ObjectID)+from*t.sector, (i-from)*t.sector)
	}
}
