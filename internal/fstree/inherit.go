package fstree

import (
	"context"
	"slices"

	"gobtrfs/disk"
)

// heritage is what a directory hands down by its attributes.
type heritage struct {
	acl         acl    // its default ACL
	compression string // its property btrfs.compression
}

// plainDirs are directories that are known to hand nothing down, so that most
// creations need not look.
type plainDirs map[dirKey]struct{}

func (p plainDirs) forget(sub, dir disk.ObjectID) { delete(p, dirKey{sub, dir}) }

// heritage is what is handed down to what is made in dir; properties are those
// of directory props, which differs for a subvolume.
func (e *edit) heritage(ctx context.Context, dir, props disk.ObjectID) (h heritage, err error) {
	k := dirKey{e.t.ID(), dir}
	if _, plain := e.w.plain[k]; plain && dir == props {
		return h, nil
	}
	if h.acl, err = e.readACL(ctx, dir, xattrACLDefault); err != nil {
		return h, err
	}
	if h.compression, err = e.inheritedCompression(ctx, props); err != nil {
		return h, err
	}
	if h.acl == nil && h.compression == "" && dir == props {
		if len(e.w.plain) > maxIndexes {
			clear(e.w.plain)
		}
		e.w.plain[k] = struct{}{}
	}
	return h, nil
}

// newInode is an inode that is made in directory parent, with what it inherits
// from that by the inode.
func (e *edit) newInode(parent *disk.InodeItem, a Attr) disk.InodeItem {
	trans := e.w.tx.Trans()
	item := disk.InodeItem{
		Generation: trans, TransID: trans, Nlink: 1, UID: a.UID, GID: a.GID, Mode: a.Mode,
		Atime: e.now, Ctime: e.now, Mtime: e.now, Otime: e.now,
	}
	switch a.Mode & modeType {
	case modeChar, 0o060000:
		item.Rdev = a.Rdev
	}
	if parent.Mode&modeSetgid != 0 {
		item.GID = parent.GID
		if a.Mode&modeType == modeDir {
			item.Mode |= modeSetgid
		}
	}
	item.Flags = parent.Flags & (disk.InodeCompress | disk.InodeNoCompress | disk.InodeNoDataCow)
	if a.Mode&modeType == modeReg {
		if e.w.opts.NoDataCow {
			item.Flags |= disk.InodeNoDataCow
		}
		if e.w.opts.NoDataSum || item.Flags&disk.InodeNoDataCow != 0 {
			item.Flags |= disk.InodeNoDataSum
		}
	}
	return item
}

// insertInode makes an inode with what it inherits by attributes. A default
// ACL counts in place of the maker's umask.
func (e *edit) insertInode(ctx context.Context, ino disk.ObjectID, item *disk.InodeItem, h heritage, umask uint32) error {
	typ := item.Mode & modeType
	var access acl
	switch {
	case typ == modeSymlink:
		h.acl = nil
	case h.acl == nil:
		item.Mode &^= umask & 0o777
	default:
		access = slices.Clone(h.acl)
		item.Mode = access.inherit(item.Mode)
	}
	if h.compression != "" && (typ == modeReg || typ == modeDir) && canCompress(item) {
		if err := e.writeCompression(ctx, ino, item, h.compression); err != nil {
			return err
		}
	}
	if err := e.t.Insert(ctx, inodeKey(ino), item.Append(nil)); err != nil {
		return err
	}
	if typ == modeDir && h.acl != nil {
		if err := e.putXattr(ctx, ino, xattrACLDefault, h.acl.append(nil)); err != nil {
			return err
		}
	}
	if _, all := access.mode(); access != nil && !all {
		return e.putXattr(ctx, ino, xattrACLAccess, access.append(nil))
	}
	return nil
}
