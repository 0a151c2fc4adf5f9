package btrfs_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"gobtrfs"
	"gobtrfs/disk"
	"gobtrfs/internal/fstree"
)

// made sets the permissions of what was just made, as the kernel's side does,
// past what a setgid directory hands down.
func made(ctx context.Context, w *ourSide, o *fileOp, err error) error {
	if err != nil {
		return err
	}
	return w.Chmod(ctx, o.path, modeOf(o.perm))
}

// make makes an inode as a process with this one's umask does.
func (w *ourSide) make(ctx context.Context, o *fileOp, typ uint32) error {
	p, err := w.w.Resolve(ctx, disk.TreeFS, o.path)
	if err == nil {
		_, err = w.w.Create(ctx, p.Sub, p.Dir, p.Name, fstree.Attr{Mode: typ | o.perm, Umask: umask()})
	}
	return err
}

// umask is this process's.
var umask = sync.OnceValue(func() uint32 {
	old := unix.Umask(0)
	unix.Umask(old)
	return uint32(old)
})

// node is the operation that makes a special file.
func node(name string, typ uint32, mode fs.FileMode, dev uint32) opKind {
	return opKind{
		name, 1, func(m *opMaker, o *fileOp) { o.path = m.path("p") },
		func(k *kernelSide, o *fileOp) error {
			if err := unix.Mknod(k.dir+o.path, typ|0o600, int(unix.Mkdev(dev, dev))); err != nil {
				return err
			}
			return unix.Chmod(k.dir+o.path, o.perm)
		},
		func(ctx context.Context, w *ourSide, o *fileOp) error {
			return made(ctx, w, o, w.Mknod(ctx, o.path, mode, dev, dev, btrfs.Attr{Perm: 0o600}))
		},
	}
}

// isStub says whether a path leads to a directory that stands for a subvolume
// which is not there.
func isStub(path string) bool {
	var st unix.Stat_t
	return unix.Lstat(path, &st) == nil && st.Ino == 2
}

// throughStub says whether an operation is about such a directory. Linux lets
// attributes of it be set, and forgets them.
func (k *kernelSide) throughStub(o *fileOp) bool {
	for _, p := range []string{o.path, o.path2} {
		if isStub(k.dir+p) || isStub(filepath.Dir(k.dir+p)) {
			return true
		}
	}
	return false
}

// renaming is the operation renameat2 with flags.
func renaming(name string, weight int, flags btrfs.RenameFlags) opKind {
	return opKind{
		name, weight, func(m *opMaker, o *fileOp) {
			k := "fffddlps"[m.rnd.IntN(8):][:1]
			o.path, o.path2 = m.path(k), m.path(k)
			if flags&btrfs.RenameExchange != 0 && k != "l" { // a link at a directory's name would be followed
				o.path2 = m.path("ffdps")
			}
		},
		func(k *kernelSide, o *fileOp) error {
			if flags&btrfs.RenameExchange != 0 && (isStub(k.dir+o.path) || isStub(k.dir+o.path2)) {
				return unix.ENOTEMPTY // Linux 6.18 enters them as inodes
			}
			return unix.Renameat2(unix.AT_FDCWD, k.dir+o.path, unix.AT_FDCWD, k.dir+o.path2, uint(flags))
		},
		func(ctx context.Context, w *ourSide, o *fileOp) error {
			return w.Rename(ctx, o.path, o.path2, flags)
		},
	}
}

