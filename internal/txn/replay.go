package txn

import (
	"context"
	"fmt"

	"gobtrfs/disk"
	"gobtrfs/internal/space"
)

// Replay is the replaying of a log tree, from Open to Finish. The log belongs
// to one transaction, the running one, so all of it is replayed in that; until
// its superblock is durable the log stays what a crash would go back to. So
// nothing is committed before Finish, and no place that the log refers to may
// be used for anything else.
type Replay struct {
	fs    *FS
	taken []space.Range        // places of the log's nodes and of what they refer to
	fresh map[disk.Logical]int // extents that the extent tree does not have: index into taken
	used  map[int]bool         // those that got a reference
}

// Replaying is the replay that the filesystem was opened for
// (Options.Replay), nil if there is no log.
func (f *FS) Replaying() *Replay { return f.replaying.Load() }

// Take says that the log has a node, or a reference to an extent, here. All
// calls come before the first change.
func (r *Replay) Take(ctx context.Context, at disk.Logical, n uint64, data bool) error {
	if data {
		if i, ok := r.fresh[at]; ok {
			if have := uint64(r.taken[i].Length); have != n {
				return r.fs.corrupt(disk.Key{ObjectID: disk.ObjectID(at), Type: disk.KeyExtentItem, Offset: n},
					"the log has the extent with %d bytes, too", have)
			}
			return nil
		}
		known, err := r.known(ctx, at, n)
		if err != nil || known {
			return err
		}
		r.fresh[at] = len(r.taken)
	}
	place := space.Range{Start: at, Length: space.Bytes(n)}
	if err := r.fs.space.TakeExtent(ctx, place); err != nil {
		delete(r.fresh, at)
		return fmt.Errorf("what the log refers to: %w", err)
	}
	r.taken = append(r.taken, place)
	return nil
}

// known says whether the extent tree has an extent of data.
func (r *Replay) known(ctx context.Context, at disk.Logical, n uint64) (ok bool, err error) {
	err = r.fs.Look(ctx, func(ctx context.Context) error {
		_, ok, err = r.fs.extent.Get(ctx, disk.Key{ObjectID: disk.ObjectID(at), Type: disk.KeyExtentItem, Offset: n})
		return err
	})
	return ok, err
}

// AddRef is FS.AddDataRef for an extent that the log refers to.
//
// REQUIRES: the writer.
func (r *Replay) AddRef(t *Tree, at disk.Logical, n uint64, ino disk.ObjectID, offset uint64) {
	i, fresh := r.fresh[at]
	if fresh {
		r.used[i] = true
	}
	r.fs.AddDataRef(t, at, n, ino, offset, fresh)
}

// Finish commits what was replayed; the log is gone.
func (r *Replay) Finish(ctx context.Context) error {
	f := r.fs
	if err := f.lockWriter(ctx); err != nil {
		return err
	}
	f.replaying.Store(nil)
	f.touch() // even if nothing changed: the log must go
	f.state.Unlock()
	if err := f.Commit(ctx); err != nil {
		return err
	}
	for i, place := range r.taken {
		if !r.used[i] {
			if err := f.space.ReturnExtent(place); err != nil {
				return err
			}
		}
	}
	return nil
}

// SetCsums enters checksums of data at addr, one a sector, whatever is known
// of the range.
//
// REQUIRES: the writer.
func (f *FS) SetCsums(ctx context.Context, addr disk.Logical, sums []byte) error {
	sectors := len(sums) / f.geometry.CsumType.Size()
	if err := f.clearCsums(ctx, addr, addr+disk.Logical(sectors*f.geometry.SectorSize)); err != nil {
		return err
	}
	return f.AddCsums(ctx, addr, sums)
}
