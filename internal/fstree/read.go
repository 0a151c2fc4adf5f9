package fstree

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"sync"

	"gobtrfs/disk"
	"gobtrfs/internal/block"
	"gobtrfs/internal/compress"
	"gobtrfs/internal/volume"
)

// Reader reads the contents of one file. It is safe for concurrent use.
type Reader struct {
	v     *Subvol
	ino   disk.ObjectID
	size  uint64
	noSum bool
	last  lastExtent // so that small reads decompress an extent once
}

// Reader makes a reader of a regular file's contents.
func (v *Subvol) Reader(ino disk.ObjectID, item *disk.InodeItem) *Reader {
	return &Reader{
		v: v, ino: ino, size: item.Size,
		noSum: item.Flags&disk.InodeNoDataSum != 0 || v.store.csumTree == nil,
	}
}

// Size is the file's size in bytes.
func (r *Reader) Size() uint64 { return r.size }

// ReadAt reads as io.ReaderAt does. Every byte that comes from a device has
// been verified, unless the file has no checksums. After an error the first n
// bytes are good.
func (r *Reader) ReadAt(ctx context.Context, p []byte, off uint64) (n int, err error) {
	if off >= r.size {
		return 0, io.EOF
	}
	short := uint64(len(p)) > r.size-off
	if short {
		p = p[:r.size-off]
	}
	if f := r.pending(); f != nil {
		n, err = r.readBehind(ctx, f, p, off)
	} else {
		n, err = r.readTree(ctx, p, off)
	}
	if err == nil && short {
		err = io.EOF
	}
	return n, err
}

// pending is the file's entry if it may have contents that are in no tree.
func (r *Reader) pending() *pendingFile {
	if b := r.v.store.pending; b != nil {
		return b.find(fileKey{r.v.id, r.ino})
	}
	return nil
}

// readBehind reads what the tree has and lays over it what is pending.
func (r *Reader) readBehind(ctx context.Context, f *pendingFile, p []byte, off uint64) (int, error) {
	k := inodeKey(r.ino)
	data, ok, err := r.v.items.get(ctx, k)
	if err != nil || !ok {
		return 0, err
	}
	item, err := disk.ParseInodeItem(data)
	if err != nil {
		return 0, r.v.corrupt(k, err)
	}
	// Behind the file's end in the tree may be anything.
	n := uint64(0)
	if off < item.Size {
		n = min(uint64(len(p)), item.Size-off)
		if n, err := r.readTree(ctx, p[:n], off); err != nil {
			return n, err
		}
	}
	clear(p[n:])
	f.read(p, off)
	return len(p), nil
}

// readTree fills p, which lies inside the file.
func (r *Reader) readTree(ctx context.Context, p []byte, off uint64) (n int, err error) {
	it := r.v.treeExtents(ctx, r.ino, r.size, off)
	for n < len(p) && it.Next() {
		e := it.Extent()
		pos := off + uint64(n)
		piece := p[n:min(len(p), n+int(min(e.End-pos, uint64(len(p)))))]
		if err := r.readExtent(ctx, e, piece, pos-e.Start); err != nil {
			return n, err
		}
		n += len(piece)
	}
	return n, it.Err()
}

// readExtent fills p from offset skip of the extent's range.
func (r *Reader) readExtent(ctx context.Context, e *Extent, p []byte, skip uint64) error {
	fe := &e.Item
	switch {
	case !e.IsData():
		clear(p)
		return nil
	case fe.Type == disk.FileExtentInline:
		return r.readInline(e, p, skip)
	case fe.Compression != disk.CompressNone:
		return r.readCompressed(ctx, e, p, fe.Offset+skip)
	}
	return r.readPlain(ctx, e, p, fe.DiskBytenr+disk.Logical(fe.Offset+skip))
}

func (r *Reader) readInline(e *Extent, p []byte, skip uint64) error {
	fe := &e.Item
	data := fe.Inline
	if fe.Compression != disk.CompressNone {
		data = make([]byte, fe.RAMBytes)
		if _, err := compress.Decompress(fe.Compression, data, fe.Inline, int(r.v.store.sectorSize)); err != nil {
			return r.v.corrupt(e.key, err)
		}
	}
	n := 0
	if skip < fe.RAMBytes {
		n = copy(p, data[skip:fe.RAMBytes])
	}
	clear(p[n:])
	return nil
}

// scratch holds buffers for compressed extents and partial sectors.
var scratch = sync.Pool{New: func() any { return new([maxCompressed]byte) }}

// readPlain reads len(p) bytes at any address; what is not whole sectors goes
// through a buffer, since checksums cover sectors.
func (r *Reader) readPlain(ctx context.Context, e *Extent, p []byte, at disk.Logical) error {
	sector := r.v.store.sectorSize
	for len(p) > 0 {
		skip := uint64(at) % sector
		whole := uint64(len(p)) / sector * sector
		if skip == 0 && whole > 0 {
			if err := r.readSectors(ctx, e, p[:whole], at); err != nil {
				return err
			}
			p, at = p[whole:], at+disk.Logical(whole)
			continue
		}
		buf := scratch.Get().(*[maxCompressed]byte)
		err := r.readSectors(ctx, e, buf[:sector], at-disk.Logical(skip))
		n := 0
		if err == nil {
			n = copy(p, buf[skip:sector])
		}
		scratch.Put(buf)
		if err != nil {
			return err
		}
		p, at = p[n:], at+disk.Logical(n)
	}
	return nil
}

