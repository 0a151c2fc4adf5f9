package fstree

import (
	"context"
	"fmt"
	"syscall"

	"gobtrfs/disk"
	"gobtrfs/internal/space"
)

// Change says what of an inode's attributes is to be set; nil and false leave
// a field alone.
type Change struct {
	Mode         *uint32 // permission bits; the type stays
	UID, GID     *uint32
	Atime, Mtime *disk.Time
	// The time of the change itself (UTIME_NOW); Atime and Mtime do not count
	// then. Both together, and nothing else, are less of a change: a file that
	// may only be appended to can have them.
	AtimeNow, MtimeNow bool
}

// touch says whether only the times are set, to now.
func (c *Change) touch() bool {
	return *c == Change{AtimeNow: true, MtimeNow: true}
}

// SetAttr changes attributes of an inode. A change of owner takes setuid,
// setgid and capabilities away from what can be run, as Linux does; a change of
// mode is put into the access ACL, too.
func (w *Writer) SetAttr(ctx context.Context, sub, ino disk.ObjectID, c Change) error {
	if c == (Change{}) {
		return nil
	}
	return w.do(ctx, sub, 4, space.ClassNormal, func(ctx context.Context, e *edit) error {
		item, err := e.inode(ctx, ino)
		if err != nil {
			return err
		}
		fixed := uint64(disk.InodeImmutable | disk.InodeAppend)
		if c.touch() {
			fixed = disk.InodeImmutable
		}
		if item.Flags&fixed != 0 {
			return fmt.Errorf("inode %d is immutable: %w", uint64(ino), syscall.EPERM)
		}
		var access acl
		if c.Mode != nil {
			if access, err = e.readACL(ctx, ino, xattrACLAccess); err != nil {
				return err
			}
		}
		// Everything is read: from here on there are only changes.
		if c.UID != nil || c.GID != nil {
			if err := e.dropPrivileges(ctx, ino, &item, true); err != nil {
				return err
			}
		}
		c.apply(&item, e.now)
		if access != nil {
			access.chmod(item.Mode)
			if err := e.putXattr(ctx, ino, xattrACLAccess, access.append(nil)); err != nil {
				return err
			}
		}
		item.Ctime = e.now
		return e.putInode(ctx, ino, &item)
	})
}

// apply sets what is only in the inode.
func (c *Change) apply(item *disk.InodeItem, now disk.Time) {
	if c.UID != nil {
		item.UID = *c.UID
	}
	if c.GID != nil {
		item.GID = *c.GID
	}
	if c.Mode != nil {
		item.Mode = item.Mode&modeType | *c.Mode&0o7777
	}
	set := func(to *disk.Time, t *disk.Time, isNow bool) {
		if isNow {
			t = &now
		}
		if t != nil {
			*to = *t
		}
	}
	set(&item.Atime, c.Atime, c.AtimeNow)
	set(&item.Mtime, c.Mtime, c.MtimeNow)
}

// xattrCapability is what else than setuid can give a program privileges.
const xattrCapability = "security.capability"

// withoutSetID is a mode without setuid, and without setgid of what its group
// can run: otherwise that bit means something else.
func withoutSetID(mode uint32) uint32 {
	mode &^= 0o4000
	if mode&0o010 != 0 {
		mode &^= modeSetgid
	}
	return mode
}

// dropPrivileges takes away capabilities and, if bits is set, setuid and
// setgid. The inode is the caller's to write.
func (e *edit) dropPrivileges(ctx context.Context, ino disk.ObjectID, item *disk.InodeItem, bits bool) error {
	if item.Mode&modeType == modeDir {
		return nil
	}
	if bits {
		item.Mode = withoutSetID(item.Mode)
	}
	_, err := e.dropXattr(ctx, ino, xattrCapability)
	return err
}

// DropPrivileges is what a change of a file's contents does to it besides:
// capabilities go and, unless the writer may keep them (CAP_FSETID), setuid and
// setgid, too. Nothing happens if there are none, or if the file cannot be
// changed.
func (w *Writer) DropPrivileges(ctx context.Context, sub, ino disk.ObjectID, bits bool) error {
	needed := false
	look := func(ctx context.Context, e *edit) (item disk.InodeItem, err error) {
		if item, err = e.inode(ctx, ino); err != nil {
			return item, err
		}
		_, capable, err := e.getXattr(ctx, ino, xattrCapability)
		if err != nil || item.Mode&modeType != modeReg || item.Flags&disk.InodeImmutable != 0 {
			return item, err
		}
		needed = capable || bits && withoutSetID(item.Mode) != item.Mode
		return item, nil
	}
	err := w.tx.Look(ctx, func(ctx context.Context) error {
		e, err := w.edit(ctx, sub)
		if err == nil {
			_, err = look(ctx, e)
		}
		return err
	})
	if err != nil || !needed {
		return err
	}
	return w.do(ctx, sub, 4, space.ClassNormal, func(ctx context.Context, e *edit) error {
		item, err := look(ctx, e)
		if err != nil || !needed {
			return err
		}
		if err := e.dropPrivileges(ctx, ino, &item, bits); err != nil {
			return err
		}
		item.Ctime = e.now
		return e.putInode(ctx, ino, &item)
	})
}
