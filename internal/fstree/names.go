package fstree

import (
	"context"
	"fmt"
	"slices"
	"syscall"

	"gobtrfs/disk"
	"gobtrfs/internal/csum"
)

// checkName refuses what cannot be a name.
func checkName(name []byte) error {
	switch {
	case len(name) > disk.MaxNameLen:
		return fmt.Errorf("name of %d bytes: %w", len(name), syscall.ENAMETOOLONG)
	case len(name) == 0:
		return fmt.Errorf("empty name: %w", syscall.ENOENT)
	case string(name) == "." || string(name) == "..":
		return fmt.Errorf("name %q: %w", name, syscall.EINVAL)
	case slices.Contains(name, '/') || slices.Contains(name, 0):
		return fmt.Errorf("name %q: %w", name, syscall.EINVAL)
	}
	return nil
}

func dirItemKey(dir disk.ObjectID, name []byte) disk.Key {
	return disk.Key{ObjectID: dir, Type: disk.KeyDirItem, Offset: uint64(csum.NameHash(name))}
}

// lookup finds a name in a directory; the entry's names alias nothing.
func (e *edit) lookup(ctx context.Context, dir disk.ObjectID, name []byte) (disk.DirItem, bool, error) {
	data, ok, err := e.t.Get(ctx, dirItemKey(dir, name))
	if err != nil || !ok {
		return disk.DirItem{}, false, err
	}
	for len(data) > 0 {
		var d disk.DirItem
		if d, data, err = disk.ParseDirItem(data); err != nil {
			return d, false, e.corrupt(dirItemKey(dir, name), err)
		}
		if string(d.Name) == string(name) {
			d.Name, d.Data = slices.Clone(d.Name), nil
			return d, true, nil
		}
	}
	return disk.DirItem{}, false, nil
}

// directory reads a directory into which or from which a name is to go.
func (e *edit) directory(ctx context.Context, dir disk.ObjectID) (disk.InodeItem, error) {
	if dir == disk.EmptySubvolDir {
		return disk.InodeItem{}, fmt.Errorf("the directory stands for a subvolume that is not here: %w", syscall.EPERM)
	}
	item, err := e.inode(ctx, dir)
	if err != nil {
		return item, err
	}
	switch {
	case item.Mode&modeType != modeDir:
		return item, fmt.Errorf("inode %d: %w", uint64(dir), syscall.ENOTDIR)
	case item.Nlink == 0:
		return item, fmt.Errorf("directory %d was removed: %w", uint64(dir), syscall.ENOENT)
	}
	return item, nil
}

// mayChange fails if flags of a directory forbid to add a name or, with
// removing set, to take one away. That comes after what is wrong with the name.
func mayChange(dir disk.ObjectID, item *disk.InodeItem, removing bool) error {
	switch {
	case item.Flags&disk.InodeImmutable != 0:
		return fmt.Errorf("directory %d is immutable: %w", uint64(dir), syscall.EPERM)
	case removing && item.Flags&disk.InodeAppend != 0:
		return fmt.Errorf("directory %d may only be appended to: %w", uint64(dir), syscall.EPERM)
	}
	return nil
}

// roomForEntry fails if the entries that share name's hash fill their item.
func (e *edit) roomForEntry(ctx context.Context, dir disk.ObjectID, name []byte) error {
	data, ok, err := e.t.Get(ctx, dirItemKey(dir, name))
	if err != nil || !ok {
		return err
	}
	if len(data)+30+len(name) > e.maxItem() {
		return fmt.Errorf("too many names with the hash of %q: %w", name, syscall.EOVERFLOW)
	}
	return nil
}

// maxItem is the size of the largest item.
func (e *edit) maxItem() int { return maxItem(e.w.base.super) }

func maxItem(sb *disk.Superblock) int {
	return disk.LeafDataSize(int(sb.NodeSize)) - disk.ItemHeaderSize
}

// addEntry adds a name to a directory: the entry by hash and the one by index.
// The directory's inode is the caller's to write.
func (e *edit) addEntry(ctx context.Context, dir disk.ObjectID, parent *disk.InodeItem, name []byte, to disk.Key, typ uint8, index uint64) error {
	d := disk.DirItem{Location: to, TransID: e.w.tx.Trans(), Type: typ, Name: name}
	if err := e.appendNamed(ctx, dirItemKey(dir, name), &d); err != nil {
		return err
	}
	if err := e.t.Insert(ctx, disk.Key{ObjectID: dir, Type: disk.KeyDirIndex, Offset: index}, d.Append(nil)); err != nil {
		return err
	}
	e.resizeDir(parent, len(name))
	return nil
}

// appendNamed adds an entry to the item at k, which may hold others already.
func (e *edit) appendNamed(ctx context.Context, k disk.Key, d *disk.DirItem) error {
	old, ok, err := e.t.Get(ctx, k)
	if err != nil {
		return err
	}
	if !ok {
		return e.t.Insert(ctx, k, d.Append(nil))
	}
	return e.t.Update(ctx, k, d.Append(slices.Clone(old)))
}

// removeNamed takes the entry of that name out of the item at k.
func (e *edit) removeNamed(ctx context.Context, k disk.Key, name []byte) error {
	data, ok, err := e.t.Get(ctx, k)
	if err != nil {
		return err
	}
	var keep []byte
	found := false
	for rest := data; ok && len(rest) > 0; {
		d, next, err := disk.ParseDirItem(rest)
		if err != nil {
			return e.corrupt(k, err)
		}
		if string(d.Name) == string(name) {
			found = true
		} else {
			keep = append(keep, rest[:len(rest)-len(next)]...)
		}
		rest = next
	}
	switch {
	case !found:
		return e.corrupt(k, fmt.Errorf("%w: there is no entry %q", disk.ErrFormat, name))
	case len(keep) == 0:
		return e.t.Delete(ctx, k)
	}
	return e.t.Update(ctx, k, keep)
}

