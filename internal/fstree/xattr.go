package fstree

import (
	"context"
	"encoding/binary"
	"fmt"
	"slices"
	"strings"
	"syscall"

	"gobtrfs/disk"
	"gobtrfs/internal/csum"
	"gobtrfs/internal/space"
)

// How SetXattr treats an attribute that is there or not.
const (
	XattrAny     = iota
	XattrCreate  // it must not be there (EEXIST)
	XattrReplace // it must be there (ErrNoAttribute)
)

// maxXattrValue is the longest value that the kernel takes (XATTR_SIZE_MAX).
const maxXattrValue = 64 << 10

// CheckXattr refuses a name that no attribute can have (ERANGE), and a value of
// more bytes than any may have (E2BIG).
func CheckXattr(name string, size int) error {
	switch {
	case name == "" || len(name) > disk.MaxNameLen:
		return fmt.Errorf("attribute name of %d bytes: %w", len(name), syscall.ERANGE)
	case size > maxXattrValue:
		return fmt.Errorf("attribute %q of %d bytes: %w", name, size, syscall.E2BIG)
	}
	return nil
}

// checkXattrPrefix refuses a name in no namespace that btrfs has, and one that
// is nothing but its namespace.
func checkXattrPrefix(name string) error {
	if name == xattrACLAccess || name == xattrACLDefault {
		return nil
	}
	for _, prefix := range []string{"security.", "trusted.", "user.", "btrfs."} {
		if rest, ok := strings.CutPrefix(name, prefix); ok {
			if rest == "" || prefix == "btrfs." && name != propCompression {
				return fmt.Errorf("attribute %q: %w", name, syscall.EINVAL)
			}
			return nil
		}
	}
	return fmt.Errorf("attribute %q: %w", name, syscall.EOPNOTSUPP)
}

// checkHow says whether an attribute may be set although, or only if, it is
// there.
func checkHow(name string, old bool, how int) error {
	switch {
	case old && how == XattrCreate:
		return fmt.Errorf("attribute %q: %w", name, syscall.EEXIST)
	case !old && how == XattrReplace:
		return fmt.Errorf("attribute %q: %w", name, ErrNoAttribute)
	}
	return nil
}

// checkCapability refuses a value of security.capability that is none
// (VFS_CAP_REVISION_2 and 3 in linux/capability.h).
func checkCapability(value []byte) error {
	if len(value) >= 4 {
		switch revision := binary.LittleEndian.Uint32(value) &^ 1; {
		case revision == 0x02000000 && len(value) == 20, revision == 0x03000000 && len(value) == 24:
			return nil
		}
	}
	return fmt.Errorf("%s of %d bytes: %w", xattrCapability, len(value), syscall.EINVAL)
}

// SetXattr sets an extended attribute; name has its prefix. ACLs and
// btrfs.compression change what goes with them.
func (w *Writer) SetXattr(ctx context.Context, sub, ino disk.ObjectID, name string, value []byte, how int) error {
	if err := CheckXattr(name, len(value)); err != nil {
		return err
	}
	if name == xattrCapability {
		if err := checkCapability(value); err != nil {
			return err
		}
	}
	var list acl
	if name == xattrACLAccess || name == xattrACLDefault {
		var err error
		if list, err = parseACL(value); err != nil {
			return err
		}
	}
	return w.do(ctx, sub, 4, space.ClassNormal, func(ctx context.Context, e *edit) error {
		item, err := e.inodeOfXattr(ctx, ino, name)
		if err != nil {
			return err
		}
		switch name {
		case xattrACLAccess, xattrACLDefault:
			return e.setACL(ctx, ino, &item, name, list)
		case propCompression:
			return e.setCompression(ctx, ino, &item, string(value), how)
		}
		_, old, err := e.getXattr(ctx, ino, name)
		if err != nil {
			return err
		}
		if len(name)+len(value) > e.maxXattr() {
			return fmt.Errorf("attribute %q of %d bytes: %w", name, len(value), syscall.ENOSPC)
		}
		if err := checkHow(name, old, how); err != nil {
			return err
		}
		if err := e.roomForXattr(ctx, ino, name, value); err != nil {
			return err
		}
		if err := e.putXattr(ctx, ino, name, value); err != nil {
			return err
		}
		item.Ctime = e.now
		return e.putInode(ctx, ino, &item)
	})
}

