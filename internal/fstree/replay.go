package fstree

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"syscall"

	"gobtrfs/disk"
	"gobtrfs/internal/btree"
	"gobtrfs/internal/csum"
)

// A log tree holds, for one subvolume, what fsync made durable since the last
// commit. This file applies it to an overlay, with the results that the
// kernel's replay has (tree-log.c, Linux 6.18: btrfs_recover_log_trees and
// what it calls). The order matters and is the kernel's:
//
//	1. inodes:  extended attributes and names that the log no longer has go,
//	            the inode is overwritten, extents behind its size go
//	2. indexes: names in directory indexes are added
//	3. the rest: extended attributes, back references (with the names they
//	            stand for), file extents
//	4. link counts of all inodes touched are counted again

// overlayLogs reads the log root tree and builds an overlay per subvolume.
func (s *Store) overlayLogs(ctx context.Context) error {
	root := s.logRoot()
	s.logged = make(map[disk.ObjectID]*overlay)
	s.logSums = make(map[disk.Logical][]byte)
	it := root.Seek(ctx, disk.Key{ObjectID: disk.TreeLog, Type: disk.KeyRootItem})
	for ; it.Valid() && it.Key().ObjectID == disk.TreeLog && it.Key().Type == disk.KeyRootItem; it.Next() {
		item, err := disk.ParseRootItem(it.Data())
		if err != nil {
			return s.corrupt(disk.TreeLog, it.Key(), err)
		}
		id := disk.ObjectID(it.Key().Offset)
		sub, err := s.Subvol(ctx, id)
		if errors.Is(err, syscall.ENOENT) {
			continue // the subvolume was deleted after its log was written
		} else if err != nil {
			return err
		}
		r := &replay{
			store: s, sub: sub, log: s.treeAt(disk.TreeLog, &item), over: newOverlay(),
			touched: make(map[disk.ObjectID]bool),
		}
		sub.items.over = r.over
		if err := r.run(ctx); err != nil {
			return fmt.Errorf("subvolume %d: %w", uint64(id), err)
		}
		s.logged[id] = r.over
	}
	return it.Err()
}

// replay applies one log. Not for concurrent use.
type replay struct {
	store   *Store
	sub     *Subvol // reads through over, so each step sees those before it
	log     *btree.Tree
	over    *overlay
	touched map[disk.ObjectID]bool // inodes whose links are to be counted
}

func (r *replay) run(ctx context.Context) error {
	for _, stage := range []func(context.Context, disk.Key, []byte) error{r.replayInode, r.replayIndex, r.replayRest} {
		// The log of an inode without links is dead: it was deleted, or is a
		// temporary file.
		dead := disk.ObjectID(0)
		it := r.log.Seek(ctx, disk.Key{})
		for ; it.Valid(); it.Next() {
			k, data := it.Key(), it.Data()
			if k.Type == disk.KeyInodeItem {
				inode, err := disk.ParseInodeItem(data)
				if err != nil {
					return r.corrupt(k, err)
				}
				if inode.Nlink == 0 {
					dead = k.ObjectID
				}
			}
			if k.ObjectID == dead {
				continue
			}
			if err := stage(ctx, k, data); err != nil {
				return err
			}
		}
		if err := it.Err(); err != nil {
			return err
		}
	}
	return r.fixLinks(ctx)
}

func (r *replay) corrupt(k disk.Key, err error) error { return r.store.corrupt(disk.TreeLog, k, err) }

// inode reads an inode as it is by now; ok is false if there is none.
func (r *replay) inode(ctx context.Context, ino disk.ObjectID) (item disk.InodeItem, ok bool, err error) {
	item, err = r.sub.Inode(ctx, ino)
	if errors.Is(err, syscall.ENOENT) {
		return item, false, nil
	}
	return item, err == nil, err
}

func (r *replay) putInode(ino disk.ObjectID, item *disk.InodeItem) {
	r.over.put(disk.Key{ObjectID: ino, Type: disk.KeyInodeItem}, item.Append(nil))
}

// logHas says whether the log has an item with this key.
func (r *replay) logHas(ctx context.Context, k disk.Key) ([]byte, bool, error) {
	return r.log.Get(ctx, k)
}

