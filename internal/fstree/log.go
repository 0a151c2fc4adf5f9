package fstree

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"

	"gobtrfs/disk"
	"gobtrfs/internal/btree"
	"gobtrfs/internal/txn"
)

// Writing the log tree. What the log of an inode must say follows from two
// trees, the last commit's and the running one: replay starts from the first,
// and what fsync promises is the second. So the log says how they differ, in
// the words that Linux's replay knows (tree-log.c, Linux 6.18):
//
//	INODE_ITEM           the inode becomes this one; with generation 0 it only exists.
//	                     Extended attributes that the log does not have go.
//	DIR_LOG_INDEX        the directory has no names in this range but those
//	                     of the log. It is used for single names that went.
//	INODE_REF, _EXTREF   the inode has exactly these names in this directory.
//	EXTENT_DATA          the file has this here, and nothing behind its size.
//	EXTENT_CSUM          checksums of what is new.
//
// Names are always those of the running tree: an inode whose names changed
// after it was logged is looked at again before the log is written. What this
// cannot express safely is left to a commit: directories that were moved or
// removed, subvolumes that came or went.

// logs is what a Writer knows of the log of the running transaction.
type logs struct {
	trans atomic.Uint64 // the transaction whose log there is

	mu    sync.Mutex
	queue []*fsync // who waits to be logged; protected by mu

	// renamed are inodes whose names changed since there is a log. Filled by
	// operations, emptied by the log's builder while none runs.
	renamed map[inodeID]bool
	unsafe  atomic.Uint64 // transaction in which directory indexes may repeat

	subs map[disk.ObjectID]*subLog // of whoever builds
}

type inodeID struct{ sub, ino disk.ObjectID }

// subLog is what the log of a subvolume has.
type subLog struct {
	full    map[disk.ObjectID]bool            // inodes with everything
	exists  map[disk.ObjectID]bool            // inodes that are there, no more
	named   map[disk.ObjectID]bool            // inodes whose names are as they should be
	removed map[disk.ObjectID]map[uint64]bool // by directory: indexes of names that went
}

// fsync is one request.
type fsync struct {
	inodeID
	done chan struct{}
	err  error // valid when done is closed; txn.ErrNoLog: commit
}

// Fsync makes durable what is known of an inode: attributes, contents, and
// that it has its names; of a directory, which names it has. With dataOnly
// times may be left out. It is done through the log tree where that can express
// it, else by a commit. The file's contents that wait in memory go to the
// device first.
func (w *Writer) Fsync(ctx context.Context, sub, ino disk.ObjectID, dataOnly bool) error {
	if err := w.FlushFile(ctx, sub, ino); err != nil {
		return err
	}
	r := &fsync{inodeID: inodeID{sub, ino}, done: make(chan struct{})}
	l := &w.logs
	l.mu.Lock()
	l.queue = append(l.queue, r)
	l.mu.Unlock()
	var mine []*fsync
	ran, err := w.tx.SyncLog(ctx, r.done, func(ctx context.Context, log *txn.Log) error {
		l.mu.Lock()
		mine, l.queue = l.queue, nil
		l.mu.Unlock()
		return w.buildLog(ctx, log, mine)
	})
	for _, o := range mine {
		o.err = err
		close(o.done)
	}
	if !ran && err != nil {
		l.mu.Lock()
		l.queue = slices.DeleteFunc(l.queue, func(o *fsync) bool { return o == r })
		l.mu.Unlock()
	}
	select {
	case <-r.done:
		err = r.err
	default:
		// The log could not be begun.
	}
	if errors.Is(err, txn.ErrNoLog) {
		return w.Commit(ctx)
	}
	return err
}

// renamed notes that an inode gains or loses a name.
//
// REQUIRES: the writer, or Writer.numbers.
func (e *edit) renamed(ino disk.ObjectID) {
	l := &e.w.logs
	if disk.TransID(l.trans.Load()) == e.w.tx.Trans() {
		l.renamed[inodeID{e.t.ID(), ino}] = true
	}
}

