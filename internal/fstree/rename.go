package fstree

import (
	"context"
	"fmt"
	"syscall"

	"gobtrfs/disk"
	"gobtrfs/internal/space"
)

// Rename moves a name to another place in the same subvolume. What had the new
// name is replaced, as rename(2) says, or with noReplace is an error (EEXIST).
func (w *Writer) Rename(ctx context.Context, sub, dir disk.ObjectID, name []byte, toDir disk.ObjectID, toName []byte, noReplace bool) error {
	if err := checkName(toName); err != nil {
		return err
	}
	var rest disk.ObjectID
	err := w.do(ctx, sub, itemsName*2+itemsRemove, space.ClassNormal, func(ctx context.Context, e *edit) error {
		m := move{e: e, dir: dir, name: name, toDir: toDir, toName: toName}
		err := m.check(ctx, noReplace)
		if err != nil || m.same {
			return err
		}
		rest, err = m.run(ctx)
		return err
	})
	if err != nil || rest == 0 {
		return err
	}
	return w.Evict(ctx, sub, rest)
}

// move is a rename.
type move struct {
	e      *edit
	dir    disk.ObjectID
	name   []byte
	toDir  disk.ObjectID
	toName []byte

	from, to *disk.InodeItem // the directories' inodes; one and the same if the directory is
	what     disk.DirItem
	over     disk.DirItem // what has the new name
	replaces bool
	same     bool // both names are of one inode: nothing to do
}

// check reads everything and refuses what must not be, before any change.
func (m *move) check(ctx context.Context, noReplace bool) error {
	e := m.e
	from, err := e.dirToChange(ctx, m.dir)
	if err != nil {
		return err
	}
	m.from, m.to = &from, &from
	if m.toDir != m.dir {
		to, err := e.dirToChange(ctx, m.toDir)
		if err != nil {
			return err
		}
		m.to = &to
	}
	var ok bool
	if m.what, ok, err = e.lookup(ctx, m.dir, m.name); err != nil {
		return err
	} else if !ok {
		return fmt.Errorf("%q: %w", m.name, syscall.ENOENT)
	}
	if m.over, m.replaces, err = e.lookup(ctx, m.toDir, m.toName); err != nil {
		return err
	}
	if m.replaces {
		if noReplace {
			return fmt.Errorf("%q: %w", m.toName, syscall.EEXIST)
		}
	}
	if err := m.checkLoop(ctx); err != nil {
		return err
	}
	if m.replaces {
		if m.same = m.over.Location == m.what.Location; m.same {
			return nil
		}
		if err := m.checkOver(ctx); err != nil {
			return err
		}
	} else if err := e.roomForEntry(ctx, m.toDir, m.toName); err != nil {
		return err
	}
	if m.what.Location.Type != disk.KeyInodeItem {
		_, err := e.rootRef(ctx, m.what.Location.ObjectID)
		return err
	}
	item, err := e.inode(ctx, m.what.Location.ObjectID)
	if err != nil {
		return err
	}
	if item.Flags&(disk.InodeImmutable|disk.InodeAppend) != 0 {
		return fmt.Errorf("%q is immutable: %w", m.name, syscall.EPERM)
	}
	return e.roomForRef(ctx, m.what.Location.ObjectID, m.toDir, m.toName)
}

// checkOver says whether what has the new name may go.
func (m *move) checkOver(ctx context.Context) error {
	switch {
	case m.over.Location.Type != disk.KeyInodeItem:
		return fmt.Errorf("%q is a subvolume: %w", m.toName, syscall.ENOTEMPTY)
	case m.what.Type == disk.FtDir && m.over.Type != disk.FtDir:
		return fmt.Errorf("%q: %w", m.toName, syscall.ENOTDIR)
	case m.what.Type != disk.FtDir && m.over.Type == disk.FtDir:
		return fmt.Errorf("%q: %w", m.toName, syscall.EISDIR)
	}
	item, err := m.e.inode(ctx, m.over.Location.ObjectID)
	if err != nil {
		return err
	}
	if item.Flags&(disk.InodeImmutable|disk.InodeAppend) != 0 {
		return fmt.Errorf("%q is immutable: %w", m.toName, syscall.EPERM)
	}
	if m.over.Type != disk.FtDir {
		return nil
	}
	empty, err := m.e.isEmpty(ctx, m.over.Location.ObjectID)
	if err == nil && !empty {
		return fmt.Errorf("%q: %w", m.toName, syscall.ENOTEMPTY)
	}
	return err
}