// replayInode is stage 1.
func (r *replay) replayInode(ctx context.Context, k disk.Key, data []byte) error {
	if k.Type != disk.KeyInodeItem {
		return nil
	}
	logged, err := disk.ParseInodeItem(data)
	if err != nil {
		return r.corrupt(k, err)
	}
	ino := k.ObjectID
	if err := r.deleteXattrs(ctx, ino); err != nil {
		return err
	}
	isDir, isReg := logged.Mode&modeType == modeDir, logged.Mode&modeType == modeReg
	if isDir {
		if err := r.deleteNames(ctx, ino); err != nil {
			return err
		}
	}
	old, exists, err := r.inode(ctx, ino)
	if err != nil {
		return err
	}
	next := logged
	switch {
	case exists && logged.Generation == 0:
		// Logged only to say that it exists, with its size if that is known.
		next = old
		if isReg && old.Mode&modeType == modeReg && logged.Size != 0 {
			next.Size = logged.Size
		}
	case exists:
		next.NBytes = old.NBytes
		if isDir {
			next.Size = old.Size // grows and shrinks with its names
		}
	default:
		next.NBytes = 0
		if isDir {
			next.Size = 0
		}
		if next.Generation == 0 {
			next.Generation = r.store.super.Generation + 1
		}
	}
	r.putInode(ino, &next)
	if isReg {
		sector := r.store.sectorSize
		from := (next.Size + sector - 1) / sector * sector
		if err := r.dropExtents(ctx, ino, from, 1<<64-1); err != nil {
			return err
		}
	}
	r.touched[ino] = true
	return nil
}

// Parts of st_mode.
const (
	modeType = 0o170000
	modeDir  = 0o040000
	modeReg  = 0o100000
)

// deleteXattrs removes the extended attributes that the log does not have.
func (r *replay) deleteXattrs(ctx context.Context, ino disk.ObjectID) error {
	xattrs, err := r.sub.Xattrs(ctx, ino)
	if err != nil {
		return err
	}
	for _, x := range xattrs {
		k := disk.Key{ObjectID: ino, Type: disk.KeyXattrItem, Offset: uint64(csum.NameHash(x.Name))}
		data, ok, err := r.logHas(ctx, k)
		if err != nil {
			return err
		}
		if ok && hasName(data, x.Name) {
			continue
		}
		if err := r.removeNamed(ctx, k, x.Name); err != nil {
			return err
		}
	}
	return nil
}

// hasName says whether a DIR_ITEM or XATTR_ITEM holds an entry of that name.
func hasName(data, name []byte) bool {
	for len(data) > 0 {
		d, rest, err := disk.ParseDirItem(data)
		if err != nil {
			return false
		}
		if string(d.Name) == string(name) {
			return true
		}
		data = rest
	}
	return false
}

// removeNamed takes the entry called name out of a DIR_ITEM or XATTR_ITEM.
func (r *replay) removeNamed(ctx context.Context, k disk.Key, name []byte) error {
	data, ok, err := r.sub.items.get(ctx, k)
	if err != nil || !ok {
		return err
	}
	var kept []byte
	for len(data) > 0 {
		d, rest, err := disk.ParseDirItem(data)
		if err != nil {
			return r.sub.corrupt(k, err)
		}
		if string(d.Name) != string(name) {
			kept = d.Append(kept)
		}
		data = rest
	}
	if kept == nil {
		r.over.remove(k)
	} else {
		r.over.put(k, kept)
	}
	return nil
}

// deleteNames removes the names of a directory that lie in the ranges for
// which the log is complete, and that the log does not have.
func (r *replay) deleteNames(ctx context.Context, dir disk.ObjectID) error {
	it := r.log.Seek(ctx, disk.Key{ObjectID: dir, Type: disk.KeyDirLogIndex})
	for ; it.Valid() && it.Key().ObjectID == dir && it.Key().Type == disk.KeyDirLogIndex; it.Next() {
		start := it.Key().Offset
		end, err := disk.ParseDirLog(it.Data())
		if err != nil {
			return r.corrupt(it.Key(), err)
		}
		if err := r.deleteRange(ctx, dir, start, end); err != nil {
			return err
		}
	}
	return it.Err()
}

func (r *replay) deleteRange(ctx context.Context, dir disk.ObjectID, start, end uint64) error {
	next := disk.Key{ObjectID: dir, Type: disk.KeyDirIndex, Offset: start}
	for {
		c := r.sub.items.seek(ctx, next)
		if err := c.err(); err != nil || !c.valid() {
			return err
		}
		k := c.key()
		if k.ObjectID != dir || k.Type != disk.KeyDirIndex || k.Offset > end {
			return nil
		}
		d, _, err := disk.ParseDirItem(c.data())
		if err != nil {
			return r.sub.corrupt(k, err)
		}
		data, ok, err := r.logHas(ctx, k)
		if err != nil {
			return err
		}
		if !ok || !hasName(data, d.Name) {
			if err := r.unlink(ctx, dir, k.Offset, d.Location, d.Name); err != nil {
				return err
			}
		}
		next = k.Next()
	}
}

