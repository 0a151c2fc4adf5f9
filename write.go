package btrfs

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"syscall"
	"time"

	"gobtrfs/disk"
	"gobtrfs/internal/clock"
	"gobtrfs/internal/compress"
	"gobtrfs/internal/fstree"
	"gobtrfs/internal/txn"
)

// Clock tells the time.
type Clock = clock.Clock

// openWriter makes the filesystem writable and finishes what an earlier
// session left half done.
func (f *FS) openWriter(ctx context.Context, o Options) error {
	if o.BackupRoot != 0 || o.SuperMirror != 0 || o.IgnoreDataChecksums {
		return fmt.Errorf("open for writing: %w: another state than the last", ErrReadOnly)
	}
	spec, err := compress.ParseSpec(cmp.Or(o.Compress, "none"))
	if err != nil {
		return err
	}
	base := f.Store()
	pending := f.Super().LogRoot != 0
	if o.NoLog && pending {
		return fmt.Errorf("open for writing: %w: the log would be lost", ErrReadOnly)
	}
	tx, err := txn.Open(ctx, f.vol, base.Cache(), txn.Options{
		Clock: o.Clock, Rand: o.Rand, Replay: true, CommitInterval: o.CommitInterval, DirtyNodeBytes: o.DirtyNodeBytes,
		Degraded: o.Degraded, Discard: o.Discard, DiscardFailed: o.Events.DiscardFailed,
		Committed: func(*disk.Superblock) error {
			next, err := fstree.Open(context.WithoutCancel(ctx), f.vol, fstree.Options{Cache: base.Cache()})
			if err != nil {
				return err
			}
			f.store.Swap(next).Retire()
			return nil
		},
		Flush: func(ctx context.Context) error {
			if f.w == nil {
				return nil // the log is still being replayed
			}
			return f.w.FlushFree(ctx)
		},
		Waiting: func() map[disk.ObjectID]uint64 {
			if f.w == nil {
				return nil
			}
			return f.w.Waiting()
		},
	})
	if err != nil {
		return err
	}
	if pending {
		if err := fstree.ReplayLog(ctx, tx, base); err != nil {
			tx.Close()
			return fmt.Errorf("replay the log: %w", err)
		}
	}
	if err := tx.RebuildFreeSpaceTree(ctx); err != nil {
		tx.Close()
		return err
	}
	base = f.Store()
	f.w = fstree.NewWriter(tx, base, fstree.WriterOptions{
		Compress: spec, CompressForce: o.CompressForce, NoDataCow: o.NoDataCow, NoDataSum: o.NoDataSum, DirtyBytes: o.DirtyBytes,
	})
	if err := f.w.Recover(ctx); err != nil {
		tx.Close()
		return fmt.Errorf("finish what was left half done: %w", err)
	}
	return nil
}

// CheckCompression says whether s can be Options.Compress.
func CheckCompression(s string) error {
	_, err := compress.ParseSpec(cmp.Or(s, "none"))
	return err
}

// Sync makes everything durable that was done before; block groups that became
// empty are given back. Callers share commits. ctx ends the waiting, not a
// commit that has begun.
func (f *FS) Sync(ctx context.Context) error {
	if f.w == nil {
		return ErrReadOnly
	}
	if err := f.w.Tidy(ctx); err != nil {
		return fmt.Errorf("btrfs: %w", err)
	}
	return nil
}

// Still calls look while the devices hold one commit, which contains all that was
// done before, and stay at it: for a check of a filesystem that is in use.
// With contents set no contents are written either, so that copies and parity
// can be compared. Who needs the devices to write to waits; reading goes on. look
// must not change the filesystem and must not call Sync.
func (f *FS) Still(ctx context.Context, contents bool, look func(ctx context.Context) error) error {
	if f.w == nil || f.Failed() != nil { // after a failure nothing is written any more
		return look(ctx)
	}
	if err := f.w.Flush(ctx); err != nil {
		return fmt.Errorf("btrfs: %w", err)
	}
	return f.w.Txn().Still(ctx, contents, look)
}

