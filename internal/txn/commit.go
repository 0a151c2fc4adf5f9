package txn

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"gobtrfs/disk"
	"gobtrfs/internal/space"
)

const (
	// maxHeads and maxDirtyBytes bound what one transaction gathers before it
	// is committed: memory, and the work that its commit must find room for.
	maxHeads      = 4000
	maxDirtyBytes = 128 << 20
	// maxPasses bounds the search for the fixed point. Each pass changes only
	// what the pass before made necessary; it has never taken ten. Most of it is for
	// waiting for groups of new chunks.
	maxPasses = 10000
)

// Operation is a change to be made as a whole.
type Operation struct {
	Items int         // that it inserts or changes at most
	Class space.Class // how it waits for room
	// Run makes the change. Its context is not cancelled any more.
	Run func(ctx context.Context) error
	// Promised is a promise from ReserveItems that the operation has instead
	// of one for Items. It is used up, whatever happens.
	Promised space.Bytes

	afterCommit bool
}

// ReserveItems promises room for an operation that inserts or changes so many
// items, long before it runs. Run uses the promise up; otherwise give it back
// with ReleaseItems.
func (f *FS) ReserveItems(ctx context.Context, items int, c space.Class) (space.Bytes, error) {
	if err := f.Err(); err != nil {
		return 0, err
	}
	n := f.itemBytes(items)
	return n, f.space.Metadata().Reserve(ctx, n, c)
}

// ReleaseItems gives back a promise of ReserveItems.
func (f *FS) ReleaseItems(n space.Bytes) {
	if n > 0 {
		f.space.Metadata().Release(n)
	}
}

func (f *FS) itemBytes(items int) space.Bytes {
	u := space.Units{NodeSize: space.Bytes(f.geometry.NodeSize)}
	return space.Bytes(items) * u.Insert()
}

// Run runs an operation that may have its promise already; see Do.
func (f *FS) Run(ctx context.Context, op Operation) error { return f.run(ctx, op) }

// Do runs one operation as part of the running transaction: it has promises
// for so many items, and no other operation runs. An error of op from before
// its first change is returned and nothing has happened; after that it aborts
// the filesystem.
func (f *FS) Do(ctx context.Context, items int, c space.Class, op func(ctx context.Context) error) error {
	return f.run(ctx, Operation{Items: items, Class: c, Run: op})
}

func (f *FS) run(ctx context.Context, op Operation) error {
	n := op.Promised
	release := func() { f.ReleaseItems(n) }
	if err := f.Err(); err != nil {
		release()
		return err
	}
	if n == 0 {
		var err error
		if n, err = f.ReserveItems(ctx, op.Items, op.Class); err != nil {
			return err
		}
	}
	if err := f.lockWriter(ctx); err != nil {
		release()
		return err
	}
	defer f.unlockWriter()
	ctx = context.WithoutCancel(ctx)
	if op.afterCommit {
		if err := f.commitLocked(ctx); err != nil {
			release()
			return err
		}
	}
	f.pool = n
	before := f.changes
	err := op.Run(ctx)
	if err != nil && f.changes != before {
		err = f.abort(err)
	}
	n, f.pool = f.pool, 0
	release()
	if err != nil {
		return err
	}
	if f.replaying == nil && f.refs.len() > maxHeads || f.replaying == nil && f.dirty.Len()*f.geometry.NodeSize > maxDirtyBytes {
		return f.commitLocked(ctx)
	}
	return nil
}

// Commit makes everything durable that was done before. Once it has begun it
// is not cancelled. Block groups that are empty then go, in a commit of their
// own.
func (f *FS) Commit(ctx context.Context) error {
	if err := f.lockWriter(ctx); err != nil {
		return err
	}
	defer f.unlockWriter()
	ctx = context.WithoutCancel(ctx)
	if err := f.commitLocked(ctx); err != nil {
		return err
	}
	if n, err := f.removeUnused(ctx); err != nil || n == 0 {
		return err
	}
	return f.commitLocked(ctx)
}

// commitLocked commits. The writer must be held.
func (f *FS) commitLocked(ctx context.Context) error {
	if f.replaying != nil {
		return fmt.Errorf("commit before the log is replayed: %w", space.ErrNoSpace)
	}
	if !f.touched && !f.chunkTouched.Load() {
		return nil
	}
	f.committing = true
	err := f.commit(ctx)
	f.committing = false
	n := f.pool
	f.pool = 0
	f.space.Metadata().Release(n)
	if err != nil {
		return f.abort(fmt.Errorf("commit transaction %d: %w", uint64(f.trans), err))
	}
	return nil
}

func (f *FS) commit(ctx context.Context) error {
	if err := f.settle(ctx); err != nil {
		return err
	}
	defer f.unlockGrowth() // settle took it
	if err := f.cache.Write(ctx, f.dirty); err != nil {
		return err
	}
	if err := f.vol.Sync(); err != nil {
		return err
	}
	sb, err := f.nextSuper(ctx)
	if err != nil {
		return err
	}
	if err := f.vol.WriteSuper(ctx, sb, maps.Clone(f.devItems)); err != nil {
		return err
	}
	f.cache.SetGeneration(f.trans)
	f.cache.Settle(f.dirty)
	if f.opts.Committed != nil {
		if err := f.opts.Committed(sb); err != nil {
			return err
		}
	}
	done := f.trans
	f.trans++
	f.touched = false
	f.chunkTouched.Store(false)
	f.super = sb.Clone()
	maps.DeleteFunc(f.trees, func(_ disk.ObjectID, t *Tree) bool { return t.gone })
	if err := f.dropChunks(); err != nil {
		return err
	}
	f.space.CommitDone(done)
	f.sizeReserves()
	return nil
}

