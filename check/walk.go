package check

import (
	"context"
	"fmt"

	"gobtrfs/disk"
)

// slot is what a visit finds out about one tree block.
type slot struct {
	info   nodeInfo
	index  int // of the block in its level
	kids   []kid
	seg    segment // of a leaf of files
	hasSeg bool
	rare   *rareItems
}

// How many blocks are read before what was found is put away: enough that no
// CPU waits long for the others.
const (
	maxLeafBatch     = 1024
	maxInteriorBatch = 256
)

// walk reads the trees of f level by level, from the highest. The blocks of one
// level are read in the order of their addresses, each once, whatever the
// number of trees that it belongs to.
func (c *checker) walk(ctx context.Context, f *forest) error {
	f.kids, f.segs, f.memos = newPaged[kid](c.pool), newPaged[segment](c.pool), newPaged[memo](c.pool)
	var waiting [disk.MaxLevel]*sorter[link]
	for l := range waiting {
		waiting[l] = &sorter[link]{pool: c.pool, compare: compareLinks, absorb: sameBlock}
	}
	drops := &dropPaths{at: make(map[disk.Logical]treeRoot)}
	for i := range f.roots {
		r := &f.roots[i]
		waiting[r.level].hand([]link{r.link})
		if r.dead && r.dropKey != (disk.Key{}) {
			drops.at[r.addr] = *r
		}
		c.workers[0].observeRoot(r)
		c.stats.Trees++
	}
	for level := disk.MaxLevel - 1; level >= 0; level-- {
		if level > 0 {
			for _, w := range c.workers {
				w.below = waiting[level-1]
			}
		}
		if err := c.walkLevel(ctx, f, level, waiting[level], drops); err != nil {
			return err
		}
		waiting[level].drop()
		if level == 0 {
			break
		}
		for _, w := range c.workers {
			w.links.flush(w.below)
		}
	}
	return c.pool.failure()
}

func (c *checker) walkLevel(ctx context.Context, f *forest, level int, waiting *sorter[link], drops *dropPaths) error {
	m := waiting.read()
	n := c.limits.interiorBatch
	if level == 0 {
		n = c.limits.leafBatch
	}
	links := c.links
	full := c.fullReader()
	for {
		links = links[:0]
		for len(links) < n {
			at, ok := m.next()
			if !ok {
				break
			}
			at.full = full.has(at.addr)
			links = append(links, at)
		}
		if len(links) == 0 {
			return nil
		}
		if n := len(links); n > len(c.slots) {
			c.slots = make([]slot, n)
		}
		c.links = links
		if err := c.visitBatch(ctx, f, level, links, c.slots[:len(links)], drops); err != nil {
			return err
		}
	}
}

// visitBatch reads some blocks of one level and puts away what they hold.
func (c *checker) visitBatch(ctx context.Context, f *forest, level int, links []link, slots []slot, drops *dropPaths) error {
	base := f.levels[level].len()
	visit := func(w, i int, n disk.Node) {
		s := &slots[i]
		*s = slot{index: base + i, kids: s.kids[:0]}
		c.enter(&links[i], &s.info, n)
		if level > 0 {
			c.visitInterior(c.workers[w], &links[i], s, n, drops)
		} else {
			c.visitLeaf(c.workers[w], s, n)
		}
	}
	failed := func(i int) {
		slots[i] = slot{info: nodeInfo{addr: links[i].addr, level: links[i].level, kind: links[i].kind, bad: true}}
		c.broken.Store(true)
	}
	if err := c.scan.scan(ctx, links, visit, failed); err != nil {
		return err
	}
	for i := range slots {
		s := &slots[i]
		if s.info.kidN = int32(len(s.kids)); s.info.kidN > 0 {
			s.info.kids = int64(f.kids.len())
			for k := range s.kids {
				f.kids.add(s.kids[k])
			}
		}
		if s.hasSeg {
			s.info.seg = int64(f.segs.add(s.seg)) + 1
		}
		if s.rare != nil {
			f.rares = append(f.rares, s.rare)
			s.info.rare = int32(len(f.rares))
		}
		f.levels[level].add(c.pool, &s.info)
	}
	return nil
}

