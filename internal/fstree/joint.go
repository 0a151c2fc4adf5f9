package fstree

import (
	"context"
	"errors"
	"syscall"

	"gobtrfs/disk"
	"gobtrfs/internal/btree"
	"gobtrfs/internal/space"
	"gobtrfs/internal/txn"
)

// Creations run beside each other (txn.Joint) where nothing about them is
// unusual: the directory hands nothing down, its next index is known, no other
// name has the new one's hash. What keeps them apart:
//
//   - A name belongs to whoever inserts its entry. That is the first change, so
//     who comes second has changed nothing.
//   - Numbers of inodes and indexes are given out under Writer.numbers. Those of
//     a creation that comes to nothing are given out again, or left out if others
//     have come behind them.
//   - Each adds its own share to the directory's inode.
//
// Nobody else sees the tree before all of them are done, so the order of the
// insertions does not matter. Everything unusual, errors included, is left to
// the operation that runs alone.

// errAlone says that an operation has to run alone and has changed nothing.
var errAlone = errors.New("not beside other operations")

// joint is one operation on one subvolume beside others.
type joint struct {
	*edit
	j *txn.Joint
}

// createJointly is Create beside other operations, in a directory that find
// finds. The error is errAlone if it cannot be.
func (w *Writer) createJointly(ctx context.Context, sub disk.ObjectID, a Attr, find func(context.Context, joint) (dir disk.ObjectID, name []byte, err error)) (ino disk.ObjectID, err error) {
	if a.Mode&modeType == modeSymlink || w.tx.HasQuotas() {
		return 0, errAlone
	}
	err = w.tx.RunJoint(ctx, itemsCreate, space.ClassNormal, func(ctx context.Context, j *txn.Joint) error {
		e, err := w.editable(ctx, sub)
		if err != nil {
			return errAlone
		}
		o := joint{e, j}
		dir, name, err := find(ctx, o)
		if err == nil {
			ino, err = o.create(ctx, dir, name, a)
		}
		return err
	})
	return ino, err
}

// CreateAt is Create at a path from the top directory of a subvolume, which
// Resolve would follow.
func (w *Writer) CreateAt(ctx context.Context, sub disk.ObjectID, path string, a Attr) error {
	_, err := w.createJointly(ctx, sub, a, func(ctx context.Context, o joint) (disk.ObjectID, []byte, error) {
		return o.walk(ctx, splitPath(path))
	})
	if !errors.Is(err, errAlone) {
		return err
	}
	p, err := w.Resolve(ctx, sub, path)
	if err == nil && p.Dir == 0 {
		err = syscall.EBUSY // a top directory has no name here
	}
	if err == nil {
		_, err = w.createAlone(ctx, p.Sub, p.Dir, p.Name, a)
	}
	return err
}

// walk follows all names but the last, each of a directory, from the
// subvolume's top directory.
func (o joint) walk(ctx context.Context, names []string) (dir disk.ObjectID, last []byte, err error) {
	if len(names) == 0 {
		return 0, nil, errAlone
	}
	dir = disk.RootDirObjectID
	for _, name := range names[:len(names)-1] {
		next := disk.ObjectID(0)
		_, err := o.j.Get(ctx, o.t, dirItemKey(dir, []byte(name)), func(data []byte) error {
			for len(data) > 0 {
				d, rest, err := disk.ParseDirItem(data)
				if err != nil {
					return err
				}
				if string(d.Name) == name && d.Type == disk.FtDir && d.Location.Type == disk.KeyInodeItem {
					next = d.Location.ObjectID
				}
				data = rest
			}
			return nil
		})
		if err != nil || next == 0 {
			return 0, nil, errAlone
		}
		dir = next
	}
	return dir, []byte(names[len(names)-1]), nil
}