// groupWait is how long a commit waits before it looks again for the group of
// a chunk that was just recorded. The grower needs microseconds.
const groupWait = 100 * time.Microsecond

// settle brings all trees up to date with each other (X2). Every step may make
// the ones before necessary again; it ends because nodes are copied once in a
// transaction, so the trees soon change in place. On success growth is held
// and nothing is left to do.
func (f *FS) settle(ctx context.Context) error {
	for range maxPasses {
		if err := f.writeNewGroups(ctx); err != nil {
			return err
		}
		if err := f.runRefs(ctx); err != nil {
			return err
		}
		groups, err := f.writeGroups(ctx)
		if err != nil {
			return err
		}
		roots, err := f.writeRoots(ctx)
		if err != nil {
			return err
		}
		if groups || roots || f.refs.len() > 0 {
			continue
		}
		if err := f.lockGrowth(ctx); err != nil {
			return err
		}
		f.unwritten = slices.DeleteFunc(f.unwritten, func(at disk.Logical) bool { return f.hasGroup(at) })
		if f.refs.len() == 0 && len(f.unwritten) == 0 {
			return nil
		}
		early := len(f.space.NewGroups()) == 0 && f.refs.len() == 0
		f.unlockGrowth()
		if early { // the flight is about to show its group
			if err := f.opts.Clock.Sleep(ctx, groupWait); err != nil {
				return err
			}
		}
	}
	return fmt.Errorf("the trees did not settle in %d passes: %w", maxPasses, errInternal)
}

// writeRoots enters the trees' roots in the root tree, and says whether any
// had moved.
func (f *FS) writeRoots(ctx context.Context) (changed bool, err error) {
	for _, id := range slices.Sorted(maps.Keys(f.trees)) {
		t := f.trees[id]
		if t.gone || !t.changed && t.Root() == t.written {
			continue
		}
		r := t.Root()
		t.item.Bytenr, t.item.Level = r.Bytenr, uint8(r.Level)
		t.item.Generation, t.item.GenerationV2 = r.Generation, r.Generation
		t.changed, t.written = false, r
		if err := f.root.Update(ctx, t.key, t.item.Append(nil)); err != nil {
			return true, err
		}
		changed = true
	}
	return changed, nil
}

// nextSuper is the superblock of this commit.
func (f *FS) nextSuper(ctx context.Context) (*disk.Superblock, error) {
	sb := f.super.Clone()
	r, c := f.root.Root(), f.chunk.Root()
	sb.Generation = f.trans
	sb.Root, sb.RootLevel = r.Bytenr, uint8(r.Level)
	sb.ChunkRoot, sb.ChunkRootLevel, sb.ChunkRootGen = c.Bytenr, uint8(c.Level), c.Generation
	sb.BytesUsed = f.bytesUsed
	sb.LogRoot, sb.LogRootLevel = 0, 0 // what was logged is in the trees
	sb.Flags |= disk.SuperFlagWritten
	if f.hasUUIDGen {
		sb.UUIDTreeGeneration = uint64(f.trans)
	}
	b, err := f.backup(ctx, sb)
	if err != nil {
		return nil, err
	}
	// Behind the newest of them, so that the four are of four commits.
	newest := 0
	for i := range sb.BackupRoots {
		if sb.BackupRoots[i].TreeRootGen > sb.BackupRoots[newest].TreeRootGen {
			newest = i
		}
	}
	sb.BackupRoots[(newest+1)%disk.NumBackupRoots] = b
	return sb, nil
}

func (f *FS) backup(ctx context.Context, sb *disk.Superblock) (disk.RootBackup, error) {
	b := disk.RootBackup{
		TreeRoot: sb.Root, TreeRootGen: sb.Generation, TreeRootLevel: sb.RootLevel,
		ChunkRoot: sb.ChunkRoot, ChunkRootGen: sb.ChunkRootGen, ChunkRootLevel: sb.ChunkRootLevel,
		TotalBytes: sb.TotalBytes, BytesUsed: sb.BytesUsed, NumDevices: sb.NumDevices,
	}
	top, err := f.Tree(ctx, disk.TreeFS)
	if err != nil {
		return b, err
	}
	set := func(t *Tree, at *disk.Logical, gen *disk.TransID, level *uint8) {
		r := t.Root()
		*at, *gen, *level = r.Bytenr, r.Generation, uint8(r.Level)
	}
	set(top, &b.FSRoot, &b.FSRootGen, &b.FSRootLevel)
	set(f.extent, &b.ExtentRoot, &b.ExtentRootGen, &b.ExtentRootLevel)
	set(f.dev, &b.DevRoot, &b.DevRootGen, &b.DevRootLevel)
	set(f.csum, &b.CsumRoot, &b.CsumRootGen, &b.CsumRootLevel)
	return b, nil
}

// sizeReserves makes the standing reserves fit the trees that draw on them.
func (f *FS) sizeReserves() {
	u := space.Units{NodeSize: space.Bytes(f.geometry.NodeSize)}
	trees := space.Bytes(f.root.item.BytesUsed + f.extent.item.BytesUsed + f.csum.item.BytesUsed)
	if f.fst != nil {
		trees += space.Bytes(f.fst.tree.item.BytesUsed)
	}
	bgt := f.groupTree != f.extent
	if bgt {
		trees += space.Bytes(f.groupTree.item.BytesUsed)
	}
	f.space.GlobalReserve().Resize(u.GlobalReserveSize(trees, f.fst != nil, bgt))
	// A commit copies at most every node of these trees, and splits some; of
	// large ones it touches two leaves per head and little above them.
	most := space.Bytes(2*maxHeads*5/4) * u.NodeSize
	f.space.CommitReserve().Resize(min(2*trees+16*u.NodeSize, most))
}