func nameOps() []opKind {
	two := func(kinds string) func(m *opMaker, o *fileOp) {
		return func(m *opMaker, o *fileOp) {
			k := kinds[m.rnd.IntN(len(kinds)):][:1]
			o.path, o.path2 = m.path(k), m.path(k)
		}
	}
	at := func(kinds string) func(m *opMaker, o *fileOp) {
		return func(m *opMaker, o *fileOp) { o.path = m.path(kinds) }
	}
	return []opKind{
		{"create", 6, nil, func(k *kernelSide, o *fileOp) error {
			f, err := os.OpenFile(k.dir+o.path, os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600)
			if err != nil {
				return err
			}
			return errors.Join(f.Close(), unix.Chmod(k.dir+o.path, o.perm))
		}, func(ctx context.Context, w *ourSide, o *fileOp) error {
			return made(ctx, w, o, w.Create(ctx, o.path, btrfs.Attr{Perm: 0o600}))
		}},
		{"mkdir", 4, at("d"), func(k *kernelSide, o *fileOp) error {
			if err := unix.Mkdir(k.dir+o.path, 0o700); err != nil {
				return err
			}
			return unix.Chmod(k.dir+o.path, o.perm)
		}, func(ctx context.Context, w *ourSide, o *fileOp) error {
			return made(ctx, w, o, w.Mkdir(ctx, o.path, btrfs.Attr{Perm: 0o700}))
		}},
		{"createraw", 3, nil, func(k *kernelSide, o *fileOp) error {
			f, err := os.OpenFile(k.dir+o.path, os.O_CREATE|os.O_EXCL|os.O_RDWR, modeOf(o.perm))
			if err != nil {
				return err
			}
			return f.Close()
		}, func(ctx context.Context, w *ourSide, o *fileOp) error {
			return w.make(ctx, o, unix.S_IFREG)
		}},
		{"mkdirraw", 1, at("d"), func(k *kernelSide, o *fileOp) error {
			return unix.Mkdir(k.dir+o.path, o.perm)
		}, func(ctx context.Context, w *ourSide, o *fileOp) error {
			o.perm &= 0o1777 // mkdir(2) takes no other bits
			return w.make(ctx, o, unix.S_IFDIR)
		}},
		{"fiforaw", 1, at("p"), func(k *kernelSide, o *fileOp) error {
			return unix.Mkfifo(k.dir+o.path, o.perm)
		}, func(ctx context.Context, w *ourSide, o *fileOp) error {
			return w.make(ctx, o, unix.S_IFIFO)
		}},
		{"symlink", 1, func(m *opMaker, o *fileOp) {
			o.path, o.path2 = m.path("l"), "target"+strings.Repeat("y", m.rnd.IntN(200))
			if m.rnd.IntN(4) == 0 {
				o.path2 = strings.Repeat("z", m.rnd.IntN(4096))
			}
		}, func(k *kernelSide, o *fileOp) error {
			return unix.Symlink(o.path2, k.dir+o.path)
		}, func(ctx context.Context, w *ourSide, o *fileOp) error {
			return w.Symlink(ctx, o.path2, o.path, 0, 0)
		}},
		node("fifo", unix.S_IFIFO, fs.ModeNamedPipe, 0), node("socket", unix.S_IFSOCK, fs.ModeSocket, 0),
		node("chardev", unix.S_IFCHR, fs.ModeDevice|fs.ModeCharDevice, 3), node("blockdev", unix.S_IFBLK, fs.ModeDevice, 300),
		{"remove", 2, at("fffdlp"), func(k *kernelSide, o *fileOp) error {
			return os.Remove(k.dir + o.path)
		}, func(ctx context.Context, w *ourSide, o *fileOp) error {
			return w.Remove(ctx, o.path)
		}},
		{"unlink", 1, at("ffdlps"), func(k *kernelSide, o *fileOp) error {
			return unix.Unlink(k.dir + o.path)
		}, func(ctx context.Context, w *ourSide, o *fileOp) error {
			p, err := w.w.Resolve(ctx, disk.TreeFS, o.path)
			if err != nil {
				return err
			}
			return w.w.Unlink(ctx, p.Sub, p.Dir, p.Name)
		}},
		{"rmdir", 1, at("fdddlps"), func(k *kernelSide, o *fileOp) error {
			return unix.Rmdir(k.dir + o.path)
		}, func(ctx context.Context, w *ourSide, o *fileOp) error {
			p, err := w.w.Resolve(ctx, disk.TreeFS, o.path)
			if err != nil {
				return err
			}
			return w.w.Rmdir(ctx, p.Sub, p.Dir, p.Name)
		}},
		{"link", 2, two("fffdlps"), func(k *kernelSide, o *fileOp) error {
			return unix.Link(k.dir+o.path, k.dir+o.path2)
		}, func(ctx context.Context, w *ourSide, o *fileOp) error {
			return w.Link(ctx, o.path, o.path2)
		}},
		renaming("rename", 3, 0), renaming("noreplace", 1, btrfs.RenameNoReplace), renaming("exchange", 2, btrfs.RenameExchange),
		renaming("whiteout", 1, btrfs.RenameWhiteout), renaming("badrename", 1, btrfs.RenameExchange|btrfs.RenameNoReplace),
		many("bigdir", 1, func(k *kernelSide, o *fileOp, name string) error {
			return unix.Mknod(k.dir+o.path+"/"+name, unix.S_IFREG|0o640, 0)
		}, func(ctx context.Context, w *ourSide, o *fileOp, name string) error {
			return w.make(ctx, &fileOp{path: o.path + "/" + name, perm: 0o640}, unix.S_IFREG)
		}),
		many("emptydir", 1, func(k *kernelSide, o *fileOp, name string) error {
			return unix.Unlink(k.dir + o.path + "/" + name)
		}, func(ctx context.Context, w *ourSide, o *fileOp, name string) error {
			return w.Remove(ctx, o.path+"/"+name)
		}),
		many("manylinks", 1, func(k *kernelSide, o *fileOp, name string) error {
			return unix.Link(k.dir+o.path2, k.dir+o.path+"/"+name+strings.Repeat("k", 200))
		}, func(ctx context.Context, w *ourSide, o *fileOp, name string) error {
			return w.Link(ctx, o.path2, o.path+"/"+name+strings.Repeat("k", 200))
		}),
		tmpfile("tmpfile", "", true), tmpfile("tmpfilelink", "ffd", true), tmpfile("tmpfileexcl", "ffd", false),
	}
}

