package fstree

import (
	"context"
	"fmt"
	"syscall"

	"gobtrfs/disk"
	"gobtrfs/internal/space"
)

// Contents are written in place where the file has preallocated an extent, or
// is not to be copied on write (nodatacow), and nobody else would see it. That
// happens with the writer held, unlike other writing of contents: otherwise a
// snapshot or the end of the file could come between the question whose the
// extent is and the write.

// overwrite writes whole sectors at off: in place where that may be, else to
// new extents.
func (f *fileEdit) overwrite(ctx context.Context, b [][]byte, off uint64) error {
	to := off
	for _, c := range b {
		to += uint64(len(c))
	}
	for off < to {
		ext, stop, inPlace, err := f.placeAt(ctx, off, to)
		for err == nil && !inPlace && stop < to { // one long new extent, not many
			var next uint64
			var other bool
			if _, next, other, err = f.placeAt(ctx, stop, to); other {
				break
			}
			stop = next
		}
		if err != nil {
			return err
		}
		var head [][]byte
		head, b = splitBytes(b, stop-off)
		if inPlace {
			err = f.fillIn(ctx, &ext, head, off, stop)
		} else if err = f.drop(ctx, off, stop); err == nil {
			err = f.writeExtents(ctx, head, off)
		}
		if err != nil {
			return err
		}
		off = stop
	}
	return nil
}

// placeAt says up to where, at most to, the file is all one at off: an extent
// that may be written in place, or something that may not.
func (f *fileEdit) placeAt(ctx context.Context, off, to uint64) (ext Extent, stop uint64, inPlace bool, err error) {
	if f.item.Flags&(disk.InodeNoDataCow|disk.InodePrealloc) == 0 {
		return ext, to, false, nil
	}
	k, ext, ok, err := f.last(ctx, off+1)
	if err != nil {
		return ext, 0, false, err
	}
	if !ok || ext.End <= off {
		it, ok, err := f.t.Ceil(ctx, f.extentKey(off))
		if err == nil && ok && it.Key.ObjectID == f.ino && it.Key.Type == disk.KeyExtentData {
			to = min(to, it.Key.Offset)
		}
		return ext, to, false, err
	}
	ext.key = k
	inPlace, err = f.mayFillIn(ctx, &ext)
	return ext, min(to, ext.End), inPlace, err
}

// mayFillIn says whether an extent may be written in place (kernel:
// can_nocow_file_extent, 6.18).
func (f *fileEdit) mayFillIn(ctx context.Context, ext *Extent) (bool, error) {
	fe := &ext.Item
	switch {
	case fe.Type == disk.FileExtentInline || fe.IsHole() || fe.Compression != disk.CompressNone:
		return false, nil
	case fe.Type == disk.FileExtentRegular && f.item.Flags&disk.InodeNoDataCow == 0:
		return false, nil
	case fe.Generation <= f.t.Item().LastSnapshot:
		return false, nil
	case !f.w.tx.InPlace(fe.DiskBytenr):
		return false, nil
	}
	sole, err := f.w.tx.SoleDataRef(ctx, f.t, fe.DiskBytenr, fe.DiskNumBytes, f.ino, ext.Start-fe.Offset)
	if err != nil || !sole {
		return false, err
	}
	// Contents that have checksums were written by copying and must go on so.
	has, err := f.w.tx.HasCsums(ctx, fe.DiskBytenr+disk.Logical(fe.Offset), fe.NumBytes)
	return !has, err
}

// fillIn writes a part of an extent in place.
func (f *fileEdit) fillIn(ctx context.Context, ext *Extent, b [][]byte, from, to uint64) error {
	fe := &ext.Item
	at := fe.DiskBytenr + disk.Logical(fe.Offset+from-ext.Start)
	sums, err := f.writeAt(ctx, at, b)
	if err != nil {
		return err
	}
	if fe.Type != disk.FileExtentPrealloc {
		return nil
	}
	if len(sums) > 0 {
		if err := f.w.tx.AddCsums(ctx, at, sums); err != nil {
			return err
		}
	}
	return f.markWritten(ctx, ext, from, to)
}

// markWritten turns a part of a preallocated extent into a written one. All
// parts go on to refer to the whole extent.
func (f *fileEdit) markWritten(ctx context.Context, ext *Extent, from, to uint64) error {
	part := func(a, b uint64, typ disk.FileExtentType) []byte {
		fe := ext.Item
		fe.Generation, fe.Type = f.w.tx.Trans(), typ
		fe.Offset, fe.NumBytes = fe.Offset+a-ext.Start, b-a
		return fe.Append(nil)
	}
	add := func(a, b uint64, typ disk.FileExtentType) error {
		if a == b {
			return nil
		}
		f.w.tx.AddDataRef(f.t, ext.Item.DiskBytenr, ext.Item.DiskNumBytes, f.ino, ext.Start-ext.Item.Offset, false)
		return f.t.Insert(ctx, f.extentKey(a), part(a, b, typ))
	}
	first, typ := from, disk.FileExtentPrealloc
	if from == ext.Start {
		first, typ = to, disk.FileExtentRegular
	}
	if err := f.t.Update(ctx, ext.key, part(ext.Start, first, typ)); err != nil {
		return err
	}
	if from > ext.Start {
		if err := add(from, to, disk.FileExtentRegular); err != nil {
			return err
		}
	}
	return add(to, ext.End, disk.FileExtentPrealloc)
}

// writeInPlace writes without new space, for when there is none: all of it
// must go in place.
func (w *Writer) writeInPlace(ctx context.Context, k fileKey, p []byte, off uint64) error {
	f, err := w.settle(ctx, k)
	if err != nil {
		return err
	}
	defer w.unlock(f)
	return w.writeHeldInPlace(ctx, k, p, off)
}

// writeHeldInPlace is writeInPlace for a caller who has the file settled.
func (w *Writer) writeHeldInPlace(ctx context.Context, k fileKey, p []byte, off uint64) error {
	sector := w.tx.SectorSize()
	from, to := off/sector*sector, roundUp(off+uint64(len(p)), sector)
	return w.do(ctx, k.sub, itemsWrite, space.ClassNormal, func(ctx context.Context, e *edit) error {
		f := fileEdit{edit: e, avail: new(uint64)}
		if _, err := f.open(ctx, k.ino); err != nil {
			return err
		}
		full := fmt.Errorf("write of %d bytes at %d of inode %d: %w", len(p), off, uint64(k.ino), space.ErrNoSpace)
		if from > f.item.Size && f.item.Size%sector != 0 {
			return full // the last sector may have to be written anew
		}
		for at := from; at < to; {
			_, stop, inPlace, err := f.placeAt(ctx, at, to)
			if err != nil {
				return err
			}
			if !inPlace {
				return full
			}
			at = stop
		}
		if f.item.Flags&disk.InodeAppend != 0 && off < f.item.Size {
			return fmt.Errorf("inode %d may only be appended to: %w", uint64(k.ino), syscall.EPERM)
		}
		if err := f.write(ctx, p, off); err != nil {
			return err
		}
		f.item.Mtime, f.item.Ctime = f.now, f.now
		return f.putInode(ctx, k.ino, &f.item)
	})
}