// buildLog brings the log up to date for some inodes.
func (w *Writer) buildLog(ctx context.Context, log *txn.Log, requests []*fsync) error {
	l := &w.logs
	trans := log.Trans()
	if disk.TransID(l.unsafe.Load()) == trans {
		return txn.ErrNoLog
	}
	if disk.TransID(l.trans.Load()) != trans {
		l.renamed, l.subs = make(map[inodeID]bool), make(map[disk.ObjectID]*subLog)
		l.trans.Store(uint64(trans))
	}
	bySub := make(map[disk.ObjectID][]disk.ObjectID)
	for id := range l.renamed {
		if s := l.subs[id.sub]; s != nil && s.knows(id.ino) {
			bySub[id.sub] = append(bySub[id.sub], id.ino)
			delete(s.named, id.ino)
		}
	}
	clear(l.renamed)
	for id, inodes := range bySub {
		slices.Sort(inodes)
		bySub[id] = inodes
	}
	want := make(map[disk.ObjectID][]disk.ObjectID)
	for _, r := range requests {
		want[r.sub] = append(want[r.sub], r.ino)
	}
	subs := slices.Sorted(maps.Keys(want))
	for id := range bySub {
		if want[id] == nil {
			subs = append(subs, id)
		}
	}
	slices.Sort(subs)
	for _, id := range subs {
		b, err := w.logBuilder(ctx, log, id)
		if err != nil {
			return err
		}
		if b == nil {
			continue
		}
		for _, ino := range bySub[id] {
			if err := b.names(ino); err != nil {
				return fmt.Errorf("log names of inode %d: %w", uint64(ino), err)
			}
		}
		for _, ino := range want[id] {
			if err := b.inode(ino); err != nil {
				return fmt.Errorf("log inode %d: %w", uint64(ino), err)
			}
		}
		if err := b.ranges(); err != nil {
			return err
		}
	}
	return nil
}

func (s *subLog) knows(ino disk.ObjectID) bool {
	return s.full[ino] || s.exists[ino] || s.named[ino]
}

// logBuilder writes the log of one subvolume. It exists for one call of
// buildLog, so it keeps the context.
type logBuilder struct {
	ctx context.Context
	w   *Writer
	*subLog
	now, was *Subvol // as running and as last committed
	log      *btree.Editor
	trans    disk.TransID
	stale    map[disk.ObjectID]bool // directories whose ranges are to be written
}

// logBuilder makes a builder; nil says that nothing of the subvolume was
// changed. A subvolume that the last commit does not have cannot be logged.
func (w *Writer) logBuilder(ctx context.Context, log *txn.Log, id disk.ObjectID) (*logBuilder, error) {
	e, err := w.edit(ctx, id)
	if err != nil {
		return nil, err
	}
	b := &logBuilder{ctx: ctx, w: w, trans: log.Trans(), stale: make(map[disk.ObjectID]bool)}
	if b.now, err = e.view(ctx); err != nil {
		return nil, err
	}
	if b.was, err = w.committed().Subvol(ctx, id); errors.Is(err, syscall.ENOENT) {
		return nil, txn.ErrNoLog
	} else if err != nil {
		return nil, err
	}
	if b.now.items.tree.Root() == b.was.items.tree.Root() {
		return nil, b.place(b.now, b.was)
	}
	if b.log, err = log.Tree(ctx, id); err != nil {
		return nil, err
	}
	l := &w.logs
	if l.subs[id] == nil {
		l.subs[id] = &subLog{
			full: make(map[disk.ObjectID]bool), exists: make(map[disk.ObjectID]bool),
			named: make(map[disk.ObjectID]bool), removed: make(map[disk.ObjectID]map[uint64]bool),
		}
	}
	b.subLog = l.subs[id]
	return b, nil
}

// committed is a Store of the last commit.
//
// REQUIRES: that no commit is under way.
func (w *Writer) committed() *Store {
	sb := w.tx.Volume().Super()
	return &Store{
		vol: w.base.vol, super: sb, base: w.base.base, cache: w.base.base, sectorSize: w.base.sectorSize,
		rootTree: btree.New(w.base.base, btree.Root{ID: disk.TreeRoot, Bytenr: sb.Root, Level: int(sb.RootLevel), Generation: sb.Generation}),
		subvols:  make(map[disk.ObjectID]*Subvol),
	}
}

// states are an inode in both trees.
type states struct {
	now, was   disk.InodeItem
	isNow, had bool
}

// states reads an inode. One whose number was used again cannot be logged: the
// two inodes would be taken for one.
func (b *logBuilder) states(ino disk.ObjectID) (states, error) { return b.statesIn(b.now, b.was, ino) }

func (b *logBuilder) statesIn(now, was *Subvol, ino disk.ObjectID) (s states, err error) {
	if s.now, s.isNow, err = inodeIn(b.ctx, now, ino); err != nil {
		return s, err
	}
	if s.was, s.had, err = inodeIn(b.ctx, was, ino); err != nil {
		return s, err
	}
	if s.isNow && s.had && s.now.Generation != s.was.Generation {
		return s, txn.ErrNoLog
	}
	s.isNow = s.isNow && s.now.Nlink > 0
	s.had = s.had && s.was.Nlink > 0
	return s, nil
}