// many is an operation on many names in a directory, up to the first that
// fails.
func many(name string, weight int, kernel func(k *kernelSide, o *fileOp, name string) error,
	ours func(ctx context.Context, w *ourSide, o *fileOp, name string) error) opKind {
	each := func(o *fileOp, f func(name string) error) error {
		for i := range o.n {
			if err := f(fmt.Sprintf("%d-%s", o.off+i, name)); err != nil {
				return err
			}
		}
		return nil
	}
	return opKind{
		name, weight, func(m *opMaker, o *fileOp) {
			o.path, o.path2, o.off, o.n = m.path("d"), m.path("f"), int64(m.rnd.IntN(20)), int64(m.rnd.IntN(150))
		},
		func(k *kernelSide, o *fileOp) error {
			return each(o, func(name string) error { return kernel(k, o, name) })
		},
		func(ctx context.Context, w *ourSide, o *fileOp) error {
			return each(o, func(name string) error { return ours(ctx, w, o, name) })
		},
	}
}

// item is an inode as it is now.
func (w *ourSide) item(ctx context.Context, sub, ino disk.ObjectID) (item disk.InodeItem, err error) {
	err = w.w.View(ctx, sub, func(ctx context.Context, v *fstree.Subvol) error {
		item, err = v.Inode(ctx, ino)
		return err
	})
	return item, err
}

// tmpfile is the operation that makes a file without a name in a directory,
// and then gives it one.
func tmpfile(name, kinds string, linkable bool) opKind {
	return opKind{
		name, 1, func(m *opMaker, o *fileOp) {
			o.path, o.data = m.path("ddf"), m.bytes(m.size())
			if kinds != "" {
				o.path2 = m.path(kinds)
			}
		},
		func(k *kernelSide, o *fileOp) error {
			flags := unix.O_TMPFILE | unix.O_RDWR
			if !linkable {
				flags |= unix.O_EXCL
			}
			fd, err := unix.Open(k.dir+o.path, flags, 0o640)
			if err != nil {
				return err
			}
			f := os.NewFile(uintptr(fd), o.path)
			defer f.Close()
			if _, err := f.Write(o.data); err != nil || o.path2 == "" {
				return err
			}
			return unix.Linkat(fd, "", unix.AT_FDCWD, k.dir+o.path2, unix.AT_EMPTY_PATH)
		},
		func(ctx context.Context, w *ourSide, o *fileOp) error {
			p, err := w.w.Resolve(ctx, disk.TreeFS, o.path)
			if err != nil {
				return err
			}
			if !p.Exists() {
				return p.Missing()
			}
			if p.Type != disk.FtDir {
				return unix.ENOTDIR
			}
			sub, dir := p.Target()
			ino, err := w.w.Tmpfile(ctx, sub, dir, fstree.Attr{Mode: unix.S_IFREG | 0o640}, linkable)
			if err != nil {
				return err
			}
			_, err = w.w.WriteAt(ctx, sub, ino, o.data, 0)
			if err == nil && o.path2 != "" {
				var q fstree.Place
				q, err = w.w.Resolve(ctx, disk.TreeFS, o.path2)
				switch {
				case err != nil:
				case q.Exists():
					err = unix.EEXIST
				case q.Sub != sub && !linkable:
					err = unix.ENOENT
				case q.Sub != sub:
					err = unix.EXDEV
				default:
					err = w.w.Link(ctx, q.Sub, q.Dir, q.Name, ino)
				}
			}
			return errors.Join(err, w.w.Release(ctx, sub, ino))
		},
	}
}