// RemoveXattr removes an extended attribute. The error is ErrNoAttribute if
// there is none; an ACL may be absent.
func (w *Writer) RemoveXattr(ctx context.Context, sub, ino disk.ObjectID, name string) error {
	if err := CheckXattr(name, 0); err != nil {
		return err
	}
	return w.do(ctx, sub, 4, space.ClassSteal, func(ctx context.Context, e *edit) error {
		item, err := e.inodeOfXattr(ctx, ino, name)
		if err != nil {
			return err
		}
		switch name {
		case xattrACLAccess, xattrACLDefault:
			return e.setACL(ctx, ino, &item, name, nil)
		case propCompression:
			return e.setCompression(ctx, ino, &item, "", XattrReplace)
		}
		ok, err := e.dropXattr(ctx, ino, name)
		if err != nil {
			return err
		}
		if !ok {
			return fmt.Errorf("attribute %q: %w", name, ErrNoAttribute)
		}
		item.Ctime = e.now
		return e.putInode(ctx, ino, &item)
	})
}

// inodeOfXattr reads the inode whose attribute is to be changed, if it may
// have one of that name.
func (e *edit) inodeOfXattr(ctx context.Context, ino disk.ObjectID, name string) (disk.InodeItem, error) {
	item, err := e.inode(ctx, ino)
	if err != nil {
		return item, err
	}
	if item.Flags&(disk.InodeImmutable|disk.InodeAppend) != 0 {
		return item, fmt.Errorf("inode %d is immutable: %w", uint64(ino), syscall.EPERM)
	}
	if t := item.Mode & modeType; strings.HasPrefix(name, "user.") && t != modeReg && t != modeDir {
		return item, fmt.Errorf("attribute %q of a special file: %w", name, syscall.EPERM)
	}
	return item, checkXattrPrefix(name)
}

func xattrKey(ino disk.ObjectID, name string) disk.Key {
	return disk.Key{ObjectID: ino, Type: disk.KeyXattrItem, Offset: uint64(csum.NameHash([]byte(name)))}
}

// maxXattr is the longest name and value together.
func (e *edit) maxXattr() int { return e.maxItem() - dirItemSize }

// dirItemSize is what stands in a directory entry or attribute before the name.
const dirItemSize = 30

// getXattr is the value of an attribute, which aliases the tree.
func (e *edit) getXattr(ctx context.Context, ino disk.ObjectID, name string) (value []byte, ok bool, err error) {
	k := xattrKey(ino, name)
	data, ok, err := e.t.Get(ctx, k)
	for err == nil && ok && len(data) > 0 {
		var d disk.DirItem
		if d, data, err = disk.ParseDirItem(data); err != nil {
			return nil, false, e.corrupt(k, err)
		}
		if string(d.Name) == name {
			return d.Data, true, nil
		}
	}
	return nil, false, err
}

// roomForXattr fails if an attribute does not fit the item in which those of
// the same hash are.
func (e *edit) roomForXattr(ctx context.Context, ino disk.ObjectID, name string, value []byte) error {
	k := xattrKey(ino, name)
	data, ok, err := e.t.Get(ctx, k)
	if err != nil || !ok {
		return err
	}
	rest, err := e.withoutNamed(k, data, []byte(name))
	if err == nil && len(rest)+dirItemSize+len(name)+len(value) > e.maxItem() {
		err = fmt.Errorf("attribute %q of %d bytes: %w", name, len(value), syscall.ENOSPC)
	}
	return err
}

// withoutNamed is an item of entries without the one of a name.
func (e *edit) withoutNamed(k disk.Key, data, name []byte) (keep []byte, err error) {
	for len(data) > 0 {
		d, next, err := disk.ParseDirItem(data)
		if err != nil {
			return nil, e.corrupt(k, err)
		}
		if string(d.Name) != string(name) {
			keep = append(keep, data[:len(data)-len(next)]...)
		}
		data = next
	}
	return keep, nil
}

// putXattr sets an attribute that fits. The inode is the caller's to write.
func (e *edit) putXattr(ctx context.Context, ino disk.ObjectID, name string, value []byte) error {
	k := xattrKey(ino, name)
	d := disk.DirItem{Type: disk.FtXattr, TransID: e.w.tx.Trans(), Name: []byte(name), Data: value}
	data, ok, err := e.t.Get(ctx, k)
	if err != nil {
		return err
	}
	e.w.plain.forget(e.t.ID(), ino)
	if !ok {
		return e.t.Insert(ctx, k, d.Append(nil))
	}
	keep, err := e.withoutNamed(k, data, d.Name)
	if err != nil {
		return err
	}
	return e.t.Update(ctx, k, d.Append(slices.Clip(keep)))
}

// dropXattr removes an attribute and says whether it was there. The inode is
// the caller's to write.
func (e *edit) dropXattr(ctx context.Context, ino disk.ObjectID, name string) (bool, error) {
	_, ok, err := e.getXattr(ctx, ino, name)
	if err != nil || !ok {
		return false, err
	}
	e.w.plain.forget(e.t.ID(), ino)
	return true, e.removeNamed(ctx, xattrKey(ino, name), []byte(name))
}