// removeEntry takes a name out of a directory.
func (e *edit) removeEntry(ctx context.Context, dir disk.ObjectID, parent *disk.InodeItem, name []byte, index uint64) error {
	if err := e.keepIndex(ctx, dir); err != nil {
		return err
	}
	if err := e.removeNamed(ctx, dirItemKey(dir, name), name); err != nil {
		return err
	}
	if err := e.t.Delete(ctx, disk.Key{ObjectID: dir, Type: disk.KeyDirIndex, Offset: index}); err != nil {
		return err
	}
	e.resizeDir(parent, -len(name))
	return nil
}

// resizeDir changes a directory's size, which counts each name twice, and its
// times.
func (e *edit) resizeDir(dir *disk.InodeItem, n int) {
	dir.Size = uint64(max(0, int64(dir.Size)+2*int64(n)))
	dir.Mtime, dir.Ctime = e.now, e.now
}

// addRef says in an inode that it has a name. Names that do not fit the item
// of their directory go to items by hash (extended refs).
func (e *edit) addRef(ctx context.Context, ino, dir disk.ObjectID, name []byte, index uint64) error {
	e.renamed(ino)
	k := disk.Key{ObjectID: ino, Type: disk.KeyInodeRef, Offset: uint64(dir)}
	ref := disk.InodeRef{Index: index, Name: name}
	old, ok, err := e.t.Get(ctx, k)
	if err != nil {
		return err
	}
	if !ok {
		return e.t.Insert(ctx, k, ref.Append(nil))
	}
	if b := ref.Append(slices.Clone(old)); len(b) <= e.maxItem() {
		return e.t.Update(ctx, k, b)
	}
	x := disk.InodeExtref{Parent: dir, Index: index, Name: name}
	k = extrefKey(ino, dir, name)
	if old, ok, err = e.t.Get(ctx, k); err != nil {
		return err
	}
	if !ok {
		return e.t.Insert(ctx, k, x.Append(nil))
	}
	return e.t.Update(ctx, k, x.Append(slices.Clone(old)))
}

func extrefKey(ino, dir disk.ObjectID, name []byte) disk.Key {
	return disk.Key{ObjectID: ino, Type: disk.KeyInodeExtref, Offset: csum.ExtrefHash(dir, name)}
}

// roomForRef fails if an inode cannot have one more name in a directory.
func (e *edit) roomForRef(ctx context.Context, ino, dir disk.ObjectID, name []byte) error {
	old, ok, err := e.t.Get(ctx, disk.Key{ObjectID: ino, Type: disk.KeyInodeRef, Offset: uint64(dir)})
	if err != nil || !ok || len(old)+10+len(name) <= e.maxItem() {
		return err
	}
	full := fmt.Errorf("inode %d has too many names in directory %d: %w", uint64(ino), uint64(dir), syscall.EMLINK)
	if e.w.base.super.IncompatFlags&disk.IncompatExtendedIref == 0 {
		return full
	}
	old, ok, err = e.t.Get(ctx, extrefKey(ino, dir, name))
	if err == nil && ok && len(old)+18+len(name) > e.maxItem() {
		return full
	}
	return err
}

// findRef says at which index an inode has a name, and which item says so.
func (e *edit) findRef(ctx context.Context, ino, dir disk.ObjectID, name []byte) (k disk.Key, index uint64, err error) {
	for _, k := range refKeys(ino, dir, name) {
		data, ok, err := e.t.Get(ctx, k)
		if err != nil {
			return k, 0, err
		}
		if !ok {
			continue
		}
		names, err := parseNames(k, data)
		if err != nil {
			return k, 0, e.corrupt(k, err)
		}
		for _, n := range names {
			if n.Parent == dir && string(n.Name) == string(name) {
				return k, n.Index, nil
			}
		}
	}
	k = disk.Key{ObjectID: ino, Type: disk.KeyInodeRef, Offset: uint64(dir)}
	return k, 0, e.corrupt(k, fmt.Errorf("%w: inode does not know its name %q", disk.ErrFormat, name))
}

// removeRef takes a name away from an inode.
func (e *edit) removeRef(ctx context.Context, k disk.Key, dir disk.ObjectID, name []byte) error {
	e.renamed(k.ObjectID)
	data, _, err := e.t.Get(ctx, k)
	if err != nil {
		return err
	}
	names, err := parseNames(k, data)
	if err != nil {
		return e.corrupt(k, err)
	}
	var keep []byte
	for _, n := range names {
		if n.Parent != dir || string(n.Name) != string(name) {
			keep = appendRef(keep, k.Type, n)
		}
	}
	if len(keep) == 0 {
		return e.t.Delete(ctx, k)
	}
	return e.t.Update(ctx, k, keep)
}

// isEmpty says whether a directory has no entries.
func (e *edit) isEmpty(ctx context.Context, dir disk.ObjectID) (bool, error) {
	it, ok, err := e.t.Ceil(ctx, disk.Key{ObjectID: dir, Type: disk.KeyDirItem})
	if err != nil {
		return false, err
	}
	return !ok || it.Key.ObjectID != dir || it.Key.Type != disk.KeyDirItem && it.Key.Type != disk.KeyDirIndex, nil
}
