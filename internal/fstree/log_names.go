package fstree

import (
	"encoding/binary"
	"errors"
	"maps"
	"slices"
	"syscall"

	"gobtrfs/disk"
	"gobtrfs/internal/btree"
	"gobtrfs/internal/txn"
)

// above fails if a directory or subvolume on the way to one of an inode's names
// was moved: the file would be durable, but not where it is.
func (b *logBuilder) above(ino disk.ObjectID) error {
	names, err := b.now.Names(b.ctx, ino)
	if err != nil {
		return err
	}
	for _, n := range names {
		if ino != b.now.RootDir() {
			if err := b.path(b.now, b.was, n.Parent); err != nil {
				return err
			}
		}
	}
	return b.place(b.now, b.was)
}

// path fails if a directory or one above it was moved in its subvolume.
func (b *logBuilder) path(now, was *Subvol, dir disk.ObjectID) error {
	for depth := 0; dir != now.RootDir(); depth++ {
		s, err := b.statesIn(now, was, dir)
		if err != nil {
			return err
		}
		up, err := now.Names(b.ctx, dir)
		if err != nil {
			return err
		}
		if len(up) != 1 || !s.isNow || depth > maxDepth {
			return txn.ErrNoLog
		}
		if s.had {
			old, err := was.Names(b.ctx, dir)
			if err != nil {
				return err
			}
			if !sameNames(old, up) {
				return txn.ErrNoLog
			}
		}
		dir = up[0].Parent
	}
	return nil
}

// place fails if a subvolume, or one that it is in, was moved.
func (b *logBuilder) place(now, was *Subvol) error {
	for depth := 0; ; depth++ {
		up, ref, named, err := now.store.Parent(b.ctx, now.id)
		if err != nil {
			return err
		}
		oldUp, old, wasNamed, err := was.store.Parent(b.ctx, was.id)
		if err != nil {
			return err
		}
		if named != wasNamed || depth > maxDepth {
			return txn.ErrNoLog
		}
		if !named {
			return nil
		}
		if up != oldUp || ref.DirID != old.DirID || string(ref.Name) != string(old.Name) {
			return txn.ErrNoLog
		}
		if now, err = now.store.Subvol(b.ctx, up); err != nil {
			return err
		}
		if was, err = was.store.Subvol(b.ctx, up); err != nil {
			return err
		}
		if err := b.path(now, was, ref.DirID); err != nil {
			return err
		}
	}
}

func sameNames(a, b []Name) bool {
	return slices.EqualFunc(a, b, func(a, b Name) bool { return sameName(a, b) })
}

func sameName(a, b Name) bool {
	return a.Parent == b.Parent && a.Index == b.Index && string(a.Name) == string(b.Name)
}

func without(names, gone []Name) []Name {
	return slices.DeleteFunc(slices.Clone(names), func(n Name) bool {
		return slices.ContainsFunc(gone, func(g Name) bool { return sameName(n, g) })
	})
}

// names makes the log give an inode the names that it has.
func (b *logBuilder) names(ino disk.ObjectID) error {
	if b.named[ino] || ino == b.now.RootDir() {
		return nil
	}
	b.named[ino] = true // first: two inodes may have swapped names
	s, err := b.states(ino)
	if err != nil {
		return err
	}
	var now, was []Name
	if s.isNow {
		if now, err = b.now.Names(b.ctx, ino); err != nil {
			return err
		}
	}
	if s.had {
		if was, err = b.was.Names(b.ctx, ino); err != nil {
			return err
		}
	}
	if sameNames(was, now) {
		return b.replace(ino, isName, nil) // the log may have had others
	}
	if s.had && s.was.Mode&modeType == modeDir {
		return txn.ErrNoLog // moved, or gone with what it held
	}
	for _, n := range without(was, now) {
		if err := b.goes(n.Parent, n.Index); err != nil {
			return err
		}
	}
	if !s.isNow {
		delete(b.full, ino)
		delete(b.exists, ino)
		return b.replace(ino, func(disk.KeyType) bool { return true }, nil)
	}
	if err := b.exist(ino, &s); err != nil {
		return err
	}
	for _, n := range without(now, was) {
		if err := b.comes(ino, n); err != nil {
			return err
		}
	}
	var items []btree.Item
	c := b.now.items.seek(b.ctx, disk.Key{ObjectID: ino, Type: disk.KeyInodeRef})
	for ; c.valid() && c.key().ObjectID == ino && isName(c.key().Type); c.next() {
		items = append(items, btree.Item{Key: c.key(), Data: slices.Clone(c.data())})
	}
	if c.err() != nil {
		return c.err()
	}
	return b.replace(ino, isName, items)
}

// goes logs that a directory lost the name with an index.
func (b *logBuilder) goes(dir disk.ObjectID, index uint64) error {
	s, err := b.states(dir)
	if err != nil {
		return err
	}
	if !s.had {
		return txn.ErrNoLog
	}
	if err := b.exist(dir, &s); err != nil {
		return err
	}
	if b.removed[dir] == nil {
		b.removed[dir] = make(map[uint64]bool)
	}
	b.removed[dir][index] = true
	b.stale[dir] = true
	return nil
}