// handleOps keep files open past their names.
func handleOps() []opKind {
	slot := func(m *opMaker, o *fileOp) { o.n = int64(m.rnd.IntN(handles)) }
	return []opKind{
		{"hopen", 2, slot, func(k *kernelSide, o *fileOp) error {
			if k.files[o.n] != nil {
				return unix.EMFILE
			}
			f, err := k.open(o.path)
			if err == nil {
				k.files[o.n] = f
			}
			return err
		}, func(ctx context.Context, w *ourSide, o *fileOp) error {
			if w.files[o.n].ino != 0 {
				return unix.EMFILE
			}
			info, err := w.open(ctx, o.path)
			if err != nil {
				return err
			}
			if err := w.w.Hold(ctx, info.Sub, info.Ino); err != nil {
				return err
			}
			w.files[o.n].sub, w.files[o.n].ino = info.Sub, info.Ino
			return nil
		}},
		{"hwrite", 2, func(m *opMaker, o *fileOp) {
			slot(m, o)
			o.off, o.data = m.size(), m.bytes(m.size())
		}, func(k *kernelSide, o *fileOp) error {
			if k.files[o.n] == nil {
				return unix.EBADF
			}
			// A Writer looks at flags with every change, Linux at open.
			if f, err := unix.IoctlGetInt(int(k.files[o.n].Fd()), unix.FS_IOC_GETFLAGS); err != nil || f&(0x10|0x20) != 0 {
				return errors.Join(err, unix.EPERM)
			}
			if err := unix.Faccessat(int(k.files[o.n].Fd()), "", unix.W_OK, unix.AT_EMPTY_PATH); err == unix.EROFS {
				return err
			}
			_, err := k.files[o.n].WriteAt(o.data, o.off)
			return err
		}, func(ctx context.Context, w *ourSide, o *fileOp) error {
			if w.files[o.n].ino == 0 {
				return unix.EBADF
			}
			h := w.files[o.n]
			if item, err := w.item(ctx, h.sub, h.ino); err != nil || item.Flags&(disk.InodeImmutable|disk.InodeAppend) != 0 {
				return errors.Join(err, unix.EPERM)
			}
			n, err := w.w.WriteAt(ctx, h.sub, h.ino, o.data, uint64(o.off))
			if n > 0 && err == nil {
				err = w.w.DropPrivileges(ctx, h.sub, h.ino, false)
			}
			return err
		}},
		{"hunlink", 2, slot, func(k *kernelSide, o *fileOp) error {
			if k.files[o.n] != nil {
				return unix.EMFILE
			}
			f, err := k.open(o.path)
			if err != nil {
				return err
			}
			if err := unix.Unlink(k.dir + o.path); err != nil {
				return errors.Join(err, f.Close())
			}
			k.files[o.n] = f
			return nil
		}, func(ctx context.Context, w *ourSide, o *fileOp) error {
			if w.files[o.n].ino != 0 {
				return unix.EMFILE
			}
			info, err := w.open(ctx, o.path)
			if err != nil {
				return err
			}
			if err := w.w.Hold(ctx, info.Sub, info.Ino); err != nil {
				return err
			}
			if err := w.Remove(ctx, o.path); err != nil {
				return errors.Join(err, w.w.Release(ctx, info.Sub, info.Ino))
			}
			w.files[o.n].sub, w.files[o.n].ino = info.Sub, info.Ino
			return nil
		}},
		{"hclose", 2, slot, func(k *kernelSide, o *fileOp) error {
			if k.files[o.n] == nil {
				return unix.EBADF
			}
			err := k.files[o.n].Close()
			k.files[o.n] = nil
			return err
		}, func(ctx context.Context, w *ourSide, o *fileOp) error {
			return w.closeFile(ctx, int(o.n))
		}},
	}
}
