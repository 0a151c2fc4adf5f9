package check

import (
	"cmp"
	"fmt"
	"slices"

	"gobtrfs/disk"
)

// makeRoots turns the root items into the trees of the second and the third
// forest.
func (c *checker) makeRoots() {
	slices.SortFunc(c.rootItems, func(a, b rootRecord) int { return a.key.Compare(b.key) })
	seen := make(map[disk.ObjectID]bool)
	for i := range c.rootItems {
		r := &c.rootItems[i]
		id := r.key.ObjectID
		k := r.key
		at := Place{Tree: disk.TreeRoot, Key: keyOf(k), Logical: r.from}
		kind, which := kindOf(r.key)
		if which < 0 {
			c.find.add(Finding{Code: CodeRootItem, Place: at, What: "the root of a tree that does not exist"})
			continue
		}
		if id != disk.TreeReloc {
			if seen[id] {
				c.find.add(Finding{Code: CodeRootItem, Place: at, What: "a second root item of the same tree"})
			}
			seen[id] = true
		}
		c.checkRootItem(r, at)
		if r.item.Bytenr == 0 || r.item.Level >= disk.MaxLevel {
			c.find.add(Finding{Code: CodeTreeRoot, Place: at, What: fmt.Sprintf("the root of a tree is at %d with level %d", uint64(r.item.Bytenr), r.item.Level)})
			c.broken.Store(true)
			continue
		}
		c.forests[which].roots = append(c.forests[which].roots, treeRoot{
			id: id, offset: r.key.Offset, dead: r.item.DropProgress.ObjectID != 0, dropKey: r.item.DropProgress, dropLevel: int(r.item.DropLevel),
			refs: r.item.Refs,
			link: link{addr: r.item.Bytenr, gen: r.item.Generation, owner: id, level: int8(r.item.Level), root: true, kind: kind},
		})
	}
	c.requireTrees(seen)
}

// kindOf says what a root item's tree is and in which forest it is walked; -1:
// in none.
func kindOf(k disk.Key) (treeKind, int) {
	switch id := k.ObjectID; id {
	case disk.TreeExtent:
		return kindExtent, 1
	case disk.TreeBlockGroup:
		return kindBlockGroup, 1
	case disk.TreeDev:
		return kindDev, 2
	case disk.TreeCsum:
		return kindCsum, 2
	case disk.TreeFreeSpace:
		return kindFreeSpace, 2
	case disk.TreeUUID:
		return kindUUID, 2
	case disk.TreeQuota:
		return kindQuota, 2
	case disk.TreeRaidStripe:
		return kindStripe, 2
	case disk.TreeDataReloc:
		return kindFile, 2
	case disk.TreeReloc:
		if o := disk.ObjectID(k.Offset); o.IsSubvolume() || o == disk.TreeDataReloc {
			return kindFile, 2
		}
		return kindOther, 2
	default:
		if id.IsSubvolume() {
			return kindFile, 2
		}
		return 0, -1
	}
}

func (c *checker) requireTrees(have map[disk.ObjectID]bool) {
	need := []disk.ObjectID{disk.TreeExtent, disk.TreeDev, disk.TreeFS, disk.TreeCsum}
	if c.sb.CompatROFlags&disk.CompatROBlockGroupTree != 0 {
		need = append(need, disk.TreeBlockGroup)
	}
	if c.sb.CompatROFlags&(disk.CompatROFreeSpaceTree|disk.CompatROFreeSpaceTreeValid) != 0 {
		need = append(need, disk.TreeFreeSpace)
	}
	if c.sb.IncompatFlags&disk.IncompatRaidStripeTree != 0 {
		need = append(need, disk.TreeRaidStripe)
	}
	for id, flag := range map[disk.ObjectID]uint64{disk.TreeFreeSpace: disk.CompatROFreeSpaceTree, disk.TreeBlockGroup: disk.CompatROBlockGroupTree} {
		if have[id] && c.sb.CompatROFlags&flag == 0 {
			c.find.add(Finding{Code: CodeSuper, Place: Place{Tree: id}, What: fmt.Sprintf("tree %v is there, but the superblock has not its feature", id)})
		}
	}
	for _, id := range need {
		if !have[id] {
			c.find.add(Finding{Code: CodeTreeMissing, Place: Place{Tree: id}, What: fmt.Sprintf("the root tree has no root of tree %v", id)})
			c.broken.Store(true)
		}
	}
}

