package fstree

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"syscall"

	"gobtrfs/disk"
	"gobtrfs/internal/csum"
	"gobtrfs/internal/space"
)

// maxInline is the longest file that is kept in its item (kernel: the default
// of the mount option max_inline).
const maxInline = 2048

const (
	// directBytes is how long a write must be to go to the device from where
	// it is, without waiting in memory: then it makes long extents by itself.
	directBytes = 4 << 20
	// maxWrite is how many bytes one such operation writes.
	maxWrite = 64 << 20
)

// WriteAt writes to a regular file as io.WriterAt does. What it wrote may wait
// in memory until Flush, FlushFile or Commit; there is room for it on the
// devices then. Of a long write the first n bytes are done when it fails.
func (w *Writer) WriteAt(ctx context.Context, sub, ino disk.ObjectID, p []byte, off uint64) (n int, err error) {
	if off > math.MaxInt64-uint64(len(p)) {
		return 0, fmt.Errorf("write of %d bytes at %d: %w", len(p), off, syscall.EFBIG)
	}
	k := fileKey{sub, ino}
	for n < len(p) {
		if err := context.Cause(ctx); err != nil {
			return n, err
		}
		// Pieces end where extents and segments are best cut.
		at, rest := off+uint64(n), p[n:]
		if len(rest) >= directBytes {
			rest = rest[:min(len(rest), int(maxWrite-at%maxWrite))]
			err = w.writeDirect(ctx, k, rest, at)
		} else {
			rest = rest[:min(len(rest), int(segmentBytes-at%segmentBytes))]
			err = w.writePending(ctx, k, rest, at)
		}
		if err != nil {
			return n, err
		}
		n += len(rest)
	}
	return n, nil
}

// writeDirect writes p to the device and enters it in the trees.
func (w *Writer) writeDirect(ctx context.Context, k fileKey, p []byte, off uint64) error {
	sector := w.tx.SectorSize()
	n := uint64(len(p))
	need := promise{data: roundUp(off+n, sector) - off/sector*sector + 2*sector, items: itemsFile + itemsRun + int(n/itemsBytes)}
	var have promise
	l := flight{direct: true, out: segments{{off, p}}}
	payErr := w.pay(ctx, k.sub, need, &have, &l.items)
	l.data = have.data
	defer func() {
		w.tx.ReleaseData(l.data)
		w.tx.ReleaseItems(l.items)
	}()
	if payErr != nil && !errors.Is(payErr, syscall.ENOSPC) {
		return payErr
	}
	f, err := w.settle(ctx, k)
	if err != nil {
		return err
	}
	defer w.unlock(f)
	if err := w.learn(ctx, f); err != nil {
		return err
	}
	f.mu.Lock()
	err = f.mayWriteLocked(off)
	if err == nil && payErr == nil {
		f.wrote, f.stamped = w.tx.Now(), true
	}
	inPlace := f.flags&(disk.InodeNoDataCow|disk.InodePrealloc) != 0
	f.mu.Unlock()
	switch {
	case err != nil:
		return err
	case payErr != nil && inPlace:
		return w.writeHeldInPlace(ctx, k, p, off)
	case payErr != nil:
		return payErr
	}
	l.f = f
	if err := w.flush(ctx, []*flight{&l}); err != nil {
		return err
	}
	if l.gone {
		return fmt.Errorf("inode %d of subvolume %d: %w", uint64(k.ino), uint64(k.sub), syscall.ENOENT)
	}
	return nil
}

func roundUp(n, unit uint64) uint64 { return (n + unit - 1) / unit * unit }

// fileEdit changes the contents of one file.
type fileEdit struct {
	*edit
	ino   disk.ObjectID
	item  disk.InodeItem
	avail *uint64 // promised for contents and not used, in bytes
}

// doData is do with a promise of n bytes for contents.
func (w *Writer) doData(ctx context.Context, sub disk.ObjectID, items int, n uint64, op func(ctx context.Context, f *fileEdit) error) error {
	if err := w.tx.ReserveData(ctx, n, space.ClassNormal); err != nil {
		return err
	}
	defer func() { w.tx.ReleaseData(n) }()
	return w.doPaid(ctx, sub, items, space.ClassNormal, &n, op)
}

