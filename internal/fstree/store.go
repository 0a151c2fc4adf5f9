// Package fstree is the filesystem over the trees: subvolumes, inodes, names,
// file extents and extended attributes.
//
// Everything here reads a snapshot of one transaction and is safe for
// concurrent use. Paths and permissions belong to the callers.
//
// Glossary: an "overlay" is what a pending log tree adds to a subvolume: the
// items that replaying the log would change, kept in memory. "Pending" contents
// were written and are in no extent yet; a "flight" is what one file has on its
// way from there to the device; to "enter" it is to put it into the trees.
//
// # Lock order
//
//	pendingFile.busy     who changes a file's extents; two only as settleBoth takes them; I/O allowed
//	  the transaction's writer
//	    pendingFile.mu   what is pending of a file; no I/O
//	      backlog.mu     all of them; no I/O
package fstree

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"syscall"

	"gobtrfs/disk"
	"gobtrfs/internal/block"
	"gobtrfs/internal/btree"
	"gobtrfs/internal/volume"
)

// Options of a Store.
type Options struct {
	CacheBytes int64 // of tree blocks. Default: block.DefaultCacheBytes
	NoLog      bool  // leave a pending log tree alone
	// IgnoreDataCsums returns data without verifying it, for what is read only
	// to be looked at (filesystems whose checksum tree is gone).
	IgnoreDataCsums bool
	// Cache is one that other stores of the same volume use too.
	// Default: a new one.
	Cache *block.Cache
}

// Store is an open filesystem.
type Store struct {
	vol        *volume.Volume
	super      *disk.Superblock
	base       *block.Cache // what cache is a view of
	cache      *block.Cache
	stale      atomic.Bool // see Retire
	sectorSize uint64
	rootTree   *btree.Tree
	csumTree   *btree.Tree // nil: no data has checksums
	ignoreSums bool
	// live finds trees of the running transaction, whose roots the root tree
	// does not tell yet; nil: the store shows a commit.
	live func(ctx context.Context, id disk.ObjectID) (*btree.Tree, disk.RootItem, error)

	// pending are contents that are written and in no tree yet; nil: none show.
	pending *backlog

	logged  map[disk.ObjectID]*overlay
	logSums map[disk.Logical][]byte // by sector

	mu      sync.RWMutex
	subvols map[disk.ObjectID]*Subvol
}

// Open reads the roots of the filesystem on v. The raid stripe tree, where
// there is one, is connected to v.
func Open(ctx context.Context, v *volume.Volume, o Options) (*Store, error) {
	sb := v.Super()
	base := o.Cache
	if base == nil {
		base = block.New(v, block.Options{Bytes: o.CacheBytes})
	}
	s := &Store{
		vol: v, super: sb, base: base,
		sectorSize: uint64(sb.SectorSize), ignoreSums: o.IgnoreDataCsums,
		subvols: make(map[disk.ObjectID]*Subvol),
	}
	s.cache = base.Until(&s.stale)
	s.rootTree = btree.New(s.cache, btree.Root{
		ID: disk.TreeRoot, Bytenr: sb.Root, Level: int(sb.RootLevel), Generation: sb.Generation,
	})
	var err error
	if !o.IgnoreDataCsums {
		if s.csumTree, _, err = s.Tree(ctx, disk.TreeCsum); err != nil {
			return nil, fmt.Errorf("open checksum tree: %w", err)
		}
	}
	if sb.IncompatFlags&disk.IncompatRaidStripeTree != 0 {
		if err := s.connectStripeTree(ctx); err != nil {
			return nil, err
		}
	}
	if sb.LogRoot != 0 && !o.NoLog {
		if err := s.overlayLogs(ctx); err != nil {
			return nil, fmt.Errorf("read log tree: %w", err)
		}
	}
	return s, nil
}

// Volume is the devices below.
func (s *Store) Volume() *volume.Volume { return s.vol }

// Cache is the cache of tree blocks.
func (s *Store) Cache() *block.Cache { return s.base }

// Retire ends the store: a later transaction is about to overwrite what it
// reads. Reading fails with block.ErrStale from now on.
func (s *Store) Retire() { s.stale.Store(true) }