func (o joint) create(ctx context.Context, dir disk.ObjectID, name []byte, a Attr) (disk.ObjectID, error) {
	id := o.t.ID()
	typ := disk.FileType(a.Mode)
	if _, plain := o.w.plain[dirKey{id, dir}]; !plain || typ == disk.FtUnknown || checkName(name) != nil {
		return 0, errAlone
	}
	parent, err := o.parent(ctx, dir)
	if err != nil {
		return 0, err
	}
	ino, index, err := o.take(dir)
	if err != nil {
		return 0, err
	}
	item := o.newInode(&parent, a)
	item.Mode &^= a.Umask & 0o777
	entry := disk.DirItem{Location: inodeKey(ino), TransID: item.TransID, Type: typ, Name: name}
	data := entry.Append(make([]byte, 0, 64))
	// Behind this the name is ours, and an error is fatal.
	err = o.j.Insert(ctx, o.t, btree.Item{Key: dirItemKey(dir, name), Data: data})
	if errors.Is(err, btree.ErrExists) {
		o.putBack(dir, ino, index)
		return 0, errAlone
	}
	if err == nil {
		err = o.j.Insert(ctx, o.t, btree.Item{Key: disk.Key{ObjectID: dir, Type: disk.KeyDirIndex, Offset: index}, Data: data})
	}
	if err == nil {
		ref := disk.InodeRef{Index: index, Name: name}
		err = o.j.Insert(ctx, o.t, btree.Item{Key: inodeKey(ino), Data: item.Append(make([]byte, 0, disk.InodeItemSize))},
			btree.Item{Key: disk.Key{ObjectID: ino, Type: disk.KeyInodeRef, Offset: uint64(dir)}, Data: ref.Append(make([]byte, 0, 64))})
	}
	if err == nil {
		err = o.j.Update(ctx, o.t, inodeKey(dir), func(data []byte) error { return o.grow(data, len(name)) })
	}
	if err != nil {
		return 0, err
	}
	o.j.Stamp(o.t, o.stamp)
	return ino, nil
}

// parent reads a directory in which a name is to be made. What may be wrong
// with it is not for here.
func (o joint) parent(ctx context.Context, dir disk.ObjectID) (item disk.InodeItem, err error) {
	ok, err := o.j.Get(ctx, o.t, inodeKey(dir), func(data []byte) (err error) {
		item, err = disk.ParseInodeItem(data)
		return err
	})
	if err != nil || !ok || item.Mode&modeType != modeDir || item.Nlink == 0 || item.Flags&disk.InodeImmutable != 0 {
		return item, errAlone
	}
	return item, nil
}

// take gives out an inode number and a directory's next index, and has a log
// learn of the name.
func (o joint) take(dir disk.ObjectID) (ino disk.ObjectID, index uint64, err error) {
	n, k := &o.w.numbers, dirKey{o.t.ID(), dir}
	n.mu.Lock()
	defer n.mu.Unlock()
	ino, index = n.ino[k.sub], n.index[k]
	if ino == 0 || index == 0 || ino >= disk.LastFreeObjectID {
		return 0, 0, errAlone
	}
	n.ino[k.sub], n.index[k] = ino+1, index+1
	o.renamed(ino)
	return ino, index, nil
}

// putBack takes numbers back that were not used, unless others came behind them.
func (o joint) putBack(dir, ino disk.ObjectID, index uint64) {
	n, k := &o.w.numbers, dirKey{o.t.ID(), dir}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.ino[k.sub] == ino+1 {
		n.ino[k.sub] = ino
	}
	if n.index[k] == index+1 {
		n.index[k] = index
	}
}

// grow changes a directory's inode for a name that it gets. The clock is read
// under the leaf's latch, so that its times do not go back.
func (o joint) grow(data []byte, n int) error {
	item, err := disk.ParseInodeItem(data)
	if err != nil {
		return err
	}
	o.now = o.w.tx.Now()
	o.resizeDir(&item, n)
	item.TransID = o.w.tx.Trans()
	item.Sequence++
	item.Append(data[:0])
	return nil
}
