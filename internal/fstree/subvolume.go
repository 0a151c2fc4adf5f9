package fstree

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"syscall"

	"gobtrfs/disk"
	"gobtrfs/internal/space"
	"gobtrfs/internal/txn"
)

// subvolLocation is where the entry of a subvolume points to.
func subvolLocation(id disk.ObjectID) disk.Key {
	return disk.Key{ObjectID: id, Type: disk.KeyRootItem, Offset: 1<<64 - 1}
}

// CreateSubvol makes an empty subvolume under a new name; of a only
// permissions, owner and umask count. It inherits nothing from the directory
// but what a default ACL takes from the permissions, and compression from the
// top of the subvolume that it hangs in.
func (w *Writer) CreateSubvol(ctx context.Context, sub, dir disk.ObjectID, name []byte, a Attr) (id disk.ObjectID, err error) {
	err = w.do(ctx, sub, itemsSubvol, space.ClassNormal, func(ctx context.Context, e *edit) error {
		parent, err := e.newName(ctx, dir, name)
		if err != nil {
			return err
		}
		inherited, err := e.heritage(ctx, dir, disk.RootDirObjectID)
		if err != nil {
			return err
		}
		trans := w.tx.Trans()
		item := disk.RootItem{
			Inode: disk.InodeItem{
				Generation: 1, Size: 3, Nlink: 1, NBytes: uint64(w.base.super.NodeSize), Mode: modeDir | 0o755,
				Flags: disk.InodeRootItemIni,
			},
			RootDirID: disk.RootDirObjectID, Refs: 1, CTransID: trans, OTransID: trans, Ctime: e.now, Otime: e.now,
		}
		if item.UUID, err = w.tx.NewUUID(); err != nil {
			return err
		}
		if id, err = w.tx.NewSubvolID(ctx); err != nil {
			return err
		}
		t, err := w.tx.NewTree(ctx, id, item)
		if err != nil {
			return err
		}
		top := edit{w: w, t: t, now: e.now}
		inode := top.newInode(&disk.InodeItem{}, Attr{Mode: modeDir | a.Mode&0o7777, UID: a.UID, GID: a.GID})
		inode.Mode &^= a.Umask & 0o777
		if inherited.acl != nil {
			// As Linux does it, the ACL limits the mode but is not handed on.
			inode.Mode = inherited.acl.inherit(inode.Mode)
			inherited.acl = nil
		}
		if err := top.insertInode(ctx, disk.RootDirObjectID, &inode, inherited, 0); err != nil {
			return err
		}
		// The top directory is its own parent, under the name "..".
		if err := top.addRef(ctx, disk.RootDirObjectID, disk.RootDirObjectID, []byte(".."), 0); err != nil {
			return err
		}
		return e.nameSubvol(ctx, dir, &parent, name, t)
	})
	return id, err
}

// nameSubvol enters a new subvolume in a directory, in the root tree and in
// the UUID tree.
func (e *edit) nameSubvol(ctx context.Context, dir disk.ObjectID, parent *disk.InodeItem, name []byte, t *txn.Tree) error {
	index, err := e.newIndex(ctx, dir)
	if err != nil {
		return err
	}
	if err := e.addEntry(ctx, dir, parent, name, subvolLocation(t.ID()), disk.FtDir, index); err != nil {
		return err
	}
	if err := e.putInode(ctx, dir, parent); err != nil {
		return err
	}
	ref := disk.RootRef{DirID: dir, Sequence: index, Name: name}
	root := e.w.tx.RootTree()
	down, up := rootRefKeys(e.t.ID(), t.ID())
	if err := root.Insert(ctx, down, ref.Append(nil)); err != nil {
		return err
	}
	if err := root.Insert(ctx, up, ref.Append(nil)); err != nil {
		return err
	}
	return e.w.addUUID(ctx, t.Item().UUID, t.ID())
}

// rootRefKeys are the keys under which the root tree keeps a subvolume's name.
func rootRefKeys(parent, child disk.ObjectID) (down, up disk.Key) {
	return disk.Key{ObjectID: parent, Type: disk.KeyRootRef, Offset: uint64(child)},
		disk.Key{ObjectID: child, Type: disk.KeyRootBackref, Offset: uint64(parent)}
}