// Tree finds a tree by its id. The root and the chunk tree have no root item;
// theirs comes back empty. The error wraps syscall.ENOENT if there is none.
func (s *Store) Tree(ctx context.Context, id disk.ObjectID) (*btree.Tree, disk.RootItem, error) {
	switch id {
	case disk.TreeRoot:
		return s.rootTree, disk.RootItem{}, nil
	case disk.TreeChunk:
		return btree.New(s.cache, btree.Root{
			ID: id, Bytenr: s.super.ChunkRoot, Level: int(s.super.ChunkRootLevel), Generation: s.super.ChunkRootGen,
		}), disk.RootItem{}, nil
	}
	if s.live != nil {
		return s.live(ctx, id)
	}
	it := s.rootTree.SeekLast(ctx, disk.Key{ObjectID: id, Type: disk.KeyRootItem, Offset: 1<<64 - 1})
	if err := it.Err(); err != nil {
		return nil, disk.RootItem{}, err
	}
	if !it.Valid() || it.Key().ObjectID != id || it.Key().Type != disk.KeyRootItem {
		return nil, disk.RootItem{}, fmt.Errorf("tree %v: %w", id, syscall.ENOENT)
	}
	item, err := disk.ParseRootItem(it.Data())
	if err != nil {
		return nil, item, s.corrupt(disk.TreeRoot, it.Key(), err)
	}
	return s.treeAt(id, &item), item, nil
}

func (s *Store) treeAt(id disk.ObjectID, item *disk.RootItem) *btree.Tree {
	return btree.New(s.cache, btree.Root{ID: id, Bytenr: item.Bytenr, Level: int(item.Level), Generation: item.Generation})
}

// corrupt is the error of an item that cannot be what it must be.
func (s *Store) corrupt(tree disk.ObjectID, k disk.Key, cause error) error {
	return &volume.CorruptError{Tree: tree, Key: k, What: "item", Err: cause}
}

func (s *Store) connectStripeTree(ctx context.Context) error {
	t, _, err := s.Tree(ctx, disk.TreeRaidStripe)
	if errors.Is(err, syscall.ENOENT) {
		return nil
	} else if err != nil {
		return fmt.Errorf("open raid stripe tree: %w", err)
	}
	s.vol.SetStripeTree(func(ctx context.Context, l disk.Logical) ([]disk.RaidStride, disk.Logical, uint64, error) {
		it := t.SeekLast(ctx, disk.Key{ObjectID: disk.ObjectID(l), Type: disk.KeyRaidStripe, Offset: 1<<64 - 1})
		if err := it.Err(); err != nil {
			return nil, 0, 0, err
		}
		if !it.Valid() || it.Key().Type != disk.KeyRaidStripe || uint64(l)-uint64(it.Key().ObjectID) >= it.Key().Offset {
			return nil, 0, 0, &volume.CorruptError{
				Logical: l, Tree: disk.TreeRaidStripe, What: "data",
				Err: fmt.Errorf("%w: no stripe entry", disk.ErrFormat),
			}
		}
		strides, err := disk.ParseRaidStripe(it.Data())
		if err != nil {
			return nil, 0, 0, s.corrupt(disk.TreeRaidStripe, it.Key(), err)
		}
		return strides, disk.Logical(it.Key().ObjectID), it.Key().Offset, nil
	})
	return nil
}

// Subvol opens a subvolume by its tree id. The error wraps syscall.ENOENT if
// there is none, or it is being deleted.
func (s *Store) Subvol(ctx context.Context, id disk.ObjectID) (*Subvol, error) {
	s.mu.RLock()
	v := s.subvols[id]
	s.mu.RUnlock()
	if v != nil {
		return v, nil
	}
	if !id.IsSubvolume() && id != disk.TreeDataReloc {
		return nil, fmt.Errorf("subvolume %v: %w", id, syscall.ENOENT)
	}
	tree, item, err := s.Tree(ctx, id)
	if err != nil {
		return nil, err
	}
	if item.Refs == 0 {
		return nil, fmt.Errorf("subvolume %d is being deleted: %w", uint64(id), syscall.ENOENT)
	}
	v = &Subvol{store: s, id: id, item: item, items: view{tree: tree, over: s.logged[id]}}
	s.mu.Lock()
	defer s.mu.Unlock()
	if known := s.subvols[id]; known != nil {
		return known, nil
	}
	s.subvols[id] = v
	return v, nil
}