// unlink removes a name: both directory items and the back reference.
func (r *replay) unlink(ctx context.Context, dir disk.ObjectID, index uint64, target disk.Key, name []byte) error {
	hashKey := disk.Key{ObjectID: dir, Type: disk.KeyDirItem, Offset: uint64(csum.NameHash(name))}
	if err := r.removeNamed(ctx, hashKey, name); err != nil {
		return err
	}
	r.over.remove(disk.Key{ObjectID: dir, Type: disk.KeyDirIndex, Offset: index})
	if target.Type == disk.KeyInodeItem {
		if err := r.removeRef(ctx, target.ObjectID, dir, name); err != nil {
			return err
		}
		r.touched[target.ObjectID] = true
	}
	return r.resizeDir(ctx, dir, -2*int64(len(name)))
}

func (r *replay) resizeDir(ctx context.Context, dir disk.ObjectID, delta int64) error {
	item, ok, err := r.inode(ctx, dir)
	if err != nil || !ok {
		return err
	}
	item.Size += uint64(delta)
	r.putInode(dir, &item)
	return nil
}

// removeRef takes one name out of an inode's back references.
func (r *replay) removeRef(ctx context.Context, ino, parent disk.ObjectID, name []byte) error {
	for _, k := range refKeys(ino, parent, name) {
		data, ok, err := r.sub.items.get(ctx, k)
		if err != nil {
			return err
		}
		if !ok {
			continue
		}
		names, err := parseNames(k, data)
		if err != nil {
			return r.sub.corrupt(k, err)
		}
		var kept []byte
		for _, n := range names {
			if n.Parent != parent || string(n.Name) != string(name) {
				kept = appendRef(kept, k.Type, n)
			}
		}
		if kept == nil {
			r.over.remove(k)
		} else {
			r.over.put(k, kept)
		}
	}
	return nil
}

// refKeys are the two items in which the name of an inode may stand.
func refKeys(ino, parent disk.ObjectID, name []byte) [2]disk.Key {
	return [2]disk.Key{
		{ObjectID: ino, Type: disk.KeyInodeRef, Offset: uint64(parent)},
		{ObjectID: ino, Type: disk.KeyInodeExtref, Offset: csum.ExtrefHash(parent, name)},
	}
}

func appendRef(b []byte, t disk.KeyType, n Name) []byte {
	if t == disk.KeyInodeRef {
		return disk.InodeRef{Index: n.Index, Name: n.Name}.Append(b)
	}
	return disk.InodeExtref{Parent: n.Parent, Index: n.Index, Name: n.Name}.Append(b)
}

// replayIndex is stage 2: a name in a logged directory.
func (r *replay) replayIndex(ctx context.Context, k disk.Key, data []byte) error {
	if k.Type != disk.KeyDirIndex {
		return nil
	}
	d, _, err := disk.ParseDirItem(data)
	if err != nil {
		return r.corrupt(k, err)
	}
	dir := k.ObjectID
	if _, ok, err := r.inode(ctx, dir); err != nil || !ok {
		return err
	}
	_, exists, err := r.inode(ctx, d.Location.ObjectID)
	if err != nil {
		return err
	}
	sameName, err := r.clearName(ctx, dir, d.Name, d.Location, exists)
	if err != nil {
		return err
	}
	sameIndex, err := r.clearIndex(ctx, k, d.Name, d.Location, exists)
	if err != nil || sameName && sameIndex {
		return err
	}
	// A name whose back reference was logged too is added with that.
	for _, ref := range refKeys(d.Location.ObjectID, dir, d.Name) {
		data, ok, err := r.logHas(ctx, ref)
		if err != nil {
			return err
		}
		if ok && refHas(ref, data, dir, d.Name) {
			return nil
		}
	}
	if !exists || sameName || sameIndex {
		return nil
	}
	return r.link(ctx, dir, k.Offset, d.Location.ObjectID, d.Name, d.Type)
}

