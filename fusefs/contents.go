//go:build linux && !386 && !arm && !mips && !mipsle

package fusefs

import (
	"context"
	"errors"
	"syscall"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	btrfs "gobtrfs"
	"gobtrfs/disk"
	"gobtrfs/internal/fstree"
)

// Write writes contents. What would let them run with another's rights goes:
// the kernel leaves that to the server (CAP_HANDLE_KILLPRIV_V2), and asks for
// the file's capabilities before every write otherwise.
func (r *readWrite) Write(_ <-chan struct{}, in *fuse.WriteIn, data []byte) (uint32, fuse.Status) {
	n := 0
	status := r.change("write", in.NodeId, func(ctx context.Context, p place) (err error) {
		if err := r.dropPrivileges(ctx, p, in.NodeId, in.WriteFlags&fuse.WRITE_KILL_SUIDGID != 0); err != nil {
			return err
		}
		if n, err = r.w.WriteAt(ctx, p.subvol, p.ino, data, in.Offset); n > 0 {
			err = nil // the rest fails when it is written again
		}
		return err
	})
	return uint32(n), status
}

// dropPrivileges is what writing takes away; bits says that the writer may not
// keep set-uid and set-gid. The kernel forgets that the mode may have changed, of
// a direct write and of fallocate, so it is told.
func (r *readWrite) dropPrivileges(ctx context.Context, p place, id uint64, bits bool) error {
	if bits {
		item, err := r.inode(p)
		if err != nil {
			return err
		}
		if item.Mode&(unix.S_ISUID|unix.S_ISGID) != 0 {
			defer r.s.kernel.InodeNotify(id, attributesOnly, 0)
		}
	}
	return r.w.DropPrivileges(ctx, p.subvol, p.ino, bits)
}

// dropCallers is dropPrivileges for requests that do not say whether the caller
// may keep the bits (CAP_FSETID), as WRITE does: root may. Set-gid of a file that
// its group may not run goes too if the caller is not in that group, as far as
// we are told of his groups.
func (r *readWrite) dropCallers(ctx context.Context, p place, id uint64, caller *fuse.Caller) error {
	if err := r.dropPrivileges(ctx, p, id, caller.Uid != 0); err != nil || caller.Uid == 0 {
		return err
	}
	item, err := r.inode(p)
	if kept := item.Mode &^ unix.S_ISGID; err == nil && kept != item.Mode && item.Mode&unix.S_IFMT == unix.S_IFREG && item.GID != caller.Gid {
		err = r.w.SetAttr(ctx, p.subvol, p.ino, fstree.Change{Mode: &kept})
		r.s.kernel.InodeNotify(id, attributesOnly, 0)
	}
	return err
}

// attributesOnly is the offset that InodeNotify takes for "no pages": those may
// be locked by the very request that is being answered.
const attributesOnly = -1

// SetAttr changes size, mode, owner and times.
func (r *readWrite) SetAttr(_ <-chan struct{}, in *fuse.SetAttrIn, out *fuse.AttrOut) fuse.Status {
	status := r.change("setattr", in.NodeId, func(ctx context.Context, p place) error {
		if in.Valid&fuse.FATTR_SIZE != 0 {
			if err := r.w.DropPrivileges(ctx, p.subvol, p.ino, in.Valid&fuse.FATTR_KILL_SUIDGID != 0); err != nil {
				return err
			}
			if err := r.w.Truncate(ctx, p.subvol, p.ino, in.Size); err != nil {
				return err
			}
			r.mayHaveFreed()
		}
		if c := changeOf(in); c != (fstree.Change{}) {
			return r.w.SetAttr(ctx, p.subvol, p.ino, c)
		}
		return nil
	})
	if status != fuse.OK {
		return status
	}
	err := r.s.view(in.NodeId, func(_ context.Context, f *btrfs.File) error {
		out.SetTimeout(forever)
		fillAttr(&out.Attr, r.s.ino(in.NodeId, f), f)
		return nil
	})
	return r.s.done("setattr", in.NodeId, err)
}

// changeOf is what a request sets, apart from the size.
func changeOf(in *fuse.SetAttrIn) (c fstree.Change) {
	if in.Valid&fuse.FATTR_MODE != 0 {
		c.Mode = &in.Mode
	}
	if in.Valid&fuse.FATTR_UID != 0 {
		c.UID = &in.Uid
	}
	if in.Valid&fuse.FATTR_GID != 0 {
		c.GID = &in.Gid
	}
	const atime, mtime = fuse.FATTR_ATIME | fuse.FATTR_ATIME_NOW, fuse.FATTR_MTIME | fuse.FATTR_MTIME_NOW
	c.AtimeNow, c.MtimeNow = in.Valid&atime == atime, in.Valid&mtime == mtime
	if in.Valid&atime == fuse.FATTR_ATIME {
		c.Atime = &disk.Time{Sec: int64(in.Atime), Nsec: in.Atimensec}
	}
	if in.Valid&mtime == fuse.FATTR_MTIME {
		c.Mtime = &disk.Time{Sec: int64(in.Mtime), Nsec: in.Mtimensec}
	}
	return c
}

