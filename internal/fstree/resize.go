package fstree

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"syscall"

	"gobtrfs/disk"
	"gobtrfs/internal/space"
)

// truncateBatch is how many extents one operation of a truncation removes, or of
// other long work, with nodes of at most batchNode bytes, and truncateFew when there
// is no space: the global reserve has room for so much.
const (
	truncateBatch = 64
	truncateFew   = itemsRemove - itemsWrite
	batchNode     = 16 << 10
)

// batch is truncateBatch for the filesystem's nodes: what is promised is no more
// with large ones, or little would fit next to it on a small filesystem.
func (w *Writer) batch() int {
	return truncateBatch * batchNode / max(batchNode, int(w.base.super.NodeSize))
}

// Truncate sets the size of a regular file. A long file that becomes shorter
// does so in several operations, from its end, and also where there is no space.
func (w *Writer) Truncate(ctx context.Context, sub, ino disk.ObjectID, size uint64) error {
	if size > math.MaxInt64 {
		return fmt.Errorf("size %d: %w", size, syscall.EFBIG)
	}
	f, err := w.lock(ctx, fileKey{sub, ino})
	if err != nil {
		return err
	}
	defer w.unlock(f)
	if err := w.trim(ctx, f, size); err != nil {
		return err
	}
	var full error // why there is no space
	for done := false; !done; {
		batch := w.batch()
		step := func(ctx context.Context, f *fileEdit) (err error) {
			done, err = f.truncate(ctx, ino, size, batch)
			return err
		}
		if full == nil {
			err = w.doData(ctx, sub, itemsWrite+batch, 2*w.tx.SectorSize(), step)
		} else {
			batch = truncateFew
			if err = w.doPaid(ctx, sub, itemsWrite+batch, space.ClassSteal, new(uint64), step); errors.Is(err, errNoPromise) {
				err = full
			}
		}
		if full == nil && errors.Is(err, syscall.ENOSPC) {
			full, err = err, nil
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// errNoPromise is why a truncation or a hole that was promised no room for contents,
// or for more items, changes nothing: it would need some.
var errNoPromise = fmt.Errorf("no contents were promised: %w", syscall.ENOSPC)

// truncate is an operation of Truncate. It says whether the file has the size.
func (f *fileEdit) truncate(ctx context.Context, ino disk.ObjectID, size uint64, batch int) (done bool, err error) {
	item, err := f.open(ctx, ino)
	switch {
	case err != nil:
	case item.Flags&disk.InodeAppend != 0:
		err = fmt.Errorf("inode %d may only be appended to: %w", uint64(ino), syscall.EPERM)
	case size > item.Size && *f.avail == 0:
		err = errNoPromise
	case size >= item.Size:
		done, err = true, f.extend(ctx, size)
	default:
		done, err = f.shrink(ctx, size, batch)
	}
	if err != nil {
		return false, err
	}
	f.item.Mtime, f.item.Ctime = f.now, f.now
	return done, f.putInode(ctx, ino, &f.item)
}

// trim brings what waits of a file in front of an offset into the tree, and
// forgets the rest, if the file may be cut there.
//
// REQUIRES: busy of f.
func (w *Writer) trim(ctx context.Context, f *pendingFile, size uint64) error {
	if err := w.learn(ctx, f); err != nil {
		return err
	}
	f.mu.Lock()
	if f.flags&disk.InodeAppend != 0 {
		f.mu.Unlock()
		return fmt.Errorf("inode %d may only be appended to: %w", uint64(f.key.ino), syscall.EPERM)
	}
	bytes, runs := f.segs.bytes(), len(f.segs)
	f.segs.cut(size, math.MaxUint64)
	var left promise
	var items space.Bytes
	if len(f.segs) == 0 {
		left.data, items = f.data, f.items
		f.data, f.items = 0, 0
	}
	w.late.account(f, int(f.segs.bytes())-int(bytes), len(f.segs)-runs)
	w.late.idle(f)
	f.mu.Unlock()
	w.tx.ReleaseData(left.data)
	w.tx.ReleaseItems(items)
	return w.flushHeld(ctx, f)
}

// extend makes the file longer; what is new reads as zeros.
func (f *fileEdit) extend(ctx context.Context, size uint64) error {
	inline, err := f.isInline(ctx)
	if err != nil || size == f.item.Size {
		return err
	}
	sector := f.w.tx.SectorSize()
	switch {
	case inline && size <= maxInline && size < sector:
		return f.write(ctx, make([]byte, size-f.item.Size), f.item.Size)
	case inline:
		if err := f.uninline(ctx); err != nil {
			return err
		}
	}
	if err := f.clearTail(ctx); err != nil {
		return err
	}
	if err := f.fillGap(ctx, roundUp(size, sector)); err != nil {
		return err
	}
	f.item.Size = size
	return nil
}

// clearTail zeroes what follows the end of the file in its last sector, before
// the file becomes longer. Linux leaves there what a truncation cut off, and
// zeroes it at this point, too.
func (f *fileEdit) clearTail(ctx context.Context) error {
	sector := f.w.tx.SectorSize()
	size := f.item.Size
	if size%sector == 0 {
		return nil
	}
	buf := make([]byte, sector-size%sector)
	f.item.Size = roundUp(size, sector)
	err := f.read(ctx, buf, size)
	f.item.Size = size
	if err != nil || !slices.ContainsFunc(buf, func(b byte) bool { return b != 0 }) {
		return err
	}
	return f.zeroTail(ctx, size)
}

// shrink makes the file shorter by batch extents at most, and says whether it
// has the size. What then follows the end in the last sector is zeros, if there
// is a promise to write them: who makes the file longer looks again.
func (f *fileEdit) shrink(ctx context.Context, size uint64, batch int) (done bool, err error) {
	sector := f.w.tx.SectorSize()
	inline, err := f.isInline(ctx)
	if err != nil {
		return false, err
	}
	// An inline extent may be all there is of a longer file: the rest is a hole.
	var whole []byte
	if inline {
		if size <= maxInline && size < sector {
			whole = make([]byte, size)
			if err := f.read(ctx, whole, 0); err != nil {
				return false, err
			}
			err = f.drop(ctx, 0, sector)
		} else if *f.avail < sector {
			err = errNoPromise
		} else {
			err = f.uninline(ctx)
		}
		if err != nil {
			return false, err
		}
	}
	keep := roundUp(size, sector)
	for n := 0; ; n++ {
		k, ext, ok, err := f.last(ctx, math.MaxInt64)
		if err != nil {
			return false, err
		}
		if !ok || ext.End <= keep {
			break
		}
		if n == batch {
			f.item.Size = min(f.item.Size, ext.End)
			if len(whole) > 0 { // the rest goes by without it
				f.item.NBytes += uint64(len(whole))
				return false, f.insertInline(ctx, f.ino, whole, uint64(len(whole)), disk.CompressNone)
			}
			return false, nil
		}
		if err := f.cut(ctx, k, &ext, keep, max(ext.End, keep)); err != nil {
			return false, err
		}
	}
	f.item.Size = size
	if len(whole) > 0 {
		f.item.NBytes += uint64(len(whole))
		return true, f.insertInline(ctx, f.ino, whole, uint64(len(whole)), disk.CompressNone)
	}
	if *f.avail < sector {
		return true, nil
	}
	return true, f.clearTail(ctx)
}

// zeroTail writes the sector that holds offset size anew, with zeros from
// there on, if there is data in it.
func (f *fileEdit) zeroTail(ctx context.Context, size uint64) error {
	sector := f.w.tx.SectorSize()
	from := size / sector * sector
	_, ext, ok, err := f.last(ctx, from+1)
	if err != nil || !ok || ext.End <= from || !ext.IsData() {
		return err
	}
	buf := make([]byte, sector)
	if err := f.read(ctx, buf[:size-from], from); err != nil {
		return err
	}
	return f.overwrite(ctx, [][]byte{buf}, from)
}

// PunchHole makes a range of a file read as zeros and gives its space back, in
// several operations if it has many extents. The size stays. Where there is no space
// it fails with ENOSPC if sectors at the range's edges have to be written anew.
func (w *Writer) PunchHole(ctx context.Context, sub, ino disk.ObjectID, off, n uint64) error {
	if off > math.MaxInt64 || n > math.MaxInt64-off || n == 0 {
		return fmt.Errorf("hole of %d bytes at %d: %w", n, off, syscall.EINVAL)
	}
	held, err := w.settle(ctx, fileKey{sub, ino})
	if err != nil {
		return err
	}
	defer w.unlock(held)
	return w.punch(ctx, sub, ino, off, n, punchReserve)
}

// punchRoom is what an operation that punches has room for.
type punchRoom int

const (
	punchAll     punchRoom = iota
	punchItems             // no contents: whole sectors only
	punchReserve           // nor items, but for the global reserve: there may not be more of them
)

// batch is how many extents an operation removes. With little room it is small, or
// the room would not do for its worst case.
func (r punchRoom) batch(w *Writer) int {
	if r == punchAll {
		return w.batch()
	}
	return truncateFew
}

// punch is PunchHole of a file that is settled. When there is no space it goes on
// with less room, down to least.
func (w *Writer) punch(ctx context.Context, sub, ino disk.ObjectID, off, n uint64, least punchRoom) error {
	stop := off + n // what lies behind is done
	room := punchAll
	var full error // why there is no space
	for done := false; !done; {
		step := func(ctx context.Context, f *fileEdit) error {
			if _, err := f.open(ctx, ino); err != nil {
				return err
			}
			var err error
			stop, done, err = f.punch(ctx, off, off+n, stop, room)
			return err
		}
		items := itemsWrite + room.batch(w)
		var err error
		switch room {
		case punchAll:
			err = w.doData(ctx, sub, items, 3*w.tx.SectorSize(), step)
		case punchItems:
			err = w.doPaid(ctx, sub, items, space.ClassNormal, new(uint64), step)
		case punchReserve:
			err = w.doPaid(ctx, sub, items, space.ClassSteal, new(uint64), step)
		}
		switch {
		case errors.Is(err, errNoPromise):
			return full
		case errors.Is(err, syscall.ENOSPC) && room < least:
			room, full = room+1, err
		case err != nil:
			return err
		}
	}
	return nil
}

// punch takes away what the file has between off and end, in front of stop, as
// far as a batch reaches. It says where it stopped, and whether it is
// done.
func (f *fileEdit) punch(ctx context.Context, off, end, stop uint64, room punchRoom) (next uint64, done bool, err error) {
	sector := f.w.tx.SectorSize()
	end = min(end, roundUp(f.item.Size, sector))
	inline, err := f.isInline(ctx)
	if err != nil || off >= end {
		return stop, true, err
	}
	from, to := roundUp(off, sector), end/sector*sector
	if err := f.mayPunch(ctx, from, to, room, inline || off < from || to < end); err != nil {
		return stop, false, err
	}
	if inline || from >= to {
		return 0, true, f.zero(ctx, off, min(end, f.item.Size))
	}
	to = min(to, stop)
	if next, err = f.dropSome(ctx, from, to, room.batch(f.w)); err != nil {
		return stop, false, err
	}
	if !f.noHoles() { // also before it is all done: a commit may come, or no more space
		if err := f.insertHoles(ctx, next, to); err != nil {
			return stop, false, err
		}
	}
	if next > from {
		f.item.Mtime, f.item.Ctime = f.now, f.now
		return next, false, f.putInode(ctx, f.ino, &f.item)
	}
	if off < from {
		if err := f.zero(ctx, off, from); err != nil {
			return stop, false, err
		}
	}
	return 0, true, f.zero(ctx, end/sector*sector, min(end, f.item.Size))
}

// mayPunch refuses, before anything has changed, a hole that there is no room for.
// What takes items from the global reserve must not make more of them: the removal of
// files could then find nothing there.
func (f *fileEdit) mayPunch(ctx context.Context, from, to uint64, room punchRoom, edges bool) error {
	if room != punchAll && edges {
		return errNoPromise
	}
	if room != punchReserve {
		return nil
	}
	_, head, cut, err := f.last(ctx, from)
	if err != nil {
		return err
	}
	grows := cut && head.End > to
	if !f.noHoles() { // the hole needs an item, too
		_, tail, ok, err := f.last(ctx, to)
		if err != nil {
			return err
		}
		grows = cut && head.End > from || ok && tail.End > to
	}
	if grows {
		return errNoPromise
	}
	return nil
}

// zero writes zeros between two offsets that are a few sectors apart, where
// there is data, and writes the inode.
func (f *fileEdit) zero(ctx context.Context, from, to uint64) error {
	sector := f.w.tx.SectorSize()
	for from < to {
		end := min(to, (from/sector+1)*sector)
		_, ext, ok, err := f.last(ctx, end)
		if err != nil {
			return err
		}
		if ok && ext.End > from && ext.IsData() {
			if err := f.write(ctx, make([]byte, end-from), from); err != nil {
				return err
			}
		}
		from = end
	}
	f.item.Mtime, f.item.Ctime = f.now, f.now
	return f.putInode(ctx, f.ino, &f.item)
}

// maxPrealloc is how many bytes one operation preallocates.
const maxPrealloc = 256 << 20

// Allocate gives space to the holes of a range, which goes on to read as
// zeros. Unless keepSize is set the file reaches to the range's end at least.
func (w *Writer) Allocate(ctx context.Context, sub, ino disk.ObjectID, off, n uint64, keepSize bool) error {
	return w.allocate(ctx, sub, ino, off, n, keepSize, false)
}

// ZeroRange is Allocate that makes the whole range read as zeros.
func (w *Writer) ZeroRange(ctx context.Context, sub, ino disk.ObjectID, off, n uint64, keepSize bool) error {
	return w.allocate(ctx, sub, ino, off, n, keepSize, true)
}

func (w *Writer) allocate(ctx context.Context, sub, ino disk.ObjectID, off, n uint64, keepSize, zero bool) error {
	if off > math.MaxInt64 || n > math.MaxInt64-off || n == 0 {
		return fmt.Errorf("allocation of %d bytes at %d: %w", n, off, syscall.EINVAL)
	}
	sector := w.tx.SectorSize()
	end := off + n
	// All is promised before anything is given up or made.
	avail := roundUp(end, sector) - off/sector*sector + 2*sector
	if err := w.charge(ctx, sub, avail, itemsWrite, w.Commit); err != nil {
		return err
	}
	if err := w.tx.ReserveData(ctx, avail, space.ClassNormal); err != nil {
		return err
	}
	defer func() { w.tx.ReleaseData(avail) }()
	held, err := w.settle(ctx, fileKey{sub, ino})
	if err != nil {
		return err
	}
	defer w.unlock(held)
	if zero {
		if err := w.punch(ctx, sub, ino, off, n, punchAll); err != nil { // what there is no room for is not given up
			return err
		}
	}
	for off < end {
		if err := context.Cause(ctx); err != nil {
			return err
		}
		stop := min(end, off/sector*sector+maxPrealloc)
		err := w.doPaid(ctx, sub, itemsWrite+w.batch(), space.ClassNormal, &avail, func(ctx context.Context, f *fileEdit) error {
			if _, err := f.open(ctx, ino); err != nil {
				return err
			}
			return f.allocate(ctx, off, stop, keepSize)
		})
		if err != nil {
			return err
		}
		off = stop
	}
	return nil
}

// allocate preallocates a range and writes the inode.
func (f *fileEdit) allocate(ctx context.Context, off, end uint64, keepSize bool) error {
	sector := f.w.tx.SectorSize()
	if inline, err := f.isInline(ctx); err != nil {
		return err
	} else if inline {
		if err := f.uninline(ctx); err != nil {
			return err
		}
	}
	if err := f.preallocate(ctx, off/sector*sector, roundUp(end, sector)); err != nil {
		return err
	}
	if !keepSize && end > f.item.Size {
		if err := f.clearTail(ctx); err != nil {
			return err
		}
		if err := f.fillGap(ctx, roundUp(end, sector)); err != nil {
			return err
		}
		f.item.Size = end
	}
	f.item.Flags |= disk.InodePrealloc
	f.item.Ctime = f.now
	return f.putInode(ctx, f.ino, &f.item)
}

// preallocate fills the holes between two multiples of the sector size.
func (f *fileEdit) preallocate(ctx context.Context, from, to uint64) error {
	for at := to; at > from; {
		_, ext, ok, err := f.last(ctx, at)
		if err != nil {
			return err
		}
		hole := from // where the hole before at starts
		if ok && !ext.Hole {
			if hole = max(hole, ext.End); hole >= at {
				at = max(from, ext.Start)
				continue
			}
		} else if ok {
			hole = max(hole, ext.Start)
		}
		if err := f.drop(ctx, hole, at); err != nil {
			return err
		}
		for pos := hole; pos < at; {
			addr, n, err := f.alloc(ctx, at-pos)
			if err != nil {
				return err
			}
			if err := f.insertExtent(ctx, addr, n, pos, disk.FileExtentPrealloc); err != nil {
				return err
			}
			pos += n
		}
		at = hole
	}
	return nil
}
