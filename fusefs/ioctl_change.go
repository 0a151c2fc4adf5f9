//go:build linux && !386 && !arm && !mips && !mipsle

package fusefs

import (
	"bytes"
	"encoding/binary"
	"syscall"

	"github.com/hanwen/go-fuse/v2/fuse"

	"gobtrfs/disk"
	"gobtrfs/internal/fstree"
)

// Ioctls that change something and whose data is inside a structure of fixed
// size. The kernel checks permissions for the first two, which it sends on
// behalf of chattr(1); for the others it checks nothing.
const (
	iocSetFlags      = 0x40086602
	iocSetFlags32    = 0x40046602
	iocSync          = 0x9408
	iocStartSync     = 0x80089418
	iocWaitSync      = 0x40089416
	iocSubvolCreate  = 0x5000940e
	iocSnapDestroy   = 0x5000940f
	iocDefaultSubvol = 0x40089413
	iocSubvolSetFlag = 0x4008941a
)

// changingIoctl is one call.
type changingIoctl func(r *readWrite, p place, in *fuse.IoctlIn, data, out []byte) error

var changingIoctls = map[uint32]changingIoctl{
	iocSetFlags:      (*readWrite).ioctlSetFlags,
	iocSetFlags32:    (*readWrite).ioctlSetFlags,
	iocSync:          (*readWrite).ioctlSync,
	iocStartSync:     (*readWrite).ioctlSync,
	iocWaitSync:      (*readWrite).ioctlSync,
	iocSubvolCreate:  (*readWrite).ioctlSubvolCreate,
	iocSnapDestroy:   (*readWrite).ioctlSnapDestroy,
	iocDefaultSubvol: (*readWrite).ioctlDefaultSubvol,
	iocSubvolSetFlag: (*readWrite).ioctlSubvolSetFlags,
}

// changingIoctl answers an ioctl that changes something; ok is false if it is
// none.
func (r *readWrite) changingIoctl(in *fuse.IoctlIn, data, out []byte) (status fuse.Status, ok bool) {
	call, ok := changingIoctls[in.Cmd]
	if !ok {
		return 0, false
	}
	p, isInode := r.s.place(in.NodeId)
	switch {
	case !isInode:
		return fuse.EPERM, true
	case !ioctlSizes(in.Cmd, data, out):
		return fuse.EINVAL, true
	}
	return r.s.done("ioctl", in.NodeId, call(r, p, in, data, out)), true
}

func (r *readWrite) ioctlSync(place, *fuse.IoctlIn, []byte, []byte) error {
	return r.s.fs.Sync(r.s.ctx)
}

func (r *readWrite) ioctlSetFlags(p place, in *fuse.IoctlIn, data, _ []byte) error {
	if len(data) < 4 {
		return syscall.EINVAL
	}
	return r.setFlags(p, in, binary.NativeEndian.Uint32(data))
}

// setFlags is chattr(1).
func (r *readWrite) setFlags(p place, in *fuse.IoctlIn, want uint32) error {
	item, err := r.inode(p)
	if err != nil {
		return err
	}
	if in.Uid != 0 && in.Uid != item.UID {
		return syscall.EPERM
	}
	if (want^fstree.FileFlags(&item))&privilegedFlags != 0 && in.Uid != 0 {
		return syscall.EPERM
	}
	return r.w.SetFlags(r.s.ctx, p.subvol, p.ino, want)
}

const privilegedFlags = 0x10 | 0x20 // FS_IMMUTABLE_FL, FS_APPEND_FL: CAP_LINUX_IMMUTABLE

// volName is the name in struct btrfs_ioctl_vol_args, behind a descriptor that
// means nothing to us.
func volName(data []byte) ([]byte, error) {
	name, _, ok := bytes.Cut(data[8:], []byte{0})
	if !ok || len(name) > disk.MaxNameLen {
		return nil, syscall.ENAMETOOLONG
	}
	return name, nil
}

// rootOnlyChange refuses everybody but root. A FUSE server is not told of the
// caller's capabilities and groups.
func rootOnlyChange(in *fuse.IoctlIn) error {
	if in.Uid != 0 {
		return syscall.EPERM
	}
	return nil
}

// mayWrite says whether the caller may make and remove names in a directory, as
// far as owner and mode tell.
func (r *readWrite) mayWrite(p place, in *fuse.IoctlIn) error {
	if in.Uid == 0 {
		return nil
	}
	item, err := r.inode(p)
	if err != nil {
		return err
	}
	const writeAndEnter = 0o3
	mode := item.Mode
	switch {
	case item.UID == in.Uid:
		mode >>= 6
	case item.GID == in.Gid:
		mode >>= 3
	}
	if mode&writeAndEnter != writeAndEnter {
		return syscall.EACCES
	}
	return nil
}

func (r *readWrite) ioctlSubvolCreate(p place, in *fuse.IoctlIn, data, _ []byte) error {
	name, err := volName(data)
	if err != nil {
		return err
	}
	if err := r.mayWrite(p, in); err != nil {
		return err
	}
	_, err = r.w.CreateSubvol(r.s.ctx, p.subvol, p.ino, name, fstree.Attr{Mode: 0o755, UID: in.Uid, GID: in.Gid})
	r.s.changed(p, string(name))
	return err
}

func (r *readWrite) ioctlSnapDestroy(p place, in *fuse.IoctlIn, data, _ []byte) error {
	name, err := volName(data)
	if err != nil {
		return err
	}
	if err := rootOnlyChange(in); err != nil {
		return err
	}
	err = r.w.DeleteSubvol(r.s.ctx, p.subvol, p.ino, name)
	r.s.changed(p, string(name))
	return err
}

func (r *readWrite) ioctlDefaultSubvol(p place, in *fuse.IoctlIn, data, _ []byte) error {
	if err := rootOnlyChange(in); err != nil {
		return err
	}
	id := disk.ObjectID(binary.NativeEndian.Uint64(data))
	if id == 0 {
		id = disk.TreeFS
	}
	return r.w.SetDefault(r.s.ctx, id)
}

func (r *readWrite) ioctlSubvolSetFlags(p place, in *fuse.IoctlIn, data, _ []byte) error {
	if err := rootOnlyChange(in); err != nil {
		return err
	}
	const readOnly = 1 << 1 // BTRFS_SUBVOL_RDONLY
	flags := binary.NativeEndian.Uint64(data)
	if flags&^readOnly != 0 {
		return syscall.EOPNOTSUPP
	}
	if p.ino != disk.RootDirObjectID {
		return syscall.EINVAL
	}
	return r.w.SetReadOnly(r.s.ctx, p.subvol, flags != 0)
}