// enter fills in what is known of any block, and checks its header.
func (c *checker) enter(at *link, info *nodeInfo, n disk.Node) {
	*info = nodeInfo{addr: at.addr, gen: n.Generation(), owner: n.Owner(), level: at.level, kind: at.kind, items: int32(n.NrItems())}
	if info.items > 0 {
		info.first, info.last = n.Key(0), n.Key(int(info.items)-1)
	}
	info.full = at.full
	if uint64(info.gen) > uint64(c.geo.Generation)+1 || at.kind != kindLog && at.kind != kindLogRoot && info.gen > c.geo.Generation {
		c.find.add(Finding{Code: CodeNodeGeneration, Place: at.place(), What: "a tree block is newer than the superblock",
			Expected: fmt.Sprintf("at most %d", uint64(c.geo.Generation)), Found: fmt.Sprint(uint64(info.gen))})
	}
	if n.ChunkTreeUUID() != c.chunkTreeUUID && c.chunkTreeUUID != (disk.UUID{}) {
		c.find.add(Finding{Code: CodeNodeHeader, Place: at.place(), What: "the chunk tree's UUID in a tree block differs from that in the chunk root",
			Expected: c.chunkTreeUUID.String(), Found: n.ChunkTreeUUID().String()})
	}
	if n.Flags()>>disk.HeaderBackrefRevShift != disk.MixedBackrefRev {
		c.find.add(Finding{Code: CodeNodeHeader, Place: at.place(), What: "backref revision of a tree block",
			Expected: fmt.Sprint(disk.MixedBackrefRev), Found: fmt.Sprint(n.Flags() >> disk.HeaderBackrefRevShift)})
	}
	c.checkOwner(at, info)
	var err error
	if at.level > 0 {
		err = disk.CheckNode(n, c.geo)
	} else {
		err = disk.CheckLeaf(n, c.geo)
	}
	if err != nil {
		c.itemError(at, err)
	}
}

// checkOwner checks for whom a block says that it was made: a tree that shares
// no blocks owns all of its own; subvolumes may share those of any subvolume.
func (c *checker) checkOwner(at *link, info *nodeInfo) {
	var ok bool
	want := at.owner.String()
	switch at.kind {
	case kindFile:
		ok = info.owner.IsSubvolume() || info.owner == disk.TreeDataReloc || info.owner == disk.TreeReloc
		ok = ok && (at.owner != disk.TreeDataReloc || info.owner == disk.TreeDataReloc)
		if want = "a subvolume"; at.root && at.owner.IsSubvolume() {
			ok, want = info.owner == at.owner, at.owner.String()
		}
	case kindOther:
		ok = true
	case kindLogRoot, kindLog:
		ok = info.owner == disk.TreeLog
		want = disk.TreeLog.String()
	default:
		ok = info.owner == at.owner
	}
	if !ok {
		c.find.add(Finding{Code: CodeNodeOwner, Place: at.place(), What: "a tree block belongs to another tree", Expected: want, Found: info.owner.String()})
	}
}

// visitInterior takes the pointers of an interior block.
func (c *checker) visitInterior(w *worker, at *link, s *slot, n disk.Node, drops *dropPaths) {
	w.stats.Nodes++
	info := &s.info
	first := 0
	if r, ok := drops.get(at.addr); ok && int(at.level) >= r.dropLevel {
		first = n.ChildSlot(r.dropKey)
		info.dropped = int32(first)
		if int(at.level) > r.dropLevel {
			drops.put(n.BlockPtr(first), r)
		}
	}
	for i := first; i < n.NrItems(); i++ {
		k := kid{n.Key(i), n.BlockPtr(i), n.PtrGeneration(i)}
		s.kids = append(s.kids, k)
		w.links.put(w.below, link{addr: k.addr, gen: k.gen, first: k.key, parent: at.addr, owner: at.owner, level: at.level - 1, kind: at.kind})
		if k.gen > info.gen {
			c.find.add(Finding{Code: CodeNodeGeneration, Place: Place{Tree: at.owner, Logical: at.addr, Key: keyOf(k.key)}, What: "a pointer is newer than the tree block that it stands in",
				Expected: fmt.Sprintf("at most %d", uint64(info.gen)), Found: fmt.Sprint(uint64(k.gen))})
		}
		c.observeKid(w, at, info, &k)
	}
}

