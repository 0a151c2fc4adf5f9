package fstree

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"syscall"

	"gobtrfs/disk"
	"gobtrfs/internal/block"
	"gobtrfs/internal/btree"
	"gobtrfs/internal/compress"
	"gobtrfs/internal/lockrank"
	"gobtrfs/internal/space"
	"gobtrfs/internal/txn"
)

// Writer changes a filesystem. Its methods are operations on the running
// transaction: each happens as a whole or not at all, and is durable after the
// next commit. It is safe for concurrent use.
//
// Permissions are the callers'; what the format and POSIX ask of names and
// types is checked here. Errors wrap the errno that Linux gives.
type Writer struct {
	tx   *txn.FS
	base *Store       // as opened; for what does not change
	over *block.Cache // what the running transaction sees

	numbers numbers
	plain   plainDirs // of the transaction's writer; joint operations read it

	holds holds
	logs  logs
	keep  func(sub, ino disk.ObjectID) bool // see KeepRemoved

	ctx     context.Context // of work in the background; ends with Close
	stop    context.CancelFunc
	opts    WriterOptions
	late    *backlog
	workers workers
	// hasCodecs are the incompatible features that compression needs and the
	// superblock has. Of the transaction's writer.
	hasCodecs uint64
	codecsMu  sync.Mutex // no I/O under it
	codecs    map[compress.Spec]*compress.Encoder
}

// WriterOptions say how contents are written. The zero value is right.
type WriterOptions struct {
	// Compress is what new contents are compressed with, unless the file says
	// otherwise. Default: not.
	Compress compress.Spec
	// CompressForce compresses also files that are marked as not worth it, and
	// whatever does not look so. Default: not.
	CompressForce bool
	// NoDataCow makes new files that are written in place, NoDataSum files
	// without checksums. Default: neither.
	NoDataCow, NoDataSum bool
	// DirtyBytes bounds the contents that wait in memory: beyond it, writers
	// wait. Default: DefaultDirtyBytes.
	DirtyBytes uint64
}

type dirKey struct{ sub, dir disk.ObjectID }

// numbers are those that are given out next. They belong to the transaction's
// writer; joint operations share them under mu.
type numbers struct {
	mu    lockrank.Mutex
	ino   map[disk.ObjectID]disk.ObjectID // by subvolume: behind the highest inode
	index map[dirKey]uint64               // by directory: behind the highest index
}

// NewWriter makes a writer over tx, whose committed state s shows.
func NewWriter(tx *txn.FS, s *Store, o WriterOptions) *Writer {
	w := &Writer{
		tx: tx, base: s, over: tx.Running(),
		numbers: numbers{ino: make(map[disk.ObjectID]disk.ObjectID), index: make(map[dirKey]uint64)}, plain: make(plainDirs),
		holds: holds{inodes: make(map[holdKey]*hold), subvols: make(map[disk.ObjectID]*subvolHold)},
		opts:  o, late: newBacklog(o.DirtyBytes), workers: make(workers, runtime.GOMAXPROCS(0)+1),
		hasCodecs: s.super.IncompatFlags, codecs: make(map[compress.Spec]*compress.Encoder),
	}
	w.numbers.mu.Init(rankNumbers, 0)
	w.ctx, w.stop = context.WithCancel(context.Background())
	if tx.CommitInterval() > 0 {
		w.late.expire = w.commitAged
	}
	return w
}

// Txn is the layer below.
func (w *Writer) Txn() *txn.FS { return w.tx }

// running is a Store of the running transaction's state, good until the next
// change.
//
// REQUIRES: the writer.
func (w *Writer) running(ctx context.Context) (*Store, error) {
	csums, err := w.tx.Tree(ctx, disk.TreeCsum)
	if err != nil {
		return nil, err
	}
	s := &Store{
		vol: w.base.vol, super: w.base.super, base: w.over, cache: w.over, sectorSize: w.base.sectorSize,
		rootTree: btree.New(w.over, w.tx.RootTree().Root()), csumTree: btree.New(w.over, csums.Root()),
		subvols: make(map[disk.ObjectID]*Subvol),
	}
	s.live = func(ctx context.Context, id disk.ObjectID) (*btree.Tree, disk.RootItem, error) {
		t, err := w.tx.Tree(ctx, id)
		if err != nil {
			return nil, disk.RootItem{}, err
		}
		return btree.New(w.over, t.Root()), *t.Item(), nil
	}
	return s, nil
}

