package txn

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"gobtrfs/disk"
	"gobtrfs/internal/btree"
	"gobtrfs/internal/csum"
	"gobtrfs/internal/space"
	"gobtrfs/internal/volume"
)

// corrupt is the error of an extent tree that does not say what it must.
func (f *FS) corrupt(k disk.Key, format string, args ...any) error {
	return &volume.CorruptError{Tree: disk.TreeExtent, Key: k, What: "extent tree",
		Err: fmt.Errorf("%w: %s", disk.ErrFormat, fmt.Sprintf(format, args...))}
}

// extentKeys are the keys under which an extent may stand, the usual one
// first. Filesystems that were switched to skinny metadata have both forms.
func (f *FS) extentKeys(addr disk.Logical, size uint64, level int) []disk.Key {
	plain := disk.Key{ObjectID: disk.ObjectID(addr), Type: disk.KeyExtentItem, Offset: size}
	if level == dataLevel || f.geometry.IncompatFlags&disk.IncompatSkinnyMetadata == 0 {
		return []disk.Key{plain}
	}
	return []disk.Key{{ObjectID: disk.ObjectID(addr), Type: disk.KeyMetadataItem, Offset: uint64(level)}, plain}
}

// findExtent finds an extent's item; the data is a copy.
func (f *FS) findExtent(ctx context.Context, addr disk.Logical, size uint64, level int) (disk.Key, []byte, error) {
	keys := f.extentKeys(addr, size, level)
	for _, k := range keys {
		data, ok, err := f.extent.Get(ctx, k)
		if err != nil {
			return k, nil, err
		}
		if ok {
			return k, slices.Clone(data), nil
		}
	}
	return keys[0], nil, f.corrupt(keys[0], "no extent item")
}

// extentInfo is how many references a tree block has, and its flags, with what
// is still pending.
func (f *FS) extentInfo(ctx context.Context, addr disk.Logical, level int) (count int, flags uint64, err error) {
	delta, flags, made := f.refs.pending(addr)
	if made {
		return delta, flags, nil
	}
	k, data, err := f.findExtent(ctx, addr, uint64(f.geometry.NodeSize), level)
	if err != nil {
		return 0, 0, err
	}
	e, err := disk.ParseExtentItem(data)
	if err != nil {
		return 0, 0, f.corrupt(k, "%v", err)
	}
	if count = int(min(e.Refs, 1<<31)) + delta; count <= 0 {
		return 0, 0, f.corrupt(k, "%d references of a block in use", count)
	}
	return count, flags | e.Flags, nil
}

// runRefs brings the extent tree up to date. Doing so changes trees, which
// makes new delayed refs: it ends because a node is copied once at most.
func (f *FS) runRefs(ctx context.Context) error {
	for {
		addrs := f.refs.addrs()
		if len(addrs) == 0 {
			return nil
		}
		for _, a := range addrs {
			h := f.refs.take(a)
			if h == nil {
				continue
			}
			if err := f.runHead(ctx, h); err != nil {
				return fmt.Errorf("references of extent %d: %w", uint64(a), err)
			}
		}
	}
}

func (f *FS) runHead(ctx context.Context, h *head) error {
	r := space.Range{Start: h.addr, Length: space.Bytes(h.size)}
	if h.insert {
		if len(h.deltas) > 0 {
			return f.insertExtent(ctx, h)
		}
		if err := f.dropCsums(ctx, h); err != nil {
			return err
		}
		return f.returnFresh(ctx, r)
	}
	if len(h.deltas) == 0 && h.setFlags == 0 {
		return nil
	}
	k, data, err := f.findExtent(ctx, h.addr, h.size, h.level)
	if err != nil {
		return err
	}
	x, err := f.parseExtent(ctx, k, data)
	if err != nil {
		return err
	}
	for _, ref := range sortedRefs(h.deltas) {
		if err := x.change(ctx, ref, h.deltas[ref]); err != nil {
			return err
		}
	}
	x.item.Flags |= h.setFlags
	if x.item.Refs > 0 {
		return f.extent.Update(ctx, k, x.encode())
	}
	maker := x.takeMaker()
	if len(x.inline) > 0 {
		return f.corrupt(k, "no references but %v", x.inline)
	}
	if err := f.uncharge(ctx, h, x.item.Generation, maker); err != nil {
		return err
	}
	if err := f.extent.Delete(ctx, k); err != nil {
		return err
	}
	if err := f.dropCsums(ctx, h); err != nil {
		return err
	}
	if err := f.accountExtent(ctx, h, false); err != nil {
		return err
	}
	return f.space.FreeExtent(ctx, r, f.Trans())
}

