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
	inode           bool  // the inode item itself: only typ counts
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
	links := c.leavesOf(res.root)
	sums := make([]uint64, buckets)
	var mu sync.Mutex
	bucket := func(ino uint64) int { return int(c.hash.mix(ino, 0x9a3e5) >> (64 - bucketBits)) }
	c.eachName(links, func(r *nameRecord) {
		mu.Lock()
		defer mu.Unlock()
		b := bucket(r.ino)
		switch {
		case r.inode:
		case r.ref:
			sums[b] -= c.hash.name(r.dir, r.index, r.ino, []byte(r.name))
		default:
			sums[b] += c.hash.name(r.dir, r.index, r.ino, []byte(r.name))
		}
	})
	var records []nameRecord
	cut := false
	types := res.sums.types != 0
	c.eachName(links, func(r *nameRecord) {
		mu.Lock()
		defer mu.Unlock()
		if !types && sums[bucket(r.ino)] == 0 {
			return
		}
		if len(records) >= maxRecords {
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

// eachName calls f for the names in the leaves of links, from several
// goroutines.
func (c *checker) eachName(links []link, f func(*nameRecord)) {
	err := c.scan.scan(c.ctx, links, func(_, _ int, n disk.Node) {
		for i := range n.NrItems() {
			nameRecords(n.Key(i), n.ItemData(i), f)
		}
	}, func(int) {})
	_ = err // a cancelled context: run returns it
}

// nameRecords takes the names out of one item.
func nameRecords(k disk.Key, b []byte, f func(*nameRecord)) {
	ino := uint64(k.ObjectID)
	switch k.Type {
	case disk.KeyInodeItem:
		if it, err := disk.ParseInodeItem(b); err == nil && !special(ino) {
			f(&nameRecord{ino: ino, typ: disk.FileType(it.Mode), inode: true})
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

// leavesOf lists the leaves of a tree by address.
func (c *checker) leavesOf(r *treeRoot) []link {
	f := &c.forests[2]
	var out []link
	seen := make(map[disk.Logical]bool)
	var down func(addr disk.Logical, level int)
	down = func(addr disk.Logical, level int) {
		if seen[addr] {
			return
		}
		seen[addr] = true
		info := f.find(level, addr)
		if info == nil || info.bad {
			return
		}
		if level == 0 {
			out = append(out, link{addr: addr, gen: info.gen, kind: info.kind, owner: info.owner, root: true})
			return
		}
		for i := range info.kids {
			down(info.kids[i].addr, level-1)
		}
	}
	down(r.addr, int(r.level))
	return distinct(out)
}
