package fstree

import (
	"context"
	"errors"
	"fmt"
	"syscall"

	"gobtrfs/disk"
	"gobtrfs/internal/space"
)

// Unlink removes a name of anything but a directory. With its last name an
// inode goes.
func (w *Writer) Unlink(ctx context.Context, sub, dir disk.ObjectID, name []byte) error {
	return w.remove(ctx, sub, dir, name, false)
}

// Rmdir removes an empty directory, also one that is the top of a subvolume or
// that stands for one.
func (w *Writer) Rmdir(ctx context.Context, sub, dir disk.ObjectID, name []byte) error {
	return w.remove(ctx, sub, dir, name, true)
}

func (w *Writer) remove(ctx context.Context, sub, dir disk.ObjectID, name []byte, directory bool) error {
	var rest, volume disk.ObjectID
	err := w.do(ctx, sub, itemsRemove, space.ClassSteal, func(ctx context.Context, e *edit) error {
		parent, err := e.directory(ctx, dir)
		if err != nil {
			return err
		}
		d, ok, err := e.lookup(ctx, dir, name)
		switch {
		case err != nil:
			return err
		case !ok:
			return fmt.Errorf("%q: %w", name, (&Place{Name: name}).Missing())
		}
		if err := mayChange(dir, &parent, true); err != nil {
			return err
		}
		if rest, volume, err = e.removeName(ctx, dir, &parent, d, directory); err != nil {
			return err
		}
		return e.putInode(ctx, dir, &parent)
	})
	switch {
	case err != nil:
		return err
	case volume != 0:
		return w.dropUnheld(ctx, volume)
	case rest != 0:
		return w.Evict(ctx, sub, rest)
	}
	return nil
}

// removeName takes away what has a name. An inode that comes back is to be
// evicted, a subvolume to be dropped.
func (e *edit) removeName(ctx context.Context, dir disk.ObjectID, parent *disk.InodeItem, d disk.DirItem, directory bool) (rest, volume disk.ObjectID, err error) {
	isVolume, isStub := d.Location.Type != disk.KeyInodeItem, false
	top := e
	ino := d.Location.ObjectID
	if isVolume {
		if isStub, err = e.isStub(ctx, d.Location.ObjectID); err != nil {
			return 0, 0, err
		}
		if !isStub {
			if top, err = e.w.edit(ctx, d.Location.ObjectID); err != nil {
				return 0, 0, err
			}
			ino = disk.RootDirObjectID
		}
	}
	var item disk.InodeItem
	if !isStub {
		if item, err = top.inode(ctx, ino); err != nil {
			return 0, 0, err
		}
	}
	switch {
	case item.Flags&(disk.InodeImmutable|disk.InodeAppend) != 0:
		err = fmt.Errorf("inode %d is immutable: %w", uint64(ino), syscall.EPERM)
	case directory && d.Type != disk.FtDir:
		err = fmt.Errorf("%q: %w", d.Name, syscall.ENOTDIR)
	case !directory && d.Type == disk.FtDir:
		err = fmt.Errorf("%q: %w", d.Name, syscall.EISDIR)
	case isVolume && item.Size > 0:
		err = fmt.Errorf("%q is a subvolume that is not empty: %w", d.Name, syscall.ENOTEMPTY)
	case isStub:
		err = e.unlinkStub(ctx, dir, parent, d.Name)
	case isVolume:
		volume = d.Location.ObjectID
		err = e.unlinkSubvol(ctx, dir, parent, d.Name, volume)
	default:
		rest, err = e.unlink(ctx, dir, parent, d)
	}
	return rest, volume, err
}

// unlinkStub takes the name of a subvolume away that is not here: only the
// entries know it.
func (e *edit) unlinkStub(ctx context.Context, dir disk.ObjectID, parent *disk.InodeItem, name []byte) error {
	for k := (disk.Key{ObjectID: dir, Type: disk.KeyDirIndex}); ; k = k.Next() {
		it, ok, err := e.t.Ceil(ctx, k)
		if err != nil {
			return err
		}
		if !ok || it.Key.ObjectID != dir || it.Key.Type != disk.KeyDirIndex {
			return e.corrupt(dirItemKey(dir, name), fmt.Errorf("%w: no index of %q", disk.ErrFormat, name))
		}
		k = it.Key
		d, _, err := disk.ParseDirItem(it.Data)
		if err != nil {
			return e.corrupt(k, err)
		}
		if string(d.Name) == string(name) {
			return e.removeEntry(ctx, dir, parent, name, k.Offset)
		}
	}
}

