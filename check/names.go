package check

import (
	"cmp"
	"fmt"
	"slices"
	"sync"

	"gobtrfs/disk"
)

// nameRecord is one side of a name: a directory index, or a reference of the
// inode.
type nameRecord struct {
	ino, dir, index uint64
	name            string
	typ             uint8 // of a directory index
	ref             bool  // the inode's side
	inode           bool  // the inode item itself: only typ and nlink count
	nlink           uint32
}

// checkNames compares the names that the directories of a tree have with those
// that its inodes have. The sums say whether they differ; only then they are
// compared one by one.
func (c *checker) checkNames(res *rootResult) {
	if !res.whole || res.root.id == disk.TreeDataReloc || res.sums == (treeSums{}) {
		return
	}
	if c.find.counted(CodeDirEntry) >= c.find.max && c.find.counted(CodeInodeRef) >= c.find.max {
		c.find.add(Finding{Code: CodeDirEntry, Place: Place{Tree: res.root.id}, What: "names of directories and of inodes differ"})
		return
	}
	var sums, types [buckets]uint64
	var mu sync.Mutex
	bucket := func(ino uint64) int { return int(c.hash.mix(ino, 0x9a3e5) >> (64 - bucketBits)) }
	c.eachName(res.root, func(r *nameRecord) {
		mu.Lock()
		defer mu.Unlock()
		b := bucket(r.ino)
		switch {
		case r.inode:
			types[b] -= uint64(r.nlink) * c.hash.fileType(r.ino, r.typ)
		case r.ref:
			sums[b] -= c.hash.name(r.dir, r.index, r.ino, []byte(r.name))
		default:
			sums[b] += c.hash.name(r.dir, r.index, r.ino, []byte(r.name))
			types[b] += c.hash.fileType(r.ino, r.typ)
		}
	})
	var records []nameRecord
	cut := false
	c.eachName(res.root, func(r *nameRecord) {
		mu.Lock()
		defer mu.Unlock()
		if b := bucket(r.ino); sums[b] == 0 && types[b] == 0 {
			return
		}
		if len(records) >= c.limits.records {
			cut = true
			return
		}
		records = append(records, *r)
	})
	slices.SortFunc(records, func(a, b nameRecord) int {
		return cmp.Or(cmp.Compare(a.ino, b.ino), cmp.Compare(a.dir, b.dir), cmp.Compare(a.index, b.index), cmp.Compare(a.name, b.name))
	})
	unlinked := make(map[uint64]bool)
	for _, x := range res.rare {
		for _, ino := range x.unlinked {
			unlinked[ino] = true
		}
	}
	for len(records) > 0 {
		n := 1
		for n < len(records) && records[n].ino == records[0].ino {
			n++
		}
		c.matchNames(res.root.id, records[:n], unlinked)
		records = records[n:]
	}
	if cut {
		c.find.add(Finding{Code: CodeSearchCut, Place: Place{Tree: res.root.id}, What: "more names differ than could be compared one by one; check again after repair"})
	}
}

// eachName calls f for the names in the leaves of a tree, from several
// goroutines.
func (c *checker) eachName(r *treeRoot, f func(*nameRecord)) {
	err := c.eachLeaf(r, func(n disk.Node) {
		for i := range n.NrItems() {
			nameRecords(n.Key(i), n.ItemData(i), f)
		}
	})
	_ = err // a cancelled context: run returns it
}

// nameRecords takes the names out of one item.
func nameRecords(k disk.Key, b []byte, f func(*nameRecord)) {
	ino := uint64(k.ObjectID)
	switch k.Type {
	case disk.KeyInodeItem:
		if it, err := disk.ParseInodeItem(b); err == nil && !special(ino) {
			f(&nameRecord{ino: ino, typ: disk.FileType(it.Mode), inode: true, nlink: it.Nlink})
		}
	case disk.KeyInodeRef:
		for len(b) > 0 && k.Offset != ino {
			r, rest, err := disk.ParseInodeRef(b)
			if err != nil {
				return
			}
			f(&nameRecord{ino: ino, dir: k.Offset, index: r.Index, name: string(r.Name), ref: true})
			b = rest
		}
	case disk.KeyInodeExtref:
		for len(b) > 0 {
			r, rest, err := disk.ParseInodeExtref(b)
			if err != nil {
				return
			}
			f(&nameRecord{ino: ino, dir: uint64(r.Parent), index: r.Index, name: string(r.Name), ref: true})
			b = rest
		}
	case disk.KeyDirIndex:
		for len(b) > 0 {
			d, rest, err := disk.ParseDirItem(b)
			if err != nil {
				return
			}
			if d.Location.Type == disk.KeyInodeItem {
				f(&nameRecord{ino: uint64(d.Location.ObjectID), dir: ino, index: k.Offset, name: string(d.Name), typ: d.Type})
			}
			b = rest
		}
	}
}

// matchNames compares all names of one inode.
func (c *checker) matchNames(tree disk.ObjectID, r []nameRecord, unlinked map[uint64]bool) {
	var inode *nameRecord
	for i := range r {
		if r[i].inode {
			inode = &r[i]
		}
	}
	bad := func(code Code, n *nameRecord, what string) {
		c.find.add(Finding{Code: code, Place: Place{Tree: tree, Inode: n.ino}, What: fmt.Sprintf("name %q in directory %d, index %d: %s", n.name, n.dir, n.index, what)})
	}
	for i := range r {
		n := &r[i]
		if n.inode || unlinked[n.dir] {
			continue // the entries of a directory that is being deleted do not count
		}
		if !n.ref {
			switch {
			case inode == nil:
				bad(CodeDirEntry, n, "the entry points to an inode that does not exist")
				continue
			case inode.typ != n.typ:
				c.find.add(Finding{Code: CodeDirEntry, Place: Place{Tree: tree, Inode: n.ino}, What: fmt.Sprintf("name %q in directory %d, index %d: the type of the entry", n.name, n.dir, n.index),
					Expected: fmt.Sprint(inode.typ), Found: fmt.Sprint(n.typ)})
			}
		}
		same := slices.ContainsFunc(r, func(o nameRecord) bool {
			return !o.inode && o.ref != n.ref && o.dir == n.dir && o.index == n.index && o.name == n.name
		})
		switch {
		case same:
		case n.ref:
			bad(CodeDirEntry, n, "the inode has this name, but the directory has no such entry")
		default:
			bad(CodeInodeRef, n, "the directory has this entry, but the inode has no such name")
		}
	}
}

// eachLeaf reads the leaves of a tree, by address.
func (c *checker) eachLeaf(r *treeRoot, visit func(n disk.Node)) error {
	f := &c.forests[2]
	c.marks++
	var mark func(addr disk.Logical, level int)
	mark = func(addr disk.Logical, level int) {
		i, ok := f.levels[level].search(addr)
		if !ok || f.levels[level].nodes.at(i).mark == c.marks {
			return
		}
		f.levels[level].nodes.edit(i).mark = c.marks
		info := *f.levels[level].nodes.at(i)
		for k := range int(info.kidN) {
			mark(f.kid(&info, k).addr, level-1)
		}
	}
	mark(r.addr, int(r.level))
	marked := func(n *nodeInfo) bool { return n.mark == c.marks }
	return c.again(marked, func(_ *worker, _ *nodeInfo, n disk.Node) { visit(n) })
}