// doPaid is doData with a promise that the caller has and gives back.
func (w *Writer) doPaid(ctx context.Context, sub disk.ObjectID, items int, c space.Class, avail *uint64, op func(ctx context.Context, f *fileEdit) error) error {
	return w.tx.Do(ctx, items, c, func(ctx context.Context) error {
		e, err := w.edit(ctx, sub)
		if err != nil {
			return err
		}
		return op(ctx, &fileEdit{edit: e, avail: avail})
	})
}

// open reads the inode of a regular file that is to be changed. It finds what
// is against that in the order in which Linux does.
func (f *fileEdit) open(ctx context.Context, ino disk.ObjectID) (*disk.InodeItem, error) {
	item, err := f.inode(ctx, ino)
	if err != nil {
		return nil, err
	}
	switch {
	case item.Mode&modeType == modeDir:
		return nil, fmt.Errorf("inode %d: %w", uint64(ino), syscall.EISDIR)
	case item.Mode&modeType != modeReg:
		return nil, fmt.Errorf("inode %d is no regular file: %w", uint64(ino), syscall.EINVAL)
	case item.Flags&disk.InodeImmutable != 0:
		return nil, fmt.Errorf("inode %d is immutable: %w", uint64(ino), syscall.EPERM)
	case item.Flags&disk.InodeROVerity != 0:
		return nil, fmt.Errorf("inode %d is sealed by fs-verity: %w", uint64(ino), syscall.EPERM)
	case f.t.Item().Flags&disk.RootSubvolReadOnly != 0:
		return nil, fmt.Errorf("subvolume %d: %w", uint64(f.t.ID()), syscall.EROFS)
	}
	f.ino, f.item = ino, item
	return &f.item, nil
}

// read fills p from the file as it is now; behind its end are zeros.
func (f *fileEdit) read(ctx context.Context, p []byte, off uint64) error {
	clear(p)
	if off >= f.item.Size || len(p) == 0 {
		return nil
	}
	v, err := f.view(ctx)
	if err != nil {
		return err
	}
	_, err = v.Reader(f.ino, &f.item).ReadAt(ctx, p, off)
	if err == io.EOF {
		err = nil
	}
	return err
}

// write writes p at off and makes the file longer if need be. The inode is
// changed in memory only.
func (f *fileEdit) write(ctx context.Context, p []byte, off uint64) error {
	sector := f.w.tx.SectorSize()
	end := off + uint64(len(p))
	size := max(f.item.Size, end)
	inline, err := f.isInline(ctx)
	if err != nil {
		return err
	}
	// A file is inline only as a whole.
	if size <= maxInline && size < sector && (inline || f.item.NBytes == 0) {
		whole := make([]byte, size)
		if err := f.read(ctx, whole[:min(size, f.item.Size)], 0); err != nil {
			return err
		}
		copy(whole[off:], p)
		if err := f.drop(ctx, 0, sector); err != nil {
			return err
		}
		f.item.Size = size
		f.item.NBytes += size
		return f.insertInline(ctx, f.ino, whole, size, disk.CompressNone)
	}
	from, to := off/sector*sector, roundUp(end, sector)
	if inline && from > 0 {
		if err := f.uninline(ctx); err != nil {
			return err
		}
	}
	buf := p
	if from != off || to != end {
		buf = make([]byte, to-from)
		// Only the sectors at the edges keep anything.
		if err := f.read(ctx, buf[:off-from], from); err != nil {
			return err
		}
		if err := f.read(ctx, buf[end-from:], end); err != nil {
			return err
		}
		copy(buf[off-from:], p)
	}
	if from > f.item.Size {
		if err := f.clearTail(ctx); err != nil {
			return err
		}
	}
	if err := f.fillGap(ctx, from); err != nil {
		return err
	}
	f.item.Size = size
	return f.overwrite(ctx, [][]byte{buf}, from)
}

// isInline says whether the contents are in an item.
func (f *fileEdit) isInline(ctx context.Context) (bool, error) {
	k := disk.Key{ObjectID: f.ino, Type: disk.KeyExtentData}
	data, ok, err := f.t.Get(ctx, k)
	if err != nil || !ok {
		return false, err
	}
	fe, err := disk.ParseFileExtent(data)
	if err != nil {
		return false, f.corrupt(k, err)
	}
	return fe.Type == disk.FileExtentInline, nil
}

// uninline moves contents from the item to an extent of one sector.
func (f *fileEdit) uninline(ctx context.Context) error {
	sector := f.w.tx.SectorSize()
	buf := make([]byte, sector)
	if err := f.read(ctx, buf, 0); err != nil {
		return err
	}
	if err := f.drop(ctx, 0, sector); err != nil {
		return err
	}
	return f.writeExtents(ctx, [][]byte{buf}, 0)
}