// edit is one operation on one subvolume.
type edit struct {
	w   *Writer
	t   *txn.Tree
	now disk.Time
}

// Worst cases of operations, in items that are inserted or changed.
const (
	itemsName   = 6 // an entry, its index, the inode and its reference, the directory, the root
	itemsCreate = itemsName + 3
	itemsRemove = 16 // a name, an orphan, and the inode's items up to evictBatch
	itemsWrite  = 10 // a few file extents, their checksums, the inode
	itemsSubvol = 16
)

// do runs op on a subvolume that may be written.
func (w *Writer) do(ctx context.Context, sub disk.ObjectID, items int, c space.Class, op func(ctx context.Context, e *edit) error) error {
	// What gives space back is not kept from it. Who calls may be at work on a
	// file, so nothing of what waits in memory can be flushed here.
	if c == space.ClassNormal {
		if err := w.charge(ctx, sub, 0, items, w.tx.Commit); err != nil {
			return err
		}
	}
	return w.tx.Do(ctx, items, c, func(ctx context.Context) error {
		e, err := w.editable(ctx, sub)
		if err != nil {
			return err
		}
		return op(ctx, e)
	})
}

// charge has a subvolume's qgroups promise n bytes of contents and room for
// items, which Linux counts as a tree block each. If they cannot, commit may
// show that less was used than was promised.
func (w *Writer) charge(ctx context.Context, sub disk.ObjectID, n uint64, items int, commit func(context.Context) error) error {
	n += uint64(items) * uint64(w.base.super.NodeSize)
	err := w.tx.Charge(sub, n)
	if !errors.Is(err, syscall.EDQUOT) {
		return err
	}
	if err := commit(ctx); err != nil {
		return err
	}
	return w.tx.Charge(sub, n)
}

// editable is edit of a subvolume that may be written.
func (w *Writer) editable(ctx context.Context, sub disk.ObjectID) (*edit, error) {
	e, err := w.edit(ctx, sub)
	if err == nil {
		err = e.mayEdit()
	}
	return e, err
}

// mayEdit fails if the subvolume is read-only.
func (e *edit) mayEdit() error {
	if e.t.Item().Flags&disk.RootSubvolReadOnly != 0 {
		return fmt.Errorf("subvolume %d: %w", uint64(e.t.ID()), syscall.EROFS)
	}
	return nil
}

func (w *Writer) edit(ctx context.Context, sub disk.ObjectID) (*edit, error) {
	if !sub.IsSubvolume() {
		return nil, fmt.Errorf("subvolume %v: %w", sub, syscall.ENOENT)
	}
	t, err := w.tx.Tree(ctx, sub)
	if err != nil {
		return nil, err
	}
	if t.Item().Refs == 0 && !w.holds.inSubvol(sub) {
		return nil, fmt.Errorf("subvolume %d is being deleted: %w", uint64(sub), syscall.ENOENT)
	}
	return &edit{w: w, t: t, now: w.tx.Now()}, nil
}

// view is the subvolume as the operation sees it, good until its next change.
func (e *edit) view(ctx context.Context) (*Subvol, error) {
	s, err := e.w.running(ctx)
	if err != nil {
		return nil, err
	}
	return &Subvol{store: s, id: e.t.ID(), item: *e.t.Item(), items: view{tree: btree.New(e.w.over, e.t.Root())}}, nil
}

// View calls f with a subvolume as the running transaction has it. What f
// gets, it must not use after it returned.
func (w *Writer) View(ctx context.Context, sub disk.ObjectID, f func(ctx context.Context, v *Subvol) error) error {
	return w.tx.Look(ctx, func(ctx context.Context) error {
		e, err := w.edit(ctx, sub)
		if err != nil {
			return err
		}
		v, err := e.view(ctx)
		if err != nil {
			return err
		}
		v.store.pending = w.late
		return f(ctx, v)
	})
}

func inodeKey(ino disk.ObjectID) disk.Key { return disk.Key{ObjectID: ino, Type: disk.KeyInodeItem} }

func (e *edit) inode(ctx context.Context, ino disk.ObjectID) (disk.InodeItem, error) {
	data, ok, err := e.t.Get(ctx, inodeKey(ino))
	if err != nil {
		return disk.InodeItem{}, err
	}
	if !ok {
		return disk.InodeItem{}, fmt.Errorf("inode %d of subvolume %d: %w", uint64(ino), uint64(e.t.ID()), syscall.ENOENT)
	}
	item, err := disk.ParseInodeItem(data)
	if err != nil {
		return item, e.corrupt(inodeKey(ino), err)
	}
	e.w.late.absorb(fileKey{e.t.ID(), ino}, &item)
	return item, nil
}