// SetLabel changes the filesystem's label, durably. It is at most 255 bytes
// long and has no NUL byte.
func (f *FS) SetLabel(ctx context.Context, label string) error {
	if f.w == nil {
		return ErrReadOnly
	}
	if err := f.w.Txn().SetLabel(ctx, label); err != nil {
		return fmt.Errorf("btrfs: set label: %w", err)
	}
	return f.Sync(ctx)
}

// Editor changes the files of a subvolume and of those nested in it. Paths
// start at the subvolume's top directory; symbolic links in them are not
// followed. What changes contents takes file capabilities away, and leaves
// setuid and setgid, as root's changes do. Every method happens as a whole or
// not at all, unless it says otherwise, and is durable after FS.Sync. What it
// did can be read through FS after that, too; before, through FS.View and the
// Editor's own methods.
type Editor struct {
	fs    *FS
	sub   disk.ObjectID
	watch func(Touched)
}

// Touched is a file that an Editor was asked about, and may have changed.
type Touched struct {
	Sub, Dir      disk.ObjectID // where its name is; Dir is 0 for a top directory
	Name          string
	FileSub, File disk.ObjectID // the inode before the change; File is 0 for none
}

// Watch has f told of every path that is resolved, before what happens to it.
func (e *Editor) Watch(f func(Touched)) { e.watch = f }

// resolve finds what a path leads to.
func (e *Editor) resolve(ctx context.Context, path string) (fstree.Place, error) {
	p, err := e.fs.w.Resolve(ctx, e.sub, path)
	if err == nil && e.watch != nil {
		t := Touched{Sub: p.Sub, Dir: p.Dir, Name: string(p.Name)}
		if p.Exists() {
			t.FileSub, t.File = p.Target()
		}
		e.watch(t)
	}
	return p, err
}

// Edit gives the means to change a subvolume of a filesystem that is open for
// writing.
func (s *Subvolume) Edit() (*Editor, error) {
	if s.fs.w == nil {
		return nil, fmt.Errorf("btrfs: %w", ErrReadOnly)
	}
	return &Editor{fs: s.fs, sub: s.ID()}, nil
}

// FS is the filesystem that is edited.
func (e *Editor) FS() *FS { return e.fs }

// Attr is what a new file is to be.
type Attr struct {
	Perm     fs.FileMode // permission bits, setuid, setgid and sticky
	UID, GID uint32
}

func (a Attr) mode(typ uint32) fstree.Attr {
	return fstree.Attr{Mode: typ | diskPerm(a.Perm), UID: a.UID, GID: a.GID}
}

// diskPerm is the permission part of st_mode.
func diskPerm(m fs.FileMode) uint32 {
	out := uint32(m.Perm())
	for _, b := range [...]struct {
		mode fs.FileMode
		bit  uint32
	}{{fs.ModeSetuid, 0o4000}, {fs.ModeSetgid, 0o2000}, {fs.ModeSticky, 0o1000}} {
		if m&b.mode != 0 {
			out |= b.bit
		}
	}
	return out
}

// pathError says which operation failed on which path.
func pathError(op, path string, err error) error {
	if err == nil {
		return nil
	}
	return &fs.PathError{Op: op, Path: path, Err: err}
}

// at resolves a path that must exist.
func (e *Editor) at(ctx context.Context, path string) (sub, ino disk.ObjectID, err error) {
	p, err := e.resolve(ctx, path)
	if err != nil {
		return 0, 0, err
	}
	if !p.Exists() {
		return 0, 0, p.Missing()
	}
	sub, ino = p.Target()
	return sub, ino, nil
}

// found calls f with what a path leads to. If f finds it gone while the path
// leads to something else by now, as rename does it, it is called with that.
func (e *Editor) found(ctx context.Context, path string, f func(sub, ino disk.ObjectID) error) error {
	sub, ino, err := e.at(ctx, path)
	for err == nil {
		if err = f(sub, ino); !errors.Is(err, syscall.ENOENT) {
			return err
		}
		nowSub, nowIno, gone := e.at(ctx, path)
		switch {
		case gone != nil:
			return gone
		case nowSub == sub && nowIno == ino:
			return err
		}
		sub, ino, err = nowSub, nowIno, nil
	}
	return err
}

