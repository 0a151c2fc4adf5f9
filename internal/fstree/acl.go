package fstree

import (
	"context"
	"encoding/binary"
	"fmt"
	"syscall"

	"gobtrfs/disk"
)

// Names of the attributes that hold POSIX ACLs.
const (
	xattrACLAccess  = "system.posix_acl_access"
	xattrACLDefault = "system.posix_acl_default"
)

// acl is a POSIX ACL, in the order in which the kernel wants it: owner, users,
// group, groups, mask, others.
type acl []aclEntry

type aclEntry struct {
	tag, perm uint16
	id        uint32
}

// Tags of entries, and the format's version (linux/posix_acl_xattr.h).
const (
	aclUserObj  = 0x01
	aclUser     = 0x02
	aclGroupObj = 0x04
	aclGroup    = 0x08
	aclMask     = 0x10
	aclOther    = 0x20

	aclVersion    = 2
	aclHeaderSize = 4
	aclEntrySize  = 8
)

// parseACL decodes an ACL's attribute; nil if there are no entries.
func parseACL(b []byte) (acl, error) {
	le := binary.LittleEndian
	switch {
	case len(b) == 0:
		return nil, nil
	case len(b) < aclHeaderSize:
		return nil, fmt.Errorf("ACL of %d bytes: %w", len(b), syscall.EINVAL)
	case le.Uint32(b) != aclVersion:
		return nil, fmt.Errorf("ACL of version %d: %w", le.Uint32(b), syscall.EOPNOTSUPP)
	case (len(b)-aclHeaderSize)%aclEntrySize != 0:
		return nil, fmt.Errorf("ACL of %d bytes: %w", len(b), syscall.EINVAL)
	}
	var a acl
	for b = b[aclHeaderSize:]; len(b) > 0; b = b[aclEntrySize:] {
		e := aclEntry{le.Uint16(b), le.Uint16(b[2:]), le.Uint32(b[4:])}
		switch e.tag {
		case aclUserObj, aclGroupObj, aclMask, aclOther, aclUser, aclGroup:
		default:
			return nil, fmt.Errorf("ACL entry of kind %#x: %w", e.tag, syscall.EINVAL)
		}
		if (e.tag == aclUser || e.tag == aclGroup) && e.id == 1<<32-1 {
			return nil, fmt.Errorf("ACL entry of nobody: %w", syscall.EINVAL)
		}
		a = append(a, e)
	}
	return a, nil
}

// append appends the ACL's attribute.
func (a acl) append(b []byte) []byte {
	le := binary.LittleEndian
	b = le.AppendUint32(b, aclVersion)
	for _, e := range a {
		if e.tag != aclUser && e.tag != aclGroup {
			e.id = 1<<32 - 1
		}
		b = le.AppendUint32(le.AppendUint16(le.AppendUint16(b, e.tag), e.perm), e.id)
	}
	return b
}

// check refuses an ACL whose entries are not the ones that must be there, in
// their order.
func (a acl) check() error {
	bad := fmt.Errorf("ACL: %w", syscall.EINVAL)
	// What may come before each kind of entry.
	before := map[uint16]uint16{
		aclUserObj: 0, aclUser: aclUserObj | aclUser, aclGroupObj: aclUserObj | aclUser, aclGroup: aclGroupObj | aclGroup,
		aclMask: aclGroupObj | aclGroup, aclOther: aclGroupObj | aclGroup | aclMask,
	}
	var last, seen uint16
	for _, e := range a {
		if e.perm&^7 != 0 || last&^before[e.tag] != 0 || last == 0 && e.tag != aclUserObj {
			return bad
		}
		last = e.tag
		seen |= e.tag
	}
	if last != aclOther || seen&(aclUser|aclGroup) != 0 && seen&aclMask == 0 {
		return bad
	}
	return nil
}

// find is the entry of a kind that there is once, nil if it is not there.
func (a acl) find(tag uint16) *aclEntry {
	for i := range a {
		if a[i].tag == tag {
			return &a[i]
		}
	}
	return nil
}

// groupClass is the entry that the group bits of a mode stand for.
func (a acl) groupClass() *aclEntry {
	if m := a.find(aclMask); m != nil {
		return m
	}
	return a.find(aclGroupObj)
}

// mode is the permission bits that the ACL stands for, and whether they say
// all that it says.
func (a acl) mode() (perm uint32, all bool) {
	if len(a) == 0 {
		return 0, true
	}
	perm = uint32(a.find(aclUserObj).perm)<<6 | uint32(a.groupClass().perm)<<3 | uint32(a.find(aclOther).perm)
	return perm, len(a) == 3
}

// chmod puts the permission bits of a mode into the ACL.
func (a acl) chmod(mode uint32) {
	a.find(aclUserObj).perm = uint16(mode >> 6 & 7)
	a.groupClass().perm = uint16(mode >> 3 & 7)
	a.find(aclOther).perm = uint16(mode & 7)
}

// inherit makes the default ACL of a directory the ACL of a new file whose
// maker asked for mode: only what both allow is allowed.
func (a acl) inherit(mode uint32) uint32 {
	for _, c := range []struct {
		e     *aclEntry
		shift uint
	}{{a.find(aclUserObj), 6}, {a.groupClass(), 3}, {a.find(aclOther), 0}} {
		c.e.perm &= uint16(mode >> c.shift & 7)
		mode = mode&^(7<<c.shift) | uint32(c.e.perm)<<c.shift
	}
	return mode
}

// readACL is an inode's ACL, nil if it has none.
func (e *edit) readACL(ctx context.Context, ino disk.ObjectID, name string) (acl, error) {
	b, ok, err := e.getXattr(ctx, ino, name)
	if err != nil || !ok {
		return nil, err
	}
	a, err := parseACL(b)
	if err == nil && a != nil {
		err = a.check()
	}
	if err != nil {
		return nil, e.corrupt(xattrKey(ino, name), fmt.Errorf("%w: %w", disk.ErrFormat, err))
	}
	return a, nil
}

// setACL gives an inode an ACL. The permission bits follow the access ACL; one
// that says no more than they do is not kept.
func (e *edit) setACL(ctx context.Context, ino disk.ObjectID, item *disk.InodeItem, name string, a acl) error {
	switch t := item.Mode & modeType; {
	case t == modeSymlink:
		return fmt.Errorf("ACL of a symbolic link: %w", syscall.EOPNOTSUPP)
	case name == xattrACLDefault && t != modeDir && a == nil:
		return nil
	case name == xattrACLDefault && t != modeDir:
		return fmt.Errorf("default ACL of no directory: %w", syscall.EACCES)
	}
	var value []byte
	if a != nil {
		if err := a.check(); err != nil {
			return err
		}
		if value = a.append(nil); len(name)+len(value) > e.maxXattr() {
			return fmt.Errorf("ACL of %d bytes: %w", len(value), syscall.ENOSPC)
		}
	}
	if a != nil && name == xattrACLAccess {
		perm, all := a.mode()
		item.Mode = item.Mode&^0o777 | perm
		if all {
			a = nil
		}
	}
	var err error
	if a == nil {
		_, err = e.dropXattr(ctx, ino, name)
	} else {
		err = e.putXattr(ctx, ino, name, value)
	}
	if err != nil {
		return err
	}
	item.Ctime = e.now
	return e.putInode(ctx, ino, item)
}
