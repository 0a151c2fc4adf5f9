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
		name, 1, func(m *opMaker, o *fileOp) {
			o.path, o.path2 = m.path("s"), m.path("s")
			if m.rnd.IntN(8) == 0 {
				o.path = "/"
			}
		},
		func(k *kernelSide, o *fileOp) error {
			f, err := os.Open(k.dir + o.path)
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

func subvolOps() []opKind {
	at := func(m *opMaker, o *fileOp) { o.path = m.path("s") }
	return []opKind{
		{"subvol", 2, at, func(k *kernelSide, o *fileOp) error {
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
		snapshotting("snapshot", false), snapshotting("snapshotro", true),
	}
}
