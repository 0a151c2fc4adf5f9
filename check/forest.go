package check

import (
	"cmp"
	"slices"

	"gobtrfs/disk"
)

// treeKind says how the leaves of a tree are read.
type treeKind uint8

const (
	kindRoot treeKind = iota
	kindChunk
	kindExtent
	kindBlockGroup
	kindDev
	kindCsum
	kindFreeSpace
	kindUUID
	kindQuota
	kindStripe
	kindFile    // subvolumes, data relocation, relocation copies of subvolumes
	kindLogRoot // the tree of log trees
	kindLog
	kindOther // relocation copies of trees that are not subvolumes
)

// link is what says that a tree block is somewhere: a parent's pointer, or a
// root item.
type link struct {
	addr   disk.Logical
	gen    disk.TransID
	first  disk.Key     // of the child; the zero key for a root
	parent disk.Logical // 0 for a root
	owner  disk.ObjectID
	level  int8
	root   bool
	kind   treeKind
	// by is the tree in whose name the reference is kept; 0: it is by parent.
	by disk.ObjectID
}

// treeRoot is a tree to walk.
type treeRoot struct {
	id     disk.ObjectID
	offset uint64 // of the root item's key
	link
	// dead: the subvolume is being deleted; the part of the tree before drop
	// is gone already.
	refs      uint32
	dead      bool
	dropKey   disk.Key
	dropLevel int
}

// nodeInfo is what is kept of a tree block that was read.
type nodeInfo struct {
	addr  disk.Logical
	gen   disk.TransID
	owner disk.ObjectID
	first disk.Key
	last  disk.Key // of its own last slot
	level int8
	kind  treeKind
	bad   bool // could not be read: nothing else is known
	full  bool // its references are by parent (FULL_BACKREF)
	owned bool // one reference to it is in the name of its owner
	items int32
	// dropped: the first slots were released by an unfinished deletion.
	dropped int32
	kids    []kid // of interior nodes
	seg     *segment
	rare    *rareItems
	edge    *edge
}

// kid is one pointer of an interior node.
type kid struct {
	key  disk.Key
	addr disk.Logical
	gen  disk.TransID
}

// forest is a set of trees walked together, level by level.
type forest struct {
	roots  []treeRoot
	levels [disk.MaxLevel][]nodeInfo // sorted by address
}

// find is the node at addr of a level, nil if it was not reached.
func (f *forest) find(level int, addr disk.Logical) *nodeInfo {
	if level < 0 || level >= disk.MaxLevel {
		return nil
	}
	l := f.levels[level]
	i, ok := slices.BinarySearchFunc(l, addr, func(n nodeInfo, a disk.Logical) int { return cmp.Compare(n.addr, a) })
	if !ok {
		return nil
	}
	return &l[i]
}

// distinct sorts links by address and drops all but one for each. Of several
// the one with the highest generation stays: a pointer with a wrong generation
// must not make a good block look bad.
func distinct(links []link) []link {
	slices.SortFunc(links, func(a, b link) int {
		return cmp.Or(cmp.Compare(a.addr, b.addr), cmp.Compare(b.gen, a.gen), cmp.Compare(a.parent, b.parent))
	})
	return slices.CompactFunc(links, func(a, b link) bool { return a.addr == b.addr })
}
