package fstree

import (
	"context"
	"errors"
	"fmt"
	"syscall"

	"gobtrfs/disk"
	"gobtrfs/internal/space"
)

// Flags of FS_IOC_GETFLAGS (linux/fs.h).
const (
	flagCompress   = 0x4
	flagNoCompress = 0x400
	flagNoCow      = 0x800000
	flagDirSync    = 0x10000
	flagNoDump     = 0x40
	flagNoAtime    = 0x80
)

// plainFlags are the flags that are one bit here and there.
var plainFlags = [...]struct {
	inode uint64
	fl    uint32
}{
	{disk.InodeSync, 0x8}, {disk.InodeImmutable, 0x10}, {disk.InodeAppend, 0x20},
	{disk.InodeNoDump, flagNoDump}, {disk.InodeNoAtime, flagNoAtime}, {disk.InodeDirSync, flagDirSync},
}

// FileFlags is an inode's flags as FS_IOC_GETFLAGS shows them
// (btrfs_inode_flags_to_fsflags, Linux 6.18).
func FileFlags(item *disk.InodeItem) uint32 {
	var out uint32
	for _, f := range plainFlags {
		if item.Flags&f.inode != 0 {
			out |= f.fl
		}
	}
	if item.Flags&disk.InodeROVerity != 0 {
		out |= 0x100000
	}
	if item.Flags&disk.InodeNoDataCow != 0 {
		out |= flagNoCow
	}
	switch {
	case item.Flags&disk.InodeNoCompress != 0:
		out |= flagNoCompress
	case item.Flags&disk.InodeCompress != 0:
		out |= flagCompress
	}
	return out
}

// checkFlags refuses flags that do not go together, or not with those before.
func checkFlags(old, flags uint32) error {
	known := uint32(flagCompress | flagNoCompress | flagNoCow)
	for _, f := range plainFlags {
		known |= f.fl
	}
	const compress = flagCompress | flagNoCompress
	switch {
	case flags&^known != 0:
		return fmt.Errorf("flags %#x: %w", flags, syscall.EOPNOTSUPP)
	case flags&compress == compress, flags&flagCompress != 0 && flags&flagNoCow != 0,
		old&flagNoCow != 0 && flags&compress != 0, flags&flagNoCow != 0 && old&compress != 0:
		return fmt.Errorf("flags %#x after %#x: %w", flags, old, syscall.EINVAL)
	}
	return nil
}

// SetFlags sets an inode's flags as FS_IOC_SETFLAGS does: what is not in flags
// is cleared. The compression flags set or remove the property
// btrfs.compression; copy-on-write changes only for empty files, others keep
// what they have.
func (w *Writer) SetFlags(ctx context.Context, sub, ino disk.ObjectID, flags uint32) error {
	// What is written stays with the flags that it was written under.
	held, err := w.settle(ctx, fileKey{sub, ino})
	if err != nil {
		return err
	}
	defer w.unlock(held)
	return w.do(ctx, sub, 4, space.ClassNormal, func(ctx context.Context, e *edit) error {
		item, err := e.inode(ctx, ino)
		if err != nil {
			return err
		}
		flags := flags
		switch item.Mode & modeType {
		case modeDir:
		case modeReg:
			flags &^= flagDirSync
		default:
			flags &= flagNoDump | flagNoAtime
		}
		if err := checkFlags(FileFlags(&item), flags); err != nil {
			return err
		}
		for _, f := range plainFlags {
			item.Flags &^= f.inode
			if flags&f.fl != 0 {
				item.Flags |= f.inode
			}
		}
		cow := disk.InodeNoDataCow
		if item.Mode&modeType == modeReg {
			cow |= disk.InodeNoDataSum
		}
		if item.Mode&modeType != modeReg || item.Size == 0 {
			item.Flags &^= cow
			if flags&flagNoCow != 0 {
				item.Flags |= cow
			}
		}
		value := ""
		if flags&flagCompress != 0 {
			value = "zlib" // as a mount without options has it
			if c := e.w.opts.Compress.Algorithm; c != disk.CompressNone {
				value = c.String()
			}
		}
		if err := e.writeCompression(ctx, ino, &item, value); err != nil {
			return err
		}
		if flags&flagNoCompress != 0 {
			item.Flags |= disk.InodeNoCompress
		}
		item.Ctime = e.now
		return e.putInode(ctx, ino, &item)
	})
}

// relatimeSec is how old a time of access may grow although nothing was
// changed since, in seconds.
const relatimeSec = 24 * 60 * 60

// AtimeDue says whether reading an inode now changes its time of access. With
// relative set it does only if that tells something: the inode was changed since
// the last time, or that was a day ago (mount option relatime).
func AtimeDue(item *disk.InodeItem, now disk.Time, relative bool) bool {
	if item.Flags&disk.InodeNoAtime != 0 {
		return false
	}
	return !relative || !later(item.Atime, item.Mtime) || !later(item.Atime, item.Ctime) || now.Sec-item.Atime.Sec >= relatimeSec
}

// Accessed notes that an inode was read, if AtimeDue says so and its subvolume
// may be written.
func (w *Writer) Accessed(ctx context.Context, sub, ino disk.ObjectID, relative bool) error {
	stale := func(e *edit, item *disk.InodeItem) bool {
		return e.t.Item().Flags&disk.RootSubvolReadOnly == 0 && AtimeDue(item, e.now, relative)
	}
	needed := false
	err := w.tx.Look(ctx, func(ctx context.Context) error {
		e, err := w.edit(ctx, sub)
		if err != nil {
			return err
		}
		item, err := e.inode(ctx, ino)
		needed = err == nil && stale(e, &item)
		return err
	})
	if err != nil || !needed {
		return err
	}
	err = w.do(ctx, sub, 2, space.ClassNormal, func(ctx context.Context, e *edit) error {
		item, err := e.inode(ctx, ino)
		if err != nil || !stale(e, &item) {
			return err
		}
		item.Atime = e.now
		return e.putInode(ctx, ino, &item)
	})
	if errors.Is(err, syscall.EROFS) {
		return nil // became read-only meanwhile
	}
	return err
}