// checkRootItem checks the fields of a root item that do not depend on others.
func (c *checker) checkRootItem(r *rootRecord, at Place) {
	bad := func(what, want, got string) {
		c.find.add(Finding{Code: CodeRootItem, Place: at, What: what, Expected: want, Found: got})
	}
	it := &r.item
	if it.Generation > c.sb.Generation {
		bad("the root of a tree is newer than the superblock", fmt.Sprintf("at most %d", c.sb.Generation), fmt.Sprint(it.Generation))
	}
	// It may be newer than the tree: a relocation sets it.
	if it.LastSnapshot > c.sb.Generation {
		bad("the last snapshot of a tree is newer than the superblock", fmt.Sprintf("at most %d", c.sb.Generation), fmt.Sprint(it.LastSnapshot))
	}
	id := r.key.ObjectID
	files := id.IsSubvolume() || id == disk.TreeDataReloc
	if files && it.RootDirID != disk.RootDirObjectID {
		bad("the top directory of a subvolume", fmt.Sprint(uint64(disk.RootDirObjectID)), fmt.Sprint(uint64(it.RootDirID)))
	}
	// A snapshot's key has the transaction that made it, and so has that of the
	// data relocation tree which btrfs-convert makes.
	switch offset := r.key.Offset; {
	case offset == 0 || id == disk.TreeReloc:
	case id == disk.TreeDataReloc && offset <= uint64(c.sb.Generation):
	case !id.IsSubvolume() || id == disk.TreeFS:
		bad("the offset in the key of a root item", "0", fmt.Sprint(offset))
	case offset > uint64(c.sb.Generation) || it.OTransID != 0 && offset != uint64(it.OTransID):
		bad("the offset in the key of a snapshot's root item", fmt.Sprint(uint64(it.OTransID)), fmt.Sprint(offset))
	}
	if id.IsSubvolume() && it.DropProgress.ObjectID != 0 && it.DropLevel == 0 {
		bad("the level where the deletion of a subvolume stopped", "at least 1", "0")
	}
	if id.IsSubvolume() && it.DropLevel > it.Level {
		bad("the level where the deletion of a subvolume stopped", fmt.Sprintf("at most %d", it.Level), fmt.Sprint(it.DropLevel))
	}
	// Linux makes the quota tree without a reference.
	if id != disk.TreeReloc && id != disk.TreeQuota && (!id.IsSubvolume() || id == disk.TreeFS) && it.Refs != 1 {
		bad("references to a tree", "1", fmt.Sprint(it.Refs))
	}
}

// rootResult is what a tree of files adds up to as a whole.
type rootResult struct {
	root  *treeRoot
	sums  treeSums
	rare  []*rareItems
	whole bool // all of it could be read, and none of it is being deleted
}

// foldForest puts the leaves of all trees of a forest together.
func (c *checker) foldForest(f *forest) {
	fo := &folder{c: c, f: f}
	for i := range f.roots {
		r := &f.roots[i]
		fo.tree = r.id
		at := r.link
		at.by = r.id
		out := fo.fold(&at)
		if r.kind != kindFile && r.kind != kindRoot {
			continue
		}
		top := *out // the memo keeps what other trees need
		if !top.seg.empty {
			if r.kind == kindFile && r.id != disk.TreeReloc && !top.gapHead {
				c.topDirectory(r, &top.seg.head)
			}
			fo.finish(&top, &top.seg.head)
			if !top.seg.single {
				fo.finish(&top, &top.seg.tail)
			}
		} else if r.kind == kindFile && !top.gap && r.id.IsSubvolume() {
			c.find.add(Finding{Code: CodeInodeMissing, Place: Place{Tree: r.id, Inode: uint64(disk.RootDirObjectID)}, What: "a subvolume is empty: it has no top directory"})
		}
		if r.kind == kindFile && r.id != disk.TreeReloc {
			c.results = append(c.results, rootResult{r, top.seg.sums, top.rare, !top.gap})
		}
	}
	if !c.hasBroken() {
		fo.owners()
	}
}

