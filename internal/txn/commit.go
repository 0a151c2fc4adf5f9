package txn

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"gobtrfs/disk"
	"gobtrfs/internal/btree"
	"gobtrfs/internal/space"
)

// maxPasses bounds the search for the fixed point. Each pass changes only
// what the pass before made necessary; it has never taken ten. Most of it is for
// waiting for groups of new chunks.
const maxPasses = 10000

// groupWait is how long a commit waits before it looks again for the group of
// a chunk that was just recorded. The grower needs microseconds.
const groupWait = 100 * time.Microsecond

// sealed is a transaction that is settled and frozen: all that is left is to
// write it. Its nodes are the frozen ones of FS.dirty.
type sealed struct {
	trans    disk.TransID
	super    *disk.Superblock
	devItems map[disk.DevID]disk.DevItem
	leaving  []disk.Logical // chunks that are not needed when it is durable
	logged   []space.Range  // places of its log's nodes
	extents  btree.Root
	reserves reserves // what they should hold when it is durable
}

// seal settles the running transaction, freezes it and starts the next one.
// After an error the filesystem must be aborted.
//
// REQUIRES: the writer, that the cycle was taken, and that nothing is frozen.
func (f *FS) seal(ctx context.Context) (*sealed, error) {
	f.committing = true
	defer func() { f.committing = false }()
	s := &sealed{trans: f.Trans()}
	if err := f.settle(ctx); err != nil {
		return nil, fmt.Errorf("settle transaction %d: %w", uint64(s.trans), err)
	}
	defer f.unlockGrowth() // settle took it
	f.space.Metadata().Release(f.pool)
	f.pool = 0
	var err error
	if s.super, err = f.nextSuper(ctx); err != nil {
		return nil, fmt.Errorf("superblock of transaction %d: %w", uint64(s.trans), err)
	}
	s.devItems = maps.Clone(f.devItems)
	s.leaving, f.leaving = f.leaving, nil
	s.logged = f.sealLog()
	f.super = s.super.Clone()
	f.treesMu.Lock()
	maps.DeleteFunc(f.trees, func(_ disk.ObjectID, t *Tree) bool { return t.gone })
	f.treesMu.Unlock()
	f.dirty.Freeze()
	s.extents = f.extent.Root()
	f.kept.Store(&keptRoots{(*f.kept.Load())[0], s.extents})
	f.nextTransaction()
	s.reserves = f.reserveSizes()
	return s, nil
}

// write makes a sealed transaction durable, shows it to readers of commits, and
// then sets free what it had freed. It runs beside operations of the next
// transaction. An error aborts.
//
// REQUIRES: the cycle was taken.
func (f *FS) write(ctx context.Context, s *sealed) error {
	if s == nil {
		return nil
	}
	if err := f.writeSealed(ctx, s); err != nil {
		return f.abort(fmt.Errorf("commit transaction %d: %w", uint64(s.trans), err))
	}
	return nil
}

func (f *FS) writeSealed(ctx context.Context, s *sealed) error {
	if err := f.Err(); err != nil {
		return err
	}
	if err := f.cache.Write(ctx, f.dirty); err != nil {
		return err
	}
	if err := f.vol.Sync(); err != nil {
		return err
	}
	if err := f.vol.WriteSuper(ctx, s.super, s.devItems); err != nil {
		return err
	}
	f.cache.SetGeneration(s.trans)
	f.cache.Settle(f.dirty)
	if f.opts.Committed != nil {
		if err := f.opts.Committed(s.super); err != nil {
			return err
		}
	}
	f.kept.Store(&keptRoots{s.extents})
	f.discardFreed(s)
	if err := f.dropChunks(ctx, s.leaving); err != nil {
		return err
	}
	f.space.CommitDone(s.trans)
	for _, r := range s.logged {
		if err := f.space.ReturnExtent(r); err != nil {
			return err
		}
	}
	f.resizeReserves(s.reserves)
	return nil
}

// settle brings all trees up to date with each other (X2). Every step may make
// the ones before necessary again; it ends because nodes are copied once in a
// transaction, so the trees soon change in place. On success growth is held
// and nothing is left to do.
func (f *FS) settle(ctx context.Context) error {
	if err := f.distrustCache(ctx); err != nil {
		return err
	}
	// The superblock and the root tree are of one generation: so the root tree
	// changes even where the replay of a log that adds nothing is all there is.
	f.extent.changed = true
	if err := f.writeStats(ctx); err != nil {
		return err
	}
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
		if changed, err := f.settleQuota(ctx); err != nil {
			return err
		} else if changed {
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
	for _, t := range f.sortedTrees() {
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

func (f *FS) sortedTrees() []*Tree {
	f.treesMu.Lock()
	defer f.treesMu.Unlock()
	out := make([]*Tree, 0, len(f.trees))
	for _, id := range slices.Sorted(maps.Keys(f.trees)) {
		out = append(out, f.trees[id])
	}
	return out
}

// nextSuper is the superblock of this commit.
func (f *FS) nextSuper(ctx context.Context) (*disk.Superblock, error) {
	sb := f.super.Clone()
	r, c := f.root.Root(), f.chunk.Root()
	sb.Generation = f.Trans()
	sb.Root, sb.RootLevel = r.Bytenr, uint8(r.Level)
	sb.ChunkRoot, sb.ChunkRootLevel, sb.ChunkRootGen = c.Bytenr, uint8(c.Level), c.Generation
	sb.BytesUsed = f.bytesUsed
	sb.LogRoot, sb.LogRootLevel = 0, 0 // what was logged is in the trees
	sb.Flags |= disk.SuperFlagWritten
	if f.hasUUIDGen {
		sb.UUIDTreeGeneration = f.trans.Load()
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

// reserves are sizes of the standing reserves.
type reserves struct{ global, commit space.Bytes }

func (f *FS) resizeReserves(r reserves) {
	f.space.GlobalReserve().Resize(r.global)
	f.space.CommitReserve().Resize(r.commit)
}

// reserveSizes are the sizes that fit the trees which draw on the reserves.
//
// REQUIRES: the writer.
func (f *FS) reserveSizes() reserves {
	u := space.Units{NodeSize: space.Bytes(f.geometry.NodeSize)}
	trees := space.Bytes(f.root.item.BytesUsed + f.extent.item.BytesUsed + f.csum.item.BytesUsed)
	if f.fst != nil {
		trees += space.Bytes(f.fst.tree.item.BytesUsed)
	}
	if q := f.quota.Load(); q != nil {
		trees += space.Bytes(q.tree.item.BytesUsed)
	}
	bgt := f.groupTree != f.extent
	if bgt {
		trees += space.Bytes(f.groupTree.item.BytesUsed)
	}
	// A commit copies at most every node of these trees, and splits some; of
	// large ones it touches two leaves per head and little above them.
	most := space.Bytes(2*maxHeads*hard) * u.NodeSize
	return reserves{u.GlobalReserveSize(trees, f.fst != nil, bgt), min(2*trees+16*u.NodeSize, most)}
}