func refHas(k disk.Key, data []byte, parent disk.ObjectID, name []byte) bool {
	names, err := parseNames(k, data)
	if err != nil {
		return false
	}
	for _, n := range names {
		if n.Parent == parent && string(n.Name) == string(name) {
			return true
		}
	}
	return false
}

// clearName removes the entry called name unless it leads to want already.
// With want's inode missing (remove is false) it stays.
func (r *replay) clearName(ctx context.Context, dir disk.ObjectID, name []byte, want disk.Key, remove bool) (same bool, err error) {
	d, err := r.sub.Lookup(ctx, dir, name)
	if errors.Is(err, syscall.ENOENT) {
		return false, nil
	} else if err != nil {
		return false, err
	}
	if d.Location == want {
		return true, nil
	}
	if !remove {
		return false, nil
	}
	index, err := r.indexOf(ctx, dir, d.Location, name)
	if err != nil {
		return false, err
	}
	return false, r.unlink(ctx, dir, index, d.Location, name)
}

// clearIndex removes the entry with index k unless it leads to want already.
func (r *replay) clearIndex(ctx context.Context, k disk.Key, name []byte, want disk.Key, remove bool) (same bool, err error) {
	data, ok, err := r.sub.items.get(ctx, k)
	if err != nil || !ok {
		return false, err
	}
	d, _, err := disk.ParseDirItem(data)
	if err != nil {
		return false, r.sub.corrupt(k, err)
	}
	if d.Location == want && string(d.Name) == string(name) {
		return true, nil
	}
	if !remove {
		return false, nil
	}
	return false, r.unlink(ctx, k.ObjectID, k.Offset, d.Location, d.Name)
}

// indexOf finds the directory index of a name by the back reference, and by
// walking the directory where there is none.
func (r *replay) indexOf(ctx context.Context, dir disk.ObjectID, target disk.Key, name []byte) (uint64, error) {
	if target.Type == disk.KeyInodeItem {
		for _, k := range refKeys(target.ObjectID, dir, name) {
			data, ok, err := r.sub.items.get(ctx, k)
			if err != nil {
				return 0, err
			}
			if !ok {
				continue
			}
			names, err := parseNames(k, data)
			if err != nil {
				return 0, r.sub.corrupt(k, err)
			}
			for _, n := range names {
				if n.Parent == dir && string(n.Name) == string(name) {
					return n.Index, nil
				}
			}
		}
	}
	it := r.sub.ReadDir(ctx, dir, 0)
	for it.Next() {
		if e := it.Entry(); string(e.Name) == string(name) {
			return e.Index, nil
		}
	}
	return 0, it.Err()
}

// link adds a name: both directory items and the back reference.
func (r *replay) link(ctx context.Context, dir disk.ObjectID, index uint64, ino disk.ObjectID, name []byte, ftype uint8) error {
	if err := r.enter(ctx, dir, index, ino, name, ftype); err != nil {
		return err
	}
	n := Name{Parent: dir, Index: index, Name: name}
	for i, k := range refKeys(ino, dir, name) {
		refs, _, err := r.sub.items.get(ctx, k)
		if err != nil {
			return err
		}
		if refHas(k, refs, dir, name) {
			return nil
		}
		refs = appendRef(slices.Clone(refs), k.Type, n)
		if i > 0 || len(refs) <= maxItem(r.store.super) {
			r.over.put(k, refs)
			return nil
		}
	}
	return nil
}

// enter adds both directory items of a name.
func (r *replay) enter(ctx context.Context, dir disk.ObjectID, index uint64, ino disk.ObjectID, name []byte, ftype uint8) error {
	item := disk.DirItem{
		Location: disk.Key{ObjectID: ino, Type: disk.KeyInodeItem}, TransID: r.store.super.Generation + 1,
		Type: ftype, Name: name,
	}
	hashKey := disk.Key{ObjectID: dir, Type: disk.KeyDirItem, Offset: uint64(csum.NameHash(name))}
	same, _, err := r.sub.items.get(ctx, hashKey)
	if err != nil {
		return err
	}
	r.over.put(hashKey, item.Append(append([]byte(nil), same...)))
	r.over.put(disk.Key{ObjectID: dir, Type: disk.KeyDirIndex, Offset: index}, item.Append(nil))
	r.touched[ino] = true
	return r.resizeDir(ctx, dir, 2*int64(len(name)))
}

