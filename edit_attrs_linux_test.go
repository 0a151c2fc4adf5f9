package btrfs_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"gobtrfs/disk"
	"gobtrfs/internal/fstree"
)

// change is the operation that sets attributes of what a path leads to.
func change(name string, weight int, fill func(m *opMaker, o *fileOp), kernel func(path string, o *fileOp) error,
	ours func(o *fileOp) fstree.Change) opKind {
	return opKind{
		name, weight, fill, func(k *kernelSide, o *fileOp) error { return kernel(k.dir+o.path, o) },
		func(ctx context.Context, w *ourSide, o *fileOp) error {
			info, err := w.Stat(ctx, o.path)
			if err != nil {
				return err
			}
			return w.w.SetAttr(ctx, info.Sub, info.Ino, ours(o))
		},
	}
}

// xattring is the operation that sets an attribute.
func xattring(name string, weight, how int, fill func(m *opMaker, o *fileOp)) opKind {
	return opKind{
		name, weight, fill, func(k *kernelSide, o *fileOp) error {
			if err := k.readOnlyACL(o); err != nil {
				return err
			}
			err := unix.Lsetxattr(k.dir+o.path, o.path2, o.data, how)
			if err == unix.ENOSPC {
				err = replaceXattr(k.dir+o.path, o.path2, o.data)
			}
			return err
		},
		func(ctx context.Context, w *ourSide, o *fileOp) error {
			if err := fstree.CheckXattr(o.path2, len(o.data)); err != nil {
				return err
			}
			info, err := w.Stat(ctx, o.path)
			if err != nil {
				return err
			}
			return w.w.SetXattr(ctx, info.Sub, info.Ino, o.path2, o.data, how)
		},
	}
}

// readOnlyACL keeps ACLs from read-only subvolumes, in which Linux 6.18 sets
// them although it says of all else that the filesystem is read-only, and
// properties from special files there, which it ignores.
func (k *kernelSide) readOnlyACL(o *fileOp) error {
	if !strings.HasPrefix(o.path2, "system.posix_acl") && o.path2 != "btrfs.compression" {
		return nil
	}
	if _, err := os.Lstat(k.dir + o.path); err != nil {
		return err
	}
	for _, p := range []string{k.dir + o.path, filepath.Dir(k.dir + o.path)} {
		if err := unix.Faccessat(unix.AT_FDCWD, p, unix.W_OK, unix.AT_SYMLINK_NOFOLLOW); err == unix.EROFS {
			return err
		}
	}
	return nil
}

// replaceXattr sets an attribute anew. Linux replaces a value by a longer one
// only where the leaf happens to have room.
func replaceXattr(path, name string, value []byte) error {
	old := make([]byte, 1<<16)
	n, err := unix.Lgetxattr(path, name, old)
	if err != nil {
		return unix.ENOSPC
	}
	if err := unix.Lremovexattr(path, name); err != nil {
		return err
	}
	if err := unix.Lsetxattr(path, name, value, 0); err != nil {
		return errors.Join(err, unix.Lsetxattr(path, name, old[:n], 0))
	}
	return nil
}

