package fstree

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"gobtrfs/disk"
	"gobtrfs/internal/btree"
	"gobtrfs/internal/space"
	"gobtrfs/internal/txn"
)

// replayBatch is how many items one operation of replaying changes.
const replayBatch = 64

// ReplayLog makes what the log tree of s adds a part of the filesystem and
// commits that. tx was opened to do so (txn.Options.Replay) and nothing was
// changed yet. The overlay of s says what changes: readers and replay follow
// the same rules because these are written once.
//
// A crash, or an error, before the end leaves the filesystem with its log.
func ReplayLog(ctx context.Context, tx *txn.FS, s *Store) error {
	l := logWriter{tx: tx, replay: tx.Replaying(), store: s}
	if err := l.take(ctx); err != nil {
		return err
	}
	for _, id := range slices.Sorted(maps.Keys(s.logged)) {
		if err := l.apply(ctx, id, s.logged[id]); err != nil {
			return fmt.Errorf("subvolume %d: %w", uint64(id), err)
		}
	}
	return l.replay.Finish(ctx)
}

// logWriter carries overlays over to the trees.
type logWriter struct {
	tx     *txn.FS
	replay *txn.Replay
	store  *Store
}

// take reserves everything that the log refers to, and the log itself.
func (l *logWriter) take(ctx context.Context) error {
	s := l.store
	node := func(n disk.Node) error { return l.replay.Take(ctx, n.Bytenr(), uint64(len(n)), false) }
	root := s.logRoot()
	if err := root.Walk(ctx, func(n disk.Node) (bool, error) { return true, node(n) }); err != nil {
		return err
	}
	it := root.Seek(ctx, disk.Key{ObjectID: disk.TreeLog, Type: disk.KeyRootItem})
	for ; it.Valid() && it.Key().ObjectID == disk.TreeLog && it.Key().Type == disk.KeyRootItem; it.Next() {
		item, err := disk.ParseRootItem(it.Data())
		if err != nil {
			return s.corrupt(disk.TreeLog, it.Key(), err)
		}
		var extents []disk.FileExtent
		err = s.treeAt(disk.TreeLog, &item).Walk(ctx, func(n disk.Node) (bool, error) {
			if n.IsLeaf() {
				if extents, err = appendExtents(extents, n); err != nil {
					return false, s.corrupt(disk.TreeLog, it.Key(), err)
				}
			}
			return true, node(n)
		})
		if err != nil {
			return err
		}
		for _, fe := range extents {
			if err := l.replay.Take(ctx, fe.DiskBytenr, fe.DiskNumBytes, true); err != nil {
				return err
			}
		}
	}
	return it.Err()
}

// appendExtents lists the extents of data that a leaf refers to.
func appendExtents(list []disk.FileExtent, n disk.Node) ([]disk.FileExtent, error) {
	for i := range n.NrItems() {
		if n.Key(i).Type != disk.KeyExtentData {
			continue
		}
		fe, err := disk.ParseFileExtent(n.ItemData(i))
		if err != nil {
			return list, err
		}
		if isOnDisk(&fe) {
			fe.Inline = nil
			list = append(list, fe)
		}
	}
	return list, nil
}

// isOnDisk says whether a file extent refers to an extent of data.
func isOnDisk(fe *disk.FileExtent) bool { return fe.Type != disk.FileExtentInline && !fe.IsHole() }

// apply makes the changes to one subvolume.
func (l *logWriter) apply(ctx context.Context, id disk.ObjectID, over *overlay) error {
	patches, most := over.items.Items(), replayBatch
	for len(patches) > 0 {
		batch := patches[:min(most, len(patches))]
		// Each may bring an item and one of checksums.
		err := l.tx.Do(ctx, 2*len(batch)+1, space.ClassNormal, func(ctx context.Context) error {
			t, err := l.tx.Tree(ctx, id)
			if err != nil {
				return err
			}
			for i := range batch {
				if err := l.patch(ctx, t, &batch[i]); err != nil {
					return err
				}
			}
			r := t.Item()
			r.CTransID, r.Ctime = l.tx.Trans(), l.tx.Now()
			t.Touch()
			return nil
		})
		if errors.Is(err, space.ErrNoSpace) && len(batch) > 1 {
			most = len(batch) / 2 // nothing was changed; with large nodes the promise for a batch is large
			continue
		}
		if err != nil {
			return err
		}
		patches = patches[len(batch):]
	}
	return nil
}

// patch changes one item.
func (l *logWriter) patch(ctx context.Context, t *txn.Tree, p *patch) error {
	old, exists, err := t.Get(ctx, p.key)
	if err != nil {
		return err
	}
	if p.key.Type == disk.KeyExtentData {
		if err := l.patchRefs(ctx, t, p, old); err != nil {
			return err
		}
	}
	switch {
	case p.data == nil && exists:
		return t.Delete(ctx, p.key)
	case p.data == nil:
		return nil
	case exists:
		return t.Update(ctx, p.key, p.data)
	}
	return t.Insert(ctx, p.key, p.data)
}

// patchRefs moves the reference to an extent from the file extent that was to
// the one that will be, and enters the checksums that were logged.
func (l *logWriter) patchRefs(ctx context.Context, t *txn.Tree, p *patch, old []byte) error {
	for _, side := range []struct {
		data []byte
		is   bool
	}{{old, false}, {p.data, true}} {
		if len(side.data) == 0 {
			continue
		}
		fe, err := disk.ParseFileExtent(side.data)
		if err != nil {
			return l.store.corrupt(t.ID(), p.key, err)
		}
		if !isOnDisk(&fe) {
			continue
		}
		if !side.is {
			l.tx.DropDataRef(t, fe.DiskBytenr, fe.DiskNumBytes, p.key.ObjectID, p.key.Offset-fe.Offset)
			continue
		}
		l.replay.AddRef(t, fe.DiskBytenr, fe.DiskNumBytes, p.key.ObjectID, p.key.Offset-fe.Offset)
		if err := l.sums(ctx, &fe); err != nil {
			return err
		}
	}
	return nil
}

// sums enters the logged checksums of what a file extent shows.
func (l *logWriter) sums(ctx context.Context, fe *disk.FileExtent) error {
	at, end := sumRange(fe)
	for at < end {
		start := at
		var sums []byte
		for ; at < end; at += disk.Logical(l.store.sectorSize) {
			sum, ok := l.store.logSums[at]
			if !ok {
				break
			}
			sums = append(sums, sum...)
		}
		if len(sums) == 0 {
			at += disk.Logical(l.store.sectorSize)
			continue
		}
		if err := l.tx.SetCsums(ctx, start, sums); err != nil {
			return err
		}
	}
	return nil
}

// sumRange is the part of an extent whose checksums belong to a file extent:
// what it shows, and of a compressed one the whole.
func sumRange(fe *disk.FileExtent) (from, to disk.Logical) {
	if fe.Compression != disk.CompressNone {
		return fe.DiskBytenr, fe.DiskBytenr + disk.Logical(fe.DiskNumBytes)
	}
	from = fe.DiskBytenr + disk.Logical(fe.Offset)
	return from, from + disk.Logical(fe.NumBytes)
}

// logRoot is the tree of log trees.
func (s *Store) logRoot() *btree.Tree {
	return btree.New(s.cache, btree.Root{ID: disk.TreeLog, Bytenr: s.super.LogRoot, Level: int(s.super.LogRootLevel)})
}
