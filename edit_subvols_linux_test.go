package btrfs_test

import (
	"context"
	"encoding/binary"
	"os"
	"path/filepath"
	"unsafe"

	"golang.org/x/sys/unix"

	"gobtrfs/disk"
	"gobtrfs/internal/fstree"
)

// Requests of btrfs, see linux/btrfs.h.
const (
	ioctlSubvolCreate = 0x5000940e
	ioctlSnapDestroy  = 0x5000940f
	ioctlSnapCreateV2 = 0x50009417
	ioctlInoLookup    = 0xd0009412
	ioctlDefault      = 0x40089413
	ioctlSetFlags     = 0x4008941a
)

// volIoctl sends a request about a name in a directory.
func volIoctl(dir string, request uint, fd int64, flags uint64, name string) error {
	d, err := os.OpenFile(dir, os.O_RDONLY|unix.O_NONBLOCK, 0) // a fifo would wait
	if err != nil {
		return err
	}
	defer d.Close()
	var arg [4096]byte
	binary.LittleEndian.PutUint64(arg[:], uint64(fd))
	at := 8
	if request == ioctlSnapCreateV2 {
		binary.LittleEndian.PutUint64(arg[16:], flags)
		at = 56
	}
	copy(arg[at:], name)
	if _, _, e := unix.Syscall(unix.SYS_IOCTL, d.Fd(), uintptr(request), uintptr(unsafe.Pointer(&arg))); e != 0 {
		return e
	}
	return nil
}

// snapshotting is the operation that makes a snapshot.
func snapshotting(name string, readOnly bool) opKind {
	var flags uint64
	if readOnly {
		flags = 2
	}
	return opKind{
		name, 2, func(m *opMaker, o *fileOp) {
			o.path, o.path2 = m.path("s"), m.path("s")
			if m.rnd.IntN(8) == 0 {
				o.path = "/"
			}
		},
		func(k *kernelSide, o *fileOp) error {
			f, err := k.openAs(o.path, os.O_RDONLY)
			if err != nil {
				return err
			}
			defer f.Close()
			// Else it may show sizes of files that are older than its contents.
			if err := unix.Syncfs(int(f.Fd())); err != nil {
				return err
			}
			q := k.dir + o.path2
			return volIoctl(filepath.Dir(q), ioctlSnapCreateV2, int64(f.Fd()), flags, filepath.Base(q))
		},
		func(ctx context.Context, w *ourSide, o *fileOp) error {
			_, err := w.Snapshot(ctx, o.path, o.path2, readOnly)
			return err
		},
	}
}

// setVolume sends a request with one number.
func setVolume(d *os.File, request uint, arg uint64) error {
	if _, _, e := unix.Syscall(unix.SYS_IOCTL, d.Fd(), uintptr(request), uintptr(unsafe.Pointer(&arg))); e != 0 {
		return e
	}
	return nil
}

// volumeOp is an operation on a whole subvolume.
func volumeOp(name string, kernel func(d *os.File, id uint64) error, ours func(ctx context.Context, w *ourSide, path string) error) opKind {
	return opKind{
		name, 1, func(m *opMaker, o *fileOp) { o.path = m.path("sssd") },
		func(k *kernelSide, o *fileOp) error {
			var st unix.Stat_t
			if err := unix.Lstat(k.dir+o.path, &st); err != nil {
				return err
			}
			if st.Mode&unix.S_IFMT != unix.S_IFDIR || st.Ino != 256 {
				return unix.EINVAL // as an Editor says of all of them
			}
			d, err := os.Open(k.dir + o.path)
			if err != nil {
				return err
			}
			defer d.Close()
			// struct btrfs_ioctl_ino_lookup_args: the tree of the directory itself.
			var arg [4096]byte
			binary.LittleEndian.PutUint64(arg[8:], 256)
			if _, _, e := unix.Syscall(unix.SYS_IOCTL, d.Fd(), ioctlInoLookup, uintptr(unsafe.Pointer(&arg))); e != 0 {
				return e
			}
			return kernel(d, binary.LittleEndian.Uint64(arg[:]))
		},
		func(ctx context.Context, w *ourSide, o *fileOp) error { return ours(ctx, w, o.path) },
	}
}

func subvolOps() []opKind {
	at := func(m *opMaker, o *fileOp) { o.path = m.path("s") }
	return []opKind{
		{"subvol", 3, at, func(k *kernelSide, o *fileOp) error {
			p := k.dir + o.path
			return volIoctl(filepath.Dir(p), ioctlSubvolCreate, -1, 0, filepath.Base(p))
		}, func(ctx context.Context, w *ourSide, o *fileOp) error {
			p, err := w.w.Resolve(ctx, disk.TreeFS, o.path)
			if err == nil && p.Dir == 0 {
				err = unix.EEXIST
			}
			if err == nil {
				_, err = w.w.CreateSubvol(ctx, p.Sub, p.Dir, p.Name, fstree.Attr{Mode: 0o777, Umask: umask()})
			}
			return err
		}},
		{"subdelete", 1, at, func(k *kernelSide, o *fileOp) error {
			p := k.dir + o.path
			return volIoctl(filepath.Dir(p), ioctlSnapDestroy, -1, 0, filepath.Base(p))
		}, func(ctx context.Context, w *ourSide, o *fileOp) error {
			return w.DeleteSubvolume(ctx, o.path)
		}},
		volumeOp("setreadonly", func(d *os.File, _ uint64) error { return setVolume(d, ioctlSetFlags, 2) },
			func(ctx context.Context, w *ourSide, path string) error { return w.SetReadOnly(ctx, path, true) }),
		volumeOp("setwritable", func(d *os.File, _ uint64) error { return setVolume(d, ioctlSetFlags, 0) },
			func(ctx context.Context, w *ourSide, path string) error { return w.SetReadOnly(ctx, path, false) }),
		volumeOp("setdefault", func(d *os.File, id uint64) error { return setVolume(d, ioctlDefault, id) },
			func(ctx context.Context, w *ourSide, path string) error { return w.SetDefault(ctx, path) }),
		{"sync", 1, nil, func(k *kernelSide, _ *fileOp) error {
			d, err := os.Open(k.dir)
			if err != nil {
				return err
			}
			defer d.Close()
			return unix.Syncfs(int(d.Fd()))
		}, func(ctx context.Context, w *ourSide, _ *fileOp) error {
			return w.FS().Sync(ctx)
		}},
		snapshotting("snapshot", false), snapshotting("snapshotro", true),
	}
}
