//go:build linux && !386 && !arm && !mips && !mipsle

package fusefs

import (
	"context"
	"syscall"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"gobtrfs/disk"
	"gobtrfs/internal/fstree"
)

// create makes an inode under a new name.
func (r *readWrite) create(op string, h *fuse.InHeader, name string, a fstree.Attr, out *fuse.EntryOut) fuse.Status {
	a.UID, a.GID = h.Uid, h.Gid
	return r.change(op+" "+name, h.NodeId, func(ctx context.Context, dir place) error {
		ino, err := r.w.Create(ctx, dir.subvol, dir.ino, []byte(name), a)
		if err != nil {
			return err
		}
		return r.entry(ctx, dir, name, place{dir.subvol, ino}, out)
	})
}

// Mknod makes a file, a device, a fifo or a socket. open(2) with O_CREAT comes
// here, too: CREATE is not answered, for it would be followed by RELEASE.
func (r *readWrite) Mknod(_ <-chan struct{}, in *fuse.MknodIn, name string, out *fuse.EntryOut) fuse.Status {
	// The protocol's form of a device number (new_encode_dev, Linux 6.18).
	rdev := disk.JoinRdev(in.Rdev>>8&0xfff, in.Rdev&0xff|in.Rdev>>12&0xfff00)
	return r.create("mknod", &in.InHeader, name, fstree.Attr{Mode: in.Mode, Umask: in.Umask, Rdev: rdev}, out)
}

// Mkdir makes a directory.
func (r *readWrite) Mkdir(_ <-chan struct{}, in *fuse.MkdirIn, name string, out *fuse.EntryOut) fuse.Status {
	return r.create("mkdir", &in.InHeader, name, fstree.Attr{Mode: unix.S_IFDIR | in.Mode&0o7777, Umask: in.Umask}, out)
}

// Symlink makes a symbolic link.
func (r *readWrite) Symlink(_ <-chan struct{}, h *fuse.InHeader, target, name string, out *fuse.EntryOut) fuse.Status {
	return r.create("symlink", h, name, fstree.Attr{Mode: unix.S_IFLNK | 0o777, Target: target}, out)
}

// Tmpfile makes a file without a name. The kernel lets nobody link one that was
// opened with O_EXCL.
func (r *readWrite) Tmpfile(_ <-chan struct{}, in *fuse.CreateIn, out *fuse.CreateOut) fuse.Status {
	a := fstree.Attr{Mode: unix.S_IFREG | in.Mode&0o7777, Umask: in.Umask, UID: in.Uid, GID: in.Gid}
	return r.change("tmpfile", in.NodeId, func(ctx context.Context, dir place) error {
		ino, err := r.w.Tmpfile(ctx, dir.subvol, dir.ino, a, true)
		if err != nil {
			return err
		}
		p := place{dir.subvol, ino}
		r.mu.Lock()
		r.removed[p] = struct{}{}
		r.mu.Unlock()
		return r.entry(ctx, dir, "", p, &out.EntryOut)
	})
}

// Link gives an inode one more name.
func (r *readWrite) Link(_ <-chan struct{}, in *fuse.LinkIn, name string, out *fuse.EntryOut) fuse.Status {
	return r.change("link "+name, in.NodeId, func(ctx context.Context, dir place) error {
		p, ok := r.s.place(in.Oldnodeid)
		if !ok {
			return syscall.EPERM
		}
		if p.subvol != dir.subvol {
			return syscall.EXDEV
		}
		if err := r.w.Link(ctx, dir.subvol, dir.ino, []byte(name), p.ino); err != nil {
			return err
		}
		return r.entry(ctx, dir, name, p, out)
	})
}

// Unlink removes a name of anything but a directory.
func (r *readWrite) Unlink(_ <-chan struct{}, h *fuse.InHeader, name string) fuse.Status {
	return r.change("unlink "+name, h.NodeId, func(ctx context.Context, dir place) error {
		return r.w.Unlink(ctx, dir.subvol, dir.ino, []byte(name))
	})
}

// Rmdir removes an empty directory, also one that is the top of a subvolume.
func (r *readWrite) Rmdir(_ <-chan struct{}, h *fuse.InHeader, name string) fuse.Status {
	return r.change("rmdir "+name, h.NodeId, func(ctx context.Context, dir place) error {
		return r.w.Rmdir(ctx, dir.subvol, dir.ino, []byte(name))
	})
}

// Rename moves a name; see renameat2(2) for the flags.
func (r *readWrite) Rename(_ <-chan struct{}, in *fuse.RenameIn, name, newName string) fuse.Status {
	return r.change("rename "+name, in.NodeId, func(ctx context.Context, dir place) error {
		to, ok := r.s.place(in.Newdir)
		if !ok {
			return syscall.EPERM
		}
		return r.w.Rename(ctx, fstree.RenameArgs{
			From:  fstree.Entry{Sub: dir.subvol, Dir: dir.ino, Name: []byte(name)},
			To:    fstree.Entry{Sub: to.subvol, Dir: to.ino, Name: []byte(newName)},
			Flags: fstree.RenameFlags(in.Flags), UID: in.Uid, GID: in.Gid,
		})
	})
}