// readSectors reads and verifies whole sectors.
func (r *Reader) readSectors(ctx context.Context, e *Extent, p []byte, at disk.Logical) error {
	var sums []byte
	if !r.noSum {
		var err error
		if sums, err = r.v.store.dataSums(ctx, at, uint64(len(p))); err != nil {
			return r.placed(err, e)
		}
	}
	err := r.placed(r.v.store.vol.ReadData(ctx, at, p, sums), e)
	if r.v.store.stale.Load() {
		return block.ErrStale
	}
	return err
}

// placed adds the file to an error about data.
func (r *Reader) placed(err error, e *Extent) error {
	if c, ok := errors.AsType[*volume.CorruptError](err); ok && c.Tree == 0 {
		c.Tree, c.Key = r.v.id, e.key
	}
	return err
}

// readCompressed fills p from offset skip of a compressed extent's contents.
func (r *Reader) readCompressed(ctx context.Context, e *Extent, p []byte, skip uint64) error {
	fe := &e.Item
	if d := r.last.Load(); d != nil && d.at == fe.DiskBytenr && uint64(len(d.data)) == fe.RAMBytes {
		copy(p, d.data[skip:])
		return nil
	}
	buf := scratch.Get().(*[maxCompressed]byte)
	defer scratch.Put(buf)
	src := buf[:fe.DiskNumBytes]
	if err := r.readSectors(ctx, e, src, fe.DiskBytenr); err != nil {
		return err
	}
	whole := skip == 0 && uint64(len(p)) == fe.RAMBytes
	dst := p
	if !whole {
		dst = make([]byte, fe.RAMBytes)
	}
	if _, err := compress.Decompress(fe.Compression, dst, src, int(r.v.store.sectorSize)); err != nil {
		return r.placed(&volume.CorruptError{Logical: fe.DiskBytenr, What: "compressed data", Err: err}, e)
	}
	if !whole {
		copy(p, dst[skip:])
		r.last.Store(&decompressed{fe.DiskBytenr, dst})
	}
	return nil
}

// dataSums collects the checksums of n bytes of data at logical address at,
// both multiples of the sector size: one after the other, all there.
func (s *Store) dataSums(ctx context.Context, at disk.Logical, n uint64) ([]byte, error) {
	if s.logSums != nil {
		return s.mixedSums(ctx, at, n)
	}
	return s.treeSums(ctx, at, n)
}

// treeSums is dataSums from the checksum tree alone. The result may alias the
// tree.
func (s *Store) treeSums(ctx context.Context, at disk.Logical, n uint64) ([]byte, error) {
	size := uint64(s.super.CsumType.Size())
	want := n / s.sectorSize * size
	missing := func(at disk.Logical) error {
		return &volume.CorruptError{Logical: at, What: "data", Err: fmt.Errorf("%w: no checksum", disk.ErrFormat)}
	}
	var sums []byte
	it := s.csumTree.SeekLast(ctx, disk.Key{ObjectID: disk.ExtentCsumObjectID, Type: disk.KeyExtentCsum, Offset: uint64(at)})
	for ; it.Valid(); it.Next() {
		k, data := it.Key(), it.Data()
		if k.ObjectID != disk.ExtentCsumObjectID || k.Type != disk.KeyExtentCsum || k.Offset > uint64(at) {
			return nil, missing(at)
		}
		first := (uint64(at) - k.Offset) / s.sectorSize * size
		if first >= uint64(len(data)) {
			return nil, missing(at)
		}
		data = data[first:]
		if sums == nil && uint64(len(data)) >= want {
			return data[:want], nil
		}
		data = data[:min(uint64(len(data)), want-uint64(len(sums)))]
		sums = append(sums, data...)
		at += disk.Logical(uint64(len(data)) / size * s.sectorSize)
		if uint64(len(sums)) == want {
			return sums, nil
		}
	}
	if err := it.Err(); err != nil {
		return nil, err
	}
	return nil, missing(at)
}

// mixedSums is dataSums where a log tree has checksums too: they are newer
// than those of the checksum tree.
func (s *Store) mixedSums(ctx context.Context, at disk.Logical, n uint64) ([]byte, error) {
	size := s.super.CsumType.Size()
	sums := make([]byte, 0, int(n/s.sectorSize)*size)
	for end := at + disk.Logical(n); at < end; {
		if sum, ok := s.logSums[at]; ok {
			sums, at = append(sums, sum...), at+disk.Logical(s.sectorSize)
			continue
		}
		stop := at
		for stop < end && s.logSums[stop] == nil {
			stop += disk.Logical(s.sectorSize)
		}
		piece, err := s.treeSums(ctx, at, uint64(stop-at))
		if err != nil {
			return nil, err
		}
		sums, at = append(sums, piece...), stop
	}
	return sums, nil
}

// Readlink reads the target of a symbolic link; it ends before the first NUL.
func (v *Subvol) Readlink(ctx context.Context, ino disk.ObjectID) ([]byte, error) {
	k := disk.Key{ObjectID: ino, Type: disk.KeyExtentData}
	data, ok, err := v.items.get(ctx, k)
	if err != nil {
		return nil, err
	}
	if !ok {
		return nil, v.corrupt(k, fmt.Errorf("%w: symbolic link without target", disk.ErrFormat))
	}
	e, err := v.parseExtent(k, data)
	if err != nil {
		return nil, err
	}
	if e.Item.Type != disk.FileExtentInline {
		return nil, v.corrupt(k, fmt.Errorf("%w: symbolic link with a target outside its item", disk.ErrFormat))
	}
	r := &Reader{v: v, ino: ino}
	target := make([]byte, e.Item.RAMBytes)
	if err := r.readInline(&e, target, 0); err != nil {
		return nil, err
	}
	target, _, _ = bytes.Cut(target, []byte{0}) // btrfs-convert stores it with a NUL behind it
	return target, nil
}