// replayRest is stage 3.
func (r *replay) replayRest(ctx context.Context, k disk.Key, data []byte) error {
	switch k.Type {
	case disk.KeyXattrItem:
		if _, ok, err := r.inode(ctx, k.ObjectID); err != nil || !ok {
			return err
		}
		r.over.put(k, data)
		return nil
	case disk.KeyInodeRef, disk.KeyInodeExtref:
		return r.replayRef(ctx, k, data)
	case disk.KeyExtentData:
		return r.replayExtent(ctx, k, data)
	case disk.KeyExtentCsum:
		return r.replaySums(k, data)
	}
	return nil
}

// replayRef makes an inode's names in one directory those of the log.
func (r *replay) replayRef(ctx context.Context, k disk.Key, data []byte) error {
	if k.Type == disk.KeyInodeRef && uint64(k.ObjectID) == k.Offset {
		return nil // the top directory's "..", which is no name
	}
	names, err := parseNames(k, data)
	if err != nil {
		return r.corrupt(k, err)
	}
	inode, ok, err := r.inode(ctx, k.ObjectID)
	if err != nil || !ok {
		return err
	}
	want := disk.Key{ObjectID: k.ObjectID, Type: disk.KeyInodeItem}
	linked := false
	for _, n := range names {
		if _, ok, err := r.inode(ctx, n.Parent); err != nil {
			return err
		} else if !ok {
			continue // the directory was deleted, or not logged
		}
		linked = true
		indexKey := disk.Key{ObjectID: n.Parent, Type: disk.KeyDirIndex, Offset: n.Index}
		if same, err := r.hasLink(ctx, indexKey, n.Name, want); err != nil {
			return err
		} else if same {
			continue
		}
		if err := r.dropStaleRefs(ctx, k, n); err != nil {
			return err
		}
		if _, err := r.clearIndex(ctx, indexKey, n.Name, disk.Key{}, true); err != nil {
			return err
		}
		if _, err := r.clearName(ctx, n.Parent, n.Name, disk.Key{}, true); err != nil {
			return err
		}
		// The back reference is the log's, in the item where that has it.
		if err := r.enter(ctx, n.Parent, n.Index, k.ObjectID, n.Name, disk.FileType(inode.Mode)); err != nil {
			return err
		}
	}
	if !linked {
		return nil
	}
	if err := r.dropStaleRefs(ctx, k, Name{Parent: names[0].Parent}); err != nil {
		return err
	}
	r.touched[k.ObjectID] = true
	r.over.put(k, data)
	return nil
}

// hasLink says whether the directory has this name, with this index, for the
// same inode already.
func (r *replay) hasLink(ctx context.Context, indexKey disk.Key, name []byte, want disk.Key) (bool, error) {
	data, ok, err := r.sub.items.get(ctx, indexKey)
	if err != nil || !ok {
		return false, err
	}
	d, _, err := disk.ParseDirItem(data)
	if err != nil {
		return false, r.sub.corrupt(indexKey, err)
	}
	if d.Location != want || string(d.Name) != string(name) {
		return false, nil
	}
	byName, err := r.sub.Lookup(ctx, indexKey.ObjectID, name)
	if errors.Is(err, syscall.ENOENT) {
		return false, nil
	}
	return err == nil && byName.Location == want, err
}

// dropStaleRefs unlinks the names that the subvolume's items for (inode,
// parent) have and the log's do not.
func (r *replay) dropStaleRefs(ctx context.Context, k disk.Key, n Name) error {
	keys := []disk.Key{{ObjectID: k.ObjectID, Type: disk.KeyInodeRef, Offset: uint64(n.Parent)}, k}
	if n.Name != nil {
		keys[1] = refKeys(k.ObjectID, n.Parent, n.Name)[1]
	}
	for _, rk := range keys {
		data, ok, err := r.sub.items.get(ctx, rk)
		if err != nil {
			return err
		}
		if !ok {
			continue
		}
		old, err := parseNames(rk, data)
		if err != nil {
			return r.sub.corrupt(rk, err)
		}
		for _, o := range old {
			kept := false
			for _, lk := range refKeys(k.ObjectID, o.Parent, o.Name) {
				logged, ok, err := r.logHas(ctx, lk)
				if err != nil {
					return err
				}
				kept = kept || ok && refHas(lk, logged, o.Parent, o.Name)
			}
			if kept {
				continue
			}
			target := disk.Key{ObjectID: k.ObjectID, Type: disk.KeyInodeItem}
			if err := r.unlink(ctx, o.Parent, o.Index, target, o.Name); err != nil {
				return err
			}
		}
	}
	return nil
}
