package fstree

import (
	"context"
	"fmt"
	"syscall"

	"gobtrfs/disk"
	"gobtrfs/internal/csum"
)

// Subvol is one subvolume or snapshot. It is safe for concurrent use.
type Subvol struct {
	store *Store
	id    disk.ObjectID
	item  disk.RootItem
	items view
}

// ID is the subvolume's tree id.
func (v *Subvol) ID() disk.ObjectID { return v.id }

// Item is the subvolume's root item.
func (v *Subvol) Item() *disk.RootItem { return &v.item }

// Store is the filesystem that the subvolume belongs to.
func (v *Subvol) Store() *Store { return v.store }

func (v *Subvol) corrupt(k disk.Key, cause error) error { return v.store.corrupt(v.id, k, cause) }

// Inode reads an inode item. The error wraps syscall.ENOENT if there is none.
func (v *Subvol) Inode(ctx context.Context, ino disk.ObjectID) (disk.InodeItem, error) {
	k := disk.Key{ObjectID: ino, Type: disk.KeyInodeItem}
	data, ok, err := v.items.get(ctx, k)
	if err != nil {
		return disk.InodeItem{}, err
	}
	if !ok {
		return disk.InodeItem{}, fmt.Errorf("inode %d of subvolume %d: %w", uint64(ino), uint64(v.id), syscall.ENOENT)
	}
	item, err := disk.ParseInodeItem(data)
	if err != nil {
		return item, v.corrupt(k, err)
	}
	if b := v.store.pending; b != nil {
		f := b.find(fileKey{v.id, ino})
		n, err := v.unplaced(ctx, f, &item)
		if err != nil {
			return item, err
		}
		f.overlay(&item)
		item.NBytes += n
	}
	return item, nil
}

// unplaced is how many bytes a file's pending contents take besides what it has:
// those that replace others, or fill what is preallocated, take none, as on Linux.
func (v *Subvol) unplaced(ctx context.Context, f *pendingFile, item *disk.InodeItem) (n uint64, err error) {
	if f == nil {
		return 0, nil
	}
	for _, r := range f.touched(v.store.sectorSize) {
		n += r.to - r.from
		if item.NBytes == 0 {
			continue
		}
		it := v.treeExtents(ctx, f.key.ino, r.to, r.from)
		for it.Next() {
			if e := it.Extent(); !e.Hole {
				n -= min(e.End, r.to) - max(e.Start, r.from)
			}
		}
		if err := it.Err(); err != nil {
			return 0, err
		}
	}
	return n, nil
}

// DirEntry is a name in a directory.
type DirEntry struct {
	Name []byte // aliases the tree
	// Location names an inode of the same subvolume (KeyInodeItem), or the
	// root of another one (KeyRootItem).
	Location disk.Key
	Type     uint8  // disk.FtRegFile …
	Index    uint64 // position in the directory
}

// IsSubvol says whether the entry names a subvolume.
func (d *DirEntry) IsSubvol() bool { return d.Location.Type == disk.KeyRootItem }

// Lookup finds a name in a directory. The error wraps syscall.ENOENT if it is
// not there. The entry's Index is not filled in.
func (v *Subvol) Lookup(ctx context.Context, dir disk.ObjectID, name []byte) (DirEntry, error) {
	k := disk.Key{ObjectID: dir, Type: disk.KeyDirItem, Offset: uint64(csum.NameHash(name))}
	d, ok, err := v.findNamed(ctx, k, name)
	if err != nil {
		return DirEntry{}, err
	}
	if !ok {
		return DirEntry{}, fmt.Errorf("%q: %w", name, syscall.ENOENT)
	}
	return DirEntry{Name: d.Name, Location: d.Location, Type: d.Type}, nil
}

// findNamed finds the entry called name among those of one DIR_ITEM or
// XATTR_ITEM, whose names all have the same hash.
func (v *Subvol) findNamed(ctx context.Context, k disk.Key, name []byte) (d disk.DirItem, ok bool, err error) {
	rest, ok, err := v.items.get(ctx, k)
	if err != nil || !ok {
		return d, false, err
	}
	for len(rest) > 0 {
		if d, rest, err = disk.ParseDirItem(rest); err != nil {
			return d, false, v.corrupt(k, err)
		}
		if string(d.Name) == string(name) {
			return d, true, nil
		}
	}
	return d, false, nil
}

// DirIter walks the entries of a directory in the order of their indexes. It
// is used by one goroutine.
type DirIter struct {
	v   *Subvol
	dir disk.ObjectID
	cur cursor
	ent DirEntry
	err error
}

// ReadDir starts behind the entry with index after; 0 starts at the first.
func (v *Subvol) ReadDir(ctx context.Context, dir disk.ObjectID, after uint64) DirIter {
	return DirIter{v: v, dir: dir, cur: v.items.seek(ctx, disk.Key{ObjectID: dir, Type: disk.KeyDirIndex, Offset: after + 1})}
}