func inodeIn(ctx context.Context, v *Subvol, ino disk.ObjectID) (disk.InodeItem, bool, error) {
	item, err := v.Inode(ctx, ino)
	if errors.Is(err, syscall.ENOENT) {
		return item, false, nil
	}
	return item, err == nil, err
}

// inode logs everything of an inode.
func (b *logBuilder) inode(ino disk.ObjectID) error {
	s, err := b.states(ino)
	if err != nil || !s.isNow {
		return err // what has no name is gone after a crash
	}
	if err := b.above(ino); err != nil {
		return err
	}
	if s.had && s.now == s.was {
		return nil // every change of an inode shows in it
	}
	if s.now.Mode&modeType == modeDir {
		if err := b.directory(ino); err != nil {
			return err
		}
	}
	if err := b.names(ino); err != nil {
		return err
	}
	return b.contents(ino, &s)
}

// contents logs what is in an inode, but for its names.
func (b *logBuilder) contents(ino disk.ObjectID, s *states) error {
	items := []btree.Item{{Key: inodeKey(ino), Data: s.now.Append(nil)}}
	items, err := b.xattrs(items, b.now, ino)
	if err != nil {
		return err
	}
	if s.now.Mode&modeType != modeDir {
		if items, err = b.extents(items, ino, &s.now); err != nil {
			return err
		}
	}
	b.full[ino] = true
	return b.replace(ino, isContents, items)
}

// exist logs that an inode is there.
func (b *logBuilder) exist(ino disk.ObjectID, s *states) error {
	if b.full[ino] || b.exists[ino] {
		return nil
	}
	item, from := s.now, b.now
	if !s.isNow {
		item, from = s.was, b.was
	}
	if typ := item.Mode & modeType; typ != modeReg && typ != modeDir {
		return b.contents(ino, s) // a link without its target would be damage
	}
	item.Generation, item.Size = 0, 0
	items, err := b.xattrs([]btree.Item{{Key: inodeKey(ino), Data: item.Append(nil)}}, from, ino)
	if err != nil {
		return err
	}
	b.exists[ino] = true
	return b.replace(ino, isContents, items)
}

func (b *logBuilder) xattrs(items []btree.Item, from *Subvol, ino disk.ObjectID) ([]btree.Item, error) {
	c := from.items.seek(b.ctx, disk.Key{ObjectID: ino, Type: disk.KeyXattrItem})
	for ; c.valid() && c.key().ObjectID == ino && c.key().Type == disk.KeyXattrItem; c.next() {
		items = append(items, btree.Item{Key: c.key(), Data: slices.Clone(c.data())})
	}
	return items, c.err()
}

// Kinds of items, which are replaced each on its own.
func isContents(t disk.KeyType) bool {
	return t == disk.KeyInodeItem || t == disk.KeyXattrItem || t == disk.KeyExtentData
}
func isName(t disk.KeyType) bool  { return t == disk.KeyInodeRef || t == disk.KeyInodeExtref }
func isRange(t disk.KeyType) bool { return t == disk.KeyDirLogIndex }

// replace makes the log's items of an inode, of one kind, these. They are in
// order and alias no node.
func (b *logBuilder) replace(ino disk.ObjectID, kind func(disk.KeyType) bool, items []btree.Item) error {
	for next := (disk.Key{ObjectID: ino}); ; next = next.Next() {
		it, ok, err := b.log.Ceil(b.ctx, next)
		if err != nil {
			return err
		}
		if !ok || it.Key.ObjectID != ino {
			break
		}
		next = it.Key
		if !kind(it.Key.Type) {
			continue
		}
		for len(items) > 0 && items[0].Key.Less(it.Key) {
			if err := b.log.Insert(b.ctx, items[0].Key, items[0].Data); err != nil {
				return err
			}
			items = items[1:]
		}
		switch {
		case len(items) == 0 || items[0].Key != it.Key:
			err = b.log.Delete(b.ctx, it.Key)
		case string(items[0].Data) == string(it.Data):
			items = items[1:]
		default:
			err = b.log.Update(b.ctx, it.Key, items[0].Data)
			items = items[1:]
		}
		if err != nil {
			return err
		}
	}
	for _, it := range items {
		if err := b.log.Insert(b.ctx, it.Key, it.Data); err != nil {
			return err
		}
	}
	return nil
}
