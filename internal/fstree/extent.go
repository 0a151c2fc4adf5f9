package fstree

import (
	"context"
	"fmt"

	"gobtrfs/disk"
)

// Extent is a range of a file.
type Extent struct {
	Start, End uint64 // file offsets; End is the first byte behind it
	// Item is the file extent item at Start; not for implicit holes.
	Item disk.FileExtent
	key  disk.Key
	// Hole says that the range reads as zeros and takes no space; preallocated
	// ranges are not holes but read as zeros as well.
	Hole bool
	// Pending says that the contents wait in memory and have no place yet;
	// there is no Item then.
	Pending bool
}

// IsData says whether the range has contents of its own (SEEK_DATA): it is
// neither a hole nor only preallocated.
func (e *Extent) IsData() bool { return !e.Hole && e.Item.Type != disk.FileExtentPrealloc }

// ExtentIter walks a file from an offset to its size: extents and, between
// them, holes, without gaps. It is used by one goroutine.
type ExtentIter struct {
	v    *Subvol
	ino  disk.ObjectID
	cur  cursor
	pos  uint64
	size uint64
	ent  Extent
	err  error

	first  uint64 // nothing that ends here or before is shown
	over   []span // pending ranges that are still ahead
	rest   Extent // of the tree
	hidden uint64 // what rest has in front of this was passed, or is under a pending range
}

// Extents starts with the extent or hole that holds offset off of a file of
// size bytes.
func (v *Subvol) Extents(ctx context.Context, ino disk.ObjectID, size, off uint64) ExtentIter {
	it := v.treeExtents(ctx, ino, size, off)
	if b := v.store.pending; b != nil {
		if f := b.find(fileKey{v.id, ino}); f != nil {
			it.over = f.touched(v.store.sectorSize)
			it.first = off
			for len(it.over) > 0 && it.over[0].to <= off {
				it.over = it.over[1:]
			}
		}
	}
	return it
}

// treeExtents is Extents without what is pending.
func (v *Subvol) treeExtents(ctx context.Context, ino disk.ObjectID, size, off uint64) ExtentIter {
	it := ExtentIter{v: v, ino: ino, pos: off, size: size}
	if off >= size {
		return it
	}
	k := disk.Key{ObjectID: ino, Type: disk.KeyExtentData, Offset: off}
	it.cur = v.items.seekLast(ctx, k)
	if it.cur.err() == nil && (!it.cur.valid() || it.cur.key().ObjectID != ino || it.cur.key().Type != disk.KeyExtentData) {
		it.cur = v.items.seek(ctx, k)
	}
	return it
}

// Next moves to the next range and says whether there is one. The first and
// the last range are whole extents even where off or the size cut them.
func (it *ExtentIter) Next() bool {
	if len(it.over) == 0 && it.hidden == 0 {
		return it.next()
	}
	for it.rest.End <= it.hidden {
		if !it.next() {
			return false
		}
		it.rest = it.ent
	}
	if it.rest.Start < it.hidden {
		it.rest.skipTo(it.hidden)
	}
	it.ent = it.rest
	if len(it.over) > 0 {
		switch s := it.over[0]; {
		case s.from <= it.rest.Start:
			it.over = it.over[1:]
			it.ent = Extent{Start: s.from, End: s.to, Pending: true}
		case s.from < it.rest.End:
			it.ent.End = s.from
		}
	}
	if it.hidden = it.ent.End; it.hidden <= it.first && it.first > 0 {
		return it.Next() // a pending range has cut off what the first extent is there for
	}
	return true
}

// skipTo takes away what lies before an offset inside the extent.
func (e *Extent) skipTo(at uint64) {
	if !e.Hole && e.Item.Type != disk.FileExtentInline {
		e.Item.Offset += at - e.Start
		e.Item.NumBytes -= at - e.Start
	}
	e.Start = at
}