// unlink takes a name away. If that was the inode's last, it goes too, as far
// as evictBatch reaches; if that was not enough its number comes back, and an
// orphan item says that it is to be evicted. The directory's inode is the
// caller's to write.
func (e *edit) unlink(ctx context.Context, dir disk.ObjectID, parent *disk.InodeItem, d disk.DirItem) (rest disk.ObjectID, err error) {
	ino := d.Location.ObjectID
	item, err := e.inode(ctx, ino)
	if err != nil {
		return 0, err
	}
	if item.Flags&(disk.InodeImmutable|disk.InodeAppend) != 0 {
		return 0, fmt.Errorf("inode %d is immutable: %w", uint64(ino), syscall.EPERM)
	}
	if item.Mode&modeType == modeDir {
		if empty, err := e.isEmpty(ctx, ino); err != nil {
			return 0, err
		} else if !empty {
			return 0, fmt.Errorf("%q: %w", d.Name, syscall.ENOTEMPTY)
		}
	}
	k, index, err := e.findRef(ctx, ino, dir, d.Name)
	if err != nil {
		return 0, err
	}
	if err := e.keepIno(ctx); err != nil {
		return 0, err
	}
	if err := e.removeRef(ctx, k, dir, d.Name); err != nil {
		return 0, err
	}
	if err := e.removeEntry(ctx, dir, parent, d.Name, index); err != nil {
		return 0, err
	}
	if item.Nlink > 1 {
		item.Nlink--
		item.Ctime = e.now
		return 0, e.putInode(ctx, ino, &item)
	}
	item.Nlink = 0
	if err := e.putInode(ctx, ino, &item); err != nil {
		return 0, err
	}
	delete(e.w.numbers.index, dirKey{e.t.ID(), ino})
	if e.w.outlives(e.t.ID(), ino) {
		return 0, e.t.Insert(ctx, orphanKey(ino), nil) // Release evicts it
	}
	done, err := e.evict(ctx, ino)
	if err != nil || done {
		return 0, err
	}
	return ino, e.t.Insert(ctx, orphanKey(ino), nil)
}

func orphanKey(ino disk.ObjectID) disk.Key {
	return disk.Key{ObjectID: disk.OrphanObjectID, Type: disk.KeyOrphanItem, Offset: uint64(ino)}
}

// evictBatch is how many items of an inode one operation removes.
const evictBatch = 8

// evict removes items of an inode without names, the inode itself last, and
// says whether it is gone.
func (e *edit) evict(ctx context.Context, ino disk.ObjectID) (done bool, err error) {
	e.w.forgetInode(fileKey{e.t.ID(), ino})
	var freed uint64
	for range evictBatch {
		it, ok, err := e.t.Floor(ctx, disk.Key{ObjectID: ino, Type: 255, Offset: 1<<64 - 1})
		if err != nil {
			return false, err
		}
		if !ok || it.Key.ObjectID != ino {
			return true, nil
		}
		if it.Key.Type == disk.KeyExtentData {
			n, err := e.dropExtent(ctx, ino, it.Key, it.Data)
			if err != nil {
				return false, err
			}
			freed += n
		} else if err := e.t.Delete(ctx, it.Key); err != nil {
			return false, err
		}
	}
	item, err := e.inode(ctx, ino)
	if errors.Is(err, syscall.ENOENT) {
		return true, nil
	} else if err != nil {
		return false, err
	}
	item.Size, item.NBytes = 0, item.NBytes-min(item.NBytes, freed)
	return false, e.putInode(ctx, ino, &item)
}

// dropExtent removes a file extent item and its reference to an extent; the
// result is the bytes that the inode counted for it.
func (e *edit) dropExtent(ctx context.Context, ino disk.ObjectID, k disk.Key, data []byte) (uint64, error) {
	fe, err := disk.ParseFileExtent(data)
	if err != nil {
		return 0, e.corrupt(k, err)
	}
	var n uint64
	switch {
	case fe.Type == disk.FileExtentInline:
		n = fe.RAMBytes
	case !fe.IsHole():
		n = fe.NumBytes
		e.w.tx.DropDataRef(e.t, fe.DiskBytenr, fe.DiskNumBytes, ino, k.Offset-fe.Offset)
	}
	return n, e.t.Delete(ctx, k)
}

// Evict removes what is left of an inode without names, some items at a time.
func (w *Writer) Evict(ctx context.Context, sub, ino disk.ObjectID) error {
	for done := false; !done; {
		err := w.tx.Do(ctx, itemsRemove, space.ClassSteal, func(ctx context.Context) error {
			e, err := w.edit(ctx, sub)
			if err != nil {
				return err
			}
			item, err := e.inode(ctx, ino)
			if err != nil && !errors.Is(err, syscall.ENOENT) {
				return err
			}
			// An orphan that has names is one of a truncation that was
			// interrupted: only the orphan goes.
			if done = err != nil || item.Nlink > 0; !done {
				if done, err = e.evict(ctx, ino); err != nil {
					return err
				}
			}
			if !done {
				return nil
			}
			return e.t.Delete(ctx, orphanKey(ino))
		})
		if err != nil {
			return fmt.Errorf("evict inode %d of subvolume %d: %w", uint64(ino), uint64(sub), err)
		}
	}
	return nil
}

// CleanOrphans evicts the inodes without names that an earlier session left in
// a subvolume.
func (w *Writer) CleanOrphans(ctx context.Context, sub disk.ObjectID) error {
	for next := orphanKey(0); ; next = next.Next() {
		var ino disk.ObjectID
		err := w.tx.Look(ctx, func(ctx context.Context) error {
			e, err := w.edit(ctx, sub)
			if err != nil {
				return err
			}
			it, ok, err := e.t.Ceil(ctx, next)
			if err == nil && ok && it.Key.ObjectID == disk.OrphanObjectID && it.Key.Type == disk.KeyOrphanItem {
				next, ino = it.Key, disk.ObjectID(it.Key.Offset)
			}
			return err
		})
		if err != nil || ino == 0 {
			return err
		}
		if err := w.Evict(ctx, sub, ino); err != nil {
			return err
		}
	}
}
