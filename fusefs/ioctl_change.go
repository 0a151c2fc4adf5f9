//go:build linux && !386 && !arm && !mips && !mipsle

package fusefs

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math"
	"syscall"

	"github.com/hanwen/go-fuse/v2/fuse"

	btrfs "gobtrfs"
	"gobtrfs/disk"
	"gobtrfs/internal/fstree"
)

// Ioctls that change something and whose data is inside a structure of fixed
// size. The kernel checks permissions for those that it sends on behalf of
// chattr(1) and file_setattr(2): SETFLAGS and FSSETXATTR; for the others it checks
// nothing.
const (
	iocSetFlags      = 0x40086602
	iocSetFlags32    = 0x40046602
	iocTrim          = 0xc0185879
	iocSync          = 0x9408
	iocStartSync     = 0x80089418
	iocWaitSync      = 0x40089416
	iocFSSetXattr    = 0x401c5820
	iocSetFSLabel    = 0x41009432
	iocDefaultSubvol = 0x40089413
	iocSubvolSetFlag = 0x4008941a
)

// changingIoctl is one call.
type changingIoctl func(r *readWrite, p place, in *fuse.IoctlIn, data, out []byte) error

var changingIoctls = map[uint32]changingIoctl{
	iocSetFlags:      (*readWrite).ioctlSetFlags,
	iocSetFlags32:    (*readWrite).ioctlSetFlags,
	iocTrim:          (*readWrite).ioctlTrim,
	iocSync:          (*readWrite).ioctlSync,
	iocStartSync:     (*readWrite).ioctlSync,
	iocWaitSync:      (*readWrite).ioctlSync,
	iocFSSetXattr:    (*readWrite).ioctlFSSetXattr,
	iocSetFSLabel:    (*readWrite).ioctlSetFSLabel,
	iocSnapCreate:    (*readWrite).ioctlSnapCreate,
	iocSnapCreate2:   (*readWrite).ioctlSnapCreate2,
	iocSubvolCreate:  (*readWrite).ioctlSubvolCreate,
	iocSubvolCreate2: (*readWrite).ioctlSubvolCreate2,
	iocSnapDestroy:   (*readWrite).ioctlSnapDestroy,
	iocSnapDestroy2:  (*readWrite).ioctlSnapDestroy2,
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
	case in.Cmd&iocNumberMask == iocSetFlags&iocNumberMask: // the kernel passes 32 bits, whatever the number says
	case !ioctlSizes(in.Cmd, data, out):
		return fuse.EINVAL, true
	}
	return r.s.done("ioctl", in.NodeId, call(r, p, in, data, out)), true
}

// ioctlTrim is FITRIM, which fstrim(8) makes: struct fstrim_range is start,
// length, and the shortest piece, and the length that comes back is what was
// discarded. As in Linux a range of logical addresses that no chunk has is no
// error, however far it is, unless it starts at the last address of all.
func (r *readWrite) ioctlTrim(_ place, in *fuse.IoctlIn, data, out []byte) error {
	if err := rootOnlyChange(in); err != nil {
		return err
	}
	ne := binary.NativeEndian
	start, length, least := ne.Uint64(data), ne.Uint64(data[8:]), ne.Uint64(data[16:])
	overflows := length != math.MaxUint64 && start+length < start
	if start == math.MaxUint64 || length < r.w.Txn().SectorSize() || overflows {
		return syscall.EINVAL
	}
	trimmed, err := r.s.fs.Trim(r.s.ctx, btrfs.TrimOptions{Start: disk.Logical(start), Length: length, Minimum: least})
	if errors.Is(err, errors.ErrUnsupported) {
		return syscall.EOPNOTSUPP
	}
	if err != nil {
		return err
	}
	copy(out, data)
	ne.PutUint64(out[8:], trimmed)
	return nil
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

// setFlags is chattr(1). The kernel does not take it for a change of ctime, so it
// is told.
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
	if err := r.w.SetFlags(r.s.ctx, p.subvol, p.ino, want); err != nil {
		return err
	}
	r.s.kernel.InodeNotify(in.NodeId, attributesOnly, 0)
	return nil
}

// ioctlFSSetXattr sets what FSGETXATTR shows and leaves the other flags. btrfs
// has no extent size hints and no projects.
func (r *readWrite) ioctlFSSetXattr(p place, in *fuse.IoctlIn, data, _ []byte) error {
	ne := binary.NativeEndian
	x := ne.Uint32(data) &^ xflagVerity // only shown
	extSize, project, cowExtSize := ne.Uint32(data[4:]), ne.Uint32(data[12:]), ne.Uint32(data[16:])
	if extSize != 0 || project != 0 || cowExtSize != 0 {
		return syscall.EOPNOTSUPP
	}
	item, err := r.inode(p)
	if err != nil {
		return err
	}
	flags := fstree.FileFlags(&item)
	for _, pair := range xflags {
		if pair.xflag == xflagVerity {
			continue
		}
		flags &^= pair.fl
		if x&pair.xflag != 0 {
			flags |= pair.fl
			x &^= pair.xflag
		}
	}
	if x != 0 {
		return syscall.EOPNOTSUPP
	}
	return r.setFlags(p, in, flags)
}

// ioctlSetFSLabel is durable when it returns, as in Linux.
func (r *readWrite) ioctlSetFSLabel(_ place, in *fuse.IoctlIn, data, _ []byte) error {
	if err := rootOnlyChange(in); err != nil {
		return err
	}
	label, _, ok := bytes.Cut(data, []byte{0})
	if !ok {
		return syscall.EINVAL
	}
	return r.s.fs.SetLabel(r.s.ctx, string(label))
}

const privilegedFlags = 0x10 | 0x20 // FS_IMMUTABLE_FL, FS_APPEND_FL: CAP_LINUX_IMMUTABLE

// rootOnlyChange refuses everybody but root. A FUSE server is not told of the
// caller's capabilities and groups.
func rootOnlyChange(in *fuse.IoctlIn) error {
	if in.Uid != 0 {
		return syscall.EPERM
	}
	return nil
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