// insertExtent writes the item of a new extent.
func (f *FS) insertExtent(ctx context.Context, h *head) error {
	k := f.extentKeys(h.addr, h.size, h.level)[0]
	x := extentItem{fs: f, key: k, fresh: true, item: disk.ExtentItem{Generation: f.Trans(), Flags: disk.ExtentFlagData}}
	if h.level != dataLevel {
		x.item.Flags = disk.ExtentFlagTreeBlock
		n := f.dirty.Private(h.addr)
		if n == nil {
			return fmt.Errorf("new tree block %d is not dirty: %w", uint64(h.addr), errInternal)
		}
		if k.Type == disk.KeyExtentItem {
			key, err := f.firstKey(ctx, n)
			if err != nil {
				return err
			}
			x.info = &disk.TreeBlockInfo{FirstKey: key, Level: uint8(h.level)}
		}
	}
	x.item.Flags |= h.setFlags
	if f.quota.Load().simple() {
		f.quota.Load().charged(h.maker, int64(h.size))
		if h.level == dataLevel {
			x.setMaker(h.maker)
		}
	}
	for _, ref := range sortedRefs(h.deltas) {
		if h.deltas[ref] < 0 {
			return fmt.Errorf("new extent %d: reference %+v went below zero: %w", uint64(h.addr), ref, errInternal)
		}
		if err := x.change(ctx, ref, h.deltas[ref]); err != nil {
			return err
		}
	}
	if err := f.extent.Insert(ctx, k, x.encode()); err != nil {
		return err
	}
	if err := f.accountExtent(ctx, h, true); err != nil {
		return err
	}
	return f.space.MarkUsed(space.Range{Start: h.addr, Length: space.Bytes(h.size)})
}

// firstKey is the first key of a private node, which may be one of the chunk
// tree that a flight is changing.
func (f *FS) firstKey(ctx context.Context, n disk.Node) (k disk.Key, err error) {
	if n.Owner() == disk.TreeChunk {
		if err := f.lockGrowth(ctx); err != nil {
			return k, err
		}
		defer f.unlockGrowth()
	}
	if n.NrItems() > 0 {
		k = n.Key(0)
	}
	return k, nil
}

// accountExtent enters an extent that was added to or removed from the extent
// tree in its group and in the free-space tree.
func (f *FS) accountExtent(ctx context.Context, h *head, added bool) error {
	g, err := f.groupOf(ctx, h.addr)
	if err != nil {
		return err
	}
	g.dirty = true
	if added {
		g.used += h.size
		f.bytesUsed += h.size
		return f.fst.take(ctx, g, h.addr, h.size)
	}
	if g.used < h.size {
		return f.corrupt(disk.Key{ObjectID: disk.ObjectID(g.start), Type: disk.KeyBlockGroupItem, Offset: g.length},
			"%d bytes used, %d are freed", g.used, h.size)
	}
	g.used -= h.size
	f.bytesUsed -= h.size
	return f.fst.give(ctx, g, h.addr, h.size)
}

// sortedRefs puts references that go away first, so that an item never grows
// beyond what it will be.
func sortedRefs(m map[disk.ExtentRef]int) []disk.ExtentRef {
	out := make([]disk.ExtentRef, 0, len(m))
	for r := range m {
		out = append(out, r)
	}
	slices.SortFunc(out, func(a, b disk.ExtentRef) int {
		if (m[a] < 0) != (m[b] < 0) {
			if m[a] < 0 {
				return -1
			}
			return 1
		}
		return compareRefs(a, b)
	})
	return out
}

