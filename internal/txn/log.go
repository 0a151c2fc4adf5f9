package txn

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"gobtrfs/disk"
	"gobtrfs/internal/block"
	"gobtrfs/internal/btree"
	"gobtrfs/internal/space"
)

// ErrNoLog says that the log tree cannot express what is to be made durable:
// only a commit can.
var ErrNoLog = errors.New("only a commit makes this durable")

// maxLogBytes bounds the places that the logs of one transaction take: they
// cannot be used again before its commit.
const maxLogBytes = 64 << 20

// Log is the log tree of the running transaction: trees, one per subvolume,
// that say what is durable beyond the last commit, and a tree of their roots,
// which the last commit's superblock is made to name. It belongs to whoever
// has taken the cycle, so there is none of a transaction that is being
// committed, and the commit before is durable.
//
// Once they are written, nodes are copied before they are changed, as those of
// all trees are: the superblock that names them may be the one that is found
// after a crash. All places stay taken until the commit is durable (X6).
type Log struct {
	fs      *FS
	trans   disk.TransID
	roots   *btree.Editor
	trees   map[disk.ObjectID]*btree.Editor
	entered map[disk.ObjectID]btree.Root // what roots says
	dirty   map[disk.Logical]disk.Node   // not written yet
	clean   map[disk.Logical]disk.Node   // written
	places  []space.Range                // of all nodes there ever were
	failed  bool                         // the trees in memory are in between: there will be no further log
	onDisk  bool                         // a superblock names it
}

// SyncLog makes build's changes of the log durable. It waits for its turn, and
// gives up waiting when done is closed: somebody else then did it; ran says
// that build was called. build reads the running transaction as in Look, while
// nothing changes, and the last commit.
//
// The error is ErrNoLog, from build or because of something else that the last
// commit's superblock does not know, when only Commit will do: what was durable
// before still is.
func (f *FS) SyncLog(ctx context.Context, done <-chan struct{}, build func(ctx context.Context, l *Log) error) (ran bool, err error) {
	if ok, err := f.cycle.takeUnless(ctx, done); err != nil || !ok {
		return false, err
	}
	defer f.cycle.give(0)
	if !f.touched.Load() {
		return false, f.Err() // all is in the last commit
	}
	ctx = context.WithoutCancel(ctx)
	var l *Log
	err = f.Look(ctx, func(ctx context.Context) error {
		ran = true
		if l, err = f.runningLog(ctx); err != nil {
			return err
		}
		if err := build(ctx, l); err != nil {
			return err
		}
		return l.enterRoots(ctx)
	})
	if err == nil && len(l.dirty) > 0 {
		err = l.write(ctx)
	}
	if err != nil {
		if l != nil {
			l.failed = true
		}
		if !errors.Is(err, ErrNoLog) {
			err = fmt.Errorf("%w: %w", ErrNoLog, err)
		}
	}
	return ran, err
}

// takeUnless is take; it gives up when done is closed.
func (c *cycle) takeUnless(ctx context.Context, done <-chan struct{}) (bool, error) {
	for {
		c.mu.Lock()
		if c.closed {
			c.mu.Unlock()
			return false, space.ErrClosed
		}
		if !c.busy {
			c.busy = true
			c.mu.Unlock()
			return true, nil
		}
		moved := c.moved
		c.mu.Unlock()
		select {
		case <-moved:
		case <-done:
			return false, nil
		case <-ctx.Done():
			return false, context.Cause(ctx)
		}
	}
}

// runningLog is the log of the running transaction, made if there is none.
func (f *FS) runningLog(ctx context.Context) (*Log, error) {
	if err := f.canLog(ctx); err != nil {
		return nil, err
	}
	if f.log != nil && f.log.trans == f.Trans() {
		if l := f.log; l.failed || len(l.places)*f.geometry.NodeSize > maxLogBytes {
			return nil, ErrNoLog
		}
		return f.log, nil
	}
	l := &Log{
		fs: f, trans: f.Trans(), trees: make(map[disk.ObjectID]*btree.Editor), entered: make(map[disk.ObjectID]btree.Root),
		dirty: make(map[disk.Logical]disk.Node), clean: make(map[disk.Logical]disk.Node),
	}
	f.log = l
	return l, nil
}

// canLog fails if the running transaction needs what the last commit's
// superblock and chunk tree do not say.
func (f *FS) canLog(ctx context.Context) error {
	if f.replaying.Load() != nil {
		return ErrNoLog
	}
	if err := f.lockGrowth(ctx); err != nil {
		return err
	}
	defer f.unlockGrowth()
	sb := f.vol.Super()
	switch {
	case f.chunkTrans == f.Trans(), len(f.leaving) > 0, len(f.unwritten) > 0:
		return ErrNoLog // places in new chunks could not be found
	case sb.IncompatFlags != f.super.IncompatFlags || sb.CompatROFlags != f.super.CompatROFlags:
		return ErrNoLog
	case sb.IncompatFlags&disk.IncompatRaidStripeTree != 0:
		return ErrNoLog
	case sb.Generation+1 != f.Trans():
		return ErrNoLog
	}
	return nil
}

// Trans is the transaction that the log is of.
func (l *Log) Trans() disk.TransID { return l.trans }

// Tree is the log of a subvolume, empty at first.
func (l *Log) Tree(ctx context.Context, id disk.ObjectID) (*btree.Editor, error) {
	if t := l.trees[id]; t != nil {
		return t, nil
	}
	t, err := l.newTree(ctx)
	if err == nil {
		l.trees[id] = t
	}
	return t, err
}

