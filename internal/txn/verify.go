package txn

import (
	"context"

	"gobtrfs/disk"
	"gobtrfs/internal/btree"
	"gobtrfs/internal/invariants"
	"gobtrfs/internal/space"
)

// keptRoots are the extent trees of what must not be written over: of the last
// durable commit and, while it is being written, of the one behind it.
type keptRoots []btree.Root

// checkUnused looks, in builds that check invariants, whether a place that the
// allocator just gave out is really nobody's: neither of the last durable
// commit nor of the one that is being written (X1, X5). It asks the trees, not
// the allocator, so that one finds the other's mistakes at once. It needs no
// lock, as these trees do not change.
func (f *FS) checkUnused(ctx context.Context, r space.Range) error {
	if !invariants.Enabled {
		return nil
	}
	kept := f.kept.Load()
	for _, root := range *kept {
		k, used, err := f.lastExtent(ctx, r, btree.New(f.Running(), root))
		if f.kept.Load() != kept {
			return nil // a commit became durable meanwhile: what was read may be old
		}
		if err != nil {
			return err
		}
		if used {
			return invariants.Violated("X1: [%d, +%d) given out, but %v is an extent of transaction %d",
				r.Start, r.Length, k, uint64(root.Generation))
		}
	}
	return nil
}

func (f *FS) lastExtent(ctx context.Context, r space.Range, t *btree.Tree) (k disk.Key, used bool, err error) {
	it := t.SeekLast(ctx, lastKeyBefore(r))
	if !it.Valid() {
		return k, false, it.Err()
	}
	return it.Key(), f.reaches(it.Key(), r), nil
}

// checkFresh is checkUnused for a node of the running transaction, whose
// extents and delayed refs must not know the place either.
//
// REQUIRES: the writer.
func (f *FS) checkFresh(ctx context.Context, r space.Range) error {
	if !invariants.Enabled {
		return nil
	}
	if delta, _, made := f.refs.pending(r.Start); made {
		return invariants.Violated("X1: [%d, +%d) given out twice: it is new already and has %d references", r.Start, r.Length, delta)
	}
	it, ok, err := f.extent.Floor(ctx, lastKeyBefore(r))
	if err != nil || !ok || !f.reaches(it.Key, r) {
		return err
	}
	return invariants.Violated("X1: [%d, +%d) given out, but %v is an extent of the running transaction", r.Start, r.Length, it.Key)
}

// lastKeyBefore is a key behind those of every extent that starts before the
// end of r.
func lastKeyBefore(r space.Range) disk.Key {
	return disk.Key{ObjectID: disk.ObjectID(r.End() - 1), Type: 255, Offset: 1<<64 - 1}
}

// reaches says whether the extent to which the last item before the end of r
// belongs reaches into r. Extents do not overlap, so no other needs a look.
func (f *FS) reaches(k disk.Key, r space.Range) bool {
	end := uint64(k.ObjectID)
	switch k.Type {
	case disk.KeyExtentItem:
		end += k.Offset
	case disk.KeyBlockGroupItem: // what stands before it is not looked for
	default: // a block, or a reference that stands behind its extent's item
		end += uint64(f.geometry.SectorSize)
	}
	return end > uint64(r.Start)
}
