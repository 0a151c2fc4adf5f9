//go:build linux && !386 && !arm && !mips && !mipsle

package fusefs

import (
	"context"
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
		if err := r.w.DropPrivileges(ctx, p.subvol, p.ino, in.WriteFlags&fuse.WRITE_KILL_SUIDGID != 0); err != nil {
			return err
		}
		if n, err = r.w.WriteAt(ctx, p.subvol, p.ino, data, in.Offset); n > 0 {
			err = nil // the rest fails when it is written again
		}
		return err
	})
	return uint32(n), status
}

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
		// The kernel does not say who is asking for it (Linux 6.18 sends no flag
		// with FALLOCATE): nobody keeps the bits.
		if err := r.w.DropPrivileges(ctx, p.subvol, p.ino, true); err != nil {
			return err
		}
		keepSize := in.Mode&unix.FALLOC_FL_KEEP_SIZE != 0
		if in.Mode&(unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_ZERO_RANGE) != 0 {
			if err := r.w.PunchHole(ctx, p.subvol, p.ino, in.Offset, in.Length); err != nil {
				return err
			}
		}
		if in.Mode&unix.FALLOC_FL_PUNCH_HOLE != 0 {
			return nil
		}
		return r.w.Allocate(ctx, p.subvol, p.ino, in.Offset, in.Length, keepSize)
	})
}

// CopyFileRange shares what can be shared. The kernel copies the rest itself.
func (r *readWrite) CopyFileRange(_ <-chan struct{}, in *fuse.CopyFileRangeIn) (uint32, fuse.Status) {
	return 0, fuse.Status(syscall.EOPNOTSUPP)
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
		return r.w.SetXattr(ctx, p.subvol, p.ino, attr, data, how)
	})
}

// RemoveXAttr removes an extended attribute.
func (r *readWrite) RemoveXAttr(_ <-chan struct{}, h *fuse.InHeader, attr string) fuse.Status {
	return r.change("removexattr "+attr, h.NodeId, func(ctx context.Context, p place) error {
		return r.w.RemoveXattr(ctx, p.subvol, p.ino, attr)
	})
}