// name resolves a path whose last component is a name to add or to take away.
func (e *Editor) name(ctx context.Context, path string) (fstree.Place, error) {
	p, err := e.resolve(ctx, path)
	if err == nil && p.Dir == 0 {
		err = syscall.EBUSY // a top directory has no name here
	}
	return p, err
}

func (e *Editor) create(ctx context.Context, path string, a fstree.Attr) error {
	if e.watch == nil {
		return e.fs.w.CreateAt(ctx, e.sub, path, a)
	}
	p, err := e.name(ctx, path)
	if err != nil {
		return err
	}
	_, err = e.fs.w.Create(ctx, p.Sub, p.Dir, p.Name, a)
	return err
}

// Create makes an empty regular file; the path must not exist.
func (e *Editor) Create(ctx context.Context, path string, a Attr) error {
	return pathError("create", path, e.create(ctx, path, a.mode(0o100000)))
}

// Mkdir makes a directory.
func (e *Editor) Mkdir(ctx context.Context, path string, a Attr) error {
	return pathError("mkdir", path, e.create(ctx, path, a.mode(0o040000)))
}

// Symlink makes a symbolic link.
func (e *Editor) Symlink(ctx context.Context, target, path string, uid, gid uint32) error {
	return pathError("symlink", path, e.create(ctx, path, fstree.Attr{Mode: 0o120777, UID: uid, GID: gid, Target: target}))
}

// Mknod makes a device, a fifo or a socket: typ is fs.ModeDevice,
// fs.ModeDevice|fs.ModeCharDevice, fs.ModeNamedPipe or fs.ModeSocket.
func (e *Editor) Mknod(ctx context.Context, path string, typ fs.FileMode, major, minor uint32, a Attr) error {
	mode, ok := map[fs.FileMode]uint32{
		fs.ModeDevice: 0o060000, fs.ModeDevice | fs.ModeCharDevice: 0o020000,
		fs.ModeNamedPipe: 0o010000, fs.ModeSocket: 0o140000,
	}[typ]
	if !ok {
		return pathError("mknod", path, syscall.EINVAL)
	}
	at := a.mode(mode)
	at.Rdev = disk.JoinRdev(major, minor)
	return pathError("mknod", path, e.create(ctx, path, at))
}

// Link gives a file one more name.
func (e *Editor) Link(ctx context.Context, target, path string) error {
	t, err := e.name(ctx, target)
	if err == nil && !t.Exists() {
		err = t.Missing()
	}
	if err != nil {
		return pathError("link", target, err)
	}
	p, err := e.name(ctx, path)
	switch {
	case err != nil:
	case p.Exists():
		err = syscall.EEXIST
	case len(p.Name) > disk.MaxNameLen:
		err = syscall.ENAMETOOLONG
	case p.Sub != t.Sub || t.Child != 0:
		err = e.linkAcross(ctx, p, target)
	default:
		err = e.fs.w.Link(ctx, p.Sub, p.Dir, p.Name, t.Ino)
	}
	return pathError("link", path, err)
}

// linkAcross is why a name in another subvolume cannot be: a directory that
// takes no names comes first, then what cannot have more names anyway.
func (e *Editor) linkAcross(ctx context.Context, p fstree.Place, target string) error {
	err := e.fs.w.View(ctx, p.Sub, func(ctx context.Context, v *fstree.Subvol) error {
		dir, err := v.Inode(ctx, p.Dir)
		if err == nil && dir.Flags&disk.InodeImmutable != 0 {
			err = syscall.EPERM
		}
		return err
	})
	if err != nil {
		return err
	}
	info, err := e.Stat(ctx, target)
	switch {
	case err != nil:
		return err
	case info.Mode().IsDir() || info.Item.Flags&(disk.InodeImmutable|disk.InodeAppend) != 0:
		return syscall.EPERM
	}
	return syscall.EXDEV
}

// Remove removes a file or an empty directory.
func (e *Editor) Remove(ctx context.Context, path string) error {
	p, err := e.name(ctx, path)
	switch {
	case err != nil:
	case !p.Exists():
		err = p.Missing()
	case p.Type == disk.FtDir:
		err = e.fs.w.Rmdir(ctx, p.Sub, p.Dir, p.Name)
	default:
		err = e.fs.w.Unlink(ctx, p.Sub, p.Dir, p.Name)
	}
	return pathError("remove", path, err)
}