// comes prepares for a name that the last commit does not have: its directory
// is there, and what had the name or its index is out of the way.
func (b *logBuilder) comes(ino disk.ObjectID, n Name) error {
	if err := b.directoryExists(n.Parent); err != nil {
		return err
	}
	d, err := b.was.Lookup(b.ctx, n.Parent, n.Name)
	if err == nil {
		err = b.makesWay(ino, d.Location)
	}
	if err != nil && !errors.Is(err, syscall.ENOENT) {
		return err
	}
	k := disk.Key{ObjectID: n.Parent, Type: disk.KeyDirIndex, Offset: n.Index}
	data, ok, err := b.was.items.get(b.ctx, k)
	if err != nil || !ok {
		return err
	}
	item, _, err := disk.ParseDirItem(data)
	if err != nil {
		return b.was.corrupt(k, err)
	}
	return b.makesWay(ino, item.Location)
}

// directoryExists logs a directory that is new.
func (b *logBuilder) directoryExists(dir disk.ObjectID) error {
	s, err := b.states(dir)
	if err != nil || s.had && s.isNow {
		return err
	}
	if !s.isNow {
		return txn.ErrNoLog
	}
	if err := b.exist(dir, &s); err != nil {
		return err
	}
	return b.names(dir)
}

// makesWay logs the names of what had a name that ino now has: replay takes the
// name away from it.
func (b *logBuilder) makesWay(ino disk.ObjectID, who disk.Key) error {
	switch {
	case who.Type != disk.KeyInodeItem:
		return txn.ErrNoLog
	case who.ObjectID == ino:
		return nil
	}
	return b.names(who.ObjectID)
}

// directory logs which names a directory has: those that came and those that
// went since the last commit, with the inodes that they lead to.
func (b *logBuilder) directory(dir disk.ObjectID) error {
	from := disk.Key{ObjectID: dir, Type: disk.KeyDirIndex}
	to := disk.Key{ObjectID: dir, Type: disk.KeyDirIndex, Offset: 1<<64 - 1}
	return btree.Diff(b.ctx, b.was.items.tree, b.now.items.tree, b.trans, from, to, func(c btree.Change) error {
		for _, data := range [2][]byte{c.Old, c.New} {
			if data == nil {
				continue
			}
			d, _, err := disk.ParseDirItem(data)
			if err != nil {
				return b.now.corrupt(c.Key, err)
			}
			if d.Location.Type != disk.KeyInodeItem {
				return txn.ErrNoLog
			}
			if err := b.names(d.Location.ObjectID); err != nil {
				return err
			}
		}
		return nil
	})
}

// ranges writes the indexes of names that went.
func (b *logBuilder) ranges() error {
	for _, dir := range slices.Sorted(maps.Keys(b.stale)) {
		var items []btree.Item
		start, end := uint64(0), uint64(0)
		flush := func() {
			if end > 0 {
				items = append(items, btree.Item{
					Key:  disk.Key{ObjectID: dir, Type: disk.KeyDirLogIndex, Offset: start},
					Data: binary.LittleEndian.AppendUint64(nil, end),
				})
			}
		}
		for _, i := range slices.Sorted(maps.Keys(b.removed[dir])) {
			if end == 0 || i != end+1 {
				flush()
				start = i
			}
			end = i
		}
		flush()
		if err := b.replace(dir, isRange, items); err != nil {
			return err
		}
	}
	clear(b.stale)
	return nil
}

// sums logs the checksums of an extent of data, where the log has none yet.
func (b *logBuilder) sums(fe *disk.FileExtent) error {
	at, end := sumRange(fe)
	all, ok, err := b.w.tx.Sums(b.ctx, at, uint64(end-at))
	if err != nil || !ok {
		return err // no checksums: written without
	}
	all = slices.Clone(all)
	size, sector := b.w.base.super.CsumType.Size(), disk.Logical(b.w.base.sectorSize)
	key := func(at disk.Logical) disk.Key {
		return disk.Key{ObjectID: disk.ExtentCsumObjectID, Type: disk.KeyExtentCsum, Offset: uint64(at)}
	}
	skip := func(to disk.Logical) {
		all, at = all[int((to-at)/sector)*size:], to
	}
	for at < end {
		it, ok, err := b.log.Floor(b.ctx, key(at))
		if err != nil {
			return err
		}
		if ok && it.Key.Type == disk.KeyExtentCsum {
			if known := disk.Logical(it.Key.Offset) + disk.Logical(len(it.Data)/size)*sector; known > at {
				skip(min(known, end))
				continue
			}
		}
		stop := min(end, at+disk.Logical(maxLogSums/size)*sector)
		if it, ok, err = b.log.Ceil(b.ctx, key(at)); err != nil {
			return err
		}
		if ok && it.Key.Type == disk.KeyExtentCsum {
			stop = min(stop, disk.Logical(it.Key.Offset))
		}
		if err := b.log.Insert(b.ctx, key(at), all[:int((stop-at)/sector)*size]); err != nil {
			return err
		}
		skip(stop)
	}
	return nil
}

// maxLogSums bounds an item of checksums, in bytes: it fits the smallest leaf.
const maxLogSums = 2048
