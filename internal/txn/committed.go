package txn

import (
	"context"
	"fmt"

	"gobtrfs/disk"
	"gobtrfs/internal/btree"
	"gobtrfs/internal/volume"
)

// committed is the extent and checksum trees of the last commit. Reading them
// needs no lock: while the superblock stands they do not change.
type committed struct {
	fs     *FS
	extent *btree.Tree
	csum   *btree.Tree // nil: there is none
}

func (f *FS) committed(ctx context.Context) (*committed, error) {
	sb := f.vol.Super()
	root := btree.New(f.cache, btree.Root{ID: disk.TreeRoot, Bytenr: sb.Root, Level: int(sb.RootLevel), Generation: sb.Generation})
	c := &committed{fs: f}
	for id, t := range map[disk.ObjectID]**btree.Tree{disk.TreeExtent: &c.extent, disk.TreeCsum: &c.csum} {
		it := root.SeekLast(ctx, disk.Key{ObjectID: id, Type: disk.KeyRootItem, Offset: 1<<64 - 1})
		if it.Err() != nil {
			return nil, it.Err()
		}
		if !it.Valid() || it.Key().ObjectID != id || it.Key().Type != disk.KeyRootItem {
			if id == disk.TreeCsum {
				continue
			}
			return nil, f.corrupt(disk.Key{ObjectID: id, Type: disk.KeyRootItem}, "no root item")
		}
		item, err := disk.ParseRootItem(it.Data())
		if err != nil {
			return nil, fmt.Errorf("root item %v: %w", it.Key(), err)
		}
		*t = btree.New(f.cache, btree.Root{ID: id, Bytenr: item.Bytenr, Level: int(item.Level), Generation: item.Generation})
	}
	return c, nil
}

// committedBytes fills those parts of buf that the last commit refers to from a
// good copy; it is the volume's volume.Committed, and may be called while
// anything else happens.
func (f *FS) committedBytes(ctx context.Context, l disk.Logical, buf []byte) error {
	c, err := f.committed(ctx)
	if err != nil {
		return err
	}
	return c.read(ctx, l, buf)
}

// read fills the parts of buf that are committed and have checksums, wherever
// they do not match already. Bytes without checksums are left alone: nobody can
// say which copy of them is right.
func (c *committed) read(ctx context.Context, l disk.Logical, buf []byte) error {
	return c.extents(ctx, l, l+disk.Logical(len(buf)), func(e *extentRange) error {
		part := buf[e.from-l : e.to-l]
		if e.node {
			return c.node(ctx, e.start, e.gen, e.from, part)
		}
		return c.data(ctx, e.from, part)
	})
}

// extentRange is the part [from, to) of a range that lies in one extent.
type extentRange struct {
	from, to disk.Logical
	node     bool
	start    disk.Logical // of the extent
	gen      disk.TransID // of a node
}

// extents calls f with what [l, end) has in common with extents.
func (c *committed) extents(ctx context.Context, l, end disk.Logical, f func(*extentRange) error) error {
	it := c.extent.SeekLast(ctx, disk.Key{ObjectID: disk.ObjectID(l), Type: disk.KeyMetadataItem, Offset: 1<<64 - 1})
	for it.Valid() && !isExtent(it.Key()) {
		it.Prev() // references and block groups stand between
	}
	if it.Err() == nil && !it.Valid() {
		it = c.extent.Seek(ctx, disk.Key{ObjectID: disk.ObjectID(l)})
	}
	for ; it.Valid() && it.Key().ObjectID < disk.ObjectID(end); it.Next() {
		k := it.Key()
		if !isExtent(k) {
			continue
		}
		item, err := disk.ParseExtentItem(it.Data())
		if err != nil {
			return c.fs.corrupt(k, "%v", err)
		}
		e := extentRange{start: disk.Logical(k.ObjectID), node: item.Flags&disk.ExtentFlagTreeBlock != 0, gen: item.Generation}
		n := disk.Logical(k.Offset)
		if e.node {
			n = disk.Logical(c.fs.geometry.NodeSize)
		}
		if e.from, e.to = max(l, e.start), min(end, e.start+n); e.from >= e.to {
			continue
		}
		if err := f(&e); err != nil {
			return err
		}
	}
	return it.Err()
}

func isExtent(k disk.Key) bool { return k.Type == disk.KeyExtentItem || k.Type == disk.KeyMetadataItem }

// node fills buf with the bytes from on of the tree block at start.
func (c *committed) node(ctx context.Context, start disk.Logical, gen disk.TransID, from disk.Logical, buf []byte) error {
	n := make([]byte, c.fs.geometry.NodeSize)
	err := c.fs.vol.ReadNode(ctx, start, n, func(n disk.Node) error {
		if n.Generation() != gen {
			return fmt.Errorf("%w: generation %d, the extent item says %d", disk.ErrFormat, n.Generation(), gen)
		}
		return nil
	})
	if err == nil {
		copy(buf, n[from-start:])
	}
	return err
}

// data fills buf with the data at l, as far as it has checksums.
func (c *committed) data(ctx context.Context, l disk.Logical, buf []byte) error {
	sector, size := int(c.fs.geometry.SectorSize), c.fs.geometry.CsumType.Size()
	return c.sums(ctx, l, l+disk.Logical(len(buf)), func(at disk.Logical, sums []byte) error {
		return c.fs.vol.ReadData(ctx, at, buf[at-l:][:len(sums)/size*sector], sums)
	})
}

// sums calls f with the checksums that data in [l, end) has: those of
// neighbouring sectors together, from the first one's address on.
func (c *committed) sums(ctx context.Context, l, end disk.Logical, f func(at disk.Logical, sums []byte) error) error {
	if c.csum == nil {
		return nil
	}
	size, sector := c.fs.geometry.CsumType.Size(), disk.Logical(c.fs.geometry.SectorSize)
	it := c.csum.SeekLast(ctx, csumKey(l))
	if it.Err() == nil && !it.Valid() {
		it = c.csum.Seek(ctx, csumKey(l))
	}
	for ; it.Valid() && it.Key().Type == disk.KeyExtentCsum && it.Key().Offset < uint64(end); it.Next() {
		start := disk.Logical(it.Key().Offset)
		from, to := max(l, start), min(end, start+disk.Logical(len(it.Data())/size)*sector)
		if from >= to {
			continue
		}
		if err := f(from, it.Data()[int((from-start)/sector)*size:int((to-start)/sector)*size]); err != nil {
			return err
		}
	}
	return it.Err()
}

var _ volume.Committed = (*FS)(nil).committedBytes
