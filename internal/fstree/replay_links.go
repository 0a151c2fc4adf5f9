package fstree

import (
	"context"
	"maps"
	"slices"

	"gobtrfs/disk"
)

// fixLinks counts the names of every inode touched. An inode without names is
// an orphan, to be deleted by whoever writes; the names in a directory without
// names go first, which may leave more inodes without any.
func (r *replay) fixLinks(ctx context.Context) error {
	for len(r.touched) > 0 {
		inodes := slices.Sorted(maps.Keys(r.touched))
		clear(r.touched)
		for _, ino := range inodes {
			if err := r.fixLink(ctx, ino); err != nil {
				return err
			}
		}
	}
	return nil
}

func (r *replay) fixLink(ctx context.Context, ino disk.ObjectID) error {
	item, ok, err := r.inode(ctx, ino)
	if err != nil || !ok || ino == r.sub.RootDir() {
		return err
	}
	names, err := r.sub.Names(ctx, ino)
	if err != nil {
		return err
	}
	if n := uint32(len(names)); n != item.Nlink {
		item.Nlink = n
		r.putInode(ino, &item)
	}
	if item.Nlink > 0 {
		return nil
	}
	r.over.put(orphanKey(ino), nil)
	if item.Mode&modeType != modeDir {
		return nil
	}
	it := r.sub.ReadDir(ctx, ino, 0)
	var entries []DirEntry
	for it.Next() {
		entries = append(entries, *it.Entry())
	}
	if err := it.Err(); err != nil {
		return err
	}
	for _, d := range entries {
		if err := r.unlink(ctx, ino, d.Index, d.Location, d.Name); err != nil {
			return err
		}
	}
	return nil
}