func (l *Log) newTree(ctx context.Context) (*btree.Editor, error) {
	n, err := l.New(ctx, disk.TreeLog, 0)
	if err != nil {
		return nil, err
	}
	root := btree.Root{ID: disk.TreeLog, Bytenr: n.Bytenr(), Generation: l.trans}
	return btree.Edit(l, root, l.fs.geometry.NodeSize), nil
}

// enterRoots enters the trees' roots where they moved.
func (l *Log) enterRoots(ctx context.Context) error {
	if l.roots == nil && len(l.trees) > 0 {
		var err error
		if l.roots, err = l.newTree(ctx); err != nil {
			return err
		}
	}
	for _, id := range slices.Sorted(maps.Keys(l.trees)) {
		t := l.trees[id]
		r := t.Root()
		if l.entered[id] == r {
			continue
		}
		item := disk.RootItem{
			Inode:      disk.InodeItem{Generation: 1, Size: 3, Nlink: 1, NBytes: uint64(l.fs.geometry.NodeSize), Mode: 0o040755},
			Generation: l.trans, GenerationV2: l.trans, Bytenr: r.Bytenr, Level: uint8(r.Level),
			BytesUsed: uint64(l.fs.geometry.NodeSize),
		}
		k := disk.Key{ObjectID: disk.TreeLog, Type: disk.KeyRootItem, Offset: uint64(id)}
		set := l.roots.Insert
		if _, ok := l.entered[id]; ok {
			set = l.roots.Update
		}
		if err := set(ctx, k, item.Append(nil)); err != nil {
			return err
		}
		l.entered[id] = r
	}
	return nil
}

// write makes the log durable: nodes, and with the same flush the data that it
// refers to; then the superblock, of which Linux looks at copy 0 only.
func (l *Log) write(ctx context.Context) error {
	f := l.fs
	nodes := block.NewDirty()
	for _, n := range l.dirty {
		nodes.Add(n)
	}
	nodes.Freeze()
	if err := f.cache.Write(ctx, nodes); err != nil {
		return err
	}
	if err := f.vol.Sync(); err != nil {
		return err
	}
	// A chunk may have been made meanwhile, and a node have gone there.
	if err := f.canLog(ctx); err != nil {
		return err
	}
	sb := f.vol.Super().Clone()
	r := l.roots.Root()
	sb.LogRoot, sb.LogRootLevel = r.Bytenr, uint8(r.Level)
	if err := f.lockGrowth(ctx); err != nil {
		return err
	}
	items := maps.Clone(f.devItems)
	f.unlockGrowth()
	l.onDisk = true // even if it fails: it may be there
	if err := f.vol.WriteLogSuper(ctx, sb, items); err != nil {
		return err
	}
	maps.Copy(l.clean, l.dirty)
	clear(l.dirty)
	return nil
}

// Private implements btree.Source.
func (l *Log) Private(addr disk.Logical) disk.Node { return l.dirty[addr] }

// Read implements btree.Source.
func (l *Log) Read(_ context.Context, addr disk.Logical, _ block.Expect) (disk.Node, bool, error) {
	if n := l.dirty[addr]; n != nil {
		return n, true, nil
	}
	if n := l.clean[addr]; n != nil {
		return n, false, nil
	}
	return nil, false, fmt.Errorf("log has no node at %d: %w", uint64(addr), errInternal)
}

// New implements btree.Source. A log takes what metadata space is there and
// waits for nothing: a commit is the better way out.
func (l *Log) New(ctx context.Context, id disk.ObjectID, level int) (disk.Node, error) {
	f := l.fs
	size := space.Bytes(f.geometry.NodeSize)
	if err := f.space.Metadata().Reserve(ctx, size, space.ClassNoWait); err != nil {
		return nil, err
	}
	r, err := f.space.Metadata().AllocExtent(ctx, space.ExtentRequest{Want: size, Align: size, NoGrow: true})
	if err != nil {
		f.space.Metadata().Release(size)
		return nil, err
	}
	l.places = append(l.places, r)
	n := make(disk.Node, size)
	n.InitHeader(r.Start, f.nodeFSID, f.chunkTreeUUID, l.trans, id, level)
	l.dirty[r.Start] = n
	return n, nil
}

// Copy implements btree.Source.
func (l *Log) Copy(ctx context.Context, id disk.ObjectID, n disk.Node, _ bool) (disk.Node, error) {
	c, err := l.New(ctx, id, n.Level())
	if err != nil {
		return nil, err
	}
	copy(c[96:], n[96:]) // behind the owner: count, level, contents
	delete(l.clean, n.Bytenr())
	return c, nil
}

// Drop implements btree.Source.
func (l *Log) Drop(_ context.Context, _ disk.ObjectID, n disk.Node) error {
	delete(l.dirty, n.Bytenr())
	return nil
}

// logged says whether a log of the running transaction is on the disk.
//
// REQUIRES: the cycle was taken.
func (f *FS) logged() bool { return f.log != nil && f.log.trans == f.Trans() && f.log.onDisk }

// sealLog ends the log of a transaction that is being sealed. Its places are
// free when that is durable.
//
// REQUIRES: the cycle was taken.
func (f *FS) sealLog() []space.Range {
	if f.log == nil {
		return nil
	}
	places := f.log.places
	f.log = nil
	return places
}

// returnFresh gives back an extent that was made in this transaction and that
// nothing refers to any more, unless a log does: then it is pinned (X6). It is,
// too, if it is to be discarded.
//
// REQUIRES: the cycle was taken.
func (f *FS) returnFresh(ctx context.Context, r space.Range) error {
	if !f.logged() && !f.opts.Discard {
		return f.space.ReturnExtent(r)
	}
	if err := f.space.MarkUsed(r); err != nil {
		return err
	}
	return f.space.FreeExtent(ctx, r, f.Trans())
}
