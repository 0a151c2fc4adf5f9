package check

import (
	"cmp"

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
	full   bool // the references of the block at addr are by parent; set when it is read
	kind   treeKind
	// by is the tree in whose name the reference is kept; 0: it is by parent.
	by disk.ObjectID
}

// compareLinks orders links by address. Of several to one block the one with
// the highest generation comes first and counts: a pointer with a wrong
// generation must not make a good block look bad.
func compareLinks(a, b link) int {
	return cmp.Or(cmp.Compare(a.addr, b.addr), cmp.Compare(b.gen, a.gen), cmp.Compare(a.parent, b.parent))
}

func sameBlock(last *link, b link) bool { return last.addr == b.addr }

func compareAddrs(a, b disk.Logical) int { return cmp.Compare(a, b) }

func sameAddr(last *disk.Logical, b disk.Logical) bool { return *last == b }

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

// nodeInfo is what is kept of a tree block that was read. It has no pointers,
// so that it can be in a paged array.
type nodeInfo struct {
	addr  disk.Logical
	gen   disk.TransID
	owner disk.ObjectID
	first disk.Key
	last  disk.Key // of its own last slot
	edge  edge
	kids  int64 // of interior nodes: the first one, in forest.kids
	seg   int64 // 1 + the place in forest.segs; 0: none
	memo  int64 // 1 + the place in forest.memos; 0: none
	rare  int32 // 1 + the place in forest.rares; 0: none
	set   int32 // of subvolumes that reach it, for quotas
	mark  int32 // of the last search for the leaves of a tree that came by
	items int32
	// dropped: the first slots were released by an unfinished deletion.
	dropped int32
	kidN    int32
	level   int8
	kind    treeKind
	bad     bool // could not be read: nothing else is known
	full    bool // its references are by parent (FULL_BACKREF)
	owned   bool // one reference to it is in the name of its owner
	// What is known of the first inode of a leaf whose item stands further
	// left: that it has one, and that its data has no checksums.
	headKnown, headNoSum bool
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
	levels [disk.MaxLevel]nodeList
	kids   *paged[kid]
	segs   *paged[segment] // of leaves of files
	memos  *paged[memo]
	rares  []*rareItems
	lists  [][]*rareItems // of memos
}

// nodeList is the blocks of one level, in the order of their addresses.
type nodeList struct {
	nodes  *paged[nodeInfo]
	firsts []disk.Logical // of each page
	last   int            // found by the last search
}

func (l *nodeList) len() int {
	if l.nodes == nil {
		return 0
	}
	return l.nodes.len()
}

func (l *nodeList) add(p *pool, n *nodeInfo) {
	if l.nodes == nil {
		l.nodes = newPaged[nodeInfo](p)
	}
	if i := l.nodes.add(*n); i%l.nodes.per == 0 {
		l.firsts = append(l.firsts, n.addr)
	}
}

// search is the index of the block at a. Trees are mostly laid out in the order
// of their keys, so the block behind the last one found is looked at first.
func (l *nodeList) search(a disk.Logical) (int, bool) {
	n := l.len()
	if i := l.last + 1; i < n && l.nodes.at(i).addr == a {
		l.last = i
		return i, true
	}
	lo, hi := 0, len(l.firsts)
	for lo < hi {
		if mid := (lo + hi) / 2; l.firsts[mid] <= a {
			lo = mid + 1
		} else {
			hi = mid
		}
	}
	if lo == 0 {
		return 0, false
	}
	lo = (lo - 1) * l.nodes.per
	hi = min(lo+l.nodes.per, n)
	for lo < hi {
		if mid := (lo + hi) / 2; l.nodes.at(mid).addr < a {
			lo = mid + 1
		} else {
			hi = mid
		}
	}
	if lo >= n || l.nodes.at(lo).addr != a {
		return 0, false
	}
	l.last = lo
	return lo, true
}

// find is the block at addr of a level; ok is false if it was not reached.
func (f *forest) find(level int, addr disk.Logical) (n nodeInfo, ok bool) {
	if level < 0 || level >= disk.MaxLevel {
		return n, false
	}
	i, ok := f.levels[level].search(addr)
	if ok {
		n = *f.levels[level].nodes.at(i)
	}
	return n, ok
}

// each calls do for every block that was reached, from the highest level down,
// until it returns false. n is valid during the call.
func (f *forest) each(do func(n *nodeInfo) bool) {
	var n nodeInfo
	for l := disk.MaxLevel - 1; l >= 0; l-- {
		for i := range f.levels[l].len() {
			n = *f.levels[l].nodes.at(i)
			if !do(&n) {
				return
			}
		}
	}
}

// kid is pointer i of an interior block.
func (f *forest) kid(n *nodeInfo, i int) kid { return *f.kids.at(int(n.kids) + i) }

// childFor is the pointer of an interior block on the way to k.
func (f *forest) childFor(n *nodeInfo, k disk.Key) int {
	i, hi := 0, int(n.kidN)-1
	for i < hi {
		mid := (i + hi + 1) / 2
		if k.Less(f.kid(n, mid).key) {
			hi = mid - 1
		} else {
			i = mid
		}
	}
	return i
}