// insertInline makes an inline extent of size bytes, which data is the
// possibly compressed form of.
func (e *edit) insertInline(ctx context.Context, ino disk.ObjectID, data []byte, size uint64, c disk.Compression) error {
	fe := disk.FileExtent{
		Generation: e.w.tx.Trans(), RAMBytes: size, Type: disk.FileExtentInline, Compression: c, Inline: data,
	}
	return e.t.Insert(ctx, disk.Key{ObjectID: ino, Type: disk.KeyExtentData}, fe.Append(nil))
}

// noHoles says whether holes need no items.
func (e *edit) noHoles() bool { return e.w.base.super.IncompatFlags&disk.IncompatNoHoles != 0 }

// fillGap makes the hole between the file's end and from explicit, on
// filesystems that want that.
func (f *fileEdit) fillGap(ctx context.Context, from uint64) error {
	if end := roundUp(f.item.Size, f.w.tx.SectorSize()); !f.noHoles() && end < from {
		// Preallocation behind the end of the file stays.
		return f.insertHoles(ctx, end, from)
	}
	return nil
}

// insertHoles fills what no extent covers between from and to with holes.
func (f *fileEdit) insertHoles(ctx context.Context, from, to uint64) error {
	for at := from; at < to; {
		stop := to
		it, ok, err := f.t.Floor(ctx, f.extentKey(at))
		if err != nil {
			return err
		}
		if ok && it.Key.ObjectID == f.ino && it.Key.Type == disk.KeyExtentData {
			ext, err := f.parse(ctx, it.Key, it.Data)
			if err != nil {
				return err
			}
			if ext.End > at {
				at = ext.End
				continue
			}
		}
		it, ok, err = f.t.Ceil(ctx, f.extentKey(at))
		if err != nil {
			return err
		}
		if ok && it.Key.ObjectID == f.ino && it.Key.Type == disk.KeyExtentData {
			stop = min(stop, it.Key.Offset)
		}
		fe := disk.FileExtent{Generation: f.w.tx.Trans(), RAMBytes: stop - at, NumBytes: stop - at, Type: disk.FileExtentRegular}
		if err := f.t.Insert(ctx, f.extentKey(at), fe.Append(nil)); err != nil {
			return err
		}
		at = stop
	}
	return nil
}

func (f *fileEdit) extentKey(off uint64) disk.Key {
	return disk.Key{ObjectID: f.ino, Type: disk.KeyExtentData, Offset: off}
}

// parse decodes a file extent item and checks it.
func (f *fileEdit) parse(ctx context.Context, k disk.Key, data []byte) (Extent, error) {
	v, err := f.view(ctx)
	if err != nil {
		return Extent{}, err
	}
	return v.parseExtent(k, data)
}

// writeExtents writes whole sectors at off, where the file has nothing.
func (f *fileEdit) writeExtents(ctx context.Context, b [][]byte, off uint64) error {
	left := uint64(0)
	for _, c := range b {
		left += uint64(len(c))
	}
	for left > 0 {
		addr, n, err := f.alloc(ctx, left)
		if err != nil {
			return err
		}
		var head [][]byte
		head, b = splitBytes(b, n)
		sums, err := f.writeAt(ctx, addr, head)
		if err != nil {
			return err
		}
		if len(sums) > 0 {
			if err := f.w.tx.AddCsums(ctx, addr, sums); err != nil {
				return err
			}
		}
		if err := f.insertExtent(ctx, addr, n, off, disk.FileExtentRegular); err != nil {
			return err
		}
		off, left = off+n, left-n
	}
	return nil
}

// writeAt writes to a place, and makes the checksums if the file has any.
func (f *fileEdit) writeAt(ctx context.Context, addr disk.Logical, b [][]byte) (sums []byte, err error) {
	for _, c := range b {
		if err := f.w.tx.WriteData(ctx, addr, c); err != nil {
			return nil, err
		}
		if f.item.Flags&disk.InodeNoDataSum == 0 {
			sums = csum.AppendBlocks(sums, f.w.base.super.CsumType, c, int(f.w.tx.SectorSize()))
		}
		addr += disk.Logical(len(c))
	}
	return sums, nil
}

