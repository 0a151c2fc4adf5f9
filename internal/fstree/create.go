package fstree

import (
	"context"
	"fmt"
	"syscall"

	"gobtrfs/disk"
	"gobtrfs/internal/space"
)

// Attr is what a new inode is to be.
type Attr struct {
	Mode     uint32 // st_mode, type bits included
	UID, GID uint32
	Rdev     uint64 // of device nodes, see disk.JoinRdev
	Target   string // of symbolic links
}

const (
	modeSymlink = 0o120000
	modeChar    = 0o020000
	modeSetgid  = 0o2000
)

// Create makes an inode under a new name. Group and the setgid bit are handed
// down from a setgid directory, as are the directory's flags for contents.
func (w *Writer) Create(ctx context.Context, sub, dir disk.ObjectID, name []byte, a Attr) (ino disk.ObjectID, err error) {
	err = w.do(ctx, sub, itemsName, space.ClassNormal, func(ctx context.Context, e *edit) error {
		ino, err = e.create(ctx, dir, name, a)
		return err
	})
	return ino, err
}

func (e *edit) create(ctx context.Context, dir disk.ObjectID, name []byte, a Attr) (disk.ObjectID, error) {
	parent, err := e.newName(ctx, dir, name)
	if err != nil {
		return 0, err
	}
	typ := disk.FileType(a.Mode)
	link := a.Mode&modeType == modeSymlink
	switch {
	case typ == disk.FtUnknown:
		return 0, fmt.Errorf("mode %o: %w", a.Mode, syscall.EINVAL)
	case link && a.Target == "":
		return 0, fmt.Errorf("empty target: %w", syscall.ENOENT)
	case link && len(a.Target) > int(e.maxSymlink()):
		return 0, fmt.Errorf("target of %d bytes: %w", len(a.Target), syscall.ENAMETOOLONG)
	}
	index, err := e.newIndex(ctx, dir)
	if err != nil {
		return 0, err
	}
	ino, err := e.newIno(ctx)
	if err != nil {
		return 0, err
	}
	item := e.newInode(&parent, a)
	if link {
		item.Size, item.NBytes = uint64(len(a.Target)), uint64(len(a.Target))
	}
	if err := e.t.Insert(ctx, inodeKey(ino), item.Append(nil)); err != nil {
		return 0, err
	}
	if err := e.addRef(ctx, ino, dir, name, index); err != nil {
		return 0, err
	}
	if link {
		if err := e.insertInline(ctx, ino, []byte(a.Target), uint64(len(a.Target)), disk.CompressNone); err != nil {
			return 0, err
		}
	}
	if err := e.addEntry(ctx, dir, &parent, name, inodeKey(ino), typ, index); err != nil {
		return 0, err
	}
	return ino, e.putInode(ctx, dir, &parent)
}

// newName checks that a name may be added to a directory, and reads that.
func (e *edit) newName(ctx context.Context, dir disk.ObjectID, name []byte) (disk.InodeItem, error) {
	if err := checkName(name); err != nil {
		return disk.InodeItem{}, err
	}
	parent, err := e.dirToChange(ctx, dir)
	if err != nil {
		return parent, err
	}
	if _, ok, err := e.lookup(ctx, dir, name); err != nil {
		return parent, err
	} else if ok {
		return parent, fmt.Errorf("%q: %w", name, syscall.EEXIST)
	}
	return parent, e.roomForEntry(ctx, dir, name)
}

func (e *edit) newInode(parent *disk.InodeItem, a Attr) disk.InodeItem {
	trans := e.w.tx.Trans()
	item := disk.InodeItem{
		Generation: trans, TransID: trans, Nlink: 1, UID: a.UID, GID: a.GID, Mode: a.Mode,
		Atime: e.now, Ctime: e.now, Mtime: e.now, Otime: e.now,
	}
	switch a.Mode & modeType {
	case 0o020000, 0o060000:
		item.Rdev = a.Rdev
	}
	if parent.Mode&modeSetgid != 0 {
		item.GID = parent.GID
		if a.Mode&modeType == modeDir {
			item.Mode |= modeSetgid
		}
	}
	if a.Mode&modeType == modeDir || a.Mode&modeType == modeReg {
		item.Flags = parent.Flags & (disk.InodeCompress | disk.InodeNoCompress | disk.InodeNoDataCow)
		if a.Mode&modeType == modeReg {
			if e.w.opts.NoDataCow {
				item.Flags |= disk.InodeNoDataCow
			}
			if e.w.opts.NoDataSum || item.Flags&disk.InodeNoDataCow != 0 {
				item.Flags |= disk.InodeNoDataSum
			}
		}
	}
	return item
}

// maxSymlink is the longest target: it must fit an inline extent, and less
// than a sector.
func (e *edit) maxSymlink() uint64 {
	return min(e.w.base.sectorSize-1, uint64(e.maxItem()-disk.FileExtentInlineHeader))
}

// Link gives an inode one more name.
func (w *Writer) Link(ctx context.Context, sub, dir disk.ObjectID, name []byte, ino disk.ObjectID) error {
	return w.do(ctx, sub, itemsName, space.ClassNormal, func(ctx context.Context, e *edit) error {
		parent, err := e.newName(ctx, dir, name)
		if err != nil {
			return err
		}
		item, err := e.inode(ctx, ino)
		if err != nil {
			return err
		}
		switch {
		case item.Mode&modeType == modeDir:
			return fmt.Errorf("inode %d is a directory: %w", uint64(ino), syscall.EPERM)
		case item.Flags&(disk.InodeImmutable|disk.InodeAppend) != 0:
			return fmt.Errorf("inode %d is immutable: %w", uint64(ino), syscall.EPERM)
		case item.Nlink == 0 && !w.holds.linkable(sub, ino):
			return fmt.Errorf("inode %d was removed: %w", uint64(ino), syscall.ENOENT)
		case item.Nlink >= maxNlink:
			return fmt.Errorf("inode %d: %w", uint64(ino), syscall.EMLINK)
		}
		if err := e.roomForRef(ctx, ino, dir, name); err != nil {
			return err
		}
		index, err := e.newIndex(ctx, dir)
		if err != nil {
			return err
		}
		if item.Nlink == 0 { // made by Tmpfile
			if err := e.t.Delete(ctx, orphanKey(ino)); err != nil {
				return err
			}
		}
		item.Nlink++
		item.Ctime = e.now
		if err := e.putInode(ctx, ino, &item); err != nil {
			return err
		}
		if err := e.addRef(ctx, ino, dir, name, index); err != nil {
			return err
		}
		if err := e.addEntry(ctx, dir, &parent, name, inodeKey(ino), disk.FileType(item.Mode), index); err != nil {
			return err
		}
		return e.putInode(ctx, dir, &parent)
	})
}

const maxNlink = 65535 // BTRFS_LINK_MAX
