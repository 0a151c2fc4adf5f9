package fstree

import (
	"bytes"
	"context"
	"fmt"
	"math"
	"syscall"

	"gobtrfs/disk"
)

// CloneArgs names two ranges of regular files, which may be one file.
type CloneArgs struct {
	Sub, Ino disk.ObjectID // the file whose contents are shared
	Off      uint64
	Length   uint64 // of both ranges; 0: to the end of the file

	ToSub, To disk.ObjectID // the file that is changed
	ToOff     uint64
}

// cloneBatch is how many extents one operation puts in or takes out.
const cloneBatch = 32

// Clone makes the empty file at (toSub, to) share the contents of the file at
// (sub, ino), as CloneRange does. If that has no checksums, the new file has
// none either.
func (w *Writer) Clone(ctx context.Context, sub, ino, toSub, to disk.ObjectID) error {
	a := CloneArgs{Sub: sub, Ino: ino, ToSub: toSub, To: to}
	return w.cloneFiles(ctx, a, true)
}

// CloneRange makes a range of a file share the extents of another range, as
// ioctl FICLONERANGE does: both take the space once until one is written. The
// ranges start, and unless they reach to the end of the file also end, at
// sectors. A range of many extents takes several operations.
func (w *Writer) CloneRange(ctx context.Context, a CloneArgs) error {
	return w.cloneFiles(ctx, a, false)
}

func (w *Writer) cloneFiles(ctx context.Context, a CloneArgs, fresh bool) error {
	if err := w.chargeClone(ctx, a); err != nil {
		return err
	}
	unlock, err := w.settleBoth(ctx, fileKey{a.Sub, a.Ino}, fileKey{a.ToSub, a.To})
	if err != nil {
		return err
	}
	defer unlock()
	c := clone{CloneArgs: a, fresh: fresh}
	return c.run(ctx, w)
}

// chargeClone has the target's qgroups promise what it comes to refer to.
func (w *Writer) chargeClone(ctx context.Context, a CloneArgs) error {
	n := a.Length
	if n == 0 {
		err := w.View(ctx, a.Sub, func(ctx context.Context, v *Subvol) error {
			item, err := v.Inode(ctx, a.Ino)
			n = item.Size - min(item.Size, a.Off)
			return err
		})
		if err != nil {
			return err
		}
	}
	return w.charge(ctx, a.ToSub, n, itemsWrite, w.Commit)
}

// clone is a range on its way.
type clone struct {
	CloneArgs
	fresh bool // the new file takes over whether there are checksums
	dedup bool // nothing but the place of the contents changes

	started bool
	olen    uint64 // what was asked for, cut at the end of the file
	end     uint64 // of the source's range, a multiple of the sector size
	pos     uint64 // in the source
}