// RenameFlags are those of renameat2(2), with its values.
type RenameFlags = fstree.RenameFlags

// What Rename can be asked for.
const (
	RenameNoReplace = fstree.RenameNoReplace // the new name must not exist (EEXIST)
	RenameExchange  = fstree.RenameExchange  // both names must exist, and swap what they name
	RenameWhiteout  = fstree.RenameWhiteout  // the old name becomes a whiteout of user and group 0
)

// Rename moves a name; what has the new name is replaced as rename(2) says,
// unless a flag says otherwise. Between subvolumes only subvolumes move
// (EXDEV).
func (e *Editor) Rename(ctx context.Context, from, to string, flags RenameFlags) error {
	if err := flags.Check(); err != nil {
		return pathError("rename", from, err)
	}
	a, err := e.name(ctx, from)
	if err != nil {
		return pathError("rename", from, err)
	}
	b, err := e.name(ctx, to)
	if err == nil {
		err = e.fs.w.Rename(ctx, fstree.RenameArgs{From: a.Entry(), To: b.Entry(), Flags: flags})
	}
	if !a.Exists() {
		to = from // that is what the error is about
	}
	return pathError("rename", to, err)
}

func (e *Editor) setAttr(ctx context.Context, op, path string, c fstree.Change) error {
	return pathError(op, path, e.found(ctx, path, func(sub, ino disk.ObjectID) error {
		return e.fs.w.SetAttr(ctx, sub, ino, c)
	}))
}

// Chmod sets the permissions, with setuid, setgid and sticky bit.
func (e *Editor) Chmod(ctx context.Context, path string, perm fs.FileMode) error {
	mode := diskPerm(perm)
	return e.setAttr(ctx, "chmod", path, fstree.Change{Mode: &mode})
}

// Chown sets owner and group; nil leaves one alone.
func (e *Editor) Chown(ctx context.Context, path string, uid, gid *uint32) error {
	return e.setAttr(ctx, "chown", path, fstree.Change{UID: uid, GID: gid})
}

// Chtimes sets the times of the last access and change of contents; nil leaves
// one alone.
func (e *Editor) Chtimes(ctx context.Context, path string, atime, mtime *time.Time) error {
	conv := func(t *time.Time) *disk.Time {
		if t == nil {
			return nil
		}
		return &disk.Time{Sec: t.Unix(), Nsec: uint32(t.Nanosecond())}
	}
	return e.setAttr(ctx, "set times of", path, fstree.Change{Atime: conv(atime), Mtime: conv(mtime)})
}

// SetFlags sets a file's flags as chattr(1) does: flags are the FS_*_FL bits of
// ioctl FS_IOC_SETFLAGS, and what is not among them is cleared.
func (e *Editor) SetFlags(ctx context.Context, path string, flags uint32) error {
	sub, ino, err := e.at(ctx, path)
	if err == nil {
		err = e.fs.w.SetFlags(ctx, sub, ino, flags)
	}
	return pathError("set flags of", path, err)
}

// SetXattr sets an extended attribute by its full name.
func (e *Editor) SetXattr(ctx context.Context, path, name string, value []byte) error {
	if err := fstree.CheckXattr(name, len(value)); err != nil {
		return pathError("set attribute of", path, err)
	}
	sub, ino, err := e.at(ctx, path)
	if err == nil {
		err = e.fs.w.SetXattr(ctx, sub, ino, name, value, fstree.XattrAny)
	}
	return pathError("set attribute of", path, err)
}

// RemoveXattr removes an extended attribute.
func (e *Editor) RemoveXattr(ctx context.Context, path, name string) error {
	if err := fstree.CheckXattr(name, 0); err != nil {
		return pathError("remove attribute of", path, err)
	}
	sub, ino, err := e.at(ctx, path)
	if err == nil {
		err = e.fs.w.RemoveXattr(ctx, sub, ino, name)
	}
	return pathError("remove attribute of", path, err)
}