// uuidTree is the UUID tree, nil if the filesystem has none: Linux makes it at
// its next mount.
func (w *Writer) uuidTree(ctx context.Context) (*txn.Tree, error) {
	t, err := w.tx.Tree(ctx, disk.TreeUUID)
	if errors.Is(err, syscall.ENOENT) {
		return nil, nil
	}
	return t, err
}

// addUUID enters a subvolume in the UUID tree.
func (w *Writer) addUUID(ctx context.Context, u disk.UUID, id disk.ObjectID) error {
	t, err := w.uuidTree(ctx)
	if err != nil || t == nil {
		return err
	}
	k := disk.UUIDKey(u, disk.KeyUUIDSubvol)
	old, ok, err := t.Get(ctx, k)
	if err != nil {
		return err
	}
	b := binary.LittleEndian.AppendUint64(slices.Clone(old), uint64(id))
	if ok {
		return t.Update(ctx, k, b)
	}
	return t.Insert(ctx, k, b)
}

// removeUUID takes a subvolume out of the UUID tree, if it is there.
func (w *Writer) removeUUID(ctx context.Context, k disk.Key, id disk.ObjectID) error {
	t, err := w.uuidTree(ctx)
	if err != nil || t == nil {
		return err
	}
	data, ok, err := t.Get(ctx, k)
	if err != nil || !ok {
		return err
	}
	ids, err := disk.ParseUUIDItem(data)
	if err != nil {
		return w.base.corrupt(disk.TreeUUID, k, err)
	}
	var keep []byte
	for _, other := range ids {
		if other != id {
			keep = binary.LittleEndian.AppendUint64(keep, uint64(other))
		}
	}
	if len(keep) == 0 {
		return t.Delete(ctx, k)
	}
	return t.Update(ctx, k, keep)
}

// Snapshot makes a subvolume that shows what src shows now. It commits first.
func (w *Writer) Snapshot(ctx context.Context, src, sub, dir disk.ObjectID, name []byte, readOnly bool) (id disk.ObjectID, err error) {
	if err := w.flushSubvol(ctx, src); err != nil {
		return 0, err
	}
	err = w.tx.RunCommitted(ctx, txn.Operation{Items: itemsSubvol, Class: space.ClassNormal, Run: func(ctx context.Context) error {
		from, err := w.edit(ctx, src)
		if err != nil {
			return err
		}
		e, err := w.edit(ctx, sub)
		if err != nil {
			return err
		}
		if e.t.Item().Flags&disk.RootSubvolReadOnly != 0 {
			return fmt.Errorf("subvolume %d: %w", uint64(sub), syscall.EROFS)
		}
		parent, err := e.newName(ctx, dir, name)
		if err != nil {
			return err
		}
		item, err := w.snapshotItem(from.t.Item(), e.now, readOnly)
		if err != nil {
			return err
		}
		if id, err = w.tx.NewSubvolID(ctx); err != nil {
			return err
		}
		t, err := w.tx.CopyTree(ctx, from.t, id, item)
		if err != nil {
			return err
		}
		return e.nameSubvol(ctx, dir, &parent, name, t)
	}})
	return id, err
}

// snapshotItem is the root item of a snapshot of a subvolume with item src.
func (w *Writer) snapshotItem(src *disk.RootItem, now disk.Time, readOnly bool) (disk.RootItem, error) {
	item := *src
	var err error
	if item.UUID, err = w.tx.NewUUID(); err != nil {
		return item, err
	}
	if item.Inode.Flags&disk.InodeRootItemIni == 0 {
		// Made by mkfs: Linux takes the flags for garbage until it finds this
		// mark (btrfs_check_and_init_root_item, 6.18).
		item.Inode.Flags |= disk.InodeRootItemIni
		item.Flags, item.ByteLimit = 0, 0
	}
	item.ParentUUID = src.UUID
	item.OTransID, item.Otime = w.tx.Trans(), now
	item.Flags &^= disk.RootSubvolReadOnly
	item.DropProgress, item.DropLevel, item.Refs = disk.Key{}, 0, 1
	if readOnly {
		item.Flags |= disk.RootSubvolReadOnly
		return item, nil
	}
	// What can be written is not what was received any more.
	item.ReceivedUUID = disk.UUID{}
	item.STransID, item.RTransID, item.Stime, item.Rtime = 0, 0, disk.Time{}, disk.Time{}
	return item, nil
}

