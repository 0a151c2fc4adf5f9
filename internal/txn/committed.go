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
	end := l + disk.Logical(len(buf))
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
		start, n := disk.Logical(k.ObjectID), disk.Logical(k.Offset)
		node := item.Flags&disk.ExtentFlagTreeBlock != 0
		if node {
			n = disk.Logical(c.fs.geometry.NodeSize)
		}
		from, to := max(l, start), min(end, start+n)
		switch {
		case from >= to:
		case node:
			err = c.node(ctx, start, item.Generation, from, buf[from-l:to-l])
		default:
			err = c.data(ctx, from, buf[from-l:to-l])
		}
		if err != nil {
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
	if c.csum == nil {
		return nil
	}
	size, sector := c.fs.geometry.CsumType.Size(), disk.Logical(c.fs.geometry.SectorSize)
	end := l + disk.Logical(len(buf))
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
		sums := it.Data()[int((from-start)/sector)*size : int((to-start)/sector)*size]
		if err := c.fs.vol.ReadData(ctx, from, buf[from-l:to-l], sums); err != nil {
			return err
		}
	}
	return it.Err()
}

var _ volume.Committed = (*FS)(nil).committedBytes