// Verify checks the space accounting of a filesystem that is open for writing
// against itself.
func (f *FS) Verify() error {
	if f.w == nil {
		return fmt.Errorf("btrfs: %w", ErrReadOnly)
	}
	if err := f.w.Txn().Space().Verify(); err != nil {
		return fmt.Errorf("btrfs: %w", err)
	}
	return nil
}

// Failed is why the filesystem cannot be written any more; nil while it can.
func (f *FS) Failed() error {
	if f.w == nil {
		return ErrReadOnly
	}
	return f.w.Txn().Err()
}

// GroupUsage is how full a block group is.
type GroupUsage struct {
	Start  disk.Logical
	Type   disk.BlockGroupFlags // type and profile
	Length uint64               // bytes, as Used
	Used   uint64
}

// SpaceGroups lists the block groups of a filesystem that is open for writing,
// as they are now.
func (f *FS) SpaceGroups() []GroupUsage {
	if f.w == nil {
		return nil
	}
	var out []GroupUsage
	for _, g := range f.w.Txn().Space().Groups() {
		c, u := g.Chunk(), g.Usage()
		out = append(out, GroupUsage{c.Start, c.Flags, uint64(c.Length), uint64(u.Used)})
	}
	return out
}

// Info is what stat(2) says of a file in the running transaction.
type Info struct {
	Sub  disk.ObjectID // subvolume
	Ino  disk.ObjectID
	Item disk.InodeItem
}

// Mode is the file's type and permissions.
func (i *Info) Mode() fs.FileMode { return fileMode(i.Item.Mode) }

// Stat looks at a file as it is now, changes since the last Sync included.
func (e *Editor) Stat(ctx context.Context, path string) (info Info, err error) {
	err = e.found(ctx, path, func(sub, ino disk.ObjectID) error {
		return e.fs.w.View(ctx, sub, func(ctx context.Context, v *fstree.Subvol) error {
			info.Sub, info.Ino = sub, ino
			info.Item, err = v.Inode(ctx, ino)
			return err
		})
	})
	return info, pathError("stat", path, err)
}

// Names lists a directory as it is now, changes since the last Sync included.
func (e *Editor) Names(ctx context.Context, path string) (names []string, err error) {
	err = e.found(ctx, path, func(sub, ino disk.ObjectID) error {
		return e.fs.w.View(ctx, sub, func(ctx context.Context, v *fstree.Subvol) error {
			it := v.ReadDir(ctx, ino, 0)
			for it.Next() {
				names = append(names, string(it.Entry().Name))
			}
			return it.Err()
		})
	})
	return names, pathError("list", path, err)
}

// ReadAt reads from a regular file as it is now, changes since the last Sync
// included. At the end of the file the error is io.EOF.
func (e *Editor) ReadAt(ctx context.Context, path string, p []byte, off int64) (n int, err error) {
	err = e.found(ctx, path, func(sub, ino disk.ObjectID) error {
		if off < 0 {
			return syscall.EINVAL
		}
		return e.fs.w.View(ctx, sub, func(ctx context.Context, v *fstree.Subvol) error {
			item, err := v.Inode(ctx, ino)
			if err != nil {
				return err
			}
			if !fileMode(item.Mode).IsRegular() {
				return syscall.EINVAL
			}
			n, err = v.Reader(ino, &item).ReadAt(ctx, p, uint64(off))
			return err
		})
	})
	if err == io.EOF {
		return n, err
	}
	return n, pathError("read", path, err)
}

// RemoveAll removes what is at path with everything in it, subvolumes
// included, each file in an operation of its own. That nothing is there is no
// error.
func (e *Editor) RemoveAll(ctx context.Context, path string) error {
	p, err := e.name(ctx, path)
	if errors.Is(err, fs.ErrNotExist) || err == nil && !p.Exists() {
		return nil
	}
	if err != nil {
		return pathError("remove", path, err)
	}
	if p.Type == disk.FtDir {
		names, err := e.Names(ctx, path)
		if err != nil {
			return err
		}
		for _, name := range names {
			if err := e.RemoveAll(ctx, path+"/"+name); err != nil {
				return err
			}
		}
	}
	if p.Child != 0 {
		return e.DeleteSubvolume(ctx, path)
	}
	return e.Remove(ctx, path)
}