// DeleteSubvol removes a subvolume that holds no others. Its name goes at
// once; what it used is given back piece by piece, after a crash by whoever
// opens the filesystem next.
func (w *Writer) DeleteSubvol(ctx context.Context, sub, dir disk.ObjectID, name []byte) error {
	var id disk.ObjectID
	err := w.do(ctx, sub, itemsSubvol, space.ClassSteal, func(ctx context.Context, e *edit) error {
		parent, err := e.directory(ctx, dir)
		if err != nil {
			return err
		}
		d, ok, err := e.lookup(ctx, dir, name)
		switch {
		case err != nil:
			return err
		case !ok:
			return fmt.Errorf("%q: %w", name, (&Place{Name: name}).Missing())
		case d.Location.Type != disk.KeyRootItem:
			return fmt.Errorf("%q is no subvolume: %w", name, syscall.EINVAL)
		}
		if err := mayChange(dir, &parent, true); err != nil {
			return err
		}
		id = d.Location.ObjectID
		top, err := w.edit(ctx, id)
		if err != nil {
			return err
		}
		if item, err := top.inode(ctx, disk.RootDirObjectID); err != nil {
			return err
		} else if item.Flags&(disk.InodeImmutable|disk.InodeAppend) != 0 {
			return fmt.Errorf("%q is immutable: %w", name, syscall.EPERM)
		}
		if err := e.unlinkSubvol(ctx, dir, &parent, name, id); err != nil {
			return err
		}
		return e.putInode(ctx, dir, &parent)
	})
	if err != nil {
		return err
	}
	return w.dropUnheld(ctx, id)
}

// dropUnheld drops a subvolume that was deleted, now or with its last handle.
func (w *Writer) dropUnheld(ctx context.Context, id disk.ObjectID) error {
	if w.holds.deferDrop(id) {
		return nil
	}
	return w.dropSubvol(ctx, id)
}

// mayDelete refuses a subvolume that others need.
func (w *Writer) mayDelete(ctx context.Context, id disk.ObjectID) (*txn.Tree, error) {
	t, err := w.tx.Tree(ctx, id)
	if err != nil {
		return nil, err
	}
	s, err := w.running(ctx)
	if err != nil {
		return nil, err
	}
	if def, err := s.DefaultSubvol(ctx); err != nil {
		return nil, err
	} else if def == id {
		return nil, fmt.Errorf("subvolume %d is the default: %w", uint64(id), syscall.EPERM)
	}
	it, ok, err := w.tx.RootTree().Ceil(ctx, disk.Key{ObjectID: id, Type: disk.KeyRootRef})
	if err != nil {
		return nil, err
	}
	if ok && it.Key.ObjectID == id && it.Key.Type == disk.KeyRootRef {
		return nil, fmt.Errorf("subvolume %d holds subvolume %d: %w", uint64(id), it.Key.Offset, syscall.ENOTEMPTY)
	}
	return t, nil
}

func rootOrphanKey(id disk.ObjectID) disk.Key {
	return disk.Key{ObjectID: disk.OrphanObjectID, Type: disk.KeyOrphanItem, Offset: uint64(id)}
}

// unlinkSubvol takes a subvolume's name away, if it may go, and says in the
// root tree that it is to be dropped. The directory's inode is the caller's to
// write.
func (e *edit) unlinkSubvol(ctx context.Context, dir disk.ObjectID, parent *disk.InodeItem, name []byte, id disk.ObjectID) error {
	ref, err := e.rootRef(ctx, id)
	if err != nil {
		return err
	}
	t, err := e.w.mayDelete(ctx, id)
	if err != nil {
		return err
	}
	if err := e.removeEntry(ctx, dir, parent, name, ref.Sequence); err != nil {
		return err
	}
	root := e.w.tx.RootTree()
	down, up := rootRefKeys(e.t.ID(), t.ID())
	if err := root.Delete(ctx, down); err != nil {
		return err
	}
	if err := root.Delete(ctx, up); err != nil {
		return err
	}
	item := t.Item()
	if err := e.w.removeUUID(ctx, disk.UUIDKey(item.UUID, disk.KeyUUIDSubvol), t.ID()); err != nil {
		return err
	}
	if !item.ReceivedUUID.IsZero() {
		if err := e.w.removeUUID(ctx, disk.UUIDKey(item.ReceivedUUID, disk.KeyUUIDReceivedSubvol), t.ID()); err != nil {
			return err
		}
	}
	item.Refs, item.DropProgress, item.DropLevel = 0, disk.Key{}, 0
	item.Flags |= disk.RootSubvolDead
	t.Touch()
	return root.Insert(ctx, rootOrphanKey(t.ID()), nil)
}