func (e *edit) corrupt(k disk.Key, cause error) error { return e.w.base.corrupt(e.t.ID(), k, cause) }

// putInode writes an inode that was changed.
func (e *edit) putInode(ctx context.Context, ino disk.ObjectID, item *disk.InodeItem) error {
	item.TransID = e.w.tx.Trans()
	item.Sequence++
	if err := e.t.Update(ctx, inodeKey(ino), item.Append(nil)); err != nil {
		return err
	}
	e.w.late.note(fileKey{e.t.ID(), ino}, item)
	e.touchRoot()
	return nil
}

// touchRoot says in the root item that the subvolume was changed.
func (e *edit) touchRoot() {
	e.stamp(e.t.Item())
	e.t.Touch()
}

func (e *edit) stamp(r *disk.RootItem) { r.CTransID, r.Ctime = e.w.tx.Trans(), e.now }

// newIno is an inode number that was never used while the filesystem was open.
func (e *edit) newIno(ctx context.Context) (disk.ObjectID, error) {
	id := e.t.ID()
	next, ok := e.w.numbers.ino[id]
	if !ok {
		it, ok, err := e.t.Floor(ctx, disk.Key{ObjectID: disk.LastFreeObjectID, Type: 255, Offset: 1<<64 - 1})
		if err != nil {
			return 0, err
		}
		next = disk.RootDirObjectID + 1
		if ok {
			next = max(next, it.Key.ObjectID+1)
		}
	}
	if next >= disk.LastFreeObjectID {
		return 0, fmt.Errorf("subvolume %d has no inode number left: %w", uint64(id), syscall.ENOSPC)
	}
	e.w.numbers.ino[id] = next + 1
	return next, nil
}

const firstIndex = 2 // 0 and 1 stand for "." and ".."

// newIndex is the index of a directory's next entry.
func (e *edit) newIndex(ctx context.Context, dir disk.ObjectID) (uint64, error) {
	k := dirKey{e.t.ID(), dir}
	next, ok := e.w.numbers.index[k]
	if !ok {
		it, ok, err := e.t.Floor(ctx, disk.Key{ObjectID: dir, Type: disk.KeyDirIndex, Offset: 1<<64 - 1})
		if err != nil {
			return 0, err
		}
		next = firstIndex
		if ok && it.Key.ObjectID == dir && it.Key.Type == disk.KeyDirIndex {
			next = it.Key.Offset + 1
		}
	}
	if len(e.w.numbers.index) > maxIndexes {
		clear(e.w.numbers.index) // only a memory of what the tree says
		e.w.logs.unsafe.Store(uint64(e.w.tx.Trans()))
	}
	e.w.numbers.index[k] = next + 1
	return next, nil
}

// keepIndex sees to it that the index of a name that goes is not given out again
// in this transaction: a log would take the two names for one.
func (e *edit) keepIndex(ctx context.Context, dir disk.ObjectID) error {
	k := dirKey{e.t.ID(), dir}
	if _, ok := e.w.numbers.index[k]; ok {
		return nil
	}
	next, err := e.newIndex(ctx, dir)
	if err == nil {
		e.w.numbers.index[k] = next
	}
	return err
}

// keepIno is keepIndex for the number of an inode that goes.
func (e *edit) keepIno(ctx context.Context) error {
	id := e.t.ID()
	if _, ok := e.w.numbers.ino[id]; ok {
		return nil
	}
	next, err := e.newIno(ctx)
	if err == nil {
		e.w.numbers.ino[id] = next
	} else if errors.Is(err, syscall.ENOSPC) {
		err = nil // none is given out any more
	}
	return err
}

// maxIndexes bounds the directories whose next index is remembered.
const maxIndexes = 1 << 16

// Commit makes everything durable that was done and written before;
// callers share commits.
func (w *Writer) Commit(ctx context.Context) error {
	if err := w.Flush(ctx); err != nil {
		return err
	}
	return w.tx.Commit(ctx)
}

// Tidy is Commit; block groups that are empty then go.
func (w *Writer) Tidy(ctx context.Context) error {
	if err := w.Flush(ctx); err != nil {
		return err
	}
	return w.tx.Tidy(ctx)
}
