//go:build linux && !386 && !arm && !mips && !mipsle

package fusefs

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"syscall"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	btrfs "gobtrfs"
	"gobtrfs/disk"
	"gobtrfs/internal/fstree"
)

// Ioctls about subvolumes. Their data is struct btrfs_ioctl_vol_args, or
// btrfs_ioctl_vol_args_v2.
const (
	iocSnapCreate    = 0x50009401
	iocSubvolCreate  = 0x5000940e
	iocSnapDestroy   = 0x5000940f
	iocSnapCreate2   = 0x50009417
	iocSubvolCreate2 = 0x50009418
	iocSnapDestroy2  = 0x5000943f
)

// volArgs is what both structures say.
type volArgs struct {
	fd       int64 // of the source of a snapshot, in the caller
	name     []byte
	readOnly bool
	byID     bool
	id       disk.ObjectID // with byID, in the place of a name
}

// Where the fields of the structures are, and flags of the second.
const (
	volNameOff  = 8
	volFlagsOff = 16
	volName2Off = 56

	volReadOnly = 1 << 1 // BTRFS_SUBVOL_RDONLY
	volByID     = 1 << 4 // BTRFS_SUBVOL_SPEC_BY_ID
)

// parseVolArgs reads the first structure.
func parseVolArgs(data []byte) (a volArgs, err error) {
	a.fd = int64(binary.NativeEndian.Uint64(data))
	a.name, err = cString(data[volNameOff:])
	return a, err
}

// parseVolArgs2 reads the second one. Of its flags known may be set. Those that
// come with a pointer (inheriting qgroups) cannot pass.
func parseVolArgs2(data []byte, known uint64) (a volArgs, err error) {
	ne := binary.NativeEndian
	a.fd = int64(ne.Uint64(data))
	flags := ne.Uint64(data[volFlagsOff:])
	if flags&^known != 0 {
		return a, syscall.EOPNOTSUPP
	}
	a.readOnly, a.byID = flags&volReadOnly != 0, flags&volByID != 0
	if a.byID {
		a.id = disk.ObjectID(ne.Uint64(data[volName2Off:]))
		return a, nil
	}
	a.name, err = cString(data[volName2Off:])
	return a, err
}

// cString is a name that ends with a NUL byte.
func cString(data []byte) ([]byte, error) {
	for i, c := range data[:min(len(data), disk.MaxNameLen+1)] {
		if c == 0 {
			return data[:i], nil
		}
	}
	return nil, syscall.ENAMETOOLONG
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
	a, err := parseVolArgs(data)
	if err != nil {
		return err
	}
	return r.createSubvol(p, in, a)
}

func (r *readWrite) ioctlSubvolCreate2(p place, in *fuse.IoctlIn, data, _ []byte) error {
	a, err := parseVolArgs2(data, volReadOnly)
	if err != nil {
		return err
	}
	return r.createSubvol(p, in, a)
}

func (r *readWrite) createSubvol(p place, in *fuse.IoctlIn, a volArgs) error {
	if err := r.mayWrite(p, in); err != nil {
		return err
	}
	id, err := r.w.CreateSubvol(r.s.ctx, p.subvol, p.ino, a.name, fstree.Attr{Mode: 0o755, UID: in.Uid, GID: in.Gid})
	if err == nil && a.readOnly {
		err = r.w.SetReadOnly(r.s.ctx, id, true)
	}
	r.s.changed(p, string(a.name))
	return err
}

func (r *readWrite) ioctlSnapCreate(p place, in *fuse.IoctlIn, data, _ []byte) error {
	a, err := parseVolArgs(data)
	if err != nil {
		return err
	}
	return r.snapshot(p, in, a)
}

func (r *readWrite) ioctlSnapCreate2(p place, in *fuse.IoctlIn, data, _ []byte) error {
	a, err := parseVolArgs2(data, volReadOnly)
	if err != nil {
		return err
	}
	return r.snapshot(p, in, a)
}

func (r *readWrite) snapshot(p place, in *fuse.IoctlIn, a volArgs) error {
	source, err := r.callersFile(in, a.fd)
	if err != nil {
		return err
	}
	if source.ino != disk.RootDirObjectID {
		return syscall.EINVAL // not a subvolume
	}
	item, err := r.inode(source)
	if err != nil {
		return err
	}
	if in.Uid != 0 && in.Uid != item.UID {
		return syscall.EPERM
	}
	if err := r.mayWrite(p, in); err != nil {
		return err
	}
	_, err = r.w.Snapshot(r.s.ctx, source.subvol, p.subvol, p.ino, a.name, a.readOnly)
	r.s.changed(p, string(a.name))
	return err
}

// callersFile is what a descriptor of the caller stands for: the protocol passes
// the number, and who the caller is. The caller waits in the ioctl and so
// keeps it open.
func (r *readWrite) callersFile(in *fuse.IoctlIn, fd int64) (place, error) {
	if fd < 0 {
		return place{}, syscall.EINVAL // as Linux
	}
	if in.Pid == 0 {
		return place{}, syscall.EOPNOTSUPP // in a namespace that we cannot see
	}
	var st unix.Stat_t
	if err := unix.Stat(fmt.Sprintf("/proc/%d/fd/%d", in.Pid, fd), &st); err != nil {
		if errors.Is(err, syscall.ENOENT) {
			err = syscall.EINVAL
		}
		return place{}, err
	}
	if st.Dev != r.s.dev.Load() {
		return place{}, syscall.EXDEV
	}
	if st.Ino == uint64(r.s.top.ino) {
		return r.s.top, nil
	}
	p, ok := r.s.place(st.Ino)
	if !ok {
		return place{}, syscall.EINVAL // the empty directory that stands for a subvolume
	}
	return p, nil
}

func (r *readWrite) ioctlSnapDestroy(p place, in *fuse.IoctlIn, data, _ []byte) error {
	a, err := parseVolArgs(data)
	if err != nil {
		return err
	}
	return r.destroySubvol(p, in, a)
}

// ioctlSnapDestroy2 also takes the number of a subvolume, anywhere in the
// filesystem.
func (r *readWrite) ioctlSnapDestroy2(p place, in *fuse.IoctlIn, data, _ []byte) error {
	a, err := parseVolArgs2(data, volByID)
	if err != nil {
		return err
	}
	if !a.byID {
		return r.destroySubvol(p, in, a)
	}
	err = r.s.fs.View(r.s.ctx, a.id, func(ctx context.Context, sub *btrfs.Subvolume) error {
		tree, dir, name, ok, err := sub.Parent(ctx)
		if err == nil && !ok {
			err = syscall.ENOENT
		}
		p, a.name = place{tree, dir}, []byte(name)
		return err
	})
	if err != nil {
		return err
	}
	return r.destroySubvol(p, in, a)
}

func (r *readWrite) destroySubvol(p place, in *fuse.IoctlIn, a volArgs) error {
	if err := rootOnlyChange(in); err != nil {
		return err
	}
	err := r.w.DeleteSubvol(r.s.ctx, p.subvol, p.ino, a.name)
	r.s.changed(p, string(a.name))
	return err
}