// dropBatch is how many nodes one operation gives back.
const dropBatch = 64

// dropSubvol gives back what a subvolume without a name uses.
func (w *Writer) dropSubvol(ctx context.Context, id disk.ObjectID) error {
	for done := false; !done; {
		if err := context.Cause(ctx); err != nil {
			return err
		}
		err := w.tx.Do(ctx, itemsSubvol, space.ClassCleaner, func(ctx context.Context) error {
			w.forgetSubvol(id)
			t, err := w.tx.Tree(ctx, id)
			switch {
			case errors.Is(err, syscall.ENOENT):
				done = true // only the orphan item is left
			case err != nil:
				return err
			default:
				if done, err = w.tx.DropSome(ctx, t, dropBatch); err != nil {
					return err
				}
			}
			if !done {
				return nil
			}
			return w.tx.RootTree().Delete(ctx, rootOrphanKey(id))
		})
		if err != nil {
			return fmt.Errorf("drop subvolume %d: %w", uint64(id), err)
		}
	}
	return nil
}

// SetReadOnly makes a subvolume read-only, or writable again: then it is not
// what was received any more.
func (w *Writer) SetReadOnly(ctx context.Context, id disk.ObjectID, readOnly bool) error {
	if err := w.flushSubvol(ctx, id); err != nil {
		return err
	}
	return w.tx.Do(ctx, 3, space.ClassNormal, func(ctx context.Context) error {
		e, err := w.edit(ctx, id)
		if err != nil {
			return err
		}
		item := e.t.Item()
		if readOnly {
			w.late.unlearn(id)
			item.Flags |= disk.RootSubvolReadOnly
			item.Inode.Flags |= disk.InodeRootItemIni // else Linux drops the flag
			e.touchRoot()
			return nil
		}
		item.Flags &^= disk.RootSubvolReadOnly
		if !item.ReceivedUUID.IsZero() {
			if err := w.removeUUID(ctx, disk.UUIDKey(item.ReceivedUUID, disk.KeyUUIDReceivedSubvol), id); err != nil {
				return err
			}
			item.ReceivedUUID = disk.UUID{}
		}
		e.touchRoot()
		return nil
	})
}

// SetDefault makes a subvolume the one that is mounted when none is named.
func (w *Writer) SetDefault(ctx context.Context, id disk.ObjectID) error {
	return w.tx.Do(ctx, 3, space.ClassNormal, func(ctx context.Context) error {
		if _, err := w.edit(ctx, id); err != nil {
			return err
		}
		name := []byte("default")
		k := dirItemKey(w.base.super.RootDirObjectID, name)
		data, ok, err := w.tx.RootTree().Get(ctx, k)
		if err != nil {
			return err
		}
		var b []byte
		for rest := data; ok && len(rest) > 0; {
			d, next, err := disk.ParseDirItem(rest)
			if err != nil {
				return w.base.corrupt(disk.TreeRoot, k, err)
			}
			if string(d.Name) == string(name) {
				d.Location = subvolLocation(id)
			}
			b, rest = d.Append(b), next
		}
		if len(b) == 0 {
			return w.base.corrupt(disk.TreeRoot, k, fmt.Errorf("%w: no default subvolume", disk.ErrFormat))
		}
		if err := w.tx.NeedIncompat(ctx, disk.IncompatDefaultSubvol); err != nil {
			return err
		}
		return w.tx.RootTree().Update(ctx, k, b)
	})
}

// dropOrphanSubvols drops the subvolumes that an earlier session left without
// a name.
func (w *Writer) dropOrphanSubvols(ctx context.Context) error {
	for next := rootOrphanKey(0); ; next = next.Next() {
		var id disk.ObjectID
		err := w.tx.Look(ctx, func(ctx context.Context) error {
			it, ok, err := w.tx.RootTree().Ceil(ctx, next)
			if err == nil && ok && it.Key.ObjectID == disk.OrphanObjectID && it.Key.Type == disk.KeyOrphanItem {
				next, id = it.Key, disk.ObjectID(it.Key.Offset)
			}
			return err
		})
		if err != nil || id == 0 {
			return err
		}
		if err := w.dropSubvol(ctx, id); err != nil {
			return err
		}
	}
}