// topDirectory checks that the first inode of a subvolume is its top directory.
func (c *checker) topDirectory(r *treeRoot, s *inodeState) {
	if disk.ObjectID(s.ino) != disk.RootDirObjectID || s.has&hasItem == 0 {
		c.find.add(Finding{Code: CodeInodeMissing, Place: Place{Tree: r.id, Inode: uint64(disk.RootDirObjectID), Logical: s.where},
			What: "the top directory of a subvolume has no inode item"})
		return
	}
	if s.mode&modeType != modeDir {
		c.find.add(Finding{Code: CodeInodeItem, Place: Place{Tree: r.id, Inode: s.ino, Logical: s.where},
			What: "the top directory of a subvolume is no directory", Found: fmt.Sprintf("mode %#o", s.mode)})
	}
}

// checkRoots checks what ties trees to each other and to names.
func (c *checker) checkRoots() {
	byID := make(map[disk.ObjectID]*rootRecord, len(c.rootItems))
	for i := range c.rootItems {
		if r := &c.rootItems[i]; r.key.ObjectID != disk.TreeReloc {
			byID[r.key.ObjectID] = r
		}
	}
	refs := make(map[rootLink]bool, len(c.rootRefs)) // whether a directory index is the other side
	for _, l := range c.rootRefs {
		l.from = 0
		refs[l] = false
	}
	whole := make(map[disk.ObjectID]bool)
	for i := range c.results {
		res := &c.results[i]
		whole[res.root.id] = res.whole
		c.checkNames(res)
		c.checkOrphans(res)
		for _, x := range res.rare {
			for _, e := range x.subvols {
				l := rootLink{parent: res.root.id, child: e.root, dir: e.dir, index: e.index, name: e.name}
				if _, ok := refs[l]; ok {
					refs[l] = true
				} else {
					c.rootStub(&l, byID)
				}
			}
		}
	}
	if c.rares.cut() {
		c.find.add(Finding{Code: CodeSearchCut, What: "there are more deleted files and subvolumes than fit in memory: not all of them were checked"})
	}
	c.checkRootRefs(byID, refs, whole)
	c.checkUUIDs(byID)
}

// rootStub reports a directory index that names a subvolume which is not below
// the tree: a snapshot has those of its source.
func (c *checker) rootStub(l *rootLink, byID map[disk.ObjectID]*rootRecord) {
	p := byID[l.parent]
	f := Finding{Code: CodeRootStub, Place: Place{Tree: l.parent, Inode: l.dir}, What: fmt.Sprintf("entry %q names subvolume %v, which is not below this one; it shows as an empty directory", l.name, l.child)}
	if p != nil && p.item.ParentUUID.IsZero() && p.key.Offset == 0 && byID[l.child] != nil && byID[l.child].item.Refs > 0 {
		f.Code = CodeRootRef
	}
	c.find.add(f)
}

// checkOrphans checks that each unlinked inode of a tree has an orphan item.
func (c *checker) checkOrphans(res *rootResult) {
	have := make(map[uint64]bool)
	for _, x := range res.rare {
		for _, ino := range x.orphans {
			have[ino] = true
		}
	}
	if res.root.id == disk.TreeDataReloc {
		return
	}
	for _, x := range res.rare {
		for _, ino := range x.unlinked {
			if !have[ino] && res.whole && !c.rares.cut() {
				c.find.add(Finding{Code: CodeInodeOrphan, Place: Place{Tree: res.root.id, Inode: ino}, What: "an inode without names has no orphan item"})
			}
		}
	}
}