// compareRefs is the order of inline references: rising types, and falling
// values within a type.
func compareRefs(a, b disk.ExtentRef) int {
	if a.Type != b.Type {
		return int(a.Type) - int(b.Type)
	}
	x, y := refValue(a), refValue(b)
	switch {
	case x > y:
		return -1
	case x < y:
		return 1
	case a.Type != disk.KeyExtentDataRef:
		return 0
	}
	// Equal hashes: any order will do, but always the same.
	return slices.Compare([]uint64{uint64(a.Root), uint64(a.ObjectID), a.Offset}, []uint64{uint64(b.Root), uint64(b.ObjectID), b.Offset})
}

// refValue is what references of one type are sorted by, and the offset of
// their key when they stand alone.
func refValue(r disk.ExtentRef) uint64 {
	switch r.Type {
	case disk.KeyExtentDataRef:
		return csum.DataRefHash(r.Root, r.ObjectID, r.Offset)
	case disk.KeyTreeBlockRef, disk.KeyExtentOwnerRef:
		return uint64(r.Root)
	}
	return uint64(r.Parent)
}

// extentItem is an extent's item, taken apart.
type extentItem struct {
	fs     *FS
	key    disk.Key
	item   disk.ExtentItem
	info   *disk.TreeBlockInfo
	inline []disk.ExtentRef
	size   int  // of the inline references
	fresh  bool // not in the tree yet
	alone  bool // of a fresh item: references stand alone
}

func (f *FS) parseExtent(_ context.Context, k disk.Key, data []byte) (*extentItem, error) {
	x := &extentItem{fs: f, key: k}
	var err error
	if x.item, err = disk.ParseExtentItem(data); err != nil {
		return nil, f.corrupt(k, "%v", err)
	}
	rest, err := disk.InlineRefs(k, data)
	if err != nil {
		return nil, f.corrupt(k, "%v", err)
	}
	if fixed := len(data) - len(rest); k.Type == disk.KeyExtentItem && x.item.Flags&disk.ExtentFlagTreeBlock != 0 {
		info, err := disk.ParseTreeBlockInfo(data[fixed-disk.KeySize-1:])
		if err != nil {
			return nil, f.corrupt(k, "%v", err)
		}
		x.info = &info
	}
	for len(rest) > 0 {
		ref, n, err := disk.ParseInlineRef(rest)
		if err != nil {
			return nil, f.corrupt(k, "%v", err)
		}
		x.inline, rest, x.size = append(x.inline, ref), rest[n:], x.size+n
	}
	return x, nil
}

func (x *extentItem) encode() []byte {
	b := x.item.Append(nil)
	if x.info != nil {
		b = x.info.Append(b)
	}
	for i := range x.inline {
		b = x.inline[i].AppendInline(b)
	}
	return b
}

// sameRef says whether two references differ in their count at most.
func sameRef(a, b disk.ExtentRef) bool {
	a.Count, b.Count = 0, 0
	return a == b
}

// counted says whether references of the type have a count of their own.
func counted(t disk.KeyType) bool { return t == disk.KeyExtentDataRef || t == disk.KeySharedDataRef }

// change adds delta to one reference, inline or in an item of its own.
func (x *extentItem) change(ctx context.Context, ref disk.ExtentRef, delta int) error {
	ref.Count = 0
	if !counted(ref.Type) && (delta > 1 || delta < -1) {
		return fmt.Errorf("reference %+v of %v changes by %d: %w", ref, x.key, delta, errInternal)
	}
	if delta < 0 && x.item.Refs < uint64(-delta) {
		return x.fs.corrupt(x.key, "%d references, %d are dropped", x.item.Refs, -delta)
	}
	x.item.Refs += uint64(delta)
	i := slices.IndexFunc(x.inline, func(r disk.ExtentRef) bool { return sameRef(r, ref) })
	if i >= 0 {
		return x.changeInline(i, ref, delta)
	}
	return x.changeOwn(ctx, ref, delta)
}

func (x *extentItem) changeInline(i int, ref disk.ExtentRef, delta int) error {
	if !counted(ref.Type) && delta > 0 {
		return x.fs.corrupt(x.key, "reference %+v exists already", ref)
	}
	count := int64(x.inline[i].Count) + int64(delta)
	switch {
	case count < 0 || count > 1<<32-1:
		return x.fs.corrupt(x.key, "reference %+v would be counted %d times", ref, count)
	case count == 0:
		x.size -= disk.InlineRefSize(ref.Type)
		x.inline = slices.Delete(x.inline, i, i+1)
	default:
		x.inline[i].Count = uint32(count)
	}
	return nil
}