// SubvolIDs lists the subvolumes that are not being deleted, in rising order.
func (s *Store) SubvolIDs(ctx context.Context) ([]disk.ObjectID, error) {
	var ids []disk.ObjectID
	next := disk.Key{ObjectID: disk.TreeFS, Type: disk.KeyRootItem}
	for {
		it := s.rootTree.Seek(ctx, next)
		if err := it.Err(); err != nil || !it.Valid() {
			return ids, err
		}
		k := it.Key()
		switch {
		case k.ObjectID > disk.FirstFreeObjectID && !k.ObjectID.IsSubvolume():
			return ids, nil
		case k.ObjectID > disk.TreeFS && k.ObjectID < disk.FirstFreeObjectID:
			next = disk.Key{ObjectID: disk.FirstFreeObjectID}
			continue
		case k.Type < disk.KeyRootItem:
			next = disk.Key{ObjectID: k.ObjectID, Type: disk.KeyRootItem}
			continue
		case k.Type == disk.KeyRootItem:
			item, err := disk.ParseRootItem(it.Data())
			if err != nil {
				return ids, s.corrupt(disk.TreeRoot, k, err)
			}
			if n := len(ids); item.Refs > 0 && (n == 0 || ids[n-1] != k.ObjectID) {
				ids = append(ids, k.ObjectID)
			}
		}
		next = disk.Key{ObjectID: k.ObjectID + 1, Type: disk.KeyRootItem}
	}
}

// DefaultSubvol is the id of the subvolume that is mounted when none is named.
func (s *Store) DefaultSubvol(ctx context.Context) (disk.ObjectID, error) {
	const name = "default"
	it := s.rootTree.Seek(ctx, disk.Key{ObjectID: s.super.RootDirObjectID, Type: disk.KeyDirItem})
	for ; it.Valid() && it.Key().ObjectID == s.super.RootDirObjectID && it.Key().Type == disk.KeyDirItem; it.Next() {
		for rest := it.Data(); len(rest) > 0; {
			d, next, err := disk.ParseDirItem(rest)
			if err != nil {
				return 0, s.corrupt(disk.TreeRoot, it.Key(), err)
			}
			if string(d.Name) == name && d.Location.Type == disk.KeyRootItem {
				return d.Location.ObjectID, nil
			}
			rest = next
		}
	}
	return disk.TreeFS, it.Err()
}

// Parent says under which name a subvolume hangs: the tree, the directory in
// it and the name. ok is false for the top level and for subvolumes without a
// name.
func (s *Store) Parent(ctx context.Context, id disk.ObjectID) (tree disk.ObjectID, ref disk.RootRef, ok bool, err error) {
	it := s.rootTree.Seek(ctx, disk.Key{ObjectID: id, Type: disk.KeyRootBackref})
	if err := it.Err(); err != nil {
		return 0, ref, false, err
	}
	if !it.Valid() || it.Key().ObjectID != id || it.Key().Type != disk.KeyRootBackref {
		return 0, ref, false, nil
	}
	if ref, err = disk.ParseRootRef(it.Data()); err != nil {
		return 0, ref, false, s.corrupt(disk.TreeRoot, it.Key(), err)
	}
	return disk.ObjectID(it.Key().Offset), ref, true, nil
}

// isNamed says whether tree parent really holds subvolume child under this
// name: a snapshot takes along the entry of a nested subvolume, not the
// subvolume.
func (s *Store) isNamed(ctx context.Context, parent, child, dir disk.ObjectID, name []byte) (bool, error) {
	k := disk.Key{ObjectID: parent, Type: disk.KeyRootRef, Offset: uint64(child)}
	data, ok, err := s.rootTree.Get(ctx, k)
	if err != nil || !ok {
		return false, err
	}
	ref, err := disk.ParseRootRef(data)
	if err != nil {
		return false, s.corrupt(disk.TreeRoot, k, err)
	}
	return ref.DirID == dir && string(ref.Name) == string(name), nil
}

// lastExtent remembers one decompressed extent of an open file.
type lastExtent = atomic.Pointer[decompressed]

type decompressed struct {
	at   disk.Logical
	data []byte
}