func attrOps() []opKind {
	xattr := func(m *opMaker, o *fileOp) {
		o.path, o.path2 = m.path("fffdlp"), fmt.Sprintf("user.a%d", m.rnd.IntN(4))
		o.data = bytes.Repeat([]byte{byte(m.rnd.IntN(256))}, m.rnd.IntN(300))
	}
	other := func(m *opMaker, o *fileOp) {
		xattr(m, o)
		names := []string{"trusted.t", "security.s", "user.", "foo.bar", "btrfs.foo", "system.bar", "trusted." + strings.Repeat("n", 230+m.rnd.IntN(30))}
		o.path2 = names[m.rnd.IntN(len(names))]
	}
	when := func(m *opMaker, o *fileOp) { o.n = m.rnd.Int64N(1 << 40) }
	times := func(a, m int64) func(path string, o *fileOp) error {
		return func(path string, o *fileOp) error {
			ts := []unix.Timespec{{Sec: o.n, Nsec: a}, {Sec: o.n, Nsec: m}}
			return unix.UtimesNanoAt(unix.AT_FDCWD, path, ts, unix.AT_SYMLINK_NOFOLLOW)
		}
	}
	return []opKind{
		{"chmod", 2, nil, func(k *kernelSide, o *fileOp) error {
			return unix.Chmod(k.dir+o.path, o.perm)
		}, func(ctx context.Context, w *ourSide, o *fileOp) error {
			return w.Chmod(ctx, o.path, modeOf(o.perm))
		}},
		{"chown", 1, func(m *opMaker, o *fileOp) { o.path = m.path("ffdlp") }, func(k *kernelSide, o *fileOp) error {
			return unix.Lchown(k.dir+o.path, int(o.perm&0xff), int(o.perm>>4))
		}, func(ctx context.Context, w *ourSide, o *fileOp) error {
			uid, gid := o.perm&0xff, o.perm>>4
			return w.Chown(ctx, o.path, &uid, &gid)
		}},
		{"chtimes", 1, when, func(k *kernelSide, o *fileOp) error {
			return os.Chtimes(k.dir+o.path, time.Unix(o.n, 5), time.Unix(o.n, 7))
		}, func(ctx context.Context, w *ourSide, o *fileOp) error {
			a, m := time.Unix(o.n, 5), time.Unix(o.n, 7)
			return w.Chtimes(ctx, o.path, &a, &m)
		}},
		change("touch", 1, nil, times(unix.UTIME_NOW, unix.UTIME_NOW), func(*fileOp) fstree.Change {
			return fstree.Change{AtimeNow: true, MtimeNow: true}
		}),
		change("mtimeonly", 1, when, times(unix.UTIME_OMIT, 9), func(o *fileOp) fstree.Change {
			return fstree.Change{Mtime: &disk.Time{Sec: o.n, Nsec: 9}}
		}),
		change("mtimenow", 1, nil, times(unix.UTIME_OMIT, unix.UTIME_NOW), func(*fileOp) fstree.Change {
			return fstree.Change{MtimeNow: true}
		}),
		xattring("setxattr", 2, 0, xattr), xattring("createxattr", 1, fstree.XattrCreate, xattr),
		xattring("replacexattr", 1, fstree.XattrReplace, xattr), xattring("otherxattr", 2, 0, other),
		xattring("bigxattr", 1, 0, func(m *opMaker, o *fileOp) {
			xattr(m, o)
			o.data = m.bytes([]int64{3900, 4000, 8000, 16000, 65536, 65537, 70000}[m.rnd.IntN(7)] + int64(m.rnd.IntN(200)))
		}),
		xattring("acl", 3, 0, func(m *opMaker, o *fileOp) {
			o.path, o.path2 = m.path("ffdddlp"), "system.posix_acl_"+[]string{"access", "default"}[m.rnd.IntN(2)]
			o.data = m.acl()
		}),
		xattring("compression", 2, 0, func(m *opMaker, o *fileOp) {
			values := []string{"zlib", "lzo", "zstd", "zstd:7", "none", "no", "", "gzip", "zstdx"}
			o.path, o.path2, o.data = m.path("ffddlp"), "btrfs.compression", []byte(values[m.rnd.IntN(len(values))])
		}),
		xattring("capability", 1, 0, func(m *opMaker, o *fileOp) {
			o.path, o.path2 = m.path("fffp"), "security.capability"
			o.data = binary.LittleEndian.AppendUint32(nil, 0x02000001)
			o.data = append(o.data, make([]byte, []int{16, 16, 16, 15}[m.rnd.IntN(4)])...)
		}),
		{"removexattr", 2, func(m *opMaker, o *fileOp) {
			if xattr(m, o); m.rnd.IntN(2) == 0 {
				other(m, o)
			}
			if m.rnd.IntN(3) == 0 {
				names := []string{"btrfs.compression", "system.posix_acl_access", "system.posix_acl_default", "security.capability"}
				o.path2 = names[m.rnd.IntN(4)]
			}
		}, func(k *kernelSide, o *fileOp) error {
			if err := k.readOnlyACL(o); err != nil {
				return err
			}
			return unix.Lremovexattr(k.dir+o.path, o.path2)
		}, func(ctx context.Context, w *ourSide, o *fileOp) error {
			return w.RemoveXattr(ctx, o.path, o.path2)
		}},
		flagging("setflags", 2, func(m *opMaker, o *fileOp) {
			bits := []uint32{0x4, 0x8, 0x10, 0x20, 0x40, 0x80, 0x400, 0x10000, 0x800000, 0x2, 0x800000, 0x4}
			one, other := bits[m.rnd.IntN(len(bits))], bits[m.rnd.IntN(len(bits))]
			o.path, o.n = m.path("ffd"), int64(one|other)
		}),
		flagging("clearflags", 3, func(m *opMaker, o *fileOp) { o.path = m.path("ffd") }),
	}
}

// acl is an ACL that mostly is one.
func (m *opMaker) acl() []byte {
	le := binary.LittleEndian
	b := le.AppendUint32(nil, 2)
	add := func(tag, id uint32) {
		b = le.AppendUint16(le.AppendUint16(b, uint16(tag)), uint16(m.rnd.IntN(8)))
		b = le.AppendUint32(b, id)
	}
	add(1, 1<<32-1)
	named := m.rnd.IntN(4)
	for i := range named {
		add(2, uint32(i))
	}
	add(4, 1<<32-1)
	if named > 0 {
		add(8, 7)
	}
	if named > 0 && m.rnd.IntN(10) > 0 || m.rnd.IntN(8) == 0 {
		add(16, 1<<32-1)
	}
	add(32, 1<<32-1)
	switch m.rnd.IntN(20) {
	case 0:
		return b[:m.rnd.IntN(len(b))]
	case 1:
		b[4*m.rnd.IntN(len(b)/4)]++
	case 2:
		return b[:4]
	}
	return b
}

// flagging is the operation chattr(1).
func flagging(name string, weight int, fill func(m *opMaker, o *fileOp)) opKind {
	return opKind{
		name, weight, fill, func(k *kernelSide, o *fileOp) error {
			if fi, err := os.Lstat(k.dir + o.path); err == nil && !fi.Mode().IsRegular() && !fi.IsDir() {
				return unix.EINVAL
			}
			f, err := os.Open(k.dir + o.path)
			if err != nil {
				return err
			}
			defer f.Close()
			return unix.IoctlSetPointerInt(int(f.Fd()), unix.FS_IOC_SETFLAGS, int(o.n))
		},
		func(ctx context.Context, w *ourSide, o *fileOp) error {
			info, err := w.Stat(ctx, o.path)
			if err == nil && !info.Mode().IsRegular() && !info.Mode().IsDir() {
				err = unix.EINVAL
			}
			if err != nil {
				return err
			}
			return w.SetFlags(ctx, o.path, uint32(o.n))
		},
	}
}