// changeOwn changes a reference that is not inline. A new one becomes inline
// if there is room and none stands alone yet: those that stand alone are not
// looked through, but found by their key.
func (x *extentItem) changeOwn(ctx context.Context, ref disk.ExtentRef, delta int) error {
	k, old, found, err := x.find(ctx, ref)
	if err != nil {
		return err
	}
	if found {
		return x.changeKeyed(ctx, k, old, delta)
	}
	if delta < 0 {
		return x.fs.corrupt(x.key, "there is no reference %+v", ref)
	}
	ref.Count = uint32(delta)
	size := disk.InlineRefSize(ref.Type)
	// An extent item takes a sixteenth of a leaf at most (kernel:
	// BTRFS_MAX_EXTENT_ITEM_SIZE, 6.18).
	limit := disk.LeafDataSize(x.fs.geometry.NodeSize)/16 - disk.ItemHeaderSize
	alone, err := x.hasKeyed(ctx)
	if err != nil {
		return err
	}
	if fixed := len(x.encode()) - x.size; !alone && fixed+x.size+size < limit {
		at, _ := slices.BinarySearchFunc(x.inline, ref, compareRefs)
		x.inline = slices.Insert(x.inline, at, ref)
		x.size += size
		return nil
	}
	x.alone = true
	return x.fs.extent.Insert(ctx, k, ref.AppendKeyed(nil))
}

func (x *extentItem) changeKeyed(ctx context.Context, k disk.Key, old disk.ExtentRef, delta int) error {
	count := int64(old.Count) + int64(delta)
	if !counted(old.Type) && delta > 0 || count < 0 || count > 1<<32-1 {
		return x.fs.corrupt(k, "would be counted %d times", count)
	}
	if count == 0 {
		return x.fs.extent.Delete(ctx, k)
	}
	old.Count = uint32(count)
	return x.fs.extent.Update(ctx, k, old.AppendKeyed(nil))
}

// hasKeyed says whether references of the extent stand in items of their own.
func (x *extentItem) hasKeyed(ctx context.Context) (bool, error) {
	if x.fresh {
		return x.alone, nil
	}
	it, ok, err := x.fs.extent.Ceil(ctx, disk.Key{ObjectID: x.key.ObjectID, Type: disk.KeyTreeBlockRef})
	return ok && it.Key.ObjectID == x.key.ObjectID && it.Key.Type < disk.KeyBlockGroupItem, err
}

// find looks for a reference in an item of its own. If it is not there, k is
// where it would stand.
func (x *extentItem) find(ctx context.Context, ref disk.ExtentRef) (k disk.Key, old disk.ExtentRef, found bool, err error) {
	k = disk.Key{ObjectID: x.key.ObjectID, Type: ref.Type, Offset: refValue(ref)}
	if x.fresh {
		return k, old, false, nil
	}
	taken := true // every offset from the hash to the one looked at
	for at := k; ; at = at.Next() {
		it, ok, err := x.fs.extent.Ceil(ctx, at)
		if err != nil || !ok || it.Key.ObjectID != k.ObjectID || it.Key.Type != k.Type || it.Key.Offset > k.Offset && !chained(ref, k, it.Key) {
			return k, old, false, err
		}
		at = it.Key
		if old, err = disk.ParseKeyedRef(at, it.Data); err != nil {
			return at, old, false, x.fs.corrupt(at, "%v", err)
		}
		if sameRef(old, ref) {
			return at, old, true, nil
		}
		if ref.Type != disk.KeyExtentDataRef {
			return at, old, false, x.fs.corrupt(at, "is %+v", old)
		}
		if taken = taken && at == k; taken {
			k.Offset++
		}
	}
}

// maxCollisions bounds how far behind its hash a reference is looked for.
const maxCollisions = 256

// chained says whether the reference whose hash says k may stand at key at:
// others with the same hash may have come first, and may be gone since.
func chained(ref disk.ExtentRef, k, at disk.Key) bool {
	return ref.Type == disk.KeyExtentDataRef && at.Offset-refValue(ref) < maxCollisions && k.Type == at.Type
}

// errInternal marks what cannot happen.
var errInternal = errors.New("internal error")

var _ btree.Source = source{}