// checkRootRefs checks that every subvolume has a reference, a back reference
// and a directory entry that agree, and that every one being deleted is listed
// as an orphan.
func (c *checker) checkRootRefs(byID map[disk.ObjectID]*rootRecord, refs map[rootLink]bool, whole map[disk.ObjectID]bool) {
	backs := make(map[rootLink]bool, len(c.rootBackrefs))
	count := make(map[disk.ObjectID]uint32)
	bad := func(l *rootLink, what string) {
		c.find.add(Finding{Code: CodeRootRef, Place: Place{Tree: l.child, Path: l.name}, What: what})
	}
	for _, l := range c.rootBackrefs {
		l.from = 0
		backs[l] = true
	}
	for _, l := range c.rootRefs {
		l.from = 0
		count[l.child]++
		switch {
		case !backs[l]:
			bad(&l, fmt.Sprintf("the reference to a subvolume in tree %v, directory %d, has no back reference that agrees", l.parent, l.dir))
		case byID[l.child] == nil:
			bad(&l, "a reference to a subvolume that does not exist")
		}
		if !refs[l] && whole[l.parent] && !c.rares.cut() {
			bad(&l, fmt.Sprintf("no entry at index %d of directory %d of tree %v names the subvolume", l.index, l.dir, l.parent))
		}
	}
	for _, l := range c.rootBackrefs {
		l.from = 0
		if _, ok := refs[l]; !ok {
			bad(&l, fmt.Sprintf("the back reference of a subvolume to tree %v, directory %d, has no reference that agrees", l.parent, l.dir))
		}
	}
	c.checkRootCounts(count)
}

func (c *checker) checkRootCounts(count map[disk.ObjectID]uint32) {
	for i := range c.rootItems {
		r := &c.rootItems[i]
		id := r.key.ObjectID
		if !id.IsSubvolume() || id == disk.TreeFS {
			continue
		}
		k := r.key
		at := Place{Tree: id, Key: keyOf(k)}
		switch n := count[id]; {
		case r.item.Refs == 0:
			if !c.rootOrphans[id] {
				c.find.add(Finding{Code: CodeRootOrphan, Place: at, What: "a deleted subvolume is not listed for deletion"})
			} else {
				c.find.add(Finding{Code: CodeSubvolDropping, Place: at, What: "a subvolume is being deleted"})
			}
			if n > 0 {
				c.find.add(Finding{Code: CodeRootItem, Place: at, What: "a subvolume with a name is marked as deleted"})
			}
		case n == 0:
			c.find.add(Finding{Code: CodeRootRef, Place: at, What: "a subvolume has no name"})
		case r.item.Refs != n:
			c.find.add(Finding{Code: CodeRootItem, Place: at, What: "the number of names of a subvolume", Expected: fmt.Sprint(n), Found: fmt.Sprint(r.item.Refs)})
		}
	}
}

// checkUUIDs compares the UUID tree with the root items. Linux rebuilds the tree
// when its generation in the superblock is not the current one.
func (c *checker) checkUUIDs(byID map[disk.ObjectID]*rootRecord) {
	if c.sb.UUIDTreeGeneration != uint64(c.sb.Generation) || c.hasBroken() {
		return
	}
	have := make(map[uuidItem]bool, len(c.uuids))
	for _, u := range c.uuids {
		have[u] = true
		r := byID[u.root]
		var id disk.UUID
		if r != nil {
			id = r.item.UUID
			if u.key.Type == disk.KeyUUIDReceivedSubvol {
				id = r.item.ReceivedUUID
			}
		}
		if r == nil || disk.UUIDKey(id, u.key.Type) != u.key {
			k := u.key
			c.find.add(Finding{Code: CodeUUID, Place: Place{Tree: disk.TreeUUID, Key: keyOf(k)}, What: fmt.Sprintf("the UUID tree names subvolume %v, which does not exist or has another UUID", u.root)})
		}
	}
	ids := make([]disk.ObjectID, 0, len(byID))
	for id := range byID {
		ids = append(ids, id)
	}
	slices.SortFunc(ids, func(a, b disk.ObjectID) int { return cmp.Compare(a, b) })
	for _, id := range ids {
		r := byID[id]
		if !id.IsSubvolume() || r.item.Refs == 0 {
			continue
		}
		for _, want := range []struct {
			id  disk.UUID
			typ disk.KeyType
		}{{r.item.UUID, disk.KeyUUIDSubvol}, {r.item.ReceivedUUID, disk.KeyUUIDReceivedSubvol}} {
			if !want.id.IsZero() && !have[uuidItem{disk.UUIDKey(want.id, want.typ), id}] {
				c.find.add(Finding{Code: CodeUUID, Place: Place{Tree: id}, What: fmt.Sprintf("the UUID tree does not name the subvolume by its %v %v", want.typ, want.id)})
			}
		}
	}
}

func (c *checker) hasBroken() bool { return c.broken.Load() }
