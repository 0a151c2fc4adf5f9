package fstree

import (
	"context"
	"errors"
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
	// Umask is permission bits to leave out, unless the directory has a default
	// ACL, which then counts in their place.
	Umask uint32
}

const (
	modeSymlink = 0o120000
	modeChar    = 0o020000
	modeSetgid  = 0o2000
)

// Create makes an inode under a new name. It inherits from its directory:
// group and setgid bit of a setgid directory, the default ACL, flags for
// contents, and the property btrfs.compression.
func (w *Writer) Create(ctx context.Context, sub, dir disk.ObjectID, name []byte, a Attr) (ino disk.ObjectID, err error) {
	ino, err = w.createJointly(ctx, sub, a, func(context.Context, joint) (disk.ObjectID, []byte, error) { return dir, name, nil })
	if errors.Is(err, errAlone) {
		ino, err = w.createAlone(ctx, sub, dir, name, a)
	}
	return ino, err
}

func (w *Writer) createAlone(ctx context.Context, sub, dir disk.ObjectID, name []byte, a Attr) (ino disk.ObjectID, err error) {
	err = w.do(ctx, sub, itemsCreate, space.ClassNormal, func(ctx context.Context, e *edit) error {
		ino, err = e.create(ctx, dir, name, a)
		return err
	})
	return ino, err
}

func (e *edit) create(ctx context.Context, dir disk.ObjectID, name []byte, a Attr) (disk.ObjectID, error) {
	if dir == disk.EmptySubvolDir && a.Mode&modeType == modeReg {
		return 0, fmt.Errorf("%q: %w", name, syscall.EACCES) // other types: EPERM
	}
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
	inherited, err := e.heritage(ctx, dir, dir)
	if err != nil {
		return 0, err
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
	if err := e.insertInode(ctx, ino, &item, inherited, a.Umask); err != nil {
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
	parent, err := e.directory(ctx, dir)
	if err != nil {
		return parent, err
	}
	if _, ok, err := e.lookup(ctx, dir, name); err != nil {
		return parent, err
	} else if ok {
		return parent, fmt.Errorf("%q: %w", name, syscall.EEXIST)
	}
	if err := mayChange(dir, &parent, false); err != nil {
		return parent, err
	}
	return parent, e.roomForEntry(ctx, dir, name)
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