// checkLoop fails if a directory would be moved into itself, or onto one that
// it is in.
func (m *move) checkLoop(ctx context.Context) error {
	if m.dir == m.toDir {
		return nil
	}
	if m.what.Type == disk.FtDir && m.what.Location.Type == disk.KeyInodeItem {
		if in, err := m.inside(ctx, m.toDir, m.what.Location.ObjectID); err != nil {
			return err
		} else if in {
			return fmt.Errorf("%q would be inside itself: %w", m.name, syscall.EINVAL)
		}
	}
	if m.replaces && m.over.Type == disk.FtDir && m.over.Location.Type == disk.KeyInodeItem {
		if in, err := m.inside(ctx, m.dir, m.over.Location.ObjectID); err != nil {
			return err
		} else if in {
			return fmt.Errorf("%q: %w", m.toName, syscall.ENOTEMPTY)
		}
	}
	return nil
}

// inside says whether directory at is what or somewhere below it.
func (m *move) inside(ctx context.Context, at, what disk.ObjectID) (bool, error) {
	for range maxDepth {
		if at == what || at == disk.RootDirObjectID {
			return at == what, nil
		}
		it, ok, err := m.e.t.Ceil(ctx, disk.Key{ObjectID: at, Type: disk.KeyInodeRef})
		if err != nil {
			return false, err
		}
		if !ok || it.Key.ObjectID != at || it.Key.Type != disk.KeyInodeRef {
			return false, m.e.corrupt(inodeKey(at), fmt.Errorf("%w: directory without a name", disk.ErrFormat))
		}
		at = disk.ObjectID(it.Key.Offset)
	}
	return false, syscall.ELOOP
}

// maxDepth bounds the walk to the top directory, which on a damaged filesystem
// might be a circle.
const maxDepth = 1 << 16

// run makes the change; the result is an inode to evict, 0 for none.
func (m *move) run(ctx context.Context) (rest disk.ObjectID, err error) {
	e := m.e
	if m.replaces {
		if rest, err = e.unlink(ctx, m.toDir, m.to, m.over); err != nil {
			return 0, err
		}
	}
	index, err := e.newIndex(ctx, m.toDir)
	if err != nil {
		return 0, err
	}
	var old uint64
	if m.what.Location.Type == disk.KeyInodeItem {
		old, err = m.moveRef(ctx, index)
	} else {
		old, err = e.moveRootRef(ctx, m.what.Location.ObjectID, m.toDir, m.toName, index)
	}
	if err != nil {
		return 0, err
	}
	if err := e.removeEntry(ctx, m.dir, m.from, m.name, old); err != nil {
		return 0, err
	}
	if err := e.addEntry(ctx, m.toDir, m.to, m.toName, m.what.Location, m.what.Type, index); err != nil {
		return 0, err
	}
	if err := e.putInode(ctx, m.dir, m.from); err != nil || m.dir == m.toDir {
		return rest, err
	}
	return rest, e.putInode(ctx, m.toDir, m.to)
}

// moveRef renames in the inode; the result is the old index.
func (m *move) moveRef(ctx context.Context, index uint64) (old uint64, err error) {
	ino := m.what.Location.ObjectID
	k, old, err := m.e.findRef(ctx, ino, m.dir, m.name)
	if err != nil {
		return 0, err
	}
	if err := m.e.removeRef(ctx, k, m.dir, m.name); err != nil {
		return 0, err
	}
	if err := m.e.addRef(ctx, ino, m.toDir, m.toName, index); err != nil {
		return 0, err
	}
	item, err := m.e.inode(ctx, ino)
	if err != nil {
		return 0, err
	}
	item.Ctime = m.e.now
	return old, m.e.putInode(ctx, ino, &item)
}

// rootRef is what the root tree says of a subvolume's name in this one.
func (e *edit) rootRef(ctx context.Context, id disk.ObjectID) (disk.RootRef, error) {
	k := disk.Key{ObjectID: e.t.ID(), Type: disk.KeyRootRef, Offset: uint64(id)}
	data, ok, err := e.w.tx.RootTree().Get(ctx, k)
	if err != nil {
		return disk.RootRef{}, err
	}
	if !ok {
		// A stub: a snapshot took the entry along, not the subvolume.
		return disk.RootRef{}, fmt.Errorf("subvolume %d is not here: %w", uint64(id), syscall.EPERM)
	}
	ref, err := disk.ParseRootRef(data)
	if err != nil {
		return ref, e.w.base.corrupt(disk.TreeRoot, k, err)
	}
	return ref, nil
}

// moveRootRef renames a subvolume in the root tree; the result is the old
// index.
func (e *edit) moveRootRef(ctx context.Context, id, toDir disk.ObjectID, toName []byte, index uint64) (uint64, error) {
	old, err := e.rootRef(ctx, id)
	if err != nil {
		return 0, err
	}
	ref := disk.RootRef{DirID: toDir, Sequence: index, Name: toName}
	b := ref.Append(nil)
	root := e.w.tx.RootTree()
	if err := root.Update(ctx, disk.Key{ObjectID: e.t.ID(), Type: disk.KeyRootRef, Offset: uint64(id)}, b); err != nil {
		return 0, err
	}
	return old.Sequence, root.Update(ctx, disk.Key{ObjectID: id, Type: disk.KeyRootBackref, Offset: uint64(e.t.ID())}, b)
}