// Fallocate gives space to a range or takes it away.
func (r *readWrite) Fallocate(_ <-chan struct{}, in *fuse.FallocateIn) fuse.Status {
	return r.change("fallocate", in.NodeId, func(ctx context.Context, p place) error {
		const known = unix.FALLOC_FL_KEEP_SIZE | unix.FALLOC_FL_PUNCH_HOLE | unix.FALLOC_FL_ZERO_RANGE
		if in.Mode&^known != 0 {
			return syscall.EOPNOTSUPP
		}
		if err := r.dropCallers(ctx, p, in.NodeId, &in.Caller); err != nil {
			return err
		}
		keepSize := in.Mode&unix.FALLOC_FL_KEEP_SIZE != 0
		switch {
		case in.Mode&unix.FALLOC_FL_PUNCH_HOLE != 0:
			return r.w.PunchHole(ctx, p.subvol, p.ino, in.Offset, in.Length)
		case in.Mode&unix.FALLOC_FL_ZERO_RANGE != 0:
			return r.w.ZeroRange(ctx, p.subvol, p.ino, in.Offset, in.Length, keepSize)
		}
		return r.w.Allocate(ctx, p.subvol, p.ino, in.Offset, in.Length, keepSize)
	})
}

// maxCopy is how much one request shares: the answer has 32 bits.
const maxCopy = 1 << 30

// CopyFileRange shares whole sectors, and a rest of one at the end of the file.
// The kernel copies by itself what it is told EOPNOTSUPP of.
func (r *readWrite) CopyFileRange(_ <-chan struct{}, in *fuse.CopyFileRangeIn) (uint32, fuse.Status) {
	var n uint64
	status := r.change("copy_file_range", in.NodeIdOut, func(ctx context.Context, to place) error {
		from, ok := r.s.place(in.NodeId)
		if !ok {
			return syscall.EBADF
		}
		source, err := r.inode(from)
		if err != nil {
			return err
		}
		target, err := r.inode(to)
		if err != nil {
			return err
		}
		if in.OffIn >= source.Size {
			return nil
		}
		n = min(in.Len, source.Size-in.OffIn, maxCopy)
		sector := r.w.Txn().SectorSize()
		if in.OffIn+n < source.Size || in.OffOut+n < target.Size {
			n -= n % sector
		}
		if n == 0 || in.OffIn%sector != 0 || in.OffOut%sector != 0 {
			return syscall.EOPNOTSUPP
		}
		if err := r.dropCallers(ctx, to, in.NodeIdOut, &in.Caller); err != nil {
			return err
		}
		err = r.w.CloneRange(ctx, fstree.CloneArgs{
			Sub: from.subvol, Ino: from.ino, Off: in.OffIn, Length: n, ToSub: to.subvol, To: to.ino, ToOff: in.OffOut,
		})
		if errors.Is(err, syscall.EINVAL) || errors.Is(err, syscall.EXDEV) {
			err = syscall.EOPNOTSUPP // cannot be shared: checksums here and none there
		}
		return err
	})
	if status != fuse.OK {
		return 0, status
	}
	return uint32(n), fuse.OK
}

// SetXAttr sets an extended attribute.
func (r *readWrite) SetXAttr(_ <-chan struct{}, in *fuse.SetXAttrIn, attr string, data []byte) fuse.Status {
	return r.change("setxattr "+attr, in.NodeId, func(ctx context.Context, p place) error {
		how := fstree.XattrAny
		switch in.Flags {
		case unix.XATTR_CREATE:
			how = fstree.XattrCreate
		case unix.XATTR_REPLACE:
			how = fstree.XattrReplace
		}
		if err := r.w.SetXattr(ctx, p.subvol, p.ino, attr, data, how); err != nil {
			return err
		}
		if in.SetXAttrFlags&fuse.SETXATTR_ACL_KILL_SGID == 0 {
			return nil
		}
		// An ACL set by somebody who is not in the file's group.
		item, err := r.inode(p)
		if kept := item.Mode &^ unix.S_ISGID; err == nil && kept != item.Mode {
			err = r.w.SetAttr(ctx, p.subvol, p.ino, fstree.Change{Mode: &kept})
		}
		return err
	})
}

// RemoveXAttr removes an extended attribute.
func (r *readWrite) RemoveXAttr(_ <-chan struct{}, h *fuse.InHeader, attr string) fuse.Status {
	return r.change("removexattr "+attr, h.NodeId, func(ctx context.Context, p place) error {
		return r.w.RemoveXattr(ctx, p.subvol, p.ino, attr)
	})
}
