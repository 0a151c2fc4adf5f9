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

// AllocData finds a place for at most want bytes of file contents, a multiple
// of the sector size that was promised. What it returns may be shorter. The
// place is the caller's until AddDataRef or, before that, FreeData.
//
// REQUIRES: the writer.
func (f *FS) AllocData(ctx context.Context, want uint64) (disk.Logical, uint64, error) {
	r, err := f.space.Data().AllocExtent(ctx, space.ExtentRequest{
		Want: space.Bytes(min(want, MaxDataExtent)), Min: space.Bytes(f.geometry.SectorSize),
	})
	return r.Start, uint64(r.Length), err
}

// FreeData gives back a place that nothing refers to yet.
func (f *FS) FreeData(addr disk.Logical, n uint64) error {
	return f.space.ReturnExtent(space.Range{Start: addr, Length: space.Bytes(n)})
}

// WriteData writes file contents to a place that AllocData found (X4).
func (f *FS) WriteData(ctx context.Context, addr disk.Logical, b []byte) error {
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