// Next moves to the next entry and says whether there is one.
func (d *DirIter) Next() bool {
	if d.err != nil {
		return false
	}
	if !d.cur.valid() {
		d.err = d.cur.err()
		return false
	}
	k := d.cur.key()
	if k.ObjectID != d.dir || k.Type != disk.KeyDirIndex {
		return false
	}
	item, _, err := disk.ParseDirItem(d.cur.data())
	if err != nil {
		d.err = d.v.corrupt(k, err)
		return false
	}
	d.ent = DirEntry{Name: item.Name, Location: item.Location, Type: item.Type, Index: k.Offset}
	d.cur.next()
	return true
}

// Entry is the entry that Next moved to.
func (d *DirIter) Entry() *DirEntry { return &d.ent }

// Err is the error that ended the walk, nil at its end.
func (d *DirIter) Err() error { return d.err }

// Child says where a directory entry leads: to an inode of this subvolume, to
// the top of another, or, with stub set, nowhere: the entry came along with a
// snapshot, the subvolume it names did not.
func (v *Subvol) Child(ctx context.Context, dir disk.ObjectID, e *DirEntry) (sub *Subvol, ino disk.ObjectID, stub bool, err error) {
	if !e.IsSubvol() {
		return v, e.Location.ObjectID, false, nil
	}
	named, err := v.store.isNamed(ctx, v.id, e.Location.ObjectID, dir, e.Name)
	if err != nil {
		return nil, 0, false, err
	}
	if !named {
		return v, disk.EmptySubvolDir, true, nil
	}
	sub, err = v.store.Subvol(ctx, e.Location.ObjectID)
	if err != nil {
		return nil, 0, false, err
	}
	return sub, sub.RootDir(), false, nil
}

// RootDir is the inode of the subvolume's top directory.
func (v *Subvol) RootDir() disk.ObjectID {
	if v.item.RootDirID == 0 {
		return disk.RootDirObjectID
	}
	return v.item.RootDirID
}

// Xattr is an extended attribute.
type Xattr struct {
	Name, Value []byte // alias the tree
}

// Xattr reads one extended attribute. The error wraps syscall.ENODATA if the
// inode has none of that name.
func (v *Subvol) Xattr(ctx context.Context, ino disk.ObjectID, name []byte) ([]byte, error) {
	k := disk.Key{ObjectID: ino, Type: disk.KeyXattrItem, Offset: uint64(csum.NameHash(name))}
	d, ok, err := v.findNamed(ctx, k, name)
	if err != nil {
		return nil, err
	}
	if !ok {
		return nil, fmt.Errorf("attribute %q: %w", name, ErrNoAttribute)
	}
	return d.Data, nil
}

// Xattrs lists the extended attributes of an inode in the order of their
// hashes. Properties ("btrfs.") are among them.
func (v *Subvol) Xattrs(ctx context.Context, ino disk.ObjectID) ([]Xattr, error) {
	var out []Xattr
	c := v.items.seek(ctx, disk.Key{ObjectID: ino, Type: disk.KeyXattrItem})
	for ; c.valid(); c.next() {
		k := c.key()
		if k.ObjectID != ino || k.Type != disk.KeyXattrItem {
			break
		}
		for rest := c.data(); len(rest) > 0; {
			d, next, err := disk.ParseDirItem(rest)
			if err != nil {
				return out, v.corrupt(k, err)
			}
			out = append(out, Xattr{d.Name, d.Data})
			rest = next
		}
	}
	return out, c.err()
}

// Name is one of an inode's names.
type Name struct {
	Parent disk.ObjectID
	Index  uint64
	Name   []byte // aliases the tree
}

// Names lists the names of an inode: INODE_REF items, then INODE_EXTREF.
func (v *Subvol) Names(ctx context.Context, ino disk.ObjectID) ([]Name, error) {
	var out []Name
	c := v.items.seek(ctx, disk.Key{ObjectID: ino, Type: disk.KeyInodeRef})
	for ; c.valid(); c.next() {
		k := c.key()
		if k.ObjectID != ino || k.Type > disk.KeyInodeExtref {
			break
		}
		names, err := parseNames(k, c.data())
		if err != nil {
			return out, v.corrupt(k, err)
		}
		out = append(out, names...)
	}
	return out, c.err()
}

// parseNames decodes all names of an INODE_REF or INODE_EXTREF item.
func parseNames(k disk.Key, data []byte) ([]Name, error) {
	var out []Name
	for len(data) > 0 {
		if k.Type == disk.KeyInodeRef {
			r, rest, err := disk.ParseInodeRef(data)
			if err != nil {
				return nil, err
			}
			out, data = append(out, Name{disk.ObjectID(k.Offset), r.Index, r.Name}), rest
			continue
		}
		r, rest, err := disk.ParseInodeExtref(data)
		if err != nil {
			return nil, err
		}
		out, data = append(out, Name{r.Parent, r.Index, r.Name}), rest
	}
	return out, nil
}