// observeKid takes the reference that a pointer makes: by parent if the block's
// references are, else by the tree that the block was made for.
func (c *checker) observeKid(w *worker, at *link, info *nodeInfo, k *kid) {
	if at.kind == kindLog || at.kind == kindLogRoot {
		return // not in the extent tree
	}
	ref := disk.ExtentRef{Type: disk.KeyTreeBlockRef, Root: info.owner, Count: 1}
	if info.full {
		ref = disk.ExtentRef{Type: disk.KeySharedBlockRef, Parent: info.addr, Count: 1}
	}
	w.observeBlock(k.addr, int(info.level)-1, k.gen, &ref)
}

// observeRoot takes the reference that a root item makes. The root of a
// relocation tree is its own parent.
func (w *worker) observeRoot(r *treeRoot) {
	ref := disk.ExtentRef{Type: disk.KeyTreeBlockRef, Root: r.id, Count: 1}
	switch {
	case r.kind == kindLog || r.kind == kindLogRoot:
		return
	case r.id == disk.TreeReloc:
		ref = disk.ExtentRef{Type: disk.KeySharedBlockRef, Parent: r.addr, Count: 1}
	}
	w.observeBlock(r.addr, int(r.level), r.gen, &ref)
}

// visitLeaf reads a leaf by the kind of its tree.
func (c *checker) visitLeaf(w *worker, s *slot, n disk.Node) {
	w.stats.Nodes++
	info := &s.info
	switch info.kind {
	case kindRoot:
		c.visitRoot(w, s, n)
	case kindFile:
		c.visitFile(w, s, n)
	case kindExtent:
		c.visitExtent(w, info, n)
	case kindBlockGroup:
		c.visitExtent(w, info, n)
	case kindCsum:
		c.visitCsum(w, info, n)
	case kindFreeSpace:
		c.visitFreeSpace(w, info, n)
	case kindChunk:
		c.visitChunk(info, n)
	case kindDev:
		c.visitDev(info, n)
	case kindStripe:
		c.visitStripe(w, info, n)
	case kindUUID:
		c.visitUUID(info, n)
	case kindQuota:
		c.visitQuota(info, n)
	case kindLogRoot:
		c.visitLogRoot(info, n)
	case kindLog:
		c.visitLog(w, info, n)
	}
}

// itemError reports what CheckLeaf or CheckNode found.
func (c *checker) itemError(at *link, err error) {
	f := Finding{Code: CodeItem, Place: at.place(), What: err.Error()}
	f.Place.Key = nil
	if e, ok := err.(*disk.ItemError); ok {
		if c.knownOddity(e) {
			return
		}
		f.What = fmt.Sprintf("%s of the item is not possible", e.Field)
		f.Expected, f.Found = e.Want, e.Found
		if e.Slot < 0 {
			f.Code, f.What = CodeNodeHeader, fmt.Sprintf("%s of a tree block is not possible", e.Field)
		} else {
			k := e.Key
			f.Place.Key, f.Place.Slot = &k, e.Slot
			if at.kind == kindFile {
				f.Place.Inode = uint64(k.ObjectID)
			}
		}
	}
	c.find.add(f)
}

// knownOddity says whether what the leaf checker refuses is no damage.
func (c *checker) knownOddity(e *disk.ItemError) bool {
	switch {
	case e.Key.Type == disk.KeyRootItem && e.Key.ObjectID == disk.TreeReloc:
		return disk.ObjectID(e.Key.Offset) == disk.TreeDataReloc
	case e.Field == "data reference objectid" && e.Found == fmt.Sprint(uint64(disk.FreeInoObjectID)):
		return true // reported where the inode cache stands
	}
	return false
}