// run shares the range, piece by piece.
func (c *clone) run(ctx context.Context, w *Writer) error {
	for done := false; !done; {
		if err := context.Cause(ctx); err != nil {
			return err
		}
		err := w.doData(ctx, c.ToSub, itemsWrite+2*cloneBatch, 4*w.tx.SectorSize(), func(ctx context.Context, dst *fileEdit) error {
			src, err := c.open(ctx, dst)
			if err != nil {
				return err
			}
			if !c.started {
				if err := c.check(src, dst); err != nil {
					return err
				}
				if c.olen == 0 {
					done = true
					return nil
				}
				c.started = true
				if err := c.prepare(ctx, src, dst); err != nil {
					return err
				}
			}
			if done, err = c.some(ctx, src, dst); err != nil {
				return err
			}
			if !c.dedup {
				dst.item.Mtime, dst.item.Ctime = dst.now, dst.now
			}
			return dst.putInode(ctx, c.To, &dst.item)
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// open reads both files.
func (c *clone) open(ctx context.Context, dst *fileEdit) (src *fileEdit, err error) {
	from, err := dst.w.edit(ctx, c.Sub)
	if err != nil {
		return nil, err
	}
	src = &fileEdit{edit: from, ino: c.Ino}
	if src.item, err = from.inode(ctx, c.Ino); err != nil {
		return nil, err
	}
	switch src.item.Mode & modeType {
	case modeDir:
		return nil, fmt.Errorf("inode %d: %w", uint64(c.Ino), syscall.EISDIR)
	case modeReg:
	default:
		return nil, fmt.Errorf("inode %d is no regular file: %w", uint64(c.Ino), syscall.EINVAL)
	}
	_, err = dst.open(ctx, c.To)
	return src, err
}

// sumFlags say whether a file's extents have checksums.
const sumFlags = disk.InodeNoDataSum | disk.InodeNoDataCow

// check refuses ranges that cannot be shared, and finds out where they end
// (generic_remap_file_range_prep, Linux 6.18).
func (c *clone) check(src, dst *fileEdit) error {
	sector, size, toSize := dst.w.tx.SectorSize(), src.item.Size, dst.item.Size
	bad := fmt.Errorf("clone %d bytes at %d to %d: %w", c.Length, c.Off, c.ToOff, syscall.EINVAL)
	if c.dedup && c.Length == 0 {
		if c.Off > size {
			return bad
		}
		return nil
	}
	switch {
	case c.Off > math.MaxInt64 || c.Length > math.MaxInt64-c.Off || c.ToOff > math.MaxInt64-c.Length:
		return bad
	case !c.fresh && (src.item.Flags^dst.item.Flags)&disk.InodeNoDataSum != 0:
		return fmt.Errorf("one of the files has checksums: %w", syscall.EINVAL)
	case c.fresh && (toSize != 0 || dst.item.NBytes != 0):
		return fmt.Errorf("inode %d is not empty: %w", uint64(c.To), syscall.EINVAL)
	}
	n := c.Length
	if n == 0 {
		if c.Off > size {
			return bad
		}
		if c.Off == size {
			return nil
		}
		n = size - c.Off
	}
	switch {
	case c.Off%sector != 0 || c.ToOff%sector != 0, c.Off >= size:
		return bad
	case c.dedup && (c.Off+n > size || c.ToOff >= toSize || c.ToOff+n > toSize):
		return bad
	}
	n = min(n, size-c.Off)
	whole := n // in whole sectors
	if c.Off+n == size && (!c.dedup || c.ToOff+n == toSize) {
		whole = roundUp(size, sector) - c.Off
	} else {
		n = n / sector * sector
		whole = n
	}
	shorter := c.Length != 0 && n != c.Length // which a caller of dedupe expects
	switch {
	case src.t == dst.t && c.Ino == c.To && c.ToOff+whole > c.Off && c.ToOff < c.Off+whole, shorter && !c.dedup:
		return bad
	case n%sector != 0 && c.ToOff+n < toSize && !c.dedup:
		return bad // the last sector would end up in the middle of a file
	case n%sector != 0 && c.ToOff+n < toSize:
		n = n / sector * sector
		whole = n
	}
	c.olen, c.end, c.pos = n, c.Off+whole, c.Off
	return nil
}

// prepare brings the end of the file that is changed to where the range starts.
func (c *clone) prepare(ctx context.Context, src, dst *fileEdit) error {
	if c.fresh {
		dst.item.Flags = dst.item.Flags&^sumFlags | src.item.Flags&sumFlags
	}
	if c.ToOff > dst.item.Size {
		return dst.extend(ctx, c.ToOff)
	}
	return nil
}

// some shares as many extents as one operation may, and says whether those
// were the last.
func (c *clone) some(ctx context.Context, src, dst *fileEdit) (done bool, err error) {
	for changes := 0; changes < cloneBatch && c.pos < c.end; {
		ext, err := src.extentAt(ctx, c.pos, c.end)
		if err != nil {
			return false, err
		}
		to := c.ToOff + c.pos - c.Off
		stop, n, err := dst.boundary(ctx, to, to+min(ext.End, c.end)-c.pos, cloneBatch-changes)
		if err != nil {
			return false, err
		}
		changes += n + 1
		if err := c.one(ctx, src, dst, &ext, to, stop); err != nil {
			return false, err
		}
		c.pos += stop - to
		dst.item.Size = max(dst.item.Size, min(stop, c.ToOff+c.olen))
	}
	return c.pos >= c.end, nil
}

// one puts what a source's extent has at pos into the range from to stop.
func (c *clone) one(ctx context.Context, src, dst *fileEdit, ext *Extent, to, stop uint64) error {
	if !ext.Hole && ext.Item.Type == disk.FileExtentInline {
		// Not shared: an item belongs to its file.
		buf := make([]byte, min(stop-to, c.olen-(c.pos-c.Off)))
		if err := src.read(ctx, buf, c.pos); err != nil {
			return err
		}
		return dst.write(ctx, buf, to)
	}
	inline, err := dst.isInline(ctx)
	if err != nil {
		return err
	}
	if inline && to > 0 {
		if err := dst.uninline(ctx); err != nil {
			return err
		}
	}
	if err := dst.drop(ctx, to, stop); err != nil {
		return err
	}
	if ext.Hole {
		if dst.noHoles() {
			return nil
		}
		return dst.insertHoles(ctx, to, stop)
	}
	fe := ext.Item
	fe.Generation = dst.w.tx.Trans()
	fe.Offset += c.pos - ext.Start
	fe.NumBytes = stop - to
	// Where the file would have the extent's first byte: may be before 0, which
	// the format takes modulo 2^64.
	dst.w.tx.AddDataRef(dst.t, fe.DiskBytenr, fe.DiskNumBytes, dst.ino, to-fe.Offset, false)
	dst.item.NBytes += fe.NumBytes
	return dst.t.Insert(ctx, dst.extentKey(to), fe.Append(nil))
}

// extentAt is the extent, or the hole, that holds an offset. A hole ends at end
// at the latest.
func (f *fileEdit) extentAt(ctx context.Context, off, end uint64) (Extent, error) {
	_, ext, ok, err := f.last(ctx, off+1)
	if err != nil || ok && ext.End > off {
		return ext, err
	}
	it, ok, err := f.t.Ceil(ctx, f.extentKey(off))
	if err != nil {
		return ext, err
	}
	if ok && it.Key.ObjectID == f.ino && it.Key.Type == disk.KeyExtentData {
		end = min(end, it.Key.Offset)
	}
	return Extent{Start: off, End: end, Hole: true}, nil
}

// boundary is where to stop between two offsets so that no more than n extents
// start before, and how many do.
func (f *fileEdit) boundary(ctx context.Context, from, to uint64, n int) (stop uint64, count int, err error) {
	for at := from; at < to; count++ {
		it, ok, err := f.t.Ceil(ctx, f.extentKey(at))
		if err != nil {
			return 0, 0, err
		}
		if !ok || it.Key.ObjectID != f.ino || it.Key.Type != disk.KeyExtentData || it.Key.Offset >= to {
			break
		}
		if count >= n && it.Key.Offset > from {
			return it.Key.Offset, count, nil
		}
		at = it.Key.Offset + 1
	}
	return to, count, nil
}

// maxDedupe bounds one call of Dedupe, in bytes, as Linux does.
const maxDedupe = 1 << 30

// dedupeBuffer is how much Dedupe compares at a time.
const dedupeBuffer = 1 << 20

// Dedupe makes two ranges that hold the same bytes share their extents, as
// ioctl FIDEDUPERANGE does; same says whether they did. n may be less than was
// asked for: ranges that do not end both files end at a sector. The files keep
// their times.
func (w *Writer) Dedupe(ctx context.Context, a CloneArgs) (n uint64, same bool, err error) {
	unlock, err := w.settleBoth(ctx, fileKey{a.Sub, a.Ino}, fileKey{a.ToSub, a.To})
	if err != nil {
		return 0, false, err
	}
	defer unlock()
	a.Length = min(a.Length, maxDedupe)
	c := clone{CloneArgs: a, dedup: true}
	// Both files are held, so what was the same stays so, but for what is
	// written meanwhile and waits: that lies over the extents.
	if same, err = c.compare(ctx, w); err != nil || !same || c.olen == 0 {
		return 0, same, err
	}
	n = c.olen
	return n, true, c.run(ctx, w)
}

// compare says whether both ranges hold the same bytes.
func (c *clone) compare(ctx context.Context, w *Writer) (same bool, err error) {
	same = true
	bufs := [2][]byte{make([]byte, dedupeBuffer), make([]byte, dedupeBuffer)}
	for at := uint64(0); same; at += dedupeBuffer {
		err := w.tx.Look(ctx, func(ctx context.Context) error {
			e, err := w.editable(ctx, c.ToSub)
			if err != nil {
				return err
			}
			dst := &fileEdit{edit: e}
			src, err := c.open(ctx, dst)
			if err == nil && at == 0 {
				err = c.check(src, dst)
			}
			if err != nil || at >= c.olen {
				return err
			}
			n := min(dedupeBuffer, c.olen-at)
			if err := src.read(ctx, bufs[0][:n], c.Off+at); err != nil {
				return err
			}
			if err := dst.read(ctx, bufs[1][:n], c.ToOff+at); err != nil {
				return err
			}
			same = bytes.Equal(bufs[0][:n], bufs[1][:n])
			return nil
		})
		if err != nil {
			return false, err
		}
		if at+dedupeBuffer >= c.olen {
			break
		}
	}
	return same, nil
}
