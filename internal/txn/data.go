package txn

import (
	"context"
	"fmt"

	"gobtrfs/disk"
	"gobtrfs/internal/space"
)

// MaxDataExtent is the length of the largest extent of data, in bytes.
const MaxDataExtent = 128 << 20

// ReserveData promises n bytes for file contents. Give back with ReleaseData
// what AllocData did not use.
func (f *FS) ReserveData(ctx context.Context, n uint64, c space.Class) error {
	if err := f.Err(); err != nil {
		return err
	}
	return f.space.Data().Reserve(ctx, space.Bytes(n), c)
}

// ReleaseData gives back n promised bytes.
func (f *FS) ReleaseData(n uint64) {
	if n > 0 {
		f.space.Data().Release(space.Bytes(n))
	}
}

// AllocData finds a place for at most want bytes of file contents, which were
// promised, and for no less than least; both are multiples of the sector size.
// The place is the caller's until AddDataRef or, before that, FreeData. The
// writer is not needed: a place can be found and filled while others change
// trees, and a commit knows nothing of it until an operation refers to it.
func (f *FS) AllocData(ctx context.Context, want, least uint64) (disk.Logical, uint64, error) {
	r, err := f.space.Data().AllocExtent(ctx, space.ExtentRequest{
		Want: space.Bytes(min(want, MaxDataExtent)), Min: space.Bytes(least),
	})
	if err == nil {
		err = f.checkUnused(ctx, r)
	}
	return r.Start, uint64(r.Length), err
}

// FreeData gives back a place, or a part of one, that nothing refers to yet.
// The promise it came from is not restored.
func (f *FS) FreeData(addr disk.Logical, n uint64) error {
	return f.space.ReturnExtent(space.Range{Start: addr, Length: space.Bytes(n)})
}

// WriteData writes file contents to a place that AllocData found. The commit
// that refers to it flushes it, so it must have returned before the operation
// that adds the reference begins (X4). The writer is not needed.
func (f *FS) WriteData(ctx context.Context, addr disk.Logical, b []byte) error {
	if err := f.contents.RLock(ctx); err != nil {
		return err
	}
	defer f.contents.RUnlock()
	if err := f.vol.Write(ctx, addr, b); err != nil {
		return fmt.Errorf("write data at %d: %w", uint64(addr), err)
	}
	return nil
}

// AddDataRef notes that a file refers to an extent; fresh says that AllocData
// has just made it. offset is where the file would have the extent's first
// byte.
//
// REQUIRES: the writer.
func (f *FS) AddDataRef(t *Tree, addr disk.Logical, size uint64, ino disk.ObjectID, offset uint64, fresh bool) {
	f.changes++
	f.refs.add(addr, size, dataLevel, dataRef(t.id, ino, offset, 0), 1, fresh)
}

// DropDataRef notes that a file does not refer to an extent any more.
//
// REQUIRES: the writer.
func (f *FS) DropDataRef(t *Tree, addr disk.Logical, size uint64, ino disk.ObjectID, offset uint64) {
	f.changes++
	f.refs.add(addr, size, dataLevel, dataRef(t.id, ino, offset, 0), -1, false)
}

// SoleDataRef says whether the file's references are the only ones to an
// extent, however many there are: nobody else would see it written in place.
// offset is as for AddDataRef.
//
// NB: a snapshot shares an extent through a shared leaf, and the extent does
// not show that. A file extent item that is no newer than the tree's last
// snapshot may be such a case.
//
// REQUIRES: the writer.
func (f *FS) SoleDataRef(ctx context.Context, t *Tree, addr disk.Logical, size uint64, ino disk.ObjectID, offset uint64) (bool, error) {
	own := dataRef(t.id, ino, offset, 0)
	pending, made := f.refs.deltas(addr)
	for ref := range pending {
		if ref != own {
			return false, nil
		}
	}
	if made {
		return true, nil
	}
	k, data, err := f.findExtent(ctx, addr, size, dataLevel)
	if err != nil {
		return false, err
	}
	x, err := f.parseExtent(ctx, k, data)
	if err != nil {
		return false, err
	}
	return len(x.inline) == 1 && sameRef(x.inline[0], own) && x.item.Refs == uint64(x.inline[0].Count), nil
}
