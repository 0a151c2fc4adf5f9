package fstree

import (
	"context"

	"gobtrfs/disk"
)

// replayExtent puts a logged file extent in place of what the file had there.
func (r *replay) replayExtent(ctx context.Context, k disk.Key, data []byte) error {
	if _, ok, err := r.inode(ctx, k.ObjectID); err != nil || !ok {
		return err
	}
	e, err := r.sub.parseExtent(k, data)
	if err != nil {
		return err
	}
	if have, ok, err := r.sub.items.get(ctx, k); err != nil {
		return err
	} else if ok && string(have) == string(data) {
		return nil
	}
	if err := r.dropExtents(ctx, k.ObjectID, e.Start, e.End); err != nil {
		return err
	}
	if e.Hole && r.store.super.IncompatFlags&disk.IncompatNoHoles != 0 {
		return nil
	}
	r.over.put(k, data)
	return r.addBytes(ctx, k.ObjectID, extentBytes(&e))
}

// extentBytes is what an extent adds to its inode's nbytes.
func extentBytes(e *Extent) int64 {
	switch {
	case e.Hole:
		return 0
	case e.Item.Type == disk.FileExtentInline:
		return int64(e.Item.RAMBytes)
	}
	return int64(e.Item.NumBytes)
}

func (r *replay) addBytes(ctx context.Context, ino disk.ObjectID, delta int64) error {
	item, ok, err := r.inode(ctx, ino)
	if err != nil || !ok || delta == 0 {
		return err
	}
	item.NBytes += uint64(delta)
	r.putInode(ino, &item)
	return nil
}

// dropExtents removes [start, end) from a file: extents inside go, those that
// cross a border are cut.
func (r *replay) dropExtents(ctx context.Context, ino disk.ObjectID, start, end uint64) error {
	next := disk.Key{ObjectID: ino, Type: disk.KeyExtentData, Offset: start}
	if c := r.sub.items.seekLast(ctx, next); c.err() != nil {
		return c.err()
	} else if c.valid() && c.key().ObjectID == ino && c.key().Type == disk.KeyExtentData {
		next = c.key()
	}
	for {
		c := r.sub.items.seek(ctx, next)
		if err := c.err(); err != nil || !c.valid() {
			return err
		}
		k := c.key()
		if k.ObjectID != ino || k.Type != disk.KeyExtentData || k.Offset >= end {
			return nil
		}
		e, err := r.sub.parseExtent(k, c.data())
		if err != nil {
			return err
		}
		if e.End > start {
			if err := r.cutExtent(ctx, k, e, start, end); err != nil {
				return err
			}
		}
		next = k.Next()
	}
}

// cutExtent removes [start, end) from one extent that overlaps it.
func (r *replay) cutExtent(ctx context.Context, k disk.Key, e Extent, start, end uint64) error {
	r.over.remove(k)
	delta := -extentBytes(&e)
	if e.Item.Type != disk.FileExtentInline {
		if e.Start < start {
			left := e.Item
			left.NumBytes = start - e.Start
			delta += bytesOf(&left)
			r.over.put(k, left.Append(nil))
		}
		if e.End > end {
			right := e.Item
			right.NumBytes = e.End - end
			if !e.Hole {
				right.Offset += end - e.Start
			}
			delta += bytesOf(&right)
			r.over.put(disk.Key{ObjectID: k.ObjectID, Type: k.Type, Offset: end}, right.Append(nil))
		}
	}
	return r.addBytes(ctx, k.ObjectID, delta)
}

func bytesOf(fe *disk.FileExtent) int64 {
	return extentBytes(&Extent{Item: *fe, Hole: fe.IsHole()})
}

// replaySums remembers the checksums of logged data.
func (r *replay) replaySums(k disk.Key, data []byte) error {
	if k.ObjectID != disk.ExtentCsumObjectID {
		return nil
	}
	size := r.store.super.CsumType.Size()
	for at := disk.Logical(k.Offset); len(data) >= size; at += disk.Logical(r.store.sectorSize) {
		r.store.logSums[at] = data[:size:size]
		data = data[size:]
	}
	return nil
}
