package fstree

import (
	"context"
	"fmt"
	"math"
	"slices"
	"syscall"

	"gobtrfs/disk"
	"gobtrfs/internal/space"
)

// cloneBatch is how many extents one operation shares.
const cloneBatch = 32

// Clone makes the empty file at (toSub, to) share the contents of the file at
// (sub, ino): both then refer to the same extents until one is written. A file
// of many extents takes several operations; the size comes with the last.
func (w *Writer) Clone(ctx context.Context, sub, ino, toSub, to disk.ObjectID) error {
	unlock, err := w.settleBoth(ctx, fileKey{sub, ino}, fileKey{toSub, to})
	if err != nil {
		return err
	}
	defer unlock()
	next := uint64(0)
	for done := false; !done; {
		if err := context.Cause(ctx); err != nil {
			return err
		}
		err := w.do(ctx, toSub, itemsWrite+cloneBatch, space.ClassNormal, func(ctx context.Context, e *edit) error {
			from, err := w.edit(ctx, sub)
			if err != nil {
				return err
			}
			src, dst := &fileEdit{edit: from, ino: ino}, &fileEdit{edit: e}
			if src.item, err = from.inode(ctx, ino); err != nil {
				return err
			}
			if src.item.Mode&modeType != modeReg {
				return fmt.Errorf("inode %d is no regular file: %w", uint64(ino), syscall.EINVAL)
			}
			if _, err := dst.open(ctx, to); err != nil {
				return err
			}
			const sums = disk.InodeNoDataSum | disk.InodeNoDataCow
			if next == 0 {
				if dst.item.Size != 0 || dst.item.NBytes != 0 {
					return fmt.Errorf("inode %d is not empty: %w", uint64(to), syscall.EINVAL)
				}
				// Whether there are checksums is a matter of the extents.
				dst.item.Flags = dst.item.Flags&^sums | src.item.Flags&sums
			}
			if next, done, err = cloneSome(ctx, src, dst, next); err != nil {
				return err
			}
			if done {
				dst.item.Size = src.item.Size
				dst.item.Mtime, dst.item.Ctime = e.now, e.now
			}
			return dst.putInode(ctx, to, &dst.item)
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// cloneSome shares the extents from file offset at on, and says where to go on.
func cloneSome(ctx context.Context, src, dst *fileEdit, at uint64) (next uint64, done bool, err error) {
	for range cloneBatch {
		it, ok, err := src.t.Ceil(ctx, disk.Key{ObjectID: src.ino, Type: disk.KeyExtentData, Offset: at})
		if err != nil {
			return at, false, err
		}
		if !ok || it.Key.ObjectID != src.ino || it.Key.Type != disk.KeyExtentData {
			return at, true, nil
		}
		ext, err := src.parse(ctx, it.Key, slices.Clone(it.Data))
		if err != nil {
			return at, false, err
		}
		fe := ext.Item
		fe.Generation = dst.w.tx.Trans()
		switch {
		case fe.Type == disk.FileExtentInline:
			dst.item.NBytes += fe.RAMBytes
		case !fe.IsHole():
			dst.w.tx.AddDataRef(dst.t, fe.DiskBytenr, fe.DiskNumBytes, dst.ino, it.Key.Offset-fe.Offset, false)
			dst.item.NBytes += fe.NumBytes
		}
		if err := dst.t.Insert(ctx, dst.extentKey(it.Key.Offset), fe.Append(nil)); err != nil {
			return at, false, err
		}
		if at = ext.End; at > math.MaxInt64 {
			return at, true, nil
		}
	}
	return at, false, nil
}