func (it *ExtentIter) next() bool {
	for it.err == nil && it.pos < it.size {
		if !it.cur.valid() {
			if it.err = it.cur.err(); it.err != nil {
				return false
			}
			return it.hole(it.size)
		}
		k := it.cur.key()
		if k.ObjectID != it.ino || k.Type != disk.KeyExtentData {
			return it.hole(it.size)
		}
		if k.Offset > it.pos {
			return it.hole(min(k.Offset, it.size))
		}
		ent, err := it.v.parseExtent(k, it.cur.data())
		if err != nil {
			it.err = err
			return false
		}
		it.cur.next()
		if ent.End <= it.pos {
			continue
		}
		it.ent, it.pos = ent, ent.End
		return true
	}
	return false
}

func (it *ExtentIter) hole(end uint64) bool {
	it.ent = Extent{Start: it.pos, End: end, Hole: true}
	it.pos = end
	return true
}

// Extent is the range that Next moved to.
func (it *ExtentIter) Extent() *Extent { return &it.ent }

// Err is the error that ended the walk, nil at its end.
func (it *ExtentIter) Err() error { return it.err }

// maxCompressed bounds an extent that is compressed, on disk and in memory
// (BTRFS_MAX_COMPRESSED and BTRFS_MAX_UNCOMPRESSED, Linux 6.18).
const maxCompressed = 128 << 10

// parseExtent decodes a file extent and checks what readers rely on: the range
// lies inside the extent, and compressed extents are small.
func (v *Subvol) parseExtent(k disk.Key, data []byte) (Extent, error) {
	fail := func(format string, args ...any) (Extent, error) {
		return Extent{}, v.corrupt(k, fmt.Errorf("%w: file extent: %s", disk.ErrFormat, fmt.Sprintf(format, args...)))
	}
	fe, err := disk.ParseFileExtent(data)
	if err != nil {
		return Extent{}, v.corrupt(k, err)
	}
	e := Extent{Start: k.Offset, Item: fe, key: k, Hole: fe.IsHole()}
	if fe.Encryption != 0 || fe.OtherEncoding != 0 {
		return fail("encryption %d, encoding %d", fe.Encryption, fe.OtherEncoding)
	}
	if fe.Compression > disk.CompressZstd {
		return fail("unknown compression %d", fe.Compression)
	}
	if fe.Type == disk.FileExtentInline {
		if k.Offset != 0 {
			return fail("inline at offset %d", k.Offset)
		}
		limit := uint64(maxCompressed)
		if fe.RAMBytes > limit || (fe.Compression == disk.CompressNone && fe.RAMBytes > uint64(len(fe.Inline))) {
			return fail("inline of %d bytes for %d", len(fe.Inline), fe.RAMBytes)
		}
		// What follows in the last sector reads as zeros.
		sector := v.store.sectorSize
		e.End = (fe.RAMBytes + sector - 1) / sector * sector
		return e, nil
	}
	e.End = k.Offset + fe.NumBytes
	switch {
	case fe.Type > disk.FileExtentPrealloc:
		return fail("unknown type %d", fe.Type)
	case e.End <= k.Offset:
		return fail("length %d", fe.NumBytes)
	case e.Hole:
		return e, nil
	case fe.NumBytes > fe.RAMBytes || fe.Offset > fe.RAMBytes-fe.NumBytes:
		return fail("bytes %d to %d of an extent of %d", fe.Offset, fe.Offset+fe.NumBytes, fe.RAMBytes)
	case fe.Compression == disk.CompressNone && fe.RAMBytes > fe.DiskNumBytes:
		return fail("%d bytes in %d on disk", fe.RAMBytes, fe.DiskNumBytes)
	case fe.Compression != disk.CompressNone && (fe.RAMBytes > maxCompressed || fe.DiskNumBytes > maxCompressed):
		return fail("compressed from %d to %d bytes, want at most %d", fe.RAMBytes, fe.DiskNumBytes, maxCompressed)
	}
	if s := v.store.sectorSize; uint64(fe.DiskBytenr)%s != 0 || fe.DiskNumBytes%s != 0 || fe.Offset%s != 0 || fe.NumBytes%s != 0 || k.Offset%s != 0 {
		return fail("not aligned to sectors")
	}
	return e, nil
}
