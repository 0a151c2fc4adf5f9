package fstree

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"syscall"

	"gobtrfs/disk"
	"gobtrfs/internal/csum"
	"gobtrfs/internal/space"
)

// Change says what of an inode's attributes is to be set; nil leaves a field
// alone.
type Change struct {
	Mode         *uint32 // permission bits; the type stays
	UID, GID     *uint32
	Atime, Mtime *disk.Time
	Flags        *uint64 // disk.InodeNoDump and its like
}

// SetAttr changes attributes of an inode. A change of owner takes the setuid
// and setgid bits of a regular file that can be run away, as Linux does.
func (w *Writer) SetAttr(ctx context.Context, sub, ino disk.ObjectID, c Change) error {
	return w.do(ctx, sub, 2, space.ClassNormal, func(ctx context.Context, e *edit) error {
		item, err := e.inode(ctx, ino)
		if err != nil {
			return err
		}
		if item.Flags&(disk.InodeImmutable|disk.InodeAppend) != 0 && c.Flags == nil {
			return fmt.Errorf("inode %d is immutable: %w", uint64(ino), syscall.EPERM)
		}
		if c.UID != nil || c.GID != nil {
			if item.Mode&modeType == modeReg {
				item.Mode &^= 0o4000
				if item.Mode&0o010 != 0 {
					item.Mode &^= modeSetgid
				}
			}
			if c.UID != nil {
				item.UID = *c.UID
			}
			if c.GID != nil {
				item.GID = *c.GID
			}
		}
		if c.Mode != nil {
			item.Mode = item.Mode&modeType | *c.Mode&0o7777
		}
		if c.Atime != nil {
			item.Atime = *c.Atime
		}
		if c.Mtime != nil {
			item.Mtime = *c.Mtime
		}
		if c.Flags != nil {
			item.Flags = *c.Flags
		}
		item.Ctime = e.now
		return e.putInode(ctx, ino, &item)
	})
}

// How SetXattr treats an attribute that is there or not.
const (
	XattrAny     = iota
	XattrCreate  // it must not be there (EEXIST)
	XattrReplace // it must be there (ErrNoAttribute)
)

// SetXattr sets an extended attribute; name has its prefix.
func (w *Writer) SetXattr(ctx context.Context, sub, ino disk.ObjectID, name string, value []byte, how int) error {
	if name == "" || len(name) > disk.MaxNameLen {
		return fmt.Errorf("attribute name of %d bytes: %w", len(name), syscall.ERANGE)
	}
	return w.do(ctx, sub, 4, space.ClassNormal, func(ctx context.Context, e *edit) error {
		k := xattrKey(ino, name)
		item, old, rest, err := e.xattr(ctx, ino, k, name)
		if err != nil {
			return err
		}
		d := disk.DirItem{Type: disk.FtXattr, TransID: e.w.tx.Trans(), Name: []byte(name), Data: value}
		b := d.Append(slices.Clone(rest))
		switch {
		case old && how == XattrCreate:
			return fmt.Errorf("attribute %q: %w", name, syscall.EEXIST)
		case !old && how == XattrReplace:
			return fmt.Errorf("attribute %q: %w", name, ErrNoAttribute)
		case len(b) > e.maxItem():
			return fmt.Errorf("attribute %q of %d bytes: %w", name, len(value), syscall.ENOSPC)
		case old || len(rest) > 0:
			err = e.t.Update(ctx, k, b)
		default:
			err = e.t.Insert(ctx, k, b)
		}
		if err != nil {
			return err
		}
		item.Ctime = e.now
		return e.putInode(ctx, ino, &item)
	})
}

// RemoveXattr removes an extended attribute. The error is ErrNoAttribute if
// there is none.
func (w *Writer) RemoveXattr(ctx context.Context, sub, ino disk.ObjectID, name string) error {
	return w.do(ctx, sub, 4, space.ClassSteal, func(ctx context.Context, e *edit) error {
		k := xattrKey(ino, name)
		item, old, _, err := e.xattr(ctx, ino, k, name)
		if err != nil {
			return err
		}
		if !old {
			return fmt.Errorf("attribute %q: %w", name, ErrNoAttribute)
		}
		if err := e.removeNamed(ctx, k, []byte(name)); err != nil {
			return err
		}
		item.Ctime = e.now
		return e.putInode(ctx, ino, &item)
	})
}

func xattrKey(ino disk.ObjectID, name string) disk.Key {
	return disk.Key{ObjectID: ino, Type: disk.KeyXattrItem, Offset: uint64(csum.NameHash([]byte(name)))}
}

// xattr reads the inode whose attribute is to be changed, says whether it has
// it, and returns what else is in the attribute's item.
func (e *edit) xattr(ctx context.Context, ino disk.ObjectID, k disk.Key, name string) (item disk.InodeItem, old bool, rest []byte, err error) {
	if item, err = e.inode(ctx, ino); err != nil {
		return item, false, nil, err
	}
	if item.Flags&(disk.InodeImmutable|disk.InodeAppend) != 0 {
		return item, false, nil, fmt.Errorf("inode %d is immutable: %w", uint64(ino), syscall.EPERM)
	}
	if t := item.Mode & modeType; strings.HasPrefix(name, "user.") && t != modeReg && t != modeDir {
		return item, false, nil, fmt.Errorf("attribute %q of a special file: %w", name, syscall.EPERM)
	}
	data, ok, err := e.t.Get(ctx, k)
	for ok && len(data) > 0 {
		d, next, err := disk.ParseDirItem(data)
		if err != nil {
			return item, false, nil, e.corrupt(k, err)
		}
		if string(d.Name) == name {
			old = true
		} else {
			rest = append(rest, data[:len(data)-len(next)]...)
		}
		data = next
	}
	return item, old, rest, err
}