// alloc turns a part of the promise into a place.
func (f *fileEdit) alloc(ctx context.Context, want uint64) (disk.Logical, uint64, error) {
	if want > *f.avail {
		return 0, 0, fmt.Errorf("%d bytes of contents, %d were promised: %w", want, *f.avail, syscall.ENOSPC)
	}
	addr, n, err := f.w.tx.AllocData(ctx, want, f.w.tx.SectorSize())
	if err == nil {
		*f.avail -= n
	}
	return addr, n, err
}

// insertExtent adds a whole extent that was just made to the file.
func (f *fileEdit) insertExtent(ctx context.Context, addr disk.Logical, n, off uint64, typ disk.FileExtentType) error {
	fe := disk.FileExtent{
		Generation: f.w.tx.Trans(), RAMBytes: n, Type: typ, DiskBytenr: addr, DiskNumBytes: n, NumBytes: n,
	}
	f.w.tx.AddDataRef(f.t, addr, n, f.ino, off, true)
	f.item.NBytes += n
	return f.t.Insert(ctx, f.extentKey(off), fe.Append(nil))
}

// drop takes away what the file has between two offsets that are multiples of
// the sector size. An extent that reaches into the range is cut; one that
// reaches beyond both ends is then used twice.
func (f *fileEdit) drop(ctx context.Context, from, to uint64) error {
	_, err := f.dropSome(ctx, from, to, math.MaxInt)
	return err
}

// dropSome is drop that begins with the last extent and stops after most of
// them. It says in front of what there is more to do: from or less if nothing.
func (f *fileEdit) dropSome(ctx context.Context, from, to uint64, most int) (next uint64, err error) {
	for range most {
		it, ext, ok, err := f.last(ctx, to)
		if err != nil || !ok || ext.End <= from {
			return from, err
		}
		if err := f.cut(ctx, it, &ext, from, to); err != nil {
			return to, err
		}
		if to = ext.Start; to <= from {
			return from, nil
		}
	}
	return to, nil
}

// last is the last extent that starts before an offset.
func (f *fileEdit) last(ctx context.Context, before uint64) (k disk.Key, ext Extent, ok bool, err error) {
	if before == 0 {
		return k, ext, false, nil
	}
	it, ok, err := f.t.Floor(ctx, f.extentKey(before-1))
	if err != nil || !ok || it.Key.ObjectID != f.ino || it.Key.Type != disk.KeyExtentData {
		return k, ext, false, err
	}
	ext, err = f.parse(ctx, it.Key, slices.Clone(it.Data))
	return it.Key, ext, err == nil, err
}

// cut takes the part between from and to out of one extent.
func (f *fileEdit) cut(ctx context.Context, k disk.Key, ext *Extent, from, to uint64) error {
	fe := ext.Item
	real := fe.Type != disk.FileExtentInline && !fe.IsHole()
	if ext.Start >= from && ext.End <= to {
		n, err := f.dropExtent(ctx, f.ino, k, fe.Append(nil))
		f.item.NBytes -= min(f.item.NBytes, n)
		return err
	}
	if fe.Type == disk.FileExtentInline {
		return fmt.Errorf("inode %d: inline extent is cut at %d to %d: %w", uint64(f.ino), from, to, syscall.EIO)
	}
	if real {
		f.item.NBytes -= min(f.item.NBytes, min(to, ext.End)-max(from, ext.Start))
	}
	fe.Generation = f.w.tx.Trans()
	if !real {
		fe.Offset = 0 // a hole is nobody's part
	}
	tail := fe
	if ext.End > to {
		// Reference and checksums go by the extent, so only the item moves.
		tail.NumBytes = ext.End - to
		if real {
			tail.Offset += to - ext.Start
		} else {
			tail.RAMBytes = tail.NumBytes
		}
	}
	switch {
	case ext.Start >= from:
		if err := f.t.Delete(ctx, k); err != nil {
			return err
		}
		return f.t.Insert(ctx, f.extentKey(to), tail.Append(nil))
	case ext.End > to:
		if real {
			f.w.tx.AddDataRef(f.t, fe.DiskBytenr, fe.DiskNumBytes, f.ino, ext.Start-fe.Offset, false)
		}
		if err := f.t.Insert(ctx, f.extentKey(to), tail.Append(nil)); err != nil {
			return err
		}
	}
	fe.NumBytes = from - ext.Start
	if !real {
		fe.RAMBytes = fe.NumBytes
	}
	return f.t.Update(ctx, k, fe.Append(nil))
}
