package fusefs

import (
	"sync"

	btrfs "gobtrfs"
	"gobtrfs/disk"
)

// nodeID is what kernel and server call an inode. 0 is none, 1 the top of the
// mount. The others carry their meaning in themselves, so that a file handle
// (name_to_handle_at, NFS) leads to its inode even after everybody forgot it:
//
//	0 ino………………………………………  inode of the mounted subvolume, as it is
//	1 subvolume(23) ino(40)     inode of another subvolume
//	01 counter                  whatever fits neither form, and stubs: a table
//
// Nodes are inode numbers as well (st_ino): unique in the mount, and the same
// from mount to mount except for the last form. btrfs numbers inodes by
// subvolume and tells them apart by st_dev, of which a FUSE mount has one.
type nodeID uint64

const (
	rootNode    nodeID = 1
	nodeForeign nodeID = 1 << 63
	nodeTabled  nodeID = 1 << 62

	nodeInoBits    = 40
	nodeSubvolBits = 23
)

// place is an inode in the filesystem.
type place struct{ subvol, ino disk.ObjectID }

func placeOf(f *btrfs.File) place { return place{f.Subvolume().ID(), f.Ino()} }

// pack gives the node of a place, unless it needs the table. top is the top of
// the mount.
func pack(top, p place) (nodeID, bool) {
	switch {
	case p == top:
		return rootNode, true
	case p.subvol == top.subvol:
		id := nodeID(p.ino)
		return id, id > rootNode && id < nodeTabled
	}
	// The last subvolume is left out: with the last inode it would be the number
	// that go-fuse keeps for itself.
	fits := uint64(p.subvol) < 1<<nodeSubvolBits-1 && uint64(p.ino) < 1<<nodeInoBits
	return nodeForeign | nodeID(p.subvol)<<nodeInoBits | nodeID(p.ino), fits
}

// unpack is the inverse of pack. ok is false for nodes of the table and for
// numbers that are no node.
func unpack(top place, id nodeID) (p place, ok bool) {
	switch {
	case id == rootNode:
		return top, true
	case id&nodeForeign != 0:
		return place{disk.ObjectID(id &^ nodeForeign >> nodeInoBits), disk.ObjectID(id & (1<<nodeInoBits - 1))}, true
	case id > rootNode && id < nodeTabled:
		return place{top.subvol, disk.ObjectID(id)}, true
	}
	return place{}, false
}

// table holds the nodes that do not say themselves what they are. An entry
// lives while the kernel knows the node. Numbers are never used twice.
type table struct {
	mu     sync.Mutex
	last   nodeID
	byID   map[nodeID]*tabled
	byName map[tableKey]*tabled
}

// tableKey identifies what stands in the table: an inode by its place, a stub,
// which has no inode, by its name in its directory.
type tableKey struct {
	place
	name string // "" for inodes
}

type tabled struct {
	id      nodeID
	key     tableKey
	file    *btrfs.File
	lookups uint64 // that the kernel has not taken back
}

// add counts one lookup of what key stands for and returns its node.
func (t *table) add(key tableKey, file *btrfs.File) nodeID {
	t.mu.Lock()
	defer t.mu.Unlock()
	e := t.byName[key]
	if e == nil {
		if t.byID == nil {
			t.byID, t.byName = map[nodeID]*tabled{}, map[tableKey]*tabled{}
		}
		t.last++
		e = &tabled{id: nodeTabled | t.last, key: key, file: file}
		t.byID[e.id], t.byName[key] = e, e
	}
	e.lookups++
	return e.id
}

// again counts one more lookup of a node.
func (t *table) again(id nodeID) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if e := t.byID[id]; e != nil {
		e.lookups++
	}
}

func (t *table) get(id nodeID) *btrfs.File {
	t.mu.Lock()
	defer t.mu.Unlock()
	if e := t.byID[id]; e != nil {
		return e.file
	}
	return nil
}

// find is the node of what key stands for, if it has one.
func (t *table) find(key tableKey) (nodeID, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	e := t.byName[key]
	if e == nil {
		return 0, false
	}
	return e.id, true
}

// forget takes n lookups back.
func (t *table) forget(id nodeID, n uint64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	e := t.byID[id]
	if e == nil {
		return
	}
	if e.lookups -= min(n, e.lookups); e.lookups == 0 {
		delete(t.byID, id)
		delete(t.byName, e.key)
	}
}

func (t *table) size() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.byID)
}
